//! Tests through the public interface, in one binary.

#[cfg(test)]
mod store_contract;
