//! Bars and what is known of their buckets, read from the database in one consistent look each.

use std::ops::Range;

use super::asked::{self, BarsFormat, Wrong};
use super::views::{BarView, BarsView, HoleView, LedgerView, RunView, line};
use crate::clock::{Clock, ClockKind};
use crate::columns;
use crate::completeness::{calendar_of, in_the_future, incomplete, market_now, settled_to};
use crate::config::Config;
use crate::domain::{Pair, State, Timeframe, Timestamp};
use crate::store::{BarQuery, Store, StoreError, StoredBar};

/// What JSON is called.
const JSON: &str = "application/json";

/// An answer, or what is wrong with the question.
pub type Answer<T> = Result<Result<T, Wrong>, StoreError>;

/// The text of an answer.
#[derive(Debug)]
pub struct Text {
    /// What it is.
    pub content_type: &'static str,
    /// What it says.
    pub bytes: Vec<u8>,
    /// What is said of bars besides, which not every format can.
    pub judged: Option<Judged>,
    /// What it says of a range that is over, but for the times that go on with the market.
    pub lasting: Option<Vec<u8>>,
}

/// What is said of an answer's bars besides what they are.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Nothing is missing, and there are as many as were asked for, or all that the range has.
    pub complete: bool,
    /// No bar is owed after the newest.
    pub fresh: bool,
    /// When the next one ought to be durable at the latest; none where the view `freshness` does not know them.
    pub expected_by: Option<Timestamp>,
}

/// What bars are judged by.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Which pairs and timeframes there are, and when their markets trade.
    pub config: &'a Config,
    /// The time, where that is the system's.
    pub clock: &'a Clock,
}

impl Judge<'_> {
    /// What time it is in the market.
    pub(super) fn now(&self, store: &mut Store) -> Result<Timestamp, StoreError> {
        market_now(store, self.config, self.clock.wall())
    }

    /// Refuses a stretch of which nothing has happened yet.
    pub(super) fn has_begun(&self, from: Option<Timestamp>, now: Timestamp) -> Result<(), Wrong> {
        match from.and_then(|from| in_the_future(from, now, self.config.clock)) {
            Some(why) => Err(Wrong::new(400, "in_the_future", why)),
            None => Ok(()),
        }
    }

    /// Refuses what is neither watched nor kept, once nothing is known to be stored of it.
    pub(super) fn is_known(&self, pair: Pair, timeframe: Timeframe) -> Result<(), Wrong> {
        let watched: Vec<Pair> = self.config.pairs().collect();
        if !watched.contains(&pair) {
            return Err(Wrong::unknown_pair(pair, &watched));
        }
        if !self.config.timeframes.contains(&timeframe) {
            return Err(Wrong::unknown_timeframe(timeframe, &self.config.timeframes));
        }
        Ok(())
    }
}

/// Answers `/v1/candles`.
///
/// # Errors
/// Those of any read.
pub fn candles(store: &mut Store, judge: Judge<'_>, asked: &asked::Candles) -> Answer<Text> {
    let answer = store.consistently(|store| read_candles(store, judge, asked))?;
    Ok(answer.and_then(|read| write(asked, read)))
}

/// What the database says.
struct Read {
    bars: Vec<StoredBar>,
    missing: Vec<HoleView>,
    /// The market's time, where that is not the system's.
    market_time: Option<Timestamp>,
    judged: Judged,
    /// The range has an end, behind which the market is.
    is_over: bool,
}

