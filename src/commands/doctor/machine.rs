//! What the machine is asked: files, space, limits, addresses. Decides nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access as May, access, statfs, statvfs};
use rustix::process::{Resource, getrlimit, getuid};

use super::judge::{Answerer, Listening};
use crate::config::Access;

/// Longest wait for a word on whether the clock is set by anybody.
const TIMEDATECTL_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for who listens where the HTTP interface is to be to say who he is.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that are read of that.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Who asks, and what users and groups are called.
#[derive(Clone, Debug, Default)]
pub struct Me {
    /// Number of the user.
    pub user: u32,
    /// `/etc/passwd`.
    pub users: String,
    /// `/etc/group`.
    pub groups: String,
}

impl Me {
    /// This process's user.
    pub fn now() -> Me {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Me { user: getuid().as_raw(), users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// Whether it is root.
    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// The user's name; its number where it has none.
    pub fn name_of(&self, user: u32) -> String {
        name_in(&self.users, user)
    }

    /// The group's name; its number where it has none.
    pub fn group_of(&self, group: u32) -> String {
        name_in(&self.groups, group)
    }
}

/// The name of a number in the text of passwd(5) or group(5): the third field.
fn name_in(text: &str, number: u32) -> String {
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(number));
    found
        .and_then(|fields| fields.first().map(|name| (*name).to_owned()))
        .unwrap_or_else(|| number.to_string())
}

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its name.
    pub path: PathBuf,
    /// Whose it is; none: there is none, or nobody may look.
    pub access: Option<Access>,
    /// Number of its group.
    pub group: u32,
    /// This user may write it.
    pub is_writable: bool,
}

impl FileFacts {
    /// Of the file of this name.
    pub fn of(path: &Path) -> FileFacts {
        FileFacts {
            path: path.to_owned(),
            access: Access::of(path),
            group: fs::metadata(path).map_or(0, |file| file.gid()),
            is_writable: access(path, May::WRITE_OK).is_ok(),
        }
    }
}

/// The folder that something lies in.
pub fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// What is free where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The folder.
    pub path: PathBuf,
    /// Bytes that this user may write.
    pub bytes: u64,
    /// Files that may be made; none where the file system makes room for them as it needs.
    pub inodes: Option<u64>,
}

/// What is free in a folder, and the number of the file system that it is on; none where there is no folder.
pub fn room(folder: &Path) -> Option<(Room, u64)> {
    let (free, device) = (statvfs(folder).ok()?, fs::metadata(folder).ok()?.dev());
    let bytes = free.f_bavail.saturating_mul(free.f_frsize);
    let inodes = (free.f_files > 0).then_some(free.f_favail);
    Some((Room { path: folder.to_owned(), bytes, inodes }, device))
}

/// The magic number of a folder's file system (statfs(2)).
pub fn file_system(folder: &Path) -> Option<u64> {
    // Kept in a signed word of the machine's, in which the larger of them are negative.
    statfs(folder).ok().map(|told| told.f_type as u64 & 0xffff_ffff)
}

/// How many descriptors this process may have open; none: as many as it likes. A process raises nothing by itself.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Whether somebody could listen there, by doing so for an instant.
pub fn listening(address: SocketAddr) -> Listening {
    match TcpListener::bind(address) {
        Ok(_) => Listening::Free,
        Err(error) => match error.kind() {
            ErrorKind::AddrInUse => Listening::InUse(answerer(address)),
            ErrorKind::AddrNotAvailable => Listening::NoSuchAddress,
            ErrorKind::PermissionDenied => Listening::Forbidden,
            _ => Listening::Failed,
        },
    }
}

/// Who answers there. No token is shown to him: he may be anybody.
fn answerer(address: SocketAddr) -> Answerer {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    // As a whole, however slowly he speaks.
    match within(ANSWER_WITHIN, move || ask_health(address)) {
        Some(Ok(answer)) => {
            answer.split_once("\r\n\r\n").map_or(Answerer::Stranger, |(_, body)| Answerer::of(body))
        }
        Some(Err(error)) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Answerer::Stranger
        }
        _ => Answerer::Silent,
    }
}

fn ask_health(address: SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether somebody keeps the system's clock right, by what systemd says; none where it does not say.
pub fn is_synchronised() -> Option<bool> {
    let asked = within(TIMEDATECTL_WITHIN, || {
        let mut command = Command::new("timedatectl");
        command.args(["show", "--property=NTPSynchronized", "--value"]);
        // What it is asked needs no secret of ours.
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    });
    let output = asked.flatten().filter(|output| output.status.success())?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// What `work` answers, if it does in time. It is not ended otherwise, but with the process.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, doing) = mpsc::sync_channel(1);
    thread::Builder::new().name("candlekeep-look".to_owned()).spawn(move || drop(done.send(work()))).ok()?;
    doing.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_called_by_name_where_they_have_one() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nkeep:x:1001:1001::/var/lib/keep:/bin/false\nbroken\n:x:\n";
        let me = Me { user: 1001, users: users.to_owned(), groups: "bots:x:7:a,b\n".to_owned() };
        assert_eq!(
            (me.name_of(0), me.name_of(1001), me.name_of(5)),
            ("root".into(), "keep".into(), "5".into())
        );
        assert_eq!((me.group_of(7), me.group_of(8)), ("bots".into(), "8".into()));
        assert!(!me.is_root());
    }

    #[test]
    fn what_is_not_done_in_time_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (_keep, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || never.recv().is_ok()), None);
    }

    #[test]
    fn an_address_that_somebody_has_is_in_use() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let says = |text: &'static str| {
            let taken = taken.try_clone().unwrap();
            thread::spawn(move || {
                // `listening` itself comes by to ask.
                let (mut socket, _) = taken.accept().unwrap();
                let mut request = [0; 1_024];
                let _ = socket.read(&mut request);
                let _ = socket.write_all(text.as_bytes());
            });
            listening(address)
        };
        assert_eq!(says("SSH-2.0-OpenSSH\r\n"), Listening::InUse(Answerer::Stranger));
        assert_eq!(says("HTTP/1.1 200 OK\r\n\r\n<html>"), Listening::InUse(Answerer::Stranger));
        let ours = "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"version\":\"0.1.0\",\"pid\":7}";
        assert_eq!(says(ours), Listening::InUse(Answerer::Service(Some(7))));
        assert_eq!(listening("192.0.2.1:1".parse().unwrap()), Listening::NoSuchAddress);
        assert_eq!(listening("127.0.0.1:0".parse().unwrap()), Listening::Free);
    }

    #[test]
    fn a_file_is_described_as_the_system_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        assert_eq!(FileFacts::of(&file).access, None);
        std::fs::write(&file, "x").unwrap();
        let facts = FileFacts::of(&file);
        assert_eq!(facts.access.unwrap().owner, Me::now().user);
        assert!(facts.is_writable);
        assert_eq!(room(dir.path()).unwrap().1, std::fs::metadata(&file).unwrap().dev());
        assert!(folder_of(Path::new("c.db")).is_absolute());
    }
}
