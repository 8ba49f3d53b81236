//! systemd's part, played by the test: the socket for notifications, the watchdog, the folder of
//! credentials, signals and restarts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candlekeep::clock::Clock;
use candlekeep::simulator::{Credentials, Options, Speed};

use super::postgres::Server;
use super::world::{Ended, Holes, START, STEP, Service, World, market};

/// How the unit has it, but shorter.
const WATCHDOG: Duration = Duration::from_secs(8);
/// The program feeds its watchdog this often within that time, at least.
const FEEDS_MIN: u32 = 2;

fn now() -> Instant {
    Clock::system().monotonic()
}

/// A market of three hours that flies by in 36 seconds.
fn world() -> World {
    World::new(Options { speed: Speed::Times(300.0), rows_per_bar: Some(8), ..market(3) })
}

/// systemd, as far as one service needs it.
pub(super) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// Every notification and when it came.
    pub told: Vec<(Instant, String)>,
}

impl Manager {
    /// A manager whose socket lies in the world's folder.
    pub fn new(world: &World) -> Manager {
        let path = world.folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Manager { socket, path, told: Vec::new() }
    }

    /// Starts the service as its unit does.
    pub fn start(&self, world: &World, line: &str, variables: &[(&str, &str)]) -> Service {
        let watchdog = WATCHDOG.as_micros().to_string();
        let own = [("NOTIFY_SOCKET", self.path.to_str().unwrap()), ("WATCHDOG_USEC", watchdog.as_str())];
        world.start(line, &[&own, variables].concat())
    }

    /// Has so much lie in its queue that nothing more fits.
    fn fill(&self) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(b"STATUS=of another service", &self.path).is_ok() {}
    }

    /// Takes what has come, for as long as the socket's patience.
    pub fn hear(&mut self) {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                self.told.extend(text.lines().map(|line| (now(), line.to_owned())));
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        }
    }

    /// Waits for a notification that begins so.
    pub fn wait(&mut self, service: &mut Service, what: &str) {
        service.wait(what, || {
            self.hear();
            self.has_heard(what)
        });
    }

    fn has_heard(&self, what: &str) -> bool {
        self.told.iter().any(|(_, line)| line.starts_with(what))
    }

    fn place(&self, what: &str) -> Option<usize> {
        self.told.iter().position(|(_, line)| line.starts_with(what))
    }

    /// Whether systemd would have killed the service by now.
    fn bites(&self) -> bool {
        let fed = self.told.iter().rev().find(|(_, line)| line == "WATCHDOG=1");
        fed.is_some_and(|(at, _)| now() - *at > WATCHDOG)
    }
}

#[test]
fn it_is_ready_when_it_streams_and_says_what_it_is_at_and_that_it_stops() {
    let world = world();
    let mut manager = Manager::new(&world);
    let mut service = manager.start(&world, "run", &[]);
    manager.wait(&mut service, "READY=1");
    manager.wait(&mut service, "STATUS=streaming 28 pairs");
    let before_ready = &manager.told[..manager.place("READY=1").unwrap()];
    assert!(before_ready.iter().any(|(_, line)| line == "STATUS=logging in"), "{before_ready:?}");
    let began = now();
    service.wait("three times a watchdog's patience", || {
        manager.hear();
        assert!(!manager.bites(), "the watchdog was not fed");
        now() - began > 3 * WATCHDOG
    });
    let fed = manager.told.iter().filter(|(_, line)| line == "WATCHDOG=1").count();
    assert!(fed as u32 >= 3 * FEEDS_MIN, "fed {fed} times");
    assert_eq!(manager.told.iter().filter(|(_, line)| line == "READY=1").count(), 1);
    service.stop();
    for _ in 0..3 {
        manager.hear();
    }
    assert!(manager.has_heard("STATUS=stopping") && manager.has_heard("STOPPING=1"), "{:?}", manager.told);
}

#[test]
fn it_is_ready_when_it_knows_what_it_waits_for() {
    // IG is away: nothing answers where it should be.
    let world = world();
    let mut manager = Manager::new(&world);
    let mut service = manager.start(&world, "run", &[("IG_API_URL", "http://127.0.0.1:9/gateway/deal")]);
    manager.wait(&mut service, "STATUS=waiting for IG: ");
    manager.wait(&mut service, "READY=1");
    service.stop();
}