fn read_candles(store: &mut Store, judge: Judge<'_>, asked: &asked::Candles) -> Answer<Read> {
    let asked::Candles { pair, timeframe, from, to, .. } = *asked;
    let now = judge.now(store)?;
    if let Err(wrong) = judge.has_begun(from, now) {
        return Ok(Err(wrong));
    }
    let end = to.map_or(now, |to| to.min(now));
    if let Some(from) = from
        && let Err(wrong) = asked::no_longer_than(&(from..end), asked::BUCKETS_MAX * timeframe.seconds())
    {
        return Ok(Err(wrong));
    }
    // One more tells that a range has more than an answer may.
    let count = asked.count.unwrap_or(asked::COUNT_MAX + 1) as usize;
    let bars = store.bars(pair, timeframe, &BarQuery { from, to, count: Some(count) })?;
    if bars.len() > asked::COUNT_MAX as usize {
        let reason = format_args!(
            "there are more than {} bars in that time: ask for a part at a time, or for the newest with count",
            asked::COUNT_MAX
        );
        return Ok(Err(Wrong::new(400, "too_many_bars", reason).with("limit", asked::COUNT_MAX.into())));
    }
    if bars.is_empty()
        && let Err(wrong) = judge.is_known(pair, timeframe)
    {
        return Ok(Err(wrong));
    }
    let calendar = calendar_of(store, judge.config, pair)?;
    let is_full = asked.count.is_some_and(|count| bars.len() == count as usize);
    let begin = match (bars.first(), from) {
        (Some(first), _) if is_full => first.bar.key.start,
        (_, Some(from)) => from.ceil(timeframe.seconds()),
        // What should be there of as many as were asked for.
        (first, None) => {
            let parts = timeframe.minutes() / Timeframe::M5.minutes();
            let buckets = asked.count.unwrap_or(asked::COUNT_DEFAULT) as usize * parts as usize;
            let start = timeframe.bucket(calendar.back_from(timeframe.bucket(end), buckets));
            first.map_or(start, |first| start.min(first.bar.key.start))
        }
    };
    let over = settled_to(timeframe, now);
    let last = match bars.last() {
        Some(last) if to.is_none() => Some(last.bar.key.start),
        _ => store.last_start(pair, timeframe)?,
    };
    let mut holes = |span: Range<Timestamp>| match span.start < span.end {
        true => incomplete(store, pair, timeframe, &span, &calendar),
        false => Ok(Vec::new()),
    };
    // A range that ends within a bucket has that bucket's bar.
    let gaps = holes(begin..to.map_or(over, |to| to.ceil(timeframe.seconds()).min(over)))?;
    let fresh = match last {
        None => false,
        // That a longer bar waits for proof in hours in dispute is no more than that the market may be closed.
        Some(last) => {
            holes(last.plus(timeframe.seconds())..over)?.iter().all(|gap| gap.state == State::Closed)
        }
    };
    let missing: Vec<HoleView> = gaps.iter().map(HoleView::of).collect();
    let is_whole = asked.count.is_none() || is_full || from.is_some();
    let judged = Judged {
        complete: is_whole && missing.is_empty(),
        fresh,
        // By the same look at the database as the bars.
        expected_by: store.expected_by(pair, timeframe)?,
    };
    // What `market_now` adds for what is over to be settled is no time of the market's.
    let market_time = (judge.config.clock == ClockKind::Stream).then(|| Timeframe::M5.bucket(now));
    let is_over = to.is_some_and(|to| to <= over);
    Ok(Ok(Read { bars, missing, market_time, judged, is_over }))
}

fn write(asked: &asked::Candles, read: Read) -> Result<Text, Wrong> {
    let Read { bars, missing, market_time, judged, is_over } = read;
    let Judged { complete, fresh, expected_by } = judged;
    let mut view = BarsView {
        pair: asked.pair.to_string(),
        timeframe: asked.timeframe.as_str(),
        price: asked.price.as_str(),
        candles: Vec::new(),
        complete,
        missing,
        fresh,
        expected_by: None,
        market_time: None,
    };
    if is_over || asked.format == BarsFormat::Json {
        let candles = bars.iter().map(|stored| BarView::of(stored, asked.price));
        view.candles = candles.collect();
    }
    // A kept `fresh` that is no longer so would be no substitute for what is, so it stays.
    let lasting = is_over.then(|| line(&view));
    let (content_type, bytes) = match asked.format {
        BarsFormat::Csv => {
            ("text/csv; charset=utf-8; header=present", columns::csv(&bars, asked.price.plain()).into_bytes())
        }
        BarsFormat::Arrow => arrow(asked, &bars, judged)?,
        BarsFormat::Json => {
            view.expected_by = expected_by.map(|by| by.0);
            view.market_time = market_time.map(|time| time.0);
            (JSON, line(&view))
        }
    };
    Ok(Text { content_type, bytes, judged: Some(judged), lasting })
}

