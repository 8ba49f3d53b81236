//! Which database this is: a random id, so that what belongs to another is never mixed in.

use ring::rand::{SecureRandom, SystemRandom};

use super::error::StoreError;
use super::{Store, settings};

/// The setting that has it. A copy of the whole database into another must leave it out.
const DATABASE_ID: &str = "database_id";

impl Store {
    /// The id of this database, given when first asked for: 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`StoreError::NoRandomness`]; those of any write.
    pub fn database_id(&mut self) -> Result<String, StoreError> {
        self.writing(|store| {
            if let Some(id) = store.setting(DATABASE_ID)? {
                return Ok(id);
            }
            let id = random_name()?;
            settings::set(&mut store.connection, DATABASE_ID, &id)?;
            Ok(id)
        })
    }

    /// Has bars stored with the ids of the feeds that were watched last, until somebody says which are
    /// watched now.
    ///
    /// # Errors
    /// Those of any read.
    pub fn recall_feeds(&mut self) -> Result<(), StoreError> {
        let feeds = self.feeds()?.into_iter().filter(|known| known.watched_to.is_none());
        self.feed_ids = feeds.map(|known| (known.feed.pair, known.id)).collect();
        Ok(())
    }
}

/// A number by chance.
pub(super) fn random_number() -> Result<u32, StoreError> {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::NoRandomness)?;
    Ok(u32::from_be_bytes(bytes))
}

/// A name that nothing else has: 128 random bits, as 32 hexadecimal digits.
pub(super) fn random_name() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::NoRandomness)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
