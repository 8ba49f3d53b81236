//! A page of the log as text: made once, and handed to all who follow. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::domain::{Bar, Pair, Price, Timeframe, Timestamp};
use crate::store::{LogEntry, LogPage};

/// What a follower wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Only these pairs, where there are any.
    pub pairs: Vec<Pair>,
    /// Only these lengths, where there are any.
    pub timeframes: Vec<Timeframe>,
}

impl Wants {
    /// Everything.
    fn all(&self) -> bool {
        self.pairs.is_empty() && self.timeframes.is_empty()
    }

    /// Whether a bar of this pair and length is among it.
    pub fn has(&self, pair: Pair, timeframe: Timeframe) -> bool {
        (self.pairs.is_empty() || self.pairs.contains(&pair))
            && (self.timeframes.is_empty() || self.timeframes.contains(&timeframe))
    }
}

/// Events of a stretch of the log.
#[derive(Debug)]
pub struct Page {
    /// The stretch begins behind this `seq`.
    pub after: i64,
    /// It ends with this one.
    pub upto: i64,
    /// There may be more behind it.
    pub has_more: bool,
    /// It calls a bar the newest, which is so while no later one is stored.
    pub has_newest: bool,
    text: Bytes,
    events: Vec<Event>,
}

/// Where an event stands in the text.
#[derive(Debug)]
struct Event {
    seq: i64,
    bar: Bar,
    end: usize,
}

/// Starts of the newest bars that are stored.
pub type Newest = BTreeMap<(Pair, Timeframe), Timestamp>;

impl Page {
    /// The events of a page that was read behind `after`, where these bars are the newest.
    pub fn of(after: i64, page: &LogPage, newest: &Newest) -> Page {
        let (mut text, mut has_newest) = (String::new(), false);
        let events = page.entries.iter().map(|entry| {
            let key = entry.bar.key;
            let is_newest = newest.get(&(key.pair, key.timeframe)).is_some_and(|newest| key.start >= *newest);
            has_newest |= is_newest;
            text.push_str(&event(entry, is_newest));
            Event { seq: entry.seq, bar: entry.bar, end: text.len() }
        });
        let events: Vec<Event> = events.collect();
        let (upto, has_more) = (page.upto, page.has_more);
        Page { after, upto, has_more, has_newest, text: text.into(), events }
    }

    /// What there is of it behind `seq` for whoever wants this, and the last `seq` that it names.
    pub fn text(&self, seq: i64, wants: &Wants) -> Option<(Bytes, i64)> {
        let known = self.events.partition_point(|event| event.seq <= seq);
        if wants.all() {
            let last = self.events[known..].last()?;
            return Some((self.text.slice(self.start(known)..), last.seq));
        }
        let (mut text, mut last) = (Vec::new(), None);
        for (ix, Event { seq, bar, end }) in self.events.iter().enumerate().skip(known) {
            if wants.has(bar.key.pair, bar.key.timeframe) {
                text.extend_from_slice(&self.text[self.start(ix)..*end]);
                last = Some(*seq);
            }
        }
        Some((text.into(), last?))
    }

    /// Where an event's text begins.
    fn start(&self, ix: usize) -> usize {
        ix.checked_sub(1).map_or(0, |before| self.events[before].end)
    }

    /// The bars it tells of.
    pub fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.events.iter().map(|event| &event.bar)
    }
}

/// What is said of a bar.
#[derive(Serialize)]
struct BarData {
    #[serde(flatten)]
    candle: CandleData,
    source: &'static str,
    revision: u32,
    seq: i64,
    bid: Side,
    ask: Side,
    newest: bool,
}

/// What is said of a candle under way.
#[derive(Serialize)]
struct FormingData {
    #[serde(flatten)]
    candle: CandleData,
    bid: Side,
    ask: Side,
}

#[derive(Serialize)]
struct CandleData {
    pair: String,
    timeframe: &'static str,
    time: i64,
    #[serde(flatten)]
    mid: Side,
    volume: u32,
}

#[derive(Serialize)]
struct Side {
    open: f64,
    high: f64,
    low: f64,
    close: f64,
}

impl Side {
    fn of([open, high, low, close]: [f64; 4]) -> Side {
        Side { open, high, low, close }
    }
}

impl CandleData {
    fn of(bar: &Bar) -> CandleData {
        let mid = Side::of(bar.mid().map(|mid| mid.to_f64()));
        let (pair, timeframe) = (bar.key.pair.to_string(), bar.key.timeframe.as_str());
        CandleData { pair, timeframe, time: bar.key.start.0, mid, volume: bar.volume }
    }
}

/// A bar's two sides.
fn sides(bar: &Bar) -> (Side, Side) {
    let side = |prices: [Price; 4]| Side::of(prices.map(Price::to_f64));
    (side(bar.bid.prices()), side(bar.ask.prices()))
}

