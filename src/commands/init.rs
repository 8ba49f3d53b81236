//! `candlekeep init`: writes a configuration that explains itself.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::say;
use crate::cli::{Init, Report};
use crate::config::{self, Flags};
use crate::exit::{Exit, Failure};

/// Writes the file and says what to do next.
///
/// # Errors
/// When the file exists and may not be replaced, or cannot be written. Nothing half-written stays.
pub fn execute(args: &Init, flags: &Flags) -> Result<Exit, Failure> {
    let path = match (&args.path, &flags.config) {
        (Some(path), Some(config)) if path != config => {
            return Err(Failure::usage("--path and --config name two files: one of them is enough"));
        }
        (Some(path), _) | (None, Some(path)) => path,
        (None, None) => Path::new(config::FILE_NAME),
    };
    write_file(path, &config::template(), args.force).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Failure::failed(format_args!("{} exists already: --force replaces it", path.display()))
        }
        _ => Failure::failed(format_args!("cannot write {}: {error}", path.display())),
    })?;
    // Whoever closed stdout has the file all the same.
    say(match args.format {
        Report::Text => format!(
            "wrote {}\nnext: set IG_API_KEY, IG_USERNAME and IG_PASSWORD, then `candlekeep run`",
            path.display()
        ),
        Report::Json => json!({ "path": path }).to_string(),
    });
    Ok(Exit::Done)
}

/// Writes the whole text or leaves things as they were.
fn write_file(path: &Path, text: &str, replace: bool) -> io::Result<()> {
    let fresh = if replace { sibling(path)? } else { path.to_owned() };
    let mut file = OpenOptions::new().write(true).create_new(true).open(&fresh)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| if replace { fs::rename(&fresh, path) } else { Ok(()) });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// A name beside `path` that only this process uses.
fn sibling(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it is not the name of a file"))?;
    Ok(path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(path: &Path, force: bool) -> Result<Exit, Failure> {
        let flags = Flags { config: None, database: None };
        execute(&Init { path: Some(path.to_owned()), force, format: Report::Text }, &flags)
    }

    #[test]
    fn the_file_is_written_and_replaced_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("candlekeep.toml");
        assert_eq!(init(&path, false), Ok(Exit::Done));
        assert_eq!(fs::read_to_string(&path).unwrap(), config::template());

        fs::write(&path, "mine").unwrap();
        let refused = init(&path, false).unwrap_err();
        assert_eq!(refused.exit(), Exit::Failed);
        assert_eq!(refused.to_string(), format!("{} exists already: --force replaces it", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");

        assert_eq!(init(&path, true), Ok(Exit::Done));
        assert_eq!(fs::read_to_string(&path).unwrap(), config::template());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    }

    #[test]
    fn the_place_is_told_by_either_option_and_not_by_two() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(folder.path().join(name));
        let init = |path: Option<PathBuf>, config: Option<PathBuf>| {
            execute(&Init { path, force: false, format: Report::Text }, &Flags { config, database: None })
        };
        assert_eq!(init(None, at("one.toml")), Ok(Exit::Done));
        assert!(at("one.toml").unwrap().exists());
        assert_eq!(init(at("two.toml"), at("two.toml")), Ok(Exit::Done));
        assert_eq!(init(at("three.toml"), at("four.toml")).unwrap_err().exit(), Exit::Usage);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing where it is in doubt");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_one_line_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/candlekeep.toml");
        let error = init(&path, false).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
        // A folder is in the way: the fresh file was complete, but could not take its place.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("inside")).unwrap();
        assert_eq!(init(&taken, true).unwrap_err().exit(), Exit::Failed);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    }
}
