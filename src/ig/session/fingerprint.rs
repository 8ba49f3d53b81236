//! Keyed fingerprints: of refused credentials, so that they are tried once and not again across
//! restarts (IG locks accounts), and of the API key, whose allowance is counted. The database
//! tells of neither what it is.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::Login;
use crate::ig::error::IgError;
use crate::store::{StoreError, StoreHandle};

/// Where the key is kept.
pub const SETTING_KEY: &str = "session.fingerprint_key";

/// The key of this database's fingerprints, made when first asked for.
///
/// # Errors
/// Those of the database, and where the system has no randomness to give.
pub async fn key(store: &StoreHandle) -> Result<String, IgError> {
    let kept = store.run(|store| store.setting(SETTING_KEY)).await.map_err(in_database)?;
    if let Some(key) = kept {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| IgError::Retryable("the system gives no random numbers".to_owned()))?;
    let key = hex(&bytes);
    let kept = key.clone();
    store.run(move |store| store.set_setting(SETTING_KEY, &kept)).await.map_err(in_database)?;
    Ok(key)
}

/// The fingerprint of these parts, in this order, under `key`.
pub fn of(key: &str, parts: &[&str]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex(context.sign().as_ref())
}

/// The fingerprint of what somebody logs in with, at this base address.
pub fn of_login(key: &str, api_url: &str, login: &Login) -> String {
    let Login { api_key, username, password } = login;
    of(key, &[api_url, api_key.expose(), username.expose(), password.expose()])
}

/// Trouble with the database, for a caller that talks to IG.
pub fn in_database(error: StoreError) -> IgError {
    IgError::Retryable(format!("the database, where logins are noted: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_key_and_parts_apart() {
        let print = of("key", &["ab", "c"]);
        assert_eq!(print, of("key", &["ab", "c"]));
        assert_eq!(print.len(), 64);
        for (key, parts) in [("key", ["a", "bc"]), ("other", ["ab", "c"]), ("key", ["c", "ab"])] {
            assert_ne!(print, of(key, &parts));
        }
    }
}
