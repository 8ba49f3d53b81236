//! What a session tells, in the house's words: events in, text out.

use std::sync::Arc;
use std::time::Duration;

use super::chart;
use super::probes::Probes;
use super::translate::{Carried, FollowUp, Translation, Translator};
use crate::clock::ClockKind;
use crate::domain::scale::{Scale, Verdict};
use crate::domain::{Calendar, FeedIx, StreamEvent, Timestamp};
use crate::ig::markets::Instrument;
use crate::stats::Stats;
use crate::tlcp::{Change, Changes, EndCause, Event, Lost, Transport, Verdict as Refusal, Version, update};

/// What becomes of a row whose bucket is not known.
const UNDATED: &str = "rejected 0, broken 0 decode_fault, subscribed 0, configured 0 false";

/// Wednesday 2020-01-15 12:00 UTC.
const NOON: i64 = 1_579_089_600;

struct Stage {
    known: Translator,
    stats: Stats,
    now: Timestamp,
    /// What else the time may be.
    otherwise: Option<Timestamp>,
}

impl Stage {
    fn new() -> Stage {
        let instrument = |pair: &str| Instrument {
            pair: pair.parse().unwrap(),
            epic: format!("CS.D.{pair}.CFD.IP").parse().unwrap(),
            scale: Verdict::Scale(Scale::Decimal),
            scale_is_fixed: true,
        };
        let instruments = [instrument("EURUSD"), instrument("GBPUSD")];
        let probes = Probes::default();
        Stage {
            known: Translator::new(
                &instruments,
                std::iter::repeat_n(Arc::new(Calendar::forex()), 2).collect(),
                ClockKind::System,
                probes,
            ),
            stats: Stats::default(),
            now: Timestamp(NOON),
            otherwise: None,
        }
    }

    fn translation<'a>(
        &'a mut self,
        told: &'a mut Vec<StreamEvent>,
        later: &'a mut Vec<FollowUp>,
    ) -> Translation<'a> {
        Translation {
            known: &mut self.known,
            now: Some(self.now),
            system_now: Some((self.now, self.otherwise.unwrap_or(self.now))),
            steady: true,
            carried: Carried { version: Version::V2_4_0, transport: Transport::WebSocket },
            stats: &self.stats,
            told,
            later,
        }
    }

    /// Takes one event and answers what it became.
    fn take(&mut self, event: Event<'_>) -> String {
        let (mut told, mut later) = (Vec::new(), Vec::new());
        self.translation(&mut told, &mut later).take(event);
        let told = told.iter().map(|event| match event {
            StreamEvent::SessionBegan { evidence } => format!("began {evidence}"),
            StreamEvent::Subscribed { feed } => format!("subscribed {}", feed.0),
            StreamEvent::Configured { feed, unfiltered } => format!("configured {} {unfiltered}", feed.0),
            StreamEvent::Candle { feed, candle } => {
                let closed = if candle.closed { " closed" } else { "" };
                format!("candle {} +{}s{closed}", feed.0, candle.start.0 - NOON)
            }
            StreamEvent::Rejected { feed, .. } => format!("rejected {}", feed.0),
            StreamEvent::Interrupted => "interrupted".to_owned(),
            StreamEvent::Broken { feed: Some(FeedIx(feed)), reason } => format!("broken {feed} {reason}"),
            StreamEvent::Broken { feed: None, reason } => format!("broken all {reason}"),
        });
        let later = later.iter().map(|what| match what {
            FollowUp::Mended(told) => format!(
                "mended {} {}..{} {}",
                told.pair.as_deref().unwrap_or("all"),
                told.from.0 - NOON,
                told.to.0 - NOON,
                told.cause
            ),
            other => format!("{other:?}"),
        });
        told.chain(later).collect::<Vec<_>>().join(", ")
    }

    /// A whole row of feed `tag` for the bucket that starts `bucket_s` after noon.
    fn row(&mut self, tag: u16, first: bool, bucket_s: i64, end: &str) -> String {
        let utm = ((NOON + bucket_s) * 1000).to_string();
        let texts = [utm.as_str(), "1", "1", end].into_iter().chain(["1.1"; 8]);
        let row = texts.collect::<Vec<_>>().join("|");
        let changes = update::plain(&row, chart::FIELDS).unwrap();
        self.take(Event::Update { tag, item: 1, first, changes: &changes })
    }

    fn subscribe(&mut self, tag: u16) {
        let told = self.take(Event::Subscribed { tag, items: 1, fields: 12 });
        assert_eq!(told, format!("subscribed {tag}"));
    }
}

