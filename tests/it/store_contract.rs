//! What the store promises, case by case, on each database.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use candlekeep::aggregator::rollup::{Slot, fold};
use candlekeep::domain::coverage::{Run, replaces};
use candlekeep::domain::{
    Bar, BarKey, Calendar, Fact, FactBatch, Fetched, Mark, Ohlc, Pair, Price, Reason, Source, State,
    Timeframe, Timestamp,
};
use candlekeep::healer::attempts::Attempts;
use candlekeep::healer::book::{self, Watched};
use candlekeep::healer::facts::{self, Reading};
use candlekeep::healer::plan::{self, GiveUp};
use candlekeep::healer::wishes;
use candlekeep::store::{
    AllowanceKey, AllowanceSeen, AllowanceState, Among, AttemptRow, BarQuery, CommitReport, DatabaseUrl,
    Feed, LogEntry, LogPage, LogRead, OPEN_REQUESTS_MAX, REOPENED_KEPT_S, REQUESTS_MAX, Refusals, Reopened,
    RequestState, Revision, RevisionKind, SpendOn, Standby, Store, StoreError, StoredBar, StreamBreak,
    Verdict, back_up, judge,
};
use proptest::prelude::*;

use super::postgres;

/// 2020-03-09 12:00:00 UTC, a Monday.
const NOON: Timestamp = Timestamp(1_583_755_200);
/// The wall clock of the first commit.
const NOW: Timestamp = Timestamp(1_600_000_000);
const EVERYTHING: BarQuery = BarQuery { from: None, to: None, count: None };

/// Runs a case on a fresh database of each kind.
fn on_each_database(case: impl Fn(&DatabaseUrl)) {
    on_each_place(|place| case(&place.url));
}

/// Runs a case on a fresh database of each kind, which it also gets at past the store.
pub(super) fn on_each_place(case: impl Fn(&Place)) {
    let dir = tempfile::tempdir().unwrap();
    case(&Place::file(&dir.path().join("candles.db")));
    if let Some(server) = postgres::shared() {
        let address = server.place();
        case(&Place { url: address.parse().unwrap(), server: Some(address) });
    }
}

/// A database and the way to it past the store.
pub(super) struct Place {
    pub(super) url: DatabaseUrl,
    server: Option<String>,
}

impl Place {
    fn file(path: &Path) -> Place {
        Place { url: DatabaseUrl::sqlite(path), server: None }
    }

    /// Runs statements, each database's own where they are spelled differently.
    fn run(&self, on_sqlite: &str, on_postgres: &str) {
        match &self.server {
            None => self.sqlite().execute_batch(on_sqlite).unwrap(),
            Some(address) => drop(postgres::query(address, on_postgres).unwrap()),
        }
    }

    pub(super) fn number(&self, query: &str) -> i64 {
        match &self.server {
            None => self.sqlite().query_row(query, [], |row| row.get(0)).unwrap(),
            Some(address) => postgres::query(address, query).unwrap()[0][0].parse().unwrap(),
        }
    }

    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.url.sqlite_path().unwrap()).unwrap()
    }
}

fn pair(text: &str) -> Pair {
    text.parse().unwrap()
}

fn eur() -> Pair {
    pair("EURUSD")
}

/// A bar whose prices follow from one number, with bid and ask of different shape.
fn bar(pair: Pair, timeframe: Timeframe, start: Timestamp, pips: i64, volume: u32, source: Source) -> Bar {
    let side = |[open, high, low, close]: [i64; 4]| {
        let price = |offset: i64| Price::from_units(100_000_000 + pips * 10_000 + offset).unwrap();
        Ohlc { open: price(open), high: price(high), low: price(low), close: price(close) }
    };
    Bar {
        key: BarKey { pair, timeframe, start },
        bid: side([0, 3_000 + pips, -2_000, 1_000]),
        ask: side([700, 3_900, -1_500 - pips, 1_600]),
        volume,
        source,
    }
}

/// A streamed bar of the n-th 5-minute slot after noon.
fn streamed(slot: i64, pips: i64, volume: u32) -> Bar {
    bar(eur(), Timeframe::M5, NOON.plus(slot * 300), pips, volume, Source::Stream)
}

fn marked(slots: Range<i64>, state: State, reason: Reason) -> Fact {
    let span = NOON.plus(slots.start * 300)..NOON.plus(slots.end * 300);
    Fact::Marked(Mark { pair: eur(), timeframe: Timeframe::M5, span, state, reason })
}

fn batch(evidence: &str, facts: impl IntoIterator<Item = Fact>) -> Arc<FactBatch> {
    Arc::new(FactBatch { evidence: evidence.into(), facts: facts.into_iter().collect() })
}

fn settled(bars: &[Bar]) -> Arc<FactBatch> {
    batch("session 1", bars.iter().copied().map(Fact::Settled))
}

fn commit(store: &mut Store, batch: Arc<FactBatch>, now: Timestamp) -> CommitReport {
    store.commit(&[batch], now).unwrap()
}

fn all(store: &mut Store, timeframe: Timeframe) -> Vec<StoredBar> {
    store.bars(eur(), timeframe, &EVERYTHING).unwrap()
}

fn values(bars: &[StoredBar]) -> Vec<Bar> {
    bars.iter().map(|stored| stored.bar).collect()
}

/// The ledger as text: a letter for each 5-minute slot from noon on, a bar between runs.
fn ledger(store: &mut Store, timeframe: Timeframe, slots: i64) -> String {
    let runs = store.coverage(eur(), timeframe, NOON..NOON.plus(slots * 300)).unwrap();
    let (mut text, mut at) = (String::new(), NOON);
    for (ix, run) in runs.iter().enumerate() {
        if ix > 0 && runs[ix - 1].span.end == run.span.start {
            text.push('|');
        }
        let letter = &run.state.as_str()[..1];
        text += &".".repeat((run.span.start.since(at) / 300) as usize);
        text += &letter.repeat((run.span.end.since(run.span.start) / 300) as usize);
        at = run.span.end;
    }
    text
}

#[test]
fn a_settled_bar_is_stored_as_it_was() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let report = commit(&mut store, settled(&[streamed(0, 5, 77)]), NOW);
        assert_eq!(report, CommitReport { inserted: 1, last_seq: 1, ..CommitReport::default() });
        let expected = StoredBar {
            bar: streamed(0, 5, 77),
            created_at: NOW,
            updated_at: NOW,
            revision: 0,
            seq: 1,
            feed_id: None,
        };
        assert_eq!(all(&mut store, Timeframe::M5), [expected]);
        assert_eq!(store.bar(expected.bar.key).unwrap(), Some(expected));
        assert_eq!(ledger(&mut store, Timeframe::M5, 2), "s");
    });
}

#[test]
fn the_same_bar_again_changes_nothing() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let bars = [streamed(0, 5, 7), streamed(1, 5, 7), streamed(2, 5, 7)];
        commit(&mut store, settled(&bars), NOW);
        let (fives, fifteens) = (all(&mut store, Timeframe::M5), all(&mut store, Timeframe::M15));
        let again = batch("session 2", bars.iter().copied().map(Fact::Settled));
        let report = commit(&mut store, again, NOW.plus(60));
        assert_eq!(report, CommitReport { unchanged: 3, last_seq: 4, ..CommitReport::default() });
        assert_eq!(all(&mut store, Timeframe::M5), fives);
        assert_eq!(all(&mut store, Timeframe::M15), fifteens);
        let runs = store.coverage(eur(), Timeframe::M5, NOON..NOON.plus(900)).unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(&*runs[0].evidence, "session 1", "whose bar is stored is whose evidence counts");
    });
}

#[test]
fn a_correction_keeps_the_old_value() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7)]), NOW);
        let report = commit(&mut store, settled(&[streamed(0, 6, 8)]), NOW.plus(60));
        assert_eq!(report, CommitReport { revised: 1, last_seq: 2, ..CommitReport::default() });
        let stored = all(&mut store, Timeframe::M5)[0];
        assert_eq!(stored.bar, streamed(0, 6, 8));
        assert_eq!((stored.created_at, stored.updated_at), (NOW, NOW.plus(60)));
        assert_eq!((stored.revision, stored.seq), (1, 2));

        let revisions = store.revisions(eur(), Timeframe::M5, NOON..NOON.plus(300)).unwrap();
        let [old] = revisions[..] else { panic!("{revisions:?}") };
        assert_eq!((old.bar, old.kind, old.seq), (streamed(0, 5, 7), RevisionKind::Superseded, 1));
        assert_eq!((old.valid_from, old.valid_to, old.revision), (NOW, NOW.plus(60), 0));
    });
}

#[test]
fn a_corrected_value_that_comes_again_is_no_correction() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        // With as many ticks, as from a spool whose first attempt was stored though nobody said so.
        let told = [streamed(0, 5, 7), streamed(0, 6, 7)];
        commit(&mut store, settled(&told), NOW);
        let stored = all(&mut store, Timeframe::M5);
        assert_eq!((stored[0].bar, stored[0].revision), (told[1], 1));
        for again in [&told[..], &told[..1], &told[1..]] {
            commit(&mut store, settled(again), NOW.plus(60));
            assert_eq!(all(&mut store, Timeframe::M5), stored, "{again:?}");
        }
        let span = NOON..NOON.plus(300);
        assert_eq!(store.revisions(eur(), Timeframe::M5, span).unwrap().len(), 1);
        let news = commit(&mut store, settled(&[streamed(0, 8, 7)]), NOW.plus(120));
        assert_eq!(news.revised, 1, "another value with as many ticks is one");
    });
}

#[test]
fn a_database_that_has_gone_back_is_written_no_more_until_a_new_start() {
    on_each_place(|place| {
        let mut store = Store::open(&place.url).unwrap();
        for slot in 0..3 {
            commit(&mut store, settled(&[streamed(slot, 5, 7)]), NOW);
        }
        // As after a failover to a replica that lagged, or a backup that was put back.
        let lost = format!(
            "DELETE FROM candles WHERE timestamp >= {0} OR timeframe <> '5'; \
             UPDATE coverage SET to_ts = {0} WHERE timeframe = '5'; DELETE FROM coverage WHERE timeframe <> '5'",
            NOON.plus(300).0
        );
        place.run(&lost, &lost);
        let refused = store.commit(&[settled(&[streamed(3, 5, 7)])], NOW).unwrap_err();
        assert!(matches!(refused, StoreError::WentBack { known: 4, found: 1 }), "{refused:?}");
        assert!(!refused.is_retryable());
        assert_eq!(ledger(&mut store, Timeframe::M5, 4), "s");
        // A new one goes on from where the ledger ends.
        let mut store = Store::open(&place.url).unwrap();
        commit(&mut store, settled(&[streamed(1, 5, 7)]), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 4), "ss");
    });
}

#[test]
fn a_refused_value_is_kept_once() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let rest = |pips, volume| bar(eur(), Timeframe::M5, NOON, pips, volume, Source::Rest);
        commit(&mut store, settled(&[streamed(0, 5, 7)]), NOW);
        for _ in 0..3 {
            let report = commit(&mut store, settled(&[rest(6, 9)]), NOW.plus(60));
            assert_eq!((report.refused, report.revised), (1, 0));
        }
        let report = commit(&mut store, settled(&[streamed(0, 7, 6)]), NOW.plus(60));
        assert_eq!(report.refused, 1, "fewer ticks");
        assert_eq!(commit(&mut store, settled(&[rest(5, 9)]), NOW).unchanged, 1, "REST counts ticks its way");

        assert_eq!(values(&all(&mut store, Timeframe::M5)), [streamed(0, 5, 7)]);
        let revisions = store.revisions(eur(), Timeframe::M5, NOON..NOON.plus(300)).unwrap();
        let refused: Vec<Bar> = revisions.iter().map(|revision| revision.bar).collect();
        assert_eq!(refused, [rest(6, 9), streamed(0, 7, 6)]);
        assert!(revisions.iter().all(|revision| revision.kind == RevisionKind::Refused));
    });
}

#[test]
fn an_import_yields_to_the_broker() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let import =
            |slot: i64, pips| bar(eur(), Timeframe::M5, NOON.plus(slot * 300), pips, 0, Source::Import);
        commit(&mut store, settled(&[import(0, 1), streamed(1, 1, 7)]), NOW);
        let report = commit(&mut store, settled(&[streamed(0, 2, 7), import(1, 2)]), NOW);
        assert_eq!((report.revised, report.refused), (1, 1));
        assert_eq!(values(&all(&mut store, Timeframe::M5)), [streamed(0, 2, 7), streamed(1, 1, 7)]);
    });
}

