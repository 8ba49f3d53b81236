//! The HTTP interface: how the service stands, for people, monitors and bots.
//!
//! | file | what it is | pure |
//! |---|---|:-:|
//! | `guard.rs` | who may ask, and how much | ✓ |
//! | `routes.rs` | every path, and what answers it | |
//! | `asked.rs` | what a request asks for, or what is wrong with it | ✓ |
//! | `bars.rs` | bars, and what is known of their buckets | |
//! | `arrow.rs` | bars as Arrow's stream, where built with the feature `parquet` | |
//! | `fetch.rs` | requests to have bars fetched, and what became of them | |
//! | `views.rs` | what an answer looks like | ✓ |
//! | `dashboard.rs` | the dashboard's files; what they do in a browser is in `dashboard/` | |
//! | `metrics.rs` | the same for Prometheus | |
//! | `health.rs` | what the rooms tell of themselves | |
//! | `cached.rs` | what is read from the database, by one thread at a time | |
//! | `pool.rs` | what is read for one alone, over a few connections | |
//! | `push/` | bars as they are stored, to those who follow | in part |
//! | `place.rs` | where it is served, or why not, for `status` | |
//! | `server.rs` | sockets, and their limits | |
//!
//! Requests are served by one worker on a thread of its own: a slow or hostile client cannot hold up the actors, and
//! what it may cost is bounded in connections, bytes and time. Nothing here can change what is collected;
//! what a client may want is that missing bars be fetched, and the healer has the last word.
//!
//! A further route is a line in `routes.rs`, its handler, and its answer in `views.rs`.

#[cfg(feature = "parquet")]
mod arrow;
mod asked;
mod bars;
mod cached;
mod dashboard;
#[cfg(test)]
#[path = "../../tests/it/document.rs"]
pub(crate) mod document;
mod fetch;
#[cfg(test)]
mod fresh_tests;
pub mod guard;
pub mod health;
mod metrics;
pub mod place;
mod pool;
mod push;
mod routes;
mod server;
mod views;

pub use health::HealthReport;
pub use place::Place;
pub use server::{CLIENT_DESCRIPTORS_MAX, Door, serve};

use std::ops::Range;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::store::Store;
use crate::supervisor::house::Signs;

/// Reads a text from somewhere that may take its time, or says why it cannot.
pub type ReadText = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Bars of one pair and length within a stretch.
pub type Stretch = (Pair, Timeframe, Range<Timestamp>);

/// Says what is to be asked for to have a stretch, or why it cannot be had.
pub type OrderStretch = Arc<dyn Fn(Stretch) -> Result<Vec<Stretch>, String> + Send + Sync>;

/// What keeps a request from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For people.
    pub why: String,
    /// Until when, where that is known.
    pub until: Option<Timestamp>,
}

/// Says what keeps a stretch that is to be fetched from being asked for now, if something does.
pub type SayWait = Arc<dyn Fn(&mut Store, Stretch) -> Result<Option<Wait>, String> + Send + Sync>;

/// What answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// The configuration.
    pub config: Arc<Config>,
    /// What the process shows of itself.
    pub signs: Signs,
    /// How the service stands, as JSON.
    pub status: ReadText,
    /// What is asked for where somebody wants bars fetched, by the rules of `candlekeep backfill`.
    pub order: OrderStretch,
    /// What keeps that from being asked for.
    pub wait: SayWait,
    /// The time.
    pub clock: Clock,
}

impl Sources {
    /// How the rooms do now.
    fn health(&self) -> HealthReport {
        HealthReport::of(&self.signs, self.clock.monotonic())
    }
}
