//! Where secrets stand, and what of an answer may be kept.

use std::collections::{HashMap, VecDeque};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::format::{Answer, Body, Closed, Entry, Failure, Headers, Opened, Request, SocketKind, Text};
use super::secrets::{Kind, Secrets};

/// Requests whose answer may still come; an answer to an older one is shown without its body.
const UNANSWERED_MAX: usize = 64;
/// Longest text kept of an answer about the account.
const KEPT_TEXT_MAX: usize = 200;
/// Longest unfinished line of an HTTP stream that is waited for.
const UNFINISHED_BYTES_MAX: usize = 1024 * 1024;

/// What becomes of a JSON value. What no rule names is left out.
enum Rule {
    /// Shown, if it is no object or list.
    Keep,
    /// Shown as its placeholder.
    Conceal(Kind),
    /// Members by name.
    Object(&'static [(&'static str, Rule)]),
    /// Each element.
    List(&'static Rule),
}

use Rule::{Conceal, Keep, List, Object};

const SESSION_REQUEST: Rule = Object(&[
    ("identifier", Conceal(Kind::User)),
    ("password", Conceal(Kind::Password)),
    ("encryptedPassword", Keep),
    ("accountId", Conceal(Kind::Account)),
    ("defaultAccount", Keep),
    ("refresh_token", Conceal(Kind::Refresh)),
]);
const OAUTH: Rule = Object(&[
    ("access_token", Conceal(Kind::Access)),
    ("refresh_token", Conceal(Kind::Refresh)),
    ("scope", Keep),
    ("token_type", Keep),
    ("expires_in", Keep),
]);
const ACCOUNT: Rule = Object(&[
    ("accountId", Conceal(Kind::Account)),
    ("accountType", Keep),
    ("currency", Keep),
    ("preferred", Keep),
    ("status", Keep),
]);
const SESSION: Rule = Object(&[
    ("accountId", Conceal(Kind::Account)),
    ("currentAccountId", Conceal(Kind::Account)),
    ("clientId", Conceal(Kind::Client)),
    ("accountType", Keep),
    ("accounts", List(&ACCOUNT)),
    ("currency", Keep),
    ("currencyIsoCode", Keep),
    ("dealingEnabled", Keep),
    ("lightstreamerEndpoint", Keep),
    ("oauthToken", OAUTH),
    ("reroutingEnvironment", Keep),
    ("timezoneOffset", Keep),
]);
const ACCOUNTS: Rule = Object(&[("accounts", List(&ACCOUNT))]);
const APPLICATION: Rule = List(&Object(&[
    ("apiKey", Conceal(Kind::Key)),
    ("status", Keep),
    ("allowanceApplicationOverall", Keep),
    ("allowanceAccountTrading", Keep),
    ("allowanceAccountOverall", Keep),
    ("allowanceAccountHistoricalData", Keep),
    ("concurrentSubscriptionsLimit", Keep),
]));
const ERROR: Rule = Object(&[("errorCode", Keep)]);

/// Members that are replaced or removed even from answers about markets, which should have none.
const NEVER_PUBLIC: [(&str, Option<Kind>); 14] = [
    ("accountId", Some(Kind::Account)),
    ("currentAccountId", Some(Kind::Account)),
    ("clientId", Some(Kind::Client)),
    ("identifier", Some(Kind::User)),
    ("password", Some(Kind::Password)),
    ("apiKey", Some(Kind::Key)),
    ("access_token", Some(Kind::Access)),
    ("refresh_token", Some(Kind::Refresh)),
    ("encryptedPassword", None),
    ("oauthToken", None),
    ("accountName", None),
    ("accountAlias", None),
    ("accountInfo", None),
    ("balance", None),
];

/// Parameters of Lightstreamer's requests.
const PARAMETERS: [(&str, Kind); 4] = [
    ("LS_user=", Kind::Account),
    ("LS_password=", Kind::StreamPassword),
    ("LS_session=", Kind::Session),
    ("LS_old_session=", Kind::Session),
];

/// What a path's answers are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Session,
    Refresh,
    Accounts,
    Application,
    /// Instruments and prices: the same for every client.
    Market,
    Unknown,
}

impl Subject {
    fn of(path: &str) -> Subject {
        let path = path.split('?').next().unwrap_or_default();
        match path {
            "/session" => Subject::Session,
            "/session/refresh-token" => Subject::Refresh,
            "/accounts" => Subject::Accounts,
            "/operations/application" => Subject::Application,
            "/markets" => Subject::Market,
            _ if path.starts_with("/markets/") || path.starts_with("/prices/") => Subject::Market,
            _ => Subject::Unknown,
        }
    }

