//! IG's REST API over awc: one method a call, IG's JSON in and out, errors sorted.
//!
//! Redirects are never followed (tokens must not reach another host), HTTP/1.1 is forced (the
//! WebSocket upgrade fails where a front end negotiates HTTP/2), idle sockets are dropped before
//! the server drops them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_service::ServiceExt;
use actix_tls::connect::{Connector as TcpConnector, Resolver};
use awc::error::{ConnectError, SendRequestError};
use awc::http::header::{AGE, DATE, HeaderMap, LOCATION};
use awc::http::{Method, StatusCode, Uri};
use awc::{Client, Connector};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::json;

use super::error::{IgError, begins_like_json, cut};
use super::lull::{Lull, Lulled};
use super::models::{Accounts, Application, LoginV2, LoginV3, Markets, OauthToken, Prices, SessionInfo};
use super::names::Names;
use super::session::tokens::{Bearer, Pair, Tokens};
use crate::clock::{Clock, EventClock};
use crate::config::Login;
use crate::domain::{Epic, Timestamp};
use crate::secret::Secret;
use crate::skew;
use crate::tls::{self, Mistrust};
use crate::transcript::Recorder;
use crate::transcript::format::Headers;

/// Longest wait for a connection, name and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest a call may take, its answer read to the end. The client's own limit ends with the head.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle sockets are closed by us after this, before the other side does it unseen: a request for history that
/// meets a socket just closed may have been charged, and its hole waits a minute. Servers that hurry close
/// after 5 s (IG's time is not known); requests for history follow each other faster than this.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Pause before the one retry after a socket broke under a call that may be repeated.
const SOCKET_RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Largest answer read: far above a full page of prices.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// The HTTP client that both REST and the WebSocket upgrade use. It believes the authorities of the web.
pub fn http_client() -> Client {
    client(tls::web_roots(), Names::default(), Lull::default())
}

/// The same, which believes those of a PEM file besides (`ig.ca_file`).
///
/// # Errors
/// In words for people, where the file is of no use.
pub fn http_client_for(ca_file: Option<&Path>) -> Result<Client, String> {
    Ok(client(roots_for(ca_file)?, Names::default(), Lull::default()))
}

/// The same, and another whose sockets keep these lulls. They ask for names together.
///
/// # Errors
/// In words for people, where the file is of no use.
pub fn clients_for(ca_file: Option<&Path>, lull: Lull) -> Result<[Client; 2], String> {
    let (roots, names) = (roots_for(ca_file)?, Names::default());
    Ok([client(roots.clone(), names.clone(), Lull::default()), client(roots, names, lull)])
}

fn roots_for(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = tls::web_roots();
    if let Some(file) = ca_file {
        tls::add_roots(&mut roots, "ig.ca_file", file)?;
    }
    Ok(roots)
}

fn client(roots: RootCertStore, names: Names, lull: Lull) -> Client {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring knows both versions of TLS");
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No `max_http_version`: it would put awc's own TLS, with its own authorities, in the place of this.
    let tcp = TcpConnector::new(Resolver::custom(names)).service();
    let tcp = tcp.map(move |connection| Lulled::around(connection, lull.clone()));
    let connector = Connector::new().connector(tcp).conn_keep_alive(KEEP_ALIVE).timeout(CONNECT_TIMEOUT);
    Client::builder()
        .connector(connector.handshake_timeout(CONNECT_TIMEOUT).rustls_0_23(Arc::new(tls)))
        .disable_redirects()
        .timeout(ANSWER_TIMEOUT)
        .finish()
}

/// That there is no way to IG.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct NoWay {
    /// Why, for people.
    pub error: IgError,
    /// What is in the way.
    pub hurdle: Hurdle,
}

/// What is in the way to IG, by where it is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurdle {
    /// The host's name leads to no address.
    Name,
    /// Who answers is not believed to be the host.
    Mistrust(Mistrust),
    /// Who answers points elsewhere.
    Redirect,
    /// Anything else, on the way or at its end.
    Other,
}

