//! Which files the configuration came from, and which of them others can read though they should not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Config;
use super::keys::SECRETS;

/// Bits of a file's mode by which its group, and everybody else, can read it.
const GROUP_READS: u32 = 0o040;
const OTHERS_READ: u32 = 0o004;

/// Where a secret was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// In its variable.
    Variable,
    /// In the file that its `_FILE` variable names.
    File(PathBuf),
    /// In systemd's folder of credentials.
    Systemd(PathBuf),
}

impl SecretFrom {
    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            SecretFrom::Variable => None,
            SecretFrom::File(path) | SecretFrom::Systemd(path) => Some(path),
        }
    }
}

/// Which files the configuration came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The configuration file; none: there is none.
    pub file: Option<PathBuf>,
    /// It has the database's password in it.
    pub password_in_file: bool,
    /// Where each of [`SECRETS`] was found.
    pub secrets: [Option<SecretFrom>; SECRETS.len()],
}

/// A file with a secret that others than its owner can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The file.
    pub path: PathBuf,
    /// Whose secret, in words.
    pub secret: &'static str,
    /// Who can do what.
    pub access: Access,
}

/// A file's owner and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Number of the user whose it is.
    pub owner: u32,
    /// Permissions.
    pub mode: u32,
}

impl Access {
    /// Of the file of this name; none where it cannot be asked about.
    pub fn of(path: &Path) -> Option<Access> {
        let file = fs::metadata(path).ok()?;
        Some(Access { owner: file.uid(), mode: file.mode() })
    }

    /// Whether others can read it than whoever is to. That root's file is read by a group is how a service
    /// that must not change it gets to read it.
    fn is_exposed(self) -> bool {
        let private = if self.owner == 0 { OTHERS_READ } else { OTHERS_READ | GROUP_READS };
        self.mode & private != 0
    }
}

impl Exposure {
    /// What is wrong, in words.
    pub fn state(&self) -> String {
        let Exposure { path, secret, access: Access { mode, .. } } = self;
        let who = if mode & OTHERS_READ != 0 { "everybody" } else { "its group" };
        format!("{} holds {secret} and can be read by {who} (mode {:03o})", path.display(), mode & 0o777)
    }

    /// The command that mends it.
    pub fn mend(&self) -> String {
        let path = self.path.display();
        if self.access.owner == 0 {
            // Root's file: the service reads it through its group, or no more.
            return format!("sudo chgrp GROUP {path} && sudo chmod 640 {path}, GROUP being the service's");
        }
        format!("chmod go-r {path}")
    }
}

/// The files with secrets that others can read, as they are now.
pub fn exposures(config: &Config) -> Vec<Exposure> {
    exposed(config, Access::of)
}

fn exposed(config: &Config, access: impl Fn(&Path) -> Option<Access>) -> Vec<Exposure> {
    let origin = &config.origin;
    let file = origin.file.as_deref().filter(|_| origin.password_in_file);
    let token = config.http.token_file.as_deref();
    // What systemd hands out is as private as it makes it: a file system of its own, read by one user.
    let secrets = SECRETS.into_iter().zip(&origin.secrets).filter_map(|(name, from)| match from {
        Some(SecretFrom::File(path)) => Some((path.as_path(), name)),
        _ => None,
    });
    let file = file.map(|path| (path, "the database's password"));
    let token = token.map(|path| (path, "the token of the HTTP interface"));
    let of = |(path, secret): (&Path, &'static str)| {
        let access = access(path).filter(|access| access.is_exposed())?;
        Some(Exposure { path: path.to_owned(), secret, access })
    };
    file.into_iter().chain(token).chain(secrets).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};

    #[test]
    fn a_file_with_a_secret_is_exposed_where_others_than_its_owner_can_read_it() {
        let mut config = load(None, &Default::default(), &Flags::default()).unwrap();
        let file = PathBuf::from("candlekeep.toml");
        let check = |config: &Config, access: Option<(u32, u32)>, expected: &[&str]| {
            let access = access.map(|(owner, mode)| Access { owner, mode });
            let told: Vec<_> = exposed(config, |_| access).iter().map(|exposure| exposure.secret).collect();
            assert_eq!(told, expected, "{access:?}");
        };
        config.origin.file = Some(file.clone());
        check(&config, Some((7, 0o644)), &[]);
        config.origin.password_in_file = true;
        config.origin.secrets[1] = Some(SecretFrom::File("u".into()));
        config.origin.secrets[2] = Some(SecretFrom::Systemd("p".into()));
        for access in [(7, 0o644), (7, 0o640), (7, 0o604), (7, 0o100_444), (0, 0o644)] {
            check(&config, Some(access), &["the database's password", "IG_USERNAME"]);
        }
        for access in [Some((7, 0o600)), Some((7, 0o400)), Some((7, 0o711)), Some((0, 0o640)), None] {
            check(&config, access, &[]);
        }
        config.http.token_file = Some("t".into());
        check(
            &config,
            Some((7, 0o644)),
            &["the database's password", "the token of the HTTP interface", "IG_USERNAME"],
        );
        let access = Access { owner: 7, mode: 0o100_640 };
        let exposure = Exposure { path: file, secret: "IG_PASSWORD", access };
        assert_eq!(
            exposure.state(),
            "candlekeep.toml holds IG_PASSWORD and can be read by its group (mode 640)"
        );
        assert_eq!(exposure.mend(), "chmod go-r candlekeep.toml");
        let exposure = Exposure { access: Access { owner: 0, mode: 0o644 }, ..exposure };
        let mend =
            "sudo chgrp GROUP candlekeep.toml && sudo chmod 640 candlekeep.toml, GROUP being the service's";
        assert_eq!(exposure.mend(), mend);
    }
}
