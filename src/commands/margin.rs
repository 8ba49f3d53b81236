//! Lines for people, as wide as their terminal. Where stdout is none, a line stays one, to be searched.

use std::io::IsTerminal;

/// Narrower texts are not folded, since nobody could read them.
pub const TEXT_MIN: usize = 20;

/// Columns of a terminal that does not say how wide it is.
pub const COLUMNS: usize = 80;
/// And its rows.
pub const ROWS: usize = 24;

/// Columns of the terminal that stdout is; none where it is no terminal.
pub fn columns() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// Columns and rows of the terminal that stdout is; none where it is no terminal.
pub fn size() -> Option<(usize, usize)> {
    let stdout = std::io::stdout();
    // One that has no size, such as a serial line, says so by zeros.
    let told = || {
        let (columns, rows) = terminal_size::terminal_size_of(&stdout)?;
        (columns.0 > 0 && rows.0 > 0).then(|| (usize::from(columns.0), usize::from(rows.0)))
    };
    stdout.is_terminal().then(|| told().unwrap_or((COLUMNS, ROWS)))
}

/// The characters of a text that are seen, each with its place in bytes: all but what sets its colour.
fn seen(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut is_escape = false;
    text.char_indices().filter(move |(_, letter)| match (is_escape, letter) {
        (false, '\u{1b}') => {
            is_escape = true;
            false
        }
        (true, letter) => {
            is_escape = *letter != 'm';
            false
        }
        (false, _) => true,
    })
}

/// How many columns a text takes, colours aside.
pub fn width(text: &str) -> usize {
    seen(text).count()
}

/// Folds a line at spaces so that it fits, under the text that begins at column `indent`. A longer word, such as a path
/// that is to be copied, has a line of its own and stays whole.
pub fn hang(line: &str, indent: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns.filter(|columns| *columns >= indent + TEXT_MIN) else {
        return line.to_owned();
    };
    let text_at = seen(line).nth(indent).map_or(line.len(), |(at, _)| at);
    let (head, text) = line.split_at(text_at);
    let (mut folded, mut column, mut gap) = (head.to_owned(), indent, 0);
    for word in text.split(' ') {
        let length = width(word);
        if length > 0 && column > indent && column + gap + length > columns {
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', indent));
            (column, gap) = (indent, 0);
        }
        // Of more spaces than one each but the first stands for an empty word.
        folded.extend(std::iter::repeat_n(' ', gap));
        folded.push_str(word);
        column += gap + length;
        gap = 1;
    }
    folded
}

/// A time's length in its two largest units: `45 s`, `3 min 20 s`, `2 h 5 min`, `400 days 3 h`.
pub fn lasting(seconds: i64) -> String {
    let two = |large: i64, name: &str, small: i64, rest: &str| match small {
        0 => format!("{large} {name}"),
        small => format!("{large} {name} {small} {rest}"),
    };
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => two(seconds / 60, "min", seconds % 60, "s"),
        7_200..172_800 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "days", seconds % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_folded_under_its_text_where_there_is_a_terminal() {
        let line = "stream    none; was  streaming when the service ended";
        assert_eq!(hang(line, 10, None), line);
        assert_eq!(hang(line, 10, Some(53)), line);
        assert_eq!(
            hang(line, 10, Some(40)),
            "stream    none; was  streaming when the\n          service ended"
        );
        assert_eq!(hang(line, 10, Some(29)), line, "too narrow for anything");
        assert_eq!(hang("", 10, Some(80)), "");
        let path = format!("database  {} {}", "x".repeat(90), "y");
        assert_eq!(hang(&path, 10, Some(80)), path.replace(" y", "\n          y"));
    }

    #[test]
    fn colours_take_no_room() {
        let plain = "stream    none; was streaming when the service ended, long ago";
        let painted = plain
            .replace("stream  ", "\u{1b}[1mstream\u{1b}[0m  ")
            .replace("when the", "\u{1b}[31mwhen the\u{1b}[0m");
        assert_eq!(width(&painted), plain.len());
        for columns in [34, 40, 50, 60, 70] {
            let folded = anstream::adapter::strip_str(&hang(&painted, 10, Some(columns))).to_string();
            assert_eq!(folded, hang(plain, 10, Some(columns)), "{columns}");
        }
    }

    #[test]
    fn a_length_of_time_is_told_in_units_that_people_read() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (200, "3 min 20 s"),
            (7_500, "2 h 5 min"),
            (172_800, "2 days"),
            (34_570_800, "400 days 3 h"),
        ] {
            assert_eq!(lasting(seconds), expected);
        }
    }

    proptest! {
        #[test]
        fn folding_loses_nothing_and_keeps_to_the_width(
            text in "[a-z/é]{1,12}( [a-z]{1,12}){0,20}", width in 20usize..60, indent in 0usize..20
        ) {
            let line = format!("{:indent$}{text}", "");
            let folded = hang(&line, indent, Some(indent + width));
            let lines: Vec<&str> = folded.lines().map(|line| &line[indent..]).collect();
            prop_assert_eq!(lines.join(" "), text);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
        }
    }
}
