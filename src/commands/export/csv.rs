//! Bars as CSV: every column of table `candles` by its name, prices as exact decimals.

use std::io::{self, Write};

use super::Sink;
use crate::store::StoredBar;

/// The columns, in the order of the table.
pub const COLUMNS: [&str; 22] = [
    "pair",
    "timeframe",
    "timestamp",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "source",
    "created_at",
    "bid_open",
    "bid_high",
    "bid_low",
    "bid_close",
    "ask_open",
    "ask_high",
    "ask_low",
    "ask_close",
    "revision",
    "updated_at",
    "seq",
    "feed_id",
];

/// Writes lines.
pub struct Csv<W> {
    out: W,
}

impl<W: Write> Csv<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(mut out: W) -> io::Result<Csv<W>> {
        writeln!(out, "{}", COLUMNS.join(","))?;
        Ok(Csv { out })
    }
}

impl<W: Write> Sink for Csv<W> {
    fn bars(&mut self, page: &[StoredBar]) -> io::Result<()> {
        page.iter().try_for_each(|stored| write_row(&mut self.out, stored))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_row(out: &mut impl Write, stored: &StoredBar) -> io::Result<()> {
    let StoredBar { bar, created_at, updated_at, revision, seq, feed_id } = stored;
    write!(out, "{},{},{},", bar.key.pair, bar.key.timeframe, bar.key.start.0)?;
    for mid in bar.mid() {
        write!(out, "{mid},")?;
    }
    write!(out, "{},{},{},", bar.volume, bar.source, created_at.0)?;
    for price in bar.bid.prices().into_iter().chain(bar.ask.prices()) {
        write!(out, "{price},")?;
    }
    write!(out, "{revision},{},{seq},", updated_at.0)?;
    match feed_id {
        Some(id) => writeln!(out, "{id}"),
        None => writeln!(out),
    }
}
