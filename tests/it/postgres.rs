//! A PostgreSQL server of the tests' own, made from the installed binaries and gone with them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use candlekeep::store::DatabaseUrl;
use rustix::process::{Pid, Signal};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// How long a server may take to start, stop or answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server. Dropped, or when this process ends however that be, it is stopped and its files go.
pub struct Server {
    folder: tempfile::TempDir,
    port: u16,
    binaries: PathBuf,
    keeper: Option<Child>,
}

/// The server that tests share which do it no harm; none where PostgreSQL is not installed.
pub fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(&["fsync=off"])).as_ref()
}

/// A folder of PostgreSQL's binaries: Debian's newest, else the one on the path.
fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    found.sort_by_key(|path| {
        path.parent()
            .and_then(Path::file_name)
            .and_then(OsStr::to_str)
            .and_then(|name| name.parse::<u32>().ok())
    });
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    // A link on the path may lead to one program of many.
    let on_path =
        std::env::split_paths(&on_path).filter_map(|folder| folder.join("initdb").canonicalize().ok());
    found.splice(0..0, on_path.filter_map(|initdb| Some(initdb.parent()?.to_owned())));
    let found = found.into_iter().rfind(|folder| folder.join("initdb").exists());
    if found.is_none() {
        say_skipped("PostgreSQL is not installed, initdb is not found: its tests DID NOT RUN");
    }
    found
}

/// Says past the test harness, which keeps what passing tests print, that something was not tested; in CI
/// that is a failure.
pub fn say_skipped(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    let _ = writeln!(io::stderr(), "{what}");
}

/// Whether a test may count what the program has open: it hides that from all but root.
pub fn sees_descriptors() -> bool {
    let sees = rustix::process::geteuid().is_root();
    if !sees {
        say_skipped("NOT RUN: only root sees what descriptors the program has open");
    }
    sees
}

/// PostgreSQL does not run as root.
fn as_nobody_special(command: &mut Command) -> &mut Command {
    let (uid, gid) = unprivileged();
    if rustix::process::geteuid().is_root() { command.uid(uid).gid(gid) } else { command }
}

/// The user that Debian's package has made, or whoever owns number 65534.
fn unprivileged() -> (u32, u32) {
    let line = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = line.lines().find(|line| line.starts_with("postgres:")).map(|line| line.split(':'));
    let numbers: Vec<u32> = fields.into_iter().flatten().filter_map(|field| field.parse().ok()).collect();
    if let [uid, gid, ..] = numbers[..] { (uid, gid) } else { (65_534, 65_534) }
}

