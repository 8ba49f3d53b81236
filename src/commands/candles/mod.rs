//! `candlekeep candles`: prints stored bars, also while `run` writes. Never creates a database.

mod chart;
mod render;

use std::io::{self, ErrorKind, Write};

use self::chart::{Absent, Candle, Canvas, Subject};
use self::render::render;
use super::{backfill, has_colors, margin, remark};
use crate::cli::{Candles, Format};
use crate::clock::{Clock, ClockKind};
use crate::columns::doubles;
use crate::completeness::{calendar_of, in_the_future, incomplete, lies_ahead, market_now, settled_to};
use crate::config::Config;
use crate::domain::{Expectation, Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::store::{BarQuery, Store, StoreError, StoredBar};

/// Prints to stdout, and what is worth knowing besides to stderr.
///
/// # Errors
/// When there is no database, it cannot be read, or the pair is unknown.
pub fn execute(args: &Candles, config: &Config) -> Result<Exit, Failure> {
    let fetched = if args.fetch { fetch(args, config)? } else { Exit::Done };
    let canvas = if args.chart { Some(canvas()) } else { None };
    let printed = print(args, config, margin::columns(), canvas.as_ref())?;
    if let Some(note) = printed.note {
        remark(format_args!("candlekeep: {note}"));
    }
    // Only what is for people has colours, or is looked through for them.
    let written = match args.format {
        Format::Table => {
            let mut stdout = anstream::stdout();
            stdout.write_all(printed.text.as_bytes()).and_then(|()| stdout.flush())
        }
        Format::Csv | Format::Json => {
            let mut stdout = io::stdout();
            stdout.write_all(printed.text.as_bytes()).and_then(|()| stdout.flush())
        }
    };
    match written {
        // A reader such as `head` that goes away has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(fetched),
        Err(error) => Err(Failure::failed(format_args!("cannot print: {error}"))),
        Ok(()) => Ok(fetched),
    }
}

/// What there is to draw on. A file, or a program that reads, is taken for a terminal of the usual size.
fn canvas() -> Canvas {
    let (columns, rows) = margin::size().unwrap_or((margin::COLUMNS, margin::ROWS));
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    // Of these the first that is set decides about letters (POSIX, locale).
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
    Canvas {
        columns,
        rows,
        has_colors: has_colors(),
        has_unicode: chart::has_unicode(locale.as_deref(), variable("TERM").as_deref()),
    }
}

/// Has what is missing of these bars fetched, and says what could not be.
fn fetch(args: &Candles, config: &Config) -> Result<Exit, Failure> {
    let Candles { pair, timeframe, from, to, .. } = *args;
    let Some(calendar) = config.calendar_of(pair) else {
        return Err(Failure::usage(unknown_pair(pair, config)));
    };
    let now = match config.clock {
        ClockKind::System => Some(Clock::system().wall()),
        // A market that goes by its own clock is where its ledger ends.
        ClockKind::Stream => match Store::open_read_only(&config.database) {
            Ok(mut store) => store.covered_to(Timeframe::M5)?.get(&pair).copied(),
            Err(StoreError::Absent { .. }) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let Some(end) = to.or(now) else {
        return Err(Failure::usage("--to is needed where the clock is the stream's"));
    };
    if let (Some(from), Some(now)) = (from, now)
        && from >= now
    {
        return Err(Failure::usage(lies_ahead(from, now, config.clock)));
    }
    let end = now.map_or(end, |now| end.min(now));
    let buckets = args.count_max() as usize * (timeframe.minutes() / Timeframe::M5.minutes()) as usize;
    let start = match from {
        Some(from) => from,
        None => calendar.back_from(timeframe.bucket(end), buckets),
    };
    let order = backfill::order(&[pair], &[timeframe], Some(start..end), config)?;
    let followed = super::on_actix(backfill::fetch(config.clone(), order, true))?;
    if followed.is_complete() {
        return Ok(Exit::Done);
    }
    remark(backfill::ended(&followed));
    Ok(Exit::Incomplete)
}

/// What goes to stdout, and a remark for people.
#[derive(Debug, PartialEq, Eq)]
struct Printed {
    text: String,
    note: Option<String>,
}

fn print(
    args: &Candles,
    config: &Config,
    width: Option<usize>,
    canvas: Option<&Canvas>,
) -> Result<Printed, Failure> {
    let Candles { pair, timeframe, from, to, as_of, .. } = *args;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Failure::usage(format_args!("--from {from} is not before --to {to}")));
    }
    let mut store = Store::open_read_only(&config.database)?;
    super::tell_other_clock(&mut store, config)?;
    let mut count = usize::try_from(args.count_max()).unwrap_or(usize::MAX);
    let is_asked_for = args.count.is_some() || from.is_some();
    let canvas = canvas.map(|canvas| (canvas, canvas.room(pair, is_asked_for)));
    if let Some((_, room)) = canvas {
        // More than there is room for would be read in vain.
        count = count.min(room);
    }
    let query = BarQuery { from, to, count: Some(count) };
    let bars = match as_of {
        Some(at) => store.bars_as_of(pair, timeframe, &query, at)?,
        None => store.bars(pair, timeframe, &query)?,
    };
    let note = if !bars.is_empty() {
        None
    } else if !config.pairs().any(|watched| watched == pair) {
        return Err(Failure::usage(unknown_pair(pair, config)));
    } else if !config.timeframes.contains(&timeframe) {
        let kept: Vec<_> = config.timeframes.iter().map(|kept| kept.as_str()).collect();
        return Err(Failure::usage(format_args!(
            "no bars: {timeframe} is not among the timeframes kept ({}); add it to `timeframes` in the configuration",
            kept.join(", ")
        )));
    } else if let Some(from) = from
        && let now = market_now(&mut store, config, Clock::system().wall())?
        && let Some(why) = in_the_future(from, now, config.clock)
    {
        return Err(Failure::usage(why));
    } else if let Some(at) = as_of {
        Some(format!("no bars of {pair} {timeframe} of that time were stored by {at}"))
    } else if store.known_keys()?.is_empty() {
        Some(format!(
            "no bars at all in {} yet: `candlekeep run` collects them, `candlekeep demo` makes some up",
            config.database
        ))
    } else if from.is_some() || to.is_some() {
        Some(format!(
            "no bars of {pair} {timeframe} in that time: `candlekeep gaps --pairs {pair}` tells why"
        ))
    } else {
        Some(format!("no bars of {pair} {timeframe} yet: `candlekeep status` tells whether it is collected"))
    };
    let text = match canvas {
        Some((canvas, room)) => drawn(args, config, &mut store, &bars, canvas, room)?,
        None => render(&bars, args.format, args.price, width),
    };
    Ok(Printed { text, note })
}

/// The bars as candlesticks, with what the ledger and the calendar say of those that are not there.
fn drawn(
    args: &Candles,
    config: &Config,
    store: &mut Store,
    bars: &[StoredBar],
    canvas: &Canvas,
    room: usize,
) -> Result<String, Failure> {
    let Candles { pair, timeframe, .. } = *args;
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return Ok(String::new()) };
    let calendar = calendar_of(store, config, pair)?;
    let end = owed_to(args, config, store)?.unwrap_or(last.bar.key.start);
    let end = end.max(last.bar.key.start);
    // Beside bars of another time the ledger of today says nothing of what was there.
    let gaps = match args.as_of {
        None => incomplete(store, pair, timeframe, &(first.bar.key.start..end), &calendar)?,
        Some(_) => Vec::new(),
    };
    let why = |start: Timestamp| {
        let next = gaps.partition_point(|gap| gap.span.end <= start);
        if gaps.get(next).is_some_and(|gap| gap.span.start < start.plus(timeframe.seconds())) {
            Absent::Missing
        } else if calendar.expectation(start) == Expectation::Closed {
            Absent::Closed
        } else if args.as_of.is_some() {
            Absent::Unknown
        } else {
            Absent::Quiet
        }
    };
    let candles: Vec<Candle> = bars
        .iter()
        .map(|stored| Candle { start: stored.bar.key.start, prices: doubles(stored, args.price) })
        .collect();
    let (slots, beyond) = chart::slots(&candles, timeframe, end, room, why);
    let subject = Subject { pair, timeframe, price: args.price.as_str(), beyond };
    Ok(chart::chart(&subject, &slots, canvas))
}

