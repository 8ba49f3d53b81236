//! Bars as candlesticks in a terminal. Pure.
//!
//! Each row of characters is two steps of the price, since a character can be a body or a wick in its upper and its
//! lower half. Rising and falling differ in form where there are no colours.

mod scale;
mod slots;

use std::fmt::Write as _;

use anstyle::Style;

use self::scale::Scale;
pub use self::slots::{Absent, Slot, slots};
use crate::commands::margin::{hang, width};
use crate::commands::paint::{BAD, FAINT, GOOD, NAME, WARN, paint};
use crate::domain::{Pair, Timeframe, Timestamp};

/// Fewest and most rows of characters for prices.
const ROWS_MIN: usize = 6;
const ROWS_MAX: usize = 60;
/// Lines below the prices, and the shell's next: the axis with times and dates.
const ROWS_BELOW: usize = 4;
/// Fewest columns for candles, however narrow the terminal.
const COLUMNS_MIN: usize = 10;
/// Columns between two times on the axis, at least: a date has six, and a space.
const TIME_EVERY: usize = 8;
/// Minutes between two times on the axis.
const TIME_STEPS: [i64; 9] = [15, 30, 60, 120, 180, 240, 360, 720, 1440];

/// One bar's prices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candle {
    /// Its bucket's start.
    pub start: Timestamp,
    /// Open, high, low and close.
    pub prices: [f64; 4],
}

impl Candle {
    fn rises(&self) -> bool {
        self.prices[3] >= self.prices[0]
    }
}

/// What the chart is of.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The pair, which says how many decimals are customary.
    pub pair: Pair,
    /// The length of a bar.
    pub timeframe: Timeframe,
    /// `mid`, `bid` or `ask`.
    pub price: &'static str,
    /// Buckets that are missing behind the last one that is shown.
    pub beyond: usize,
}

/// What it is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// Characters beside each other.
    pub columns: usize,
    /// Characters below each other.
    pub rows: usize,
    /// Whether colours are seen.
    pub has_colors: bool,
    /// Whether there are letters beyond ASCII.
    pub has_unicode: bool,
}

impl Canvas {
    /// Columns for candles: what labels of these prices leave.
    fn plot_columns(&self, decimals: usize) -> usize {
        // Four digits before the point are enough for any pair of ours; a longer label sticks out.
        self.columns.saturating_sub(decimals + 5 + AXIS).max(COLUMNS_MIN)
    }

    /// For how many bars, and places without one, there is room: one a column, or where nobody asks for so many, with a
    /// column between two.
    pub fn room(&self, pair: Pair, is_asked_for: bool) -> usize {
        self.plot_columns(pair.decimals()) / if is_asked_for { 1 } else { 2 }
    }
}

/// Whether a terminal shows more than ASCII: unless it says that it is a dumb one, or a locale is set that has no UTF-8.
pub fn has_unicode(locale: Option<&str>, terminal: Option<&str>) -> bool {
    let is_utf8 = |locale: &str| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    };
    locale.is_none_or(is_utf8) && terminal != Some("dumb")
}

/// The axis' line, and a space behind it.
const AXIS: usize = 2;

/// The chart, each line with its end. Nothing where there is no bar.
pub fn chart(subject: &Subject, slots: &[Slot], canvas: &Canvas) -> String {
    let bars: Vec<Candle> =
        slots.iter().filter_map(|slot| if let Slot::Bar(bar) = slot { Some(*bar) } else { None }).collect();
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return String::new() };
    let decimals = subject.pair.decimals();
    let pitch = pitch(slots.len(), canvas.plot_columns(decimals));
    let title = hang(&title(subject, &bars, first, last), 0, Some(canvas.columns));
    let legend =
        legend(slots, subject.beyond, pitch, canvas).map(|legend| hang(&legend, 0, Some(canvas.columns)));
    let beside =
        title.lines().count() + legend.as_deref().map_or(0, |legend| legend.lines().count()) + ROWS_BELOW;
    let rows = canvas.rows.saturating_sub(beside).clamp(ROWS_MIN, ROWS_MAX);
    let scale = Scale::of(&bars, rows, decimals);
    let mut out = format!("{title}\n");
    let labels = scale.labels(last, decimals);
    let axis = if canvas.has_unicode { ["│", "┤"] } else { ["|", "+"] };
    for row in (0..scale.rows).rev() {
        for slot in slots {
            out.push_str(&cells(slot, row, &scale, pitch, canvas));
        }
        let label = labels.iter().find(|(at, ..)| *at == row);
        let sign = paint(FAINT, axis[usize::from(label.is_some())]);
        match label {
            Some((_, text, style)) => {
                let _ = writeln!(out, "{sign} {}", paint(*style, text));
            }
            None => {
                let _ = writeln!(out, "{sign}");
            }
        }
    }
    for line in times(slots, subject.timeframe, pitch, canvas) {
        let _ = writeln!(out, "{}", paint(FAINT, line));
    }
    if let Some(legend) = legend {
        let _ = writeln!(out, "{legend}");
    }
    out
}

