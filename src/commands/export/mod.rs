//! `candlekeep export`: bars with all their columns to a file, also while `run` writes. One state of
//! the database, a page at a time. Never creates a database.

pub mod csv;
#[cfg(feature = "parquet")]
mod parquet;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::Range;
use std::path::Path;

use super::whole_file::WholeFile;
use super::{check_pair, counter, say, span_of};
use crate::cli::{Export, FileFormat};
use crate::config::Config;
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::store::{Store, StoredBar};

/// Bars that are read at a time.
const PAGE_BARS: u32 = 4_000;
/// Who may read the file: as with any that a shell makes, less what the user's mask takes away.
const MODE: u32 = 0o666;

/// What takes bars, page by page.
trait Sink {
    /// Writes a page.
    fn bars(&mut self, page: &[StoredBar]) -> io::Result<()>;
    /// Writes what is left.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    bars: u64,
    pairs: usize,
}

/// Writes the bars.
///
/// # Errors
/// Wrong arguments; a database that cannot be read; a file that cannot be written.
pub fn execute(args: &Export, config: &Config) -> Result<Exit, Failure> {
    let span = span_of(args.from, args.to)?;
    if cfg!(not(feature = "parquet")) && args.format == FileFormat::Parquet {
        return Err(Failure::usage(
            "this candlekeep is built without Parquet: use --format csv, \
             or build it with `cargo install --path . --features parquet`",
        ));
    }
    let mut store = Store::open_read_only(&config.database)?;
    for pair in &args.pairs {
        check_pair(&mut store, config, *pair)?;
    }
    let Some(path) = &args.output else {
        let stdout = BufWriter::new(io::stdout());
        return match write(&mut store, args, &span, stdout)? {
            Ok(written) => {
                if written.bars == 0 {
                    // A remark is not worth failing for.
                    let _ = writeln!(io::stderr(), "candlekeep: no bars of that kind");
                }
                Ok(Exit::Done)
            }
            // A reader such as `head` that goes away has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
            Err(error) => Err(Failure::failed(format_args!("cannot write: {error}"))),
        };
    };
    let cannot = |error| Failure::failed(format_args!("cannot write {}: {error}", path.display()));
    let file = WholeFile::create(path, MODE).map_err(cannot)?;
    let (written, bytes) = write_file(&mut store, args, &span, file)?.map_err(cannot)?;
    say(told(&written, bytes, path));
    Ok(Exit::Done)
}

fn write_file(
    store: &mut Store,
    args: &Export,
    span: &Range<Timestamp>,
    mut file: WholeFile,
) -> Result<io::Result<(Written, u64)>, Failure> {
    let written = write(store, args, span, BufWriter::new(&mut file))?;
    Ok(written.and_then(|written| Ok((written, file.keep()?))))
}

fn told(written: &Written, bytes: u64, path: &Path) -> String {
    let Written { bars, pairs } = written;
    let bytes = indicatif::HumanBytes(bytes);
    format!("wrote {bars} bars of {pairs} pairs to {} ({bytes})", path.display())
}

/// Writes everything in one state of the database. The inner error is the file's.
fn write(
    store: &mut Store,
    args: &Export,
    span: &Range<Timestamp>,
    out: impl Write + Send,
) -> Result<io::Result<Written>, Failure> {
    let mut sink: Box<dyn Sink + '_> = match args.format {
        FileFormat::Csv => match csv::Csv::begin(out) {
            Ok(sink) => Box::new(sink),
            Err(error) => return Ok(Err(error)),
        },
        #[cfg(feature = "parquet")]
        FileFormat::Parquet => match parquet::Parquet::begin(out) {
            Ok(sink) => Box::new(sink),
            Err(error) => return Ok(Err(error)),
        },
        #[cfg(not(feature = "parquet"))]
        FileFormat::Parquet => unreachable!("it was refused"),
    };
    let progress = counter("bars written");
    let walked = store.consistently(|store| {
        let mut written = Written::default();
        let mut last: Option<Pair> = None;
        for (pair, timeframe) in store.known_keys()?.into_iter().filter(|key| is_wanted(args, *key)) {
            let mut left = span.clone();
            loop {
                let page = store.page(pair, timeframe, left.clone(), PAGE_BARS)?;
                let Some(end) = page.last() else { break };
                left.start = end.bar.key.start.plus(1);
                if let Err(error) = sink.bars(&page) {
                    return Ok(Err(error));
                }
                written.bars += page.len() as u64;
                written.pairs += usize::from(last.replace(pair) != Some(pair));
                progress.set_position(written.bars);
                if page.len() < PAGE_BARS as usize {
                    break;
                }
            }
        }
        Ok(Ok(written))
    });
    progress.finish_and_clear();
    Ok(walked?.and_then(|written| sink.finish().map(|()| written)))
}

fn is_wanted(args: &Export, (pair, timeframe): (Pair, Timeframe)) -> bool {
    (args.pairs.is_empty() || args.pairs.contains(&pair))
        && (args.timeframes.is_empty() || args.timeframes.contains(&timeframe))
}
