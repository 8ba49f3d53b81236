//! The simulator over real sockets, spoken to by hand.

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use awc::error::WsProtocolError as ProtocolError;
use awc::ws;
use futures_util::{Sink, SinkExt, StreamExt};
use serde_json::{Value, json};

use super::market::tests::at;
use super::tlcp::decode_values;
use super::*;

const SCHEMA: &str = "UTM CONS_TICK_COUNT CONS_END BID_OPEN BID_HIGH BID_LOW BID_CLOSE OFR_OPEN OFR_HIGH OFR_LOW OFR_CLOSE LTP_CLOSE";
const FIELDS: usize = 12;
/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        market: MarketOptions::Seeded { seed: 7, start: Some(at("2024-01-17T10:02:30Z")) },
        speed: Speed::Max,
        rows_per_bar: Some(10),
        wait_for_items: Some(1),
        end: Some(at("2024-01-17T11:00:00Z")),
        ..Options::default()
    }
}

/// The answer to one REST request: status, body, and the two tokens if they were sent.
struct Answer {
    status: StatusCode,
    body: Value,
    tokens: Option<(String, String)>,
}

/// A REST client that sends what it is told.
struct Rest {
    url: String,
    headers: Vec<(&'static str, String)>,
}

impl Rest {
    fn new(simulator: &Simulator) -> Rest {
        Rest { url: simulator.api_url(), headers: vec![("X-IG-API-KEY", "demo-key".to_owned())] }
    }

    async fn call(&self, method: Method, path: &str, version: &str, body: Option<Value>) -> Answer {
        let mut request = awc::Client::new().request(method, format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.insert_header((*name, value.as_str()));
        }
        let request = request.insert_header(("VERSION", version)).timeout(PATIENCE);
        let mut response = match body {
            Some(body) => request.send_json(&body).await.unwrap(),
            None => request.send().await.unwrap(),
        };
        let token = |name: &str| Some(response.headers().get(name)?.to_str().unwrap().to_owned());
        let tokens = token("CST").zip(token("X-SECURITY-TOKEN"));
        let status = response.status();
        let bytes = response.body().limit(8 * 1024 * 1024).await.unwrap();
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), tokens }
    }

    async fn get(&self, path: &str, version: &str) -> Answer {
        self.call(Method::GET, path, version, None).await
    }

    fn use_tokens(&mut self, (cst, xst): (String, String)) {
        self.headers.retain(|(name, _)| *name == "X-IG-API-KEY");
        self.headers.extend([("CST", cst), ("X-SECURITY-TOKEN", xst)]);
    }

    async fn login(simulator: &Simulator) -> Rest {
        let mut rest = Rest::new(simulator);
        let body = json!({ "identifier": "demo-user", "password": "demo-password" });
        let answer = rest.call(Method::POST, "/session", "2", Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK);
        rest.use_tokens(answer.tokens.unwrap());
        rest
    }

    /// Status and error code of a refusal.
    async fn refusal(&self, path: &str, version: &str) -> (u16, String) {
        let answer = self.get(path, version).await;
        (answer.status.as_u16(), answer.body["errorCode"].as_str().unwrap_or_default().to_owned())
    }

    fn stream_password(&self) -> String {
        format!("CST-{}%7CXST-{}", self.headers[1].1, self.headers[2].1)
    }
}

/// A WebSocket that takes requests and hands out lines.
struct Stream {
    sink: Pin<Box<dyn Sink<ws::Message, Error = ProtocolError>>>,
    frames: Pin<Box<dyn futures_util::Stream<Item = Result<ws::Frame, ProtocolError>>>>,
    lines: VecDeque<String>,
    /// Control requests sent, for ids.
    requests: u32,
}

impl Stream {
    async fn open(simulator: &Simulator, subprotocol: &str) -> Result<Stream, awc::error::WsClientError> {
        let url = format!("http://{}/lightstreamer", simulator.address());
        let (response, socket) = awc::Client::new().ws(url).protocols([subprotocol]).connect().await?;
        let echoed = response.headers().get("Sec-WebSocket-Protocol").map(|value| value.to_str().unwrap());
        assert_eq!(echoed, Some(subprotocol));
        let (sink, frames) = socket.split();
        Ok(Stream { sink: Box::pin(sink), frames: Box::pin(frames), lines: VecDeque::new(), requests: 0 })
    }

    async fn send(&mut self, text: &str) {
        self.sink.send(ws::Message::Text(text.to_owned().into())).await.unwrap();
    }

    /// The next line, `None` once the socket is closed.
    async fn line(&mut self) -> Option<String> {
        while self.lines.is_empty() {
            let frame = actix_rt::time::timeout(PATIENCE, self.frames.next()).await.expect("a line");
            match frame {
                Some(Ok(ws::Frame::Text(bytes))) => {
                    let text = std::str::from_utf8(&bytes).unwrap();
                    assert!(text.ends_with("\r\n"), "{text}");
                    self.lines.extend(text.split_terminator("\r\n").map(str::to_owned));
                }
                Some(Ok(ws::Frame::Close(_)) | Err(_)) | None => return None,
                Some(Ok(other)) => panic!("{other:?}"),
            }
        }
        self.lines.pop_front()
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.line().await.as_deref(), Some(*expected));
        }
    }

    /// Opens a session that may subscribe.
    async fn login(simulator: &Simulator, rest: &Rest) -> Stream {
        let mut stream = Stream::open(simulator, "TLCP-2.4.0.lightstreamer.com").await.unwrap();
        stream.send("wsok").await;
        stream.send(&create("SIM01", &rest.stream_password())).await;
        stream.expect(&["WSOK"]).await;
        let conok = stream.line().await.unwrap();
        assert!(conok.starts_with("CONOK,S") && conok.ends_with(",50000,5000,*"), "{conok}");
        let head = ["SERVNAME,Simulated Lightstreamer Server", "CLIENTIP,127.0.0.1", "CONS,unlimited"];
        stream.expect(&head).await;
        stream
    }
}

