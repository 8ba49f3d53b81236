//! The connections to Lightstreamer: a WebSocket, or an HTTP answer without end and a request
//! each for the rest. What they bring goes to the [`StreamActor`], one message a batch, and the
//! next batch is read only when that is dealt with.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use actix::prelude::*;
use actix_http::ws::Item;
use awc::Client;
use awc::error::{ConnectError, SendRequestError, WsClientError};
use awc::http::StatusCode;
use awc::http::header::CONTENT_TYPE;
use awc::ws::{Frame, Message as WsMessage};
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::actor::StreamActor;
use super::frames::Bounded;
use crate::ig::error::cut;
use crate::ig::lull::Lull;
use crate::ig::rest::mistrust;
use crate::tlcp::{Lost, Post, Transmit, Version};
use crate::tls;

/// Largest WebSocket message taken, whole or in parts.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// Frames or chunks handed over in one message, where that many are ready.
const PIECES_PER_BATCH: usize = 64;
/// Messages on their way out; more waiting means that the socket is stuck.
const OUTGOING_MAX: usize = 64;
/// A connection that is of no use any more has so long to take what is on its way, and to be closed in good form.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for the whole answer to a request beside the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest such answer, in bytes: a line a request.
const ANSWER_MAX: usize = 1024 * 1024;

/// Who connects.
#[derive(Clone)]
pub struct Clients {
    /// For what is asked beside the stream.
    pub asking: Client,
    /// For the stream, whose sockets keep these lulls.
    pub streaming: Client,
    /// When they are not read.
    pub lull: Lull,
}

/// What a connection brought.
#[derive(Debug)]
pub enum Piece {
    /// A WebSocket frame.
    Frame(Frame),
    /// Bytes of an HTTP stream, cut anywhere.
    Bytes(Bytes),
    /// The whole answer to a request beside the stream.
    Answer(String),
}

impl Piece {
    /// How many bytes it has to say; frames of control say nothing.
    pub fn size(&self) -> usize {
        match self {
            Piece::Bytes(bytes)
            | Piece::Frame(
                Frame::Text(bytes)
                | Frame::Binary(bytes)
                | Frame::Continuation(
                    Item::FirstText(bytes)
                    | Item::FirstBinary(bytes)
                    | Item::Continue(bytes)
                    | Item::Last(bytes),
                ),
            ) => bytes.len(),
            Piece::Frame(Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_)) => 0,
            Piece::Answer(text) => text.len(),
        }
    }
}

/// A connection's news.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Arrived {
    /// Which connection: news of an old one counts no more.
    pub socket: u64,
    /// In the order in which it came.
    pub pieces: Vec<Piece>,
    /// What became of the connection after that, if it is over, and why.
    pub lost: Option<(Lost, String)>,
}

impl Arrived {
    fn lost(socket: u64, lost: Lost, why: impl Into<String>) -> Arrived {
        Arrived { socket, pieces: Vec::new(), lost: Some((lost, why.into())) }
    }
}

/// The outgoing side of a connection. Dropping it closes the connection.
pub enum Connection {
    /// A WebSocket's.
    WebSocket {
        /// Messages to its writer.
        outgoing: mpsc::Sender<WsMessage>,
        /// Its reader.
        reader: actix_rt::task::JoinHandle<()>,
        /// Dropped with the connection, which ends its writer before long.
        held: oneshot::Sender<Infallible>,
    },
    /// One that is made by its first request.
    Http {
        /// Address below which requests go.
        base: String,
        /// Its reader, once there is a stream.
        reader: Option<actix_rt::task::JoinHandle<()>>,
    },
}

impl Drop for Connection {
    fn drop(&mut self) {
        match self {
            Connection::WebSocket { reader, .. } | Connection::Http { reader: Some(reader), .. } => {
                reader.abort()
            }
            Connection::Http { reader: None, .. } => {}
        }
    }
}

/// The socket takes nothing any more.
#[derive(Debug)]
pub struct Stuck;

impl Connection {
    /// Puts a message on its way.
    ///
    /// # Errors
    /// Where the peer does not read and the queue is full, or the writer is gone.
    pub fn send(
        &mut self,
        transmit: Transmit,
        socket: u64,
        clients: &Clients,
        actor: &Addr<StreamActor>,
    ) -> Result<(), Stuck> {
        match (self, transmit) {
            (Connection::WebSocket { outgoing, .. }, Transmit::Message(text)) => {
                outgoing.try_send(WsMessage::Text(text.into())).map_err(|_| Stuck)
            }
            (Connection::Http { base, reader }, Transmit::Post(post)) => {
                let (clients, actor, url) = (clients.clone(), actor.clone(), format!("{base}{}", post.path));
                if post.opens_stream {
                    let streaming = stream(clients.streaming, url, post.body, socket, actor);
                    *reader = Some(actix_rt::spawn(streaming));
                } else {
                    actix_rt::spawn(ask(clients.asking, url, post, socket, actor));
                }
                Ok(())
            }
            // A session posts over HTTP and sends messages over a WebSocket.
            _ => Err(Stuck),
        }
    }