#[test]
fn a_refused_pair_is_asked_for_again_ever_more_rarely_and_shown_until_it_is_served() {
    let mut stage = Stage::new();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let refused =
            Event::Refused { tag: 1, code: -1, text: "Invalid account type", verdict: Refusal::Adapter };
        let told = stage.take(refused);
        let (broken, retry) = told.split_once(", ").unwrap();
        assert_eq!(broken, "broken 1 refused");
        pauses.push(retry.to_owned());
    }
    let expected = [5, 30, 120, 900, 900, 900]
        .map(|s| format!("Retry {{ feed: FeedIx(1), pause: {:?} }}", Duration::from_secs(s)));
    assert_eq!(pauses, expected);
    assert_eq!(stage.known.state.refused["GBP_USD"], "subscription refused: -1 Invalid account type");
    stage.subscribe(1);
    assert!(stage.known.state.refused.is_empty());
}

#[test]
fn dropped_rows_break_the_continuity_of_their_item_alone_from_row_to_row() {
    let mut stage = Stage::new();
    for tag in [0, 1] {
        stage.subscribe(tag);
        stage.row(tag, true, 0, "0");
    }
    stage.take(Event::Configured { tag: 0, unfiltered: true, frequency: "unlimited" });
    stage.now = stage.now.plus(7);
    let told = stage.take(Event::Overflow { tag: 0, item: 1, dropped: 3 });
    assert_eq!(told, "broken 0 decode_fault, subscribed 0, configured 0 true");
    stage.now = stage.now.plus(2);
    assert_eq!(stage.row(1, false, 0, "0"), "candle 1 +0s");
    assert_eq!(stage.row(0, false, 0, "0"), "candle 0 +0s, mended EUR_USD 0..9 the server dropped rows");
    assert_eq!(stage.row(0, false, 0, "0"), "candle 0 +0s");
    assert_eq!(stage.known.probes.rows_dropped, 3);
}

#[test]
fn a_lost_session_is_a_break_for_all_from_the_last_row_before_to_the_first_after() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    stage.row(0, true, 0, "0");
    stage.known.session_over(&EndCause::Connection(Lost::Closed));
    stage.known.session_over(&EndCause::ConnectTimeout { wsok: false });
    stage.now = stage.now.plus(40);
    stage.subscribe(0);
    assert_eq!(stage.row(0, true, 0, "0"), "candle 0 +0s, mended all 0..40 connection closed");
    assert_eq!(stage.row(0, false, 0, "0"), "candle 0 +0s");
}

#[test]
fn candles_have_ended_when_the_last_row_of_each_was_seen_that_had_any() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    stage.subscribe(1);
    let have_ended = |stage: &Stage, start| stage.known.have_ended(Timestamp(NOON + start));
    assert!(have_ended(&stage, 0), "nothing has begun");
    stage.row(0, true, 0, "0");
    assert!(!have_ended(&stage, 0));
    stage.now = stage.now.plus(300);
    stage.row(0, false, 0, "1");
    assert!(have_ended(&stage, 0), "the other pair had no row");
    stage.row(1, true, 0, "0");
    assert!(!have_ended(&stage, 0));
    stage.row(1, false, 0, "1");
    assert!(have_ended(&stage, 0));
    stage.row(0, false, 300, "0");
    assert!(have_ended(&stage, 0) && !have_ended(&stage, 300));
    stage.now = stage.now.plus(300);
    stage.row(0, false, 600, "0");
    assert!(have_ended(&stage, 300), "another candle's row has ended it, and the other pair had none");
    assert!(!have_ended(&stage, 600));
}

