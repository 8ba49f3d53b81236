//! tlcp
