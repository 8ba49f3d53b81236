//! Control requests: what subscriptions a session has.

use std::time::Instant;

use super::session::{Item, Session, Subscription};
use super::{Feed, Refusals, Refused, Transport, Unfiltered, line, refuse};
use crate::domain::Pair;
use crate::simulator::desk::AccountType;
use crate::simulator::market::BUCKET_S;
use crate::simulator::tlcp::{Field, Params, Row, code, plain, write_line};

/// Items that one session may subscribe to (IG's limit).
const ITEMS_MAX: usize = 40;

/// What a control request leaves to be done once it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    Nothing,
    /// The session has lines to send.
    Session(u64),
    /// The session is to be unbound, and its socket perhaps closed.
    Rebind {
        serial: u64,
        delay_ms: u64,
        close: bool,
    },
    /// The session is to end, and its socket perhaps to be closed.
    End {
        serial: u64,
        code: i32,
        text: String,
        close: bool,
    },
}

impl Feed {
    /// Carries out one line of control parameters. The answer belongs to the connection that the
    /// request came on; what it leads to goes where the session is bound, by [`Feed::finish`].
    pub(super) fn control(
        &mut self,
        text: &str,
        default: Option<u64>,
        transport: Transport,
    ) -> (Vec<u8>, Touched) {
        let params = match Params::parse(text) {
            Ok(params) => params,
            Err(error) => return (self.error(code::MALFORMED, &error.to_string()), Touched::Nothing),
        };
        let valid = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let Some(request) = params.get("LS_reqId").filter(valid) else {
            return (self.error(code::MALFORMED, "Missing or bad LS_reqId"), Touched::Nothing);
        };
        let outcome = match self.find_session(params.get("LS_session"), default) {
            Some(serial) => self.control_session(serial, &params, request),
            None => Err(refuse(code::SESSION_UNKNOWN, "Session not found")),
        };
        match outcome {
            Ok(touched) => {
                let silent = transport == Transport::WebSocket && params.is_false("LS_ack");
                (if silent { Vec::new() } else { line(format_args!("REQOK,{request}")) }, touched)
            }
            Err((code, text)) => {
                self.totals.refusals += 1;
                (line(format_args!("REQERR,{request},{code},{}", plain(&text))), Touched::Nothing)
            }
        }
    }

    /// Does what an answered request asked for.
    pub(super) fn finish(&mut self, touched: Touched, real: Instant) {
        let (id, close) = match touched {
            Touched::Nothing => return,
            Touched::Session(serial) => return self.flush(serial, real),
            Touched::Rebind { serial, delay_ms, close } => {
                (self.unbind_with_loop(serial, delay_ms, real), close)
            }
            Touched::End { serial, code, text, close } => (self.end(serial, code, &text), close),
        };
        if close && let Some(connection) = id.and_then(|id| self.connections.get(&id)) {
            connection.outbox.close();
        }
    }

    fn control_session(&mut self, serial: u64, params: &Params, request: &str) -> Result<Touched, Refused> {
        let session = self.sessions.get_mut(&serial).expect("it was just found");
        if !session.takes_request_id(request) {
            return Err(refuse(code::BAD_VALUE, "LS_reqId already used"));
        }
        let close = params.is_true("LS_close_socket");
        match params.get("LS_op") {
            Some("add") => self.add(serial, params)?,
            Some("delete") => {
                let sub_id = subscribed(session, params)?;
                if let Some(subscription) = session.subscriptions.remove(&sub_id) {
                    for item in &subscription.items {
                        self.candles.unwatch(item.series);
                    }
                }
                session.write_data(format_args!("UNSUB,{sub_id}"));
            }
            Some("reconf") => {
                let sub_id = subscribed(session, params)?;
                if session.subscriptions[&sub_id].unfiltered {
                    return Err(refuse(code::RECONF_UNFILTERED, "Subscription is unfiltered"));
                }
                let frequency = frequency(params)?;
                session.write_data(format_args!("CONF,{sub_id},{frequency},filtered"));
            }
            Some("constrain") => write_line(&mut session.lines, format_args!("CONS,unlimited")),
            Some("force_rebind") => {
                let delay_ms = params.get("LS_polling_millis").and_then(|delay| delay.parse().ok());
                return Ok(Touched::Rebind { serial, delay_ms: delay_ms.unwrap_or(0), close });
            }
            Some("destroy") => {
                let code = params.get("LS_cause_code").and_then(|code| code.parse().ok());
                let code: i32 = code.filter(|code| *code <= 0).unwrap_or(code::DESTROYED);
                let text = params.get("LS_cause_message").unwrap_or("Session closed by the client");
                return Ok(Touched::End { serial, code, text: text.to_owned(), close });
            }
            Some(other) => return Err((code::BAD_VALUE, format!("Unsupported LS_op {other:.40}"))),
            None => return Err(refuse(code::BAD_VALUE, "Missing LS_op")),
        }
        Ok(Touched::Session(serial))
    }

