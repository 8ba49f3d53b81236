//! Sockets, and their limits.

use std::any::Any;
use std::cell::Cell;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Extensions, Server, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::web::Data;
use actix_web::{App, Error, HttpResponse, HttpServer};
use ring::rand::SystemRandom;
use socket2::{SockRef, Socket};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::guard::{Guard, Head, Refusal, Token};
use super::routes::{self, Answers};
use super::{Place, Sources, dashboard, place, views};
use crate::backoff::Backoff;
use crate::config::Http;
use crate::exit::Failure;

/// Connections at a time; whoever comes later waits until one ends.
const CONNECTIONS_MAX: usize = 128;
/// Descriptors that its clients take at most: each connection is a socket, and a second descriptor of the same one
/// (`Hand`), since the server keeps the first to itself and would not let go of it.
pub const CLIENT_DESCRIPTORS_MAX: u64 = 2 * CONNECTIONS_MAX as u64;
/// Time for a request's head to come.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Time between two requests on one connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time for a client to hang up after the last answer.
const HANG_UP_WITHIN: Duration = Duration::from_secs(1);
/// Time for an answer to begin, a request's body included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// After this time a connection ends with the next answer,
const CONNECTION_FOR: Duration = Duration::from_secs(30);
/// and after so much more in any case: whoever takes his answers slowly, or begins another request and never ends it,
/// would have one of few places for ever.
const CONNECTION_AT_MOST: Duration = CONNECTION_FOR.saturating_add(ANSWER_WITHIN).saturating_add(HEAD_WITHIN);
/// Bytes that the kernel keeps on the way to a client whose answer does not end.
const SEND_BYTES: usize = 64 * 1024;
/// Time in which such a client's machine says that it has got, or his program takes, what was sent.
#[cfg(target_os = "linux")]
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Pauses between attempts to have an address that somebody else has.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Bytes of a token's file.
const FILE_BYTES_MAX: u64 = 4_096;