/// Columns from one candle to the next: room for a body of three, or a column between bodies of one, or none.
fn pitch(slots: usize, columns: usize) -> usize {
    [4, 2].into_iter().find(|pitch| slots * pitch <= columns).unwrap_or(1)
}

fn title(subject: &Subject, bars: &[Candle], first: &Candle, last: &Candle) -> String {
    let decimals = subject.pair.decimals();
    let high = bars.iter().map(|bar| bar.prices[1]).fold(f64::MIN, f64::max);
    let low = bars.iter().map(|bar| bar.prices[2]).fold(f64::MAX, f64::min);
    let (open, close) = (first.prices[0], last.prices[3]);
    let change = (close - open) / open * 100.0;
    let (from, to) = (first.start, last.start.plus(subject.timeframe.seconds()));
    let is_one_day = from.utc().date_naive() == to.utc().date_naive();
    format!(
        "{} {} min {}, {} to {} UTC, {} bars: open {open:.decimals$} high {high:.decimals$} low {low:.decimals$} close {} {}",
        paint(NAME, subject.pair),
        subject.timeframe,
        subject.price,
        from.utc().format("%a %Y-%m-%d %H:%M"),
        to.utc().format(if is_one_day { "%H:%M" } else { "%a %Y-%m-%d %H:%M" }),
        bars.len(),
        paint(NAME, format_args!("{close:.decimals$}")),
        paint(side(close >= open), format_args!("{change:+.2}%")),
    )
}

const fn side(rises: bool) -> Style {
    if rises { GOOD } else { BAD }
}

/// What half a character shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Nothing,
    Wick,
    Body,
}

/// A slot's characters in a row.
fn cells(slot: &Slot, row: usize, scale: &Scale, pitch: usize, canvas: &Canvas) -> String {
    let candle = match slot {
        Slot::Bar(candle) => candle,
        Slot::None(_, Absent::Quiet) => return " ".repeat(pitch),
        Slot::None(_, Absent::Missing) => return paint(WARN, missing_sign(canvas).repeat(pitch)),
        Slot::None(_, Absent::Closed) => return in_middle(closed_sign(canvas), pitch),
        Slot::None(_, Absent::Unknown) => return in_middle(unknown_sign(canvas), pitch),
    };
    let [open, high, low, close] = candle.prices.map(|price| scale.half(price));
    let body = open.min(close)..=open.max(close);
    let half = |half: usize| match half {
        _ if body.contains(&half) => Half::Body,
        _ if (low..=high).contains(&half) => Half::Wick,
        _ => Half::Nothing,
    };
    let (top, bottom) = (half(row * 2 + 1), half(row * 2));
    let rises = candle.rises();
    let middle = glyph(top, bottom, rises, pitch, canvas);
    let beside = |half| if half == Half::Body { Half::Body } else { Half::Nothing };
    let text = match pitch {
        1 => middle.to_string(),
        2 => format!("{middle} "),
        _ => {
            let wing = glyph(beside(top), beside(bottom), rises, pitch, canvas);
            format!("{wing}{middle}{wing} ")
        }
    };
    if text.trim_end().is_empty() { text } else { paint(side(rises), text) }
}

