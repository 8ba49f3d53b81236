//! What is said again and again is held back and told once. Pure.
//!
//! Events are of one [`Kind`] where level, target and the message's template agree, and those of their values
//! that say *whom* they are about ([`WHO`]); what a peer can make up, such as the text of a line that cannot be
//! read, makes no kind. Of each kind the first few in a window are shown as they come. The others are counted,
//! and told as `repeated=n` when the window ends, or the process. While that goes on, later windows show one. One that
//! gives another cause than the last that was shown ([`CAUSES`]) is shown on top, a few times a window.
//!
//! Another text in between does not end a window, as it does in syslog: two that take turns would be told as
//! often as they come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::Level;

/// Values that tell events of one template apart.
pub const WHO: [&str; 3] = ["room", "pair", "timeframe"];
/// Values that say why something has happened: an event with another cause than the last that was shown is news.
pub const CAUSES: [&str; 4] = ["error", "why", "cause", "how"];
/// Events that a window shows on top for their causes: a peer that makes them up has no more than that.
const CAUSES_SHOWN: u32 = 5;
/// The same of a kind that is about somebody.
const CAUSES_SHOWN_EACH: u32 = 1;
/// How long events of a kind are counted together: as long as a bucket.
pub const WINDOW: Duration = Duration::from_secs(300);
/// Events of a kind that a window shows.
pub const SHOWN_FIRST: u32 = 5;
/// The same of a kind that is about somebody: there may be as many more as there are pairs.
pub const SHOWN_FIRST_EACH: u32 = 2;
/// The same where the window before had held some back.
pub const SHOWN_THEN: u32 = 1;
/// Kinds that are told apart at a time.
pub const KINDS_MAX: usize = 1_024;
/// Bytes that are remembered of a text or value.
pub const TEXT_BYTES_MAX: usize = 200;
/// How often ended windows are looked for while events come.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What events have in common that count as the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// How grave.
    pub level: Level,
    /// Which room speaks.
    pub target: String,
    /// The message before anything is filled in, or the place in the source where it stands.
    pub template: String,
    /// Whom it is about, by the keys of [`WHO`].
    pub who: Vec<(&'static str, String)>,
}

impl Kind {
    /// What all events of a level are counted as that find no room as kinds of their own.
    fn other(level: Level) -> Kind {
        let (target, template) = ("candlekeep::logging".to_owned(), OTHERS.to_owned());
        Kind { level, target, template, who: Vec::new() }
    }

    /// How many of it a first window shows.
    fn shown_first(&self) -> u32 {
        if self.who.is_empty() { SHOWN_FIRST } else { SHOWN_FIRST_EACH }
    }

    /// How many more a window shows for their causes.
    fn causes_shown(&self) -> u32 {
        if self.who.is_empty() { CAUSES_SHOWN } else { CAUSES_SHOWN_EACH }
    }

    fn is_other(&self) -> bool {
        self.template == OTHERS
    }
}

/// What stands for events of more kinds than are told apart.
const OTHERS: &str = "events of many kinds were held back";

/// Events that were held back, to be told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub kind: Kind,
    /// The message of one of them.
    pub text: String,
    /// How many.
    pub repeated: u64,
}

/// What to do about an event: write these, then the event itself if it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Earlier ones whose window has ended.
    pub told: Vec<Told>,
    /// Whether this one is shown.
    pub shown: bool,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// How many more are shown.
    left: u32,
    /// How many more are shown because their cause is another than that of the last one shown.
    causes_left: u32,
    cause: String,
    held: u64,
    text: String,
}

impl Window {
    fn new(began: Instant, left: u32, causes_left: u32) -> Window {
        Window { began, left, causes_left, cause: String::new(), held: 0, text: String::new() }
    }

    fn has_ended(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }

