//! How the process ends: its exit codes, and the one line that says why.

use std::fmt;
use std::process::ExitCode;

/// The codes that scripts and the systemd unit rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Something went wrong that another attempt may cure.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The answer is known, and it is "incomplete".
    Incomplete = 3,
    /// IG refuses these credentials for good (`EX_NOPERM` of sysexits.h); a restart would only
    /// lock the account.
    CredentialsRefused = 77,
    /// The configuration must be changed first (`EX_CONFIG` of sysexits.h).
    Configuration = 78,
}

impl Exit {
    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command did not do what it was asked: one line for the operator, and an exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    /// A failure with its reason, which is folded into one line.
    pub fn new(exit: Exit, reason: impl fmt::Display) -> Failure {
        Failure { exit, line: one_line(&reason.to_string()) }
    }

    /// A failure that another attempt may cure.
    pub fn failed(reason: impl fmt::Display) -> Failure {
        Failure::new(Exit::Failed, reason)
    }

    /// Arguments that make no sense.
    pub fn usage(reason: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, reason)
    }

    /// A configuration that has to be changed first.
    pub fn configuration(reason: impl fmt::Display) -> Failure {
        Failure::new(Exit::Configuration, reason)
    }

    /// The code to leave with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Failure {}

/// Folds a text into one line: runs of white space become a space, control characters are escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    #[test]
    fn each_outcome_has_the_documented_code() {
        for (exit, code) in [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Incomplete, 3),
            (Exit::CredentialsRefused, 77),
            (Exit::Configuration, 78),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
        assert_eq!(Failure::failed("x").exit(), Exit::Failed);
        assert_eq!(Failure::usage("x").exit(), Exit::Usage);
        assert_eq!(Failure::configuration("x").exit(), Exit::Configuration);
        let error = ConfigError::MissingCredentials { names: "IG_API_KEY".into(), hint: String::new() };
        assert_eq!(Failure::from(error).exit(), Exit::Configuration);
    }

    #[test]
    fn a_failure_is_one_line_whatever_caused_it() {
        assert_eq!(Failure::failed("disk\r\n  is\tfull\n").to_string(), "disk is full");
        assert_eq!(one_line("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(one_line(""), "");
    }
}