#[test]
fn an_import_beyond_the_end_of_a_watched_ledger_takes_the_time_before_it_along() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let import = |pair, slot: i64| bar(pair, Timeframe::M5, NOON.plus(slot * 300), 1, 0, Source::Import);
        let other = pair("USDJPY");
        store.watch_feeds(&[feed(eur(), "decimal")], NOW).unwrap();
        commit(
            &mut store,
            settled(&[streamed(2, 1, 7), bar(other, Timeframe::M5, NOON, 1, 7, Source::Rest)]),
            NOW,
        );
        let unseen = |pair, span: Range<Timestamp>| {
            let (timeframe, state, reason) = (Timeframe::M5, State::Missing, Reason::Offline);
            vec![Mark { pair, timeframe, span, state, reason }]
        };
        // Before it, beyond it twice, and of a pair that nobody watches.
        let bars = [import(eur(), 0), import(eur(), 5), import(eur(), 6), import(eur(), 8), import(other, 4)];
        let report = store.import(&bars, "import:a.csv", &unseen, NOW).unwrap();
        assert_eq!((report.inserted, report.marks), (5, 2));
        assert_eq!(ledger(&mut store, Timeframe::M5, 9), "s.s|mm|ss|m|s");
        assert_eq!(
            store.coverage(other, Timeframe::M5, slots(0..9)).unwrap().len(),
            2,
            "no hole of it counts"
        );
        assert_eq!(store.import(&bars, "import:a.csv", &unseen, NOW).unwrap().marks, 0);
    });
}

#[test]
fn no_seq_is_given_twice_though_the_bars_that_had_it_are_deleted() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(90, 1, 7)]), NOW);
        let old = |slot: i64| bar(eur(), Timeframe::M5, NOON.plus(slot * 300), 1, 0, Source::Import);
        let last_seq = commit(&mut store, settled(&[old(0), old(2), old(4)]), NOW).last_seq;
        let limit = NOON.plus(50 * 300);
        let deleted = store.delete_before(Timeframe::M5, limit, 100).unwrap();
        assert_eq!((deleted.bars, deleted.has_more), (2, false));
        assert_eq!(store.bars_after(0, 9).unwrap().last().map(|bar| bar.seq), Some(last_seq));
        assert_eq!(commit(&mut store, settled(&[streamed(91, 1, 7)]), NOW).last_seq, last_seq + 1);
        // Now another has the highest.
        assert_eq!(store.delete_before(Timeframe::M5, limit, 100).unwrap().bars, 1);
        assert_eq!(ledger(&mut store, Timeframe::M5, 92), format!("{}ss", ".".repeat(90)));
    });
}

#[test]
fn a_longer_bar_appears_with_its_last_part() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let parts = [streamed(0, 5, 7), streamed(1, 9, 8), streamed(2, 2, 9)];
        commit(&mut store, settled(&parts[..1]), NOW);
        // The last one first: order of arrival does not matter.
        commit(&mut store, settled(&parts[2..]), NOW);
        assert_eq!(all(&mut store, Timeframe::M15), []);
        assert_eq!(ledger(&mut store, Timeframe::M15, 3), "");
        let report = commit(&mut store, settled(&parts[1..2]), NOW);
        assert_eq!((report.inserted, report.derived), (1, 1));
        let folded = fold(Timeframe::M15, NOON, &parts.each_ref().map(Slot::Bar)).unwrap();
        assert_eq!(values(&all(&mut store, Timeframe::M15)), [folded]);
        assert_eq!(ledger(&mut store, Timeframe::M15, 3), "sss");
    });
}

#[test]
fn quiet_and_closed_slots_complete_a_longer_bar_and_missing_ones_do_not() {
    let check = |facts: &[Fact], expected: &[i64]| {
        // Whether the facts come at once or one by one.
        for at_once in [true, false] {
            on_each_database(|url| {
                let mut store = Store::open(url).unwrap();
                if at_once {
                    commit(&mut store, batch("e", facts.iter().cloned()), NOW);
                } else {
                    for fact in facts {
                        commit(&mut store, batch("e", [fact.clone()]), NOW);
                    }
                }
                let slots: Vec<i64> = all(&mut store, Timeframe::M15)
                    .iter()
                    .map(|stored| stored.bar.key.start.since(NOON) / 300)
                    .collect();
                assert_eq!(slots, expected, "{facts:?} at once: {at_once}");
            });
        }
    };
    let stored = |slot| Fact::Settled(streamed(slot, 5, 7));
    let quiet = |slots| marked(slots, State::Quiet, Reason::LaterRow);
    let closed = |slots| marked(slots, State::Closed, Reason::Calendar);
    let missing = |slots| marked(slots, State::Missing, Reason::Silent);
    let lost = |slots| marked(slots, State::Lost, Reason::GivenUp);
    let possibly = |slots| marked(slots, State::Closed, Reason::PossiblyOpen);

    check(&[stored(0), quiet(1..2), closed(2..3)], &[0]);
    check(&[quiet(0..2), stored(2)], &[0]);
    check(&[closed(0..2), stored(2)], &[0]);
    check(&[quiet(0..3)], &[]);
    check(&[stored(0), stored(1), missing(2..3)], &[]);
    check(&[stored(0), stored(1), lost(2..3)], &[]);
    // That nothing came in hours in dispute proves nothing, until something does.
    check(&[stored(0), possibly(1..2), stored(2)], &[]);
    check(&[stored(0), possibly(1..2), stored(2), quiet(1..2)], &[0]);
    check(&[stored(0), possibly(1..2), stored(2), stored(1)], &[0]);
    check(&[stored(0), stored(1), missing(2..3), quiet(2..3)], &[0]);
    // A long mark around bars completes the buckets at both ends of each run of bars.
    check(&[stored(4), stored(5), stored(6), quiet(0..12)], &[3, 6]);
    check(&[stored(4), missing(0..12), quiet(0..12)], &[3]);
    check(&[stored(0), stored(11), quiet(1..11)], &[0, 9]);
}

#[test]
fn a_correction_runs_through_to_the_longer_bars() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        store.set_timeframes(&[Timeframe::H1, Timeframe::M5, Timeframe::M15]);
        let mut parts: Vec<Bar> = (0..12).map(|slot| streamed(slot, slot, 7)).collect();
        let report = commit(&mut store, settled(&parts), NOW);
        assert_eq!((report.inserted, report.derived), (12, 5));

        parts[4] = streamed(4, 50, 9);
        let report = commit(&mut store, settled(&parts[4..5]), NOW.plus(60));
        assert_eq!((report.revised, report.rederived, report.derived), (1, 2, 0));
        let slots: Vec<Slot<'_>> = parts.iter().map(Slot::Bar).collect();
        let hour = fold(Timeframe::H1, NOON, &slots).unwrap();
        assert_eq!(values(&all(&mut store, Timeframe::H1)), [hour]);
        let revisions: Vec<u32> =
            all(&mut store, Timeframe::M15).iter().map(|stored| stored.revision).collect();
        assert_eq!(revisions, [0, 1, 0, 0]);
        assert_eq!(all(&mut store, Timeframe::M5)[4].revision, 1);
        let old = store.revisions(eur(), Timeframe::H1, NOON..NOON.plus(1)).unwrap();
        assert_eq!(old.len(), 1);
        assert_eq!((old[0].bar.volume, old[0].bar.source), (84, Source::Derived));
    });
}

#[test]
fn a_healed_part_completes_a_longer_bar() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let facts = [
            Fact::Settled(streamed(0, 5, 7)),
            marked(1..2, State::Missing, Reason::Disconnected),
            Fact::Settled(streamed(2, 5, 7)),
        ];
        commit(&mut store, batch("session 1", facts), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 3), "s|m|s");
        let [(missing_pair, run)] = &store.missing(Timeframe::M5).unwrap()[..] else { panic!("one run") };
        assert_eq!((*missing_pair, run.reason), (eur(), Reason::Disconnected));
        assert_eq!(run.span, NOON.plus(300)..NOON.plus(600));

        let healed = bar(eur(), Timeframe::M5, NOON.plus(300), 6, 3, Source::Rest);
        let report = commit(&mut store, batch("rest 9", [Fact::Settled(healed)]), NOW.plus(60));
        assert_eq!((report.inserted, report.derived), (1, 1));
        assert_eq!(store.missing(Timeframe::M5).unwrap(), []);
        assert_eq!(ledger(&mut store, Timeframe::M5, 3), "s|s|s", "each by its own evidence");
    });
}

#[test]
fn what_the_broker_says_of_a_longer_bucket_stays() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let rest = bar(eur(), Timeframe::M15, NOON, 30, 5, Source::Rest);
        commit(&mut store, settled(&[rest]), NOW);
        let parts = [streamed(0, 5, 7), streamed(1, 9, 8), streamed(2, 2, 9)];
        let report = commit(&mut store, settled(&parts), NOW);
        assert_eq!((report.inserted, report.derived, report.refused), (3, 0, 0));
        assert_eq!(values(&all(&mut store, Timeframe::M15)), [rest]);
        let kept = store.revisions(eur(), Timeframe::M15, NOON..NOON.plus(900)).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].kind, kept[0].bar.source), (RevisionKind::Refused, Source::Derived));
    });
}

#[test]
fn runs_join_and_survive_a_restart() {
    on_each_database(|url| {
        for slot in 0..7 {
            let mut store = Store::open(url).unwrap();
            commit(&mut store, settled(&[streamed(slot, slot, 7)]), NOW.plus(slot));
        }
        let mut store = Store::open(url).unwrap();
        assert_eq!(ledger(&mut store, Timeframe::M5, 12), "sssssss");
        assert_eq!(ledger(&mut store, Timeframe::M15, 12), "ssssss");
        // A run that is filled in the middle joins both neighbours.
        let facts =
            [marked(8..9, State::Quiet, Reason::LaterRow), marked(10..11, State::Quiet, Reason::LaterRow)];
        commit(&mut store, batch("session 1", facts), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 12), "sssssss.q.q");
        commit(&mut store, batch("session 1", [marked(9..10, State::Quiet, Reason::LaterRow)]), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 12), "sssssss.qqq");
        commit(&mut store, batch("session 1", [marked(0..12, State::Missing, Reason::Silent)]), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 12), "sssssss|m|qqq|m");
    });
}

#[test]
fn a_run_that_is_told_of_anew_is_what_was_told_last() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, batch("session 1", [marked(0..3, State::Quiet, Reason::LaterRow)]), NOW);
        let told = batch("allowance 9", [marked(0..4, State::Quiet, Reason::NotInRest)]);
        commit(&mut store, told, NOW.plus(60));
        let runs = store.coverage(eur(), Timeframe::M5, NOON..NOON.plus(12 * 300)).unwrap();
        let run = Run {
            span: NOON..NOON.plus(4 * 300),
            state: State::Quiet,
            reason: Reason::NotInRest,
            evidence: "allowance 9".into(),
        };
        assert_eq!(runs, [run]);
        assert_eq!(store.missing(Timeframe::M5).unwrap(), []);
    });
}

#[test]
fn runs_join_where_buckets_of_two_timeframes_do_not_nest() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        store.set_timeframes(&[Timeframe::M10, Timeframe::M15]);
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(1, 5, 7), streamed(2, 5, 7)]), NOW);
        commit(&mut store, settled(&[streamed(3, 5, 7)]), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M10, 6), "ssss");
    });
}

#[test]
fn coverage_is_cut_to_what_was_asked() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let facts =
            [marked(0..4, State::Missing, Reason::Offline), marked(4..8, State::Closed, Reason::Calendar)];
        commit(&mut store, batch("e", facts), NOW);
        let asked = NOON.plus(600)..NOON.plus(1500);
        let runs = store.coverage(eur(), Timeframe::M5, asked).unwrap();
        let spans: Vec<Range<i64>> =
            runs.iter().map(|run| run.span.start.since(NOON)..run.span.end.since(NOON)).collect();
        assert_eq!(spans, [600..1200, 1200..1500]);
        assert_eq!(store.coverage(eur(), Timeframe::M5, NOON.plus(2400)..NOON.plus(9000)).unwrap(), []);
        assert_eq!(store.coverage(eur(), Timeframe::M15, NOON..NOON.plus(9000)).unwrap(), []);
    });
}

#[test]
fn many_pairs_over_a_long_time_are_each_read_for_themselves() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let far = 40 * 24 * 12;
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(far, 5, 7)]), NOW);
        let other =
            |slot: i64| bar(pair("USDJPY"), Timeframe::M5, NOON.plus(slot * 300), 5, 7, Source::Stream);
        commit(&mut store, settled(&[streamed(1, 5, 7), other(far), streamed(far + 1, 5, 7)]), NOW);
        assert_eq!(ledger(&mut store, Timeframe::M5, 4), "ss");
        let span = NOON.plus(far * 300)..NOON.plus(far * 300 + 900);
        assert_eq!(store.coverage(eur(), Timeframe::M5, span.clone()).unwrap().len(), 1);
        assert_eq!(store.coverage(pair("USDJPY"), Timeframe::M5, span).unwrap().len(), 1);
    });
}

