//! What the findings mean: each function takes what was found and answers with the line to print. Pure.

mod broker;
mod database;
mod machine;

pub use broker::*;
pub use database::*;
pub use machine::*;

/// Names of pairs that a line tells; more are counted.
const NAMES_MAX: usize = 6;

/// A few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