fn event(LogEntry { bar, revision, seq }: &LogEntry, newest: bool) -> String {
    let name = if *revision == 0 { "candle" } else { "revision" };
    let ((bid, ask), candle) = (sides(bar), CandleData::of(bar));
    let (source, revision, seq) = (bar.source.as_str(), *revision, *seq);
    let data = BarData { candle, source, revision, seq, bid, ask, newest };
    format!("event: {name}\nid: {seq}\ndata: {}\n\n", json(&data))
}

/// A candle under way. It has no id: nobody goes on from it.
pub fn forming(bar: &Bar) -> String {
    let ((bid, ask), candle) = (sides(bar), CandleData::of(bar));
    format!("event: forming\ndata: {}\n\n", json(&FormingData { candle, bid, ask }))
}

/// One line, as an event's data has to be.
pub fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("what is told has names for keys, and no number that JSON lacks")
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::domain::{BarKey, Ohlc, Source};

    /// A bar of a word like `7:EURUSD/5`, or `9:EURUSD/5*2` for its second revision.
    fn entry(word: &str) -> LogEntry {
        let (seq, what) = word.split_once(':').unwrap();
        let (what, revision) = what.split_once('*').unwrap_or((what, "0"));
        let (pair, timeframe) = what.split_once('/').unwrap();
        let price = |text: &str| Price::parse(text, 0).unwrap();
        let side = |text: &str| Ohlc::from_prices([text; 4].map(price));
        let key = BarKey {
            pair: pair.parse().unwrap(),
            timeframe: timeframe.parse().unwrap(),
            start: Timestamp(900),
        };
        let bar = Bar { key, bid: side("1.1"), ask: side("1.10013"), volume: 7, source: Source::Stream };
        LogEntry { bar, revision: revision.parse().unwrap(), seq: seq.parse().unwrap() }
    }

    /// A page like `3..9 5:EURUSD/5 9:EURUSD/5*1`, with a plus at its end where there is more.
    pub fn page(text: &str) -> Page {
        let (text, has_more) = text.strip_suffix(" +").map_or((text, false), |text| (text, true));
        let mut words = text.split(' ');
        let (after, upto) = words.next().unwrap().split_once("..").unwrap();
        let (after, upto) = (after.parse().unwrap(), upto.parse().unwrap());
        Page::of(after, &LogPage { entries: words.map(entry).collect(), upto, has_more }, &Newest::new())
    }

    /// What an event stream says, in short: `candle 5`, `revision 9`, ids alone, comments.
    pub fn short(text: &[u8]) -> String {
        let text = std::str::from_utf8(text).unwrap();
        assert!(text.is_empty() || text.ends_with("\n\n"), "{text:?}");
        let block = |block: &str| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let words = [field("event: "), field("id: "), field(": ")];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        text.split("\n\n").filter(|text| !text.is_empty()).map(block).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{page, short};
    use super::*;

    #[test]
    fn an_event_is_a_name_an_id_and_a_line_of_data() {
        let (text, _) = page("3..4 4:EURUSD/15*2").text(3, &Wants::default()).unwrap();
        let expected = "event: revision\nid: 4\ndata: {\"pair\":\"EUR_USD\",\"timeframe\":\"15\",\"time\":900,\
             \"open\":1.100065,\"high\":1.100065,\"low\":1.100065,\"close\":1.100065,\"volume\":7,\
             \"source\":\"websocket\",\"revision\":2,\"seq\":4,\
             \"bid\":{\"open\":1.1,\"high\":1.1,\"low\":1.1,\"close\":1.1},\
             \"ask\":{\"open\":1.10013,\"high\":1.10013,\"low\":1.10013,\"close\":1.10013},\
             \"newest\":false}\n\n";
        assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
    }

    #[test]
    fn everybody_gets_what_he_wants_and_has_not() {
        let page = page("3..9 4:EURUSD/5 5:GBPUSD/5 7:EURUSD/15 9:EURUSD/5*1");
        let check = |seq, pairs: &str, timeframes: &str, expected: &str| {
            let pairs = pairs.split_whitespace().map(|pair| pair.parse().unwrap()).collect();
            let timeframes = timeframes.split_whitespace().map(|text| text.parse().unwrap()).collect();
            let text = page.text(seq, &Wants { pairs, timeframes });
            let last = expected.rsplit(' ').next().and_then(|seq| seq.parse().ok());
            let text = text.map(|(text, last)| (short(&text), last));
            assert_eq!(text, last.map(|last| (expected.to_owned(), last)), "{seq}");
        };
        check(3, "", "", "candle 4, candle 5, candle 7, revision 9");
        check(5, "", "", "candle 7, revision 9");
        check(6, "", "", "candle 7, revision 9");
        check(9, "", "", "");
        check(3, "EURUSD", "", "candle 4, candle 7, revision 9");
        check(3, "", "5", "candle 4, candle 5, revision 9");
        check(4, "EURUSD", "5", "revision 9");
        check(3, "GBPUSD EURUSD", "15", "candle 7");
        check(3, "USDJPY", "", "");
    }
}