    /// Counts an event; whether it is shown.
    fn count(&mut self, cause: &str, text: impl FnOnce() -> String) -> bool {
        let is_news = self.causes_left > 0 && self.cause != cause;
        if self.left > 0 || is_news {
            if self.left > 0 {
                self.left -= 1;
            } else {
                self.causes_left -= 1;
            }
            cause.clone_into(&mut self.cause);
            return true;
        }
        if self.held == 0 {
            self.text = text();
        }
        self.held += 1;
        false
    }

    /// What it has held back, if anything.
    fn take(&mut self, kind: &Kind) -> Option<Told> {
        let repeated = std::mem::take(&mut self.held);
        (repeated > 0).then(|| Told { kind: kind.clone(), text: std::mem::take(&mut self.text), repeated })
    }
}

/// Counts events by kind.
#[derive(Debug)]
pub struct Repeats {
    windows: HashMap<Kind, Window>,
    kinds_max: usize,
    swept: Option<Instant>,
}

impl Default for Repeats {
    fn default() -> Repeats {
        Repeats::with_kinds_max(KINDS_MAX)
    }
}

impl Repeats {
    fn with_kinds_max(kinds_max: usize) -> Repeats {
        Repeats { windows: HashMap::new(), kinds_max, swept: None }
    }

    /// Judges an event that happens at `now`; `text` is its message, `cause` what it gives as its cause: one that
    /// has another than the last that was shown is shown too, so many times a window.
    pub fn admit(
        &mut self,
        kind: Kind,
        cause: &str,
        text: impl FnOnce() -> String,
        now: Instant,
    ) -> Admitted {
        let is_due = self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY);
        let has_ended = self.windows.get(&kind).is_some_and(|window| window.has_ended(now));
        let mut told = if is_due || has_ended { self.sweep(now) } else { Vec::new() };
        if let Some(window) = self.windows.get_mut(&kind) {
            return Admitted { told, shown: window.count(cause, text) };
        }
        if self.is_full() && !is_due {
            told.extend(self.sweep(now));
        }
        let is_full = self.is_full();
        // An error is shown at its first time, whatever it costs others.
        if is_full && kind.level == Level::Error {
            told.extend(self.forget_one());
        }
        let is_other = is_full && kind.level != Level::Error;
        let kind = if is_other { Kind::other(kind.level) } else { kind };
        let (shown_first, causes) = (kind.shown_first(), if is_other { 0 } else { kind.causes_shown() });
        let window = self.windows.entry(kind).or_insert_with(|| Window::new(now, shown_first, causes));
        Admitted { told, shown: window.count(cause, || if is_other { OTHERS.to_owned() } else { text() }) }
    }

    /// What is to be told of windows that have ended by `now`.
    pub fn sweep(&mut self, now: Instant) -> Vec<Told> {
        self.swept = Some(now);
        let mut told: Vec<Told> = Vec::new();
        self.windows.retain(|kind, window| {
            if !window.has_ended(now) {
                return true;
            }
            let Some(held) = window.take(kind) else { return false };
            told.push(held);
            *window = Window {
                cause: std::mem::take(&mut window.cause),
                ..Window::new(now, SHOWN_THEN, kind.causes_shown())
            };
            true
        });
        in_order(told)
    }

    /// What is to be told of everything that was held back, because nothing comes any more.
    pub fn finish(&mut self) -> Vec<Told> {
        in_order(self.windows.iter_mut().filter_map(|(kind, window)| window.take(kind)).collect())
    }

    fn is_full(&self) -> bool {
        self.windows.keys().filter(|kind| !kind.is_other()).count() >= self.kinds_max
    }

    /// Makes room: the oldest window goes, of errors only where there are no others.
    fn forget_one(&mut self) -> Option<Told> {
        let windows = self.windows.iter().filter(|(kind, _)| !kind.is_other());
        let oldest = windows.min_by_key(|(kind, window)| (kind.level == Level::Error, window.began));
        let kind = oldest.map(|(kind, _)| kind.clone())?;
        self.windows.remove(&kind)?.take(&kind)
    }
}