impl Hurdle {
    fn of(error: &SendRequestError) -> Hurdle {
        match error {
            SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => Hurdle::Name,
            SendRequestError::Connect(ConnectError::Io(why)) => {
                mistrust(why).map_or(Hurdle::Other, |why| Hurdle::Mistrust(Mistrust::of(why)))
            }
            _ => Hurdle::Other,
        }
    }
}

/// Asks for nothing and says nothing of who asks: whether there is a way to IG, and by how much the system's
/// clock is ahead of IG's, ms, between the two. `None` where the answer has no date of its own.
///
/// # Errors
/// Why there is no answer, or none of IG's: [`IgError::NotIg`] where it points elsewhere.
pub async fn reach(client: &Client, base: &str, clock: &Clock) -> Result<Option<(i64, i64)>, NoWay> {
    let sent = clock.reading();
    let answer = client.head(format!("{base}/session")).send().await;
    let answer =
        answer.map_err(|error| NoWay { error: transport(base, &error), hurdle: Hurdle::of(&error) })?;
    if answer.status().is_redirection() {
        let error = redirected(base, answer.status(), answer.headers());
        return Err(NoWay { error, hurdle: Hurdle::Redirect });
    }
    Ok(date(answer.headers()).map(|date| skew::between_ms(date.0, sent, clock.reading())))
}

/// IG's REST API with one API key.
#[derive(Clone)]
pub struct RestClient {
    client: Client,
    base: String,
    api_key: Secret,
    call_timeout: Duration,
    recorder: Recorder,
    /// Told of the `Date` of each answer.
    event_clock: Option<EventClock>,
}

/// What came back, whatever it says.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Tokens found in the headers of an answer.
struct Answer<T> {
    body: T,
    tokens: Option<Pair>,
}

enum Auth<'a> {
    None,
    Pair(&'a Pair),
    Tokens(&'a Tokens),
    Bearer(&'a Bearer, &'a str),
}

struct Call<'a> {
    method: Method,
    path: String,
    version: u8,
    auth: Auth<'a>,
    body: Option<serde_json::Value>,
    login: bool,
}

impl<'a> Call<'a> {
    fn get(path: impl Into<String>, version: u8, auth: Auth<'a>) -> Call<'a> {
        Call { method: Method::GET, path: path.into(), version, auth, body: None, login: false }
    }
}

impl RestClient {
    /// A client for the API at `base`, e.g. `https://demo-api.ig.com/gateway/deal`.
    pub fn new(client: Client, base: &str, api_key: Secret) -> RestClient {
        RestClient {
            client,
            base: base.trim_end_matches('/').to_owned(),
            api_key,
            call_timeout: CALL_TIMEOUT,
            recorder: Recorder::default(),
            event_clock: None,
        }
    }

    /// The same client, whose calls are recorded.
    #[must_use]
    pub fn recorded_by(self, recorder: Recorder) -> RestClient {
        RestClient { recorder, ..self }
    }

    /// The same client, which tells this clock what IG's answers say of the time.
    #[must_use]
    pub fn with_clock(self, event_clock: EventClock) -> RestClient {
        RestClient { event_clock: Some(event_clock), ..self }
    }

    /// `POST /session` version 2. Lands on the preferred account.
    pub async fn log_in_v2(&self, credentials: &Login) -> Result<(LoginV2, Pair), IgError> {
        let body = json!({
            "identifier": credentials.username.expose(),
            "password": credentials.password.expose(),
            "encryptedPassword": false,
        });
        let answer = self.send::<LoginV2>(login(2, body)).await?;
        let tokens = answer.tokens.ok_or_else(|| malformed("login without CST and X-SECURITY-TOKEN"))?;
        Ok((answer.body, tokens))
    }

    /// `POST /session` version 3: OAuth tokens.
    pub async fn log_in_v3(&self, credentials: &Login) -> Result<LoginV3, IgError> {
        let body = json!({
            "identifier": credentials.username.expose(),
            "password": credentials.password.expose(),
        });
        Ok(self.send::<LoginV3>(login(3, body)).await?.body)
    }

