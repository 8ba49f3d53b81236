//! `candlekeep simulate`: the simulator alone.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::run::{Stop, told_to_stop};
use super::say;
use crate::cli::{self, Simulate};
use crate::exit::{Exit, Failure};
use crate::simulator::faults::{self, SCRIPT_BYTES_MAX, Script};
use crate::simulator::transcript::PlaybackError;
use crate::simulator::{
    self, Credentials, MarketOptions, Options, RequestLimits, SimulatorError, Unfiltered, transcript,
};

/// How often progress is told on stderr.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Serves until told to stop.
///
/// # Errors
/// Where an option, the recorded data or the address is of no use.
pub fn execute(args: &Simulate) -> Result<Exit, Failure> {
    if args.faults_help {
        say(faults::HELP.trim_end());
        return Ok(Exit::Done);
    }
    if let Some(file) = &args.transcript {
        return super::on_actix(play(file, args));
    }
    let script = args.faults.as_deref().map(read_faults).transpose()?.unwrap_or_default();
    let options = Options { faults: script, ..options(args) };
    super::on_actix(async move {
        // Before anything is said: who has read where it is may want it to end.
        let stop = told_to_stop();
        let simulator = simulator::start(options).map_err(|error| match error {
            SimulatorError::Listen { .. } => unheard(&error),
            error => Failure::configuration(error),
        })?;
        introduce(&simulator);
        let mut ended = false;
        until(stop, || {
            let stats = simulator.stats();
            if stats.items > 0 && !ended {
                log::info!(
                    market_time:% = simulator.now(), items = stats.items, rows = stats.rows,
                    rest_requests = stats.rest_requests, points_spent = stats.points_spent;
                    "serving"
                );
            }
            if simulator.has_ended() && !std::mem::replace(&mut ended, true) {
                log::info!(market_time:% = simulator.now(), rows = stats.rows; "market time has reached its end, still serving");
            }
        })
        .await;
        simulator.stop().await;
        Ok(Exit::Done)
    })
}

/// Plays a transcript until told to stop.
async fn play(file: &Path, args: &Simulate) -> Result<Exit, Failure> {
    let stop = told_to_stop();
    let player = transcript::play(file, args.listen, args.speed).map_err(|error| match error {
        PlaybackError::Listen { .. } => unheard(&error),
        error => Failure::configuration(error),
    })?;
    say(player.api_url());
    say("");
    say(format!(
        "Plays {} stream(s), recorded by {} from {} on. In another terminal:",
        player.streams, player.header.program, player.header.started
    ));
    say_how_to_reach(&player.api_url(), &Credentials::default());
    let mut ended = false;
    until(stop, || {
        let played = player.played();
        if played.has_ended && !std::mem::replace(&mut ended, true) {
            log::info!(
                streams = played.streams, answered = played.answered, unknown = played.unknown;
                "the transcript has been played, still serving"
            );
        }
    })
    .await;
    player.stop().await;
    Ok(Exit::Done)
}

/// An address that somebody else has, say.
fn unheard(error: &dyn std::fmt::Display) -> Failure {
    Failure::configuration(format_args!("{error}; --listen names another address, 127.0.0.1:0 any free port"))
}

/// Looks at what is served every now and then, until told to stop.
async fn until(mut stop: Stop, mut look: impl FnMut()) {
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = actix_rt::time::sleep(TELL_EVERY) => look(),
        }
    }
}

/// Reads a script of faults.
fn read_faults(file: &Path) -> Result<Script, Failure> {
    let refuse = |why: &dyn std::fmt::Display| Failure::configuration(format!("{}: {why}", file.display()));
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| refuse(&error))?;
    opened.take(SCRIPT_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| refuse(&error))?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        return Err(refuse(&format_args!("larger than {SCRIPT_BYTES_MAX} bytes")));
    }
    if text.trim().is_empty() {
        return Err(refuse(&"the file is empty; a script is a JSON array (--faults-help explains)"));
    }
    Script::parse(&text).map_err(|error| refuse(&format_args!("{error} (--faults-help explains)")))
}

fn options(args: &Simulate) -> Options {
    let market = match &args.replay {
        Some(dir) => MarketOptions::Replay {
            dir: dir.clone(),
            from: args.from,
            to: args.to,
            spread_pips: args.spread_pips,
        },
        None => MarketOptions::Seeded { seed: args.seed, start: args.from },
    };
    Options {
        listen: args.listen,
        market,
        speed: args.speed,
        rows_per_bar: args.rows_per_bar,
        ticks_per_bar: args.ticks_per_bar,
        wait_for_items: args.wait_for_items.map(|items| items as usize),
        end: args.to,
        allowance: args.allowance,
        requests_per_minute: RequestLimits {
            per_key: args.requests_per_minute.saturating_mul(2),
            per_account: args.requests_per_minute,
        },
        unfiltered: match args.unfiltered {
            cli::Unfiltered::Granted => Unfiltered::Granted,
            cli::Unfiltered::Ignored => Unfiltered::Ignored,
            cli::Unfiltered::Refused => Unfiltered::Refused,
        },
        max_tlcp_version: args.max_tlcp_version,
        second_listen: args.second_listen,
        timezone_offset_hours: i32::from(args.timezone_offset),
        credentials: Credentials { accept_any: true, ..Credentials::default() },
        ..Options::default()
    }
}

/// Says on stdout how to reach the simulator: the first line is its address, for scripts.
fn introduce(simulator: &simulator::Simulator) {
    say(simulator.api_url());
    say("");
    say("In another terminal:");
    say_how_to_reach(&simulator.api_url(), &Credentials::default());
}

fn say_how_to_reach(api_url: &str, Credentials { identifier, password, api_key, .. }: &Credentials) {
    say(format!("  export IG_API_URL={api_url}"));
    say(format!(
        "  export IG_API_KEY={api_key} IG_USERNAME={identifier} IG_PASSWORD={password}   # or any other"
    ));
    say("  export CANDLEKEEP_CLOCK=stream      # market time is not the wall clock's");
    say("  export CANDLEKEEP_SESSION_LOGIN_SPACING_S=0     # IG wants 61 s between logins, this does not");
    say("  candlekeep run --database sqlite://simulated.db");
}
