//! What is known about each bucket: the ledger's states, and how a new finding lies over old ones.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use super::{Bar, Pair, Timeframe, Timestamp};

/// The state of a bucket while its pair is watched. Exactly one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A settled bar is in `candles`.
    Stored,
    /// No price came, which is proved: there is no bar to have.
    Quiet,
    /// The market does not trade.
    Closed,
    /// A bar should or may exist and will be asked for.
    Missing,
    /// Nothing can bring it any more; reopened by hand.
    Lost,
}

impl State {
    /// Each of them.
    pub const ALL: [State; 5] = [State::Stored, State::Quiet, State::Closed, State::Missing, State::Lost];

    /// How the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Stored => "stored",
            State::Quiet => "quiet",
            State::Closed => "closed",
            State::Missing => "missing",
            State::Lost => "lost",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no coverage state or reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown coverage word \"{0}\"")]
pub struct UnknownWord(String);

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownWord(text.chars().take(20).collect()))
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why a bucket is in its state. The words are part of the data contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// How the database spells it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => $text,)*
                }
            }
        }

        impl FromStr for Reason {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Reason::$variant),)*
                    _ => Err(UnknownWord(text.chars().take(20).collect())),
                }
            }
        }
    };
}

reasons! {
    /// Nothing to explain: a stored bar.
    Settled = "settled",
    /// Quiet: a later row came on the same unbroken subscription.
    LaterRow = "later_row",
    /// Quiet: a REST answer over the range lacks the bucket.
    NotInRest = "not_in_rest",
    /// Closed: outside every account of the market's hours.
    Calendar = "calendar",
    /// Closed: it is not certain that the market trades then (sources disagree, or a holiday), and
    /// no bar came.
    PossiblyOpen = "possibly_open",
    /// Missing: older than the first connection; the first backfill asks for it.
    FirstStart = "first_start",
    /// Missing: older than the time watched, asked for by hand.
    Requested = "requested",
    /// Missing: the service was not running, or had not subscribed yet.
    Offline = "offline",
    /// Missing: the stream was broken.
    Disconnected = "disconnected",
    /// Missing: no row has come, and none yet that proves the bucket quiet.
    Silent = "silent",
    /// Missing: the item was silent so long that it was subscribed again.
    Stale = "stale",
    /// Missing: the stream has shown its candle, but not the end-of-candle row, or held rows back.
    UnconfirmedClose = "unconfirmed_close",
    /// Missing: a row of the item could not be decoded, or the server dropped some.
    DecodeFault = "decode_fault",
    /// Missing: the server refused the item's subscription.
    Refused = "refused",
    /// Missing: prices were held back because their scale was in doubt.
    ScaleInDoubt = "scale_in_doubt",
    /// Missing: REST has the bar with a null price.
    NullLeg = "null_leg",
    /// Lost: the broker has no history that old.
    NoHistory = "no_history",
    /// Lost: asked for in vain for longer than `history.give_up_days`.
    GivenUp = "given_up",
}

impl Reason {
    /// Whether it says that the stream was not there to see, so that nothing is known.
    pub const fn is_loss(self) -> bool {
        matches!(
            self,
            Reason::Offline
                | Reason::Disconnected
                | Reason::Stale
                | Reason::DecodeFault
                | Reason::Refused
                | Reason::ScaleInDoubt
        )
    }

    /// Whether it says that the stream or REST has shown that there were prices.
    pub const fn had_prices(self) -> bool {
        matches!(self, Reason::UnconfirmedClose | Reason::NullLeg)
    }

