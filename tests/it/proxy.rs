//! A network between a program and a server of its (PostgreSQL, IG) that can be cut, and in which others can
//! answer in the server's place.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a direction looks whether it is to go on.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What becomes of the bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// They arrive.
    All,
    /// They wait, as where a link is down that TCP outlives.
    Later,
    /// They are gone, and either end believes that they have arrived.
    Nothing,
}

const PASSINGS: [Passing; 3] = [Passing::All, Passing::Later, Passing::Nothing];

/// Answers in the server's place, until its client is gone. What it hands back goes to the server, together with what
/// that is to be told first.
pub type StandIn = Arc<dyn Fn(TcpStream) -> Option<(TcpStream, Vec<u8>)> + Send + Sync>;

/// A port of this machine that leads to another.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server_port: u16,
    /// Index into [`PASSINGS`].
    passing: AtomicU8,
    /// So many more commits lose their answer…
    commits_to_cut: AtomicU32,
    /// …every second one, and so many have been seen.
    commits: AtomicUsize,
    stand_in: Mutex<Option<StandIn>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Leads to a port of this machine.
    pub fn start(server_port: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server_port,
            passing: AtomicU8::new(0),
            commits_to_cut: AtomicU32::new(0),
            commits: AtomicUsize::new(0),
            stand_in: Mutex::default(),
            open: Mutex::default(),
        });
        let network = shared.clone();
        // It ends with the test's process: a listener has no timeout.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let network = network.clone();
                // A server that is gone closes what leads to it.
                thread::spawn(move || _ = network.connect(client));
            }
        });
        Proxy { port, shared }
    }

    /// The same address, by way of it.
    pub fn lead(&self, address: &str) -> String {
        let (server, through) = (format!(":{}/", self.shared.server_port), format!(":{}/", self.port));
        assert!(address.contains(&server), "{address}");
        address.replace(&server, &through)
    }

    /// Says what becomes of bytes from now on, also those of connections that are made later.
    pub fn pass(&self, passing: Passing) {
        let index = PASSINGS.iter().position(|other| *other == passing).unwrap();
        self.shared.passing.store(index as u8, Ordering::SeqCst);
    }

    /// Closes every connection.
    pub fn close(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Has somebody else answer, or the server again, and closes every connection.
    pub fn answer(&self, stand_in: Option<StandIn>) {
        *self.shared.stand_in.lock().unwrap() = stand_in;
        self.close();
    }

    /// Of the next commits every second one reaches the server, which has done it when the connection ends,
    /// without its answer; until there were so many.
    pub fn cut_commits(&self, count: u32) {
        self.shared.commits_to_cut.store(count, Ordering::SeqCst);
    }

    /// So many commits are still to be cut.
    pub fn commits_to_cut(&self) -> u32 {
        self.shared.commits_to_cut.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn passing(&self) -> Passing {
        PASSINGS[usize::from(self.passing.load(Ordering::SeqCst))]
    }

    fn connect(self: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
        let stand_in = self.stand_in.lock().unwrap().clone();
        let (client, first) = match stand_in {
            Some(stand_in) => {
                self.open.lock().unwrap().push(client.try_clone()?);
                let Some(left) = stand_in(client) else { return Ok(()) };
                left
            }
            None => (client, Vec::new()),
        };
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server_port))?;
        server.write_all(&first)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK_EVERY))?;
        }
        self.open.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
        // Set where the answer to a commit is to be lost.
        let mute = Arc::new(AtomicU8::new(0));
        let (there, back) = ((client.try_clone()?, server.try_clone()?), (server, client));
        let (network, muting) = (self.clone(), mute.clone());
        thread::spawn(move || {
            network.carry(there.0, there.1, |bytes| {
                if network.is_to_cut(bytes) {
                    muting.store(1, Ordering::SeqCst);
                }
                true
            });
        });
        let network = self.clone();
        // An answer that is to be lost has come this far, so what was asked is done.
        thread::spawn(move || network.carry(back.0, back.1, |_| mute.load(Ordering::SeqCst) == 0));
        Ok(())
    }

    /// Carries bytes until either end is closed, or `sees` says that they and all others are not to arrive.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, mut sees: impl FnMut(&[u8]) -> bool) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if self.passing() == Passing::Later {
                thread::sleep(LOOK_EVERY);
                continue;
            }
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) if self.passing() == Passing::Nothing => {}
                Ok(read) => {
                    // The cut came while it was under way.
                    while self.passing() == Passing::Later {
                        thread::sleep(LOOK_EVERY);
                    }
                    if !sees(&bytes[..read]) || to.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(_) => break,
            }
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether the answer to this is to be lost.
    fn is_to_cut(&self, bytes: &[u8]) -> bool {
        memchr::memmem::find(bytes, b"COMMIT\0").is_some()
            && self.commits.fetch_add(1, Ordering::SeqCst) % 2 == 1
            && self
                .commits_to_cut
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.pass(Passing::All);
        self.close();
    }
}
