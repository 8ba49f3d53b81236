//! The broker: everything that knows IG.

pub mod error;
pub mod history;
pub mod lull;
pub mod markets;
pub mod models;
mod names;
pub mod parse;
pub mod rest;
pub mod session;
pub mod stream;

pub use error::IgError;
