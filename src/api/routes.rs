//! Every path, and what answers it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::http::header::{HeaderValue, TryIntoHeaderValue};
use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Bytes, Data, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpMessage, HttpRequest, HttpResponse, Resource, Responder};
use futures_util::future;
use ring::digest;
use serde_json::Value;

use super::asked::{self, Chosen, Known, Wrong};
use super::bars::{self, Judge, Judged, Text};
use super::cached::Cached;
use super::fetch;
use super::metrics::{self, Stored, Sums};
use super::pool::{NoAnswer, Open, Pool};
use super::push::{NoStream, Push};
use super::server::Hand;
use super::{Sources, dashboard, views};
use crate::domain::{Pair, Timestamp};
use crate::ig::stream::state::{self, StreamState};
use crate::readiness::{self, PairReadiness, Process, Readiness};
use crate::store::{Store, StoreError};

/// The paths that there are.
const ROUTES: [&str; 12] = [
    "/",
    "/assets/{name}",
    "/healthz",
    "/readyz",
    "/v1/status",
    "/v1/candles",
    "/v1/coverage",
    "/v1/stream",
    "/v1/fetch",
    "/v1/fetch/{id}",
    "/v1/openapi.json",
    "/metrics",
];
/// What is said of them for programs.
const OPENAPI: &str = include_str!("openapi.json");
/// How long a status is good for.
const STATUS_KEEP: Duration = Duration::from_secs(1);
/// The same of what is said of every pair's freshness.
const READY_KEEP: Duration = Duration::from_secs(1);
/// The same of what metrics take from the database, which has to be counted.
const METRICS_KEEP: Duration = Duration::from_secs(10);

/// Connections for reading what is asked for, and how many requests may wait for one.
const READERS: usize = 2;
const READS_QUEUED_MAX: usize = 64;
/// When to come again after an answer that there was no room for, seconds.
const RETRY_AFTER_S: &str = "1";
/// The same where it is a place in the stream, which nobody leaves soon.
const STREAM_RETRY_AFTER_S: &str = "15";
/// How a client that comes again says what it has heard last.
const LAST_EVENT_ID: &str = "last-event-id";
/// How many requests may wait to be written down; the thread that does so has a connection while there are any.
const WRITES_QUEUED_MAX: usize = 8;
/// Bytes of a digest that make a tag.
const TAG_BYTES: usize = 16;

/// What handlers share.
pub struct Answers {
    sources: Sources,
    pairs: Vec<Pair>,
    readers: Pool,
    writer: Pool,
    push: Arc<Push>,
    status: Cached<String>,
    stored: Cached<Stored>,
    ready: Cached<Collected>,
}

/// What the database says of what was collected.
struct Collected {
    pairs: Vec<PairReadiness>,
    stream: Option<StreamState>,
    /// The market's time when it was read.
    now: Timestamp,
}

impl Collected {
    fn read(store: &mut Store, judge: Judge<'_>) -> Result<Collected, StoreError> {
        store.consistently(|store| {
            let now = judge.now(store)?;
            Ok(Collected {
                pairs: readiness::read(store, judge.config, now)?,
                stream: store.setting(state::SETTING)?.and_then(|text| StreamState::read(&text)),
                now,
            })
        })
    }
}

