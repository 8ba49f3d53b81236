//! What the process tells systemd of itself: that it is ready, what it is at, that it lives.
//!
//! Ready is who streams, or knows what it waits for: the database, its turn, IG. The watchdog is fed only
//! while every room makes progress ([`Roster::is_well`]), by a task on the rooms' own thread. So nothing waits for
//! systemd: where its queue is full, all is told with a later look.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::Notify;

use super::pulse::{Pulse, Roster};
use crate::clock::{self, Clock};
use crate::exit::one_line;

/// How often it is looked whether the watchdog is due; what is new is told at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The watchdog is fed so many times within the time after which it would bite.
const FEEDS: u32 = 4;
/// While the start goes on and is not stuck, systemd is asked for so much more time, so often.
const EXTENDED_BY: Duration = Duration::from_secs(120);
const EXTENDED_EVERY: Duration = Duration::from_secs(30);
/// On top of a pause that was told of, before who waits counts as stuck.
const PAUSE_SLACK: Duration = Duration::from_secs(60);

/// How the process stands. Clones are one.
#[derive(Clone, Debug)]
pub struct Standing {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
    start: Pulse,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    ready: bool,
    stopping: bool,
    status: String,
    /// Every room stands.
    started: bool,
}

impl Standing {
    /// Nothing is told yet.
    pub fn new(roster: &Roster) -> Standing {
        Standing { state: Arc::default(), news: Arc::default(), start: roster.start() }
    }

    /// What it is at.
    pub fn is_at(&self, what: impl Display) {
        let what = one_line(&what.to_string());
        self.change(|state| state.status = what);
    }

    /// A part of the start that comes to an end, or tells that it waits, within this time.
    pub fn starts(&self, what: impl Display, within: Duration) {
        self.is_at(what);
        self.start.step(within);
    }

    /// It waits for something, knowingly, and looks again after this pause.
    pub fn waits(&self, what: impl Display, pause: Duration) {
        self.is_at(what);
        self.ready();
        self.start.step(pause + PAUSE_SLACK);
    }

    /// Every room stands: from now on they are watched.
    pub fn has_started(&self) {
        self.start.rest();
        self.state().started = true;
    }

    /// What it is at, in the words that systemd shows.
    pub fn told(&self) -> String {
        self.state().status.clone()
    }

    /// Whether the rooms do not all stand yet.
    pub fn is_starting(&self) -> bool {
        !self.state().started
    }

    /// It does what it is for.
    pub fn ready(&self) {
        self.change(|state| state.ready = true);
    }

    /// It was told to stop.
    pub fn stops(&self) {
        self.is_at("stopping");
        self.change(|state| state.stopping = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells systemd from now on, if it listens: of `standing` when that changes, and that the process lives
/// while all of `roster` do.
pub fn tell(standing: Standing, roster: Roster, clock: Clock) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let watchdog = sd_notify::watchdog_enabled();
    actix_rt::spawn(async move {
        let mut told = Told::new(watchdog);
        loop {
            let before = told.clone();
            let news = told.look(&standing, &roster, clock.monotonic());
            match send(&place, &news) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => told = before,
                // Who does not listen has no use for a complaint.
                Err(_) => log::debug!("systemd does not take what it is told"),
            }
            tokio::select! {
                () = clock::beat(LOOK_EVERY) => {}
                () = standing.news.notified() => {}
            }
        }
    });
}

/// Hands it to who listens at `place`, and never waits: systemd itself may hang, and sd-notify's own sending with it.
fn send(place: &OsStr, news: &[News]) -> io::Result<()> {
    if news.is_empty() {
        return Ok(());
    }
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(place)?)?;
    let text: String = news.iter().map(|news| format!("{}\n", news.as_state())).collect();
    socket.send(text.as_bytes()).map(drop)
}

/// A path, or behind an `@` a name that is none.
fn address(place: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = place.as_encoded_bytes().strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(place)
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Ready,
    Stopping,
    Status(String),
    Lives,
    /// The start takes longer than the unit may think.
    GoesOn,
}

