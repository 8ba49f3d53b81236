//! healer