impl Answers {
    /// Answers made from these.
    pub fn new(sources: Sources) -> Answers {
        let (read, clock) = (sources.status.clone(), sources.clock.clone());
        let status = Cached::new(STATUS_KEEP, clock.clone(), move || read());
        let (config, when, sums) = (sources.config.clone(), clock.clone(), Sums::default());
        let stored = Cached::new(METRICS_KEEP, clock, move || {
            let stored = Store::open_read_only(&config.database)
                .and_then(|mut store| Stored::read(&mut store, &config, &when, &sums));
            stored.map_err(|error| error.to_string())
        });
        let (config, clock) = (sources.config.clone(), sources.clock.clone());
        let ready = Cached::new(READY_KEEP, clock.clone(), move || {
            let judge = Judge { config: &config, clock: &clock };
            let collected = Store::open_read_only(&config.database)
                .and_then(|mut store| Collected::read(&mut store, judge));
            collected.map_err(|error| error.to_string())
        });
        let database = sources.config.database.clone();
        let open: Open = Arc::new(move || {
            let mut store = Store::open_read_only(&database)?;
            store.bound_answers();
            Ok(store)
        });
        let readers = Pool::new("candlekeep-http-reader", READERS, READS_QUEUED_MAX, true, open.clone());
        let (live, clock) = (sources.signs.live.clone(), sources.clock.clone());
        let push = Push::new(open, live, clock, &sources.config.timeframes, sources.signs.stats.clone());
        let database = sources.config.database.clone();
        let open = move || {
            // Nothing is made or migrated for a client's sake.
            Store::open_read_only(&database)?;
            let mut store = Store::open(&database)?;
            store.bound_answers();
            Ok(store)
        };
        let writer = Pool::new("candlekeep-http-writer", 1, WRITES_QUEUED_MAX, false, Arc::new(open));
        let pairs = sources.config.pairs().collect();
        Answers { sources, pairs, readers, writer, push, status, stored, ready }
    }

    /// What there is to ask for.
    fn known(&self) -> Known<'_> {
        Known { pairs: &self.pairs, timeframes: &self.sources.config.timeframes }
    }

    /// Whether what is stored of these is fit to trade on.
    async fn readiness(&self, of: &Chosen) -> Result<Readiness, Arc<str>> {
        let collected = self.ready.get().await?;
        let (health, stats) = (self.sources.health(), &self.sources.signs.stats);
        let process = Process {
            at: health.is_starting.then(|| format!("starting: {}", health.at)),
            spooled: stats.facts_spooled.get(),
            stream: StreamState::shown(stats, collected.stream.as_ref()),
            // Who answers lives.
            is_silent: false,
        };
        let now = self.sources.clock.wall();
        let pairs = collected.pairs.iter().filter(|pair| of.has(pair.row.pair, pair.row.timeframe)).cloned();
        let trades = readiness::trades(&self.sources.config, collected.now, |pair| of.has_pair(pair));
        Ok(Readiness::judge(pairs.collect(), &process, trades, now))
    }

    /// Reads an answer on one of the connections.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Store, Judge<'_>) -> bars::Answer<R> + Send + 'static,
    ) -> Result<R, HttpResponse> {
        self.on(&self.readers, read).await
    }

    async fn on<R: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce(&mut Store, Judge<'_>) -> bars::Answer<R> + Send + 'static,
    ) -> Result<R, HttpResponse> {
        let (config, clock) = (self.sources.config.clone(), self.sources.clock.clone());
        let outcome = pool.run(move |store| work(store, Judge { config: &config, clock: &clock })).await;
        outcome.map_err(|error| unanswered(&error))?.map_err(|wrong| refused(&wrong))
    }
}

/// Every route; what has none is told which there are.
pub fn configure(app: &mut ServiceConfig) {
    app.service(readable("/", dashboard::page))
        .service(readable("/assets/{name}", dashboard::asset))
        .service(readable("/healthz", healthz))
        .service(readable("/readyz", readyz))
        .service(readable("/v1/status", status))
        .service(readable("/v1/candles", candles))
        .service(readable("/v1/coverage", coverage))
        .service(readable("/v1/stream", stream))
        .service(
            web::resource("/v1/fetch").route(web::post().to(ask_fetch)).default_service(web::to(only_post)),
        )
        .service(readable("/v1/fetch/{id}", fetched))
        .service(readable("/v1/openapi.json", openapi))
        .service(readable("/metrics", metrics))
        .default_service(web::to(not_found));
}