#[cfg(feature = "parquet")]
fn arrow(
    asked: &asked::Candles,
    bars: &[StoredBar],
    judged: Judged,
) -> Result<(&'static str, Vec<u8>), Wrong> {
    use super::arrow;
    let prices: Vec<[f64; 4]> =
        bars.iter().map(|stored| columns::doubles(stored, asked.price.plain())).collect();
    let told = [
        ("pair", asked.pair.to_string()),
        ("timeframe", asked.timeframe.to_string()),
        ("price", asked.price.as_str().to_owned()),
        ("complete", judged.complete.to_string()),
        ("fresh", judged.fresh.to_string()),
    ];
    let expected_by = judged.expected_by.map(|by| ("expected_by", by.0.to_string()));
    let told = told.into_iter().chain(expected_by).map(|(name, value)| (name.to_owned(), value));
    let bytes = arrow::stream(bars, &prices, told).map_err(|error| Wrong::new(500, "failed", error))?;
    Ok((arrow::CONTENT_TYPE, bytes))
}

#[cfg(not(feature = "parquet"))]
fn arrow(_: &asked::Candles, _: &[StoredBar], _: Judged) -> Result<(&'static str, Vec<u8>), Wrong> {
    let reason = "this candlekeep is built without Arrow: take json or csv, \
                  or build it with `cargo install --path . --features parquet`";
    Err(Wrong::new(406, "no_arrow", reason))
}

