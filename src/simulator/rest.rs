//! IG's REST API, as far as a candle collector and the public client libraries use it.
//!
//! One handler routes everything under `/gateway/deal` by method, path and the `VERSION` header,
//! because IG means a version as part of the address.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{DATE, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::clock::monotonic;
use super::desk::{AccountType, Caller, Desk, OauthTokens, Refusal, Sender, Tokens};
use super::listing::{Instrument, Product};
use super::market::is_open;
use super::prices::{self, Request, Version};
use crate::domain::Timestamp;

/// Where the API begins.
pub(crate) const BASE_PATH: &str = "/gateway/deal";
/// Most epics of one `GET /markets`.
const EPICS_MAX: usize = 50;
/// Requests a minute that an application record names where there is no limit.
const UNLIMITED_REQUESTS: u32 = 1_000_000;
/// An identifier that no client needs, but IG sends.
const CLIENT_ID: &str = "100112233";

/// What is sent back, before it becomes a response.
struct Reply {
    body: Vec<u8>,
    tokens: Option<Tokens>,
}

impl From<Value> for Reply {
    fn from(body: Value) -> Reply {
        Reply { body: body.to_string().into_bytes(), tokens: None }
    }
}

impl Reply {
    fn with_tokens(body: Value, tokens: Tokens) -> Reply {
        Reply { tokens: Some(tokens), ..Reply::from(body) }
    }
}

/// A request with everything that its answer may depend on.
struct Call<'a> {
    shared: &'a Shared,
    sender: Sender<'a>,
    query: HashMap<String, String>,
    body: &'a [u8],
    /// Where the stream is: whatever this request was sent to, which may be a proxy that has taken TLS off.
    base: String,
    real: Instant,
    now: Timestamp,
}

/// Answers any request under [`BASE_PATH`].
pub(crate) async fn handle(
    request: HttpRequest,
    body: web::Bytes,
    shared: web::Data<Arc<Shared>>,
) -> HttpResponse {
    shared.rest_requests.fetch_add(1, Ordering::Relaxed);
    let headers = request.headers();
    let path = request.path().strip_prefix(BASE_PATH).unwrap_or_default();
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    // A DELETE with a body is sent as a POST that says what it means.
    let method = match header(headers, "_method") {
        Some(method) if request.method() == "POST" => method,
        _ => request.method().as_str(),
    };
    let call = Call {
        shared: &shared,
        sender: Sender {
            api_key: header(headers, "X-IG-API-KEY"),
            cst: header(headers, "CST"),
            xst: header(headers, "X-SECURITY-TOKEN"),
            bearer: header(headers, "Authorization").and_then(|text| text.strip_prefix("Bearer ")),
            account_id: header(headers, "IG-ACCOUNT-ID"),
        },
        query: web::Query::<HashMap<String, String>>::from_query(request.query_string())
            .map(web::Query::into_inner)
            .unwrap_or_default(),
        body: &body,
        base: {
            let told = request.connection_info();
            format!("{}://{}", told.scheme(), told.host())
        },
        real: monotonic(),
        now: shared.now(),
    };
    let mut response = match call.route(method, &segments, header(headers, "VERSION").unwrap_or("1")) {
        Ok(reply) => {
            let mut response = HttpResponse::Ok();
            response.content_type("application/json; charset=UTF-8");
            if let Some(tokens) = reply.tokens {
                response.insert_header(("CST", tokens.cst));
                response.insert_header(("X-SECURITY-TOKEN", tokens.xst));
            }
            let garbage = shared.rest_faults().garbage(path);
            response.body(match garbage {
                Some(garbage) => garbage.garble(&reply.body),
                None => reply.body,
            })
        }
        Err(refusal) => {
            shared.rest_refusals.fetch_add(1, Ordering::Relaxed);
            log::debug!("refused {method} {path}: {} {}", refusal.status, refusal.code);
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            HttpResponse::build(status)
                .content_type("application/json; charset=UTF-8")
                .body(json!({ "errorCode": refusal.code }).to_string())
        }
    };
    // Where its time goes as fast as the real one, its clock is one to go by.
    if shared.in_real_time
        && let Ok(date) = HeaderValue::from_str(&http_date(call.now))
    {
        response.headers_mut().insert(DATE, date);
    }
    response
}