/// What is there to be read, by GET and HEAD alone.
fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let get = web::get().to(handler.clone());
    web::resource(path).route(get).route(web::head().to(handler)).default_service(web::to(other_method))
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> HttpResponse {
    HttpResponse::build(status).content_type(header::ContentType::json()).body(format!("{value}\n"))
}

/// What is wrong with a request.
fn refused(wrong: &Wrong) -> HttpResponse {
    let mut answer = json(StatusCode::from_u16(wrong.status).unwrap_or(StatusCode::BAD_REQUEST), &wrong.view);
    if wrong.status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(fetch::RETRY_AFTER_S));
    }
    answer
}

/// Why a request has no answer. What may pass says when to come again.
fn unanswered(error: &NoAnswer) -> HttpResponse {
    let (status, word, passes) = match error {
        NoAnswer::Full => (503, "busy", true),
        NoAnswer::Late => (503, "unavailable", true),
        NoAnswer::Store(StoreError::Absent { .. } | StoreError::OlderSchema { .. }) => {
            (503, "unavailable", true)
        }
        NoAnswer::Store(error) if error.is_retryable() => (503, "unavailable", true),
        NoAnswer::Store(_) | NoAnswer::Failed(_) => (500, "failed", false),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, &views::error(word, &error.to_string()));
    if passes {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    answer
}

/// An answer that a client need not be told again while it stays as it is: 304 where it has it already.
///
/// Of a range that is over, what does not last is by when the next bar is owed and what time it is in the market. Its
/// tag leaves that out, and so is a weak one, by which an answer is as good as the other, not the same byte for byte
/// (RFC 9110, 8.8.1); `If-None-Match` compares weakly (13.1.2).
fn tagged(request: &HttpRequest, text: Text) -> HttpResponse {
    let mut digest = digest::Context::new(&digest::SHA256);
    let told = text.judged.map_or_else(Vec::new, judgements);
    let tag = match &text.lasting {
        Some(lasting) => {
            digest.update(text.content_type.as_bytes());
            digest.update(lasting);
            header::EntityTag::new_weak(tag(&digest.finish()))
        }
        // Of all that is said, so that nothing that changes can go unnoticed.
        None => {
            digest.update(&text.bytes);
            for (name, value) in &told {
                digest.update(name.as_bytes());
                digest.update(value.as_bytes());
            }
            header::EntityTag::new_strong(tag(&digest.finish()))
        }
    };
    let mut answer = unless_known(request, tag, "private, no-cache");
    for (name, value) in told {
        answer.headers_mut().insert(header::HeaderName::from_static(name), value);
    }
    with_body(answer, text.content_type, text.bytes)
}

/// What is said of bars in an answer's head.
fn judgements(judged: Judged) -> Vec<(&'static str, HeaderValue)> {
    let word = |is_so| HeaderValue::from_static(if is_so { "true" } else { "false" });
    let mut told =
        vec![("x-candlekeep-complete", word(judged.complete)), ("x-candlekeep-fresh", word(judged.fresh))];
    told.extend(judged.expected_by.map(|by| ("x-candlekeep-expected-by", HeaderValue::from(by.0))));
    told
}

/// What names an answer with this digest.
pub fn tag(digest: &digest::Digest) -> String {
    digest.as_ref()[..TAG_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An answer without a body: 304 where the client has what is named so already.
pub fn unless_known(request: &HttpRequest, tag: header::EntityTag, keep: &'static str) -> HttpResponse {
    let is_known = match request.get_header() {
        Some(header::IfNoneMatch::Any) => true,
        Some(header::IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        None => false,
    };
    let mut answer = HttpResponse::new(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(value) = header::ETag(tag).try_into_value() {
        answer.headers_mut().insert(header::ETAG, value);
    }
    answer
}

/// The same with its body, where the client does not have it.
pub fn with_body(
    mut answer: HttpResponse,
    content_type: &'static str,
    body: impl MessageBody + 'static,
) -> HttpResponse {
    if answer.status() == StatusCode::NOT_MODIFIED {
        return answer;
    }
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.set_body(BoxBody::new(body))
}

/// The answer, whether it is one or a refusal.
fn either(answer: Result<HttpResponse, HttpResponse>) -> HttpResponse {
    answer.unwrap_or_else(|refusal| refusal)
}

async fn candles(request: HttpRequest, answers: Data<Answers>) -> impl Responder {
    let answer = async {
        let asked =
            asked::candles(request.query_string(), answers.known()).map_err(|wrong| refused(&wrong))?;
        let text = answers.read(move |store, judge| bars::candles(store, judge, &asked)).await?;
        Ok(tagged(&request, text))
    };
    either(answer.await)
}

async fn coverage(request: HttpRequest, answers: Data<Answers>) -> impl Responder {
    let answer = async {
        let asked =
            asked::ledger(request.query_string(), answers.known()).map_err(|wrong| refused(&wrong))?;
        let text = answers.read(move |store, judge| bars::coverage(store, judge, &asked)).await?;
        Ok(tagged(&request, text))
    };
    either(answer.await)
}

async fn stream(request: HttpRequest, answers: Data<Answers>) -> impl Responder {
    let answer = async {
        let last_event = request.headers().get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
        let asked = asked::follow(request.query_string(), last_event, answers.known());
        let asked = asked.map_err(|wrong| refused(&wrong))?;
        let mut answer = HttpResponse::Ok();
        answer.content_type("text/event-stream").force_close();
        // To proxies that would gather some of it first.
        answer.insert_header(("x-accel-buffering", "no"));
        if request.method() == Method::HEAD {
            return Ok(answer.finish());
        }
        let Some(grip) = request.conn_data::<Hand>().and_then(Hand::grip) else {
            return Err(no_place("there is no descriptor for another stream"));
        };
        match answers.push.follow(asked, Some(grip)).await {
            Ok(events) => Ok(answer.streaming(events)),
            Err(NoStream::NoAnswer(error)) => Err(unanswered(&error)),
            Err(NoStream::NoPlace) => Err(no_place("as many follow the stream as may at a time")),
        }
    };
    either(answer.await)
}

/// There is no place in the stream.
fn no_place(reason: &str) -> HttpResponse {
    let mut answer = json(StatusCode::SERVICE_UNAVAILABLE, &views::error("too_many_streams", reason));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(STREAM_RETRY_AFTER_S));
    answer
}

async fn ask_fetch(request: HttpRequest, body: Bytes, answers: Data<Answers>) -> impl Responder {
    let answer = async {
        if request.content_type() != "application/json" {
            let reason = "the body is JSON, and Content-Type says so: application/json";
            return Err(refused(&Wrong::new(415, "bad_type", reason)));
        }
        let asked =
            asked::nothing(request.query_string()).and_then(|()| asked::fetch(&body, answers.known()));
        let asked = asked.map_err(|wrong| refused(&wrong))?;
        let (order, wait) = (answers.sources.order.clone(), answers.sources.wait.clone());
        let asking =
            answers.on(&answers.writer, move |store, judge| fetch::ask(store, judge, (&order, &wait), asked));
        let view = asking.await?;
        let place = (header::LOCATION, format!("/v1/fetch/{}", view.id));
        Ok(HttpResponse::Accepted()
            .insert_header(place)
            .content_type(header::ContentType::json())
            .body(views::line(&view)))
    };
    either(answer.await)
}

async fn fetched(request: HttpRequest, id: web::Path<String>, answers: Data<Answers>) -> impl Responder {
    let answer = async {
        asked::nothing(request.query_string()).map_err(|wrong| refused(&wrong))?;
        let id: i64 = id.parse().map_err(|_| refused(&fetch::unknown(&*id)))?;
        let wait = answers.sources.wait.clone();
        let view = answers.read(move |store, _| fetch::look(store, &wait, id)).await?;
        Ok(HttpResponse::Ok().content_type(header::ContentType::json()).body(views::line(&view)))
    };
    either(answer.await)
}

async fn openapi() -> impl Responder {
    HttpResponse::Ok().content_type(header::ContentType::json()).body(OPENAPI)
}

async fn healthz(answers: Data<Answers>) -> impl Responder {
    let report = answers.sources.health();
    let status = if report.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &views::health(&report, std::process::id()))
}

async fn readyz(request: HttpRequest, answers: Data<Answers>) -> impl Responder {
    let asked = match asked::ready(request.query_string(), answers.known()) {
        Ok(asked) => asked,
        Err(wrong) => return refused(&wrong),
    };
    match answers.readiness(&asked).await {
        Ok(readiness) if readiness.is_ready() => json(StatusCode::OK, &readiness.json()),
        Ok(readiness) => json(StatusCode::SERVICE_UNAVAILABLE, &readiness.json()),
        Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &views::error("unavailable", &reason)),
    }
}

async fn status(answers: Data<Answers>) -> impl Responder {
    match answers.status.get().await {
        Ok(text) => HttpResponse::Ok().content_type(header::ContentType::json()).body((*text).clone()),
        Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &views::error("unavailable", &reason)),
    }
}

async fn metrics(answers: Data<Answers>) -> impl Responder {
    let (stats, health) = (&answers.sources.signs.stats, answers.sources.health());
    // What the process counts is told while the database is away too. Both are waited for at once: one after the
    // other they would take as long as Prometheus waits.
    let all = Chosen::default();
    let (stored, readiness) = future::join(answers.stored.get(), answers.readiness(&all)).await;
    let is_ready = readiness.is_ok_and(|readiness| readiness.is_ready());
    let (config, wall, stored) = (&answers.sources.config, answers.sources.clock.wall(), stored.ok());
    let markets = metrics::markets(config, wall, stored.as_deref());
    match metrics::text(stats, &health, is_ready, &markets, stored.as_deref()) {
        Ok(text) => HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text),
        Err(error) => {
            json(StatusCode::INTERNAL_SERVER_ERROR, &views::error("unwritable", &error.to_string()))
        }
    }
}

