//! What colours mean, everywhere the same. Pure: texts are always painted, and whoever prints them takes the colours
//! out where nobody wants them.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// To be looked at.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Lost, refused, not running.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What a line or a column is about.
pub const NAME: Style = Style::new().bold();
/// What matters least.
pub const FAINT: Style = Style::new().dimmed();
/// As it comes.
pub const PLAIN: Style = Style::new();

/// The text in a style.
pub fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The first of these words that the text begins with, in its style; the text as it is where it begins with none.
pub fn paint_start(text: &str, words: &[(&str, Style)]) -> String {
    let found = words.iter().find_map(|(word, style)| Some((*word, *style, text.strip_prefix(word)?)));
    found.map_or_else(|| text.to_owned(), |(word, style, rest)| format!("{}{rest}", paint(style, word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_ends_with_its_text() {
        assert_eq!(paint(GOOD, "ok"), "\u{1b}[32mok\u{1b}[0m");
        assert_eq!(paint(PLAIN, "ok"), "ok");
        let words = [("not running", BAD), ("run", GOOD)];
        assert_eq!(paint_start("not running; x", &words), "\u{1b}[31mnot running\u{1b}[0m; x");
        assert_eq!(paint_start("running", &words), "\u{1b}[32mrun\u{1b}[0mning");
        assert_eq!(paint_start("x run", &words), "x run");
    }
}
