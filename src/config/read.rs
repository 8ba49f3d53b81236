//! Fetches the layers from the machine: the process's environment, the configuration file, files
//! of secrets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::keys::{CONFIG_VARIABLE, PREFIX, SECRETS};
use super::{
    Access, Config, ConfigError, FILE_NAME, FileText, Flags, Http, Origin, SecretFrom, has_password, load,
    load_http,
};

/// A configuration or a secret is far smaller; whatever is larger was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the environment, the configuration file and the secrets, and checks the whole.
///
/// # Errors
/// As [`load`]; also when a configuration file that was named, or found, cannot be read. A file
/// of secrets that cannot be read fails only [`super::Credentials::require`], so that commands
/// which need no secrets work for users who may not read them.
pub fn read(flags: &Flags) -> Result<Config, ConfigError> {
    let mut env = environment()?;
    let mut secrets = Default::default();
    let problem = add_secret_files(&mut env, &mut secrets).err();
    let file = match config_path(&env, flags) {
        Some(path) => Some((read_text(&path)?, path)),
        None => None,
    };
    let file = file.as_ref().map(|(text, path)| FileText { path, text });
    let mut config = load(file, &env, flags)?;
    config.credentials.problem = problem;
    config.origin = Origin {
        file: file.map(|file| file.path.to_owned()),
        password_in_file: file.is_some_and(|file| has_password(&file)),
        secrets,
    };
    Ok(config)
}

/// Reads what is said of the HTTP interface alone, and whether anybody says where it is to listen: for who has all else
/// from elsewhere.
///
/// # Errors
/// As [`load_http`]; also when a configuration file that was named, or found, cannot be read.
pub fn read_http(flags: &Flags) -> Result<(Http, bool), ConfigError> {
    let env = environment()?;
    let path = config_path(&env, flags);
    let text = path.as_deref().map(read_text).transpose()?;
    let file = path.as_deref().zip(text.as_deref()).map(|(path, text)| FileText { path, text });
    load_http(file, &env)
}

/// The process's variables. Others' that are not Unicode do not concern us.
fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut env = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => {
                env.insert(name, value);
            }
            Err(_) if name.starts_with(PREFIX) || name.starts_with("IG_") => {
                return Err(ConfigError::Invalid { place: name, problem: "is not Unicode".to_owned() });
            }
            Err(_) => {}
        }
    }
    Ok(env)
}

