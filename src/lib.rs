//! candlekeep collects IG's forex candles and keeps them, settled and right, in a database.
//!
//! A frame walks straight through the house, and every decision is made in a pure room:
//!
//! ```text
//! frame           → line       → Notification      → Update      → CandleUpdate    → Bar         → row
//! ig/stream/actor   tlcp/lines   tlcp/notification   tlcp/update   ig/stream/chart   aggregator/   writer/, store/
//! ```
//!
//! See ARCHITECTURE.md for the map and the invariants.
#![forbid(unsafe_code)]

pub mod aggregator;
pub mod api;
pub mod backoff;
pub mod busy;
pub mod cli;
pub mod clock;
pub mod columns;
pub mod commands;
pub mod completeness;
pub mod config;
pub mod domain;
pub mod exit;
pub mod failpoint;
mod files;
pub mod healer;
pub mod ig;
pub mod live;
pub mod logging;
pub mod messages;
pub mod privacy;
pub mod readiness;
pub mod retention;
pub mod secret;
pub mod simulator;
pub mod skew;
pub mod stats;
pub mod store;
pub mod summary;
pub mod supervisor;
pub mod tlcp;
mod tls;
pub mod transcript;
pub mod writer;
