//! A file that is there whole or not at all: written beside its place, which it takes at the end.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::files::sync_folder;

/// A file under way. Dropped before it is kept, it leaves nothing behind.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    fresh: PathBuf,
    place: PathBuf,
    is_kept: bool,
}

impl WholeFile {
    /// Begins a file that is to take `place`, with these rights of access where the system knows such.
    ///
    /// # Errors
    /// Where something else than a file is in that place; those of making a file.
    pub fn create(place: &Path, mode: u32) -> io::Result<WholeFile> {
        let place = match fs::metadata(place) {
            // A link stays, and what it names is replaced.
            Ok(known) if known.is_file() => fs::canonicalize(place)?,
            Ok(_) => return Err(io::Error::other("it is there and not a regular file")),
            Err(_) => place.to_owned(),
        };
        let name = place.file_name().ok_or_else(|| io::Error::other("it is not the name of a file"))?;
        let fresh = place.with_file_name(format!("{}.part", name.to_string_lossy()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let file = options.open(&fresh)?;
        // What a process that was killed has left is written over, what one is writing is not.
        match file.try_lock() {
            Ok(()) if is_at(&file, &fresh)? => {}
            Ok(()) | Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process is writing it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        Ok(WholeFile { file, fresh, place, is_kept: false })
    }

    /// Where it is written for now.
    pub fn path(&self) -> &Path {
        &self.fresh
    }

    /// Has the file take its place once all of it is on the disk; answers its size in bytes.
    ///
    /// # Errors
    /// Those of writing and renaming; then nothing has changed.
    pub fn keep(mut self) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        fs::rename(&self.fresh, &self.place)?;
        self.is_kept = true;
        // So that the name outlives a power cut too. A file system that cannot has renamed it all the same.
        let _ = sync_folder(&self.place);
        Ok(bytes)
    }
}

/// Whether a file still has this name: its writer may just have given it another.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (one, other) = (file.metadata()?, fs::metadata(path)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.try_exists()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // Why it is not kept is the error to tell.
            let _ = fs::remove_file(&self.fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("out.csv");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut file = WholeFile::create(&place, 0o640).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!place.exists());
        drop(file);
        assert_eq!(names(), 0);

        let mut file = WholeFile::create(&place, 0o640).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(file.keep().unwrap(), 5);
        assert_eq!((fs::read(&place).unwrap(), names()), (b"whole".to_vec(), 1));
    }

    #[test]
    fn what_a_killed_process_left_is_written_over_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("out.csv");
        fs::write(folder.path().join("out.csv.part"), "left over").unwrap();
        let mut file = WholeFile::create(&place, 0o640).unwrap();
        file.write_all(b"one").unwrap();
        let why = WholeFile::create(&place, 0o640).unwrap_err();
        assert_eq!(why.to_string(), "another process is writing it");
        file.keep().unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_one_and_a_device_is_let_be() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut file = WholeFile::create(&link, 0o600).unwrap();
        file.write_all(b"new").unwrap();
        file.keep().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(WholeFile::create(Path::new("/dev/null"), 0o640).is_err());
    }
}