/// The file to read: the one that was named, else the first that exists in the customary places.
fn config_path(env: &BTreeMap<String, String>, flags: &Flags) -> Option<PathBuf> {
    let named = flags.config.clone();
    let named = named.or_else(|| env.get(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    named.or_else(|| customary_paths(env).into_iter().find(|path| path.exists()))
}

fn customary_paths(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let home = env.get("HOME").filter(|home| !home.is_empty());
    [
        Some(PathBuf::from(FILE_NAME)),
        home.map(|home| Path::new(home).join(".config/candlekeep").join(FILE_NAME)),
        Some(Path::new("/etc/candlekeep").join(FILE_NAME)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Adds the secrets that are not in the environment itself: from the file that `<name>_FILE`
/// names, else from systemd's folder of credentials.
fn add_secret_files(
    env: &mut BTreeMap<String, String>,
    found: &mut [Option<SecretFrom>; SECRETS.len()],
) -> Result<(), ConfigError> {
    for (name, from) in SECRETS.into_iter().zip(found) {
        let given = |name: &str| env.get(name).filter(|value| !value.is_empty());
        let named = given(&format!("{name}_FILE")).map(PathBuf::from);
        if given(name).is_some() {
            if named.is_some() {
                let problem = format!("{name}_FILE is set too: keep one of them");
                return Err(ConfigError::Invalid { place: name.to_owned(), problem });
            }
            *from = Some(SecretFrom::Variable);
            continue;
        }
        let credential = || {
            let folder = given("CREDENTIALS_DIRECTORY")?;
            Some(Path::new(folder).join(name.to_ascii_lowercase())).filter(|path| path.exists())
        };
        let named = named.map(SecretFrom::File);
        if let Some(place) = named.or_else(|| credential().map(SecretFrom::Systemd)) {
            let path = place.path().map(Path::to_owned).unwrap_or_default();
            *from = Some(place);
            let text = read_text(&path)?;
            // Editors and `echo` end a file with a line end that is not part of the secret.
            let secret = text.strip_suffix('\n').unwrap_or(&text);
            let secret = secret.strip_suffix('\r').unwrap_or(secret);
            if secret.is_empty() {
                let problem = format!("{} is empty", path.display());
                return Err(ConfigError::Invalid { place: name.to_owned(), problem });
            }
            env.insert(name.to_owned(), secret.to_owned());
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: io::Error| unreadable(path, &error, Access::of(path));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::other("it is larger than a mebibyte")));
    }
    Ok(text)
}

/// Why a file cannot be read, and where others may and this user may not, what lets him.
fn unreadable(path: &Path, error: &io::Error, access: Option<Access>) -> ConfigError {
    let (path, reason) = (path.display().to_string(), error.to_string());
    if error.kind() != io::ErrorKind::PermissionDenied {
        return ConfigError::Unreadable { path, reason, mend: None };
    }
    let Some(Access { owner, mode }) = access else {
        let mend = format!("its folder lets this user not in: namei -l {path} shows which");
        return ConfigError::Unreadable { path, reason, mend: Some(mend) };
    };
    let owner = if owner == 0 { "root".to_owned() } else { format!("user {owner}") };
    let reason = format!("{reason}: it is of {owner}, mode {:03o}", mode & 0o777);
    let mend = format!("sudo chgrp GROUP {path} && sudo chmod g+r {path}, GROUP being one of this user's");
    ConfigError::Unreadable { path, reason, mend: Some(mend) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Failure;

    #[test]
    fn a_file_that_this_user_may_not_read_is_told_with_whose_it_is_and_what_lets_him() {
        let told = |error: io::ErrorKind, access: Option<(u32, u32)>| {
            let access = access.map(|(owner, mode)| Access { owner, mode });
            Failure::from(unreadable(Path::new("c.toml"), &error.into(), access)).to_string()
        };
        use io::ErrorKind::{NotFound, PermissionDenied};
        assert_eq!(told(NotFound, None), "cannot read c.toml: entity not found");
        let denied = "cannot read c.toml: permission denied";
        let mend = "sudo chgrp GROUP c.toml && sudo chmod g+r c.toml, GROUP being one of this user's";
        assert_eq!(
            told(PermissionDenied, Some((0, 0o100_600))),
            format!("{denied}: it is of root, mode 600; {mend}")
        );
        assert_eq!(
            told(PermissionDenied, Some((7, 0o100_640))),
            format!("{denied}: it is of user 7, mode 640; {mend}")
        );
        assert_eq!(
            told(PermissionDenied, None),
            format!("{denied}; its folder lets this user not in: namei -l c.toml shows which")
        );
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_file_is_sought_in_order() {
        let named = Flags { config: Some("a.toml".into()), database: None };
        let variables = env(&[(CONFIG_VARIABLE, "b.toml"), ("HOME", "/home/x")]);
        assert_eq!(config_path(&variables, &named), Some("a.toml".into()));
        assert_eq!(config_path(&variables, &Flags::default()), Some("b.toml".into()));
        let paths = [
            "candlekeep.toml",
            "/home/x/.config/candlekeep/candlekeep.toml",
            "/etc/candlekeep/candlekeep.toml",
        ];
        assert_eq!(customary_paths(&variables), paths.map(PathBuf::from));
    }

    #[test]
    fn a_secret_comes_from_its_variable_then_its_file_then_systemd() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("ig_password"), "from systemd").unwrap();
        std::fs::write(path("ig_username"), "from systemd").unwrap();
        std::fs::write(path("named"), "from file \r\n").unwrap();
        let directory = folder.path().display().to_string();
        let mut variables = env(&[
            ("IG_API_KEY", "from variable"),
            ("IG_USERNAME_FILE", &path("named")),
            ("CREDENTIALS_DIRECTORY", &directory),
        ]);
        add_secret_files(&mut variables, &mut Default::default()).unwrap();
        assert_eq!(
            SECRETS.map(|name| variables[name].as_str()),
            ["from variable", "from file ", "from systemd"]
        );
    }

    #[test]
    fn a_secret_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x").display().to_string();
        let mut variables = env(&[("IG_PASSWORD_FILE", &path)]);
        let missing = add_secret_files(&mut variables, &mut Default::default()).unwrap_err().to_string();
        assert!(missing.starts_with(&format!("cannot read {path}: ")), "{missing}");
        std::fs::write(&path, "\n").unwrap();
        let empty = add_secret_files(&mut variables, &mut Default::default()).unwrap_err().to_string();
        assert_eq!(empty, format!("IG_PASSWORD: {path} is empty"));
        variables.insert("IG_PASSWORD".into(), "hunter2".into());
        let both = add_secret_files(&mut variables, &mut Default::default()).unwrap_err().to_string();
        assert_eq!(both, "IG_PASSWORD: IG_PASSWORD_FILE is set too: keep one of them");
    }

    #[test]
    fn a_huge_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge");
        std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("larger than a mebibyte"));
    }
}