/// What every answer says to browsers: take nothing for something else, run and embed nothing of others, tell others
/// nothing, keep nothing.
const HEADERS: [(&str, &str); 7] = [
    ("x-content-type-options", "nosniff"),
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Where to listen, and whom to let in.
#[derive(Clone, Debug)]
pub struct Door {
    listen: SocketAddr,
    guard: Arc<Guard>,
}

impl Door {
    /// The door that is configured; none where nothing is to listen.
    ///
    /// # Errors
    /// The token's file cannot be used.
    pub fn new(http: &Http) -> Result<Option<Door>, Failure> {
        let Some(listen) = http.listen else { return Ok(None) };
        let token = http.token_file.as_deref().map(read_token).transpose()?;
        let guard = Arc::new(Guard::new(listen, http.allowed_hosts.clone(), token));
        Ok(Some(Door { listen, guard }))
    }
}

/// Reads the token. Whether others can too is warned about with the other secrets.
fn read_token(path: &Path) -> Result<Token, Failure> {
    let unusable = |why: &dyn std::fmt::Display| {
        Failure::configuration(format_args!("http.token_file {}: {why}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(|error| unusable(&error))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| unusable(&error))?;
    Token::parse(&text, &SystemRandom::new()).map_err(|error| unusable(&error))
}

/// Serves until the process ends. An address that somebody else has is tried again and again: that nobody can look
/// must not keep anything from being collected. Tells where it serves, or why it does not.
pub async fn serve(door: Door, sources: Sources, told: watch::Sender<Place>) {
    let (clock, chronicle) = (sources.clock.clone(), sources.signs.chronicle.clone());
    // Before it collects it may turn out that another does, whose address this is.
    let mut is_untold = false;
    let answers = Data::new(Answers::new(sources));
    let mut backoff = Backoff::new(RETRY_FIRST, 2.0, RETRY_LAST);
    loop {
        let error = match listen(&door, &answers) {
            Ok((server, address)) => {
                place::tell(&told, &address.to_string(), None, clock.wall());
                log::info!(address:% = address; "serving HTTP");
                match server.await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let pause = backoff.next_delay(fastrand::f64());
        // Once, and not with every attempt: another account's service may have the address for months.
        is_untold |= place::tell(&told, &door.listen.to_string(), Some(error.to_string()), clock.wall());
        let speaks = is_untold && chronicle.has_begun();
        is_untold &= !speaks;
        log::log!(
            if speaks { log::Level::Warn } else { log::Level::Debug },
            address:% = door.listen, error:% = error, pause_ms = pause.as_millis() as u64;
            "HTTP cannot be served, trying again; what is collected does not depend on it"
        );
        actix_rt::time::sleep(pause).await;
    }
}

fn listen(door: &Door, answers: &Data<Answers>) -> std::io::Result<(Server, SocketAddr)> {
    let listener = TcpListener::bind(door.listen)?;
    let address = listener.local_addr()?;
    let (guard, answers) = (door.guard.clone(), answers.clone());
    let server = HttpServer::new(move || {
        let headers = HEADERS.into_iter().fold(DefaultHeaders::new(), DefaultHeaders::add);
        App::new()
            .app_data(answers.clone())
            .app_data(Data::from(guard.clone()))
            .wrap(from_fn(admit))
            .wrap(headers)
            .configure(routes::configure)
    })
    // On a thread of its own.
    .workers(1)
    .worker_max_blocking_threads(1)
    .max_connections(CONNECTIONS_MAX)
    .client_request_timeout(HEAD_WITHIN)
    .client_disconnect_timeout(HANG_UP_WITHIN)
    .keep_alive(KEEP_ALIVE)
    .tcp_nodelay(true)
    .on_connect(Hand::attach)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?;
    Ok((server.run(), address))
}

/// A hand on a connection's socket: the server itself would wait without end for the end of a body in chunks, for a
/// client to take its answer, and for the end of a second request's head.
pub(super) struct Hand {
    socket: Rc<Option<Socket>>,
    /// The connection has lasted long enough.
    is_old: Rc<Cell<bool>>,
    /// Ends the connection when it is too old, and ends with it.
    end: actix_rt::task::JoinHandle<()>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.end.abort();
    }
}

impl Hand {
    /// Puts the hand where the connection's requests find it.
    fn attach(connection: &dyn Any, extensions: &mut Extensions) {
        let socket = connection.downcast_ref::<actix_rt::net::TcpStream>();
        let socket = Rc::new(socket.and_then(|socket| SockRef::from(socket).try_clone().ok()));
        let is_old = Rc::new(Cell::new(false));
        let end = actix_rt::spawn({
            let (socket, is_old) = (socket.clone(), is_old.clone());
            async move {
                actix_rt::time::sleep(CONNECTION_FOR).await;
                is_old.set(true);
                actix_rt::time::sleep(CONNECTION_AT_MOST.saturating_sub(CONNECTION_FOR)).await;
                shut(&socket);
            }
        });
        extensions.insert(Hand { socket, is_old, end });
    }

    /// Ends the connection, after a while in which the answer can be read.
    fn hang_up(&self) {
        hang_up(self.socket.clone());
    }

    /// A grip for one whose answer does not end; none where there was no descriptor for it, and nothing would end him.
    pub(super) fn grip(&self) -> Option<Grip> {
        let (socket, ageing) = (self.socket.clone(), self.end.abort_handle());
        socket.is_some().then_some(Grip { socket, ageing })
    }
}

/// A grip on a connection that may last: whoever has it sees to its end.
#[derive(Clone)]
pub(super) struct Grip {
    socket: Rc<Option<Socket>>,
    ageing: AbortHandle,
}

impl Grip {
    /// The connection is not ended for its age any more, but by the kernel where what was sent is not taken, and
    /// little is kept there for one who takes nothing.
    pub(super) fn hold(&self) {
        self.ageing.abort();
        let Some(socket) = &*self.socket else { return };
        let bounded = socket.set_send_buffer_size(SEND_BYTES);
        #[cfg(target_os = "linux")]
        let bounded = bounded.and_then(|()| socket.set_tcp_user_timeout(Some(TAKEN_WITHIN)));
        if let Err(error) = bounded {
            log::debug!(error:% = error; "a connection that may last has no bounds of the kernel's");
        }
    }

    /// Whether the client has said that it says nothing more, which the server takes no notice of while it has an
    /// answer to give.
    pub(super) fn is_left(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.socket.as_ref().as_ref().is_some_and(|socket| matches!(socket.peek(&mut byte), Ok(0)))
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        shut(&self.socket);
    }

    /// Ends the connection after a while in which the last words can be read.
    pub(super) fn let_go(&self) {
        hang_up(self.socket.clone());
    }
}

fn hang_up(socket: Rc<Option<Socket>>) {
    actix_rt::spawn(async move {
        actix_rt::time::sleep(HANG_UP_WITHIN).await;
        shut(&socket);
    });
}

/// Ends a connection, which may have ended by itself.
fn shut(socket: &Option<Socket>) {
    if let Some(socket) = socket {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Has the guard look at a request, and an answer come in time.
async fn admit(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let guard = request.app_data::<Data<Guard>>().expect("every app has one").clone();
    if let Err(refusal) = look(&guard, &request) {
        if let Some(hand) = request.conn_data::<Hand>() {
            hand.hang_up();
        }
        return Ok(request.into_response(refused(refusal)));
    }
    let is_old = request.conn_data::<Hand>().is_some_and(|hand| hand.is_old.get());
    // Nothing of the request is held meanwhile: the router wants it for itself.
    match tokio::time::timeout(ANSWER_WITHIN, next.call(request)).await {
        Ok(answer) => {
            let mut answer = answer?.map_into_boxed_body();
            if is_old {
                answer.response_mut().head_mut().set_connection_type(actix_http::ConnectionType::Close);
            }
            Ok(answer)
        }
        Err(_) => {
            let view = views::error("late", "the answer, or the request's body, did not come in time");
            let mut answer = routes::json(StatusCode::SERVICE_UNAVAILABLE, &view);
            answer.head_mut().set_connection_type(actix_http::ConnectionType::Close);
            for (name, value) in HEADERS {
                answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            Err(InternalError::from_response("late", answer).into())
        }
    }
}

fn look(guard: &Guard, request: &ServiceRequest) -> Result<(), Refusal> {
    let headers = request.headers();
    let value = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let hosts: Vec<&[u8]> = headers.get_all(header::HOST).map(HeaderValue::as_bytes).collect();
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let announced = headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().ok()?.parse().ok());
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    guard.check(&Head {
        method: request.method().as_str(),
        hosts: &hosts,
        authority: request.uri().authority().map(|authority| authority.as_str()),
        bytes: request.uri().to_string().len() + fields.sum::<usize>(),
        body_bytes: if is_chunked { None } else { announced.unwrap_or(Some(0)) },
        is_open: dashboard::is_part(request.uri().path()),
        authorization: value(header::AUTHORIZATION),
        origin: value(header::ORIGIN),
        fetch_site: value(HeaderName::from_static("sec-fetch-site")),
    })
}

fn refused(refusal: Refusal) -> HttpResponse {
    let (status, word, reason) = refusal.told();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = routes::json(status, &views::error(word, reason));
    if refusal == Refusal::Unauthorized {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // What else it has to say is not waited for.
    answer.head_mut().set_connection_type(actix_http::ConnectionType::Close);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn without_a_socket_there_is_no_grip_on_a_connection() {
        let listener = actix_rt::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = actix_rt::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let connections: [(&dyn Any, bool); 2] = [(&socket, true), (&"no socket", false)];
        for (connection, has_grip) in connections {
            let mut extensions = Extensions::new();
            Hand::attach(connection, &mut extensions);
            assert_eq!(extensions.get::<Hand>().unwrap().grip().is_some(), has_grip);
        }
    }
}