    /// Sends a frame of the WebSocket's own business. A full queue means a stuck socket, which is
    /// found elsewhere.
    pub fn send_frame(&self, message: WsMessage) {
        if let Connection::WebSocket { outgoing, .. } = self {
            drop(outgoing.try_send(message));
        }
    }
}

/// Opens a WebSocket below `base`, an `http` or `https` address.
///
/// # Errors
/// What kind of failure it was, and its words.
pub async fn open_websocket(
    client: &Client,
    base: &str,
    version: Version,
    socket: u64,
    actor: Addr<StreamActor>,
) -> Result<Connection, (Lost, String)> {
    let (response, framed) = client
        .ws(base)
        .protocols([version.subprotocol()])
        .max_frame_size(MESSAGE_MAX)
        .connect()
        .await
        .map_err(|error| (kind(&error), why(&error)))?;
    let echoed = response.headers().get("Sec-WebSocket-Protocol").and_then(|value| value.to_str().ok());
    if let Some(other) = echoed.filter(|echoed| *echoed != version.subprotocol()) {
        return Err((Lost::Refused, format!("it speaks {}", cut(other))));
    }
    let (sink, stream) = framed.into_map_codec(|codec| Bounded::new(codec, MESSAGE_MAX)).split();
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    let (held, abandoned) = oneshot::channel();
    actix_rt::spawn(write(sink, queue, abandoned, CLOSED_WITHIN));
    let reader = actix_rt::spawn(read(stream, Piece::Frame, socket, actor));
    Ok(Connection::WebSocket { outgoing, reader, held })
}

/// Writes what is queued, and closes the connection when nobody queues any more. A peer that does not read
/// would hold it open for ever, so once it is abandoned it has `grace` and no more.
async fn write<T>(
    mut sink: impl Sink<T> + Unpin,
    mut queue: mpsc::Receiver<T>,
    abandoned: oneshot::Receiver<Infallible>,
    grace: Duration,
) {
    let writing = async {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    match select(pin!(writing), abandoned).await {
        Either::Left(_) => {}
        Either::Right((_, writing)) => drop(tokio::time::timeout(grace, writing).await),
    }
}

/// Why there is no WebSocket, for people.
fn why(error: &WsClientError) -> String {
    match error {
        WsClientError::InvalidResponseStatus(status) if status.is_redirection() => unwelcome(*status),
        WsClientError::InvalidResponseStatus(status) => {
            format!("{} instead of a WebSocket, perhaps from a proxy", unwelcome(*status))
        }
        WsClientError::SendRequest(error) => why_not_sent(error),
        other => cut(&other.to_string()),
    }
}

/// An answer that is no stream, for people. What opens a session holds tokens, which go to the host that IG has named
/// and to no other.
fn unwelcome(status: StatusCode) -> String {
    let code = status.as_u16();
    if status.is_redirection() {
        return format!("a redirect (HTTP {code}), which is never followed");
    }
    format!("HTTP {code}")
}

/// Why a request did not get there, for people.
fn why_not_sent(error: &SendRequestError) -> String {
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => "closed without an answer".to_owned(),
        SendRequestError::Connect(ConnectError::Io(error)) => match mistrust(error) {
            Some(error) => tls::in_words("the stream's host", error),
            None => cut(&error.to_string()),
        },
        other => cut(&other.to_string()),
    }
}

fn kind(error: &WsClientError) -> Lost {
    match error {
        WsClientError::SendRequest(error) => kind_of_request(error),
        _ => Lost::Refused,
    }
}

/// Where a request did not even get as far as the server, the other transport will not either.
fn kind_of_request(error: &SendRequestError) -> Lost {
    match error {
        // Said of a server that has read the request and closes.
        SendRequestError::Connect(ConnectError::Disconnected) => Lost::Refused,
        SendRequestError::Connect(_) | SendRequestError::Url(_) => Lost::Unreachable,
        _ => Lost::Refused,
    }
}

/// Posts the request whose answer is the stream, and reads that to its end.
async fn stream(client: Client, url: String, body: String, socket: u64, actor: Addr<StreamActor>) {
    let sent = client.post(&url).insert_header((CONTENT_TYPE, "text/plain")).send_body(body).await;
    let response = match sent {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => {
            let why = unwelcome(response.status());
            return actor.do_send(Arrived::lost(socket, Lost::Refused, why));
        }
        Err(error) => {
            let why = why_not_sent(&error);
            return actor.do_send(Arrived::lost(socket, kind_of_request(&error), why));
        }
    };
    read(response, Piece::Bytes, socket, actor).await;
}

