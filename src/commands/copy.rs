//! `candlekeep copy`: every table from one database to another, and the proof that it is all there.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{say, ticking};
use crate::cli::{Copy, Report};
use crate::clock::Clock;
use crate::config::PASSWORD_IN_ARGUMENT;
use crate::exit::{Exit, Failure};
use crate::store::{DatabaseUrl, Lease, Store};
use crate::writer::recovery;

/// How often somebody who waits sees that it goes on.
const TICK: Duration = Duration::from_millis(250);
/// A third of what a lease lasts.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Copies.
///
/// # Errors
/// Where the source is no database of ours, the target is not empty or collected into, or the copy is not as
/// it should be.
pub fn execute(args: &Copy) -> Result<Exit, Failure> {
    let (from, to) = (address(&args.from)?, address(&args.to)?);
    if from == to {
        return Err(Failure::usage("this is one database twice"));
    }
    if let Some(facts) = recovery::facts_waiting(&from, None).filter(|facts| *facts > 0) {
        return Err(Failure::failed(format_args!(
            "{facts} facts of {from} wait in its spool: start `candlekeep run` on it once, which stores them, then copy"
        )));
    }
    let clock = Clock::system();
    let mut source = Store::open_read_only(&from)?;
    let mut target = Store::open(&to)?;
    let lease = target.acquire_lease("copy", clock.wall())?;
    let progress = ticking("copying", TICK);
    let copied = while_renewed(&to, &lease, &clock, || {
        source.copy_to(&mut target, &from.to_string(), args.replace, &mut |table, rows| {
            progress.set_message(format!("{table}: {rows} rows"));
        })
    });
    progress.finish_and_clear();
    // The copy stands or falls without this.
    let _ = target.release_lease(&lease, clock.wall());
    let sums = copied?;
    match args.format {
        Report::Text => {
            let bars = sums.iter().find(|sum| sum.table == "candles").map_or(0, |sum| sum.rows);
            say(format_args!("copied {from} to {to}: {bars} bars, every table read back and compared"));
            for sum in &sums {
                say(format_args!("  {:<17} {:>9} rows  {:032x}", sum.table, sum.rows, sum.sum));
            }
            say(format_args!(
                "to use it: stop the service, copy once more with --replace if it has written meanwhile, set database.url"
            ));
        }
        Report::Json => {
            let tables: Vec<_> = sums
                .iter()
                .map(
                    |sum| json!({ "table": sum.table, "rows": sum.rows, "sum": format!("{:032x}", sum.sum) }),
                )
                .collect();
            say(json!({ "from": from.to_string(), "to": to.to_string(), "tables": tables }));
        }
    }
    Ok(Exit::Done)
}

/// An address as an argument, which every user of the machine can read.
fn address(text: &str) -> Result<DatabaseUrl, Failure> {
    let url: DatabaseUrl = text.parse().map_err(Failure::usage)?;
    if url.has_password() {
        return Err(Failure::usage(format_args!("{url}: {PASSWORD_IN_ARGUMENT}")));
    }
    Ok(url)
}

/// Does something that may last while another connection renews the lease, where it expires.
fn while_renewed<R>(database: &DatabaseUrl, lease: &Lease, clock: &Clock, work: impl FnOnce() -> R) -> R {
    if database.sqlite_path().is_some() {
        return work();
    }
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut renewing = Store::open(database);
            while is_done.recv_timeout(RENEW_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Where this fails, the next write tells.
                match &mut renewing {
                    Ok(store) => drop(store.renew_lease(lease, clock.wall())),
                    Err(_) => renewing = Store::open(database),
                }
            }
        });
        let answer = work();
        drop(done);
        answer
    })
}