fn http_date(time: Timestamp) -> String {
    time.utc().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Call<'_> {
    fn route(&self, method: &str, path: &[&str], version: &str) -> Result<Reply, Refusal> {
        if let Some(refusal) = self.shared.rest_faults().refusal(&path.join("/")) {
            return Err(refusal);
        }
        self.desk().admit_key(&self.sender, self.real)?;
        match (method, path, version) {
            ("POST", ["session"], "1" | "2") => self.login(),
            ("POST", ["session"], "3") => self.login_oauth(),
            ("POST", ["session", "refresh-token"], "1") => self.refresh(),
            ("GET", ["session"], "1") => self.session(&self.admit()?),
            ("PUT", ["session"], "1") => self.switch(&self.admit()?),
            ("DELETE", ["session"], "1") => {
                let caller = self.admit()?;
                self.desk().close_session(&caller);
                Ok(Reply { body: Vec::new(), tokens: None })
            }
            ("GET", ["accounts"], "1") => self.accounts(&self.admit()?),
            ("GET", ["operations", "application"], "1") => self.application(&self.admit()?),
            ("GET", ["markets"], "1") if self.query.contains_key("searchTerm") => self.search(&self.admit()?),
            ("GET", ["markets"], "1" | "2") => self.markets(&self.admit()?),
            ("GET", ["markets", epic], "1" | "2" | "3" | "4") => {
                let found = self.visible(&self.admit()?, epic);
                let instrument = found.ok_or_else(|| Refusal::new(404, "error.public-api.epic-not-found"))?;
                Ok(self.details(&instrument).into())
            }
            ("GET", ["prices", epic], "3") => {
                let caller = self.admit()?;
                let request = Request::v3(&self.query, self.shared.zones, self.now)?;
                self.prices(&caller, epic, Version::V3, request)
            }
            ("GET", ["prices", epic, resolution], "1") => {
                let caller = self.admit()?;
                let date = |name: &str| {
                    let missing = || Refusal::new(400, "error.invalid.daterange");
                    self.query.get(name).map(String::as_str).ok_or_else(missing)
                };
                let (from, to) = (date("startdate")?, date("enddate")?);
                let request = Request::range(resolution, from, to, Version::V1, self.shared.zones)?;
                self.prices(&caller, epic, Version::V1, request)
            }
            ("GET", ["prices", epic, resolution, count], "1" | "2") => {
                let caller = self.admit()?;
                let request = Request::last(resolution, count, self.now)?;
                let version = if version == "1" { Version::V1 } else { Version::V2 };
                self.prices(&caller, epic, version, request)
            }
            ("GET", ["prices", epic, resolution, from, to], "2") => {
                let caller = self.admit()?;
                let request = Request::range(resolution, from, to, Version::V2, self.shared.zones)?;
                self.prices(&caller, epic, Version::V2, request)
            }
            _ => Err(Refusal::new(404, "invalid.url")),
        }
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.shared.desk()
    }

    fn admit(&self) -> Result<Caller, Refusal> {
        self.desk().admit(&self.sender, self.real)
    }

    fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, Refusal> {
        serde_json::from_slice(self.body).map_err(|_| Refusal::new(400, "invalid.input"))
    }

    // ---- sessions ----

    fn check_login(&self) -> Result<(), Refusal> {
        self.shared.logins.fetch_add(1, Ordering::Relaxed);
        #[derive(Deserialize)]
        struct Login {
            identifier: String,
            password: String,
        }
        let login: Login = self.json()?;
        self.desk().check_password(&login.identifier, &login.password)
    }

    fn login(&self) -> Result<Reply, Refusal> {
        self.check_login()?;
        let mut desk = self.desk();
        let (active, tokens) = desk.open_session(self.real);
        let accounts: Vec<Value> = desk
            .accounts()
            .iter()
            .map(|account| {
                json!({
                    "accountId": account.id,
                    "accountName": account.name,
                    "preferred": account.preferred,
                    "accountType": account.account_type.as_str(),
                })
            })
            .collect();
        let account = &desk.accounts()[active];
        let body = json!({
            "accountType": account.account_type.as_str(),
            "accountInfo": { "balance": 10000.0, "deposit": 0.0, "profitLoss": 0.0, "available": 10000.0 },
            "currencyIsoCode": "GBP",
            "currencySymbol": "£",
            "currentAccountId": account.id,
            "lightstreamerEndpoint": self.endpoint(),
            "accounts": accounts,
            "clientId": CLIENT_ID,
            "timezoneOffset": self.shared.zones.hours_at(self.shared.now()),
            "hasActiveDemoAccounts": true,
            "hasActiveLiveAccounts": false,
            "trailingStopsEnabled": false,
            "reroutingEnvironment": null,
            "dealingEnabled": true,
        });
        Ok(Reply::with_tokens(body, tokens))
    }

    fn login_oauth(&self) -> Result<Reply, Refusal> {
        self.check_login()?;
        let mut desk = self.desk();
        let (active, oauth) = desk.open_oauth(self.real);
        Ok(json!({
            "clientId": CLIENT_ID,
            "accountId": desk.accounts()[active].id,
            "timezoneOffset": self.shared.zones.hours_at(self.shared.now()),
            "lightstreamerEndpoint": self.endpoint(),
            "oauthToken": self.oauth_json(&oauth),
        })
        .into())
    }

    fn refresh(&self) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct Refresh {
            refresh_token: String,
        }
        let wanted: Refresh = self.json()?;
        let oauth = self.desk().refresh(&wanted.refresh_token, self.real)?;
        Ok(self.oauth_json(&oauth).into())
    }

    fn oauth_json(&self, oauth: &OauthTokens) -> Value {
        json!({
            "access_token": oauth.access,
            "refresh_token": oauth.refresh,
            "scope": "profile",
            "token_type": "Bearer",
            "expires_in": self.shared.access_token_s.to_string(),
        })
    }

    fn session(&self, caller: &Caller) -> Result<Reply, Refusal> {
        let mut desk = self.desk();
        let body = json!({
            "clientId": CLIENT_ID,
            "accountId": desk.accounts()[caller.account].id,
            "timezoneOffset": self.shared.zones.hours_at(self.shared.now()),
            "locale": "en_GB",
            "currency": "GBP",
            "lightstreamerEndpoint": self.endpoint(),
        });
        if self.query.get("fetchSessionTokens").is_some_and(|wish| wish == "true") {
            let tokens = desk.session_tokens(caller, self.real);
            return Ok(Reply::with_tokens(body, tokens));
        }
        Ok(body.into())
    }

    fn switch(&self, caller: &Caller) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Switch {
            account_id: String,
        }
        let wanted: Switch = self.json()?;
        let tokens = self.desk().switch(caller, &wanted.account_id)?;
        let body = json!({
            "trailingStopsEnabled": false,
            "dealingEnabled": true,
            "hasActiveDemoAccounts": true,
            "hasActiveLiveAccounts": false,
        });
        Ok(Reply::with_tokens(body, tokens))
    }

    fn endpoint(&self) -> String {
        self.base.clone()
    }

    // ---- the account ----

    fn accounts(&self, _caller: &Caller) -> Result<Reply, Refusal> {
        let desk = self.desk();
        let accounts: Vec<Value> = desk
            .accounts()
            .iter()
            .map(|account| {
                json!({
                    "accountId": account.id,
                    "accountName": account.name,
                    "accountAlias": null,
                    "status": "ENABLED",
                    "accountType": account.account_type.as_str(),
                    "preferred": account.preferred,
                    "balance": { "balance": 10000.0, "deposit": 0.0, "profitLoss": 0.0, "available": 10000.0 },
                    "currency": "GBP",
                    "canTransferFrom": true,
                    "canTransferTo": true,
                })
            })
            .collect();
        Ok(json!({ "accounts": accounts }).into())
    }

    fn application(&self, _caller: &Caller) -> Result<Reply, Refusal> {
        let desk = self.desk();
        let limits = desk.limits();
        Ok(json!([{
            "name": "simulator",
            "apiKey": self.sender.api_key,
            "status": "ENABLED",
            "allowanceApplicationOverall": limits.per_key.min(UNLIMITED_REQUESTS),
            "allowanceAccountTrading": 100,
            "allowanceAccountOverall": limits.per_account.min(UNLIMITED_REQUESTS),
            "allowanceAccountHistoricalData": desk.allowance_total(),
            "concurrentSubscriptionsLimit": 40,
            "allowEquities": false,
            "allowQuoteOrders": false,
            "createdDate": "2015-01-01",
        }])
        .into())
    }

    fn account_type(&self, caller: &Caller) -> AccountType {
        self.desk().accounts()[caller.account].account_type
    }

    // ---- markets ----

    /// The instrument that an epic names, if the caller's account sees it.
    fn visible(&self, caller: &Caller, epic: &str) -> Option<Instrument> {
        let account_type = self.account_type(caller);
        self.shared.listing().find(epic).filter(|found| found.product.seen_by(account_type))
    }

    fn markets(&self, caller: &Caller) -> Result<Reply, Refusal> {
        let epics = self.query.get("epics").map(String::as_str).unwrap_or_default();
        let epics: Vec<&str> = epics.split(',').map(str::trim).filter(|epic| !epic.is_empty()).collect();
        if epics.is_empty() {
            return Err(Refusal::new(400, "invalid.input"));
        }
        if epics.len() > EPICS_MAX {
            return Err(Refusal::new(400, "error.public-api.too-many-epics"));
        }
        let details: Vec<Value> = epics
            .iter()
            .filter_map(|epic| self.visible(caller, epic))
            .map(|instrument| self.details(&instrument))
            .collect();
        Ok(json!({ "marketDetails": details }).into())
    }

    fn search(&self, caller: &Caller) -> Result<Reply, Refusal> {
        let term = self.query.get("searchTerm").map(String::as_str).unwrap_or_default();
        let letters: String =
            term.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_uppercase();
        let listing = self.shared.listing().clone();
        let found = listing.seen_by(self.account_type(caller));
        let markets: Vec<Value> = found
            .filter(|instrument| !letters.is_empty() && instrument.pair.letters().contains(&letters))
            .map(|instrument| {
                let snapshot = self.snapshot(&instrument);
                json!({
                    "epic": instrument.epic(),
                    "instrumentName": name_of(&instrument),
                    "instrumentType": "CURRENCIES",
                    "expiry": expiry_of(&instrument),
                    "bid": snapshot["bid"],
                    "offer": snapshot["offer"],
                    "high": snapshot["high"],
                    "low": snapshot["low"],
                    "netChange": snapshot["netChange"],
                    "percentageChange": snapshot["percentageChange"],
                    "updateTime": snapshot["updateTime"],
                    "updateTimeUTC": snapshot["updateTime"],
                    "delayTime": 0,
                    "streamingPricesAvailable": true,
                    "marketStatus": snapshot["marketStatus"],
                    "scalingFactor": instrument.scaling_factor,
                })
            })
            .collect();
        Ok(json!({ "markets": markets }).into())
    }

    fn details(&self, instrument: &Instrument) -> Value {
        let pair = instrument.pair;
        let pip = if pair.is_jpy_quoted() { "0.01" } else { "0.0001" };
        json!({
            "instrument": {
                "epic": instrument.epic(),
                "expiry": expiry_of(instrument),
                "name": name_of(instrument),
                "type": "CURRENCIES",
                "marketId": pair.letters(),
                "lotSize": 1.0,
                "unit": "CONTRACTS",
                "streamingPricesAvailable": true,
                "forceOpenAllowed": true,
                "stopsLimitsAllowed": true,
                "controlledRiskAllowed": true,
                "currencies": [{
                    "code": pair.quote(), "symbol": pair.quote(), "baseExchangeRate": 1.0,
                    "exchangeRate": 1.0, "isDefault": true,
                }],
                "onePipMeans": format!("{pip} {}/{}", pair.quote(), pair.base()),
                "valueOfOnePip": "10.00",
                "contractSize": "100000",
                "openingHours": null,
                "expiryDetails": null,
                "rolloverDetails": null,
                "specialInfo": [],
            },
            "dealingRules": {
                "minDealSize": { "unit": "POINTS", "value": 0.5 },
                "marketOrderPreference": "AVAILABLE_DEFAULT_OFF",
            },
            "snapshot": self.snapshot(instrument),
        })
    }

    fn snapshot(&self, instrument: &Instrument) -> Value {
        let one = 10_f64.powi(instrument.decimals as i32);
        let quote = self.shared.market.last_quote(instrument.pair, self.now);
        let bid = quote.map(|tick| f64::from(tick.bid) / one);
        let ask = quote.map(|tick| f64::from(tick.ask) / one);
        json!({
            "marketStatus": if is_open(self.now) { "TRADEABLE" } else { "EDITS_ONLY" },
            "netChange": 0.0,
            "percentageChange": 0.0,
            "updateTime": self.now.utc().format("%H:%M:%S").to_string(),
            "delayTime": 0,
            "bid": bid,
            "offer": ask,
            "high": ask,
            "low": bid,
            "binaryOdds": null,
            "decimalPlacesFactor": instrument.decimals,
            "scalingFactor": instrument.scaling_factor,
            "controlledRiskExtraSpread": 0.8,
        })
    }

    // ---- prices ----

    fn prices(
        &self,
        caller: &Caller,
        epic: &str,
        version: Version,
        request: Request,
    ) -> Result<Reply, Refusal> {
        let instrument = self.visible(caller, epic).ok_or_else(prices::io_error)?;
        let now = self.shared.rest_faults().history_now(self.now, request.length_s);
        let found = prices::find(&self.shared.market, instrument.pair, &request, now)?;
        let (page, pages) = prices::page(&found, &request);
        let allowance = self.desk().spend(page.len() as u32, self.now)?;
        self.shared.points_spent.fetch_add(page.len() as u64, Ordering::Relaxed);
        let zones = self.shared.zones;
        let has_null_leg = self.shared.rest_faults().has_null_leg(instrument.pair);
        let answer =
            prices::Answer { version, instrument, zones, request, page, pages, allowance, has_null_leg };
        let body = answer.to_json().map_err(|_| Refusal::new(500, "system.error"))?;
        Ok(Reply { body, tokens: None })
    }
}

fn name_of(instrument: &Instrument) -> String {
    let mini = if instrument.product == Product::Mini { " Mini" } else { "" };
    format!("{}/{}{mini}", instrument.pair.base(), instrument.pair.quote())
}

fn expiry_of(instrument: &Instrument) -> &'static str {
    if instrument.product == Product::Today { "DFB" } else { "-" }
}