fn create(user: &str, password: &str) -> String {
    format!(
        "create_session\r\nLS_user={user}&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg&LS_send_sync=false&LS_password={password}"
    )
}

/// One parameter line that subscribes to an item with the usual schema.
fn add(id: u32, item: &str, more: &str) -> String {
    let schema = SCHEMA.replace(' ', "%20");
    format!("LS_reqId={id}&LS_op=add&LS_subId={id}&LS_mode=MERGE&LS_group={item}&LS_schema={schema}{more}")
}

#[actix_web::test]
async fn login_switch_and_logout() {
    let simulator = start(options()).unwrap();
    let mut rest = Rest::new(&simulator);
    let wrong = json!({ "identifier": "demo-user", "password": "wrong" });
    let answer = rest.call(Method::POST, "/session", "2", Some(wrong)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errorCode"]),
        (401, &json!("error.security.invalid-details"))
    );

    let right = json!({ "identifier": "demo-user", "password": "demo-password" });
    let answer = rest.call(Method::POST, "/session", "2", Some(right)).await;
    assert_eq!(answer.body["currentAccountId"], "SIM01");
    assert_eq!(answer.body["accountType"], "CFD");
    assert_eq!(answer.body["timezoneOffset"], 1);
    let endpoint = format!("http://{}", simulator.address());
    assert_eq!(answer.body["lightstreamerEndpoint"], endpoint);
    let old = answer.tokens.unwrap();
    rest.use_tokens(old.clone());

    let body = json!({ "accountId": "SIM02", "defaultAccount": false });
    let switched = rest.call(Method::PUT, "/session", "1", Some(body)).await;
    assert_eq!(switched.status, StatusCode::OK);
    assert_eq!(rest.refusal("/session", "1").await, (401, "error.security.account-token-invalid".to_owned()));
    rest.use_tokens(switched.tokens.unwrap());
    assert_eq!(rest.get("/session", "1").await.body["accountId"], "SIM02");

    // As a client does whose HTTP library sends no body with DELETE.
    rest.headers.push(("_method", "DELETE".to_owned()));
    let logout = rest.call(Method::POST, "/session", "1", Some(json!({}))).await;
    assert_eq!(logout.status, StatusCode::OK);
    rest.headers.pop();
    assert_eq!(rest.refusal("/session", "1").await, (401, "error.security.client-token-invalid".to_owned()));
    simulator.stop().await;
}

#[actix_web::test]
async fn oauth_login_refresh_and_session_tokens() {
    let simulator = start(options()).unwrap();
    let mut rest = Rest::new(&simulator);
    let body = json!({ "identifier": "demo-user", "password": "demo-password" });
    let answer = rest.call(Method::POST, "/session", "3", Some(body)).await;
    assert_eq!(answer.body["accountId"], "SIM01");
    assert_eq!(answer.body["oauthToken"]["expires_in"], "60");
    let refresh = json!({ "refresh_token": answer.body["oauthToken"]["refresh_token"] });
    let renewed = rest.call(Method::POST, "/session/refresh-token", "1", Some(refresh)).await;
    let access = renewed.body["access_token"].as_str().unwrap().to_owned();
    rest.headers
        .extend([("Authorization", format!("Bearer {access}")), ("IG-ACCOUNT-ID", "SIM02".to_owned())]);
    let session = rest.get("/session?fetchSessionTokens=true", "1").await;
    assert_eq!(session.body["accountId"], "SIM02");
    rest.use_tokens(session.tokens.unwrap());
    assert_eq!(rest.get("/accounts", "1").await.body["accounts"][0]["accountId"], "SIM01");
    simulator.stop().await;
}

#[actix_web::test]
async fn what_is_missing_or_wrong_in_a_request_is_named() {
    let simulator = start(options()).unwrap();
    let mut rest = Rest::login(&simulator).await;
    let check = async |rest: &Rest, path, version, status, code: &str| {
        assert_eq!(rest.refusal(path, version).await, (status, code.to_owned()), "{path}");
    };
    check(&rest, "/session", "7", 404, "invalid.url").await;
    check(&rest, "/nonsense", "1", 404, "invalid.url").await;
    check(&rest, "/session/encryptionKey", "1", 404, "invalid.url").await;
    check(&rest, "/prices/CS.D.EURUSD.TODAY.IP", "3", 404, "error.error.price-history.io-error").await;
    check(&rest, "/markets/CS.D.GBPEUR.CFD.IP", "3", 404, "error.public-api.epic-not-found").await;
    rest.headers[0].1 = "other-key".to_owned();
    check(&rest, "/session", "1", 403, "error.security.api-key-invalid").await;
    rest.headers.remove(0);
    check(&rest, "/session", "1", 400, "error.security.api-key-missing").await;
    let rest = Rest::new(&simulator);
    check(&rest, "/session", "1", 401, "error.security.client-token-missing").await;
    simulator.stop().await;
}