/// What belongs together stands together.
fn in_order(mut told: Vec<Told>) -> Vec<Told> {
    told.sort_by(|a, b| {
        let key = |told: &Told| (told.kind.level, told.kind.target.clone(), told.kind.template.clone());
        key(a).cmp(&key(b)).then_with(|| a.kind.who.cmp(&b.kind.who))
    });
    told
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    fn kind(level: Level, template: &str, pair: &str) -> Kind {
        let (target, template) = ("candlekeep::writer".to_owned(), template.to_owned());
        let who = if pair.is_empty() { Vec::new() } else { vec![("pair", pair.to_owned())] };
        Kind { level, target, template, who }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Admits `count` events at one moment; how many are shown, and what is told.
    fn admit(repeats: &mut Repeats, kind: &Kind, count: u32, now: Instant) -> (u32, Vec<u64>) {
        let (mut shown, mut told) = (0, Vec::new());
        for _ in 0..count {
            let admitted = repeats.admit(kind.clone(), "", || "text".to_owned(), now);
            shown += u32::from(admitted.shown);
            told.extend(admitted.told.iter().map(|told| told.repeated));
        }
        (shown, told)
    }

    #[test]
    fn the_first_are_shown_and_the_others_told_when_the_window_ends() {
        let (mut repeats, began) = (Repeats::default(), Clock::system().monotonic());
        let slow = kind(Level::Warn, "slow", "");
        assert_eq!(admit(&mut repeats, &slow, 100, began), (SHOWN_FIRST, vec![]));
        assert_eq!(repeats.sweep(began + WINDOW - seconds(1)), []);
        let told =
            Told { kind: slow.clone(), text: "text".to_owned(), repeated: 100 - u64::from(SHOWN_FIRST) };
        assert_eq!(repeats.sweep(began + WINDOW), [told]);
        assert_eq!(repeats.sweep(began + 9 * WINDOW), []);
    }

    #[test]
    fn what_was_held_back_is_told_before_the_next_of_its_kind() {
        let (mut repeats, began) = (Repeats::default(), Clock::system().monotonic());
        let slow = kind(Level::Warn, "slow", "");
        admit(&mut repeats, &slow, SHOWN_FIRST + 3, began);
        assert_eq!(admit(&mut repeats, &slow, 1, began + WINDOW), (1, vec![3]));
    }

    #[test]
    fn while_a_storm_lasts_one_a_window_is_shown_and_a_quiet_window_forgives() {
        let (mut repeats, began) = (Repeats::default(), Clock::system().monotonic());
        let slow = kind(Level::Warn, "slow", "");
        admit(&mut repeats, &slow, 100, began);
        assert_eq!(admit(&mut repeats, &slow, 100, began + WINDOW), (SHOWN_THEN, vec![95]));
        assert_eq!(admit(&mut repeats, &slow, 100, began + 2 * WINDOW), (SHOWN_THEN, vec![99]));
        assert_eq!(repeats.sweep(began + 3 * WINDOW).len(), 1);
        assert_eq!(repeats.sweep(began + 4 * WINDOW), []);
        assert_eq!(admit(&mut repeats, &slow, 100, began + 4 * WINDOW), (SHOWN_FIRST, vec![]));
    }

    #[test]
    fn another_pair_level_or_text_is_another_kind() {
        let (mut repeats, now) = (Repeats::default(), Clock::system().monotonic());
        let slow = kind(Level::Warn, "slow", "EUR_USD");
        assert_eq!(admit(&mut repeats, &slow, 100, now), (SHOWN_FIRST_EACH, vec![]));
        for other in [
            kind(Level::Warn, "slow", "USD_JPY"),
            kind(Level::Error, "slow", "EUR_USD"),
            kind(Level::Warn, "slower", "EUR_USD"),
        ] {
            assert_eq!(admit(&mut repeats, &other, 1, now), (1, vec![]), "{other:?}");
        }
    }

    #[test]
    fn the_end_tells_everything_once() {
        let (mut repeats, now) = (Repeats::default(), Clock::system().monotonic());
        admit(&mut repeats, &kind(Level::Warn, "slow", "USD_JPY"), 7, now);
        admit(&mut repeats, &kind(Level::Warn, "slow", "EUR_USD"), 6, now);
        admit(&mut repeats, &kind(Level::Warn, "fine", "USD_JPY"), 1, now);
        admit(&mut repeats, &kind(Level::Error, "slow", ""), 6, now);
        let repeated: Vec<u64> = repeats.finish().iter().map(|told| told.repeated).collect();
        assert_eq!((repeated, repeats.finish()), (vec![1, 4, 5], vec![]));
    }

    #[test]
    fn another_cause_is_news_a_few_times_a_window() {
        let mut repeats = Repeats::default();
        let now = Clock::simulated(crate::domain::Timestamp(0), 0).monotonic();
        let mut shown = |cause: &str| {
            let kind = kind(Level::Error, "away", "");
            repeats.admit(kind, cause, String::new, now).shown
        };
        assert_eq!((0..8).filter(|_| shown("locked")).count(), SHOWN_FIRST as usize);
        assert!(shown("disk full") && !shown("disk full") && shown("locked"));
        // Those that are made up.
        let made_up = (0..100).filter(|n| shown(&n.to_string())).count();
        assert_eq!(made_up, CAUSES_SHOWN as usize - 2);
    }

    proptest! {
        /// Whatever comes, with room for few kinds: everything is shown or told once, a new error is shown, and
        /// neither memory nor what is written grows with what comes.
        #[test]
        fn nothing_is_lost_and_nothing_grows(
            events in proptest::collection::vec((0..40_usize, 0..3_usize, 0..400_u64, 1..20_u32), 0..200),
            kinds_max in 1..30_usize,
        ) {
            let mut repeats = Repeats::with_kinds_max(kinds_max);
            let mut now = Clock::system().monotonic();
            let (mut came, mut written) = (0_u64, 0_u64);
            let mut seen = std::collections::HashSet::new();
            for (text, level, pause_s, count) in events {
                now += seconds(pause_s);
                let level = [Level::Error, Level::Warn, Level::Info][level];
                let kind = kind(level, &text.to_string(), "EUR_USD");
                for _ in 0..count {
                    let admitted = repeats.admit(kind.clone(), "", || "text".to_owned(), now);
                    let is_first = seen.insert(kind.clone());
                    prop_assert!(admitted.shown || !is_first || level != Level::Error);
                    came += 1;
                    written += u64::from(admitted.shown);
                    written += admitted.told.iter().map(|told| told.repeated).sum::<u64>();
                    // Those that stand for the others come on top, one a level.
                    prop_assert!(repeats.windows.len() <= kinds_max + 3);
                    prop_assert!(admitted.told.len() <= kinds_max + 4);
                }
            }
            written += repeats.finish().iter().map(|told| told.repeated).sum::<u64>();
            prop_assert_eq!(came, written);
        }

        /// Of one kind no more is written than the first few, and then two lines a window.
        #[test]
        fn a_storm_of_one_kind_is_bounded_by_time(pauses_ms in proptest::collection::vec(0..60_000_u64, 1..400)) {
            let mut repeats = Repeats::default();
            let began = Clock::system().monotonic();
            let (mut now, mut lines) = (began, 0);
            for pause_ms in pauses_ms {
                now += Duration::from_millis(pause_ms);
                let admitted = repeats.admit(kind(Level::Warn, "slow", ""), "", String::new, now);
                lines += usize::from(admitted.shown) + admitted.told.len();
            }
            lines += repeats.finish().len();
            let windows = ((now - began).as_secs() / WINDOW.as_secs()) as usize + 1;
            // A window in which nothing had to be held back earns the next one its full share.
            prop_assert!(lines <= windows * (SHOWN_FIRST as usize + 1), "{lines} in {windows}");
        }
    }
}
