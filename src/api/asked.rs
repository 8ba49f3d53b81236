//! What a client asks for: the query of a request, and the body of one that wants bars fetched, to what is wanted or to
//! what is wrong with it. Pure.

mod query;

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

use self::query::{Query, count, cut, no_choice, ordered, pair, time, timeframe};
use super::views;
use crate::cli::PriceSide;
use crate::domain::{Pair, Timeframe, Timestamp};

/// Bars of one answer.
pub const COUNT_MAX: u32 = 10_000;
/// Bars of one answer when nobody says how many.
pub const COUNT_DEFAULT: u32 = 100;
/// Buckets of the time that bars are asked of: the market is closed for a part of them.
pub const BUCKETS_MAX: i64 = 2 * COUNT_MAX as i64;
/// Seconds of the time that the ledger is asked of.
pub const LEDGER_MAX_S: i64 = 366 * 86_400;
/// The same when nobody says from when on.
pub const LEDGER_DEFAULT_S: i64 = 7 * 86_400;

/// Why something is not answered as asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// Status of the answer.
    pub status: u16,
    /// What it says.
    pub view: Value,
}

impl Wrong {
    /// An answer with a word for programs and the reason for people.
    pub fn new(status: u16, word: &str, reason: impl Display) -> Wrong {
        Wrong { status, view: views::error(word, &reason.to_string()) }
    }

    /// The same with more to say.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Wrong {
        self.view[name] = value;
        self
    }

    /// A pair that is neither watched nor stored.
    pub fn unknown_pair(pair: Pair, watched: &[Pair]) -> Wrong {
        Wrong::new(404, "unknown_pair", format_args!("{pair} is not watched and has no bars"))
            .with("pairs", names(watched))
    }

    /// A length of which no bars are kept.
    pub fn unknown_timeframe(timeframe: Timeframe, kept: &[Timeframe]) -> Wrong {
        let reason = format_args!(
            "{timeframe} is not among the timeframes kept; add it to `timeframes` in the configuration"
        )
        .to_string();
        Wrong::new(404, "unknown_timeframe", reason).with("timeframes", names(kept))
    }
}

fn names<T: Display>(names: &[T]) -> Value {
    names.iter().map(T::to_string).collect::<Vec<_>>().into()
}

/// What there is to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The pairs watched.
    pub pairs: &'a [Pair],
    /// The timeframes kept.
    pub timeframes: &'a [Timeframe],
}

/// How bars are to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarsFormat {
    /// An object.
    Json,
    /// As `candlekeep candles --format csv`.
    Csv,
    /// Arrow's stream of record batches.
    Arrow,
}

/// Whose prices bars have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prices {
    /// Of one side, or half of both.
    Of(PriceSide),
    /// Half of both, and beside it those of each.
    All,
}

impl Prices {
    /// How a query and an answer spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Prices::Of(side) => side.as_str(),
            Prices::All => "all",
        }
    }

    /// What is called open, high, low and close.
    pub const fn plain(self) -> PriceSide {
        match self {
            Prices::Of(side) => side,
            Prices::All => PriceSide::Mid,
        }
    }
}

/// Bars of one pair and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candles {
    /// Of which pair.
    pub pair: Pair,
    /// Of which length.
    pub timeframe: Timeframe,
    /// From then on.
    pub from: Option<Timestamp>,
    /// Before then.
    pub to: Option<Timestamp>,
    /// The newest so many; none where all of a range are wanted.
    pub count: Option<u32>,
    /// Whose prices.
    pub price: Prices,
    /// Written how.
    pub format: BarsFormat,
}

/// Some pairs and lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// These pairs, or all where there are none.
    pub pairs: Vec<Pair>,
    /// These lengths, or all where there are none.
    pub timeframes: Vec<Timeframe>,
}

impl Chosen {
    /// Whether this pair is among them.
    pub fn has_pair(&self, pair: Pair) -> bool {
        self.pairs.is_empty() || self.pairs.contains(&pair)
    }

    /// Whether bars of this pair and length are among them.
    pub fn has(&self, pair: Pair, timeframe: Timeframe) -> bool {
        self.has_pair(pair) && (self.timeframes.is_empty() || self.timeframes.contains(&timeframe))
    }
}

/// Bars to be told of as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Of these pairs, or of all where there are none.
    pub pairs: Vec<Pair>,
    /// Of these lengths, or of all where there are none.
    pub timeframes: Vec<Timeframe>,
    /// The candles under way too.
    pub forming: bool,
    /// From where on.
    pub after: After,
}