#[test]
fn what_is_known_of_a_stretch_is_found_however_long_ago_it_was() {
    const DAY: i64 = 288;
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let pairs = ["AUDUSD", "EURUSD", "NZDUSD", "USDJPY"].map(pair);
        let at = |slot: i64| NOON.plus(slot * 300);
        let mark = |pair, timeframe, slots: Range<i64>, state, reason| {
            Fact::Marked(Mark { pair, timeframe, span: at(slots.start)..at(slots.end), state, reason })
        };
        // A long run, short ones, a hole in what is known, and longer buckets beside; each pair a little later.
        let all: Vec<Fact> = (0..)
            .zip(pairs)
            .flat_map(|(n, pair)| {
                let m5 = |slots, state, reason| mark(pair, Timeframe::M5, slots, state, reason);
                let stored = [n..2 * DAY, 2 * DAY + 3..3 * DAY, 3 * DAY + 3..20 * DAY];
                let stored = stored.map(|slots| m5(slots, State::Stored, Reason::Settled));
                let mut facts = stored.to_vec();
                facts.extend((0..30).map(|ix| {
                    let from = (20 + ix) * DAY + n * 3;
                    m5(from..from + 9, State::Quiet, Reason::LaterRow)
                }));
                facts.push(mark(pair, Timeframe::M15, n * 3..45 * DAY, State::Stored, Reason::Settled));
                facts
            })
            .collect();
        commit(&mut store, batch("e", all), NOW);
        let whole = at(-DAY)..at(60 * DAY);
        let cut = |runs: &[Run], span: &Range<Timestamp>| -> Vec<Run> {
            let met = runs.iter().filter(|run| run.span.start < span.end && span.start < run.span.end);
            met.map(|run| {
                let span = run.span.start.max(span.start)..run.span.end.min(span.end);
                Run { span, ..run.clone() }
            })
            .collect()
        };
        let mut stretches = Vec::new();
        for (pair, timeframe) in
            pairs.iter().flat_map(|pair| [Timeframe::M5, Timeframe::M15].map(|length| (*pair, length)))
        {
            let known = store.coverage(pair, timeframe, whole.clone()).unwrap();
            assert_eq!(known.len(), if timeframe == Timeframe::M5 { 33 } else { 1 });
            for from in [
                -30,
                0,
                3,
                5 * DAY,
                20 * DAY - 3,
                20 * DAY,
                20 * DAY + 3,
                21 * DAY + 9,
                48 * DAY,
                49 * DAY + 30,
            ] {
                for length in [3, 9, DAY, 3 * DAY] {
                    let span = at(from)..at(from + length);
                    let expected = cut(&known, &span);
                    assert_eq!(
                        store.coverage(pair, timeframe, span.clone()).unwrap(),
                        expected,
                        "{pair} {span:?}"
                    );
                    stretches.push(((pair, timeframe, span), expected));
                }
            }
        }
        // Few and many at once, of one time and of all times.
        for many in [1, 4, 7, 60, stretches.len()] {
            for some in stretches.chunks(many) {
                let (asked, expected): (Vec<_>, Vec<_>) = some.iter().cloned().unzip();
                assert_eq!(store.coverage_of_each(&asked).unwrap(), expected);
            }
        }
        let ends = store.covered_to(Timeframe::M5).unwrap();
        let expected = (0..).zip(pairs).map(|(n, pair)| (pair, at(49 * DAY + n * 3 + 9)));
        assert_eq!(ends, expected.collect());
        assert!(store.covered_to(Timeframe::H1).unwrap().is_empty());
        let short = store.buckets_by_state(Timeframe::M5).unwrap();
        assert_eq!(short, [(State::Stored, 4 * (20 * DAY as u64 - 6) - 6), (State::Quiet, 4 * 30 * 9)]);

        // What is learnt joins what it adjoins on either side, of one pair and of all.
        for (some, slots, runs) in
            [(&pairs[..1], 2 * DAY..2 * DAY + 3, 34), (&pairs, 3 * DAY..3 * DAY + 3, 33)]
        {
            let learn = |store: &mut Store, evidence, state, reason| {
                let facts = some.iter().map(|pair| mark(*pair, Timeframe::M5, slots.clone(), state, reason));
                commit(store, batch(evidence, facts), NOW);
            };
            let around = at(slots.start - 1)..at(slots.end + 1);
            learn(&mut store, "gap", State::Missing, Reason::Offline);
            for pair in some {
                let runs = store.coverage(*pair, Timeframe::M5, around.clone()).unwrap();
                let states: Vec<State> = runs.iter().map(|run| run.state).collect();
                assert_eq!(states, [State::Stored, State::Missing, State::Stored]);
            }
            let since = store.since_oldest_missing().unwrap();
            for (pair, timeframe, run) in &since {
                assert!(some.contains(pair) && run.span.end > at(slots.start), "{pair} {timeframe} {run:?}");
            }
            assert_eq!(since.len(), some.len() * runs);
            learn(&mut store, "e", State::Stored, Reason::Settled);
            for pair in some {
                assert_eq!(store.coverage(*pair, Timeframe::M5, around.clone()).unwrap().len(), 1);
            }
        }

        // Where one goes on and the others do not, they end where they did.
        let later = 70 * DAY..70 * DAY + 9;
        let facts = [mark(pairs[3], Timeframe::M5, later.clone(), State::Closed, Reason::Calendar)];
        commit(&mut store, batch("later", facts), NOW);
        let mut expected = ends;
        expected.insert(pairs[3], at(later.end));
        assert_eq!(store.covered_to(Timeframe::M5).unwrap(), expected);
    });
}

#[test]
fn seq_follows_the_order_of_commits_and_is_renewed_by_a_correction() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(1, 5, 7), streamed(0, 5, 7)]), NOW);
        let report = commit(&mut store, settled(&[streamed(1, 6, 8), streamed(2, 5, 7)]), NOW);
        let order: Vec<(i64, String, i64)> = store
            .bars_after(0, usize::MAX)
            .unwrap()
            .iter()
            .map(|stored| {
                let key = stored.bar.key;
                (stored.seq, key.timeframe.to_string(), key.start.since(NOON) / 300)
            })
            .collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(order, [(2, text("5"), 0), (3, text("5"), 1), (4, text("5"), 2), (5, text("15"), 0)]);
        assert_eq!(report.last_seq, 5);
        assert_eq!(store.bars_after(3, 1).unwrap().len(), 1);
        assert_eq!(store.bars_after(5, 10).unwrap(), []);

        // A refused value takes the highest; it is not given again after a restart.
        commit(&mut store, settled(&[bar(eur(), Timeframe::M5, NOON, 9, 9, Source::Rest)]), NOW);
        drop(store);
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(3, 5, 7)]), NOW);
        assert_eq!(store.bars_after(5, 10).unwrap()[0].seq, 7);
    });
}

#[test]
fn a_copy_goes_on_with_numbers_that_what_it_is_of_cannot_give_meanwhile() {
    on_each_database(|url| {
        let dir = tempfile::tempdir().unwrap();
        let mut source = Store::open(&DatabaseUrl::sqlite(dir.path().join("source.db"))).unwrap();
        commit(&mut source, settled(&[streamed(0, 5, 7), streamed(1, 5, 7), streamed(2, 5, 7)]), NOW);
        let mut store = Store::open(url).unwrap();
        source.copy_to(&mut store, "source.db", false, &mut |_, _| {}).unwrap();
        // The source goes on, and somebody hears of it.
        assert_eq!(commit(&mut source, settled(&[streamed(3, 5, 7), streamed(4, 5, 7)]), NOW).last_seq, 6);

        let mut store = Store::open(url).unwrap();
        let quiet = batch("session 2", [marked(3..4, State::Quiet, Reason::LaterRow)]);
        assert_eq!(commit(&mut store, quiet, NOW).last_seq, 4, "no number is given yet");
        assert_eq!(log(&mut store, 4, 9), " ..4");
        assert_eq!(log(&mut store, 5, 9), "Unknown { last: 4 }");
        let last = commit(&mut store, settled(&[streamed(4, 5, 7)]), NOW).last_seq;
        assert!(last > 4 + (1 << 20), "{last}");
        assert_eq!(
            log(&mut store, 4, 9),
            format!("{last}:5*0 ..{last}"),
            "who has no more than the copy goes on"
        );
        for heard in [5, 6, last - 1] {
            assert_eq!(log(&mut store, heard, 9), format!("Unknown {{ last: {last} }}"), "{heard}");
            let from_there = store.log_after(heard, 9, Among::Stored).unwrap();
            assert_eq!(log_of(from_there), format!("Unknown {{ last: {last} }}"), "{heard}");
        }
        assert_eq!(log(&mut store, last, 9), format!(" ..{last}"));
        // Once is enough, whoever writes next.
        assert_eq!(commit(&mut store, settled(&[streamed(7, 5, 7)]), NOW).last_seq, last + 1);
        let mut store = Store::open(url).unwrap();
        assert_eq!(commit(&mut store, settled(&[streamed(10, 5, 7)]), NOW).last_seq, last + 2);

        // A copy of the copy knows both.
        let mut next = Store::open(&DatabaseUrl::sqlite(dir.path().join("next.db"))).unwrap();
        store.copy_to(&mut next, "it", false, &mut |_, _| {}).unwrap();
        let file = bar(eur(), Timeframe::M5, NOON.plus(13 * 300), 5, 7, Source::Import);
        let far = next.import(&[file], "file", &|_, _| Vec::new(), NOW).unwrap().last_seq;
        assert!(far > last + 2 + (1 << 20), "{far}");
        for heard in [5, last + 3] {
            assert_eq!(log(&mut next, heard, 9), format!("Unknown {{ last: {far} }}"), "{heard}");
        }
    });
}

#[test]
fn two_copies_of_one_state_do_not_give_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let source = DatabaseUrl::sqlite(dir.path().join("source.db"));
    commit(&mut Store::open(&source).unwrap(), settled(&[streamed(0, 5, 7)]), NOW);
    let last = |name: &str| {
        let copy = dir.path().join(name);
        back_up(&source, &copy).unwrap();
        commit(&mut Store::open(&DatabaseUrl::sqlite(copy)).unwrap(), settled(&[streamed(1, 5, 7)]), NOW)
            .last_seq
    };
    let (monday, again) = (last("monday.db"), last("again.db"));
    assert!(monday > 1 << 20 && again > 1 << 20 && monday != again, "{monday} {again}");
    assert_eq!(commit(&mut Store::open(&source).unwrap(), settled(&[streamed(1, 5, 7)]), NOW).last_seq, 2);
}

/// What is read behind a `seq`, in short: revision and length of each value by its `seq`, how far that goes, and a
/// plus where there is more.
fn log(store: &mut Store, seq: i64, count_max: usize) -> String {
    log_of(store.log_after(seq, count_max, Among::All).unwrap())
}

/// What was read, in short.
fn log_of(read: LogRead) -> String {
    match read {
        LogRead::Page(LogPage { entries, upto, has_more }) => {
            let entry =
                |entry: &LogEntry| format!("{}:{}*{}", entry.seq, entry.bar.key.timeframe, entry.revision);
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{} ..{upto}{}", entries.join(" "), if has_more { "+" } else { "" })
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn the_log_tells_what_was_replaced_and_what_replaced_it() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        assert_eq!(log(&mut store, 0, 9), " ..0");
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(1, 5, 7), streamed(2, 5, 7)]), NOW);
        assert_eq!(log(&mut store, 0, 9), "1:5*0 2:5*0 3:5*0 4:15*0 ..4");
        commit(&mut store, settled(&[streamed(1, 6, 8)]), NOW);
        commit(&mut store, settled(&[streamed(1, 7, 9)]), NOW);
        // One that was refused takes a place, and is no value of the bar.
        commit(&mut store, settled(&[bar(eur(), Timeframe::M5, NOON, 9, 9, Source::Rest)]), NOW);
        let all = "1:5*0 2:5*0 3:5*0 4:15*0 5:5*1 6:15*1 7:5*2 8:15*2";
        assert_eq!(log(&mut store, 0, 99), format!("{all} ..9"));
        let LogRead::Page(page) = store.log_after(1, 4, Among::All).unwrap() else { panic!("a page") };
        let volumes: Vec<u32> = page.entries.iter().map(|entry| entry.bar.volume).collect();
        assert_eq!((volumes, page.upto, page.has_more), (vec![7, 7, 21, 8], 5, true));
        assert_eq!(log(&mut store, 5, 1), "6:15*1 ..6+");
        assert_eq!(log(&mut store, 8, 4), " ..9");
        assert_eq!(log(&mut store, 9, 4), " ..9");
        assert_eq!(log(&mut store, 10, 4), "Unknown { last: 9 }");
        assert_eq!(store.last_seq().unwrap(), 9);
        // However small the pages are, together they are all.
        for count_max in 1..9 {
            let (mut seq, mut told) = (0, Vec::new());
            while let LogRead::Page(LogPage { entries, upto, has_more }) =
                store.log_after(seq, count_max, Among::All).unwrap()
            {
                told.extend(entries.iter().map(|entry| entry.seq));
                seq = upto;
                if !has_more {
                    break;
                }
            }
            assert_eq!((told, seq), ((1..=8).collect(), 9), "{count_max} a page");
        }
    });
}

#[test]
fn a_page_of_the_log_has_room_for_what_was_refused_and_goes_on_behind_it() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(1, 5, 7)]), NOW);
        let refused: Vec<Bar> =
            (0..20).map(|price| bar(eur(), Timeframe::M5, NOON, 50 + price, 9, Source::Rest)).collect();
        for value in &refused {
            commit(&mut store, settled(&[*value]), NOW);
        }
        commit(&mut store, settled(&[streamed(1, 6, 8)]), NOW);
        assert_eq!(store.last_seq().unwrap(), 23);
        assert_eq!(log(&mut store, 0, 5), "1:5*0 2:5*0 ..5+");
        // No page is longer in reading than the others: it ends although it has nothing to tell.
        assert_eq!([5, 10, 15].map(|seq| log(&mut store, seq, 5)), [" ..10+", " ..15+", " ..20+"]);
        assert_eq!(log(&mut store, 20, 5), "23:5*1 ..23");
    });
}