#[test]
fn an_interruption_that_is_recovered_is_no_break() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    stage.row(0, true, 0, "0");
    let interrupted = Event::Interrupted { cause: &EndCause::Connection(Lost::Closed) };
    assert_eq!(stage.take(interrupted), "interrupted");
    let rebound = Event::Rebound { keepalive: Duration::from_secs(5), recovering: true, control_link: None };
    assert_eq!(stage.take(rebound), "");
    assert_eq!(stage.take(Event::Recovered { repeated: 2 }), "");
    assert_eq!(stage.row(0, false, 0, "1"), "candle 0 +0s closed");
    assert_eq!((stage.stats.stream_breaks.get(), stage.stats.stream_recoveries.get()), (1, 1));
    assert_eq!(stage.known.probes.recovered_websocket, 1);
}

#[test]
fn what_is_not_established_about_the_broker_is_counted() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    stage.subscribe(1);
    // One snapshot of the bucket under way, one of an old and closed one.
    stage.row(0, true, 0, "0");
    stage.row(1, true, -3600, "1");
    stage.now = Timestamp(NOON + 301);
    stage.row(0, false, 0, "1");
    stage.row(0, false, 0, "1");
    let probes = &stage.known.probes;
    assert_eq!((probes.snapshots_forming, probes.snapshots_old), (1, 1));
    assert_eq!((probes.close_delays, probes.closes_repeated), ([0, 1, 0, 0, 0, 0, 0], 1));
    stage.take(Event::Configured { tag: 0, unfiltered: false, frequency: "20.0" });
    stage.take(Event::Configured { tag: 1, unfiltered: true, frequency: "unlimited" });
    assert_eq!((stage.known.probes.filtered, stage.known.probes.unfiltered_granted), (1, 1));
}

#[test]
fn a_stream_an_hour_from_the_clock_is_noticed_after_a_few_rows() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    let told: Vec<String> = (0..6).map(|n| stage.row(0, n == 0, 7_200, "0")).collect();
    assert_eq!(told[..4], [UNDATED; 4]);
    assert!(told[4].starts_with(UNDATED) && told[4].contains("ClocksApart"), "{}", told[4]);
    assert_eq!(told[5], told[0]);
    assert_eq!(stage.row(0, false, 0, "0"), "candle 0 +0s");
}

#[test]
fn a_row_that_fits_the_time_before_the_clock_was_set_is_no_other_clock() {
    let mut stage = Stage::new();
    assert_eq!(stage.row(0, true, 0, "0"), "candle 0 +0s");
    let rows = |stage: &mut Stage| (0..8).map(|_| stage.row(0, false, 0, "0")).collect::<String>();
    // The clock is a day ahead now, or behind; or else the machine has slept.
    for day_s in [86_400, -86_400] {
        for (otherwise, ends) in [(Some(Timestamp(NOON)), false), (None, true)] {
            stage.otherwise = otherwise;
            stage.now = Timestamp(NOON + day_s);
            rows(&mut stage);
            stage.now = stage.now.plus(60);
            assert_eq!(rows(&mut stage).contains("ClocksApart"), ends, "{day_s} {otherwise:?}");
        }
    }
}