    /// The reason for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Reason::Settled => "a settled bar is stored",
            Reason::LaterRow => "no price came: a later row on the same unbroken subscription proves it",
            Reason::NotInRest => "no price came: IG's history over it has no bar",
            Reason::Calendar => "outside the market's hours",
            Reason::PossiblyOpen => "it is not certain whether the market trades then, and no bar came",
            Reason::FirstStart => "from before the first start, not fetched yet",
            Reason::Requested => "asked for by hand, not fetched yet",
            Reason::Offline => "the service was not running, or not subscribed yet",
            Reason::Disconnected => "the stream was broken",
            Reason::Silent => "no row has come, and none yet that proves it quiet",
            Reason::Stale => "the pair was silent for so long that it was subscribed anew",
            Reason::UnconfirmedClose => "its candle was seen, its end was not",
            Reason::DecodeFault => "rows could not be read, or the server dropped some",
            Reason::Refused => "IG refused the subscription",
            Reason::ScaleInDoubt => "prices were held back, their scale was in doubt",
            Reason::NullLeg => "IG's history has the bar with a null price",
            Reason::NoHistory => "IG has no history that old",
            Reason::GivenUp => "asked for in vain for too long",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A finding about a run of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Currency pair.
    pub pair: Pair,
    /// Length of the buckets.
    pub timeframe: Timeframe,
    /// First bucket's start to the end of the last, half-open.
    pub span: Range<Timestamp>,
    /// What they are.
    pub state: State,
    /// Why.
    pub reason: Reason,
}

/// One thing learnt, in the order learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A bar settled. A bar that is stored already with other values is a correction.
    Settled(Bar),
    /// A run of buckets without bars.
    Marked(Mark),
}

/// What one piece of evidence told: the rows of one streaming session, or one REST answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactBatch {
    /// Which session or answer, for `coverage.evidence`.
    pub evidence: Arc<str>,
    /// In the order learnt.
    pub facts: Vec<Fact>,
}

/// A run of buckets in one state for one reason: a row of table `coverage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// First bucket's start to the end of the last, half-open.
    pub span: Range<Timestamp>,
    /// What they are.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Which session or answer told it.
    pub evidence: Arc<str>,
}

impl Run {
    fn joins(&self, next: &Run) -> bool {
        self.span.end == next.span.start
            && self.state == next.state
            && self.reason == next.reason
            && self.evidence == next.evidence
    }

    fn cut(&self, span: Range<Timestamp>) -> Option<Run> {
        (span.start < span.end).then(|| Run { span, ..self.clone() })
    }
}

/// Whether a bucket in this state is known to have no bar. Where sources disagree whether the market
/// trades, that none has come proves nothing.
pub fn has_no_bar(state: State, reason: Reason) -> bool {
    match state {
        State::Quiet => true,
        State::Closed => reason != Reason::PossiblyOpen,
        State::Stored | State::Missing | State::Lost => false,
    }
}

/// Whether a finding may replace an older one about the same bucket.
///
/// A stored bar is never forgotten; proof of quiet beats any suspicion; a suspicion never beats
/// proof; only what is missing can be lost, and what is lost can be reopened. Nothing proves a
/// bucket quiet of which the stream or REST has shown that there were prices, and no vaguer
/// suspicion makes that forgotten, nor that it was given up; that its candle was seen opens it again even where it was taken for
/// quiet or closed. What was taken for closed because the sources disagree is open again where it
/// turns out that nobody was there to see.
pub fn replaces(new: (State, Reason), old: (State, Reason)) -> bool {
    match (new.0, old.0) {
        (State::Stored, _) => true,
        (State::Quiet, State::Missing | State::Lost) => !old.1.had_prices(),
        (State::Missing | State::Lost, State::Missing | State::Lost) => {
            new.1.had_prices() || !old.1.had_prices()
        }
        (State::Missing, State::Closed) if old.1 == Reason::PossiblyOpen => {
            new.1.had_prices() || new.1.is_loss()
        }
        (State::Missing, State::Quiet | State::Closed) => new.1 == Reason::UnconfirmedClose,
        (State::Quiet, old) => matches!(old, State::Quiet | State::Closed),
        (State::Missing | State::Lost, _) => false,
        (State::Closed, old) => old == State::Closed,
    }
}