#[test]
fn the_log_says_where_something_was_deleted_from_it() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(90, 5, 7), streamed(1, 5, 7)]), NOW);
        commit(&mut store, settled(&[streamed(0, 6, 8)]), NOW);
        commit(&mut store, settled(&[streamed(91, 5, 7)]), NOW);
        let limit = NOON.plus(50 * 300);
        assert_eq!(store.delete_before(Timeframe::M5, limit, 100).unwrap().bars, 2);
        let deleted = "Deleted { to: 4, last: 5 }";
        assert_eq!([0, 3].map(|seq| log(&mut store, seq, 9)), [deleted; 2]);
        assert_eq!(log(&mut store, 4, 9), "5:5*0 ..5");
        // Who wants what is still there gets what was stored before the last that is deleted, too.
        let mut stored = |seq| log_of(store.log_after(seq, 1, Among::Stored).unwrap());
        assert_eq!([0, 2, 5].map(&mut stored), ["2:5*0 ..2+", "5:5*0 ..5+", " ..5"]);
        // What is deleted later and was told earlier takes nothing back.
        commit(&mut store, settled(&[bar(eur(), Timeframe::M15, NOON, 1, 7, Source::Rest)]), NOW);
        commit(&mut store, settled(&[streamed(94, 5, 7)]), NOW);
        store.delete_before(Timeframe::M15, limit.floor(900), 100).unwrap();
        assert_eq!(log(&mut store, 5, 9), "Deleted { to: 6, last: 7 }");
        assert_eq!(store.delete_before(Timeframe::M5, limit, 100).unwrap().rows(), 0);
        assert_eq!(log(&mut store, 6, 9), "7:5*0 ..7");
    });
}

#[test]
fn a_value_that_was_refused_is_missed_by_nobody_when_it_is_deleted() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(90, 5, 7)]), NOW);
        commit(&mut store, settled(&[bar(eur(), Timeframe::M5, NOON, 9, 9, Source::Rest)]), NOW);
        commit(&mut store, settled(&[streamed(91, 5, 7)]), NOW);
        let deleted = store.delete_before(Timeframe::M5, NOON.plus(50 * 300), 100).unwrap();
        assert_eq!((deleted.bars, deleted.revisions), (1, 1));
        assert_eq!(log(&mut store, 0, 9), "Deleted { to: 1, last: 4 }");
        assert_eq!(log(&mut store, 1, 9), "2:5*0 4:5*0 ..4");
    });
}

#[test]
fn two_writers_never_give_the_same_seq() {
    on_each_database(|url| {
        let mut stores = [Store::open(url).unwrap(), Store::open(url).unwrap()];
        for slot in 0..20 {
            commit(&mut stores[slot as usize % 2], settled(&[streamed(slot, 5, 7)]), NOW);
        }
        let seqs: Vec<i64> =
            stores[0].bars_after(0, usize::MAX).unwrap().iter().map(|stored| stored.seq).collect();
        assert_eq!(seqs, (1..=26).collect::<Vec<_>>());
        assert_eq!(ledger(&mut stores[1], Timeframe::M5, 20), "s".repeat(20));
    });
}

#[test]
fn bars_are_chosen_by_time_and_count() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let bars: Vec<Bar> = (0..10).map(|slot| streamed(slot, slot, 7)).collect();
        commit(&mut store, settled(&bars), NOW);
        let mut check = |from: Option<i64>, to: Option<i64>, count: Option<usize>, expected: Range<usize>| {
            let at = |slot: Option<i64>| slot.map(|slot| NOON.plus(slot * 300));
            let query = BarQuery { from: at(from), to: at(to), count };
            let found = store.bars(eur(), Timeframe::M5, &query).unwrap();
            assert_eq!(values(&found), bars[expected], "{query:?}");
        };
        check(None, None, None, 0..10);
        check(None, None, Some(3), 7..10);
        check(None, None, Some(0), 0..0);
        check(Some(2), None, None, 2..10);
        check(None, Some(4), None, 0..4);
        check(Some(2), Some(8), Some(3), 5..8);
        check(Some(8), Some(2), None, 0..0);
        assert_eq!(store.bars(pair("USDJPY"), Timeframe::M5, &EVERYTHING).unwrap(), []);
        let last = |slot: i64, timeframe| (eur(), timeframe, NOON.plus(slot * 300));
        assert_eq!(store.last_bars().unwrap(), [last(9, Timeframe::M5), last(6, Timeframe::M15)]);
        assert_eq!(store.counts().unwrap(), [(Timeframe::M5, 10), (Timeframe::M15, 3)]);
    });
}

#[test]
fn a_bot_reads_mid_prices_with_one_plain_query() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("candles.db");
    let mut store = Store::open(&DatabaseUrl::sqlite(&path)).unwrap();
    let side = |prices: [&str; 4]| Ohlc::from_prices(prices.map(|text| Price::parse(text, 0).unwrap()));
    let bar = Bar {
        bid: side(["1.30450", "1.30500", "1.30400", "1.30451"]),
        ask: side(["1.30459", "1.30510", "1.30411", "1.30460"]),
        ..streamed(0, 0, 42)
    };
    commit(&mut store, settled(&[bar, streamed(1, 1, 1)]), NOW);
    let row = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT timestamp, open, high, low, close, volume FROM candles \
             WHERE pair=? AND timeframe=? ORDER BY timestamp DESC LIMIT ? OFFSET 1",
            ("EUR_USD", "5", 2),
            |row| {
                let prices: [f64; 4] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
                Ok((row.get::<_, i64>(0)?, prices, row.get::<_, i64>(5)?))
            },
        )
        .unwrap();
    assert_eq!(row, (NOON.0, [1.304545, 1.30505, 1.304055, 1.304555], 42));
}

#[test]
fn readers_see_five_and_fifteen_minutes_appear_together_while_another_writes() {
    on_each_database(|url| {
        const BUCKETS: i64 = 60;
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 0, 7), streamed(1, 0, 7), streamed(2, 0, 7)]), NOW);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = Store::open_read_only(url).unwrap();
                    let mut seen = 0;
                    while seen < 3 * BUCKETS as usize {
                        let (fives, fifteens) = reader
                            .consistently(|reader| {
                                let fives = reader.bars(eur(), Timeframe::M5, &EVERYTHING)?.len();
                                Ok((fives, reader.bars(eur(), Timeframe::M15, &EVERYTHING)?.len()))
                            })
                            .unwrap();
                        assert_eq!(fives, 3 * fifteens);
                        assert!(fives >= seen, "a bar was gone again");
                        seen = fives;
                    }
                });
            }
            for bucket in 1..BUCKETS {
                let bars: Vec<Bar> = (0..3).map(|slot| streamed(bucket * 3 + slot, bucket, 7)).collect();
                commit(&mut store, settled(&bars), NOW);
            }
        });
    });
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    on_each_place(|place| {
        let mut store = Store::open(&place.url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7)]), NOW);
        place.run(
            "CREATE TRIGGER full BEFORE INSERT ON coverage \
             BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
            "CREATE FUNCTION no_room() RETURNS trigger AS \
             $$ BEGIN RAISE EXCEPTION 'could not extend file'; END $$ LANGUAGE plpgsql; \
             CREATE TRIGGER full_disk BEFORE INSERT ON coverage FOR EACH ROW EXECUTE FUNCTION no_room()",
        );
        let bars = settled(&[streamed(1, 5, 7), streamed(2, 5, 7)]);
        let failed = store.commit(std::slice::from_ref(&bars), NOW).unwrap_err();
        assert!(failed.is_retryable(), "{failed:?}");
        assert_eq!(all(&mut store, Timeframe::M5).len(), 1);
        assert_eq!(all(&mut store, Timeframe::M15).len(), 0);
        place.run("DROP TRIGGER full", "DROP TRIGGER full_disk ON coverage");
        assert_eq!(commit(&mut store, bars, NOW).inserted, 2, "the same again succeeds");
        assert_eq!(ledger(&mut store, Timeframe::M5, 3), "sss");
    });
}

#[test]
fn reading_never_creates_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.db");
    let failed = Store::open_read_only(&DatabaseUrl::sqlite(&path)).map(drop).unwrap_err();
    assert!(matches!(failed, StoreError::Absent { .. }), "{failed:?}");
    assert!(failed.to_string().contains("none.db"), "{failed}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_reader_cannot_write() {
    on_each_database(|url| {
        drop(Store::open(url).unwrap());
        let mut reader = Store::open_read_only(url).unwrap();
        let failed = reader.commit(&[settled(&[streamed(0, 5, 7)])], NOW).unwrap_err();
        assert!(matches!(failed, StoreError::Unwritable { .. }), "{failed:?}");
    });
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path| {
        let failed = Store::open(&DatabaseUrl::sqlite(path)).map(drop).unwrap_err();
        assert!(matches!(failed, StoreError::Unopenable { .. }), "{failed:?}");
        assert!(failed.to_string().contains(path.to_str().unwrap()), "{failed}");
    };
    check(&dir.path().join("no such directory/candles.db"));
    check(dir.path());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        // Root writes everywhere.
        if fs::write(locked.join("probe"), "").is_err() {
            check(&locked.join("candles.db"));
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), if cfg!(unix) { 1 } else { 0 });
}

#[test]
fn a_database_belongs_to_one_environment() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        store.bind_environment("demo", false).unwrap();
        store.bind_environment("demo", false).unwrap();
        drop(store);
        let mut store = Store::open(url).unwrap();
        match store.bind_environment("live", false) {
            Err(StoreError::OtherEnvironment { bound, asked }) => {
                assert_eq!((&*bound, &*asked), ("demo", "live"))
            }
            other => panic!("{other:?}"),
        }
        store.bind_environment("demo", false).unwrap();
        store.bind_environment("live", true).unwrap();
        store.bind_environment("live", false).unwrap();
    });
}

#[test]
fn settings_are_overwritten_and_outlive_a_restart() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.setting("login.last").unwrap(), None);
        store.set_setting("login.last", "1").unwrap();
        store.set_setting("login.last", "2").unwrap();
        drop(store);
        assert_eq!(Store::open(url).unwrap().setting("login.last").unwrap().as_deref(), Some("2"));
    });
}

fn feed(pair: Pair, scale: &str) -> Feed {
    Feed {
        pair,
        epic: format!("CS.D.{}.CFD.IP", pair.letters()),
        environment: "demo".to_owned(),
        account_type: "CFD".to_owned(),
        scale: scale.to_owned(),
        calendar: "forex".to_owned(),
    }
}

#[test]
fn a_feed_is_watched_until_it_is_dropped_and_anew_when_it_returns() {
    on_each_database(|url| {
        let (eur, yen) = (feed(eur(), "1"), feed(pair("USDJPY"), "1"));
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.watch_feeds(&[eur.clone(), yen.clone()], NOW).unwrap(), [1, 2]);
        drop(store);
        // A restart keeps what is watched, in whatever order it is given.
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.watch_feeds(&[yen.clone(), eur.clone()], NOW.plus(100)).unwrap(), [2, 1]);
        assert_eq!(store.watch_feeds(std::slice::from_ref(&yen), NOW.plus(200)).unwrap(), [2]);
        let rescaled = feed(yen.pair, "100");
        let wanted = [rescaled, eur];
        assert_eq!(store.watch_feeds(&wanted, NOW.plus(300)).unwrap(), [3, 4]);
        let watched: Vec<(i64, i64, Option<i64>)> = store
            .feeds()
            .unwrap()
            .iter()
            .map(|feed| (feed.id, feed.watched_from.since(NOW), feed.watched_to.map(|to| to.since(NOW))))
            .collect();
        assert_eq!(watched, [(1, 0, Some(200)), (2, 0, Some(300)), (3, 300, None), (4, 300, None)]);
        assert_eq!(store.feeds().unwrap()[3].feed, wanted[1]);
    });
}

#[test]
fn bars_name_the_feed_that_they_came_from() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        store.watch_feeds(&[feed(pair("USDJPY"), "1"), feed(eur(), "1")], NOW).unwrap();
        let import = bar(eur(), Timeframe::M5, NOON.plus(900), 5, 7, Source::Import);
        let bars = [streamed(0, 5, 7), streamed(1, 5, 7), streamed(2, 5, 7), import];
        commit(&mut store, settled(&bars), NOW);
        let ids = |bars: Vec<StoredBar>| bars.iter().map(|bar| bar.feed_id).collect::<Vec<_>>();
        assert_eq!(ids(all(&mut store, Timeframe::M5)), [Some(2), Some(2), Some(2), None]);
        assert_eq!(ids(all(&mut store, Timeframe::M15)), [Some(2)]);
    });
}

fn allowance_key() -> AllowanceKey {
    AllowanceKey {
        environment: "demo".to_owned(),
        account: "ABC12".to_owned(),
        key_fingerprint: "f1".to_owned(),
    }
}

/// What points are spent on in these tests.
fn on(incident: Option<std::ops::Range<Timestamp>>) -> SpendOn {
    let pair = "EURUSD".parse().unwrap();
    SpendOn { pair, timeframe: Timeframe::M5, span: NOW..NOW.plus(300), incident, what: "a bar".to_owned() }
}

