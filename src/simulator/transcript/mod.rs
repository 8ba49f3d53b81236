//! A recorded conversation with IG, played back: REST answers by what is asked, streams one after
//! the other as they were recorded. Each goes over a WebSocket or over HTTP as the client asks for
//! it, whatever carried it when it was recorded.
//!
//! Whoever logs in is let in: the transcript's placeholders are the tokens.

mod answers;
mod deck;
mod wire;

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::SEC_WEBSOCKET_PROTOCOL;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::clock::{Speed, monotonic};
use super::rest::BASE_PATH;
use super::tlcp::{Params, version_of_protocol, version_of_subprotocol};
use crate::transcript::{Header, ReadError, Transcript};
use answers::Answers;
use deck::{Deck, Step, Stream, SubIds};
use wire::{Beside, Heard, Wire};

/// Largest request that is read.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// What a client is told that comes once too often.
const NO_MORE_STREAMS: &str = "the transcript has no more streams";
/// What Lightstreamer says of its answers, although they are UTF-8.
const PLAIN: &str = "text/plain; charset=iso-8859-1";
const ENRICHED: &str = "text/enriched; charset=iso-8859-1";

/// Why a transcript cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum PlaybackError {
    /// The file cannot be opened.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is something else, or damaged.
    #[error("{}, {source}", .path.display())]
    NotATranscript {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// Nobody ever answered.
    #[error("{}: no answers were recorded", .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// REST requests that were answered from the transcript.
    pub answered: u64,
    /// REST requests that are not in the transcript.
    pub unknown: u64,
    /// Streams that were begun.
    pub streams: usize,
    /// Whether the last stream has been played to its end.
    pub has_ended: bool,
}

/// A transcript that is being played.
pub struct Player {
    address: SocketAddr,
    /// The transcript's head.
    pub header: Header,
    /// How many streams it has.
    pub streams: usize,
    stage: Arc<Stage>,
    server: ServerHandle,
}

struct Stage {
    streams: Vec<Stream>,
    speed: Speed,
    state: Mutex<State>,
    /// Something was asked over REST.
    asked: Notify,
}

struct State {
    answers: Answers,
    played: Played,
    sub_ids: SubIds,
    /// Where requests go that are made beside the latest stream over HTTP.
    beside: Option<Beside>,
}

impl Stage {
    /// The next stream's number, if there is one more.
    fn next_stream(&self) -> Option<usize> {
        Some(self.state().played.streams).filter(|next| *next < self.streams.len())
    }

    /// Begins to play a stream on a connection.
    fn begin(self: Arc<Self>, number: usize, wire: Wire) {
        self.state().played.streams += 1;
        log::info!(stream = number + 1, of = self.streams.len(), over = wire.name(); "playing a stream");
        actix_web::rt::spawn(async move { run(&self, number, wire).await });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic while playing is a bug that must not be hidden")
    }
}

/// Starts to serve the transcript inside the running actix system.
///
/// # Errors
/// A file that is no transcript or has no answers, an address that cannot be bound.
pub fn play(path: &Path, listen: SocketAddr, speed: Speed) -> Result<Player, PlaybackError> {
    let file =
        File::open(path).map_err(|source| PlaybackError::Unreadable { path: path.to_owned(), source })?;
    let Transcript { header, lines, cut_short } = Transcript::read(BufReader::new(file))
        .map_err(|source| PlaybackError::NotATranscript { path: path.to_owned(), source })?;
    if cut_short {
        log::warn!("the transcript's last line is cut off and left out");
    }
    let answers = Answers::new(&lines);
    if answers.len() == 0 {
        return Err(PlaybackError::Empty { path: path.to_owned() });
    }
    let state = State { answers, played: Played::default(), sub_ids: SubIds::new(), beside: None };
    let stage = Arc::new(Stage {
        streams: deck::streams(&lines),
        speed,
        state: Mutex::new(state),
        asked: Notify::new(),
    });
    let data = web::Data::from(Arc::clone(&stage));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .app_data(web::PayloadConfig::new(REQUEST_BYTES_MAX))
            .service(web::scope(BASE_PATH).default_service(web::to(answer)))
            .route("/lightstreamer", web::get().to(upgrade))
            .route("/lightstreamer/{name}.txt", web::post().to(post))
    })
    .workers(1)
    .tcp_nodelay(true)
    .disable_signals()
    .shutdown_timeout(1)
    .bind(listen)
    .map_err(|source| PlaybackError::Listen { address: listen, source })?;
    let address = *server.addrs().first().expect("a bound server has an address");
    let server = server.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(Player { address, header, streams: stage.streams.len(), stage, server: handle })
}

impl Player {
    /// Base address of the REST API, as `ig.api_url` takes it.
    pub fn api_url(&self) -> String {
        format!("http://{}{BASE_PATH}", self.address)
    }

    /// How far it has come.
    pub fn played(&self) -> Played {
        self.stage.state().played
    }

