//! IG's Lightstreamer stream: frames to candle updates.

pub mod actor;
pub mod chart;
pub mod probes;
pub mod silence;
pub mod socket;
pub mod translate;