#[test]
fn it_is_ready_while_its_database_is_away_and_while_another_collects() {
    let Some(mut server) = Server::start(&[]) else { return };
    let world = world().on_server(server.place());
    let mut manager = Manager::new(&world);
    let mut leader = world.run();
    leader.wait_said("streaming session begun", 1);
    let mut standby = manager.start(&world, "run", &[]);
    manager.wait(&mut standby, "STATUS=standing by");
    manager.wait(&mut standby, "READY=1");
    standby.stop();
    leader.kill();
    server.stop("INT");
    manager.told.clear();
    let mut service = manager.start(&world, "run", &[]);
    manager.wait(&mut service, "STATUS=waiting for the database: ");
    manager.wait(&mut service, "READY=1");
    let began = now();
    service.wait("twice a watchdog's patience", || {
        manager.hear();
        assert!(!manager.bites(), "who knows what it waits for is no use to kill");
        now() - began > 2 * WATCHDOG
    });
    service.stop();
}

#[test]
fn a_start_that_hangs_is_never_ready_and_not_said_to_live() {
    let world = world();
    let mut manager = Manager::new(&world);
    let service = manager.start(&world, "run --patience 5 --failpoint session.tokens=hang", &[]);
    let Ended { code, log, .. } = service.ended();
    assert_eq!(code, Some(1));
    assert!(log.last().unwrap().contains("the start makes no progress"), "{log:?}");
    for _ in 0..20 {
        manager.hear();
    }
    assert!(manager.has_heard("WATCHDOG=1") && !manager.has_heard("READY=1"), "{:?}", manager.told);
}

#[test]
fn a_room_that_hangs_for_good_is_not_said_to_live() {
    // The supervisor itself hangs with the thread, whose own watchdog is patient here.
    let world = world();
    let mut manager = Manager::new(&world);
    let mut service = manager.start(&world, "run --failpoint aggregator.told:30=block", &[]);
    manager.wait(&mut service, "READY=1");
    service.wait("a bite", || {
        manager.hear();
        manager.bites()
    });
    // As systemd does then.
    service.kill();
    world.finish(manager.start(&world, "run", &[]));
}

#[test]
fn while_systemd_hears_nothing_it_collects_and_tells_all_later() {
    let world = world();
    let mut manager = Manager::new(&world);
    manager.fill();
    let mut service = manager.start(&world, "run", &[]);
    world.wait_complete(&mut service);
    assert!(manager.told.is_empty());
    manager.wait(&mut service, "READY=1");
    service.stop();
    world.verify(Holes::None);
}

#[test]
fn its_secrets_come_from_the_folder_of_credentials() {
    let world = world();
    let folder = world.folder().join("credentials");
    fs::create_dir(&folder).unwrap();
    let Credentials { api_key, identifier, password, .. } = Credentials::default();
    for (name, value) in [("ig_api_key", api_key), ("ig_username", identifier), ("ig_password", password)] {
        let file = folder.join(name);
        // As `echo` makes them.
        fs::write(&file, format!("{value}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    }
    let without = [("IG_API_KEY", ""), ("IG_USERNAME", ""), ("IG_PASSWORD", "")];
    let variables = [&without[..], &[("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())]].concat();
    let mut manager = Manager::new(&world);
    let mut service = manager.start(&world, "run", &variables);
    manager.wait(&mut service, "STATUS=streaming");
    service.stop();
    // Without them a restart is of no use, and the exit code says so.
    fs::remove_file(folder.join("ig_password")).unwrap();
    let Ended { code, log, .. } = manager.start(&world, "run", &variables).ended();
    assert_eq!(code, Some(78));
    assert!(log.last().unwrap().contains("IG_PASSWORD"), "{log:?}");
}

#[test]
fn killed_and_started_again_it_loses_nothing_however_often() {
    let world = world();
    let mut manager = Manager::new(&world);
    for round in 1..=4 {
        let mut service = manager.start(&world, "run", &[]);
        let until = START.plus(round * 6 * STEP);
        world.wait(&mut service, "some of the market", |world| {
            manager.hear();
            world.simulator().now() > until
        });
        service.kill();
    }
    world.finish(manager.start(&world, "run", &[]));
}

#[test]
fn a_stream_that_cannot_be_had_is_something_to_wait_for() {
    let world = world();
    world.simulator().control().refuse_streams(true);
    let mut manager = Manager::new(&world);
    let mut service = manager.start(&world, "run", &[]);
    manager.wait(&mut service, "STATUS=connecting to the stream");
    manager.wait(&mut service, "READY=1");
    service.stop();
}