/// A faint sign in the middle of a slot.
fn in_middle(sign: &str, pitch: usize) -> String {
    let left = (pitch - 1) / 2;
    format!("{}{}{}", " ".repeat(left), paint(FAINT, sign), " ".repeat(pitch - 1 - left))
}

fn glyph(top: Half, bottom: Half, rises: bool, pitch: usize, canvas: &Canvas) -> char {
    use Half::{Body, Nothing, Wick};
    // Without colours a falling candle is thick, and a rising one thin or pale.
    let is_thin = pitch < 4 && (canvas.has_colors || rises);
    match (top, bottom) {
        (Nothing, Nothing) => ' ',
        (Body, _) | (_, Body) if !canvas.has_unicode => {
            if rises {
                'o'
            } else {
                '#'
            }
        }
        _ if !canvas.has_unicode => '|',
        (Wick, Wick) => '│',
        (Wick, Nothing) => '╵',
        (Nothing, Wick) => '╷',
        (Body, Body) if is_thin => '┃',
        (Body, Nothing) if is_thin => '╹',
        (Nothing, Body) if is_thin => '╻',
        (Wick, Body) if is_thin => '╽',
        (Body, Wick) if is_thin => '╿',
        _ if rises && !canvas.has_colors => '░',
        (Body, Nothing) => '▀',
        (Nothing, Body) => '▄',
        // No sign has a thick half and a thin one: thick, so that the wick does not hang in the air.
        (Body, _) | (_, Body) => '█',
    }
}

const fn missing_sign(canvas: &Canvas) -> &'static str {
    if canvas.has_unicode { "▒" } else { "?" }
}

const fn closed_sign(canvas: &Canvas) -> &'static str {
    if canvas.has_unicode { "┊" } else { ":" }
}

const fn unknown_sign(canvas: &Canvas) -> &'static str {
    if canvas.has_unicode { "·" } else { "." }
}

/// The axis of time: its line, times, and dates where a day begins.
fn times(slots: &[Slot], timeframe: Timeframe, pitch: usize, canvas: &Canvas) -> [String; 3] {
    let every = |minutes: i64| minutes * 60 * pitch as i64 / timeframe.seconds();
    let step =
        TIME_STEPS.into_iter().find(|minutes| every(*minutes) >= TIME_EVERY as i64).unwrap_or(1440) * 60;
    let (line, tick, end) = if canvas.has_unicode { ("─", "┴", "┘") } else { ("-", "+", "+") };
    let (mut axis, mut hours, mut days) = (String::new(), String::new(), String::new());
    let mut day = None;
    for (index, slot) in slots.iter().enumerate() {
        let at = match slot {
            Slot::Bar(candle) => candle.start,
            Slot::None(_, Absent::Closed) => Timestamp(1),
            Slot::None(at, _) => *at,
        };
        // Under the middle of a wide body.
        let column = index * pitch + usize::from(pitch > 2);
        let has_room = |text: &str| text.is_empty() || width(text) + 2 <= column;
        if at.0 % step != 0 || !has_room(&hours) || column + 5 > slots.len() * pitch + AXIS {
            continue;
        }
        axis.extend(std::iter::repeat_n(line, column - width(&axis)));
        axis.push_str(tick);
        hours.extend(std::iter::repeat_n(' ', column - width(&hours)));
        let _ = write!(hours, "{}", at.utc().format("%H:%M"));
        let today = at.utc().date_naive();
        if day != Some(today) && has_room(&days) {
            days.extend(std::iter::repeat_n(' ', column - width(&days)));
            let _ = write!(days, "{}", today.format("%b %d"));
            day = Some(today);
        }
    }
    axis.extend(std::iter::repeat_n(line, slots.len() * pitch - width(&axis)));
    axis.push_str(end);
    [axis, hours, days]
}

