//! What was measured, held against what it may cost.

use std::process::ExitCode;

/// The bounds of one bench. Each is told as a row of a table, so that those of all benches make one.
pub struct Budget {
    is_test: bool,
    is_met: bool,
}

impl Budget {
    /// Of a bench that is only seen to run (`-- --test`), or whose build is not optimised, no figure says anything.
    pub fn new() -> Budget {
        if cfg!(debug_assertions) {
            println!("a debug build: what it costs says nothing");
        }
        Budget { is_test: std::env::args().any(|arg| arg == "--test"), is_met: true }
    }

    /// Whether it is only to be seen that it runs.
    #[allow(dead_code, reason = "not all are shorter then")]
    pub fn is_test(&self) -> bool {
        self.is_test
    }

    /// A figure that must not be above its bound.
    #[allow(dead_code, reason = "not all benches have the like")]
    pub fn at_most(&mut self, what: &str, measured: f64, most: f64, unit: &str) {
        self.row(what, measured, &format!("at most {}", told(most)), unit, measured <= most);
    }

    /// A figure that must not be below its bound.
    #[allow(dead_code, reason = "not all benches have the like")]
    pub fn at_least(&mut self, what: &str, measured: f64, least: f64, unit: &str) {
        self.row(what, measured, &format!("at least {}", told(least)), unit, measured >= least);
    }

    /// What there is no figure of. On a machine that is to have all of them (`CI`), that is a bound missed.
    #[allow(dead_code, reason = "most need nothing that may be absent")]
    pub fn not_measured(&mut self, what: &str, why: &str) {
        let is_excused = std::env::var_os("CI").is_none();
        println!("| {what} | not measured: {why} | | {} |", if is_excused { "" } else { "**MISSED**" });
        self.is_met &= is_excused;
    }

    /// What there is no figure of today, wherever it runs.
    #[allow(dead_code, reason = "most depend on no day")]
    pub fn not_today(&mut self, what: &str, why: &str) {
        println!("| {what} | not measured: {why} | | |");
    }

    fn row(&mut self, what: &str, measured: f64, bound: &str, unit: &str, is_met: bool) {
        let verdict = if is_met { "met" } else { "**MISSED**" };
        println!("| {what} | {} {unit} | {bound} {unit} | {verdict} |", told(measured));
        self.is_met &= is_met;
    }

    /// How the bench ends: with 1 where a bound was missed.
    pub fn end(self) -> ExitCode {
        // Who panics does not come here, whatever rows it has told of.
        println!("\nall is told");
        if self.is_met || self.is_test || cfg!(debug_assertions) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Three digits that count, whatever the unit.
fn told(figure: f64) -> String {
    let decimals = match figure.abs() {
        _ if figure.fract() == 0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small => usize::from(small < 100.0),
    };
    format!("{figure:.decimals$}")
}