#[actix_web::test]
async fn markets_are_classified_by_one_request() {
    let simulator = start(Options { in_points: vec![Product::Mini], ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let epics =
        "CS.D.EURUSD.CFD.IP,CS.D.USDJPY.CFD.IP,CS.D.EURUSD.MINI.IP,CS.D.EURUSD.TODAY.IP,CS.D.NOPAIR.CFD.IP";
    let answer = rest.get(&format!("/markets?epics={epics}&filter=ALL"), "2").await;
    let details = answer.body["marketDetails"].as_array().unwrap();
    let seen: Vec<_> = details
        .iter()
        .map(|one| {
            (one["instrument"]["epic"].as_str().unwrap(), one["snapshot"]["scalingFactor"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        seen,
        [("CS.D.EURUSD.CFD.IP", 10_000), ("CS.D.USDJPY.CFD.IP", 100), ("CS.D.EURUSD.MINI.IP", 1)]
    );
    let bid = |place: usize| details[place]["snapshot"]["bid"].as_f64().unwrap();
    assert!((bid(0) * 10_000.0 - bid(2)).abs() < 1e-6, "{} {}", bid(0), bid(2));
    assert_eq!(details[0]["snapshot"]["marketStatus"], "TRADEABLE");
    simulator.stop().await;
}

#[actix_web::test]
async fn prices_are_the_truth_and_cost_a_point_each() {
    let simulator = start(Options { allowance: 60, ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let prices = "/prices/CS.D.USDJPY.CFD.IP?resolution=MINUTE_5";
    let answer = rest.get(&format!("{prices}&max=50"), "3").await;
    assert_eq!(answer.body["prices"].as_array().unwrap().len(), 20, "the default page");
    assert_eq!(
        answer.body["metadata"]["pageData"],
        json!({ "pageSize": 20, "pageNumber": 1, "totalPages": 3 })
    );
    assert_eq!(answer.body["metadata"]["allowance"]["remainingAllowance"], 40);

    let answer = rest.get(&format!("{prices}&max=3&pageSize=0"), "3").await;
    let bars = answer.body["prices"].as_array().unwrap();
    let times: Vec<_> = bars.iter().map(|bar| bar["snapshotTimeUTC"].as_str().unwrap()).collect();
    assert_eq!(times, ["2024-01-17T09:50:00", "2024-01-17T09:55:00", "2024-01-17T10:00:00"]);
    assert_eq!(bars[0]["snapshotTime"], "2024/01/17 10:50:00", "local time is an hour ahead");
    let pair = "USDJPY".parse().unwrap();
    let whole = simulator.truth().bar(pair, Timeframe::M5, at("2024-01-17T09:55:00Z")).unwrap();
    for (field, of) in [("open", 0), ("high", 1), ("low", 2), ("close", 3)] {
        let price = &bars[1][format!("{field}Price")];
        assert_eq!(price["bid"].as_f64(), Some(whole.bid.prices()[of].to_f64()));
        assert_eq!(price["ask"].as_f64(), Some(whole.ask.prices()[of].to_f64()));
        assert_eq!(price["lastTraded"], Value::Null);
    }
    assert_eq!(bars[1]["lastTradedVolume"], whole.volume);
    let forming = bars[2]["lastTradedVolume"].as_u64().unwrap();
    let complete = simulator.truth().bar(pair, Timeframe::M5, at("2024-01-17T10:00:00Z")).unwrap();
    assert!(0 < forming && forming < u64::from(complete.volume));

    let (status, code) = rest.refusal(&format!("{prices}&max=38&pageSize=0"), "3").await;
    assert_eq!((status, code.as_str()), (403, "error.public-api.exceeded-account-historical-data-allowance"));
    let old = rest.get("/prices/CS.D.USDJPY.CFD.IP/MINUTE_5/2", "2").await;
    assert_eq!(old.body["allowance"]["remainingAllowance"], 35);
    assert_eq!(old.body["prices"][1]["snapshotTime"], "2024/01/17 11:00:00");
    let range = "/prices/CS.D.USDJPY.CFD.IP/MINUTE_5/2024-01-17%2010:50:00/2024-01-17%2010:55:00";
    assert_eq!(rest.get(range, "2").await.body["prices"].as_array().unwrap().len(), 2);
    assert_eq!(simulator.stats().points_spent, 27);
    simulator.stop().await;
}

#[actix_web::test]
async fn requests_beyond_the_minute_are_refused() {
    let limits = RequestLimits { per_key: 60, per_account: 3 };
    let simulator =
        start(Options { speed: Speed::Times(1.0), requests_per_minute: limits, ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let application = rest.get("/operations/application", "1").await;
    assert_eq!(application.body[0]["allowanceAccountOverall"], 3);
    for _ in 0..2 {
        assert_eq!(rest.get("/session", "1").await.status, StatusCode::OK);
    }
    assert_eq!(
        rest.refusal("/session", "1").await,
        (403, "error.public-api.exceeded-account-allowance".to_owned())
    );
    simulator.stop().await;
}

#[actix_web::test]
async fn a_stream_tells_every_candle_as_it_was() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    stream
        .send(&format!("control\r\n{}", add(1, "CHART:CS.D.EURUSD.CFD.IP:5MINUTE", "&LS_snapshot=true")))
        .await;
    stream.expect(&["REQOK,1", "SUBOK,1,1,12", "CONF,1,unlimited,filtered"]).await;

    let pair = "EURUSD".parse().unwrap();
    let (mut row, mut closed, mut rows) = (Vec::new(), Vec::new(), 0_u64);
    let end = at("2024-01-17T11:00:00Z");
    while closed.len() < 12 {
        let line = stream.line().await.unwrap();
        let values = line.strip_prefix("U,1,1,").unwrap_or_else(|| panic!("{line}"));
        row = decode_values(values, &row, FIELDS);
        rows += 1;
        let text = |field: usize| row[field].as_deref().unwrap();
        if rows == 1 {
            assert_eq!(
                text(0),
                at("2024-01-17T10:00:00Z").0.to_string() + "000",
                "the snapshot is the forming candle"
            );
            assert_eq!(text(2), "0");
        }
        if text(2) == "1" {
            let start = Timestamp::from_millis(text(0).parse().unwrap());
            let told: Vec<String> = row[3..11].iter().map(|price| price.clone().unwrap()).collect();
            let bar = simulator.truth().bar(pair, Timeframe::M5, start).unwrap();
            let true_prices: Vec<String> =
                bar.bid.prices().iter().chain(&bar.ask.prices()).map(ToString::to_string).collect();
            assert_eq!(told, true_prices, "{start}");
            assert_eq!(text(1), bar.volume.to_string());
            closed.push(start);
        }
        assert_eq!(row[11], None);
    }
    let expected: Vec<Timestamp> = simulator
        .truth()
        .bars(pair, Timeframe::M5, at("2024-01-17T10:00:00Z")..end)
        .iter()
        .map(|bar| bar.key.start)
        .collect();
    assert_eq!(closed, expected);
    let stats = simulator.stats();
    assert_eq!((stats.rows, stats.items, stats.sessions), (rows, 1, 1));
    assert_eq!(simulator.stream_sessions()[0].1, rows + 2);
    assert!(simulator.has_ended());
    simulator.stop().await;
}

#[actix_web::test]
async fn a_fast_clock_tells_the_same_candles_as_a_free_one() {
    let end = at("2024-01-17T10:30:00Z");
    let options = Options { speed: Speed::Times(5_000.0), end: Some(end), rows_per_bar: None, ..options() };
    let simulator = start(options).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    // Two subscriptions in one message, two items in the second, none acknowledged.
    let first = add(1, "CHART:CS.D.EURUSD.CFD.IP:HOUR", "&LS_ack=false");
    let second = add(
        2,
        "CHART:CS.D.NZDCHF.CFD.IP:5MINUTE%20CHART:CS.D.USDJPY.MINI.IP:1MINUTE",
        "&LS_ack=false&LS_snapshot=true",
    );
    stream.send(&format!("control\r\n{first}\r\n{second}\r\n")).await;
    stream
        .expect(&["SUBOK,1,1,12", "CONF,1,unlimited,filtered", "SUBOK,2,2,12", "CONF,2,unlimited,filtered"])
        .await;
    let mut closes = 0;
    let (mut rows, yen) = (vec![Vec::new(); 2], "USDJPY".parse().unwrap());
    loop {
        let line = stream.line().await.unwrap();
        let Some((item, values)) = line.strip_prefix("U,2,").and_then(|rest| rest.split_once(',')) else {
            assert!(line.starts_with("U,1,1,"), "{line}");
            continue;
        };
        let item: usize = item.parse().unwrap();
        let row = &mut rows[item - 1];
        *row = decode_values(values, row, FIELDS);
        if item == 2 && row[2].as_deref() == Some("1") {
            closes += 1;
            let start = Timestamp::from_millis(row[0].as_deref().unwrap().parse().unwrap());
            let true_close = simulator.truth().market.candle(yen, start, start.plus(60)).unwrap().bid.close;
            assert_eq!(
                row[6].as_deref().unwrap().replace('.', "").trim_end_matches('0'),
                true_close.to_string().trim_end_matches('0')
            );
            if start.plus(60) == end {
                break;
            }
        }
    }
    assert!(closes >= 27, "{closes} minutes");
    simulator.stop().await;
}

#[actix_web::test]
async fn sessions_are_refused_with_their_reason() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let password = rest.stream_password();
    for (subprotocol, request, answer) in [
        ("2.5.0", create("SIM01", &password), "CONERR,65,Unsupported protocol version: 2.5.0"),
        ("2.4.0", create("SIM02", &password), "CONERR,1,User/password check failed"),
        ("2.1.0", create("SIM01", "CST-a%7CXST-b"), "CONERR,1,User/password check failed"),
        ("2.4.0", "create_session\r\nLS_user=SIM01".to_owned(), "CONERR,67,Missing LS_cid"),
        ("2.4.0", "bind_session\r\nLS_session=S1".to_owned(), "CONERR,20,Session not found"),
        ("2.4.0", "nonsense".to_owned(), "ERROR,67,Unknown request"),
    ] {
        let subprotocol = format!("TLCP-{subprotocol}.lightstreamer.com");
        let mut stream = Stream::open(&simulator, &subprotocol).await.unwrap();
        stream.send(&request).await;
        stream.expect(&[answer]).await;
    }
    assert!(Stream::open(&simulator, "chat").await.is_err());
    let newest = Options { max_tlcp_version: "2.5.0".parse().unwrap(), ..options() };
    let newer = start(newest).unwrap();
    let rest = Rest::login(&newer).await;
    let mut stream = Stream::open(&newer, "TLCP-2.5.0.lightstreamer.com").await.unwrap();
    stream.send(&create("SIM01", &rest.stream_password())).await;
    assert!(stream.line().await.unwrap().starts_with("CONOK,"));
    newer.stop().await;
    simulator.stop().await;
}

#[actix_web::test]
async fn subscriptions_are_refused_with_their_reason() {
    let simulator = start(Options { wait_for_items: Some(100), ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    let eurusd = "CHART:CS.D.EURUSD.CFD.IP";
    for (line, code, text) in [
        (add(1, "MARKET:CS.D.EURUSD.CFD.IP", ""), 21, "Invalid group"),
        (add(1, &format!("{eurusd}:MINUTE_5"), ""), 21, "Invalid group"),
        (add(1, "CHART:CS.D.GBPEUR.CFD.IP:5MINUTE", ""), 21, "Invalid group"),
        (add(1, "CHART:CS.D.EURUSD.TODAY.IP:5MINUTE", ""), -1, "Invalid account type"),
        (add(1, &format!("{eurusd}:TICK"), ""), 24, "Invalid mode for these items"),
        (
            add(1, &format!("{eurusd}:5MINUTE"), "").replace("MERGE", "RAW"),
            24,
            "Invalid mode for these items",
        ),
        (add(1, &format!("{eurusd}:5MINUTE"), "").replace("LTP_CLOSE", "LTP"), 23, "Invalid schema"),
        (
            add(1, format!("{eurusd}:5MINUTE%20").repeat(41).trim_end_matches("%20"), ""),
            -1,
            "Subscription limit exceeded",
        ),
        (add(0, &format!("{eurusd}:5MINUTE"), ""), 65, "Missing or bad LS_subId"),
        ("LS_op=delete&LS_subId=9".to_owned(), 19, "Subscription not found"),
        ("LS_op=rebind".to_owned(), 65, "Unsupported LS_op rebind"),
    ] {
        let number = format!("r{}", stream.requests);
        let line = match line.split_once("&LS_op") {
            Some((_, rest)) if line.starts_with("LS_reqId") => format!("LS_reqId={number}&LS_op{rest}"),
            _ => format!("LS_reqId={number}&{line}"),
        };
        stream.requests += 1;
        stream.send(&format!("control\r\n{line}")).await;
        stream.expect(&[&format!("REQERR,{number},{code},{text}")]).await;
    }
    let again = add(1, &format!("{eurusd}:5MINUTE"), "");
    stream.send(&format!("control\r\n{again}\r\nLS_reqId=1&LS_op=delete&LS_subId=1\r\nLS_reqId=2&LS_op=delete&LS_subId=1&LS_ack=false")).await;
    stream.expect(&["REQOK,1", "SUBOK,1,1,12", "CONF,1,unlimited,filtered"]).await;
    stream.expect(&["REQERR,1,65,LS_reqId already used", "UNSUB,1"]).await;
    stream.send("control\r\nLS_reqId=3&LS_op=destroy&LS_close_socket=true&LS_cause=api").await;
    stream.expect(&["REQOK,3", "END,31,Session closed by the client"]).await;
    assert_eq!(stream.line().await, None);
    simulator.stop().await;
}

#[actix_web::test]
async fn unfiltered_is_granted_ignored_or_refused() {
    for (setting, answer) in [
        (Unfiltered::Granted, "SUBOK,1,1,12"),
        (Unfiltered::Ignored, "SUBOK,1,1,12"),
        (Unfiltered::Refused, "REQERR,1,26,Unfiltered dispatching not allowed"),
    ] {
        let simulator = start(Options { unfiltered: setting, wait_for_items: Some(2), ..options() }).unwrap();
        let rest = Rest::login(&simulator).await;
        let mut stream = Stream::login(&simulator, &rest).await;
        let more = "&LS_ack=false&LS_requested_max_frequency=unfiltered";
        stream.send(&format!("control\r\n{}", add(1, "CHART:CS.D.EURUSD.CFD.IP:5MINUTE", more))).await;
        stream.expect(&[answer]).await;
        match setting {
            Unfiltered::Granted => stream.expect(&["CONF,1,unlimited,unfiltered"]).await,
            Unfiltered::Ignored => stream.expect(&["CONF,1,unlimited,filtered"]).await,
            Unfiltered::Refused => {}
        }
        simulator.stop().await;
    }
}

#[actix_web::test]
async fn a_silent_stream_is_probed() {
    let simulator = start(Options { keepalive_ms: 50, wait_for_items: Some(2), ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::open(&simulator, "TLCP-2.4.0.lightstreamer.com").await.unwrap();
    stream.send(&(create("SIM01", &rest.stream_password()) + "&LS_reduce_head=true")).await;
    assert!(stream.line().await.unwrap().starts_with("CONOK,"));
    stream.expect(&["PROBE", "PROBE"]).await;
    stream.send("heartbeat\r\n\r\n").await;
    stream.expect(&["PROBE"]).await;
    simulator.stop().await;
}

#[actix_web::test]
async fn held_time_stands_still_while_somebody_listens_and_goes_on_when_let() {
    let simulator = start(options()).unwrap();
    let control = simulator.control();
    let (held, end) = (at("2024-01-17T10:20:00Z"), at("2024-01-17T11:00:00Z"));
    control.hold_at(Some(held));
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    stream
        .send(&format!("control\r\n{}", add(1, "CHART:CS.D.EURUSD.CFD.IP:5MINUTE", "&LS_snapshot=true")))
        .await;
    while simulator.now() < held {
        stream.line().await.unwrap();
    }
    for _ in 0..1_000 {
        actix_rt::task::yield_now().await;
    }
    assert_eq!(simulator.now(), held);
    control.hold_at(None);
    while simulator.now() < end {
        stream.line().await.unwrap();
    }
    simulator.stop().await;
}

#[actix_web::test]
async fn a_cut_drops_sockets_and_an_outage_costs_its_bars() {
    let simulator = start(Options { end: None, ..options() }).unwrap();
    let control = simulator.control();
    let rest = Rest::login(&simulator).await;
    let subscribe = format!("control\r\n{}", add(1, "CHART:CS.D.EURUSD.CFD.IP:5MINUTE", "&LS_snapshot=true"));
    let mut stream = Stream::login(&simulator, &rest).await;
    stream.send(&subscribe).await;
    while !stream.line().await.unwrap().starts_with("U,") {}
    control.refuse_streams(true);
    control.cut_streams();
    while stream.line().await.is_some() {}
    assert_eq!(simulator.stats().items, 0);
    assert!(Stream::open(&simulator, "TLCP-2.4.0.lightstreamer.com").await.is_err());

    let back = simulator.now().plus(24 * 3600);
    control.refuse_streams_until(back);
    let reopened = async {
        while Stream::open(&simulator, "TLCP-2.4.0.lightstreamer.com").await.is_err() {
            actix_rt::task::yield_now().await;
        }
    };
    actix_rt::time::timeout(PATIENCE, reopened).await.unwrap();
    assert_eq!(simulator.now(), back, "time stands still again until somebody listens");
    let mut stream = Stream::login(&simulator, &rest).await;
    stream.send(&subscribe).await;
    stream.expect(&["REQOK,1", "SUBOK,1,1,12", "CONF,1,unlimited,filtered"]).await;
    assert!(stream.line().await.unwrap().starts_with("U,1,1,"));
    simulator.stop().await;
}

#[actix_web::test]
async fn recorded_bars_are_served_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let start_ms = at("2020-01-15T12:00:00Z").0 * 1000;
    let mut file = flate2::write::GzEncoder::new(
        std::fs::File::create(dir.path().join("EURUSD.csv.gz")).unwrap(),
        flate2::Compression::fast(),
    );
    writeln!(file, "pair,time_ms,bid_o,bid_h,bid_l,bid_c,ask_o,ask_h,ask_l,ask_c,volume").unwrap();
    for (bar, prices) in [(0, "1.10000,1.10030,1.09990,1.10010"), (2, "1.10010,1.10020,1.10000,1.10000")] {
        writeln!(file, "EURUSD,{},{prices},,,,,7", start_ms + bar * 300_000).unwrap();
    }
    file.finish().unwrap();
    let market = MarketOptions::Replay { dir: dir.path().to_owned(), from: None, to: None, spread_pips: 1.5 };
    let simulator = start(Options { market, speed: Speed::Max, ..Options::default() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    stream
        .send(&format!("control\r\n{}", add(1, "CHART:CS.D.EURUSD.CFD.IP:5MINUTE", "&LS_snapshot=true")))
        .await;
    stream.expect(&["REQOK,1", "SUBOK,1,1,12", "CONF,1,unlimited,filtered"]).await;
    stream
        .expect(&[
            &format!("U,1,1,{start_ms}|2|0|1.1|1.1|1.1|1.1|1.10015|1.10015|1.10015|1.10015|#"),
            "U,1,1,|4|^3|1.0999|1.0999|||1.10005|1.10005|",
            "U,1,1,|6|||1.1003||1.1003||1.10045||1.10045|",
            "U,1,1,|7|^4|1.1001|^3|1.10025|",
            "U,1,1,||1|^9",
            &format!("U,1,1,{}|2|0|1.1001|1.1001|1.1001||1.10025|1.10025|1.10025||", start_ms + 600_000),
        ])
        .await;
    simulator.stop().await;

    // Begun in the middle, what came before is history.
    let from = Some(at("2020-01-15T12:10:00Z"));
    let market = MarketOptions::Replay { dir: dir.path().to_owned(), from, to: None, spread_pips: 1.5 };
    let simulator = start(Options { market, speed: Speed::Max, ..Options::default() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let answer = rest.get("/prices/CS.D.EURUSD.CFD.IP?resolution=MINUTE_5&max=5", "3").await;
    let bars = answer.body["prices"].as_array().unwrap();
    assert_eq!(bars.len(), 1);
    assert_eq!(bars[0]["snapshotTimeUTC"], "2020-01-15T12:00:00");
    assert_eq!(bars[0]["highPrice"]["ask"], 1.10045);
    simulator.stop().await;
}

#[actix_web::test]
async fn at_full_speed_time_waits_for_a_recovery_which_then_misses_nothing() {
    // A day, so that it does not end before the last cut.
    let span = at("2024-01-17T10:00:00Z")..at("2024-01-18T10:00:00Z");
    let simulator = start(Options { rows_per_bar: Some(300), end: Some(span.end), ..options() }).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    let item = "CHART:CS.D.EURUSD.CFD.IP:5MINUTE";
    stream.send(&format!("control\r\n{}", add(1, item, "&LS_snapshot=true&LS_ack=false"))).await;
    let mut lines = Vec::new();
    for cut in [Cut::Reset, Cut::Drop, Cut::Close(1001)] {
        for _ in 0..20 {
            lines.push(stream.line().await.unwrap());
        }
        simulator.control().cut_connections(cut);
        while let Some(line) = stream.line().await {
            lines.push(line);
        }
        let (session, _) = simulator.stream_sessions()[0].clone();
        let stands_at = simulator.now();
        stream = Stream::open(&simulator, "TLCP-2.4.0.lightstreamer.com").await.unwrap();
        assert_eq!(simulator.now(), stands_at, "nobody listens, through a whole round trip");
        let received = lines.len();
        stream
            .send(&format!(
                "bind_session\r\nLS_session={session}&LS_recovery_from={received}&LS_reduce_head=true"
            ))
            .await;
        let conok = stream.line().await.unwrap();
        assert!(conok.starts_with("CONOK,"), "{cut:?}: {conok}");
        stream.expect(&[&format!("PROG,{received}")]).await;
    }
    while !simulator.has_ended() || (lines.len() as u64) < simulator.stream_sessions()[0].1 {
        lines.push(stream.line().await.unwrap());
    }
    let mut closed = 0;
    let mut known = Vec::new();
    for values in lines.iter().filter_map(|line| line.strip_prefix("U,1,1,")) {
        known = decode_values(values, &known, FIELDS);
        closed += usize::from(known[2].as_deref() == Some("1"));
    }
    let pair = "EURUSD".parse().unwrap();
    assert_eq!(closed, simulator.truth().bars(pair, Timeframe::M5, span).len());
    assert_eq!(simulator.stats().sessions, 1);
    simulator.stop().await;
}

/// A request over HTTP: its answer's status, and its body, which may be a stream.
async fn post(simulator: &Simulator, path: &str, body: &str) -> (u16, HttpBody) {
    let url = format!("http://{}/lightstreamer/{path}", simulator.address());
    let client = awc::Client::builder().timeout(PATIENCE).finish();
    let response = client.post(url).content_type("text/plain").send_body(body.to_owned()).await.unwrap();
    (response.status().as_u16(), HttpBody { chunks: Box::pin(response), text: String::new() })
}

struct HttpBody {
    chunks:
        Pin<Box<dyn futures_util::Stream<Item = Result<actix_web::web::Bytes, awc::error::PayloadError>>>>,
    text: String,
}

impl HttpBody {
    /// The next line, `None` once the body has ended.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.text.split_once("\r\n") {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(line);
            }
            match actix_rt::time::timeout(PATIENCE, self.chunks.next()).await.expect("a line") {
                Some(Ok(chunk)) => self.text += std::str::from_utf8(&chunk).unwrap(),
                _ => return None,
            }
        }
    }

    /// All lines to the end.
    async fn lines(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }
}

const PROTOCOL: &str = "LS_protocol=TLCP-2.4.0";

fn http_create(rest: &Rest, more: &str) -> String {
    let password = rest.stream_password();
    format!("LS_user=SIM01&LS_cid=mgQkwtwdysogQz2BJ4Ji%20kOj2Bg{more}&LS_password={password}")
}

#[actix_web::test]
async fn over_http_a_stream_goes_on_through_loops_and_tells_the_same() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let create = http_create(&rest, "&LS_content_length=1000&LS_send_sync=false");
    let (status, mut stream) = post(&simulator, &format!("create_session.txt?{PROTOCOL}"), &create).await;
    assert_eq!(status, 200);
    assert!(stream.line().await.unwrap().starts_with("NOOP,"));
    let conok = stream.line().await.unwrap();
    let session = conok.split(',').nth(1).unwrap().to_owned();
    let control = format!("control.txt?{PROTOCOL}&LS_session={session}");
    let item = "CHART:CS.D.EURUSD.CFD.IP:5MINUTE";
    let subscribe =
        format!("{}\r\n{}", add(1, item, "&LS_snapshot=true"), "LS_reqId=2&LS_op=delete&LS_subId=9");
    let (_, answer) = post(&simulator, &control, &subscribe).await;
    assert_eq!(answer.lines().await, ["REQOK,1", "REQERR,2,19,Subscription not found"]);

    let (mut data, mut loops) = (Vec::new(), 0);
    while !(simulator.has_ended() && data.len() as u64 == simulator.stream_sessions()[0].1) {
        match stream.line().await {
            Some(line) if line == "LOOP,0" => {
                loops += 1;
                assert_eq!(stream.line().await, None, "the response ends with it");
                let bind = format!("LS_session={session}&LS_content_length=1000&LS_send_sync=false");
                (_, stream) = post(&simulator, &format!("bind_session.txt?{PROTOCOL}"), &bind).await;
            }
            Some(line) if super::tlcp::is_data(line.as_bytes()) => data.push(line),
            Some(_) => {}
            None => panic!("no more after {data:?}"),
        }
    }
    assert!(loops > 2, "{loops} loops");
    let mut known = Vec::new();
    let mut closed = Vec::new();
    for values in data.iter().filter_map(|line| line.strip_prefix("U,1,1,")) {
        known = decode_values(values, &known, FIELDS);
        if known[2].as_deref() == Some("1") {
            closed.push(known[0].clone().unwrap().parse::<i64>().unwrap() / 1000);
        }
    }
    let (truth, pair) = (simulator.truth(), "EURUSD".parse().unwrap());
    let happened = truth.bars(pair, Timeframe::M5, at("2024-01-17T10:00:00Z")..at("2024-01-17T11:00:00Z"));
    assert_eq!(closed, happened.iter().map(|bar| bar.key.start.0).collect::<Vec<_>>());
    assert_eq!(simulator.stats().sessions, 1);
    simulator.stop().await;
}

#[actix_web::test]
async fn over_http_a_session_is_recovered_by_polling() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let mut stream = Stream::login(&simulator, &rest).await;
    let item = "CHART:CS.D.EURUSD.CFD.IP:5MINUTE";
    stream.send(&format!("control\r\n{}", add(1, item, "&LS_snapshot=true&LS_ack=false"))).await;
    stream.expect(&["SUBOK,1,1,12", "CONF,1,unlimited,filtered"]).await;
    let first = stream.line().await.unwrap();
    simulator.control().cut_connections(Cut::Reset);
    while stream.line().await.is_some() {}
    let (session, _) = simulator.stream_sessions()[0].clone();
    let poll = format!(
        "LS_session={session}&LS_recovery_from=2&LS_polling=true&LS_polling_millis=7&LS_idle_millis=0&LS_reduce_head=true"
    );
    let (_, answer) = post(&simulator, &format!("bind_session.txt?{PROTOCOL}"), &poll).await;
    let lines = answer.lines().await;
    assert_eq!(lines[1], format!("CONOK,{session},50000,0,*"));
    assert_eq!(lines[2..4], ["PROG,2".to_owned(), first]);
    assert_eq!(lines.last().unwrap(), "LOOP,7");
    simulator.stop().await;
}

#[actix_web::test]
async fn over_http_what_is_wrong_is_said() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let check = async |path: &str, body: &str, expected: (u16, &[&str])| {
        let (status, answer) = post(&simulator, path, body).await;
        let lines = answer.lines().await;
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!((status, &lines[..]), expected, "{path} {body}");
    };
    let create = http_create(&rest, "");
    // In the body, where it does not belong.
    check("create_session.txt", &format!("{PROTOCOL}&{create}"), (400, &[])).await;
    let newer = "create_session.txt?LS_protocol=TLCP-2.5.0";
    check(newer, &create, (200, &["CONERR,65,Unsupported protocol version: 2.5.0"])).await;
    let bind = format!("bind_session.txt?{PROTOCOL}&LS_session=S1");
    check(&bind, "LS_send_sync=false", (200, &["CONERR,20,Session not found"])).await;
    let control = format!("control.txt?{PROTOCOL}&LS_session=S1");
    check(&control, "LS_reqId=1&LS_op=destroy", (200, &["REQERR,1,20,Session not found"])).await;
    check(&format!("heartbeat.txt?{PROTOCOL}&LS_session=S1"), "", (200, &["REQOK"])).await;
    check(&format!("msg.txt?{PROTOCOL}"), "LS_reqId=1", (200, &["ERROR,67,Unknown request"])).await;
    simulator.stop().await;
}

#[actix_web::test]
async fn one_transport_is_refused_while_the_other_works() {
    let simulator = start(options()).unwrap();
    let rest = Rest::login(&simulator).await;
    let (control, websocket) = (simulator.control(), "TLCP-2.4.0.lightstreamer.com");
    let (path, create) = (format!("create_session.txt?{PROTOCOL}"), http_create(&rest, ""));
    for refusal in [Refusal::Status(403), Refusal::Page] {
        control.refuse_upgrades(Some(refusal));
        assert!(Stream::open(&simulator, websocket).await.is_err());
        assert!(post(&simulator, &path, &create).await.1.line().await.unwrap().starts_with("NOOP,"));
    }
    control.refuse_upgrades(None);
    control.refuse_http_streams(Some(Refusal::Status(405)));
    assert!(Stream::open(&simulator, websocket).await.is_ok());
    assert_eq!(post(&simulator, &path, &create).await.0, 405);
    control.refuse_http_streams(None);
    assert_eq!(post(&simulator, &path, &create).await.0, 200);
    simulator.stop().await;
}

#[actix_web::test]
async fn a_second_address_that_is_not_there_is_missed_at_the_start() {
    let with = |second_listen| {
        let faults =
            r#"[{"do": "shut", "address": "first", "after_s": 9}, {"do": "open", "address": "second"}]"#;
        start(Options { faults: Script::parse(faults).unwrap(), second_listen, ..options() })
    };
    let error = with(None).unwrap_err().to_string();
    assert_eq!(error, "entry 2 of the faults: there is no second address");
    with(Some(([127, 0, 0, 1], 0).into())).unwrap().stop().await;
}

#[actix_web::test]
async fn a_shorter_outage_does_not_end_a_longer_one() {
    let simulator = start(Options { speed: Speed::Times(1.0), ..options() }).unwrap();
    let control = simulator.control();
    control.apply(faults::Fault::Outage { for_s: 1_800 });
    let ends = simulator.shared.outage_ends();
    control.apply(faults::Fault::Outage { for_s: 60 });
    assert_eq!(simulator.shared.outage_ends(), ends);
    control.apply(faults::Fault::Outage { for_s: 3_600 });
    assert!(simulator.shared.outage_ends() > ends);
    simulator.stop().await;
}