    /// `POST /session/refresh-token`: always answers a new refresh token too.
    pub async fn refresh(&self, refresh_token: &Secret) -> Result<OauthToken, IgError> {
        let call = Call {
            method: Method::POST,
            path: "/session/refresh-token".to_owned(),
            version: 1,
            auth: Auth::None,
            body: Some(json!({ "refresh_token": refresh_token.expose() })),
            login: false,
        };
        Ok(self.send(call).await?.body)
    }

    /// `GET /session`: the cheap test whether tokens work.
    pub async fn session(&self, tokens: &Tokens) -> Result<SessionInfo, IgError> {
        Ok(self.send(Call::get("/session", 1, Auth::Tokens(tokens))).await?.body)
    }

    /// `GET /session` with a token pair that is not part of a session yet.
    pub async fn session_of(&self, pair: &Pair) -> Result<SessionInfo, IgError> {
        Ok(self.send(Call::get("/session", 1, Auth::Pair(pair))).await?.body)
    }

    /// `GET /session?fetchSessionTokens=true`: the pair that streaming needs, from a bearer token.
    pub async fn fetch_session_tokens(
        &self,
        bearer: &Bearer,
        account_id: &str,
    ) -> Result<(SessionInfo, Pair), IgError> {
        let auth = Auth::Bearer(bearer, account_id);
        let answer = self.send(Call::get("/session?fetchSessionTokens=true", 1, auth)).await?;
        let tokens = answer.tokens.ok_or_else(|| malformed("no session tokens in the answer"))?;
        Ok((answer.body, tokens))
    }

    /// `PUT /session`: switches this session's account. Answers the new pair; a part that IG does
    /// not send again is kept.
    pub async fn switch_account(&self, pair: &Pair, account_id: &str) -> Result<Pair, IgError> {
        let call = Call {
            method: Method::PUT,
            path: "/session".to_owned(),
            version: 1,
            auth: Auth::Pair(pair),
            body: Some(json!({ "accountId": account_id, "defaultAccount": false })),
            login: false,
        };
        let (_, headers) = self.exchange(&call).await?;
        Ok(Pair {
            cst: secret_header(&headers, "CST").unwrap_or_else(|| pair.cst.clone()),
            xst: secret_header(&headers, "X-SECURITY-TOKEN").unwrap_or_else(|| pair.xst.clone()),
        })
    }