/// Lays a new finding over the known runs of one pair and timeframe.
///
/// `known` is ascending and disjoint. The answer is too, covers the same buckets plus the new
/// ones, and joins neighbours that say the same. Runs that neither touch nor meet the finding
/// come back as they were, so a caller may pass only those that do.
pub fn overlay(known: &[Run], new: &Run) -> Vec<Run> {
    let mut pieces: Vec<Run> = Vec::with_capacity(known.len() + 2);
    // Where the part of the new finding begins that is not placed yet.
    let mut from = new.span.start;
    for old in known {
        if old.span.end <= new.span.start {
            pieces.push(old.clone());
            continue;
        }
        if old.span.start >= new.span.end {
            pieces.extend(new.cut(from..new.span.end));
            from = new.span.end;
            pieces.push(old.clone());
            continue;
        }
        let meet = old.span.start.max(new.span.start)..old.span.end.min(new.span.end);
        pieces.extend(old.cut(old.span.start..meet.start));
        if replaces((new.state, new.reason), (old.state, old.reason)) {
            pieces.extend(new.cut(from..meet.end));
        } else {
            pieces.extend(new.cut(from..meet.start));
            pieces.extend(old.cut(meet.clone()));
        }
        from = meet.end;
        pieces.extend(old.cut(meet.end..old.span.end));
    }
    pieces.extend(new.cut(from..new.span.end));
    let mut joined: Vec<Run> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.joins(&piece) => last.span.end = piece.span.end,
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Runs as text, a letter a bucket, from `first` on: `s` stored, `q` and `r` quiet by a later row and
    /// by REST, `c` closed, `p` possibly open, `l` lost, `x` lost though its candle was seen, and of what is missing `d` disconnected, `u`
    /// unconfirmed, `n` null leg, `m` silent, `f` first start. Nothing is known of a `.`.
    pub fn runs(text: &str, first: Timestamp, timeframe: Timeframe) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (ix, letter) in text.chars().enumerate() {
            let (state, reason) = match letter {
                '.' => continue,
                's' => (State::Stored, Reason::Settled),
                'q' => (State::Quiet, Reason::LaterRow),
                'r' => (State::Quiet, Reason::NotInRest),
                'c' => (State::Closed, Reason::Calendar),
                'p' => (State::Closed, Reason::PossiblyOpen),
                'l' => (State::Lost, Reason::GivenUp),
                'x' => (State::Lost, Reason::UnconfirmedClose),
                'd' => (State::Missing, Reason::Disconnected),
                'u' => (State::Missing, Reason::UnconfirmedClose),
                'n' => (State::Missing, Reason::NullLeg),
                'm' => (State::Missing, Reason::Silent),
                'f' => (State::Missing, Reason::FirstStart),
                other => panic!("unknown letter {other}"),
            };
            let start = first.plus(ix as i64 * timeframe.seconds());
            let span = start..start.plus(timeframe.seconds());
            let run = Run { span, state, reason, evidence: "e".into() };
            match runs.last_mut() {
                Some(last) if last.joins(&run) => last.span.end = run.span.end,
                _ => runs.push(run),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Vec<Run> {
        testing::runs(text, Timestamp(0), Timeframe::M5)
    }

    fn check(known: &str, new: &str, expected: &str) {
        let new = parse(new);
        assert_eq!(new.len(), 1, "one finding");
        assert_eq!(overlay(&parse(known), &new[0]), parse(expected), "{known} under {new:?}");
    }

    /// What a crash between a commit and the note of it comes to: the same findings once more. A bucket
    /// is closed for one reason, its calendar's; and nothing is given up and reopened in so short a time.
    #[test]
    fn findings_laid_once_more_in_their_order_change_nothing() {
        use Reason as R;
        let others = [
            (State::Stored, R::Settled),
            (State::Quiet, R::LaterRow),
            (State::Missing, R::FirstStart),
            (State::Missing, R::Offline),
            (State::Missing, R::Silent),
            (State::Missing, R::UnconfirmedClose),
            (State::Missing, R::NullLeg),
        ];
        let lay = |old, new| if replaces(new, old) { new } else { old };
        for closed in [R::Calendar, R::PossiblyOpen] {
            let words: Vec<_> = others.into_iter().chain([(State::Closed, closed)]).collect();
            for number in 0..words.len().pow(4) {
                let word = |place: u32| words[number / words.len().pow(place) % words.len()];
                let (before, findings) = (word(3), [word(0), word(1), word(2)]);
                let once = findings.into_iter().fold(before, lay);
                let twice = findings.into_iter().fold(once, lay);
                assert_eq!(twice, once, "{findings:?} over {before:?}");
            }
        }
    }

    #[test]
    fn a_finding_fills_what_is_unknown() {
        check("", "..ss", "..ss");
        check("ss", "..ss", "ssss");
        check("s..s", ".mm.", "smms");
        check("....ss", "mm....", "mm..ss");
    }

    #[test]
    fn a_stored_bar_beats_everything_and_is_never_forgotten() {
        check("mqcld", ".s...", "mscld");
        check("mqcld", "sssss", "sssss");
        for weaker in ["mmm", "qqq", "ccc", "lll"] {
            check("sss", weaker, "sss");
        }
    }

    #[test]
    fn proof_beats_suspicion_and_not_the_reverse() {
        check("mmm", ".q.", "mqm");
        check("qqq", "mmm", "qqq");
        check("ccc", "mmm", "ccc");
        check("m.m", "qqq", "qqq");
    }

    #[test]
    fn absence_in_rest_is_no_proof_where_there_were_prices() {
        check("mud", "rrr", "rur");
        check("u", "s", "s");
    }

    #[test]
    fn that_there_were_prices_is_not_forgotten() {
        check("mud", "qqq", "quq");
        check("mum", "ddd", "dud");
        check("mdm", ".u.", "mum");
        check("qrcs", "uuuu", "uuus");
        check("l", "u", "u");
        check("udn", "lll", "uln");
        check("mu", ".x", "mx");
        check("xl", "mm", "xm");
        check("xl", "rr", "xr");
        check("x", "u", "u");
        check("x", "s", "s");
        check("qc", "mm", "qc");
    }

    #[test]
    fn what_is_possibly_open_is_missing_where_nobody_was_there_to_see() {
        check("pcp", "ddd", "dcd");
        check("pp", "mm", "pp");
        check("pp", "u", "up");
        check("pp", "qq", "qq");
        check("dd", "pp", "dd");
    }

    #[test]
    fn a_newer_suspicion_names_the_newer_reason() {
        check("mmm", ".dd", "mdd");
        check("mms", ".ddd", "mdsd");
    }

    #[test]
    fn only_what_is_missing_is_lost_and_it_can_be_reopened() {
        check("smq.", "llll", "slql");
        check("lll", ".m.", "lml");
    }

    #[test]
    fn words_are_read_back() {
        for state in [State::Stored, State::Quiet, State::Closed, State::Missing, State::Lost] {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("unconfirmed_close".parse(), Ok(Reason::UnconfirmedClose));
        assert!("nonsense".parse::<Reason>().is_err());
    }

    proptest! {
        /// The law of the overlay, bucket by bucket.
        #[test]
        fn each_bucket_follows_the_rule_of_replacement(
            known in "[.sqcpmdlrux]{0,12}", letter in "[sqcpmdlrux]", from in 0usize..12, len in 1usize..6,
        ) {
            let new_text = format!("{}{}", ".".repeat(from), letter.repeat(len));
            let new = parse(&new_text).remove(0);
            let result = overlay(&parse(&known), &new);
            let at = |runs: &[Run], ix: usize| {
                let time = Timestamp(ix as i64 * 300);
                runs.iter().find(|run| run.span.contains(&time)).map(|run| (run.state, run.reason))
            };
            for pair in result.windows(2) {
                prop_assert!(pair[0].span.end <= pair[1].span.start);
                prop_assert!(!pair[0].joins(&pair[1]));
            }
            for ix in 0..20 {
                let old = at(&parse(&known), ix);
                let finding = at(std::slice::from_ref(&new), ix);
                let expected = match (old, finding) {
                    (Some(old), Some(new)) => Some(if replaces(new, old) { new } else { old }),
                    (old, new) => old.or(new),
                };
                prop_assert_eq!(at(&result, ix), expected, "bucket {}", ix);
            }
        }
    }
}
