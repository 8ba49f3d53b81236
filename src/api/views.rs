//! What an answer looks like. Pure.

use serde::Serialize;
use serde_json::{Value, json};

use super::Wait;
use super::asked::Prices;
use super::health::HealthReport;
use crate::columns::{Sides, doubles};
use crate::completeness::Gap;
use crate::domain::coverage::Run;
use crate::healer::wishes::Progress;
use crate::store::{FetchRequest, StoredBar};

/// An error: a word for programs, and the reason for people.
pub fn error(word: &str, reason: &str) -> Value {
    json!({ "error": word, "reason": reason })
}

/// The same where somebody asks for what is not there.
pub fn not_found(routes: &[&str]) -> Value {
    json!({ "error": "not_found", "reason": "there is nothing here", "routes": routes })
}

/// `/healthz` of the process with this number.
pub fn health(report: &HealthReport, pid: u32) -> Value {
    let status = match report {
        report if !report.is_well() => "stuck",
        report if report.is_starting => "starting",
        _ => "ok",
    };
    let rooms = report.rooms.iter().map(|room| {
        json!({
            "name": room.name,
            "state": room.state.as_str(),
            "late_ms": room.late.as_millis() as u64,
            "restarts": room.restarts,
        })
    });
    json!({
        "status": status,
        "at": report.at,
        "stuck": report.stuck().collect::<Vec<_>>(),
        "rooms": rooms.collect::<Vec<_>>(),
        "version": env!("CARGO_PKG_VERSION"),
        // By which somebody who finds the address taken knows whose it is.
        "pid": pid,
    })
}

/// `/v1/candles`.
#[derive(Serialize)]
pub struct BarsView {
    /// As the database spells it.
    pub pair: String,
    /// Minutes.
    pub timeframe: &'static str,
    /// Whose prices these are: `mid`, `bid`, `ask` or `all`.
    pub price: &'static str,
    /// The bars, ascending.
    pub candles: Vec<BarView>,
    /// Nothing is missing, and there are as many bars as were asked for.
    pub complete: bool,
    /// What keeps them from being complete, ascending.
    pub missing: Vec<HoleView>,
    /// The newest bar that is stored is the newest that there should be.
    pub fresh: bool,
    /// When the next one ought to be stored at the latest, epoch seconds; none where that is not known.
    pub expected_by: Option<i64>,
    /// The market's time, epoch seconds, where that is not the system's.
    pub market_time: Option<i64>,
}

/// A bar: its prices of one side, or half of both and beside them those of each.
#[derive(Serialize)]
pub struct BarView {
    time: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: u32,
    source: &'static str,
    revision: u32,
    seq: i64,
    #[serde(flatten)]
    sides: Option<Sides>,
}

impl BarView {
    /// The bar with such prices. Their texts parse to the doubles that they are.
    pub fn of(stored: &StoredBar, price: Prices) -> BarView {
        let bar = &stored.bar;
        let [open, high, low, close] = doubles(stored, price.plain());
        let (volume, source) = (bar.volume, bar.source.as_str());
        let (revision, seq) = (stored.revision, stored.seq);
        let sides = (price == Prices::All).then(|| Sides::of(stored));
        BarView { time: bar.key.start.0, open, high, low, close, volume, source, revision, seq, sides }
    }
}

/// A run of 5-minute buckets that lack what they should have.
#[derive(Serialize)]
pub struct HoleView {
    from: i64,
    to: i64,
    state: &'static str,
    reason: &'static str,
}

impl HoleView {
    /// The same for programs.
    pub fn of(gap: &Gap) -> HoleView {
        let (from, to) = (gap.span.start.0, gap.span.end.0);
        HoleView { from, to, state: gap.state.as_str(), reason: gap.reason }
    }
}

/// `/v1/coverage`.
#[derive(Serialize)]
pub struct LedgerView {
    /// As the database spells it.
    pub pair: String,
    /// Minutes.
    pub timeframe: &'static str,
    /// Beginning of the time asked about, epoch seconds.
    pub from: i64,
    /// Its end.
    pub to: i64,
    /// What is known of it, ascending.
    pub runs: Vec<RunView>,
}

/// A run of buckets in one state, for one reason.
#[derive(Serialize)]
pub struct RunView {
    from: i64,
    to: i64,
    state: &'static str,
    reason: &'static str,
}

impl RunView {
    /// The same for programs.
    pub fn of(run: &Run) -> RunView {
        let (from, to) = (run.span.start.0, run.span.end.0);
        RunView { from, to, state: run.state.as_str(), reason: run.reason.as_str() }
    }
}

/// A request to fetch bars.
#[derive(Debug, Serialize)]
pub struct FetchView {
    /// Its number.
    pub id: i64,
    pair: String,
    timeframe: &'static str,
    from: i64,
    to: i64,
    /// `asked`, `taken`, `waiting`, `done` or `refused`.
    state: &'static str,
    /// More about that, for people.
    note: String,
    /// Until when it waits, where that is known.
    until: Option<i64>,
    asked_at: i64,
    updated_at: i64,
    /// How its buckets stand now.
    buckets: ProgressView,
}

impl FetchView {
    /// The request, how far it is, and what keeps it from going on.
    pub fn of(request: &FetchRequest, buckets: ProgressView, waits: Option<Wait>) -> FetchView {
        let until = waits.as_ref().and_then(|wait| wait.until).map(|until| until.0);
        let (state, note) = match waits {
            Some(Wait { why, .. }) => ("waiting", why),
            None => (request.state.as_str(), request.note.clone()),
        };
        FetchView {
            id: request.id,
            pair: request.pair.to_string(),
            timeframe: request.timeframe.as_str(),
            from: request.span.start.0,
            to: request.span.end.0,
            state,
            note,
            until,
            asked_at: request.asked_at.0,
            updated_at: request.updated_at.0,
            buckets,
        }
    }
}

/// Buckets by what is known of them.
#[derive(Debug, Serialize)]
pub struct ProgressView {
    stored: u64,
    without_bar: u64,
    missing: u64,
    lost: u64,
}

impl ProgressView {
    /// The same for programs.
    pub fn of(Progress { stored, without_bar, missing, lost }: Progress) -> ProgressView {
        ProgressView { stored, without_bar, missing, lost }
    }
}

/// A line of JSON.
pub fn line(view: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(view).expect("a view of numbers and texts is JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::health::{RoomReport, RoomState};

    #[test]
    fn health_names_what_is_stuck() {
        let room = |name, state| RoomReport { name, state, late: Duration::from_millis(1_500), restarts: 2 };
        let rooms = vec![room("stream", RoomState::Running), room("writer", RoomState::Stuck)];
        let told = health(&HealthReport { rooms, ..HealthReport::default() }, 7);
        assert_eq!(told["status"], "stuck");
        assert_eq!(told["stuck"], json!(["writer"]));
        assert_eq!(
            told["rooms"][0],
            json!({ "name": "stream", "state": "running", "late_ms": 1_500, "restarts": 2 })
        );
        assert_eq!(health(&HealthReport::default(), 7)["status"], "ok");
        let starting =
            HealthReport { is_starting: true, at: "waiting for IG".to_owned(), ..HealthReport::default() };
        let told = health(&starting, 7);
        assert_eq!((&told["status"], &told["at"]), (&json!("starting"), &json!("waiting for IG")));
        let stuck = health(&HealthReport { start_late: Some(Duration::from_secs(1)), ..starting }, 7);
        assert_eq!((&stuck["status"], &stuck["stuck"]), (&json!("stuck"), &json!(["start"])));
    }
}