/// What signs mean, as far as they are there.
fn legend(slots: &[Slot], beyond: usize, pitch: usize, canvas: &Canvas) -> Option<String> {
    let count =
        |why: Absent| slots.iter().filter(|slot| matches!(slot, Slot::None(_, of) if *of == why)).count();
    let mut told = Vec::new();
    if !canvas.has_colors {
        let sign = |rises| glyph(Half::Body, Half::Body, rises, pitch, canvas);
        told.push(format!("{} rises", sign(true)));
        told.push(format!("{} falls", sign(false)));
    }
    match (count(Absent::Missing), beyond) {
        (0, 0) => {}
        (missing, 0) => told.push(format!("{} {missing} missing", paint(WARN, missing_sign(canvas)))),
        (missing, beyond) => told.push(format!(
            "{} {missing} missing, and {beyond} more since",
            paint(WARN, missing_sign(canvas))
        )),
    }
    if count(Absent::Closed) > 0 {
        told.push(format!("{} market closed", paint(FAINT, closed_sign(canvas))));
    }
    match count(Absent::Quiet) {
        0 => {}
        quiet => told.push(format!("{quiet} without a price")),
    }
    match count(Absent::Unknown) {
        0 => {}
        unknown => told
            .push(format!("{} {unknown} without a bar, not known why", paint(FAINT, unknown_sign(canvas)))),
    }
    (!told.is_empty()).then(|| told.join("   "))
}

#[cfg(test)]
mod tests {
    use super::slots::tests::form;
    use super::*;

    /// Friday 2024-01-19 20:00 UTC.
    pub const START: Timestamp = Timestamp(1_705_694_400);
    const CANVAS: Canvas = Canvas { columns: 30, rows: 13, has_colors: true, has_unicode: true };

    pub fn candle(index: i64, prices: [f64; 4]) -> Candle {
        Candle { start: START.plus(index * 300), prices }
    }

    fn drawn(slots: &[Slot], canvas: &Canvas) -> Vec<String> {
        let subject =
            Subject { pair: "EURUSD".parse().unwrap(), timeframe: Timeframe::M5, price: "mid", beyond: 0 };
        let text = chart(&subject, slots, canvas);
        anstream::adapter::strip_str(&text)
            .to_string()
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// One that rises from 2 to 4 with wicks, one that falls back, one that stood still.
    fn three() -> Vec<Slot> {
        let bars = [[1.00002, 1.00006, 1.0, 1.00004], [1.00004, 1.00004, 1.00001, 1.00002], [1.00003; 4]];
        bars.into_iter().zip(0..).map(|(prices, index)| Slot::Bar(candle(index, prices))).collect()
    }

    #[test]
    fn bodies_lie_between_open_and_close_and_wicks_reach_high_and_low() {
        let narrow = Canvas { columns: 16, ..CANVAS };
        let lines = drawn(&three(), &narrow);
        let plot: Vec<&str> = lines[1..9].iter().map(String::as_str).collect();
        // 16 half rows for 6 steps of the price: 2 lies in the 5th from below (counted from 0), 4 in the 10th.
        let expected = [
            "│     │",
            "│     │",
            "╽ ╻   ┤ 1.00004",
            "┃ ┃ ╻ ┤ 1.00003",
            "┃ ┃   │",
            "╿ ╿   ┤ 1.00002",
            "│ │   │",
            "│     ┤ 1.00000",
        ];
        assert_eq!(plot, expected, "{lines:#?}");
    }

    #[test]
    fn a_chart_fits_its_canvas_and_says_what_it_is_of() {
        let bars: Vec<Slot> = (0..200)
            .map(|index| {
                let close = 1.1 + f64::from(index % 17) * 0.0001;
                Slot::Bar(candle(i64::from(index), [1.1005, close.max(1.1005), close.min(1.1005), close]))
            })
            .collect();
        for (columns, rows) in [(60, 20), (80, 24), (120, 40), (200, 60)] {
            let canvas = Canvas { columns, rows, ..CANVAS };
            let count = canvas.room("EURUSD".parse().unwrap(), true).min(bars.len());
            let lines = drawn(&bars[bars.len() - count..], &canvas);
            assert!(lines.len() < rows, "{columns} x {rows}: {lines:#?}");
            assert!(lines.iter().all(|line| width(line) <= columns), "{columns} x {rows}: {lines:#?}");
            assert!(lines.join(" ").contains(&format!(" {count} bars: ")), "{columns} x {rows}: {lines:#?}");
            // Times that a reader can count by, more than one of them.
            let hours = lines.iter().find(|line| line.matches(":00").count() > 1);
            assert!(hours.is_some(), "{columns} x {rows}: {lines:#?}");
        }
        let title = drawn(&three(), &Canvas { columns: 200, ..CANVAS }).swap_remove(0);
        let expected = "EUR_USD 5 min mid, Fri 2024-01-19 20:00 to 20:15 UTC, 3 bars: \
                        open 1.00002 high 1.00006 low 1.00000 close 1.00003 +0.00%";
        assert_eq!(title, expected);
        assert_eq!(drawn(&[], &CANVAS), [""; 0]);
    }

    #[test]
    fn what_is_not_there_has_its_own_place_and_sign() {
        let bars = [candle(0, [1.0; 4]), candle(5, [1.0; 4]), candle(900, [1.0; 4])];
        let why = |at: Timestamp| match at.since(START) / 300 {
            1 => Absent::Quiet,
            2 | 3 => Absent::Missing,
            4 => Absent::Unknown,
            _ => Absent::Closed,
        };
        let of = |slots_max| slots(&bars, Timeframe::M5, START, slots_max, why);
        let (all, beyond) = of(100);
        assert_eq!((&*form(&all), beyond), ("BqmmuBcB", 0), "closed hours are one place however long");
        let check = |canvas: &Canvas, expected: &str, legend: &str| {
            let lines = drawn(&all, canvas);
            assert!(lines.iter().any(|line| line.contains(expected)), "{lines:#?}");
            assert!(lines.join(" ").ends_with(legend), "{lines:#?}");
        };
        let wide = Canvas { columns: 200, ..CANVAS };
        check(
            &wide,
            "    ▒▒▒▒▒▒▒▒ · ",
            " ▒ 2 missing   ┊ market closed   1 without a price   · 1 without a bar, not known why",
        );
        let ascii = Canvas { has_unicode: false, ..wide };
        check(
            &ascii,
            "    ???????? . ",
            "   : market closed   1 without a price   . 1 without a bar, not known why",
        );
        // The newest are shown, and what lies before the oldest of them is not.
        assert_eq!(of(5).0.len(), 3);
        assert_eq!(of(2).0, [Slot::Bar(bars[2])]);
    }

    #[test]
    fn more_that_is_missing_than_there_is_room_for_is_told_in_words() {
        let slots = [Slot::Bar(candle(0, [1.0; 4])), Slot::None(START.plus(300), Absent::Missing)];
        let subject =
            Subject { pair: "EURUSD".parse().unwrap(), timeframe: Timeframe::M5, price: "mid", beyond: 23 };
        let text = chart(&subject, &slots, &Canvas { columns: 80, ..CANVAS });
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.ends_with("▒ 1 missing, and 23 more since\n"), "{text}");
    }

