//! The broker's identifier of an instrument.

use std::fmt;
use std::str::FromStr;

/// An instrument's identifier: 6 to 30 letters, digits, dots and underscores
/// (IG's dealing schemas), for example `CS.D.EURUSD.CFD.IP`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epic(String);

impl Epic {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that cannot be an epic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an epic: \"{0}\" (6 to 30 letters, digits, dots and underscores)")]
pub struct NotAnEpic(String);

impl FromStr for Epic {
    type Err = NotAnEpic;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        if (6..=30).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Epic(text.to_owned()))
        } else {
            Err(NotAnEpic(text.chars().take(40).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_characters_pass() {
        assert!("CS.D.EURUSD.CFD.IP".parse::<Epic>().is_ok());
        for text in ["", "SHORT", "CS.D.EUR USD.CFD.IP", "CS.D/EURUSD", "CS.D.EURUSD.CFD.IP.AND.MORE.X"] {
            assert_eq!(text.parse::<Epic>().is_ok(), text.len() == 29, "{text}");
        }
        assert!("x".repeat(31).parse::<Epic>().is_err());
    }
}