/// From where on bars are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// From now on.
    Now,
    /// Those after this `seq`.
    Seq(i64),
    /// Those after an id that was never given.
    Unreadable(String),
}

/// What is known of the buckets of one pair and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Of which pair.
    pub pair: Pair,
    /// Of which length.
    pub timeframe: Timeframe,
    /// From then on.
    pub from: Option<Timestamp>,
    /// Before then.
    pub to: Option<Timestamp>,
}

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Of which pair.
    pub pair: Pair,
    /// Of which length.
    pub timeframe: Timeframe,
    /// Which part.
    pub what: Stretch,
}

/// A part of a pair's bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Those that start within.
    Span(Range<Timestamp>),
    /// The newest so many.
    Newest(u32),
}

/// Reads the query of `/v1/candles`.
///
/// # Errors
/// What is wrong with it.
pub fn candles(query: &str, known: Known<'_>) -> Result<Candles, Wrong> {
    let query = Query::read(query, &["pair", "timeframe", "count", "from", "to", "price", "format"])?;
    let (from, to) = query.range()?;
    let count = match query.get("count") {
        None if from.is_some() => None,
        None => Some(COUNT_DEFAULT),
        Some(text) => Some(count(text)?),
    };
    let price = match query.get("price") {
        None | Some("mid") => Prices::Of(PriceSide::Mid),
        Some("bid") => Prices::Of(PriceSide::Bid),
        Some("ask") => Prices::Of(PriceSide::Ask),
        Some("all") => Prices::All,
        Some(other) => return Err(no_choice("price", other, &["mid", "bid", "ask", "all"])),
    };
    let format = match query.get("format") {
        None | Some("json") => BarsFormat::Json,
        Some("csv") => BarsFormat::Csv,
        Some("arrow") => BarsFormat::Arrow,
        Some(other) => return Err(no_choice("format", other, &["json", "csv", "arrow"])),
    };
    if (price, format) == (Prices::All, BarsFormat::Arrow) {
        return Err(Wrong::new(400, "bad_price", "arrow has the prices of one side: mid, bid or ask"));
    }
    let (pair, timeframe) = (query.pair(known)?, query.timeframe(known)?);
    Ok(Candles { pair, timeframe, from, to, count, price, format })
}

/// Reads the query of `/v1/coverage`.
///
/// # Errors
/// What is wrong with it.
pub fn ledger(query: &str, known: Known<'_>) -> Result<Ledger, Wrong> {
    let query = Query::read(query, &["pair", "timeframe", "from", "to"])?;
    let (from, to) = query.range()?;
    Ok(Ledger { pair: query.pair(known)?, timeframe: query.timeframe(known)?, from, to })
}

/// Reads the query of `/v1/stream`, and the id of the last event, as a client that comes again tells it.
///
/// # Errors
/// What is wrong with it.
pub fn follow(query: &str, last_event: Option<&[u8]>, known: Known<'_>) -> Result<Follow, Wrong> {
    let query = Query::read(query, &["pairs", "timeframes", "forming", "after"])?;
    let chosen = query.chosen(known)?;
    let mut asked = Follow {
        pairs: chosen.pairs,
        timeframes: chosen.timeframes,
        forming: match query.get("forming") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(no_choice("forming", other, &["true", "false"])),
        },
        after: After::Now,
    };
    // Where both are told, the query is that of the first time.
    match last_event.filter(|id| !id.is_empty()) {
        Some(id) => {
            let id = String::from_utf8_lossy(id);
            asked.after = seq(&id).map_or_else(|| After::Unreadable(id.into_owned()), After::Seq);
        }
        None => {
            if let Some(text) = query.get("after") {
                let bad = || format!("after is the seq of a bar, a whole number, not {}", cut(text));
                asked.after = After::Seq(seq(text).ok_or_else(|| Wrong::new(400, "bad_after", bad()))?);
            }
        }
    }
    Ok(asked)
}

/// Reads the query of `/readyz`.
///
/// # Errors
/// What is wrong with it: 400 also where something is not watched, since 404 would say that nothing answers here.
pub fn ready(query: &str, known: Known<'_>) -> Result<Chosen, Wrong> {
    let chosen = Query::read(query, &["pairs", "timeframes"]).and_then(|query| query.chosen(known));
    chosen.map_err(|wrong| Wrong { status: 400, ..wrong })
}

/// A `seq`, or the 0 before the first.
fn seq(text: &str) -> Option<i64> {
    text.parse().ok().filter(|seq| *seq >= 0)
}

