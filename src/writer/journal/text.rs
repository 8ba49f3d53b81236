//! Facts as lines of text, in the words of the domain. Pure.
//!
//! ```text
//! E <evidence>                                             begins a batch
//! S <pair> <timeframe> <start> <8 prices> <volume> <source>
//! M <pair> <timeframe> <from> <to> <state> <reason>
//! ```

use std::fmt::Write;
use std::str::{FromStr, SplitWhitespace};

use crate::domain::{Bar, BarKey, Fact, FactBatch, Mark, Ohlc, Price, Timeframe, Timestamp};

/// Longest evidence that is kept, in characters; it names a session or an answer.
const EVIDENCE_CHARS_MAX: usize = 200;

/// Writes facts of one piece of evidence behind what is in `out`.
pub(super) fn write(evidence: &str, facts: &[Fact], out: &mut String) {
    let told = evidence.chars().take(EVIDENCE_CHARS_MAX).flat_map(char::escape_default);
    let evidence: String = told.collect();
    writeln!(out, "E {evidence}").expect("a String takes any text");
    for fact in facts {
        match fact {
            Fact::Settled(bar) => {
                let BarKey { pair, timeframe, start } = bar.key;
                write!(out, "S {pair} {timeframe} {}", start.0).expect("a String takes any text");
                for price in bar.bid.prices().into_iter().chain(bar.ask.prices()) {
                    write!(out, " {price}").expect("a String takes any text");
                }
                writeln!(out, " {} {}", bar.volume, bar.source).expect("a String takes any text");
            }
            Fact::Marked(Mark { pair, timeframe, span, state, reason }) => {
                let (from, to) = (span.start.0, span.end.0);
                writeln!(out, "M {pair} {timeframe} {from} {to} {state} {reason}")
                    .expect("a String takes any text");
            }
        }
    }
}

/// Reads what [`write()`] has written, once or more often; none where anything in it is not so.
pub(super) fn read(text: &str) -> Option<Vec<FactBatch>> {
    let mut batches: Vec<FactBatch> = Vec::new();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let fact = match kind {
            "E" => {
                batches.push(FactBatch { evidence: unescape(rest)?.into(), facts: Vec::new() });
                continue;
            }
            "S" => Fact::Settled(bar(rest)?),
            "M" => Fact::Marked(mark(rest)?),
            _ => return None,
        };
        batches.last_mut()?.facts.push(fact);
    }
    Some(batches)
}

fn word<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

/// A time that begins a bucket, as the store requires.
fn on_grid(words: &mut SplitWhitespace<'_>, timeframe: Timeframe) -> Option<Timestamp> {
    let time = Timestamp(word(words)?);
    (timeframe.bucket(time) == time).then_some(time)
}

fn bar(text: &str) -> Option<Bar> {
    let mut words = text.split_whitespace();
    let (pair, timeframe) = (word(&mut words)?, word(&mut words)?);
    let start = on_grid(&mut words, timeframe)?;
    let mut side = || -> Option<Ohlc> {
        let mut price = || Price::parse(words.next()?, 0).ok();
        Some(Ohlc { open: price()?, high: price()?, low: price()?, close: price()? })
    };
    let (bid, ask) = (side()?, side()?);
    let (volume, source) = (word(&mut words)?, word(&mut words)?);
    let bar = Bar { key: BarKey { pair, timeframe, start }, bid, ask, volume, source };
    words.next().is_none().then_some(bar)
}

fn mark(text: &str) -> Option<Mark> {
    let mut words = text.split_whitespace();
    let (pair, timeframe) = (word(&mut words)?, word(&mut words)?);
    let span = on_grid(&mut words, timeframe)?..on_grid(&mut words, timeframe)?;
    let mark = Mark { pair, timeframe, span, state: word(&mut words)?, reason: word(&mut words)? };
    words.next().is_none().then_some(mark)
}

/// Undoes `char::escape_default`.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                chars = rest.chars();
                char::from_u32(u32::from_str_radix(code, 16).ok()?)?
            }
            quoted @ ('\\' | '\'' | '"') => quoted,
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::pair::MAJOR_PAIRS;
    use crate::domain::{Reason, Source, State};

    /// Any fact that the store would take.
    pub(in super::super) fn any_fact() -> impl Strategy<Value = Fact> {
        let side = || {
            prop::array::uniform4(
                (1..1_000_000_000_000_000i64).prop_map(|units| Price::from_units(units).unwrap()),
            )
        };
        let key = (0..MAJOR_PAIRS.len(), 0..Timeframe::ALL.len(), -10_000_000i64..10_000_000);
        let key = key.prop_map(|(pair, timeframe, bucket)| {
            let timeframe = Timeframe::ALL[timeframe];
            let start = Timestamp(bucket * timeframe.seconds());
            BarKey { pair: MAJOR_PAIRS[pair], timeframe, start }
        });
        let sources =
            prop::sample::select(vec![Source::Stream, Source::Rest, Source::Derived, Source::Import]);
        let states = prop::sample::select(vec![State::Quiet, State::Closed, State::Missing, State::Lost]);
        let reasons =
            prop::sample::select(vec![Reason::LaterRow, Reason::Calendar, Reason::UnconfirmedClose]);
        (key, side(), side(), any::<u32>(), sources, (any::<bool>(), 0i64..5, states, reasons)).prop_map(
            |(key, bid, ask, volume, source, (is_bar, buckets, state, reason))| {
                let BarKey { pair, timeframe, start } = key;
                let span = start..start.plus(buckets * timeframe.seconds());
                let sides = (Ohlc::from_prices(bid), Ohlc::from_prices(ask));
                match is_bar {
                    true => Fact::Settled(Bar { key, bid: sides.0, ask: sides.1, volume, source }),
                    false => Fact::Marked(Mark { pair, timeframe, span, state, reason }),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            batches in prop::collection::vec((any::<String>(), prop::collection::vec(any_fact(), 0..6)), 0..4),
        ) {
            let mut text = String::new();
            for (evidence, facts) in &batches {
                write(evidence, facts, &mut text);
            }
            let read: Vec<_> = read(&text).unwrap().into_iter().map(|batch| (batch.evidence.to_string(), batch.facts)).collect();
            prop_assert_eq!(read, batches);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "([ESM] [A-Z_]{0,7}[ 0-9a-z_.\\\\{}-]{0,60}\n?){0,4}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn nothing_is_guessed() {
        let bar = "S EUR_USD 5 1705485600 1.1 1.2 1.05 1.15 1.11 1.21 1.06 1.16 42 websocket";
        assert_eq!(read(&format!("E ls:1\n{bar}\n")).unwrap()[0].facts.len(), 1);
        for text in [
            bar.to_owned(),
            format!("E ls:1\n{bar} more"),
            format!("E ls:1\n{}", bar.replace("1705485600", "1705485601")),
            format!("E ls:1\n{}", bar.replace("websocket", "hearsay")),
            format!("E ls:1\n{}", bar.replace("1.05", "0")),
            "E ls:1\nM EUR_USD 5 1705485600 1705485700 quiet later_row".to_owned(),
            "E ls:1\nM EUR_USD 5 1705485600 1705485900 quiet because".to_owned(),
            "E ls:\\u{d800}".to_owned(),
            "X ls:1".to_owned(),
        ] {
            assert_eq!(read(&text), None, "{text}");
        }
    }
}