/// Reads a connection to its end, batch by batch, the next when the last is dealt with.
async fn read<T, E: Display>(
    stream: impl Stream<Item = Result<T, E>>,
    piece: fn(T) -> Piece,
    socket: u64,
    actor: Addr<StreamActor>,
) {
    let mut batches = pin!(stream.ready_chunks(PIECES_PER_BATCH));
    while let Some(batch) = batches.next().await {
        let mut arrived = Arrived { socket, pieces: Vec::with_capacity(batch.len()), lost: None };
        for next in batch {
            match next {
                Ok(next) => arrived.pieces.push(piece(next)),
                Err(error) => {
                    arrived.lost = Some((Lost::Closed, cut(&error.to_string())));
                    break;
                }
            }
        }
        let over = arrived.lost.is_some();
        if actor.send(arrived).await.is_err() || over {
            return;
        }
    }
    actor.do_send(Arrived::lost(socket, Lost::Closed, "ended by the peer"));
}

/// Posts a request beside the stream. One that gets lost is asked again by the session, which
/// waits for what it causes.
async fn ask(client: Client, url: String, post: Post, socket: u64, actor: Addr<StreamActor>) {
    match answer(&client, &url, post, ANSWER_TIMEOUT).await {
        Some(text) => {
            actor.do_send(Arrived { socket, pieces: vec![Piece::Answer(text)], lost: None });
        }
        None => log::warn!("a request beside the stream went unanswered"),
    }
}

/// The answer to a request, if all of it comes within `limit`.
async fn answer(client: &Client, url: &str, post: Post, limit: Duration) -> Option<String> {
    let asking = async {
        let request = client.post(url).timeout(limit).insert_header((CONTENT_TYPE, "text/plain"));
        let mut response = request.send_body(post.body).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = response.body().limit(ANSWER_MAX).await.ok()?;
        String::from_utf8(body.to_vec()).ok()
    };
    // The client's own limit ends with the head of the answer.
    tokio::time::timeout(limit, asking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use crate::ig::rest::{fake, http_client};

    #[actix::test]
    async fn a_server_that_closes_without_an_answer_refuses_and_one_that_is_not_there_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let closing = std::thread::spawn(move || {
            let mut connection = std::io::BufReader::new(listener.accept().unwrap().0);
            fake::request(&mut connection).unwrap()
        });
        // As a proxy does that knows no WebSocket: over HTTP it may be had.
        let error = http_client().ws(&base).connect().await.map(drop).unwrap_err();
        assert_eq!((kind(&error), why(&error).as_str()), (Lost::Refused, "closed without an answer"));
        assert_eq!(closing.join().unwrap(), "GET /");
        // Its listener is gone with it.
        let error = http_client().ws(&base).connect().await.map(drop).unwrap_err();
        assert_eq!(kind(&error), Lost::Unreachable, "{}", why(&error));
    }

    /// Takes so many messages and then neither messages nor the end, like a socket whose peer does not read.
    struct Full {
        room: usize,
        taken: mpsc::UnboundedSender<u32>,
    }

    impl Sink<u32> for Full {
        type Error = Infallible;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if self.room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn start_send(mut self: Pin<&mut Self>, message: u32) -> Result<(), Infallible> {
            self.room -= 1;
            self.taken.send(message).unwrap();
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
    }

    #[actix::test]
    async fn a_writer_whose_peer_reads_nothing_ends_soon_after_its_connection() {
        for (room, expected) in [(0, vec![]), (1, vec![1]), (9, vec![1, 2])] {
            let (taken, mut told) = mpsc::unbounded_channel();
            let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
            let (held, abandoned) = oneshot::channel();
            let grace = Duration::from_millis(50);
            let writer = actix_rt::spawn(write(Full { room, taken }, queue, abandoned, grace));
            outgoing.try_send(1).unwrap();
            outgoing.try_send(2).unwrap();
            // What is queued when it is abandoned is written as far as the peer takes it.
            drop((outgoing, held));
            let ended = tokio::time::timeout(Duration::from_secs(60), writer).await;
            ended.expect("it holds the socket for ever").unwrap();
            assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>(), expected);
        }
    }

    #[actix::test]
    async fn an_answer_beside_the_stream_comes_whole_or_not_at_all() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nREQOK,1\r\n";
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nREQOK,1\r\n";
        for (answered, expected) in [(whole, Some("REQOK,1\r\n")), (begun, None), ("", None)] {
            let (base, asked) = fake::server(vec![answered.to_owned()]);
            let post = Post { path: "/control.txt".to_owned(), body: "x=1".to_owned(), opens_stream: false };
            let url = format!("{base}{}", post.path);
            let told = answer(&http_client(), &url, post, Duration::from_millis(300)).await;
            assert_eq!(told.as_deref(), expected);
            assert_eq!(*asked.lock().unwrap(), ["POST /control.txt"]);
        }
    }
}