/// Refuses parameters where there are none.
///
/// # Errors
/// The first of them.
pub fn nothing(query: &str) -> Result<(), Wrong> {
    Query::read(query, &[]).map(drop)
}

/// The body of `POST /v1/fetch`, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchBody {
    pair: String,
    timeframe: Text,
    from: Option<Text>,
    to: Option<Text>,
    count: Option<u64>,
}

/// A text, or a number for one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(i64),
    Text(String),
}

impl Text {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Text::Number(number) => number.to_string().into(),
            Text::Text(text) => text.as_str().into(),
        }
    }
}

/// Reads the body of `POST /v1/fetch`.
///
/// # Errors
/// What is wrong with it.
pub fn fetch(body: &[u8], known: Known<'_>) -> Result<Fetch, Wrong> {
    let read = serde_json::from_slice::<FetchBody>(body);
    let body = read.map_err(|error| {
        Wrong::new(400, "bad_body", format_args!("the body is not as it should be: {error}"))
    })?;
    let (pair, timeframe) = (pair(&body.pair, known)?, timeframe(&body.timeframe.text(), known)?);
    let both = |what| Wrong::new(400, "bad_range", format_args!("{what}: write from and to, or count"));
    let what = match (body.from, body.to, body.count) {
        (Some(from), Some(to), None) => {
            let (from, to) = (time("from", &from.text())?, time("to", &to.text())?);
            Stretch::Span(ordered(from, to).map(|()| from..to)?)
        }
        (None, None, Some(asked)) => Stretch::Newest(count(&asked.to_string())?),
        (None, None, None) => return Err(both("nothing says which bars")),
        (_, _, Some(_)) => return Err(both("a range and a count are both given")),
        _ => return Err(both("a range has two ends")),
    };
    Ok(Fetch { pair, timeframe, what })
}

