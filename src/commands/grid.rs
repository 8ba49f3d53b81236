//! Tables for people, as wide as their terminal. Pure.
//!
//! The crate that draws the demonstration's table measures no coloured text, unless it brings a whole library for
//! terminals along; and it drops no columns.

use super::margin::{TEXT_MIN, hang, width};
use super::paint::{FAINT, paint};

/// Between two columns.
const GAP: usize = 2;
/// Between two tables beside each other.
const BESIDE: usize = 4;
/// Tables beside each other, at most.
const BESIDE_MAX: usize = 3;
/// Where it begins there.
const BELOW_AT: usize = 4;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    is_number: bool,
    /// Whether a narrow terminal does without it.
    is_extra: bool,
}

/// A column of words.
pub const fn words(name: &'static str) -> Column {
    Column { name, is_number: false, is_extra: false }
}

/// A column of numbers, which line up at their end.
pub const fn numbers(name: &'static str) -> Column {
    Column { name, is_number: true, is_extra: false }
}

impl Column {
    /// A narrow terminal does without it; without the last such column first.
    pub const fn extra(self) -> Column {
        Column { is_extra: true, ..self }
    }
}

/// Rows below a header.
#[derive(Debug)]
pub struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// One without rows.
    pub fn new(columns: &[Column]) -> Grid {
        Grid { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    /// The lines, each without spaces at its end. What is too wide goes without its extra columns, last first; then the
    /// last column is folded, or goes below the others, if it is one of words.
    pub fn lines(&self, columns: Option<usize>) -> Vec<String> {
        let shown = self.shown(columns);
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        let widths = self.widths();
        let header: Vec<String> = self.columns.iter().map(|column| paint(FAINT, column.name)).collect();
        let last_at: usize = shown.iter().rev().skip(1).map(|index| widths[*index] + GAP).sum();
        let last = shown.last().copied().filter(|last| !self.columns[*last].is_number);
        let is_too_wide = columns.is_some_and(|columns| self.wide(&shown, &widths) > columns);
        for cells in std::iter::once(&header).chain(&self.rows) {
            match (columns, last) {
                (Some(columns), Some(_)) if is_too_wide && columns >= last_at + TEXT_MIN => {
                    let line = self.line(cells, &shown, &widths);
                    lines.extend(folded(&line, last_at, columns));
                }
                (Some(columns), Some(last)) if is_too_wide => {
                    lines.push(self.line(cells, &shown[..shown.len() - 1], &widths));
                    let below = format!("{}{}", " ".repeat(BELOW_AT), cells[last]);
                    lines.extend(folded(&below, BELOW_AT, columns));
                }
                _ => lines.push(self.line(cells, &shown, &widths)),
            }
        }
        lines
    }

    /// The same rows in as many tables beside each other as there is room for, to be read down each in turn.
    pub fn lines_beside(&self, columns: Option<usize>) -> Vec<String> {
        let own = self.wide(&self.shown(None), &self.widths());
        let fit = columns.map_or(1, |columns| (columns + BESIDE) / (own + BESIDE));
        let count = fit.clamp(1, BESIDE_MAX).min(self.rows.len().max(1));
        if count == 1 {
            return self.lines(columns);
        }
        let height = self.rows.len().div_ceil(count);
        let (shown, widths) = (self.shown(None), self.widths());
        let header: Vec<String> = self.columns.iter().map(|column| paint(FAINT, column.name)).collect();
        let mut lines = vec![String::new(); height + 1];
        for (place, part) in self.rows.chunks(height).enumerate() {
            for (line, cells) in lines.iter_mut().zip(std::iter::once(&header).chain(part)) {
                let missing = place * (own + BESIDE) - width(line);
                line.extend(std::iter::repeat_n(' ', missing));
                line.push_str(&self.line(cells, &shown, &widths));
            }
        }
        lines
    }

    /// The columns for which there is room.
    fn shown(&self, columns: Option<usize>) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let widths = self.widths();
        while columns.is_some_and(|columns| self.wide(&shown, &widths) > columns) {
            let Some(place) = shown.iter().rposition(|index| self.columns[*index].is_extra) else { break };
            shown.remove(place);
        }
        shown
    }

    fn wide(&self, shown: &[usize], widths: &[usize]) -> usize {
        let cells: usize = shown.iter().map(|index| widths[*index]).sum();
        cells + GAP * shown.len().saturating_sub(1)
    }

    fn widths(&self) -> Vec<usize> {
        let of = |index: usize| self.rows.iter().map(|row| width(&row[index])).max().unwrap_or(0);
        self.columns.iter().enumerate().map(|(index, column)| of(index).max(width(column.name))).collect()
    }

    fn line(&self, cells: &[String], shown: &[usize], widths: &[usize]) -> String {
        let mut line = String::new();
        // Spaces that are owed: at the end of a line nobody needs them.
        let mut owed = 0;
        for index in shown {
            let (cell, room) = (&cells[*index], widths[*index]);
            let left = room - width(cell);
            let (before, after) = if self.columns[*index].is_number { (left, 0) } else { (0, left) };
            line.extend(std::iter::repeat_n(' ', owed + before));
            line.push_str(cell);
            owed = after + GAP;
        }
        line
    }
}

