//! `candlekeep run`: the service.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Run;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::supervisor::topology::{House, RunFlags};

/// Time for an orderly end; systemd would wait longer, an operator would not.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Collects candles until told to stop.
///
/// # Errors
/// Where the service cannot start, or ends for a reason that a restart or the operator must mend.
pub fn execute(args: &Run, config: Config) -> Result<Exit, Failure> {
    let flags =
        RunFlags { retry_credentials: args.retry_credentials, accept_feed_change: args.accept_feed_change };
    super::on_actix(async move {
        let mut told_to_stop = std::pin::pin!(told_to_stop());
        let Some(mut house) = House::start(&config, flags, &mut told_to_stop).await? else {
            log::info!("told to stop");
            return Ok(Exit::Done);
        };
        log::info!(pairs = house.instruments.len(), database:% = config.database; "collecting");
        tokio::select! {
            failure = house.failed() => Err(failure),
            () = &mut told_to_stop => {
                log::info!("told to stop");
                if tokio::time::timeout(STOP_WITHIN, house.stop()).await.is_err() {
                    return Err(Failure::failed("could not stop in time; the next start heals what is missing"));
                }
                log::info!("stopped");
                Ok(Exit::Done)
            }
        }
    })
}

/// Resolves on SIGTERM or SIGINT.
pub async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("signal handlers can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signal handlers can be installed");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
