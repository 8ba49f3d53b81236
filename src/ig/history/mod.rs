//! IG's history over REST, inside its allowance.

pub mod actor;
pub mod answer;
pub mod form;
pub mod offsets;
pub mod pace;
pub mod zone;