/// Up to when there ought to be bars: none where nobody collects them, or none were asked for of now.
fn owed_to(args: &Candles, config: &Config, store: &mut Store) -> Result<Option<Timestamp>, StoreError> {
    let is_watched = config.pairs().any(|watched| watched == args.pair);
    if !is_watched || !config.timeframes.contains(&args.timeframe) || args.as_of.is_some() {
        return Ok(None);
    }
    let now = market_now(store, config, Clock::system().wall())?;
    let settled = settled_to(args.timeframe, now);
    Ok(Some(args.to.map_or(settled, |to| to.min(settled))))
}

/// A pair with more letters wrong is another pair. (Two that lie beside each other, turned, are one.)
const LETTERS_OFF: usize = 1;

/// Explains a pair that is neither watched nor stored.
pub(super) fn unknown_pair(pair: Pair, config: &Config) -> String {
    let turned = format!("{}{}", pair.quote(), pair.base());
    let letters = format!("{}{}", pair.base(), pair.quote());
    let near = || {
        let watched =
            config.pairs().map(|watched| (strsim::damerau_levenshtein(watched.letters(), &letters), watched));
        watched.filter(|(distance, _)| *distance <= LETTERS_OFF).min_by_key(|(distance, _)| *distance)
    };
    let meant = config.pairs().find(|watched| watched.letters() == turned);
    let hint = match meant.or_else(|| near().map(|(_, watched)| watched)) {
        Some(watched) => format!("did you mean {watched}? "),
        None => String::new(),
    };
    let watched: Vec<_> = config.pairs().map(|watched| watched.to_string()).collect();
    format!(
        "{pair} is not watched and has no bars; {hint}watched: {}; `pairs` in the configuration adds others (--help explains)",
        watched.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{self, Flags};
    use crate::domain::{Bar, BarKey, Fact, FactBatch, Ohlc, Price, Source, Timestamp};

    const NINE_PM: Timestamp = Timestamp(1_583_701_200); // 2020-03-08 21:00:00

    fn config(folder: &Path) -> Config {
        let database = Some(format!("sqlite://{}", folder.join("c.db").display()));
        config::load(None, &BTreeMap::new(), &Flags { config: None, database }).unwrap()
    }

    fn candles(line: &str) -> Candles {
        let words = ["candlekeep", "candles"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Candles(candles) => candles,
            other => panic!("{other:?}"),
        }
    }

    /// Stores this many bars of EUR_USD, from 21:00 on.
    fn store_bars(config: &Config, count: i64) {
        let price = |text| Price::parse(text, 0).unwrap();
        let flat = |text| Ohlc::from_prices([price(text); 4]);
        let facts = (0..count)
            .map(|index| {
                Fact::Settled(Bar {
                    key: BarKey {
                        pair: "EURUSD".parse().unwrap(),
                        timeframe: Timeframe::M5,
                        start: NINE_PM.plus(300 * index),
                    },
                    bid: flat("1.3045"),
                    ask: flat("1.3046"),
                    volume: 1,
                    source: Source::Stream,
                })
            })
            .collect();
        let batch = Arc::new(FactBatch { evidence: "test".into(), facts });
        Store::open(&config.database).unwrap().commit(&[batch], NINE_PM).unwrap();
    }

    fn csv_times(line: &str, config: &Config) -> Vec<i64> {
        let printed = print(&candles(&format!("{line} --format csv")), config, None, None).unwrap();
        printed.text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn the_latest_bars_are_printed_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        store_bars(&config, 4);
        let at = |index: i64| NINE_PM.0 + 300 * index;
        assert_eq!(csv_times("eurusd 5m --count 2", &config), [at(2), at(3)]);
        assert_eq!(csv_times("EUR_USD 5", &config).len(), 4);
        assert_eq!(
            csv_times("EUR_USD 5 --from 2020-03-08T21:05 --to 2020-03-08T21:15", &config),
            [at(1), at(2)]
        );
    }

    #[test]
    fn bars_are_printed_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        store_bars(&config, 2);
        let later = NINE_PM.plus(60);
        let mut store = Store::open(&config.database).unwrap();
        let mut corrected =
            store.bars("EURUSD".parse().unwrap(), Timeframe::M5, &BarQuery::default()).unwrap();
        let mut bar = corrected.remove(0).bar;
        bar.volume = 2;
        let batch = Arc::new(FactBatch { evidence: "test".into(), facts: vec![Fact::Settled(bar)] });
        store.commit(&[batch], later).unwrap();
        let printed =
            |line: &str| print(&candles(&format!("EUR_USD 5 {line}")), &config, None, None).unwrap();
        for format in ["table", "csv", "json"] {
            let now = printed(&format!("--format {format}")).text;
            let as_of = |at: i64| printed(&format!("--format {format} --as-of {at}")).text;
            assert_eq!(as_of(later.0), now, "{format}");
            assert_eq!(as_of(later.0 + 1_000_000_000), now, "{format}");
            assert_ne!(as_of(later.0 - 1), now, "{format}");
            assert_eq!(as_of(later.0 - 1), as_of(NINE_PM.0), "{format}");
        }
        let before = printed("--as-of 2020-03-08T20:59:59Z");
        assert_eq!(
            before.note.as_deref(),
            Some("no bars of EUR_USD 5 of that time were stored by 2020-03-08T20:59:59Z")
        );
    }

    #[test]
    fn no_bars_of_a_watched_pair_are_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        store_bars(&config, 1);
        let note = |line: &str| print(&candles(line), &config, None, None).unwrap().note;
        assert_eq!(note("EUR_USD 5"), None);
        assert_eq!(
            note("GBP_USD 5").as_deref(),
            Some("no bars of GBP_USD 5 yet: `candlekeep status` tells whether it is collected")
        );
        assert_eq!(
            note("EUR_USD 5 --to 5").as_deref(),
            Some("no bars of EUR_USD 5 in that time: `candlekeep gaps --pairs EUR_USD` tells why")
        );
    }

    #[test]
    fn what_is_not_kept_or_has_not_begun_is_a_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        store_bars(&config, 1);
        let wrong = |line: &str, config: &Config| {
            let failure = print(&candles(line), config, None, None).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{failure}");
            failure.to_string()
        };
        assert_eq!(
            wrong("EUR_USD 1h", &config),
            "no bars: 60 is not among the timeframes kept (5, 15); add it to `timeframes` in the configuration"
        );
        let future = "EUR_USD 5 --from 2200-01-01";
        assert_eq!(wrong(future, &config), "2200-01-01T00:00:00Z lies in the future");
        config.clock = ClockKind::Stream;
        let told = "2020-03-09T00:00:00Z lies in the future: the market's own clock has come to 2020-03-08T21:05:00Z";
        assert_eq!(wrong("EUR_USD 5 --from 2020-03-09", &config), told);
        // The same before anything is asked for.
        let failure = fetch(&candles("EUR_USD 5 --fetch --from 2020-03-09"), &config).unwrap_err();
        assert_eq!((failure.exit(), failure.to_string()), (Exit::Usage, told.to_owned()));
        config.clock = ClockKind::System;
        let failure = fetch(&candles(&format!("{future} --fetch")), &config).unwrap_err();
        assert_eq!(failure.to_string(), "2200-01-01T00:00:00Z lies in the future");
    }

    #[test]
    fn an_unknown_pair_is_a_wrong_usage_that_lists_the_known() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        store_bars(&config, 1);
        let failure = print(&candles("USD_EUR 5"), &config, None, None).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let expected =
            "USD_EUR is not watched and has no bars; did you mean EUR_USD? watched: EUR_USD, GBP_USD, ";
        assert!(failure.to_string().starts_with(expected), "{failure}");
        for (typed, meant) in [("EUR_UDS", "EUR_USD"), ("EUR_USS", "EUR_USD"), ("GPB_USD", "GBP_USD")] {
            let failure =
                print(&candles(&format!("{typed} 5")), &config, None, None).unwrap_err().to_string();
            let expected = format!("{typed} is not watched and has no bars; did you mean {meant}? watched: ");
            assert!(failure.starts_with(&expected), "{failure}");
        }
        let failure = print(&candles("XAU_SEK 5"), &config, None, None).unwrap_err().to_string();
        assert!(
            failure.starts_with("XAU_SEK is not watched and has no bars; watched: EUR_USD, "),
            "{failure}"
        );
    }

    #[test]
    fn an_empty_database_says_what_fills_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        drop(Store::open(&config.database).unwrap());
        let printed = print(&candles("EUR_USD 5 --to 5"), &config, None, None).unwrap();
        let note = printed.note.unwrap();
        assert!(note.starts_with("no bars at all in sqlite://"), "{note}");
        assert!(
            note.ends_with(" yet: `candlekeep run` collects them, `candlekeep demo` makes some up"),
            "{note}"
        );
        let unknown = print(&candles("XAU_SEK 5"), &config, None, None).unwrap_err();
        assert_eq!(unknown.exit(), Exit::Usage);
    }

    #[test]
    fn a_chart_shows_what_is_missing_and_as_many_bars_as_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        store_bars(&config, 40);
        let canvas = Canvas { columns: 40, rows: 20, has_colors: true, has_unicode: true };
        let by_stream = Config { clock: ClockKind::Stream, ..config.clone() };
        let drawn_by = |line: &str, config: &Config| {
            let args = candles(&format!("EUR_USD 5 --chart {line}"));
            let text = print(&args, config, None, Some(&canvas)).unwrap().text;
            anstream::adapter::strip_str(&text).to_string().replace('\n', " ")
        };
        let drawn = |line: &str| drawn_by(line, &by_stream);
        assert!(drawn("").contains(" 14 bars: "), "{}", drawn(""));
        assert!(drawn("--count 100").contains(" 28 bars: "), "{}", drawn("--count 100"));
        assert!(drawn("--count 3").contains(" 3 bars: "), "{}", drawn("--count 3"));
        assert!(!drawn("").contains("missing"), "{}", drawn(""));
        let facts = vec![Fact::Settled(Bar {
            key: BarKey {
                pair: "EURUSD".parse().unwrap(),
                timeframe: Timeframe::M5,
                start: NINE_PM.plus(300 * 42),
            },
            bid: Ohlc::from_prices([Price::parse("1.3", 0).unwrap(); 4]),
            ask: Ohlc::from_prices([Price::parse("1.3", 0).unwrap(); 4]),
            volume: 1,
            source: Source::Stream,
        })];
        let batch = Arc::new(FactBatch { evidence: "test".into(), facts });
        let mut store = Store::open(&config.database).unwrap();
        store.commit(&[batch], NINE_PM).unwrap();
        assert!(drawn("").contains("▒ 2 missing"), "{}", drawn(""));
        // Of bars as they were once the ledger does not say why there are none.
        let as_of = format!("--as-of {}", NINE_PM.0);
        assert!(drawn(&as_of).contains("· 2 without a bar, not known why"), "{}", drawn(&as_of));
        assert!(!drawn(&as_of).contains("a price"), "{}", drawn(&as_of));
        // Monday 2020-03-09, two hours after the last bar; and now.
        let end = format!("--count 60 --to {}", NINE_PM.plus(300 * 43 + 7_200).0);
        let told = drawn_by(&end, &config);
        assert!(told.contains(" 19 bars: ") && told.contains("▒ 9 missing, and 17 more since"), "{told}");
        assert!(!drawn(&end).contains("more since"), "the market's own clock has not come so far");
        assert!(drawn_by("", &config).contains(" more since"), "{}", drawn_by("", &config));
        assert!(!drawn_by(&as_of, &config).contains(" more since"), "nor were they owed then");
        let unwatched = Config { timeframes: vec![Timeframe::M15], ..config.clone() };
        assert!(!drawn_by("", &unwatched).contains(" more since"), "what nobody collects is not owed");
    }

    #[test]
    fn no_database_is_named_and_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let failure = print(&candles("EUR_USD 5"), &config(folder.path()), None, None).unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed);
        let path = folder.path().join("c.db");
        assert_eq!(
            failure.to_string(),
            format!(
                "no database at {}: `candlekeep run` makes one, `candlekeep demo` one without an account; \
                 --database, DATABASE_URL or database.url names another",
                path.display()
            )
        );
        assert!(!path.exists());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_a_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let failure =
            print(&candles("EUR_USD 5 --from 300 --to 300"), &config(folder.path()), None, None).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "--from 1970-01-01T00:05:00Z is not before --to 1970-01-01T00:05:00Z"
        );
    }
}