/// Refuses a range of more than so many seconds.
///
/// # Errors
/// It is longer.
pub fn no_longer_than(span: &Range<Timestamp>, seconds: i64) -> Result<(), Wrong> {
    if span.end.since(span.start) <= seconds {
        return Ok(());
    }
    let reason = format_args!("a range is at most {} days long; ask for a part at a time", seconds / 86_400)
        .to_string();
    Err(Wrong::new(400, "long_range", reason).with("limit_s", seconds.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known<R>(read: impl FnOnce(Known<'_>) -> R) -> R {
        let pairs = ["EURUSD", "GBPUSD"].map(|pair| pair.parse().unwrap());
        read(Known { pairs: &pairs, timeframes: &[Timeframe::M5, Timeframe::M15] })
    }

    /// What is understood of a query, in short, or the word of what is wrong.
    fn check(query: &str, expected: &str) {
        let told = match known(|known| candles(query, known)) {
            Err(wrong) => {
                format!("{} {}: {}", wrong.status, wrong.view["error"], wrong.view["reason"]).replace('"', "")
            }
            Ok(asked) => {
                let time = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| time.0.to_string());
                let count = asked.count.map_or("all".to_owned(), |count| count.to_string());
                format!(
                    "{} {} {count} {} {} {} {:?}",
                    asked.pair,
                    asked.timeframe,
                    time(asked.from),
                    time(asked.to),
                    asked.price.as_str(),
                    asked.format
                )
            }
        };
        assert_eq!(told.replace('\\', ""), expected, "{query}");
    }

    #[test]
    fn a_query_is_read() {
        check("pair=EUR_USD&timeframe=5", "EUR_USD 5 100 - - mid Json");
        check("timeframe=15m&pair=eur%2Fusd&count=10000&price=bid", "EUR_USD 15 10000 - - bid Json");
        check("pair=eurusd&timeframe=5&from=300", "EUR_USD 5 all 300 - mid Json");
        check("pair=eurusd&timeframe=5&from=300&count=7&to=900&format=csv", "EUR_USD 5 7 300 900 mid Csv");
        check("&pair=eurusd&&timeframe=5&to=900&format=arrow&price=ask", "EUR_USD 5 100 - 900 ask Arrow");
        check("pair=eurusd&timeframe=5&price=all", "EUR_USD 5 100 - - all Json");
    }

    #[test]
    fn times_are_those_of_the_command_line() {
        for (text, expected) in [
            ("1583701200", 1_583_701_200),
            ("2020-03-08T21:00Z", 1_583_701_200),
            ("2020-03-08+21%3A00", 1_583_701_200),
            ("2020-03-08T22:00+01:00", 1_583_701_200),
            ("2020-03-08T22:00%2B01:00", 1_583_701_200),
            ("2020-03-08", 1_583_625_600),
        ] {
            check(
                &format!("pair=EURUSD&timeframe=5&from={text}"),
                &format!("EUR_USD 5 all {expected} - mid Json"),
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (query, expected) in [
            ("", "400 missing_parameter: pair is missing"),
            ("pair=EURUSD", "400 missing_parameter: timeframe is missing"),
            ("pair=EURUSD&timeframe=", "400 missing_parameter: timeframe is missing"),
            (
                "pair=EUR&timeframe=5",
                "400 bad_pair: not a currency pair: EUR (write EUR_USD, EURUSD or EUR/USD)",
            ),
            (
                "pair=EURUSD&timeframe=7",
                "400 bad_timeframe: unknown timeframe 7: use 5, 10, 15, 30 or 60 (also 5m, 1h)",
            ),
            (
                "pair=EURUSD&timeframe=5&count=0",
                "400 bad_count: count is a whole number from 1 to 10000, not 0",
            ),
            (
                "pair=EURUSD&timeframe=5&count=10001",
                "400 bad_count: count is a whole number from 1 to 10000, not 10001",
            ),
            (
                "pair=EURUSD&timeframe=5&count=-1",
                "400 bad_count: count is a whole number from 1 to 10000, not -1",
            ),
            (
                "pair=EURUSD&timeframe=5&count=",
                "400 bad_count: count is a whole number from 1 to 10000, not ",
            ),
            (
                "pair=EURUSD&timeframe=5&from=soon",
                "400 bad_from: from soon: not a time: write epoch seconds or ISO 8601 such as 2026-01-05T21:00Z",
            ),
            (
                "pair=EURUSD&timeframe=5&from=600&to=600",
                "400 bad_range: from 1970-01-01T00:10:00Z is not before to 1970-01-01T00:10:00Z",
            ),
            (
                "pair=EURUSD&timeframe=5&price=last",
                "400 bad_price: price is one of mid, bid, ask, all, not last",
            ),
            (
                "pair=EURUSD&timeframe=5&price=all&format=arrow",
                "400 bad_price: arrow has the prices of one side: mid, bid or ask",
            ),
            (
                "pair=EURUSD&timeframe=5&format=xml",
                "400 bad_format: format is one of json, csv, arrow, not xml",
            ),
            ("pair=EURUSD&timeframe=5&limit=5", "400 unknown_parameter: there is no parameter limit"),
            (
                "pair=EURUSD&timefram=5",
                "400 unknown_parameter: there is no parameter timefram; did you mean timeframe?",
            ),
            ("pair=EURUSD&pair=GBPUSD", "400 repeated_parameter: pair is given more than once"),
            ("pair=%ff&timeframe=5", "400 bad_query: the query is not UTF-8"),
        ] {
            check(query, expected);
        }
        let milliseconds = known(|known| candles("pair=EURUSD&timeframe=5&from=1583701200000", known));
        assert!(milliseconds.unwrap_err().view["reason"].as_str().unwrap().contains("millisecond"));
        assert_eq!(
            known(|known| candles("pair=EUR&timeframe=5", known)).unwrap_err().view["pairs"],
            json!(["EUR_USD", "GBP_USD"])
        );
        let long = candles_with(&"x".repeat(5_000));
        assert!(long.len() < 100, "{long}");
    }

    fn candles_with(price: &str) -> String {
        let wrong = known(|known| candles(&format!("pair=EURUSD&timeframe=5&price={price}"), known));
        wrong.unwrap_err().view["reason"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_to_follow_is_read() {
        let check = |query: &str, last_event: Option<&str>, expected: &str| {
            let asked = known(|known| follow(query, last_event.map(str::as_bytes), known));
            let told = match asked {
                Err(wrong) => format!("{} {}", wrong.status, wrong.view["error"].as_str().unwrap()),
                Ok(Follow { pairs, timeframes, forming, after }) => {
                    format!("{} {} {forming} {after:?}", names(&pairs), names(&timeframes))
                }
            };
            assert_eq!(told.replace('"', ""), expected, "{query} {last_event:?}");
        };
        check("", None, "[] [] false Now");
        check("pairs=EUR_USD,gbpusd&timeframes=5,15m", None, "[EUR_USD,GBP_USD] [5,15] false Now");
        check("pairs=EUR_USD%2CGBP_USD&forming=true&after=0", None, "[EUR_USD,GBP_USD] [] true Seq(0)");
        check("after=7", Some("9"), "[] [] false Seq(9)");
        check("after=7", Some(""), "[] [] false Seq(7)");
        check("after=7", Some("abc"), "[] [] false Unreadable(abc)");
        check("", Some("-1"), "[] [] false Unreadable(-1)");
        check("pairs=USDSEK", None, "404 unknown_pair");
        check("pairs=EURUSD,", None, "400 bad_pair");
        check("pairs=", None, "400 bad_pair");
        check("timeframes=7", None, "400 bad_timeframe");
        check("timeframes=5,30", None, "404 unknown_timeframe");
        check("forming=yes", None, "400 bad_forming");
        check("forming=", None, "400 bad_forming");
        check("after=-1", None, "400 bad_after");
        check("after=1.5", None, "400 bad_after");
        check("after=99999999999999999999", None, "400 bad_after");
        check("pair=EURUSD", None, "400 unknown_parameter");
    }

    #[test]
    fn of_what_it_is_to_be_said_whether_it_is_ready_is_read() {
        let check = |query: &str, expected: &str| {
            let told = match known(|known| ready(query, known)) {
                Err(wrong) => format!("{} {}", wrong.status, wrong.view["error"].as_str().unwrap()),
                Ok(asked) => {
                    let all = known(|known| (known.pairs.to_vec(), known.timeframes.to_vec()));
                    let each = all.0.iter().flat_map(|pair| all.1.iter().map(move |length| (*pair, *length)));
                    let of = each.filter(|(pair, length)| asked.has(*pair, *length));
                    of.map(|(pair, length)| format!("{pair} {length}")).collect::<Vec<_>>().join(", ")
                }
            };
            assert_eq!(told, expected, "{query}");
        };
        check("", "EUR_USD 5, EUR_USD 15, GBP_USD 5, GBP_USD 15");
        check("pairs=eurusd", "EUR_USD 5, EUR_USD 15");
        check("timeframes=15m", "EUR_USD 15, GBP_USD 15");
        check("pairs=GBP_USD&timeframes=5", "GBP_USD 5");
        check("pairs=GBP_USD,USD_SEK", "400 unknown_pair");
        check("timeframes=30", "400 unknown_timeframe");
        check("pairs=", "400 bad_pair");
        check("pair=EURUSD", "400 unknown_parameter");
        let wrong = known(|known| ready("pairs=USDSEK", known)).unwrap_err();
        assert_eq!(wrong.view["pairs"], json!(["EUR_USD", "GBP_USD"]));
    }

    #[test]
    fn a_body_says_what_to_fetch() {
        let check = |body: &str, expected: Result<Stretch, &str>| {
            let told = known(|known| fetch(body.as_bytes(), known));
            let told = told.map(|fetch| fetch.what);
            let told = told.as_ref().map_err(|wrong| wrong.view["error"].as_str().unwrap());
            assert_eq!(told, expected.as_ref().map_err(|word| *word), "{body}");
        };
        let span = || Ok(Stretch::Span(Timestamp(300)..Timestamp(900)));
        check(r#"{"pair":"EURUSD","timeframe":"5","from":300,"to":900}"#, span());
        check(r#"{"pair":"EURUSD","timeframe":5,"from":"300","to":"1970-01-01T00:15Z"}"#, span());
        check(r#"{"pair":"EURUSD","timeframe":"5m","count":10000}"#, Ok(Stretch::Newest(10_000)));
        check(r#"{"pair":"EURUSD","timeframe":5,"count":10001}"#, Err("bad_count"));
        check(r#"{"pair":"EURUSD","timeframe":5,"from":900,"to":300}"#, Err("bad_range"));
        check(r#"{"pair":"EURUSD","timeframe":5,"from":300}"#, Err("bad_range"));
        check(r#"{"pair":"EURUSD","timeframe":5,"from":300,"to":900,"count":1}"#, Err("bad_range"));
        check(r#"{"pair":"EURUSD","timeframe":5}"#, Err("bad_range"));
        check(r#"{"pair":"EURUSD","timeframe":5,"counts":1}"#, Err("bad_body"));
        check(r#"{"pair":"EUR","timeframe":5,"count":1}"#, Err("bad_pair"));
        check("", Err("bad_body"));
        check("[]", Err("bad_body"));
    }

    #[test]
    fn a_range_has_a_bound() {
        let span = Timestamp(0)..Timestamp(86_400);
        assert_eq!(no_longer_than(&span, 86_400), Ok(()));
        assert_eq!(no_longer_than(&span, 86_399).unwrap_err().view["error"], "long_range");
    }
}
