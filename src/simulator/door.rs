//! The addresses that the simulator listens on. Each can be shut, so that connections are
//! refused as by a host where nothing runs, and opened again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use tokio::sync::Notify;

use super::stream::{self, Wire};
use super::{Shared, rest};

/// Wait before an address that somebody else took meanwhile is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// One address, and whether it is to be open.
#[derive(Debug)]
pub(crate) struct Door {
    pub address: SocketAddr,
    wanted: AtomicBool,
    listening: AtomicBool,
    ended: AtomicBool,
    changed: Notify,
}

impl Door {
    pub fn new(address: SocketAddr) -> Door {
        Door {
            address,
            wanted: AtomicBool::new(true),
            listening: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Opens or shuts it, soon. Shut, it also drops the sockets that came through it.
    pub fn set_open(&self, open: bool) {
        self.wanted.store(open, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether connections are accepted.
    pub fn is_open(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Shuts it for good.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Starts to listen. With port 0 the second part says which port it became.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn listen(address: SocketAddr, shared: &Arc<Shared>) -> std::io::Result<(Server, SocketAddr)> {
    let data = web::Data::new(Arc::clone(shared));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .service(web::scope(rest::BASE_PATH).default_service(web::to(rest::handle)))
            .route("/lightstreamer", web::get().to(stream::upgrade))
            .route("/lightstreamer/{name}.txt", web::post().to(stream::post))
    })
    .workers(1)
    .tcp_nodelay(true)
    .disable_signals()
    .shutdown_timeout(1)
    // Or a response that ends before its request would keep the socket for a while.
    .client_disconnect_timeout(Duration::ZERO)
    .on_connect(Wire::attach)
    .bind(address)?;
    let address = *server.addrs().first().expect("a bound server has an address");
    Ok((server.run(), address))
}

/// Keeps a door open or shut as it is wanted, until it has ended.
pub(crate) async fn keep(door: Arc<Door>, shared: Arc<Shared>, server: Server) {
    let mut running = Some(run(server));
    while !door.has_ended() {
        let wanted = door.wanted.load(Ordering::Acquire);
        if wanted && running.is_none() {
            running = listen(door.address, &shared).ok().map(|(server, _)| run(server));
            if running.is_none() {
                actix_rt::time::sleep(RETRY).await;
                continue;
            }
        } else if !wanted && let Some(server) = running.take() {
            server.stop(false).await;
        }
        door.listening.store(running.is_some(), Ordering::Release);
        door.changed.notified().await;
    }
    if let Some(server) = running {
        server.stop(false).await;
    }
}

fn run(server: Server) -> ServerHandle {
    let handle = server.handle();
    actix_rt::spawn(server);
    handle
}