    #[test]
    fn rising_and_falling_differ_without_colours_and_without_unicode() {
        let bars = [candle(0, [1.0, 1.001, 1.0, 1.001]), candle(1, [1.001, 1.001, 1.0, 1.0])].map(Slot::Bar);
        for columns in [14, 18, 40] {
            for has_unicode in [true, false] {
                let canvas = Canvas { columns, has_colors: false, has_unicode, ..CANVAS };
                let lines = drawn(&bars, &canvas);
                let legend = lines.last().unwrap();
                let signs: Vec<char> = legend.split("   ").filter_map(|told| told.chars().next()).collect();
                assert!(signs.len() == 2 && signs[0] != signs[1], "{lines:#?}");
                for sign in &signs {
                    assert!(lines[2..lines.len() - 1].concat().contains(*sign), "{sign} in {lines:#?}");
                }
                assert!(has_unicode || lines.concat().is_ascii(), "{lines:#?}");
            }
        }
    }

    #[test]
    fn letters_beyond_ascii_need_a_terminal_and_a_locale_that_have_them() {
        assert!(has_unicode(Some("de_DE.UTF-8"), Some("xterm")));
        assert!(has_unicode(Some("C.utf8"), None));
        assert!(has_unicode(None, None));
        assert!(!has_unicode(Some("C"), Some("xterm")));
        assert!(!has_unicode(Some("de_DE@euro"), Some("xterm")));
        assert!(!has_unicode(Some("C.UTF-8"), Some("dumb")));
    }
}