    fn add(&mut self, serial: u64, params: &Params) -> Result<(), Refused> {
        let session = &self.sessions[&serial];
        let sub_id = sub_id(params)?;
        if sub_id <= session.highest_sub_id {
            return Err(refuse(code::BAD_VALUE, "LS_subId must grow"));
        }
        let mode = params.get("LS_mode").ok_or_else(|| refuse(code::BAD_VALUE, "Missing LS_mode"))?;
        let schema = params.get("LS_schema").unwrap_or_default();
        let schema: Vec<Field> = schema
            .split(' ')
            .map(|name| Field::named(name).ok_or_else(|| refuse(code::BAD_SCHEMA, "Invalid schema")))
            .collect::<Result<_, _>>()?;
        let group: Vec<&str> = params.get("LS_group").unwrap_or_default().split(' ').collect();
        if !matches!(params.get("LS_data_adapter"), None | Some("DEFAULT")) {
            return Err(refuse(code::BAD_DATA_ADAPTER, "Data Adapter not found"));
        }
        let snapshot = match params.get("LS_snapshot") {
            Some("true") => true,
            None | Some("false") => false,
            Some(_) => return Err(refuse(code::BAD_VALUE, "Bad LS_snapshot")),
        };
        let account_type =
            session.account_type.ok_or_else(|| refuse(code::ADAPTER, "Invalid account type"))?;
        let wanted = group
            .iter()
            .map(|item| self.check_item(item, mode, account_type))
            .collect::<Result<Vec<_>, _>>()?;
        if session.items() + wanted.len() > ITEMS_MAX {
            return Err(refuse(code::ADAPTER, "Subscription limit exceeded"));
        }
        for (pair, ..) in &wanted {
            if let Some(refused) = self.refused_items.get_mut(pair).and_then(Refusals::next) {
                return Err(refused);
            }
        }
        let wants_unfiltered = params.get("LS_requested_max_frequency") == Some("unfiltered");
        let unfiltered = match (wants_unfiltered, self.settings.unfiltered) {
            (true, Unfiltered::Refused) => {
                return Err(refuse(code::UNFILTERED_REFUSED, "Unfiltered dispatching not allowed"));
            }
            (wants, setting) => wants && setting == Unfiltered::Granted,
        };
        let frequency = if wants_unfiltered { "unlimited".to_owned() } else { frequency(params)? };

        let session = self.sessions.get_mut(&serial).expect("it is the one that was looked at above");
        session.write_data(format_args!("SUBOK,{sub_id},{},{}", wanted.len(), schema.len()));
        let filtered = if unfiltered { "unfiltered" } else { "filtered" };
        session.write_data(format_args!("CONF,{sub_id},{frequency},{filtered}"));
        let mut items: Vec<Item> = Vec::with_capacity(wanted.len());
        for (place, (pair, length_s, decimals)) in wanted.into_iter().enumerate() {
            let series = self.candles.watch(pair, length_s);
            let mut item = Item::new(pair, series, decimals, sub_id, place + 1);
            let stalled = self.stalled.get(&pair).copied();
            item.stalled_until = stalled.filter(|until| self.candles.now() < *until);
            let shown = if snapshot && item.is_plain() { self.snapshot(series) } else { None };
            // An item without a price yet has no snapshot; its first update will look like one.
            if let Some(row) = shown {
                let session = self.sessions.get_mut(&serial).expect("it was there a moment ago");
                let begin = session.lines.len();
                item.tell(&mut session.lines, &schema, &row);
                session.sent.append(&session.lines[begin..], 1);
                self.totals.rows += 1;
            }
            items.push(item);
        }
        let session = self.sessions.get_mut(&serial).expect("it was there a moment ago");
        session.highest_sub_id = sub_id;
        session.subscriptions.insert(sub_id, Subscription { schema, unfiltered, items });
        Ok(())
    }

    /// The row that a new subscription shows first.
    fn snapshot(&mut self, series: usize) -> Option<Row> {
        match self.old_snapshots.checked_sub(1) {
            Some(left) => {
                self.old_snapshots = left;
                self.candles.previous_row(series)
            }
            None => self.candles.forming_row(series),
        }
    }

    /// Pair, candle length in seconds, and decimals of an item that may be subscribed to.
    fn check_item(
        &self,
        item: &str,
        mode: &str,
        account: AccountType,
    ) -> Result<(Pair, i64, usize), Refused> {
        let bad_group = || refuse(code::BAD_GROUP, "Invalid group");
        let mut parts = item.split(':');
        let (Some("CHART"), Some(epic), Some(scale), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad_group());
        };
        let instrument = self.listing.find(epic).ok_or_else(bad_group)?;
        let length_s = match scale {
            "SECOND" => 1,
            "1MINUTE" => 60,
            "5MINUTE" => BUCKET_S,
            "HOUR" => 3600,
            // Single ticks come in DISTINCT mode, which the simulator does not serve.
            "TICK" if mode == "MERGE" => {
                return Err(refuse(code::BAD_MODE, "Invalid mode for these items"));
            }
            _ => return Err(bad_group()),
        };
        if mode != "MERGE" {
            return Err(refuse(code::BAD_MODE, "Invalid mode for these items"));
        }
        if !instrument.product.seen_by(account) {
            return Err(refuse(code::ADAPTER, "Invalid account type"));
        }
        Ok((instrument.pair, length_s, instrument.decimals))
    }
}

fn sub_id(params: &Params) -> Result<u32, Refused> {
    params
        .get("LS_subId")
        .and_then(|id| id.parse().ok())
        .filter(|id| *id > 0)
        .ok_or_else(|| refuse(code::BAD_VALUE, "Missing or bad LS_subId"))
}

/// The subscription that a request names, if there is one.
fn subscribed(session: &Session, params: &Params) -> Result<u32, Refused> {
    let id = sub_id(params)?;
    let known = session.subscriptions.contains_key(&id);
    known.then_some(id).ok_or_else(|| refuse(code::SUBSCRIPTION_UNKNOWN, "Subscription not found"))
}

/// The frequency that `CONF` confirms: the wish, since rows are rarer than any sensible one.
fn frequency(params: &Params) -> Result<String, Refused> {
    match params.get("LS_requested_max_frequency") {
        None | Some("unlimited") => Ok("unlimited".to_owned()),
        Some(wish) => match wish.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(wish.to_owned()),
            _ => Err(refuse(code::BAD_VALUE, "Bad LS_requested_max_frequency")),
        },
    }
}
