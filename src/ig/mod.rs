//! ig
