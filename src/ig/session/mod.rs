//! The login with IG: one at a time, spaced, verified, on the right account.

pub mod actor;
pub mod complaints;
pub mod failed;
pub mod fingerprint;
pub mod logins;
pub mod tokens;