#[test]
fn spends_on_an_incident_and_refusals_count_for_a_week() {
    on_each_database(|url| {
        let key = allowance_key();
        let at = |seconds| NOW.plus(seconds);
        let mut store = Store::open(url).unwrap();
        let (incident, week) = (at(-900)..at(0), 7 * 86_400);
        let seen = AllowanceSeen { remaining: 9_000, total: 10_000, expires_at: at(1_000) };
        let mut spend = |points, incident, at: Timestamp, seen| {
            let id = store.book_spend(&key, points, &on(incident), at).unwrap();
            store.settle_spend(id, points, seen, at).unwrap();
        };
        spend(40, Some(incident.clone()), at(-week), None);
        spend(30, Some(incident.clone()), at(0), None);
        spend(20, None, at(1), None);
        spend(10, Some(incident.clone()), at(2), Some(seen));
        let told = store.allowance(&key, at(3)).unwrap();
        assert_eq!(
            told.on_incidents,
            [(incident.clone(), 30), (incident.clone(), 10)],
            "of the broker's week"
        );
        assert_eq!(told.refusals, None);
        assert_eq!(store.allowance(&key, at(1_001)).unwrap().on_incidents, [], "a new week");

        for second in [4, 5] {
            let id = store.book_spend(&key, 1, &on(None), at(second)).unwrap();
            store.refuse_spend(id, "exceeded", at(second)).unwrap();
        }
        let told = store.allowance(&key, at(6)).unwrap();
        assert_eq!(told.refusals, Some(Refusals { times: 2, last_at: at(5) }));
        assert_eq!(told.spent_since, 0, "a refusal costs nothing");
        assert_eq!(store.allowance(&key, at(1_001)).unwrap().refusals, None, "a new week");
        // One of which nothing is known changes nothing, an answer does.
        let id = store.book_spend(&key, 1, &on(None), at(6)).unwrap();
        store.give_up_spend(id, "timed out", at(6)).unwrap();
        assert_eq!(store.allowance(&key, at(7)).unwrap().refusals, told.refusals);
        let id = store.book_spend(&key, 1, &on(None), at(7)).unwrap();
        store.settle_spend(id, 1, Some(seen), at(7)).unwrap();
        assert_eq!(store.allowance(&key, at(8)).unwrap().refusals, None);
        assert_eq!(store.latest_allowance_key("demo").unwrap(), Some(key));
        assert_eq!(store.latest_allowance_key("live").unwrap(), None);
    });
}

#[test]
fn what_a_plan_rests_on_is_read_from_the_oldest_hole_on() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.since_oldest_missing().unwrap(), []);
        let pair: Pair = "EURUSD".parse().unwrap();
        let mark = |timeframe, from: i64, to: i64, state| {
            let span = NOON.plus(from * 300)..NOON.plus(to * 300);
            Fact::Marked(Mark { pair, timeframe, span, state, reason: Reason::Offline })
        };
        let facts = vec![
            mark(Timeframe::M5, -3, 0, State::Quiet),
            mark(Timeframe::M5, 0, 1, State::Missing),
            mark(Timeframe::M5, 1, 3, State::Quiet),
            mark(Timeframe::M15, 0, 3, State::Quiet),
            mark(Timeframe::H1, 0, 12, State::Missing),
        ];
        store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], NOW).unwrap();
        let told = |store: &mut Store| -> Vec<_> {
            let runs = store.since_oldest_missing().unwrap().into_iter();
            runs.map(|(pair, timeframe, run)| (pair, timeframe, run.span.start.since(NOON) / 300, run.state))
                .collect()
        };
        let expected = [
            (pair, Timeframe::M15, 0, State::Quiet),
            (pair, Timeframe::M5, 0, State::Missing),
            (pair, Timeframe::M5, 1, State::Quiet),
        ];
        assert_eq!(told(&mut store), expected);
        // Of others from their own oldest hole on, and nothing where there is none; one that is days older
        // has no more read of the rest.
        let [pounds, yen]: [Pair; 2] = ["GBPUSD", "USDJPY"].map(|name| name.parse().unwrap());
        let mark = |pair, from: i64, to: i64, state| {
            let span = NOON.plus(from * 300)..NOON.plus(to * 300);
            Fact::Marked(Mark { pair, timeframe: Timeframe::M5, span, state, reason: Reason::Offline })
        };
        let facts = vec![
            mark(yen, -900, 9, State::Quiet),
            mark(pounds, -900, -899, State::Missing),
            mark(pounds, -898, 9, State::Quiet),
            mark(pair, -900, -3, State::Quiet),
        ];
        store.commit(&[Arc::new(FactBatch { evidence: "e".into(), facts })], NOW).unwrap();
        let older =
            [(pounds, Timeframe::M5, -900, State::Missing), (pounds, Timeframe::M5, -898, State::Quiet)];
        assert_eq!(told(&mut store), [older.as_slice(), &expected].concat());
    });
}

#[test]
fn the_allowance_survives_a_restart_and_never_forgets_a_spend() {
    on_each_database(|url| {
        let key = allowance_key();
        let at = |seconds| NOW.plus(seconds);
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.allowance(&key, NOW).unwrap(), AllowanceState::default());

        // Under way, and settled without the broker's numbers: both count.
        let first = store.book_spend(&key, 100, &on(None), at(0)).unwrap();
        assert_eq!(store.allowance(&key, at(1)).unwrap().spent_since, 100);
        store.settle_spend(first, 90, None, at(2)).unwrap();
        assert_eq!(store.allowance(&key, at(3)).unwrap().spent_since, 90);

        // Numbers seen cover what was settled before them.
        let seen = AllowanceSeen { remaining: 9_000, total: 10_000, expires_at: at(1_000) };
        let second = store.book_spend(&key, 50, &on(None), at(4)).unwrap();
        store.settle_spend(second, 50, Some(seen), at(5)).unwrap();
        let expected = AllowanceState {
            seen: Some((seen, at(5))),
            last_booked_at: Some(at(4)),
            ..AllowanceState::default()
        };
        assert_eq!(store.allowance(&key, at(6)).unwrap(), expected);

        // What comes after them counts, and a spend that is never settled does so for good.
        store.book_spend(&key, 7, &on(None), at(7)).unwrap();
        drop(store);
        let mut store = Store::open(url).unwrap();
        assert_eq!(
            store.allowance(&key, at(8)).unwrap(),
            AllowanceState { spent_since: 7, in_doubt: 7, last_booked_at: Some(at(7)), ..expected.clone() }
        );
        assert_eq!(store.give_up_booked_spends(&key, at(9)).unwrap(), 1);
        let third = store.book_spend(&key, 20, &on(None), at(9)).unwrap();
        store.give_up_spend(third, "timed out", at(10)).unwrap();
        assert_eq!(
            store.allowance(&key, at(11)).unwrap(),
            AllowanceState { spent_since: 27, in_doubt: 27, last_booked_at: Some(at(9)), ..expected.clone() }
        );

        // Newer numbers know of all that.
        let newer = AllowanceSeen { remaining: 8_970, ..seen };
        let fourth = store.book_spend(&key, 3, &on(None), at(12)).unwrap();
        store.settle_spend(fourth, 3, Some(newer), at(13)).unwrap();
        let expected = AllowanceState {
            seen: Some((newer, at(13))),
            last_booked_at: Some(at(12)),
            ..AllowanceState::default()
        };
        assert_eq!(store.allowance(&key, at(14)).unwrap(), expected);

        // Once they have expired, only what was spent since then counts.
        store.book_spend(&key, 11, &on(None), at(1_001)).unwrap();
        assert_eq!(store.allowance(&key, at(1_002)).unwrap().spent_since, 11);

        let other = AllowanceKey { key_fingerprint: "f2".to_owned(), ..key };
        assert_eq!(store.allowance(&other, at(14)).unwrap(), AllowanceState::default());
    });
}

#[test]
fn one_process_at_a_time_has_the_lease() {
    on_each_database(|url| {
        let mut one = Store::open(url).unwrap();
        let mut two = Store::open(url).unwrap();
        let mut reader = Store::open_read_only(url).unwrap();
        assert_eq!(reader.lease(NOW).unwrap(), None);

        let first = one.acquire_lease("run", NOW).unwrap();
        // A store that only looked at its own row would let the second one in.
        let refused = two.acquire_lease("backfill", NOW.plus(1)).unwrap_err();
        let StoreError::Leased { by: Some(by) } = &refused else { panic!("{refused}") };
        assert_eq!((by.command.as_str(), by.pid), ("run", i64::from(std::process::id())));
        // A server goes by its own clock.
        let (is_server, since) = (url.sqlite_path().is_none(), by.acquired_at);
        assert!(is_server || since == NOW);
        let line = format!(
            "another process collects into this database: run, pid {} on {}, since {since}; stop it first",
            by.pid, by.host
        );
        assert!(!by.host.is_empty() && refused.to_string() == line, "{refused}");
        one.renew_lease(&first, NOW.plus(8)).unwrap();
        let state = reader.lease(NOW.plus(8)).unwrap().unwrap();
        assert!(state.alive && !state.released);
        assert_eq!((state.acquired_at, state.epoch), (since, 1));
        assert_eq!((one.lease_epoch(), reader.lease_epoch()), (1, 0));
        // Another machine's clock makes nobody silent where the server's counts.
        let far = reader.lease(NOW.plus(1_008)).unwrap().unwrap();
        assert_eq!(far.silent_s(), Some(1_000).filter(|_| !is_server));
        assert!(is_server || state.renewed_at == NOW.plus(8));

        one.release_lease(&first, NOW.plus(12)).unwrap();
        drop(first);
        let state = reader.lease(NOW.plus(13)).unwrap().unwrap();
        assert!(!state.alive && state.released);
        assert!(is_server || state.renewed_at == NOW.plus(12), "when it ended");
        let second = two.acquire_lease("backfill", NOW.plus(13)).unwrap();
        assert_eq!(second.epoch(), 2);
        assert_eq!(reader.lease(NOW.plus(13)).unwrap().unwrap().command, "backfill");
    });
}

#[test]
fn who_has_lost_the_lease_writes_nothing_more() {
    on_each_place(|place| {
        let (mut one, mut two) = (Store::open(&place.url).unwrap(), Store::open(&place.url).unwrap());
        let first = one.acquire_lease("run", NOW).unwrap();
        commit(&mut one, settled(&[streamed(0, 5, 7)]), NOW);
        // It was paused for longer than the lease lasts; on SQLite somebody had to delete the lock for it.
        let expire = "UPDATE lease SET renewed_at = renewed_at - 3600, expires_at = expires_at - 3600 \
                      WHERE name = 'collector'";
        place.run(expire, expire);
        if let Some(path) = place.url.sqlite_path() {
            fs::remove_file(path.with_extension("db.lock")).unwrap();
        }
        let second = two.acquire_lease("run", NOW).unwrap();
        assert_eq!((first.epoch(), second.epoch()), (1, 2));
        let refusals = [
            one.commit(&[settled(&[streamed(1, 5, 7)])], NOW).map(drop),
            one.set_setting("key", "value"),
            one.book_spend(&allowance_key(), 1, &on(None), NOW).map(drop),
            one.renew_lease(&first, NOW),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(StoreError::LeaseLost { .. })), "{refusal:?}");
        }
        one.release_lease(&first, NOW).unwrap();
        commit(&mut two, settled(&[streamed(2, 5, 7)]), NOW);
        assert_eq!(ledger(&mut two, Timeframe::M5, 3), "s.s");
        assert_eq!(two.setting("key").unwrap(), None);
        let state = two.lease(NOW).unwrap().unwrap();
        assert!(!state.released && state.epoch == 2, "who has lost it does not give it back");
    });
}

#[test]
fn who_waits_for_the_lease_is_known_until_it_has_it() {
    on_each_place(|place| {
        let mut leader = Store::open(&place.url).unwrap();
        let lease = leader.acquire_lease("run", NOW).unwrap();
        let mut store = Store::open(&place.url).unwrap();
        let waiting = Standby::new("run", NOW).unwrap();
        assert_eq!(store.standbys(NOW).unwrap(), []);
        store.stand_by(&waiting, NOW).unwrap();
        let standbys = leader.standbys(NOW).unwrap();
        assert_eq!(standbys.len(), 1, "{standbys:?}");
        assert_eq!(standbys[0].pid, i64::from(std::process::id()));
        assert!(matches!(store.take_turn(&waiting, None, NOW), Err(StoreError::Leased { .. })));
        leader.release_lease(&lease, NOW).unwrap();
        drop(lease);
        let lease = store.take_turn(&waiting, None, NOW).unwrap();
        assert_eq!(lease.epoch(), 2);
        assert_eq!(store.standbys(NOW).unwrap(), []);
    });
}

/// What holds where a lock decides; elsewhere a lease has to expire.
mod lock {
    use super::*;

    fn database() -> (tempfile::TempDir, DatabaseUrl) {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(dir.path().join("candles.db"));
        Store::open(&url).unwrap();
        (dir, url)
    }

