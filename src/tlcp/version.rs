//! Which version of the protocol a session claims, and what that version allows.

/// A protocol version. Later ones compare greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Server 7.0 and later: the baseline, without `wsok` and `LS_ack`.
    V2_1_0,
    /// Server 7.2.0 and later: `wsok`, `LS_ack`, control requests without a session id.
    V2_3_0,
    /// Server 7.3.0 and later: may send field values as differences unless told not to.
    #[default]
    V2_4_0,
    /// Server 7.4.0 and later: nothing that a receiving client would notice.
    V2_5_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 4] = [Version::V2_1_0, Version::V2_3_0, Version::V2_4_0, Version::V2_5_0];

    /// Returns the version that `text` spells, such as `2.4.0`.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.number() == text)
    }

    /// Returns the plain spelling, such as `2.4.0`.
    pub fn number(self) -> &'static str {
        match self {
            Version::V2_1_0 => "2.1.0",
            Version::V2_3_0 => "2.3.0",
            Version::V2_4_0 => "2.4.0",
            Version::V2_5_0 => "2.5.0",
        }
    }

    /// Returns the one value of `Sec-WebSocket-Protocol` that asks for this version.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Version::V2_1_0 => "TLCP-2.1.0.lightstreamer.com",
            Version::V2_3_0 => "TLCP-2.3.0.lightstreamer.com",
            Version::V2_4_0 => "TLCP-2.4.0.lightstreamer.com",
            Version::V2_5_0 => "TLCP-2.5.0.lightstreamer.com",
        }
    }

    /// Returns the version to try after a server refused this one ([`Step::OlderVersion`]), if
    /// any is left.
    ///
    /// [`Step::OlderVersion`]: super::Step::OlderVersion
    pub fn older(self) -> Option<Version> {
        match self {
            Version::V2_1_0 => None,
            Version::V2_3_0 => Some(Version::V2_1_0),
            Version::V2_4_0 => Some(Version::V2_3_0),
            Version::V2_5_0 => Some(Version::V2_4_0),
        }
    }

    /// Returns the version to claim where a server sends differences although it was told not to:
    /// the newest that has none.
    pub(super) fn without_diffs(self) -> Version {
        self.min(Version::V2_3_0)
    }

    /// Whether `wsok` and control requests without a session id exist (2.2.0).
    pub(super) fn has_wsok(self) -> bool {
        self >= Version::V2_3_0
    }

    /// Whether `LS_ack=false` may spare us the `REQOK` (2.3.0).
    pub(super) fn has_ack(self) -> bool {
        self >= Version::V2_3_0
    }

    /// Whether the server may send differences unless `LS_supported_diffs` forbids it (2.4.0).
    pub(super) fn has_diffs(self) -> bool {
        self >= Version::V2_4_0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_agree_and_the_plain_one_reads_back() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.number()), Some(version));
            assert_eq!(version.subprotocol(), format!("TLCP-{}.lightstreamer.com", version.number()));
        }
        assert_eq!(Version::parse("2.2.0"), None);
    }

    #[test]
    fn a_version_without_differences_is_no_newer() {
        for version in Version::ALL {
            assert!(!version.without_diffs().has_diffs() && version.without_diffs() <= version);
            assert!(version.has_diffs() || version.without_diffs() == version);
        }
    }

    #[test]
    fn stepping_down_visits_every_version_once() {
        let visited: Vec<_> =
            std::iter::successors(Some(Version::V2_5_0), |version| version.older()).collect();
        let downwards: Vec<_> = Version::ALL.into_iter().rev().collect();
        assert_eq!(visited, downwards);
    }
}