fn folded(line: &str, indent: usize, columns: usize) -> Vec<String> {
    hang(line, indent, Some(columns)).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::paint::{BAD, WARN};

    fn plain(lines: &[String]) -> Vec<String> {
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    fn holes() -> Grid {
        let mut grid = Grid::new(&[words("pair"), numbers("buckets"), words("state").extra(), words("why")]);
        grid.row([
            "EUR_USD".into(),
            "3".into(),
            paint(WARN, "missing"),
            "no price was seen on the stream".into(),
        ]);
        grid.row(["GBP_USD".into(), "1200".into(), paint(BAD, "lost"), "IG has none".into()]);
        grid
    }

    #[test]
    fn columns_stand_below_each_other_whatever_their_colour() {
        assert_eq!(
            plain(&holes().lines(None)),
            [
                "pair     buckets  state    why",
                "EUR_USD        3  missing  no price was seen on the stream",
                "GBP_USD     1200  lost     IG has none",
            ]
        );
        assert!(holes().lines(None)[1].contains(&paint(WARN, "missing")));
    }

    #[test]
    fn a_narrow_terminal_goes_without_extras_and_then_folds() {
        assert_eq!(plain(&holes().lines(Some(58)))[0], "pair     buckets  state    why");
        assert_eq!(plain(&holes().lines(Some(57)))[0], "pair     buckets  why");
        assert_eq!(
            plain(&holes().lines(Some(44))),
            [
                "pair     buckets  why",
                "EUR_USD        3  no price was seen on the",
                "                  stream",
                "GBP_USD     1200  IG has none",
            ]
        );
        assert_eq!(
            plain(&holes().lines(Some(30))),
            [
                "pair     buckets",
                "    why",
                "EUR_USD        3",
                "    no price was seen on the",
                "    stream",
                "GBP_USD     1200",
                "    IG has none",
            ]
        );
    }

    #[test]
    fn wide_terminals_have_several_tables_beside_each_other() {
        let mut grid = Grid::new(&[words("pair"), numbers("n")]);
        for (index, pair) in ["A", "B", "C", "D", "E"].into_iter().enumerate() {
            grid.row([pair.to_owned(), paint(WARN, index)]);
        }
        assert_eq!(plain(&grid.lines_beside(None)).len(), 6);
        assert_eq!(plain(&grid.lines_beside(Some(17))).len(), 6);
        assert_eq!(
            plain(&grid.lines_beside(Some(18))),
            ["pair  n    pair  n", "A     0    D     3", "B     1    E     4", "C     2"]
        );
        assert_eq!(
            plain(&grid.lines_beside(Some(500))),
            ["pair  n    pair  n    pair  n", "A     0    C     2    E     4", "B     1    D     3"]
        );
        assert_eq!(Grid::new(&[words("pair")]).lines_beside(Some(500)).len(), 1);
    }
}