    fn is_refused(url: &DatabaseUrl, now: Timestamp) -> bool {
        match Store::open(url).unwrap().acquire_lease("run", now) {
            Ok(_) => false,
            Err(StoreError::Leased { by }) => by.is_some(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn who_ended_without_a_word_is_in_nobodys_way() {
        let (_dir, url) = database();
        let first = Store::open(&url).unwrap().acquire_lease("run", NOW).unwrap();
        drop(first);
        let state = Store::open_read_only(&url).unwrap().lease(NOW.plus(1)).unwrap().unwrap();
        assert!(!state.alive && !state.released, "as the row alone would not tell");
        assert!(!is_refused(&url, NOW.plus(1)));
    }

    #[test]
    fn who_is_paused_or_set_back_in_time_keeps_it() {
        let (_dir, url) = database();
        let _first = Store::open(&url).unwrap().acquire_lease("run", NOW).unwrap();
        assert!(is_refused(&url, NOW.plus(3_600)));
        assert!(is_refused(&url, NOW.plus(-3_600)));
        assert!(Store::open_read_only(&url).unwrap().lease(NOW.plus(3_600)).unwrap().unwrap().alive);
    }

    #[cfg(unix)]
    #[test]
    fn another_name_is_no_way_around_it() {
        let (dir, url) = database();
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(dir.path().join("candles.db"), &link).unwrap();
        let _first = Store::open(&url).unwrap().acquire_lease("run", NOW).unwrap();
        assert!(is_refused(&DatabaseUrl::sqlite(&link), NOW));
    }

    #[cfg(unix)]
    #[test]
    fn readers_make_no_file_and_others_cannot_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, url) = database();
        let file = dir.path().join("candles.db.lock");
        Store::open_read_only(&url).unwrap().lease(NOW).unwrap();
        assert!(!file.exists());
        let _first = Store::open(&url).unwrap().acquire_lease("run", NOW).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn a_reader_that_looks_keeps_nobody_out() {
        let (_dir, url) = database();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let (url, is_over) = (&url, &is_over);
            scope.spawn(move || {
                let mut reader = Store::open_read_only(url).unwrap();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    reader.lease(NOW).unwrap();
                }
            });
            let mut store = Store::open(url).unwrap();
            let refused = (0..100).filter(|_| store.acquire_lease("run", NOW).is_err()).count();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
    }

    #[test]
    fn where_somebody_deletes_the_lock_the_row_tells_the_first_one() {
        let (dir, url) = database();
        let mut store = Store::open(&url).unwrap();
        let first = store.acquire_lease("run", NOW).unwrap();
        fs::remove_file(dir.path().join("candles.db.lock")).unwrap();
        let second = Store::open(&url).unwrap().acquire_lease("run", NOW.plus(1)).unwrap();
        assert_eq!(second.epoch(), 2);
        let lost = store.renew_lease(&first, NOW.plus(5)).unwrap_err();
        assert!(matches!(lost, StoreError::LeaseLost { .. }), "{lost}");
        store.release_lease(&first, NOW.plus(6)).unwrap();
        assert!(store.lease(NOW.plus(6)).unwrap().unwrap().alive, "the second one's");
    }
}

/// So many 5-minute buckets after noon.
fn slots(range: Range<i64>) -> Range<Timestamp> {
    NOON.plus(range.start * 300)..NOON.plus(range.end * 300)
}

#[test]
fn a_request_to_fetch_is_handed_over_and_answered() {
    on_each_database(|url| {
        let mut asker = Store::open(url).unwrap();
        let mut collector = Store::open(url).unwrap();
        let wanted = [
            (eur(), Timeframe::M5, slots(0..10)),
            (pair("USDJPY"), Timeframe::M15, slots(3..9)),
            (eur(), Timeframe::M5, slots(0..10)),
        ];
        let ids = asker.ask_fetch(&wanted, NOW).unwrap();
        assert_eq!(ids[0], ids[2], "the same in one call");
        // Asked again while it is open, by somebody who has not waited: else it is paid twice.
        assert!(collector.set_request(ids[0], RequestState::Taken, "", NOW.plus(5)).unwrap());
        assert_eq!(asker.ask_fetch(&wanted[..1], NOW.plus(6)).unwrap(), ids[..1]);
        let (pair, timeframe, span) = wanted[0].clone();
        let part = [(pair, timeframe, span.start.plus(300)..span.end)];
        assert_eq!(asker.ask_fetch(&part, NOW.plus(6)).unwrap(), ids[..1], "a part of an open one");
        let open = collector.open_requests().unwrap();
        assert_eq!(open.iter().map(|request| request.id).collect::<Vec<_>>(), ids[..2]);
        assert_eq!(
            (open[1].pair, open[1].timeframe, &open[1].span),
            (wanted[1].0, wanted[1].1, &wanted[1].2)
        );
        assert_eq!((open[1].state, open[1].asked_at, open[1].updated_at), (RequestState::Asked, NOW, NOW));

        collector.set_request(ids[0], RequestState::Done, "10 bars", NOW.plus(9)).unwrap();
        collector.set_request(ids[1], RequestState::Refused, "no points left", NOW.plus(9)).unwrap();
        assert!(collector.open_requests().unwrap().is_empty());
        let told = asker.requests(&ids[..2]).unwrap();
        assert_eq!((told[0].state, told[0].note.as_str()), (RequestState::Done, "10 bars"));
        assert_eq!((told[1].state, told[1].note.as_str()), (RequestState::Refused, "no points left"));
        assert_eq!((told[0].asked_at, told[0].updated_at), (NOW, NOW.plus(9)));
        // Once it is closed the same wish is a new one.
        let again = asker.ask_fetch(&wanted[..1], NOW.plus(10)).unwrap();
        assert!(again[0] > ids[1], "{again:?}");
        assert!(asker.requests(&[999]).unwrap().is_empty());
        assert!(!collector.set_request(999, RequestState::Done, "", NOW).unwrap());
    });
}

#[test]
fn requests_are_bounded_and_open_ones_are_never_forgotten() {
    on_each_place(|place| {
        let mut store = Store::open(&place.url).unwrap();
        let most = OPEN_REQUESTS_MAX as i64;
        let wish = |number: i64| (eur(), Timeframe::M5, slots(number..number + 1));
        let first = store.ask_fetch(&[wish(0)], NOW).unwrap()[0];
        let too_many: Vec<_> = (1..=most).map(wish).collect();
        let refused = store.ask_fetch(&too_many, NOW).unwrap_err();
        assert!(matches!(refused, StoreError::TooManyRequests { .. }), "{refused}");
        assert_eq!(store.open_requests().unwrap().len(), 1, "all or none");

        let rounds = REQUESTS_MAX as i64 / (most - 1) + 1;
        let (mut second, mut third, mut last) = (0, 0, 0);
        for round in 0..rounds {
            let wishes: Vec<_> = (1..most).map(|number| wish(round * most + number)).collect();
            let ids = store.ask_fetch(&wishes, NOW).unwrap();
            if round == 0 {
                [second, third] = [ids[0], ids[1]];
                store.set_reopened(third, NOW).unwrap();
            }
            last = *ids.last().unwrap();
            let all_done = format!("UPDATE fetch_requests SET state = 'done' WHERE id > {first}");
            place.run(&all_done, &all_done);
        }
        assert_eq!(place.number("SELECT count(*) FROM fetch_requests"), REQUESTS_MAX as i64);
        let left = |store: &mut Store| -> Vec<i64> {
            let left = store.requests(&[first, second, third, last]).unwrap();
            left.iter().map(|request| request.id).collect()
        };
        let told = "the oldest closed ones are gone, not one that is open or has just reopened lost buckets";
        assert_eq!(left(&mut store), [first, third, last], "{told}");
        let tomorrow = NOW.plus(REOPENED_KEPT_S);
        store.ask_fetch(&[wish(-1)], tomorrow).unwrap();
        assert_eq!(left(&mut store), [first, last]);
        let all_reopened = format!("UPDATE fetch_requests SET reopened_at = {}", NOW.0);
        place.run(&all_reopened, &all_reopened);
        let refused = store.ask_fetch(&[wish(-2)], NOW).unwrap_err();
        assert!(matches!(refused, StoreError::TooManyRequests { most: REQUESTS_MAX }), "{refused}");
        assert_eq!(place.number("SELECT count(*) FROM fetch_requests"), REQUESTS_MAX as i64);
        store.ask_fetch(&[wish(-2)], tomorrow).unwrap();
    });
}

#[test]
fn who_has_reopened_lost_buckets_is_remembered_for_a_day() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        let wanted = [(eur(), Timeframe::M5, slots(0..3)), (eur(), Timeframe::M5, slots(3..6))];
        let ids = store.ask_fetch(&wanted, NOW).unwrap();
        assert_eq!(store.reopened(eur(), Timeframe::M5, NOW).unwrap(), []);
        let at = NOW.plus(60);
        store.set_reopened(ids[1], at).unwrap();
        let open: Vec<_> = store.open_requests().unwrap().iter().map(|request| request.reopened_at).collect();
        assert_eq!(open, [None, Some(at)]);
        store.set_request(ids[1], RequestState::Done, "", at).unwrap();
        let mut told = |pair, timeframe, after: i64| store.reopened(pair, timeframe, at.plus(after)).unwrap();
        let one = Reopened { id: ids[1], span: slots(3..6), at };
        assert_eq!(told(eur(), Timeframe::M5, REOPENED_KEPT_S - 1), [one]);
        assert_eq!(told(eur(), Timeframe::M5, REOPENED_KEPT_S), []);
        assert_eq!(told(eur(), Timeframe::M15, 1), []);
        assert_eq!(told(pair("USDJPY"), Timeframe::M5, 1), []);
    });
}

/// The whole way of a bucket whose candle was seen and whose end was not, and which REST lacks.
#[test]
fn what_was_seen_is_never_quiet_however_often_it_is_given_up_and_reopened() {
    on_each_database(|url| {
        let mut store = Store::open(url).unwrap();
        commit(&mut store, settled(&[streamed(0, 5, 7), streamed(2, 6, 7)]), NOW);
        let seen = marked(1..2, State::Missing, Reason::UnconfirmedClose);
        commit(&mut store, batch("session 1", [seen]), NOW);
        let calendar = Arc::new(Calendar::forex());
        let (span, later) = (slots(1..2), NOON.plus(86_400));
        let give_up = GiveUp { after_s: 3_600, first_start_after_s: 3_600 };
        let mut attempts = Attempts::default();
        let lose = |store: &mut Store, attempts: &Attempts, reopened: &[_]| {
            let feeds = [Watched { pair: eur(), calendar: calendar.clone() }];
            let pages = book::pages(store.since_oldest_missing().unwrap(), &feeds);
            let lost = plan::given_up(&pages, attempts, reopened, give_up, later);
            commit(store, batch("healer", lost.into_iter().map(Fact::Marked)), NOW);
        };
        let nothing_came = |store: &mut Store| {
            let fetched = Fetched {
                rows: vec![],
                covered: span.clone(),
                asked: span.clone(),
                evidence: "rest:1".into(),
            };
            let reading = Reading { calendar: &calendar, now: later };
            commit(store, batch("rest:1", facts::facts(eur(), Timeframe::M5, &fetched, &reading)), NOW);
        };
        let check = |store: &mut Store, state, when: &str| {
            let runs = store.coverage(eur(), Timeframe::M5, span.clone()).unwrap();
            let told: Vec<_> = runs.iter().map(|run| (run.state, run.reason)).collect();
            assert_eq!(told, [(state, Reason::UnconfirmedClose)], "{when}");
            assert_eq!(all(store, Timeframe::M15), [], "{when}");
        };
        for round in 0..2 {
            lose(&mut store, &attempts, &[]);
            check(&mut store, State::Lost, "given up");
            nothing_came(&mut store);
            check(&mut store, State::Lost, "an answer comes late");
            let known = store.coverage(eur(), Timeframe::M5, span.clone()).unwrap();
            let marks = wishes::marks(eur(), Timeframe::M5, &span, &known, &[], &calendar);
            commit(&mut store, batch("asked:1", marks.into_iter().map(Fact::Marked)), NOW);
            check(&mut store, State::Missing, "reopened");
            attempts.clear(eur(), Timeframe::M5, &span);
            let reopened = [(eur(), Timeframe::M5, span.clone())];
            lose(&mut store, &attempts, &reopened);
            check(&mut store, State::Missing, "it is asked for before it is given up");
            nothing_came(&mut store);
            check(&mut store, State::Missing, "REST lacks it");
            attempts.note(eur(), Timeframe::M5, span.clone(), NOW);
            lose(&mut store, &attempts, &reopened);
            check(&mut store, State::Lost, &format!("tried once, round {round}"));
        }
    });
}

#[test]
fn a_request_is_made_beside_a_process_that_writes() {
    on_each_database(|url| {
        let mut collector = Store::open(url).unwrap();
        let lease = collector.acquire_lease("run", NOW).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let is_over = &is_over;
            let collecting = scope.spawn(move || {
                let mut stored = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    commit(&mut collector, settled(&[streamed(stored, 5, 7)]), NOW);
                    collector.renew_lease(&lease, NOW.plus(stored)).unwrap();
                    for request in collector.open_requests().unwrap() {
                        collector.set_request(request.id, RequestState::Done, "", NOW).unwrap();
                    }
                    stored += 1;
                    // A service rests between commits; SQLite's lock does not queue those who wait.
                    thread::sleep(std::time::Duration::from_millis(2));
                }
                stored
            });
            // Opened while the other writes, as by another process.
            let mut asker = Store::open(url).unwrap();
            for round in 0..20 {
                let ids = asker.ask_fetch(&[(eur(), Timeframe::M5, slots(round..round + 1))], NOW).unwrap();
                while asker.requests(&ids).unwrap()[0].state.is_open() {
                    thread::yield_now();
                }
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            let stored = collecting.join().unwrap();
            assert_eq!(all(&mut asker, Timeframe::M5).len() as i64, stored);
        });
    });
}

