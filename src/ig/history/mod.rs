//! IG's history over REST, inside its allowance.

pub mod actor;
pub mod pace;
pub mod zone;
