//! IG's Lightstreamer stream: frames to candle updates.

pub mod actor;
pub mod chart;