#[test]
fn attempts_in_vain_survive_a_restart() {
    on_each_database(|url| {
        let attempt = |pair: Pair, timeframe, range, times| AttemptRow {
            pair,
            timeframe,
            span: slots(range),
            times,
            next_at: NOW.plus(i64::from(times) * 60),
        };
        let key = |attempt: &AttemptRow| (attempt.pair, attempt.timeframe, attempt.span.clone());
        let one = attempt(eur(), Timeframe::M5, 0..3, 1);
        let shorter = attempt(eur(), Timeframe::M5, 0..2, 2);
        let other = attempt(pair("USDJPY"), Timeframe::M15, 0..3, 1);
        let mut store = Store::open(url).unwrap();
        for attempt in [&one, &shorter, &other] {
            store.put_attempt(attempt).unwrap();
        }
        // The same stretch again counts on, and is no second row.
        let again = AttemptRow { times: 2, next_at: NOW.plus(600), ..one.clone() };
        store.put_attempt(&again).unwrap();
        drop(store);
        let mut store = Store::open(url).unwrap();
        assert_eq!(store.attempts().unwrap(), [shorter.clone(), again, other.clone()]);
        // A part of a stretch is another stretch.
        store.forget_attempts(&[key(&one), key(&attempt(eur(), Timeframe::M5, 7..8, 1))]).unwrap();
        assert_eq!(store.attempts().unwrap(), [shorter, other]);
    });
}

const KILLED_DATABASE: &str = "CANDLEKEEP_TEST_KILLED_DATABASE";
const KILLED_AFTER: i64 = 25;

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run as a child process by a_killed_process_loses_nothing_it_has_acknowledged"]
fn child_that_commits_until_killed() {
    let Some(path) = std::env::var_os(KILLED_DATABASE) else { return };
    let mut store = Store::open(&DatabaseUrl::sqlite(path)).unwrap();
    for slot in 0.. {
        commit(&mut store, settled(&[streamed(slot, slot % 50, 7)]), NOW);
        println!("\nstored {slot}");
    }
}

#[test]
fn a_killed_process_loses_nothing_it_has_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("candles.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_contract::child_that_commits_until_killed", "--ignored", "--nocapture"])
        .env(KILLED_DATABASE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let acknowledged = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok())
        .find(|slot| *slot >= KILLED_AFTER);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged, Some(KILLED_AFTER));

    let url = DatabaseUrl::sqlite(&path);
    let mut store = Store::open(&url).unwrap();
    let found = all(&mut store, Timeframe::M5).len() as i64;
    assert!(found > KILLED_AFTER, "{found} bars");
    let expected: Vec<Bar> = (0..found).map(|slot| streamed(slot, slot % 50, 7)).collect();
    assert_eq!(values(&all(&mut store, Timeframe::M5)), expected);
    assert_eq!(all(&mut store, Timeframe::M15).len() as i64, found / 3);
    assert_eq!(ledger(&mut store, Timeframe::M5, found), "s".repeat(found as usize));
    // The restarted process learns some of it again.
    let again: Vec<Bar> = (found - 3..found + 3).map(|slot| streamed(slot, slot % 50, 7)).collect();
    let report = commit(&mut store, settled(&again), NOW);
    assert_eq!((report.unchanged, report.inserted), (3, 3));
}

#[test]
fn both_databases_have_the_same_tables_and_columns() {
    // As all migrations have left them: tables, views and indexes, each with its columns in their order.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("candles.db");
    drop(Store::open(&DatabaseUrl::sqlite(&path)).unwrap());
    let file = rusqlite::Connection::open(&path).unwrap();
    let columns = "SELECT made.name || ' ' || part.name FROM sqlite_master AS made, pragma_table_info(made.name) AS part \
                   WHERE made.type IN ('table', 'view') AND made.name NOT LIKE 'sqlite%' AND made.name NOT LIKE '\\_\\_%' ESCAPE '\\' \
                   UNION ALL SELECT made.name || ' ' || part.name FROM sqlite_master AS made, pragma_index_info(made.name) AS part \
                   WHERE made.type = 'index' AND made.sql IS NOT NULL";
    let mut statement = file.prepare(columns).unwrap();
    let of_file: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(of_file.len() > 100, "{of_file:?}");
    let Some(server) = postgres::shared() else { return };
    let address = server.place();
    drop(Store::open(&address.parse().unwrap()).unwrap());
    let columns = "SELECT class.relname || ' ' || part.attname FROM pg_class AS class \
                   JOIN pg_attribute AS part ON part.attrelid = class.oid \
                   WHERE class.relnamespace = current_schema()::regnamespace AND class.relkind IN ('r', 'v', 'i') \
                   AND part.attnum > 0 AND NOT part.attisdropped \
                   AND class.relname NOT LIKE '%\\_pkey' AND class.relname NOT LIKE '\\_\\_%' \
                   ORDER BY class.relname, part.attnum";
    let of_server: Vec<String> = postgres::query(&address, columns).unwrap().into_iter().flatten().collect();
    // By what they belong to, in which their order stays.
    let sorted = |mut rows: Vec<String>| {
        rows.sort_by(|one, other| one.split(' ').next().cmp(&other.split(' ').next()));
        rows
    };
    assert_eq!(sorted(of_file), sorted(of_server));
}

/// What the tables must hold, kept the simplest way.
#[derive(Clone, Default)]
struct Model {
    bars: BTreeMap<BarKey, (Bar, u32)>,
    /// What each bar was before.
    superseded: BTreeMap<BarKey, Vec<Bar>>,
    states: BTreeMap<BarKey, (State, Reason)>,
}

/// Two whose buckets do not nest.
const LONGER: [Timeframe; 2] = [Timeframe::M10, Timeframe::M15];

impl Model {
    fn offer(&mut self, bar: &Bar) {
        let known = self.superseded.entry(bar.key).or_default();
        let revision = match self.bars.get(&bar.key) {
            None => 0,
            Some((stored, revision)) if judge(stored, bar) == Verdict::Supersede => {
                // What was corrected comes again, and is no correction of its correction.
                if bar.source == Source::Stream && bar.volume == stored.volume && known.contains(bar) {
                    return;
                }
                known.push(*stored);
                revision + 1
            }
            Some(_) => return,
        };
        self.bars.insert(bar.key, (*bar, revision));
        self.states.insert(bar.key, (State::Stored, Reason::Settled));
    }

    fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Settled(bar) => self.offer(bar),
            Fact::Marked(mark) => {
                let mut start = mark.span.start;
                while start < mark.span.end {
                    let key = BarKey { pair: mark.pair, timeframe: mark.timeframe, start };
                    let finding = (mark.state, mark.reason);
                    let known = self.states.entry(key).or_insert(finding);
                    if replaces(finding, *known) {
                        *known = finding;
                    }
                    start = start.plus(mark.timeframe.seconds());
                }
            }
        }
    }

    /// Folds every longer bucket, touched or not.
    fn fold_all(&mut self, slots: i64) {
        for pair in pairs() {
            for timeframe in LONGER {
                let width = timeframe.seconds() / 300;
                for bucket in 0..=slots / width {
                    let start = NOON.plus(bucket * timeframe.seconds());
                    let parts: Vec<Slot<'_>> = (0..width)
                        .map(|slot| {
                            let start = start.plus(slot * 300);
                            let key = BarKey { pair, timeframe: Timeframe::M5, start };
                            match self.states.get(&key).map(|(state, _)| state) {
                                Some(State::Stored) => Slot::Bar(&self.bars[&key].0),
                                Some(State::Quiet | State::Closed) => Slot::NoBar,
                                _ => Slot::Unknown,
                            }
                        })
                        .collect();
                    if let Some(bar) = fold(timeframe, start, &parts) {
                        self.offer(&bar);
                    }
                }
            }
        }
    }
}

fn pairs() -> [Pair; 2] {
    [eur(), pair("USDJPY")]
}

const SLOTS: i64 = 14;

fn any_fact() -> impl Strategy<Value = Fact> {
    let source = prop_oneof![
        4 => Just(Source::Stream), 2 => Just(Source::Rest), 1 => Just(Source::Import),
    ];
    let part =
        (0..2usize, 0..SLOTS, 0..3i64, 0..3u32, source).prop_map(|(which, slot, pips, volume, source)| {
            Fact::Settled(bar(pairs()[which], Timeframe::M5, NOON.plus(slot * 300), pips, volume, source))
        });
    let longer = (0..2usize, 0..SLOTS / 3, 0..3i64, any::<bool>()).prop_map(|(which, bucket, pips, rest)| {
        let source = if rest { Source::Rest } else { Source::Import };
        Fact::Settled(bar(pairs()[which], Timeframe::M15, NOON.plus(bucket * 900), pips, 7, source))
    });
    let state = prop_oneof![
        Just((State::Quiet, Reason::LaterRow)),
        Just((State::Closed, Reason::Calendar)),
        Just((State::Missing, Reason::Silent)),
        Just((State::Missing, Reason::Disconnected)),
        Just((State::Lost, Reason::GivenUp)),
    ];
    let mark = (0..2usize, 0..SLOTS, 1..6i64, state).prop_map(|(which, from, length, (state, reason))| {
        let span = NOON.plus(from * 300)..NOON.plus((from + length) * 300);
        Fact::Marked(Mark { pair: pairs()[which], timeframe: Timeframe::M5, span, state, reason })
    });
    prop_oneof![6 => part, 1 => longer, 3 => mark]
}

/// Something that may be done to a store.
#[derive(Clone, Debug)]
enum Deed {
    Commit(Vec<Fact>),
    Import(Vec<(i64, i64)>),
    DeleteBefore(i64),
    Set(usize, i64),
    Watch(Vec<usize>),
    Spend(u32, usize),
    Ask(Range<i64>),
    Answer(usize),
    Attempt(Range<i64>, u32),
    Forget(Range<i64>),
    Break(i64),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let range = || (0..6i64, 1..4i64).prop_map(|(from, length)| from..from + length);
    prop_oneof![
        4 => proptest::collection::vec(any_fact(), 0..8).prop_map(Deed::Commit),
        1 => proptest::collection::btree_map(0..SLOTS, 0..3i64, 0..5)
            .prop_map(|bars| Deed::Import(bars.into_iter().collect())),
        1 => (0..SLOTS).prop_map(Deed::DeleteBefore),
        1 => (0..3usize, 0..3i64).prop_map(|(key, value)| Deed::Set(key, value)),
        1 => proptest::collection::btree_set(0..4usize, 0..3).prop_map(|set| Deed::Watch(set.into_iter().collect())),
        2 => (1..50u32, 0..5usize).prop_map(|(points, end)| Deed::Spend(points, end)),
        1 => range().prop_map(Deed::Ask),
        1 => (0..4usize).prop_map(Deed::Answer),
        1 => (range(), 1..4u32).prop_map(|(range, times)| Deed::Attempt(range, times)),
        1 => range().prop_map(Deed::Forget),
        1 => (0..9i64).prop_map(Deed::Break),
    ]
}

impl Deed {
    fn done(&self, store: &mut Store, now: Timestamp) {
        match self {
            Deed::Commit(facts) => drop(store.commit(&[batch("a", facts.clone())], now).unwrap()),
            Deed::Import(bars) => {
                let import =
                    |(slot, pips): &(i64, i64)| Bar { source: Source::Import, ..streamed(*slot, *pips, 7) };
                let bars: Vec<Bar> = bars.iter().map(import).collect();
                let report = store.import(&bars, "import:x", &|_, _| Vec::new(), now).unwrap();
                assert_eq!(report.inserted + report.unchanged + report.revised + report.refused, bars.len());
            }
            Deed::DeleteBefore(slot) => {
                store.delete_before(Timeframe::M5, NOON.plus(slot * 300), 5).map(|_| ()).unwrap();
            }
            Deed::Set(key, value) => store.set_setting(&format!("key/{key}"), &value.to_string()).unwrap(),
            Deed::Watch(feeds) => {
                let feeds: Vec<Feed> =
                    feeds.iter().map(|ix| feed(pairs()[ix % 2], ["1", "100"][ix / 2])).collect();
                drop(store.watch_feeds(&feeds, now).unwrap());
            }
            Deed::Spend(points, end) => {
                let incident = (points % 2 == 0).then(|| NOON..NOON.plus(300));
                let id = store.book_spend(&allowance_key(), *points, &on(incident), now).unwrap();
                let seen = AllowanceSeen { remaining: 9_000, total: 10_000, expires_at: now.plus(50) };
                match end {
                    0 => store.settle_spend(id, points - 1, Some(seen), now).unwrap(),
                    1 => store.settle_spend(id, *points, None, now).unwrap(),
                    2 => store.refuse_spend(id, "exceeded", now).unwrap(),
                    3 => store.give_up_spend(id, "timed out", now).unwrap(),
                    _ => {}
                }
            }
            Deed::Ask(range) => {
                drop(store.ask_fetch(&[(eur(), Timeframe::M5, slots(range.clone()))], now).unwrap())
            }
            Deed::Answer(which) => {
                if let Some(open) = store.open_requests().unwrap().get(*which) {
                    if which % 2 == 0 {
                        store.set_reopened(open.id, now).unwrap();
                    }
                    store.set_request(open.id, RequestState::ALL[*which], "note", now).unwrap();
                }
            }
            Deed::Attempt(range, times) => {
                let span = slots(range.clone());
                let attempt =
                    AttemptRow { pair: eur(), timeframe: Timeframe::M5, span, times: *times, next_at: now };
                store.put_attempt(&attempt).unwrap();
            }
            Deed::Forget(range) => {
                store.forget_attempts(&[(eur(), Timeframe::M5, slots(range.clone()))]).unwrap()
            }
            Deed::Break(from) => {
                let pair = (from % 2 == 0).then(|| "EUR_USD".to_owned());
                let to = NOON.plus(from * 10);
                store
                    .record_break(&StreamBreak { pair, from: NOON, to, cause: "test".to_owned() }, now)
                    .unwrap();
            }
        }
    }
}