#[test]
fn closes_that_are_sent_again_at_the_opening_are_no_other_clock() {
    let mut stage = Stage::new();
    assert_eq!(stage.row(0, true, -7_200, "0"), "candle 0 +-7200s");
    assert_eq!(stage.row(1, true, -7_200, "0"), "candle 1 +-7200s");
    // Nobody knows yet whether the stream lives in another time.
    let resend = |stage: &mut Stage| (0..8).map(|_| stage.row(0, false, -7_200, "1")).collect::<String>();
    assert_eq!(resend(&mut stage), UNDATED.repeat(8));
    stage.now = stage.now.plus(59);
    assert_eq!(resend(&mut stage), UNDATED.repeat(8));
    assert_eq!(stage.row(1, false, 0, "0"), "candle 1 +0s");
    stage.now = stage.now.plus(59);
    assert_eq!(resend(&mut stage), "candle 0 +-7200s closed".repeat(8), "late rows among fresh ones");
    stage.now = stage.now.plus(60);
    assert!(resend(&mut stage).contains("ClocksApart"), "and nothing fresh for a minute");
}

#[test]
fn rows_far_ahead_among_good_ones_are_no_other_clock() {
    let mut stage = Stage::new();
    assert_eq!(stage.row(0, true, 0, "0"), "candle 0 +0s");
    assert_eq!(stage.row(0, false, 0, "0"), "candle 0 +0s");
    let ahead = |stage: &mut Stage| (0..8).map(|_| stage.row(0, false, 7_200, "0")).collect::<String>();
    assert_eq!(ahead(&mut stage), UNDATED.repeat(8));
    stage.now = stage.now.plus(60);
    assert!(ahead(&mut stage).contains("ClocksApart"), "and nothing else for a minute");
}

#[test]
fn a_row_that_is_held_back_shows_which_bucket_had_prices() {
    let mut stage = Stage::new();
    stage.subscribe(0);
    let row = |stage: &mut Stage, utm: &str, bid_high: &str| {
        let texts = [utm, "1", "1", "0", "1.1", bid_high, "1.1"].into_iter().chain(["1.1"; 5]);
        let values = texts.map(|text| Some(text).filter(|text| *text != "#")).enumerate();
        let changes: Vec<Change<'_>> = values.map(|(field, value)| Change { field, value }).collect();
        let (mut told, mut later) = (Vec::new(), Vec::new());
        stage.translation(&mut told, &mut later).take(Event::Update {
            tag: 0,
            item: 1,
            first: false,
            changes: &Changes::from(changes.as_slice()),
        });
        match told[..] {
            [StreamEvent::Rejected { bucket, .. }, ..] => {
                let broken = if told.len() > 1 { "broken" } else { "" };
                (bucket.map(|bucket| bucket.0 - NOON), broken)
            }
            _ => panic!("{told:?}"),
        }
    };
    stage.now = Timestamp(NOON + 700);
    let utm = ((NOON + 300) * 1000).to_string();
    assert_eq!(row(&mut stage, &utm, "NaN"), (Some(300), ""));
    assert_eq!(row(&mut stage, &utm, "#"), (Some(300), ""));
    assert_eq!(row(&mut stage, &utm, "0.9"), (Some(300), ""), "high below low");
    assert_eq!(row(&mut stage, "soon", "1.1"), (None, "broken"), "which one it does not say");
    let ahead = ((NOON + 1_200) * 1000).to_string();
    assert_eq!(row(&mut stage, &ahead, "NaN"), (None, ""), "not one that is to come");
    stage.row(0, false, 1_200, "0");
    assert_eq!(row(&mut stage, &ahead, "NaN"), (Some(1_200), ""), "but one that a row has reached");
    let values = ["1", "1", "1", "0"].map(Some).into_iter().chain([None; 8]).enumerate();
    let changes: Vec<Change<'_>> = values.map(|(field, value)| Change { field, value }).collect();
    let (mut told, mut later) = (Vec::new(), Vec::new());
    let update = Event::Update { tag: 0, item: 1, first: false, changes: &Changes::from(changes.as_slice()) };
    stage.translation(&mut told, &mut later).take(update);
    assert_eq!(told, [StreamEvent::Rejected { feed: FeedIx(0), bucket: None }]);
}
