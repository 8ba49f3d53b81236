//! Table `feeds`: what was watched, and from when to when.

use diesel::prelude::*;

use super::backend::{Connection, on_backend};
use super::error::StoreError;
use super::rows::{self, FeedRow, PairText, ReadFeed};
use super::schema::feeds;
use crate::domain::{Pair, Timestamp};

/// A watched instrument, as the configuration and the broker tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The pair that its bars are stored under.
    pub pair: Pair,
    /// The broker's identifier.
    pub epic: String,
    /// `demo`, `live` or `custom`.
    pub environment: String,
    /// The account's type, which decides the kind of instrument.
    pub account_type: String,
    /// How its quotes become prices.
    pub scale: String,
    /// Name of the calendar of its market.
    pub calendar: String,
}

/// A row of `feeds`: an instrument and the time that it was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFeed {
    /// What `candles.feed_id` names.
    pub id: i64,
    /// The instrument.
    pub feed: Feed,
    /// From when on.
    pub watched_from: Timestamp,
    /// Until when, exclusive; `None` while it is watched.
    pub watched_to: Option<Timestamp>,
}

/// Every feed there ever was, in the order first watched.
pub(super) fn all(connection: &mut Connection) -> Result<Vec<WatchedFeed>, StoreError> {
    let rows: Vec<ReadFeed> = on_backend!(connection, connection => {
        feeds::table.order(feeds::id.asc()).select(ReadFeed::as_select()).load(connection)
    })?;
    rows.into_iter()
        .map(|row| {
            Ok(WatchedFeed {
                id: row.id,
                feed: Feed {
                    pair: rows::pair(&row.pair)?,
                    epic: row.epic,
                    environment: row.environment,
                    account_type: row.account_type,
                    scale: row.scale,
                    calendar: row.calendar,
                },
                watched_from: Timestamp(row.watched_from),
                watched_to: row.watched_to.map(Timestamp),
            })
        })
        .collect()
}

/// Makes `wanted` what is watched from now on; answers their ids in the same order. A feed that
/// was watched already stays so from when it was; one that changed in anything is another.
pub(super) fn watch(
    connection: &mut Connection,
    wanted: &[Feed],
    now: Timestamp,
) -> Result<Vec<i64>, StoreError> {
    let open: Vec<WatchedFeed> =
        all(connection)?.into_iter().filter(|watched| watched.watched_to.is_none()).collect();
    for dropped in open.iter().filter(|watched| !wanted.contains(&watched.feed)) {
        on_backend!(connection, connection => {
            diesel::update(feeds::table.find(dropped.id))
                .set(feeds::watched_to.eq(now.0.max(dropped.watched_from.0)))
                .execute(connection)
        })?;
    }
    let mut ids = Vec::with_capacity(wanted.len());
    for feed in wanted {
        let id = match open.iter().find(|watched| watched.feed == *feed) {
            Some(watched) => watched.id,
            None => insert(connection, feed, now)?,
        };
        ids.push(id);
    }
    Ok(ids)
}

/// The ids of these feeds, in the same order, without making them watched: one that is not known yet
/// is written down as watched for no time.
pub(super) fn name(
    connection: &mut Connection,
    wanted: &[Feed],
    now: Timestamp,
) -> Result<Vec<i64>, StoreError> {
    let known = all(connection)?;
    let mut ids = Vec::with_capacity(wanted.len());
    for feed in wanted {
        if let Some(known) = known.iter().rfind(|known| known.feed == *feed) {
            ids.push(known.id);
            continue;
        }
        let id = insert(connection, feed, now)?;
        on_backend!(connection, connection => {
            diesel::update(feeds::table.find(id)).set(feeds::watched_to.eq(now.0)).execute(connection)
        })?;
        ids.push(id);
    }
    Ok(ids)
}

fn insert(connection: &mut Connection, feed: &Feed, now: Timestamp) -> Result<i64, StoreError> {
    let pair = PairText::new(feed.pair);
    let row = FeedRow {
        pair: pair.as_str(),
        epic: &feed.epic,
        environment: &feed.environment,
        account_type: &feed.account_type,
        scale: &feed.scale,
        calendar: &feed.calendar,
        watched_from: now.0,
    };
    Ok(on_backend!(connection, connection => {
        diesel::insert_into(feeds::table).values(&row).returning(feeds::id).get_result(connection)
    })?)
}
