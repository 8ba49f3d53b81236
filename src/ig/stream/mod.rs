//! IG's Lightstreamer stream: frames to candle updates.

pub mod actor;
pub mod calm;
pub mod chart;
pub mod faulty;
pub mod frames;
pub mod probes;
pub mod silence;
pub mod socket;
pub mod state;
pub mod translate;

#[cfg(test)]
mod chart_plain;
#[cfg(test)]
mod translate_tests;