/// Answers `/v1/coverage`.
///
/// # Errors
/// Those of any read.
pub fn coverage(store: &mut Store, judge: Judge<'_>, asked: &asked::Ledger) -> Answer<Text> {
    let asked::Ledger { pair, timeframe, from, to } = *asked;
    store.consistently(|store| {
        let now = judge.now(store)?;
        if let Err(wrong) = judge.has_begun(from, now) {
            return Ok(Err(wrong));
        }
        let to = to.unwrap_or(now);
        let span = from.unwrap_or(to.plus(-asked::LEDGER_DEFAULT_S))..to;
        if let Err(wrong) = asked::no_longer_than(&span, asked::LEDGER_MAX_S) {
            return Ok(Err(wrong));
        }
        let runs = store.coverage(pair, timeframe, span.clone())?;
        if runs.is_empty()
            && store.last_start(pair, timeframe)?.is_none()
            && let Err(wrong) = judge.is_known(pair, timeframe)
        {
            return Ok(Err(wrong));
        }
        let view = LedgerView {
            pair: pair.to_string(),
            timeframe: timeframe.as_str(),
            from: span.start.0,
            to: span.end.0,
            runs: runs.iter().map(RunView::of).collect(),
        };
        Ok(Ok(Text { content_type: JSON, bytes: line(&view), judged: None, lasting: None }))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::asked::Known;
    use crate::config::{self, Flags};
    use crate::domain::{Bar, BarKey, Fact, FactBatch, Mark, Ohlc, Price, Reason, Source, State};

    /// Wednesday 2024-01-17 10:00.
    const TEN: Timestamp = Timestamp(1_705_485_600);
    const STEP: i64 = 300;

    /// A database with bars from ten o'clock on, and a time.
    struct Scene {
        _folder: tempfile::TempDir,
        config: Config,
        clock: Clock,
        store: Store,
    }

    fn at(bucket: i64) -> Timestamp {
        TEN.plus(bucket * STEP)
    }

    impl Scene {
        /// A letter a bucket: s stored, q quiet, m missing, l lost, c closed; it is so long after their end.
        fn new(buckets: &str, later_s: u64) -> Scene {
            Scene::from(TEN, buckets, later_s)
        }

        fn from(start: Timestamp, buckets: &str, later_s: u64) -> Scene {
            let folder = tempfile::tempdir().unwrap();
            let database = Some(format!("sqlite://{}", folder.path().join("c.db").display()));
            let flags = Flags { config: None, database };
            let config = config::load(None, &BTreeMap::new(), &flags).unwrap();
            let mut store = Store::open(&config.database).unwrap();
            let facts = buckets.chars().enumerate().map(|(bucket, letter)| {
                let start = start.plus(bucket as i64 * STEP);
                let marked = |state, reason| {
                    let span = start..start.plus(STEP);
                    Fact::Marked(Mark { pair: pair(), timeframe: Timeframe::M5, span, state, reason })
                };
                match letter {
                    's' => Fact::Settled(bar(start)),
                    'q' => marked(State::Quiet, Reason::LaterRow),
                    'm' => marked(State::Missing, Reason::Disconnected),
                    'l' => marked(State::Lost, Reason::GivenUp),
                    'c' => marked(State::Closed, Reason::Calendar),
                    other => panic!("{other}"),
                }
            });
            let batch = Arc::new(FactBatch { evidence: "test".into(), facts: facts.collect() });
            store.commit(&[batch], TEN).unwrap();
            let clock = Clock::simulated(start.plus(buckets.len() as i64 * STEP), 0);
            clock.advance(Duration::from_secs(later_s));
            Scene { _folder: folder, config, clock, store }
        }

        fn text(&mut self, query: &str) -> Result<Text, Wrong> {
            let pairs: Vec<Pair> = self.config.pairs().collect();
            let known = Known { pairs: &pairs, timeframes: &self.config.timeframes };
            let asked = asked::candles(query, known).unwrap();
            let judge = Judge { config: &self.config, clock: &self.clock };
            candles(&mut self.store, judge, &asked).unwrap()
        }

        fn ask(&mut self, query: &str) -> Value {
            let text = self.text(&format!("pair=EURUSD&timeframe={query}")).unwrap();
            serde_json::from_slice(&text.bytes).unwrap()
        }

        /// Bars, completeness, freshness, and the missing runs in buckets since ten o'clock.
        fn told(&mut self, query: &str) -> String {
            let told = self.ask(query);
            let bucket = |time: &Value| (time.as_i64().unwrap() - TEN.0) / STEP;
            let missing = told["missing"].as_array().unwrap().iter();
            let missing: Vec<String> = missing
                .map(|run| {
                    let (state, reason) = (run["state"].as_str().unwrap(), run["reason"].as_str().unwrap());
                    format!("{}-{} {state} {reason}", bucket(&run["from"]), bucket(&run["to"]))
                })
                .collect();
            let count = told["candles"].as_array().unwrap().len();
            format!("{count} {} {} {}", told["complete"], told["fresh"], missing.join(", "))
                .trim_end()
                .to_owned()
        }
    }

    fn pair() -> Pair {
        "EURUSD".parse().unwrap()
    }

    fn bar(start: Timestamp) -> Bar {
        let flat = |text| Ohlc::from_prices([Price::parse(text, 0).unwrap(); 4]);
        Bar {
            key: BarKey { pair: pair(), timeframe: Timeframe::M5, start },
            bid: flat("1.30451"),
            ask: flat("1.30462"),
            volume: 7,
            source: Source::Stream,
        }
    }

    #[test]
    fn what_is_missing_of_an_answer_is_listed() {
        for (buckets, query, expected) in [
            ("ssssss", "5&count=6", "6 true true"),
            ("ssssss", "5&count=2", "2 true true"),
            ("ssqsss", "5&count=5", "5 true true"),
            ("ssmsls", "5&count=4", "4 false true 2-3 missing disconnected, 4-5 lost given_up"),
            // What lies before the answer is not its concern.
            ("ssmsls", "5&count=1", "1 true true"),
            ("sssssm", "5&count=2", "2 false false 5-6 missing disconnected"),
            ("ssssss", "5&count=8", "6 false true -2-0 missing not_reached"),
            ("sssmss", "15&count=1", "1 false false 3-4 missing disconnected"),
            ("sssqss", "15&count=2", "2 true true"),
            ("ssmsss", "5&from=2024-01-17T10:15&to=2024-01-17T10:25", "2 true true"),
            (
                "ssmsss",
                "5&from=2024-01-17T10:05&to=2024-01-17T10:16",
                "2 false true 2-3 missing disconnected",
            ),
            // What is still to come is not missing yet.
            ("ssssss", "5&from=2024-01-17T10:00&to=2024-01-18", "6 true true"),
        ] {
            assert_eq!(Scene::new(buckets, 60).told(query), expected, "{buckets} {query}");
        }
    }

    #[test]
    fn a_longer_bar_is_missing_where_the_ledger_says_so_of_it() {
        // As a first start leaves it that has bought some 15-minute bars from before its 5-minute ones.
        let mut scene = Scene::new("sss", 60);
        let long = |bucket: i64| {
            let key = BarKey { timeframe: Timeframe::M15, ..bar(at(bucket)).key };
            Fact::Settled(Bar { key, source: Source::Rest, ..bar(at(bucket)) })
        };
        let mark = |span: Range<i64>, state, reason| {
            let span = at(span.start)..at(span.end);
            Fact::Marked(Mark { pair: pair(), timeframe: Timeframe::M15, span, state, reason })
        };
        let store = |scene: &mut Scene, facts: Vec<Fact>| {
            scene.store.commit(&[Arc::new(FactBatch { evidence: "test".into(), facts })], TEN).unwrap();
        };
        let first_start = mark(-18..-12, State::Missing, Reason::FirstStart);
        store(&mut scene, vec![first_start, long(-12), long(-9)]);
        for (query, expected) in [
            (
                "15&count=8",
                "3 false true -21--18 missing not_reached, -18--12 missing first_start, -6-0 missing not_reached",
            ),
            ("15&count=3", "3 false true -6-0 missing not_reached"),
            ("15&count=1", "1 true true"),
        ] {
            assert_eq!(scene.told(query), expected, "{query}");
        }
        store(&mut scene, vec![mark(-6..0, State::Quiet, Reason::NotInRest)]);
        assert_eq!(scene.told("15&count=3"), "3 true true");
        store(&mut scene, vec![mark(-18..-12, State::Lost, Reason::GivenUp)]);
        assert_eq!(scene.told("15&from=2024-01-17T08:30"), "3 false true -18--12 lost given_up");
    }

    #[test]
    fn of_the_future_nothing_is_said_to_be_complete() {
        let mut scene = Scene::new("ssssss", 60);
        let mut word = |query: &str| {
            let told = scene.text(&format!("pair=EURUSD&timeframe={query}"));
            told.map_or_else(
                |wrong| format!("{} {}", wrong.status, wrong.view["error"]),
                |_| "bars".to_owned(),
            )
        };
        // It is 10:31.
        assert_eq!(word("5&from=2024-01-17T10:31:00"), "bars");
        assert_eq!(word("5&from=2024-01-17T10:31:01"), "400 \"in_the_future\"");
        assert_eq!(word("5&from=2030-01-01&count=3"), "400 \"in_the_future\"");
        // A market that goes by its own clock is as old as its newest bar, whatever the wall's clock says.
        let mut scene = Scene::new("ssssss", 86_400);
        scene.config.clock = ClockKind::Stream;
        assert!(scene.text("pair=EURUSD&timeframe=5&from=2024-01-17T10:30").is_ok(), "the next bar");
        let wrong = scene.text("pair=EURUSD&timeframe=5&from=2024-01-17T10:35").unwrap_err();
        assert_eq!(
            wrong.view["reason"],
            "2024-01-17T10:35:00Z lies in the future: the market's own clock has come to 2024-01-17T10:30:00Z"
        );
    }

    #[test]
    fn bars_grow_stale_with_time_and_not_while_the_market_is_closed() {
        for (later_s, expected) in [
            (0, "3 true true"),
            (359, "3 true true"),
            (360, "3 false false 3-4 missing not_reached"),
            (700, "3 false false 3-5 missing not_reached"),
        ] {
            assert_eq!(Scene::new("sss", later_s).told("5&count=3"), expected, "{later_s}");
        }
        // Friday 21:50 to the close at 22:00; Sunday it opens at 22:00 by all accounts.
        let friday = Timestamp(1_705_701_000);
        for (hours, fresh) in [(1, true), (40, true), (48, true), (49, false)] {
            let told = Scene::from(friday, "ss", hours * 3_600).ask("5&count=2");
            assert_eq!((&told["fresh"], &told["complete"]), (&json!(fresh), &json!(fresh)), "{hours} h");
        }
    }

    #[test]
    fn what_is_said_of_a_range_that_is_over_lasts_while_the_market_goes_on() {
        let said = |later_s, query: &str| {
            let text = Scene::new("ssss", later_s).text(&format!("pair=EURUSD&timeframe=5&{query}")).unwrap();
            (text.bytes, text.lasting)
        };
        let over = "from=2024-01-17T10:00&to=2024-01-17T10:10";
        let ((_, early), (_, late)) = (said(0, over), said(200, over));
        assert!(early.is_some() && early == late);
        let csv = format!("{over}&format=csv");
        assert_eq!(said(0, &csv).1, early, "the format is the tag's concern");
        // Bars that were fresh and are not any more are not what they were.
        assert_ne!(said(3_600, over).1, early);
        for open in ["count=2", "from=2024-01-17T10:00", "from=2024-01-17T10:00&to=2024-01-18"] {
            assert_eq!(said(200, open).1, None, "{open}");
        }
        // Its last bucket has ended, and may still get its bar.
        let last = "from=2024-01-17T10:00&to=2024-01-17T10:20";
        assert_eq!((said(59, last).1, said(60, last).1.is_some()), (None, true));
    }

    #[test]
    fn a_range_with_more_bars_than_an_answer_has_is_refused() {
        let mut scene = Scene::new(&"s".repeat(asked::COUNT_MAX as usize + 1), 0);
        let from = |start: Timestamp| format!("pair=EURUSD&timeframe=5&from={start}");
        let wrong = scene.text(&from(at(0))).unwrap_err();
        assert_eq!((wrong.status, &wrong.view["error"]), (400, &json!("too_many_bars")));
        assert_eq!(wrong.view["limit"], json!(10_000));
        assert!(scene.text(&from(at(1))).is_ok());
        assert_eq!(scene.ask("5&count=10000")["candles"].as_array().unwrap().len(), 10_000);
        let wrong = scene.text(&from(at(-asked::BUCKETS_MAX))).unwrap_err();
        assert_eq!(wrong.view["error"], json!("long_range"));
    }

    #[test]
    fn numbers_are_the_doubles_that_the_database_has() {
        let told = Scene::new("s", 0).ask("5&count=1");
        let bar = json!({
            "time": TEN.0, "open": 1.304565, "high": 1.304565, "low": 1.304565, "close": 1.304565,
            "volume": 7, "source": "websocket", "revision": 0, "seq": 1,
        });
        assert_eq!(told["candles"], json!([bar]));
        assert_eq!(Scene::new("s", 0).ask("5&count=1&price=ask")["candles"][0]["low"], json!(1.30462));
        let all = &Scene::new("s", 0).ask("5&count=1&price=all");
        assert_eq!(all["price"], json!("all"));
        for (name, value) in bar.as_object().unwrap() {
            assert_eq!(all["candles"][0][name], *value, "{name}");
        }
        for name in ["open", "high", "low", "close"] {
            assert_eq!(all["candles"][0][format!("bid_{name}")], json!(1.30451), "{name}");
            assert_eq!(all["candles"][0][format!("ask_{name}")], json!(1.30462), "{name}");
        }
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn without_arrow_it_says_which_build_has_it() {
        let wrong = Scene::new("s", 0).text("pair=EURUSD&timeframe=5&format=arrow").unwrap_err();
        assert_eq!((wrong.status, &wrong.view["error"]), (406, &json!("no_arrow")));
        assert!(wrong.view["reason"].as_str().unwrap().contains("--features parquet"));
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn arrow_has_the_same_bars() {
        use arrow_array::cast::AsArray;
        use arrow_array::types::{Float64Type, TimestampSecondType};
        let text = Scene::new("sss", 0).text("pair=EURUSD&timeframe=5&format=arrow&price=bid").unwrap();
        assert_eq!(text.content_type, "application/vnd.apache.arrow.stream");
        let mut reader = arrow_ipc::reader::StreamReader::try_new(text.bytes.as_slice(), None).unwrap();
        assert_eq!(reader.schema().metadata()["price"], "bid");
        let batch = reader.next().unwrap().unwrap();
        let times = batch["time"].as_primitive::<TimestampSecondType>();
        assert_eq!(times.values(), &[at(0).0, at(1).0, at(2).0]);
        assert_eq!(times.timezone(), Some("UTC"));
        assert_eq!(batch["close"].as_primitive::<Float64Type>().values(), &[1.30451; 3]);
        assert!(reader.next().is_none());
    }
}