    /// Closes every socket and frees the port.
    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

/// Answers any request under [`BASE_PATH`].
async fn answer(request: HttpRequest, stage: web::Data<Stage>) -> HttpResponse {
    let uri = request.uri().path_and_query().map_or("", |uri| uri.as_str());
    let path = uri.strip_prefix(BASE_PATH).unwrap_or(uri);
    let method = request.method().as_str();
    let version = request.headers().get("VERSION").and_then(|value| value.to_str().ok()?.parse().ok());
    let version = version.unwrap_or(1);
    let mut state = stage.state();
    stage.asked.notify_one();
    let Some(answer) = state.answers.next(method, path, version) else {
        state.played.unknown += 1;
        log::info!(method, version; "asked for what is not in the transcript");
        let code = format!("error.transcript.not-recorded {method} {path} version {version}");
        return HttpResponse::NotFound().json(json!({ "errorCode": code }));
    };
    state.played.answered += 1;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response
        .content_type(answer.headers.content_type.as_deref().unwrap_or("application/json; charset=UTF-8"));
    for (name, value) in [("CST", answer.headers.cst), ("X-SECURITY-TOKEN", answer.headers.xst)] {
        if let Some(value) = value {
            response.insert_header((name, value));
        }
    }
    let endpoint = format!("http://{}", request.connection_info().host());
    response.body(answers::redirect_stream(&answer.body.body.unwrap_or_default(), &endpoint))
}

/// `GET /lightstreamer`: the next recorded stream, over a WebSocket.
async fn upgrade(
    request: HttpRequest,
    body: web::Payload,
    stage: web::Data<Stage>,
) -> Result<HttpResponse, actix_web::Error> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let mut offered = offered.unwrap_or_default().split(',').map(str::trim);
    let Some(protocol) = offered.find(|name| version_of_subprotocol(name).is_some()) else {
        return Ok(HttpResponse::BadRequest().body("a TLCP subprotocol is needed"));
    };
    let Some(number) = stage.next_stream() else {
        return Ok(HttpResponse::ServiceUnavailable().body(NO_MORE_STREAMS));
    };
    let (response, session, messages) = actix_ws::handle_with_protocols(&request, body, &[protocol])?;
    let messages = messages
        .max_frame_size(REQUEST_BYTES_MAX)
        .aggregate_continuations()
        .max_continuation_size(REQUEST_BYTES_MAX);
    stage.into_inner().begin(number, Wire::WebSocket { session, messages: Box::new(messages) });
    Ok(response)
}

/// `POST /lightstreamer/<name>.txt`: a create or a bind is answered by the next recorded stream,
/// what is asked beside it by whoever plays that.
async fn post(
    request: HttpRequest,
    name: web::Path<String>,
    body: String,
    stage: web::Data<Stage>,
) -> HttpResponse {
    let query = Params::parse(request.query_string()).ok();
    if query.and_then(|query| version_of_protocol(query.get("LS_protocol")?)).is_none() {
        return HttpResponse::BadRequest().body("LS_protocol is needed in the address");
    }
    let text = format!("{name}\r\n{body}");
    match name.as_str() {
        "create_session" | "bind_session" => {
            let Some(number) = stage.next_stream() else {
                return HttpResponse::ServiceUnavailable().body(NO_MORE_STREAMS);
            };
            let (wire, body, beside) = Wire::http(text);
            // The client's stream before this one, if it is still there, is over.
            stage.state().beside = Some(beside);
            stage.into_inner().begin(number, wire);
            HttpResponse::Ok().content_type(ENRICHED).streaming(body)
        }
        "control" | "heartbeat" => {
            let beside = stage.state().beside.clone();
            match ask(beside, text).await {
                Some(answer) => HttpResponse::Ok().content_type(PLAIN).body(answer),
                None => HttpResponse::ServiceUnavailable().body("no stream is being played over HTTP"),
            }
        }
        _ => HttpResponse::NotFound()
            .body("a player answers create_session, bind_session, control and heartbeat"),
    }
}

/// The answer to a request beside a stream; none where no stream is played.
async fn ask(beside: Option<Beside>, text: String) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    beside?.send(Heard { text, answer: Some(answer) }).await.ok()?;
    answered.await.ok()
}

/// Plays one stream until it ends or the client goes.
async fn run(stage: &Stage, number: usize, mut wire: Wire) {
    let is_last = number + 1 == stage.streams.len();
    let sub_ids = stage.state().sub_ids.clone();
    let mut deck = Deck::new(&stage.streams[number], stage.speed, is_last, sub_ids, monotonic());
    loop {
        let played = stage.state().played;
        deck.asked(played.answered + played.unknown, monotonic());
        let step = deck.poll(monotonic());
        if is_last && deck.has_ended() {
            stage.state().played.has_ended = true;
        }
        let heard = match step {
            Step::Say(lines) => {
                if !wire.say(lines).await {
                    break;
                }
                wire.hear().now_or_never()
            }
            Step::Wait(wait) => tokio::select! {
                heard = wire.hear() => Some(heard),
                () = stage.asked.notified() => None,
                () = actix_web::rt::time::sleep(wait) => None,
            },
            Step::Close => break,
        };
        let Some(heard) = heard else { continue };
        match heard {
            Some(Heard { text, answer: Some(answer) }) => {
                // Fails where the client waits no longer.
                let _ = answer.send(deck.receive_beside(&text, monotonic()));
            }
            Some(Heard { text, answer: None }) => {
                let answer = deck.receive(&text, monotonic());
                if !answer.is_empty() && !wire.say(answer).await {
                    break;
                }
            }
            None => break,
        }
    }
    // Before the client learns of the end, since it may come back at once.
    stage.state().sub_ids = deck.into_sub_ids();
    wire.close().await;
}
