//! Who asks a program over HTTP all the time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is asked for.
const ASKED: [&str; 3] = ["/healthz", "/metrics", "/v1/status"];

pub struct Asking {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Asking {
    /// Asks for health, metrics and status, each on a connection of its own, with such pauses.
    pub fn start(address: SocketAddr, every: Duration) -> Asking {
        let (is_over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count) = (is_over.clone(), answers.clone());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for path in ASKED {
                    ask(address, path);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(every);
            }
        });
        Asking { is_over, answers, thread }
    }

    /// Stops; how many answers there were.
    pub fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("all was answered");
        self.answers.load(Ordering::Relaxed)
    }
}

fn ask(address: SocketAddr, path: &str) {
    let mut socket = TcpStream::connect(address).expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer in UTF-8");
    // Health is 503 while all is not well.
    let is_fit = ["HTTP/1.1 200", "HTTP/1.1 503"].iter().any(|head| answer.starts_with(head));
    assert!(is_fit, "{path}: {answer}");
}
