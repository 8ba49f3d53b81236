//! The HTTP interface: how the service stands, for people, monitors and bots.
//!
//! | file | what it is | pure |
//! |---|---|:-:|
//! | `guard.rs` | who may ask, and how much | ✓ |
//! | `routes.rs` | every path, and what answers it | |
//! | `views.rs` | what an answer looks like | ✓ |
//! | `metrics.rs` | the same for Prometheus | |
//! | `health.rs` | what the rooms tell of themselves | |
//! | `cached.rs` | what is read from the database, by one thread at a time | |
//! | `place.rs` | where it is served, or why not, for `status` | |
//! | `server.rs` | sockets, and their limits | |
//!
//! Requests are served by one worker on a thread of its own: a slow or hostile client cannot hold up the actors, and
//! what it may cost is bounded in connections, bytes and time. Nothing here can change what is collected.
//!
//! A further route is a line in `routes.rs`, its handler, and its answer in `views.rs`.

mod cached;
pub mod guard;
pub mod health;
mod metrics;
pub mod place;
mod routes;
mod server;
mod views;

pub use health::HealthReport;
pub use place::Place;
pub use server::{CLIENT_DESCRIPTORS_MAX, Door, serve};

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::supervisor::house::Signs;

/// Reads a text from somewhere that may take its time, or says why it cannot.
pub type ReadText = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// The configuration.
    pub config: Arc<Config>,
    /// What the process shows of itself.
    pub signs: Signs,
    /// How the service stands, as JSON.
    pub status: ReadText,
    /// The time.
    pub clock: Clock,
}

impl Sources {
    /// How the rooms do now.
    fn health(&self) -> HealthReport {
        HealthReport::of(&self.signs, self.clock.monotonic())
    }
}