async fn not_found() -> impl Responder {
    json(StatusCode::NOT_FOUND, &views::not_found(&ROUTES))
}

async fn other_method() -> impl Responder {
    only("GET, HEAD", "this can be read, by GET or HEAD")
}

async fn only_post() -> impl Responder {
    only("POST", "this can be asked for, by POST")
}

fn only(methods: &'static str, reason: &str) -> HttpResponse {
    let mut answer = json(StatusCode::METHOD_NOT_ALLOWED, &views::error("other_method", reason));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actix_web::test::TestRequest;

    use super::*;
    use crate::clock::Clock;
    use crate::config::{self, Flags};
    use crate::supervisor::house::Signs;

    #[actix_web::test]
    async fn nobody_follows_whose_connection_could_not_be_ended() {
        let folder = tempfile::tempdir().unwrap();
        let database = Some(format!("sqlite://{}", folder.path().join("c.db").display()));
        let config = config::load(None, &BTreeMap::new(), &Flags { config: None, database }).unwrap();
        drop(Store::open(&config.database).unwrap());
        let clock = Clock::system();
        let answers = Data::new(Answers::new(Sources {
            config: Arc::new(config),
            signs: Signs::new(&clock, None),
            status: Arc::new(|| Err("not asked for".to_owned())),
            order: Arc::new(|_| Err("not asked for".to_owned())),
            wait: Arc::new(|_, _| Err("not asked for".to_owned())),
            clock,
        }));
        // A request of a connection that nothing is known of.
        let request = TestRequest::with_uri("/v1/stream").to_http_request();
        let answer = stream(request.clone(), answers).await.respond_to(&request);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers().get(header::RETRY_AFTER).unwrap(), STREAM_RETRY_AFTER_S);
    }
}
