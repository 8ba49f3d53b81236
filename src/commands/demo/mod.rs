//! `candlekeep demo`: simulator and service in one process, and the proof that it worked.
//!
//! Nothing here is a shortcut: the service logs in and streams over real sockets, through the
//! same rooms and into the same kind of file as `run`.

mod proof;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use super::run::{keep_place, sources, told_to_stop};
use super::{remark, say};
use crate::api::{self, Door, Place};
use crate::cli::{Demo, Report};
use crate::clock::{Clock, ClockKind};
use crate::config::{self, Config, Flags, Http};
use crate::domain::{Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::actor::LOOK_EVERY;
use crate::healer::attempts::RETRY_FIRST;
use crate::simulator::{self, Credentials, MarketOptions, Options, Simulator};
use crate::store::{Store, StoreError};
use crate::supervisor::house::{House, Purpose, RunFlags, Signs};
use crate::transcript::Recorder;

/// Friday 2024-01-12 10:00 UTC: the demonstration crosses a weekend and most of a week.
const START: Timestamp = Timestamp(1_705_053_600);
/// Buckets of market time shown, the weekend's included.
const BUCKETS: i64 = 7 * 288 + 84;
/// When the connection is cut, in buckets from the start, and for how long.
const CUT_AT: i64 = 100;
const CUT_FOR: i64 = 6;
/// How often progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Where no terminal shows a bar, a line is printed this often.
const PRINT_EVERY: Duration = Duration::from_secs(2);
/// Longest wait in which neither market time passes nor a bar is stored: a request of which nobody knows what
/// became is made again after its pause, at the next look.
const PATIENCE: Duration =
    Duration::from_secs(RETRY_FIRST.as_secs() + LOOK_EVERY.as_secs() + SLOW_MACHINE.as_secs());
/// A machine that is busy with other things takes this long for one step.
const SLOW_MACHINE: Duration = Duration::from_secs(30);

const STEP: i64 = Timeframe::M5.seconds();

/// Shows the whole thing.
///
/// # Errors
/// Where a part of it cannot start, or what it stored is not what happened in the market.
pub fn execute(args: &Demo, flags: &Flags) -> Result<Exit, Failure> {
    if std::env::var_os("RUST_LOG").is_none() {
        // The progress bar tells the story; warnings of a cut that is part of it would spoil it.
        log::set_max_level(log::LevelFilter::Error);
    }
    let (options, leave, format) = (options(args), args.exit, args.format);
    let (database, own) = match &flags.database {
        Some(database) => (database.clone(), None),
        None => {
            let path = own_path();
            (format!("sqlite:///{}", path.display()), Some(path))
        }
    };
    refuse_one_in_use(&database)?;
    let http = if leave { None } else { Some(Usual::read(flags)?) };
    let ended = super::on_actix(async move {
        let mut stop = told_to_stop();
        let simulator = simulator::start(options).map_err(Failure::failed)?;
        let config = configure(&simulator, &database)?;
        // Programs read what it proved, and nothing else on stdout.
        let tell = |line: String| if format == Report::Text { say(line) } else { remark(line) };
        tell(format!("Market    made up, 28 pairs, {} to {}", START, START.plus(BUCKETS * STEP)));
        tell(format!("Simulator {}", simulator.api_url()));
        tell(format!("Database  {}", config.database));
        let signs = Signs::new(&Clock::system(), None);
        let place = match http {
            Some(http) => serve(&config, http, &signs, tell).await?,
            None => None,
        };
        let mut show = tokio::select! {
            show = show(&simulator, &config, signs, place) => show?,
            () = &mut stop => return Ok(Exit::Failed),
        };
        match format {
            Report::Text => say(format!("\n{}", show.findings)),
            Report::Json => say(show.findings.json(&config)),
        }
        tell(pandas_line(&config));
        let exit = if show.findings.is_sound() { Exit::Done } else { Exit::Failed };
        if !leave {
            tell("\nThe service is still up, and so is the simulator. Try in another terminal:".to_owned());
            // As it was called: under `cargo run` it is in nobody's PATH.
            let program = std::env::args().next().unwrap_or_else(|| "candlekeep".to_owned());
            // Of a market that is over nothing is missing up to now.
            tell(format!(
                "  CANDLEKEEP_CLOCK=stream {program} --database {} candles EUR_USD 15 --chart",
                config.database
            ));
            tell("Ctrl-C ends it.".to_owned());
            tokio::select! {
                failure = show.house.failed() => return Err(failure),
                () = &mut stop => {}
            }
        }
        let stopped = show.house.stop().await;
        simulator.stop().await;
        stopped.map(|()| exit)
    });
    if let Some(path) = own.filter(|path| path.exists()) {
        let line = kept(&path);
        if format == Report::Text { say(line) } else { remark(line) }
    }
    ended
}

/// Nobody else takes it away.
fn kept(path: &Path) -> String {
    let path = path.display();
    format!("The database is kept at {path}; delete it with rm {path}*")
}

fn options(args: &Demo) -> Options {
    Options {
        market: MarketOptions::Seeded { seed: args.seed, start: Some(START) },
        speed: args.speed,
        wait_for_items: Some(28),
        end: Some(START.plus(BUCKETS * STEP)),
        ..Options::default()
    }
}

/// A new database among the temporary files.
fn own_path() -> PathBuf {
    let name = format!("candlekeep-demo-{}-{}.db", Clock::system().wall().0, std::process::id());
    std::env::temp_dir().join(name)
}

/// Refuses a database in which anything is, a demonstration's own of earlier too: made-up bars could not be told from
/// others there. Writes nothing.
fn refuse_one_in_use(database: &str) -> Result<(), Failure> {
    let variables = [("DATABASE_URL".to_owned(), database.to_owned())].into();
    let url = config::load(None, &variables, &Flags::default())?.database;
    let is_blank = match Store::open_read_only(&url) {
        Ok(mut store) => store.is_blank()?,
        Err(StoreError::Absent { .. }) => true,
        // Of an older version, which nobody makes empty.
        Err(StoreError::OlderSchema { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if is_blank {
        return Ok(());
    }
    Err(Failure::configuration(format_args!(
        "the database {url} is not empty, and `demo` would mix its made-up market into it: name one that is not \
         there yet, or leave --database out, and it makes one among the temporary files"
    )))
}

/// The configuration of a user of the simulator. The environment's is left alone, so that a
/// demonstration never meets real credentials.
fn configure(simulator: &Simulator, database: &str) -> Result<Config, Failure> {
    let who = Credentials::default();
    let environment: BTreeMap<String, String> = [
        ("IG_API_URL", simulator.api_url()),
        ("IG_API_KEY", who.api_key),
        ("IG_USERNAME", who.identifier),
        ("IG_PASSWORD", who.password),
        ("DATABASE_URL", database.to_owned()),
        ("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "10000".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let config = config::load(None, &environment, &Flags::default())?;
    Ok(Config { clock: ClockKind::Stream, ..config })
}

struct Show {
    house: House,
    findings: proof::Findings,
}

/// Where the dashboard would be served if nobody else were there.
struct Usual {
    http: Http,
    /// Why it is somewhere else.
    taken: Option<String>,
}

impl Usual {
    /// The address that is configured, which has to be free; else the usual one, or another where somebody has that.
    fn read(flags: &Flags) -> Result<Usual, Failure> {
        let (http, is_given) = config::read_http(flags)?;
        let error = http.listen.and_then(|address| Some((address, TcpListener::bind(address).err()?)));
        match error {
            None => Ok(Usual { http, taken: None }),
            Some((address, error)) if is_given => Err(Failure::configuration(format_args!(
                "cannot serve on {address}: {error}; CANDLEKEEP_HTTP or http.listen names another address, or \"off\""
            ))),
            Some((address, _)) => Ok(Usual {
                http: Http { listen: Some(SocketAddr::new(address.ip(), 0)), ..http },
                taken: Some(format!("{address} is taken, CANDLEKEEP_HTTP names another")),
            }),
        }
    }
}

/// Serves the dashboard, and says where. What it answers says so from then on.
async fn serve(
    config: &Config,
    Usual { http, taken }: Usual,
    signs: &Signs,
    tell: impl Fn(String),
) -> Result<Option<watch::Receiver<Place>>, Failure> {
    let config = Config { http, ..config.clone() };
    let Some(door) = Door::new(&config.http)? else { return Ok(None) };
    let (told, mut place) = watch::channel(Place::off(Clock::system().wall()));
    actix_rt::spawn(api::serve(door, sources(Arc::new(config), signs.clone()), told));
    // It is told at once, whether it is served or not.
    if place.changed().await.is_ok()
        && let Place { address: Some(address), error: None, .. } = &*place.borrow()
    {
        let why = taken.map(|why| format!("  ({why})")).unwrap_or_default();
        tell(format!("Dashboard http://{address}/{why}"));
    }
    Ok(Some(place))
}

async fn show(
    simulator: &Simulator,
    config: &Config,
    signs: Signs,
    place: Option<watch::Receiver<Place>>,
) -> Result<Show, Failure> {
    let clock = Clock::system();
    let began = clock.monotonic();
    let cut_at = START.plus(CUT_AT * STEP);
    simulator.control().schedule_outage(cut_at, cut_at.plus(CUT_FOR * STEP));
    let flags = RunFlags {
        command: "demo",
        retry_credentials: false,
        accept_feed_change: false,
        purpose: Purpose::Collect,
    };
    let Some(mut house) =
        House::start(config, flags, signs, Recorder::default(), std::future::pending()).await?
    else {
        return Err(Failure::failed("stopped"));
    };
    if let Some(place) = place {
        actix_rt::spawn(keep_place(house.store().clone(), house.epoch(), place));
    }
    let mut progress = Progress::new(clock.clone());
    let mut cut = false;
    let mut moved = (Timestamp(0), 0, began);
    loop {
        tokio::select! {
            failure = house.failed() => return Err(failure),
            () = actix_rt::time::sleep(DRAW_EVERY) => {}
        }
        let bucket = simulator.now().since(START) / STEP;
        if !cut && bucket >= CUT_AT {
            cut = true;
            progress.say(&format!(
                "{cut_at}  connection cut: {} minutes of market time pass unseen",
                CUT_FOR * STEP / 60
            ));
        }
        progress.show(bucket, simulator, &house);
        if simulator.has_ended() && proof::nothing_left_to_heal(config, simulator).await? {
            break;
        }
        let (now, stored) = (clock.monotonic(), house.stats.rows_stored.get());
        if (moved.0, moved.1) != (simulator.now(), stored) {
            moved = (simulator.now(), stored, now);
        } else if now.saturating_duration_since(moved.2) > PATIENCE {
            progress.say("patience has run out, looking at what is there");
            break;
        }
    }
    progress.finish();
    let mut findings = proof::examine(config, simulator, START).await?;
    findings.took = clock.monotonic().saturating_duration_since(began);
    findings.buckets_missed = house.stats.buckets_missed.get();
    findings.rows = house.stats.rows.get();
    findings.stream_sessions = house.stats.stream_sessions.get();
    Ok(Show { house, findings })
}

/// A bar on a terminal, now and then a line elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    clock: Clock,
    printed: Option<std::time::Instant>,
}

impl Progress {
    fn new(clock: Clock) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(BUCKETS as u64), target);
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {percent:>3}%")
            .expect("the template is well-formed");
        bar.set_style(style.progress_chars("=> "));
        Progress { bar, is_terminal, clock, printed: None }
    }

    fn show(&mut self, bucket: i64, simulator: &Simulator, house: &House) {
        let line = format!(
            "{}  {:>9} rows  {:>6} bars stored  {:>5} over REST",
            simulator.now(),
            house.stats.rows.get(),
            house.stats.rows_stored.get(),
            house.stats.bars_fetched.get(),
        );
        if self.is_terminal {
            self.bar.set_position(bucket.clamp(0, BUCKETS) as u64);
            self.bar.set_message(line);
            return;
        }
        let now = self.clock.monotonic();
        if bucket >= BUCKETS && self.printed.is_some() {
            return;
        }
        if self.printed.is_none_or(|printed| now.saturating_duration_since(printed) >= PRINT_EVERY) {
            self.printed = Some(now);
            remark(format_args!("{line}  {}%", bucket.clamp(0, BUCKETS) * 100 / BUCKETS));
        }
    }

    fn say(&self, text: &str) {
        if self.is_terminal { self.bar.println(text) } else { remark(text) }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn pandas_line(config: &Config) -> String {
    let path = config.database.sqlite_path().map(|path| path.display().to_string()).unwrap_or_default();
    format!(
        "Look at it, where pandas is installed (pip install pandas):\n  python3 -c \"import sqlite3, pandas; print(pandas.read_sql(\\\"SELECT timestamp, open, high, low, close, volume \
         FROM candles WHERE pair='EUR_USD' AND timeframe='5' ORDER BY timestamp DESC LIMIT 5\\\", sqlite3.connect('{path}')))\""
    )
}