/// Gives a folder and what lies in it to the server's user.
pub fn own(folder: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (uid, gid) = unprivileged();
    let inside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in inside.chain([folder.to_owned()]) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn append(data: &Path, settings: &str) {
    let file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"));
    file.unwrap().write_all(settings.as_bytes()).unwrap();
}

impl Server {
    /// A new server with these settings beside those that make it small; none where PostgreSQL is not
    /// installed.
    pub fn start(settings: &[&str]) -> Option<Server> {
        Server::start_with(settings, |_| ())
    }

    /// The same, with `prepare` at work on the folder of its data before it first starts.
    pub fn start_with(settings: &[&str], prepare: impl FnOnce(&Path)) -> Option<Server> {
        let binaries = binaries()?;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        own(folder.path());
        let made = as_nobody_special(&mut Command::new(binaries.join("initdb")))
            .args(["--auth=trust", "--username=candlekeep", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut text = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
            max_connections = 100\nshared_buffers = 16MB\nmax_wal_size = 64MB\nautovacuum = off\n"
        );
        for setting in settings {
            text += &format!("{setting}\n");
        }
        append(&data, &text);
        prepare(&data);
        own(&data);
        let mut server = Server { folder, port, binaries, keeper: None };
        server.resume();
        Some(server)
    }

    /// A server that follows this one and takes no writes.
    pub fn replica(&self) -> Server {
        let folder = tempfile::tempdir().unwrap();
        own(folder.path());
        let data = folder.path().join("data");
        let copied = as_nobody_special(&mut Command::new(self.binaries.join("pg_basebackup")))
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(&data)
            .args(["-d", &self.address("postgres")])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let port = free_port();
        append(&data, &format!("port = {port}\n"));
        let mut replica = Server { folder, port, binaries: self.binaries.clone(), keeper: None };
        replica.resume();
        replica
    }

    /// Folder of the server's data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        // The shell outlives nobody: its input ends with this process, and then so does the server.
        let script = r#""$0" -D "$1" >> "$1/../log" 2>&1 & server=$!; read -r word; kill -${word:-QUIT} $server; wait $server"#;
        let keeper = as_nobody_special(&mut Command::new("/bin/sh"))
            .args(["-c", script])
            .arg(self.binaries.join("postgres"))
            .arg(self.data())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.keeper = Some(keeper);
        let begun = now();
        while self.try_run("postgres", "SELECT 1").is_err() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it with a signal: `INT` ends connections, `QUIT` and `KILL` leave a crash to recover from.
    pub fn stop(&mut self, signal: &str) {
        let Some(mut keeper) = self.keeper.take() else { return };
        // A process that is stopped ends by nothing but the last of these.
        self.signal(Signal::CONT);
        let processes = self.processes();
        // A shell that is gone has nothing to stop.
        let _ = keeper.stdin.take().map(|mut input| writeln!(input, "{signal}"));
        keeper.wait().unwrap();
        // One whose first process was killed may answer a last question before it sees that.
        wait_gone(&processes);
    }

    /// Kills all of it at once, which leaves a crash to recover from.
    pub fn crash(&mut self) {
        // None of them is to do anything about the end of another, or to make a new one.
        self.signal(Signal::STOP);
        let processes = self.processes();
        self.signal(Signal::KILL);
        self.stop("KILL");
        wait_gone(&processes);
    }

    /// Sends a signal to the server's processes, that is stops or continues them.
    pub fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // One may have just ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// The server's processes, the first one last; none where it has ended by itself.
    fn processes(&self) -> Vec<Pid> {
        let Ok(text) = fs::read_to_string(self.data().join("postmaster.pid")) else { return Vec::new() };
        let postmaster = text.lines().next().unwrap().to_owned();
        let children = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
            (stat.rsplit(')').next()?.split_whitespace().nth(1)? == postmaster).then_some(name)
        });
        children.chain([postmaster.clone()]).filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    /// An address of an empty place in the database, as text.
    pub fn place(&self) -> String {
        static PLACES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("place_{}", PLACES.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("CREATE SCHEMA {name}"));
        format!("{}?options=-csearch_path%3D{name}", self.address("postgres"))
    }

    /// An address of an empty place in the database.
    pub fn url(&self) -> DatabaseUrl {
        self.place().parse().unwrap()
    }

    /// The address of a database of this name.
    pub fn address(&self, name: &str) -> String {
        format!("postgres://candlekeep@127.0.0.1:{}/{name}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements in the database `postgres`.
    pub fn run(&self, statements: &str) {
        self.try_run("postgres", statements).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    fn try_run(&self, name: &str, statements: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        query(&self.address(name), statements)
    }
}

/// What statements answer, as text, row by row.
pub fn query(address: &str, statements: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(address, NoTls).await?;
        tokio::spawn(connection);
        let told = client.simple_query(statements).await?;
        let rows = told.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|ix| row.get(ix).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    })
}

/// A connection that stays, for a transaction that others meet.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Session {
    /// A new one to this address.
    pub fn begin(address: &str) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        });
        Session { runtime, client }
    }

    /// Runs statements in it.
    pub fn run(&self, statements: &str) {
        self.runtime.block_on(self.client.batch_execute(statements)).unwrap();
    }
}

/// Waits until none of them lives: a new server does not start beside any.
fn wait_gone(processes: &[Pid]) {
    let lives = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    };
    let begun = now();
    while processes.iter().any(lives) {
        assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not end");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("QUIT");
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a server takes to start is real time")]
fn now() -> Instant {
    Instant::now()
}