impl News {
    fn as_state(&self) -> NotifyState<'_> {
        match self {
            News::Ready => NotifyState::Ready,
            News::Stopping => NotifyState::Stopping,
            News::Status(text) => NotifyState::Status(text),
            News::Lives => NotifyState::Watchdog,
            News::GoesOn => NotifyState::ExtendTimeoutUsec(EXTENDED_BY.as_micros() as u32),
        }
    }
}

/// What was told so far.
#[derive(Clone)]
struct Told {
    state: State,
    feeds_every: Option<Duration>,
    fed: Option<Instant>,
    extended: Option<Instant>,
}

impl Told {
    fn new(watchdog: Option<Duration>) -> Told {
        let feeds_every = watchdog.map(|bites_after| bites_after / FEEDS);
        Told { state: State::default(), feeds_every, fed: None, extended: None }
    }

    /// What is to be told now, by how things stand and whether all that lives makes progress.
    fn look(&mut self, standing: &Standing, roster: &Roster, now: Instant) -> Vec<News> {
        let state = standing.state().clone();
        self.news(&state, roster.is_well(now), now)
    }

    /// What is to be told now.
    fn news(&mut self, state: &State, is_well: bool, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        if state.status != self.state.status {
            news.push(News::Status(state.status.clone()));
        }
        if state.ready && !self.state.ready {
            news.push(News::Ready);
        }
        if state.stopping && !self.state.stopping {
            news.push(News::Stopping);
        }
        self.state.clone_from(state);
        let is_due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last + every <= now);
        if is_well && self.feeds_every.is_some_and(|every| is_due(self.fed, every)) {
            self.fed = Some(now);
            news.push(News::Lives);
        }
        if is_well && !state.ready && is_due(self.extended, EXTENDED_EVERY) {
            self.extended = Some(now);
            news.push(News::GoesOn);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn changes_are_told_once_and_the_watchdog_is_fed_while_all_is_well() {
        let clock = Clock::simulated(Timestamp(0), 0);
        let roster = Roster::new(clock.clone(), None);
        let standing = Standing::new(&roster);
        let mut told = Told::new(Some(40 * S));
        let mut look = |standing: &Standing| told.look(standing, &roster, clock.monotonic());
        assert_eq!(look(&standing), [News::Lives, News::GoesOn]);
        assert_eq!(look(&standing), []);
        standing.starts("opening\nthe database", 5 * S);
        assert_eq!(look(&standing), [News::Status("opening the database".to_owned())]);
        clock.advance(10 * S);
        assert_eq!(look(&standing), [], "the start is stuck: nothing says that it lives");
        standing.waits("waiting for the database", S);
        let waits = News::Status("waiting for the database".to_owned());
        assert_eq!(look(&standing), [waits, News::Ready, News::Lives]);
        standing.has_started();
        clock.advance(1000 * S);
        assert_eq!(look(&standing), [News::Lives]);
        standing.ready();
        standing.stops();
        assert_eq!(look(&standing), [News::Status("stopping".to_owned()), News::Stopping]);
    }

    #[test]
    fn what_is_told_arrives_and_a_full_queue_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let news = [News::Status("streaming".to_owned()), News::Ready];
        let mut sent = 0;
        let refused = loop {
            match send(path.as_os_str(), &news) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let mut buffer = [0; 100];
        for _ in 0..sent {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=streaming\nREADY=1\n");
        }
        assert!(sent > 0 && send(path.as_os_str(), &[]).is_ok());
        assert_eq!(
            send(folder.path().as_os_str(), &news).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_may_have_a_name_that_is_no_path() {
        let name = format!("candlekeep-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&address(OsStr::new(&format!("@{name}"))).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), &[News::Lives]).unwrap();
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
    }

    #[test]
    fn without_a_watchdog_nothing_is_fed() {
        let clock = Clock::simulated(Timestamp(0), 0);
        let mut told = Told::new(None);
        let ready = State { ready: true, ..State::default() };
        assert_eq!(told.news(&ready, true, clock.monotonic()), [News::Ready]);
    }
}