    /// What is kept of a good answer; `None`: the text itself.
    fn rule(self) -> Option<Rule> {
        match self {
            Subject::Session => Some(SESSION),
            Subject::Refresh => Some(OAUTH),
            Subject::Accounts => Some(ACCOUNTS),
            Subject::Application => Some(APPLICATION),
            Subject::Market => None,
            Subject::Unknown => Some(ERROR),
        }
    }
}

/// Makes entries fit to be seen by anybody, one after the other.
#[derive(Default)]
pub struct Redactor {
    secrets: Secrets,
    unanswered: VecDeque<(u64, Subject)>,
    /// Of HTTP streams: what has come of a line that is not whole yet, or none while the rest of a
    /// line is passed over whose beginning is lost.
    unfinished: HashMap<u64, Option<String>>,
}

impl Redactor {
    /// Takes note of a secret that the user has configured.
    pub fn learn(&mut self, kind: Kind, value: &str) {
        self.secrets.placeholder(kind, value);
    }

    /// Replaces what is known to be secret in all texts of a JSON value.
    pub fn conceal_all(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.conceal(text),
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.conceal_all(element)),
            Value::Object(members) => members.values_mut().for_each(|member| self.conceal_all(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Takes an entry as it happened and appends what may be seen of it: one entry, none while a
    /// line of an HTTP stream is not whole, two where its rest comes with the end.
    pub fn redact(&mut self, entry: Entry, shown: &mut Vec<Entry>) {
        let entry = match entry {
            Entry::Request(request) => Entry::Request(self.request(request)),
            Entry::Answer(answer) => Entry::Answer(self.answer(answer)),
            Entry::Failure(failure) => {
                self.subject(failure.id);
                Entry::Failure(Failure { why: self.conceal(&failure.why), ..failure })
            }
            Entry::Opened(opened) => {
                if opened.kind == SocketKind::Http {
                    self.unfinished.insert(opened.socket, Some(String::new()));
                }
                Entry::Opened(Opened { url: self.parameters(&opened.url), ..opened })
            }
            Entry::Sent(sent) => Entry::Sent(Text { text: self.parameters(&sent.text), ..sent }),
            Entry::Received(received) => match self.whole_lines(received) {
                Some(Text { socket, text }) => Entry::Received(Text { socket, text: self.lines(&text) }),
                None => return,
            },
            Entry::Closed(Closed { socket, why }) => {
                let rest = self.unfinished.remove(&socket).flatten();
                if let Some(text) = rest.filter(|rest| !rest.is_empty()) {
                    shown.push(Entry::Received(Text { socket, text: self.lines(&text) }));
                }
                Entry::Closed(Closed { socket, why: self.conceal(&why) })
            }
            Entry::Dropped { count } => Entry::Dropped { count },
            Entry::Ended { why } => Entry::Ended { why: self.conceal(&why) },
        };
        shown.push(entry);
    }

    /// Entries are missing here: what an HTTP stream brings next may begin within a line.
    pub fn skip_gap(&mut self) {
        self.unfinished.values_mut().for_each(|unfinished| *unfinished = None);
    }

    fn conceal(&self, text: &str) -> String {
        self.secrets.conceal(text).into_owned()
    }

    // ---- REST ----

    fn request(&mut self, request: Request) -> Request {
        let subject = Subject::of(&request.path);
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((request.id, subject));
        let body = match subject {
            Subject::Session | Subject::Refresh => self.body_by_rule(request.body, &SESSION_REQUEST),
            _ => left_out(request.body),
        };
        Request { path: self.conceal(&request.path), body, ..request }
    }

    fn answer(&mut self, answer: Answer) -> Answer {
        let Headers { date, content_type, cst, xst } = answer.headers;
        let headers = Headers {
            date: date.map(|text| self.conceal(&text)),
            content_type: content_type.map(|text| self.conceal(&text)),
            cst: cst.map(|token| self.secrets.placeholder(Kind::Cst, &token)),
            xst: xst.map(|token| self.secrets.placeholder(Kind::Xst, &token)),
        };
        let subject = self.subject(answer.id);
        let rule = if (200..300).contains(&answer.status) { subject.rule() } else { Some(ERROR) };
        let body = match rule {
            Some(rule) => self.body_by_rule(answer.body, &rule),
            None => self.market_body(answer.body),
        };
        Answer { headers, body, ..answer }
    }

    /// What the request was about, which is needed no more then.
    fn subject(&mut self, id: u64) -> Subject {
        let place = self.unanswered.iter().position(|(known, _)| *known == id);
        place.and_then(|place| self.unanswered.remove(place)).map_or(Subject::Unknown, |(_, subject)| subject)
    }

    fn body_by_rule(&mut self, body: Body, rule: &Rule) -> Body {
        let Some(text) = body.body.as_deref().filter(|text| !text.is_empty()) else { return body };
        let shown = serde_json::from_str(text).ok().and_then(|value| self.by_rule(value, rule));
        match shown {
            Some(value) => Body { body: Some(value.to_string()), left_out_bytes: None },
            None => left_out(body),
        }
    }

    fn by_rule(&mut self, value: Value, rule: &Rule) -> Option<Value> {
        match (rule, value) {
            (_, Value::Null) => Some(Value::Null),
            (Keep, value @ (Value::Bool(_) | Value::Number(_))) => Some(value),
            (Keep, Value::String(text)) if text.len() <= KEPT_TEXT_MAX => {
                Some(Value::String(self.conceal(&text)))
            }
            (Conceal(kind), Value::String(text)) => {
                Some(Value::String(self.secrets.placeholder(*kind, &text)))
            }
            (Conceal(kind), Value::Number(number)) => {
                Some(Value::String(self.secrets.placeholder(*kind, &number.to_string())))
            }
            (Object(rules), Value::Object(members)) => {
                let mut kept = Map::new();
                for (name, member) in members {
                    let rule = rules.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule);
                    if let Some(shown) = rule.and_then(|rule| self.by_rule(member, rule)) {
                        kept.insert(name, shown);
                    }
                }
                Some(Value::Object(kept))
            }
            (List(rule), Value::Array(elements)) => {
                Some(elements.into_iter().filter_map(|element| self.by_rule(element, rule)).collect())
            }
            _ => None,
        }
    }

    /// An answer about markets is kept to the letter, since the spelling of numbers matters,
    /// unless it has members that it should not have.
    fn market_body(&mut self, body: Body) -> Body {
        let Some(text) = body.body.as_deref() else { return body };
        let Ok(mut value) = serde_json::from_str::<Value>(text) else { return left_out(body) };
        let shown = if self.remove_never_public(&mut value) { value.to_string() } else { self.conceal(text) };
        Body { body: Some(shown), left_out_bytes: None }
    }

    fn remove_never_public(&mut self, value: &mut Value) -> bool {
        let mut changed = false;
        match value {
            Value::Object(members) => {
                for (name, kind) in &NEVER_PUBLIC {
                    let Some(member) = members.remove(*name) else { continue };
                    changed = true;
                    if let Some(shown) = kind.and_then(|kind| self.by_rule(member, &Conceal(kind))) {
                        members.insert((*name).to_owned(), shown);
                    }
                }
                members.values_mut().for_each(|member| changed |= self.remove_never_public(member));
            }
            Value::Array(elements) => {
                elements.iter_mut().for_each(|element| changed |= self.remove_never_public(element));
            }
            Value::String(text) => *text = self.conceal(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        changed
    }

    // ---- the stream ----

    /// Replaces the values of telling parameters, wherever they stand in a request or an address.
    fn parameters(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        let first = |rest: &str| {
            let places =
                PARAMETERS.iter().filter_map(|(name, kind)| Some((rest.find(name)? + name.len(), *kind)));
            places.min_by_key(|(place, _)| *place)
        };
        while let Some((start, kind)) = first(rest) {
            let (before, value) = rest.split_at(start);
            shown.push_str(before);
            let end = value.find(['&', '\r', '\n', ' ', '#']).unwrap_or(value.len());
            shown.push_str(&self.placeholder(kind, &value[..end]));
            rest = &value[end..];
        }
        shown.push_str(rest);
        self.conceal(&shown)
    }

    /// Of an HTTP stream, whose pieces end anywhere, what is whole so far: a secret cut in two
    /// would not be known for one.
    fn whole_lines(&mut self, received: Text) -> Option<Text> {
        let Some(unfinished) = self.unfinished.get_mut(&received.socket) else { return Some(received) };
        if is_answer(&received.text) {
            return Some(received);
        }
        let (mut text, skipped) = match unfinished.take() {
            Some(text) => (text + &received.text, 0),
            None => {
                let skipped = received.text.find('\n')? + 1;
                (received.text, skipped)
            }
        };
        let end = text.rfind('\n').map_or(0, |place| place + 1);
        let rest = text.split_off(end);
        // A line beyond all measure is given up.
        *unfinished = (rest.len() <= UNFINISHED_BYTES_MAX).then_some(rest);
        text.drain(..skipped);
        (!text.is_empty()).then_some(Text { text, ..received })
    }

    /// Replaces what the server tells of session and client.
    fn lines(&mut self, text: &str) -> String {
        if !text.contains("CONOK,") && !text.contains("CLIENTIP,") {
            return self.conceal(text);
        }
        let mut shown = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (value, kind) = match line.split_once(',') {
                Some(("CONOK", rest)) => (rest.split([',', '\r', '\n']).next(), Kind::Session),
                Some(("CLIENTIP", rest)) => (rest.split(['\r', '\n']).next(), Kind::Address),
                _ => (None, Kind::Session),
            };
            match value {
                Some(value) => {
                    let (tag, rest) = line.split_at(line.find(',').map_or(0, |comma| comma + 1));
                    shown.push_str(tag);
                    shown.push_str(&self.placeholder(kind, value));
                    shown.push_str(&rest[value.len()..]);
                }
                None => shown.push_str(line),
            }
        }
        self.conceal(&shown)
    }

    fn placeholder(&mut self, kind: Kind, encoded: &str) -> String {
        self.secrets.placeholder(kind, &percent_decode_str(encoded).decode_utf8_lossy())
    }
}

/// Whether this is the answer to a request beside an HTTP stream: it comes whole, perhaps between
/// two pieces of one line of the stream, and no stream over HTTP has lines that begin so.
fn is_answer(text: &str) -> bool {
    let tag = text.split([',', '\r', '\n']).next();
    matches!(tag, Some("REQOK" | "REQERR" | "ERROR")) && text.ends_with('\n')
}

fn left_out(body: Body) -> Body {
    match body.body {
        Some(text) if !text.is_empty() => Body { body: None, left_out_bytes: Some(text.len()) },
        _ => body,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::transcript::format::write;

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        redactor.learn(Kind::Key, "marked-key");
        redactor.learn(Kind::User, "marked-user");
        redactor.learn(Kind::Password, "marked|pass\"word");
        redactor
    }

    fn body(text: impl ToString) -> Body {
        Body { body: Some(text.to_string()), left_out_bytes: None }
    }

    fn shown(redactor: &mut Redactor, entry: Entry) -> Vec<Entry> {
        let mut shown = Vec::new();
        redactor.redact(entry, &mut shown);
        shown
    }

    fn ask(redactor: &mut Redactor, id: u64, method: &str, path: &str, content: Body) -> Request {
        let request = Request { id, method: method.into(), path: path.into(), version: 1, body: content };
        match shown(redactor, Entry::Request(request)).pop() {
            Some(Entry::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn answer(redactor: &mut Redactor, id: u64, status: u16, content: Body) -> Answer {
        let headers =
            Headers { cst: Some("marked-cst".into()), xst: Some("marked-xst".into()), ..Headers::default() };
        let answer = Answer { id, status, headers, body: content, took_ms: 1 };
        match shown(redactor, Entry::Answer(answer)).pop() {
            Some(Entry::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for `path`; what is shown of the answer has to be this.
    #[track_caller]
    fn check(path: &str, status: u16, content: impl ToString, expected: &str) {
        let mut redactor = redactor();
        ask(&mut redactor, 1, "GET", path, Body::default());
        let Body { body, left_out_bytes } = answer(&mut redactor, 1, status, body(content)).body;
        assert_eq!(body.unwrap_or_else(|| format!("{} bytes", left_out_bytes.unwrap())), expected);
    }

    #[test]
    fn of_answers_about_the_account_only_what_is_known_is_kept() {
        let login = json!({
            "accountType": "CFD",
            "accountInfo": { "balance": 123.45 },
            "currencyIsoCode": "GBP",
            "currentAccountId": "ABC12",
            "lightstreamerEndpoint": "https://demo-apd.marketdatasystems.com",
            "accounts": [{ "accountId": "ABC12", "accountName": "My savings", "preferred": true, "birthday": "1.1." }],
            "clientId": 100112233,
            "timezoneOffset": 1,
            "somethingNew": "marked-user",
            "reroutingEnvironment": null,
        });
        let expected = concat!(
            r#"{"accountType":"CFD","accounts":[{"accountId":"ACCOUNT-1","preferred":true}],"clientId":"CLIENT-1","#,
            r#""currencyIsoCode":"GBP","currentAccountId":"ACCOUNT-1","#,
            r#""lightstreamerEndpoint":"https://demo-apd.marketdatasystems.com","reroutingEnvironment":null,"#,
            r#""timezoneOffset":1}"#
        );
        check("/session", 200, &login, expected);
        check(
            "/session?fetchSessionTokens=true",
            200,
            json!({"clientId": {"a": 1}, "accountType": ["x"]}),
            "{}",
        );
        let token = json!({"access_token": "aaaaa", "refresh_token": "bbbbb", "expires_in": "60", "x": 1});
        let hidden = r#"{"access_token":"ACCESS-1","expires_in":"60","refresh_token":"REFRESH-1"}"#;
        check("/session/refresh-token", 200, &token, hidden);
        check("/session", 200, json!({ "oauthToken": token }), &format!(r#"{{"oauthToken":{hidden}}}"#));
        let limits = json!([{"name": "my app", "apiKey": "marked-key", "allowanceAccountOverall": 30, "createdDate": "x"}]);
        check("/operations/application", 200, limits, r#"[{"allowanceAccountOverall":30,"apiKey":"KEY-1"}]"#);
        let accounts =
            json!({"accounts": [{"accountId": "ABC12", "accountAlias": "mine", "balance": {"balance": 1}}]});
        check("/accounts", 200, accounts, r#"{"accounts":[{"accountId":"ACCOUNT-1"}]}"#);
        check("/accounts", 200, "x".repeat(30), "30 bytes");
        check("/positions", 200, json!({"positions": []}), "{}");
        check("/session", 200, json!({"accountType": "x".repeat(KEPT_TEXT_MAX + 1)}), "{}");
    }

    #[test]
    fn of_a_refusal_its_code_is_kept() {
        let refusal = json!({"errorCode": "error.for marked-user", "user": "somebody"});
        for path in ["/session", "/prices/X", "/markets?epics=X", "/elsewhere"] {
            check(path, 403, &refusal, r#"{"errorCode":"error.for USER-1"}"#);
        }
        check("/prices/X", 503, "<html>proxy of somebody</html>", "30 bytes");
    }

    #[test]
    fn answers_about_markets_are_kept_to_the_letter() {
        let prices = "{ \"prices\":[{\"bid\":1.10, \"ask\":1E0}] , \"note\":\"CS.D.EURUSD.CFD.IP\"}";
        check("/prices/CS.D.EURUSD.CFD.IP?max=3", 200, prices, prices);
        check(
            "/markets?epics=X",
            200,
            "{\"a\":1.0,\"b\":\"marked-\\u006bey\"}",
            "{\"a\":1.0,\"b\":\"KEY-1\"}",
        );
        check(
            "/markets/X",
            200,
            json!([{"accountId": "Z9", "accountName": "n", "b": 1}]),
            r#"[{"accountId":"ACCOUNT-1","b":1}]"#,
        );
        check("/markets/X", 200, "no JSON", "7 bytes");
    }

    #[test]
    fn requests_and_headers_show_placeholders_that_hang_together() {
        let mut redactor = redactor();
        let login = json!({"identifier": "marked-user", "password": "marked|pass\"word", "encryptedPassword": false, "x": 1});
        let request = ask(&mut redactor, 1, "POST", "/session", body(login));
        assert_eq!(
            request.body.body.as_deref(),
            Some(r#"{"encryptedPassword":false,"identifier":"USER-1","password":"PASSWORD-1"}"#)
        );
        let first = answer(&mut redactor, 1, 200, body("{}"));
        assert_eq!(
            (first.headers.cst.as_deref(), first.headers.xst.as_deref()),
            (Some("CST-1"), Some("XST-1"))
        );
        let put = ask(
            &mut redactor,
            2,
            "PUT",
            "/session",
            body(json!({"accountId": "ABC13", "defaultAccount": false})),
        );
        assert_eq!(put.body.body.as_deref(), Some(r#"{"accountId":"ACCOUNT-1","defaultAccount":false}"#));
        let path = ask(&mut redactor, 3, "GET", "/history/ABC13?key=marked%2Dkey", body("ABC13"));
        assert_eq!((path.path.as_str(), path.body.left_out_bytes), ("/history/ACCOUNT-1?key=KEY-1", Some(5)));
        let failure = Failure { id: 3, why: "no host for ABC13".into(), took_ms: 1 };
        let shown = shown(&mut redactor, Entry::Failure(failure));
        assert!(
            matches!(&shown[..], [Entry::Failure(Failure { why, .. })] if why == "no host for ACCOUNT-1")
        );
    }

    #[test]
    fn an_answer_to_nobody_shows_no_body() {
        let mut redactor = redactor();
        assert_eq!(answer(&mut redactor, 7, 200, body("[1]")).body.left_out_bytes, Some(3));
        for id in 0..=UNANSWERED_MAX as u64 {
            ask(&mut redactor, id, "GET", "/markets", Body::default());
        }
        assert_eq!(answer(&mut redactor, 0, 200, body("[1]")).body.left_out_bytes, Some(3));
        assert_eq!(answer(&mut redactor, 1, 200, body("[1]")).body.body.as_deref(), Some("[1]"));
    }

    /// The words on one socket as they are shown.
    fn words(kind: SocketKind, entries: &[(bool, &str)]) -> Vec<String> {
        let mut redactor = redactor();
        redactor.learn(Kind::Cst, "tok&en");
        let mut all = shown(
            &mut redactor,
            Entry::Opened(Opened { socket: 1, kind, url: "ws://h/x?LS_session=S0&a=b".into() }),
        );
        for (sent, text) in entries {
            let text = Text { socket: 1, text: (*text).to_owned() };
            redactor.redact(if *sent { Entry::Sent(text) } else { Entry::Received(text) }, &mut all);
        }
        redactor.redact(Entry::Closed(Closed { socket: 1, why: "bye marked-user".into() }), &mut all);
        all.into_iter()
            .map(|entry| match entry {
                Entry::Opened(Opened { url, .. }) => url,
                Entry::Sent(Text { text, .. }) | Entry::Received(Text { text, .. }) => text,
                Entry::Closed(Closed { why, .. }) => why,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn the_streams_words_lose_user_password_session_and_address() {
        let create = "create_session\r\nLS_user=ABC12&LS_cid=x%20y&LS_send_sync=false&LS_password=CST-tok%26en%7CXST-b";
        let spoken = words(
            SocketKind::Ws,
            &[
                (true, create),
                (false, "CONOK,S1a2b,50000,5000,*\r\nSERVNAME,S1a2b here\r\nCLIENTIP,172.28.3.205\r\n"),
                (
                    true,
                    "control\r\nLS_reqId=1&LS_session=S1a2b&LS_op=add&LS_group=g\r\nLS_reqId=2&LS_session=S1a2b",
                ),
                (false, "U,1,1,172.28.3.205|ABC12|1.1"),
                (false, "END,31,by CST-tok%26en%7CXST-b"),
                (true, "bind_session\r\nLS_session=S1a2b&LS_recovery_from=3"),
            ],
        );
        assert_eq!(
            spoken,
            [
                "ws://h/x?LS_session=SESSION-1&a=b",
                "create_session\r\nLS_user=ACCOUNT-1&LS_cid=x%20y&LS_send_sync=false&LS_password=STREAM-PASSWORD-1",
                "CONOK,SESSION-2,50000,5000,*\r\nSERVNAME,SESSION-2 here\r\nCLIENTIP,ADDRESS-1\r\n",
                "control\r\nLS_reqId=1&LS_session=SESSION-2&LS_op=add&LS_group=g\r\nLS_reqId=2&LS_session=SESSION-2",
                "U,1,1,ADDRESS-1|ACCOUNT-1|1.1",
                "END,31,by STREAM-PASSWORD-1",
                "bind_session\r\nLS_session=SESSION-2&LS_recovery_from=3",
                "bye USER-1",
            ]
        );
    }

    #[test]
    fn a_secret_cut_in_two_by_an_http_stream_is_found() {
        let spoken = words(
            SocketKind::Http,
            &[
                (false, "CONOK,S1a"),
                (false, "2b,50000,5000,*\r\nCLIENTIP,172.2"),
                (false, "8.3.205\r\nPROBE"),
                (false, "marked-us"),
                (false, "er"),
            ],
        );
        assert_eq!(
            spoken[1..],
            ["CONOK,SESSION-2,50000,5000,*\r\n", "CLIENTIP,ADDRESS-1\r\n", "PROBEUSER-1", "bye USER-1"]
        );
    }

    #[test]
    fn an_answer_between_two_pieces_of_a_line_of_an_http_stream_is_no_part_of_it() {
        let spoken = words(
            SocketKind::Http,
            &[(false, "U,1,1,a|"), (false, "REQOK,1\r\nREQERR,2,19,of marked-user\r\n"), (false, "b\r\nREQ")],
        );
        assert_eq!(
            spoken[1..],
            ["REQOK,1\r\nREQERR,2,19,of USER-1\r\n", "U,1,1,a|b\r\n", "REQ", "bye USER-1"]
        );
    }

    #[test]
    fn a_line_of_an_http_stream_whose_beginning_is_lost_is_not_shown() {
        let mut redactor = redactor();
        let text = |text: &str| Entry::Received(Text { socket: 1, text: text.to_owned() });
        shown(&mut redactor, Entry::Opened(Opened { socket: 1, kind: SocketKind::Http, url: String::new() }));
        assert!(shown(&mut redactor, text("CLIENTIP,172.")).is_empty());
        redactor.skip_gap();
        assert!(shown(&mut redactor, text("3.2")).is_empty());
        assert_eq!(shown(&mut redactor, text("05\r\nPROBE\r\nPRO")), [text("PROBE\r\n")]);
        assert_eq!(shown(&mut redactor, text("BE\r\n")), [text("PROBE\r\n")]);
        assert!(shown(&mut redactor, text(&"x".repeat(UNFINISHED_BYTES_MAX + 1))).is_empty());
        assert!(shown(&mut redactor, text("x\r\n")).is_empty());
        assert_eq!(shown(&mut redactor, text("PROBE\r\n")), [text("PROBE\r\n")]);
    }

    proptest! {
        /// Whatever is done with the secrets that a conversation brings, none is in the file.
        #[test]
        fn no_secret_survives(
            spots in prop::collection::vec((0..7usize, 0..6usize, "[ -~é]{0,10}", "[ -~é]{0,10}"), 1..20),
        ) {
            let secrets = ["marked-key", "marked-user", "marked|pass\"word", "marked-cst", "marked-xst", "MARKEDACCOUNT"];
            let mut redactor = redactor();
            ask(&mut redactor, 1, "POST", "/session", Body::default());
            answer(&mut redactor, 1, 200, body(json!({"currentAccountId": secrets[5], "accounts": [{"accountName": "MARKEDNAME"}]})));
            let mut file = String::new();
            for (place, secret, before, after) in spots {
                let text = format!("{before}{}{after}", secrets[secret]);
                let coded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
                let words = |text: String| Text { socket: 1, text };
                let entries = match place {
                    0 => vec![Entry::Request(Request { id: 2, method: "GET".into(), path: format!("/prices/{coded}"), version: 3, body: body(&text) })],
                    1 => {
                        ask(&mut redactor, 3, "GET", "/prices/X", Body::default());
                        let content = body(json!({"a": [{"b": &text}], "accountName": &text}));
                        vec![Entry::Answer(Answer { id: 3, status: 200, headers: Headers::default(), body: content, took_ms: 1 })]
                    }
                    2 => {
                        ask(&mut redactor, 4, "GET", "/accounts", Body::default());
                        let content = body(json!({"accounts": [{"status": &text, "other": &text}]}));
                        vec![Entry::Answer(Answer { id: 4, status: 200, headers: Headers::default(), body: content, took_ms: 1 })]
                    }
                    3 => vec![Entry::Sent(words(format!("control\r\nLS_group={coded}&LS_user={coded}")))],
                    4 => vec![Entry::Received(words(format!("U,1,1,{text}|{coded}\r\n")))],
                    5 => vec![Entry::Opened(Opened { socket: 2, kind: SocketKind::Ws, url: format!("wss://{coded}/") })],
                    _ => vec![Entry::Closed(Closed { socket: 2, why: text.clone() })],
                };
                for entry in entries {
                    for entry in shown(&mut redactor, entry) {
                        file.push_str(&write(&entry));
                    }
                }
            }
            for marked in ["marked", "%6D%61rked", "MARKED"] {
                prop_assert!(!file.contains(marked), "{file}");
            }
        }
    }
}