    /// `DELETE /session`. A session that is gone already counts as ended.
    pub async fn log_out(&self, tokens: &Tokens) -> Result<(), IgError> {
        let call = Call { method: Method::DELETE, ..Call::get("/session", 1, Auth::Tokens(tokens)) };
        match self.exchange(&call).await {
            Ok(_) | Err(IgError::Unauthorized(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `GET /accounts`.
    pub async fn accounts(&self, tokens: &Tokens) -> Result<Accounts, IgError> {
        Ok(self.send(Call::get("/accounts", 1, Auth::Tokens(tokens))).await?.body)
    }

    /// `GET /operations/application`: the limits of this key and account.
    pub async fn applications(&self, tokens: &Tokens) -> Result<Vec<Application>, IgError> {
        Ok(self.send(Call::get("/operations/application", 1, Auth::Tokens(tokens))).await?.body)
    }

    /// `GET /markets?epics=` version 2: at most 50 epics; unknown ones are absent from the answer.
    pub async fn markets(&self, tokens: &Tokens, epics: &[Epic]) -> Result<Markets, IgError> {
        let list = epics.iter().map(Epic::as_str).collect::<Vec<_>>().join(",");
        let path = format!("/markets?epics={}&filter=ALL", encode(&list));
        Ok(self.send(Call::get(path, 2, Auth::Tokens(tokens))).await?.body)
    }

    /// `GET /prices/{epic}` version 3 with the given query (`resolution=…&max=…`). Each returned
    /// bar costs a data point, so a broken socket is never answered by asking again.
    pub async fn prices(&self, tokens: &Tokens, epic: &Epic, query: &str) -> Result<Prices, IgError> {
        let path = format!("/prices/{}?{query}", encode(epic.as_str()));
        let (body, _) = self.exchange_once(&Call::get(path, 3, Auth::Tokens(tokens))).await?;
        read_json(&body)
    }

    async fn send<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<Answer<T>, IgError> {
        let (body, headers) = self.exchange(&call).await?;
        let tokens = secret_header(&headers, "CST").zip(secret_header(&headers, "X-SECURITY-TOKEN"));
        Ok(Answer { body: read_json(&body)?, tokens: tokens.map(|(cst, xst)| Pair { cst, xst }) })
    }

    /// One call, repeated once on a fresh socket where a dead keep-alive socket may have been
    /// the trouble and repeating does no harm.
    async fn exchange(&self, call: &Call<'_>) -> Result<(Vec<u8>, HeaderMap), IgError> {
        let first = self.exchange_once(call).await;
        let harmless = matches!(call.method, Method::GET | Method::PUT | Method::DELETE);
        match first {
            Err(IgError::Broken(why)) if harmless => {
                log::debug!(path = path_only(&call.path), why = why.as_str(); "socket broke, asking once more");
                actix_rt::time::sleep(SOCKET_RETRY_PAUSE).await;
                self.exchange_once(call).await
            }
            other => other,
        }
    }

    async fn exchange_once(&self, call: &Call<'_>) -> Result<(Vec<u8>, HeaderMap), IgError> {
        let body = call.body.as_ref().map(serde_json::Value::to_string);
        let asked = self.recorder.asked(call.method.as_str(), &call.path, call.version, body.as_deref());
        let reply = tokio::time::timeout(self.call_timeout, self.perform(call, body))
            .await
            .unwrap_or_else(|_| Err(self.unfinished()));
        if let Some(asked) = asked {
            match &reply {
                Ok(reply) => asked.answered(reply.status.as_u16(), recorded(&reply.headers), &reply.body),
                Err(error) => asked.failed(&error.to_string()),
            }
        }
        let Reply { status, headers, body } = reply?;
        if status.is_success() {
            return Ok((body, headers));
        }
        if status.is_redirection() {
            return Err(redirected(&self.base, status, &headers));
        }
        if call.login && status == StatusCode::NOT_FOUND {
            return Err(IgError::Refused("HTTP 404: is ig.api_url right?".to_owned()));
        }
        Err(IgError::from_response(status.as_u16(), &String::from_utf8_lossy(&body), call.login))
    }

    /// An answer that takes for ever. Whoever asks again does so later: what was asked for may have
    /// been done, and paid for.
    fn unfinished(&self) -> IgError {
        let limit_s = self.call_timeout.as_secs();
        IgError::Retryable(format!("no whole answer from {} within {limit_s} s", host(&self.base)))
    }

    /// Sends the request and waits for the whole answer, however long.
    async fn perform(&self, call: &Call<'_>, body: Option<String>) -> Result<Reply, IgError> {
        let mut request = self
            .client
            .request(call.method.clone(), format!("{}{}", self.base, call.path))
            .insert_header(("X-IG-API-KEY", self.api_key.expose()))
            .insert_header(("VERSION", call.version.to_string()))
            .insert_header(("Accept", "application/json; charset=UTF-8"))
            .insert_header(("Content-Type", "application/json; charset=UTF-8"));
        match call.auth {
            Auth::None => {}
            Auth::Pair(pair) => request = with_pair(request, pair),
            Auth::Tokens(tokens) => match &tokens.bearer {
                Some(bearer) => request = with_bearer(request, bearer, &tokens.account_id),
                None => request = with_pair(request, &tokens.pair),
            },
            Auth::Bearer(bearer, account_id) => request = with_bearer(request, bearer, account_id),
        }
        let asked = self.event_clock.as_ref().and_then(EventClock::reading);
        let sent = match body {
            Some(body) => request.send_body(body).await,
            None => request.send().await,
        };
        let mut response = sent.map_err(|error| transport(&self.base, &error))?;
        if let (Some(clock), Some(asked), Some(date)) = (&self.event_clock, asked, date(response.headers())) {
            clock.answered(date, asked);
        }
        let body = response
            .body()
            .limit(BODY_MAX)
            .await
            .map_err(|error| IgError::Broken(format!("while answering: {error}")))?;
        let status = response.status();
        log::debug!(method = call.method.as_str(), path = path_only(&call.path), status = status.as_u16(); "asked IG");
        Ok(Reply { status, headers: response.headers().clone(), body: body.to_vec() })
    }
}

/// The headers that a recording shows.
fn recorded(headers: &HeaderMap) -> Headers {
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    Headers {
        date: text("Date"),
        content_type: text("Content-Type"),
        cst: text("CST"),
        xst: text("X-SECURITY-TOKEN"),
    }
}

fn host(base: &str) -> &str {
    base.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(base)
}

fn transport(base: &str, error: &SendRequestError) -> IgError {
    let host = host(base);
    match error {
        SendRequestError::Connect(ConnectError::Timeout) => {
            IgError::Unreachable(format!("no connection to {host} in time"))
        }
        SendRequestError::Connect(ConnectError::Resolver(why)) => {
            IgError::Unreachable(format!("DNS cannot resolve {host}: {why}"))
        }
        SendRequestError::Connect(ConnectError::NoRecords) => {
            IgError::Unreachable(format!("DNS has no address for {host}"))
        }
        // The request was sent, and nobody knows what became of it: a login may have been made, and points spent.
        SendRequestError::Connect(ConnectError::Disconnected) => {
            IgError::Broken(format!("{host} has closed it without an answer"))
        }
        SendRequestError::Connect(ConnectError::Io(why)) if mistrust(why).is_some() => {
            IgError::Unreachable(mistrust(why).map(|why| tls::in_words(host, why)).unwrap_or_default())
        }
        SendRequestError::Connect(why) => IgError::Unreachable(format!("cannot connect to {host}: {why}")),
        SendRequestError::Timeout => {
            IgError::Retryable(format!("no answer from {host} within {} s", ANSWER_TIMEOUT.as_secs()))
        }
        other => IgError::Broken(format!("{host}: {}", cut(&other.to_string()))),
    }
}

/// What TLS says, where it is TLS that failed.
pub fn mistrust(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// An answer that points elsewhere. Tokens and passwords go to the host that was named, and to no other.
fn redirected(base: &str, status: StatusCode, headers: &HeaderMap) -> IgError {
    let target = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let target: Option<Uri> = target.and_then(|text| text.parse().ok());
    // Only the host: the rest of an address may hold anything.
    let to = target.as_ref().and_then(Uri::host).map_or(String::new(), |host| format!(" to {}", cut(host)));
    let code = status.as_u16();
    IgError::NotIg(format!(
        "{} answers with a redirect{to} (HTTP {code}), which is never followed",
        host(base)
    ))
}

fn login(version: u8, body: serde_json::Value) -> Call<'static> {
    Call {
        method: Method::POST,
        path: "/session".to_owned(),
        version,
        auth: Auth::None,
        body: Some(body),
        login: true,
    }
}

fn with_pair(request: awc::ClientRequest, pair: &Pair) -> awc::ClientRequest {
    request.insert_header(("CST", pair.cst.expose())).insert_header(("X-SECURITY-TOKEN", pair.xst.expose()))
}

fn with_bearer(request: awc::ClientRequest, bearer: &Bearer, account_id: &str) -> awc::ClientRequest {
    request
        .insert_header(("Authorization", format!("Bearer {}", bearer.access.expose())))
        .insert_header(("IG-ACCOUNT-ID", account_id))
}

fn secret_header(headers: &HeaderMap, name: &str) -> Option<Secret> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty()).map(Secret::new)
}

/// The server's time as an answer was written. None where a cache has kept the answer.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE).filter(|_| !headers.contains_key(AGE))?.to_str().ok()?;
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp(date.timestamp()))
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, IgError> {
    // The body may hold tokens, and the parser's words quote it, so only the place is told.
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            // A page of a proxy's, or of a network that wants to be greeted first.
            Category::Syntax if !begins_like_json(body) => {
                return IgError::NotIg(format!("{} bytes that are no JSON", body.len()));
            }
            Category::Syntax => "no JSON",
            Category::Data => "JSON of another shape",
            Category::Eof => "JSON that ends too soon",
            Category::Io => "unreadable",
        };
        malformed(&format!("{what}, line {} column {}", error.line(), error.column()))
    })
}