/// All that a database says of two pairs: the same in every kind of database.
#[derive(Debug, PartialEq)]
struct Tables {
    bars: Vec<StoredBar>,
    revisions: Vec<Revision>,
    runs: Vec<(Pair, Timeframe, Run)>,
}

impl Tables {
    fn read(store: &mut Store) -> Tables {
        let everything = Timestamp(i64::MIN)..Timestamp(i64::MAX);
        let mut tables = Tables { bars: Vec::new(), revisions: Vec::new(), runs: Vec::new() };
        for (pair, timeframe) in store.known_keys().unwrap() {
            tables.bars.extend(store.bars(pair, timeframe, &EVERYTHING).unwrap());
            tables.revisions.extend(store.revisions(pair, timeframe, everything.clone()).unwrap());
            let runs = store.coverage(pair, timeframe, everything.clone()).unwrap();
            tables.runs.extend(runs.into_iter().map(|run| (pair, timeframe, run)));
        }
        tables
    }
}

fn check_against(model: &Model, before: &Model, last_seq: i64, store: &mut Store) {
    let everything = NOON..NOON.plus(100 * 300);
    let mut stored_bars = BTreeMap::new();
    for pair in pairs() {
        for timeframe in [Timeframe::M5, Timeframe::M10, Timeframe::M15] {
            let stored = store.bars(pair, timeframe, &EVERYTHING).unwrap();
            let runs: Vec<Run> = store.coverage(pair, timeframe, everything.clone()).unwrap();
            for next in runs.windows(2) {
                let joined = next[0].span.end == next[1].span.start
                    && (next[0].state, next[0].reason, &next[0].evidence)
                        == (next[1].state, next[1].reason, &next[1].evidence);
                assert!(next[0].span.end <= next[1].span.start && !joined, "{next:?}");
            }
            for slot in 0..everything.end.since(everything.start) / timeframe.seconds() {
                let key = BarKey { pair, timeframe, start: NOON.plus(slot * timeframe.seconds()) };
                let state = runs.iter().find(|run| run.span.contains(&key.start)).map(|run| run.state);
                assert_eq!(state, model.states.get(&key).map(|(state, _)| *state), "{key:?}");
            }
            let revisions = store.revisions(pair, timeframe, everything.clone()).unwrap();
            for bar in &stored {
                let superseded: Vec<_> = revisions
                    .iter()
                    .filter(|revision| {
                        revision.bar.key == bar.bar.key && revision.kind == RevisionKind::Superseded
                    })
                    .collect();
                assert_eq!(superseded.len(), bar.revision as usize);
                assert!(superseded.iter().zip(0..).all(|(revision, number)| revision.revision == number));
                assert!(superseded.last().is_none_or(|last| last.valid_to == bar.updated_at));
                assert!(superseded.iter().all(|revision| revision.seq < bar.seq));
            }
            stored_bars.extend(stored.iter().map(|stored| (stored.bar.key, (stored.bar, stored.revision))));
        }
    }
    assert_eq!(stored_bars, model.bars);
    let mut renewed: Vec<BarKey> =
        store.bars_after(last_seq, usize::MAX).unwrap().iter().map(|stored| stored.bar.key).collect();
    renewed.sort();
    let changed: Vec<BarKey> = model
        .bars
        .iter()
        .filter(|(key, bar)| before.bars.get(key) != Some(bar))
        .map(|(key, _)| *key)
        .collect();
    assert_eq!(renewed, changed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is learnt in whatever order, cut into whatever transactions and restarts.
    #[test]
    fn the_tables_hold_what_a_simple_model_holds(
        commits in proptest::collection::vec(
            (proptest::collection::vec((any_fact(), 0..2usize), 0..12), any::<bool>()), 1..6,
        ),
    ) {
        let tables = RefCell::new(Vec::new());
        on_each_database(|url| {
            let mut model = Model::default();
            let mut last_seq = 0;
            let mut store = Store::open(url).unwrap();
            store.set_timeframes(&LONGER);
            for (ix, (facts, reopen)) in commits.iter().enumerate() {
                if *reopen {
                    store = Store::open(url).unwrap();
                    store.set_timeframes(&LONGER);
                }
                let before = model.clone();
                let batches: Vec<Arc<FactBatch>> = facts
                    .iter()
                    .map(|(fact, evidence)| batch(["a", "b"][*evidence], [fact.clone()]))
                    .collect();
                let report = store.commit(&batches, NOW.plus(ix as i64)).unwrap();
                facts.iter().for_each(|(fact, _)| model.learn(fact));
                model.fold_all(SLOTS + 6);
                check_against(&model, &before, last_seq, &mut store);
                last_seq = report.last_seq;
            }
            tables.borrow_mut().push(Tables::read(&mut store));
        });
        let tables = tables.into_inner();
        prop_assert!(tables.windows(2).all(|two| two[0] == two[1]), "{tables:#?}");
    }

    /// Whoever asks what was at some second gets the state after that second's last commit, whichever
    /// stretch and count is asked for.
    #[test]
    fn what_was_seen_then_is_seen_again(
        commits in proptest::collection::vec(
            (proptest::collection::vec(any_fact(), 1..10), 0..3i64), 1..8,
        ),
        count in 1..6usize, slots in 0..SLOTS, length in 1..SLOTS,
    ) {
        on_each_database(|url| {
            let mut store = Store::open(url).unwrap();
            store.set_timeframes(&LONGER);
            let span = BarQuery {
                from: Some(NOON.plus(slots * 300)),
                to: Some(NOON.plus((slots + length) * 300)),
                count: Some(count),
            };
            let queries = [EVERYTHING, BarQuery { count: Some(count), ..EVERYTHING }, span];
            let see = |store: &mut Store, at: Option<Timestamp>| {
                let mut seen = Vec::new();
                for (pair, timeframe) in pairs().iter().flat_map(|pair| {
                    [Timeframe::M5, Timeframe::M10, Timeframe::M15].map(|timeframe| (*pair, timeframe))
                }) {
                    for query in &queries {
                        seen.push(match at {
                            Some(at) => store.bars_as_of(pair, timeframe, query, at).unwrap(),
                            None => store.bars(pair, timeframe, query).unwrap(),
                        });
                    }
                }
                seen
            };
            let mut remembered = BTreeMap::from([(NOW.plus(-1), see(&mut store, None))]);
            let mut now = NOW;
            for (facts, after_s) in &commits {
                now = now.plus(*after_s);
                store.commit(&[batch("e", facts.iter().cloned())], now).unwrap();
                remembered.insert(now, see(&mut store, None));
            }
            for at in NOW.0 - 2..=now.0 + 1 {
                let (_, expected) = remembered
                    .range(..=Timestamp(at))
                    .next_back()
                    .unwrap_or_else(|| remembered.first_key_value().unwrap());
                assert_eq!(&see(&mut store, Some(Timestamp(at))), expected, "at {}", at - NOW.0);
            }
        });
    }

    /// However few rows a transaction may take: bars and ledger lose the same old buckets and no others, and
    /// what is learnt afterwards is stored as ever.
    #[test]
    fn what_is_old_goes_from_bars_and_ledger_alike(
        facts in proptest::collection::vec(any_fact(), 1..40),
        later in proptest::collection::vec(any_fact(), 1..10),
        limit in 0..SLOTS, rows_max in 1..9u32, quarters in any::<bool>(),
    ) {
        on_each_database(|url| {
            let timeframe = if quarters { Timeframe::M15 } else { Timeframe::M5 };
            let mut store = Store::open(url).unwrap();
            for fact in &facts {
                store.commit(&[batch("e", [fact.clone()])], NOW).unwrap();
            }
            // What was committed last is another's: the highest `seq` stays.
            let last = bar(pair("GBPUSD"), Timeframe::M5, NOON.plus(SLOTS * 900), 1, 1, Source::Rest);
            store.commit(&[settled(&[last])], NOW).unwrap();
            let limit = NOON.plus(limit * 300).floor(timeframe.seconds());
            let everything = NOON.plus(-900)..NOON.plus(100 * 300);
            let state = |store: &mut Store, from: &BTreeMap<Pair, Timestamp>| {
                let mut told = Vec::new();
                for (pair, of) in pairs().iter().flat_map(|pair| {
                    [Timeframe::M5, Timeframe::M15].map(|timeframe| (*pair, timeframe))
                }) {
                    let from = if of == timeframe { from[&pair] } else { everything.start };
                    let query = BarQuery { from: Some(from), ..EVERYTHING };
                    told.push((
                        store.bars(pair, of, &query).unwrap(),
                        store.revisions(pair, of, from..everything.end).unwrap(),
                        store.coverage(pair, of, from..everything.end).unwrap(),
                    ));
                }
                told
            };
            // Of the 5-minute ledger the last bucket stays.
            let from: BTreeMap<Pair, Timestamp> = pairs()
                .into_iter()
                .map(|pair| {
                    let end = store.covered_to(Timeframe::M5).unwrap().get(&pair).copied();
                    let last = end.filter(|_| !quarters).map(|end| end.plus(-300));
                    (pair, last.map_or(limit, |last| last.min(limit)))
                })
                .collect();
            let all = pairs().map(|pair| (pair, everything.start)).into();
            let expected = state(&mut store, &from);
            let mut total = 0;
            loop {
                let deleted = store.delete_before(timeframe, limit, rows_max).unwrap();
                // One transaction may delete a bar, its run and all that it was before.
                assert!(deleted.bars <= rows_max as usize && deleted.runs <= rows_max as usize + 2, "{deleted:?}");
                total += deleted.rows();
                if !deleted.has_more {
                    break;
                }
                assert!(deleted.rows() > 0);
            }
            assert_eq!(state(&mut store, &all), expected);
            assert_eq!(store.delete_before(timeframe, limit, rows_max).unwrap().rows(), 0);
            assert_eq!(store.deleted_before(timeframe).unwrap(), (total > 0).then_some(limit));
            store.commit(&[batch("f", later.iter().cloned())], NOW).unwrap();
        });
    }

    /// Whatever is done, in whatever order, every table says the same in every kind of database.
    #[test]
    fn every_table_is_the_same_in_each(deeds in proptest::collection::vec(any_deed(), 1..25)) {
        let sums = RefCell::new(Vec::new());
        on_each_database(|url| {
            let mut store = Store::open(url).unwrap();
            for (ix, deed) in deeds.iter().enumerate() {
                deed.done(&mut store, NOW.plus(ix as i64));
            }
            let told: (_, _) = (store.allowance(&allowance_key(), NOW.plus(99)), store.last_spend());
            sums.borrow_mut().push((store.table_sums().unwrap(), told.0.unwrap(), told.1.unwrap()));
        });
        let sums = sums.into_inner();
        prop_assert!(sums.windows(2).all(|two| two[0] == two[1]), "{sums:#?}");
    }

    /// A price that went in comes out, to the last digit.
    #[test]
    fn values_come_back_exactly(
        bars in proptest::collection::vec(
            (proptest::array::uniform8(1..=1_000_000_000_000_000_i64), any::<u32>()), 1..40,
        ),
    ) {
        on_each_database(|url| {
            let bars: Vec<Bar> = bars
                .iter()
                .zip(0..)
                .map(|((units, volume), slot)| {
                    let price = |ix: usize| Price::from_units(units[ix]).unwrap();
                    Bar {
                        bid: Ohlc::from_prices([0, 1, 2, 3].map(price)),
                        ask: Ohlc::from_prices([4, 5, 6, 7].map(price)),
                        // The sources take turns.
                        source: [Source::Stream, Source::Rest, Source::Import][slot % 3],
                        ..streamed(slot as i64, 0, *volume)
                    }
                })
                .collect();
            let mut store = Store::open(url).unwrap();
            commit(&mut store, settled(&bars), NOW);
            drop(store);
            let mut store = Store::open_read_only(url).unwrap();
            assert_eq!(values(&all(&mut store, Timeframe::M5)), bars);
        });
    }
}