fn malformed(why: &str) -> IgError {
    IgError::Malformed(cut(why))
}

fn path_only(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, &ALL_BUT_EPIC).to_string()
}

/// Everything is coded but what occurs in epics and lists of them.
const ALL_BUT_EPIC: percent_encoding::AsciiSet = NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b',');

/// A server that says what it is told to, for tests.
#[cfg(test)]
pub mod fake {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// A whole answer with this JSON and a pair of tokens.
    pub fn ok(json: &str) -> String {
        answer(200, json)
    }

    /// A whole answer with this status.
    pub fn answer(status: u16, json: &str) -> String {
        let tokens = "CST: c\r\nX-SECURITY-TOKEN: x\r\n";
        format!("HTTP/1.1 {status} So\r\n{tokens}Content-Length: {}\r\n\r\n{json}", json.len())
    }

    /// Answers each request with the next of these texts, which need not be whole, and the others
    /// not at all. Returns its address and, as they come, the first lines of the requests.
    pub fn server(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let told = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (answers, told) = (Arc::clone(&answers), Arc::clone(&told));
                std::thread::spawn(move || {
                    let mut connection = BufReader::new(connection.unwrap());
                    while let Some(request) = request(&mut connection) {
                        told.lock().unwrap().push(request);
                        let answer = answers.lock().unwrap().next().unwrap_or_default();
                        connection.get_mut().write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        (base, asked)
    }

    /// Reads a whole request; answers its first line.
    pub fn request(connection: &mut BufReader<TcpStream>) -> Option<String> {
        let (mut lines, mut body_bytes) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(("content-length", bytes)) = line.to_ascii_lowercase().split_once(": ") {
                body_bytes = bytes.trim().parse().unwrap();
            }
            lines.push(line);
        }
        connection.read_exact(&mut vec![0; body_bytes]).ok()?;
        lines.first().map(|line| line.trim_end_matches(" HTTP/1.1\r\n").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use awc::http::header::HeaderValue;

    use super::*;
    use crate::clock::Clock;

    fn tokens() -> Tokens {
        Tokens {
            generation: 1,
            pair: Pair { cst: Secret::new("c"), xst: Secret::new("x") },
            bearer: None,
            account_id: "ABC12".to_owned(),
            account_type: None,
            lightstreamer_endpoint: String::new(),
            timezone_offset_s: 0,
            since: Clock::system().monotonic(),
        }
    }

    #[actix::test]
    async fn an_answer_that_does_not_end_is_given_up_and_never_asked_for_again() {
        for begun in ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ""] {
            let (base, asked) = fake::server(vec![begun.to_owned()]);
            let mut rest = RestClient::new(http_client(), &base, Secret::new("key"));
            rest.call_timeout = Duration::from_millis(200);
            let epic: Epic = "CS.D.EURUSD.CFD.IP".parse().unwrap();
            let error = rest.prices(&tokens(), &epic, "max=10").await.unwrap_err();
            let IgError::Retryable(why) = &error else { panic!("{error:?}") };
            assert!(why.starts_with("no whole answer from 127.0.0.1:"), "{why}");
            assert!(!error.came_before_any_history(), "its points count as spent");
            assert_eq!(*asked.lock().unwrap(), ["GET /prices/CS.D.EURUSD.CFD.IP?max=10"]);
            // Nor a call that costs nothing: it has waited long enough.
            assert!(matches!(rest.session(&tokens()).await, Err(IgError::Retryable(_))));
            assert_eq!(asked.lock().unwrap().len(), 2);
        }
    }

    #[actix::test]
    async fn a_connection_that_is_closed_without_an_answer_has_carried_the_request() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (told, mut requests) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = std::io::BufReader::new(connection.unwrap());
                told.send(fake::request(&mut connection).unwrap()).unwrap();
            }
        });
        let rest = RestClient::new(http_client(), &base, Secret::new("key"));
        let epic: Epic = "CS.D.EURUSD.CFD.IP".parse().unwrap();
        let error = rest.prices(&tokens(), &epic, "max=10").await.unwrap_err();
        assert!(matches!(&error, IgError::Broken(why) if why.contains("without an answer")), "{error:?}");
        assert!(!error.came_before_any_history(), "its points count as spent");
        // A login is not made twice, nor is its distance to the next forgotten.
        let login =
            Login { api_key: Secret::new("k"), username: Secret::new("u"), password: Secret::new("p") };
        assert!(matches!(rest.log_in_v2(&login).await, Err(IgError::Broken(_))));
        // What does no harm is asked once more: the socket may have been an old one.
        assert!(matches!(rest.session(&tokens()).await, Err(IgError::Broken(_))));
        drop(rest);
        let asked: Vec<String> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
        assert_eq!(
            asked,
            ["GET /prices/CS.D.EURUSD.CFD.IP?max=10", "POST /session", "GET /session", "GET /session"]
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_without_a_word_of_it() {
        let read = |body: &str| read_json::<LoginV3>(body.as_bytes()).err().unwrap();
        let check = |body: &str, expected: &str| {
            let IgError::Malformed(told) = read(body) else { panic!("{body}") };
            assert_eq!(told, expected, "{body}");
        };
        check(r#"{"oauthToken":"zq-secret"}"#, "JSON of another shape, line 1 column 25");
        check("{\"accountId\":\n[\"zq-secret\"]}", "JSON of another shape, line 2 column 0");
        check(r#"{"accountId":"zq-sec"#, "JSON that ends too soon, line 1 column 20");
        check(r#"{"accountId":zq-secret}"#, "no JSON, line 1 column 14");
        check("", "JSON that ends too soon, line 1 column 0");
        for page in ["<html>zq-secret</html>", "  zq-secret"] {
            let IgError::NotIg(told) = read(page) else { panic!("{page}") };
            assert!(told.ends_with("bytes that are no JSON"), "{told}");
        }
    }

    #[actix::test]
    async fn what_was_never_asked_of_igs_history_has_cost_nothing() {
        let moved = "HTTP/1.1 302 So\r\nLocation: http://portal/\r\nContent-Length: 0\r\n\r\n".to_owned();
        let page = "<html><p>please update your browser</p></html>";
        let free = [moved, fake::answer(403, page), fake::answer(404, page), fake::answer(200, page)];
        // One that has perhaps been asked.
        let charged = [
            fake::answer(404, r#"{"errorCode":"error.price-history.io-error"}"#),
            fake::answer(200, "{\"pri"),
        ];
        let charged = charged.into_iter().chain([fake::answer(403, r#"{"message":"out of date"}"#)]);
        for (answer, is_free) in
            free.into_iter().map(|answer| (answer, true)).chain(charged.map(|a| (a, false)))
        {
            let (base, _) = fake::server(vec![answer.clone()]);
            let rest = RestClient::new(http_client(), &base, Secret::new("key"));
            let epic: Epic = "CS.D.EURUSD.CFD.IP".parse().unwrap();
            let error = rest.prices(&tokens(), &epic, "max=10").await.unwrap_err();
            assert_eq!(error.came_before_any_history(), is_free, "{answer}: {error:?}");
            assert_eq!(matches!(error, IgError::NotIg(_)), is_free, "{answer}: {error:?}");
        }
    }

    #[test]
    fn an_answers_date_is_read_unless_a_cache_has_kept_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(DATE, HeaderValue::from_static("Wed, 15 Jan 2020 12:00:07 GMT"));
        assert_eq!(date(&headers), Some(Timestamp(1_579_089_607)));
        headers.insert(AGE, HeaderValue::from_static("30"));
        assert_eq!(date(&headers), None);
        headers.remove(AGE);
        headers.insert(DATE, HeaderValue::from_static("soon"));
        assert_eq!(date(&headers), None);
    }
}
