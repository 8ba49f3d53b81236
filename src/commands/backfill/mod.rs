//! `candlekeep backfill`: history only. With `--plan` it shows what would be asked for and at which
//! cost, and asks IG for nothing; else it fetches, or has the running service fetch, and shows how
//! far that is.

mod follow;
mod view;

use std::ops::Range;
use std::time::Duration;

pub use self::follow::Followed;
use self::follow::Follower;
pub use self::view::ended;
use super::outlook::{self, Outlook, Wish};
use super::{on_actix, remark, say};
use crate::cli::{Backfill, Report};
use crate::clock::{Clock, ClockKind};
use crate::completeness::in_the_future;
use crate::config::Config;
use crate::domain::{Pair, Timeframe, Timestamp};
use crate::exit::{Exit, Failure};
use crate::healer::book::Scope;
use crate::healer::wishes;
use crate::ig::IgError;
use crate::messages::HistoryError;
use crate::store::{FetchRequest, RequestState, Store, StoreError, StoreHandle};
use crate::supervisor::house::{House, Purpose, RunFlags, Signs};
use crate::transcript::Recorder;

/// How often the database is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A running service looks for requests every few seconds; one that does not is stuck.
const TAKEN_WITHIN: Duration = Duration::from_secs(120);
/// A write beside a busy service may find no room at first.
const ASK_TIMES: u32 = 5;

/// What is to be fetched.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// What healing and the view are confined to.
    pub scope: Scope,
    /// What is asked for besides what the ledger misses.
    pub wish: Wish,
    /// Try credentials again that IG has refused.
    pub retry_credentials: bool,
    /// Accept a database filled from another environment.
    pub accept_feed_change: bool,
}

/// Plans or fetches.
///
/// # Errors
/// Wrong arguments; what a start of the service can fail with; a database that cannot be read.
pub fn execute(args: &Backfill, config: Config) -> Result<Exit, Failure> {
    let mut order = asked(args, &config)?;
    if args.plan {
        order.wish.is_plan = true;
        let outlook = look(&config, &order, true)?;
        refuse_future(&outlook, &order, &config)?;
        match args.format {
            Report::Text => say(view::text(&outlook, super::margin::columns())),
            Report::Json => say(view::json(&outlook)),
        }
        return Ok(Exit::Done);
    }
    super::warn_of_exposed(&config);
    let followed = on_actix(fetch(config, order, args.format == Report::Text))?;
    match args.format {
        Report::Text => say(view::ended(&followed)),
        Report::Json => say(view::ended_json(&followed)),
    }
    Ok(if followed.is_complete() { Exit::Done } else { Exit::Incomplete })
}

/// What the arguments ask for.
fn asked(args: &Backfill, config: &Config) -> Result<Order, Failure> {
    let span = match (args.from, args.to) {
        (None, None) => None,
        (None, Some(_)) => return Err(Failure::usage("--to needs a --from")),
        (Some(from), Some(to)) => Some(from..to),
        (Some(from), None) if config.clock == ClockKind::System => Some(from..Clock::system().wall()),
        (Some(_), None) => {
            return Err(Failure::usage("--to is needed where the clock is the stream's"));
        }
    };
    let order = order(&args.pairs, &args.timeframes, span, config)?;
    let (retry_credentials, accept_feed_change) = (args.retry_credentials, args.accept_feed_change);
    Ok(Order { retry_credentials, accept_feed_change, ..order })
}

/// Checks against the configuration what is to be fetched: of these pairs and lengths, or of all
/// where there are none; what the ledger misses, or a stretch.
///
/// # Errors
/// What cannot be fetched.
pub fn order(
    pairs: &[Pair],
    timeframes: &[Timeframe],
    span: Option<Range<Timestamp>>,
    config: &Config,
) -> Result<Order, Failure> {
    if let Some(pair) = pairs.iter().find(|pair| !config.pairs().any(|known| known == **pair)) {
        return Err(Failure::usage(format_args!(
            "{pair} is not collected; add it to `pairs` in the configuration"
        )));
    }
    let mut timeframes = timeframes.to_vec();
    timeframes.sort();
    timeframes.dedup();
    for timeframe in &timeframes {
        if !config.timeframes.contains(timeframe) {
            return Err(Failure::usage(format_args!(
                "{timeframe} is not among the timeframes kept; add it to `timeframes` in the configuration"
            )));
        }
    }
    let mut order = Order::default();
    if let Some(span) = &span {
        if span.start >= span.end {
            return Err(Failure::usage(format_args!("{} is not before {}", span.start, span.end)));
        }
        let wall = Clock::system().wall();
        let is_known = config.clock == ClockKind::System;
        if let Some(why) = in_the_future(span.start, wall, config.clock).filter(|_| is_known) {
            return Err(Failure::usage(why));
        }
        let (timeframe, span) = stretch(&timeframes, span, config)?;
        let wanted = config.pairs().filter(|pair| pairs.is_empty() || pairs.contains(pair));
        order.wish.stretches = wanted.map(|pair| (pair, timeframe, span.clone())).collect();
        order.scope.span = Some(span);
    }
    order.scope.pairs = (!pairs.is_empty()).then(|| pairs.to_vec());
    order.scope.timeframes = fetched(&timeframes);
    Ok(order)
}

/// Refuses a stretch that a running service knows to lie in the future: where the market goes by its own clock nobody
/// else does. A plan is refused too of what lies behind this machine's clock and the ledger's end.
fn refuse_future(outlook: &Outlook, order: &Order, config: &Config) -> Result<(), Failure> {
    let Some(span) = order.scope.span.as_ref().filter(|_| config.clock == ClockKind::Stream) else {
        return Ok(());
    };
    // As in `market_now`: of the bucket under way something has happened.
    let now = outlook.now.event.plus(Timeframe::M5.seconds() - 1);
    let (is_collected, is_plan) = (outlook.is_collected(), order.wish.is_plan);
    let clock = if is_collected { config.clock } else { ClockKind::System };
    match in_the_future(span.start, now, clock).filter(|_| is_collected || is_plan) {
        Some(why) => Err(Failure::usage(why)),
        None => Ok(()),
    }
}

/// The lengths that are asked for over REST for these; `None` is both. What is missing of 5-minute
/// bars brings longer ones too, which are folded.
fn fetched(timeframes: &[Timeframe]) -> Option<Vec<Timeframe>> {
    let only_short = !timeframes.is_empty() && !timeframes.contains(&Timeframe::M15);
    only_short.then(|| vec![Timeframe::M5])
}

/// Which bars to ask for, for a stretch in these lengths: longer ones are folded from 5-minute bars
/// where these are wanted too.
fn stretch(
    timeframes: &[Timeframe],
    span: &Range<Timestamp>,
    config: &Config,
) -> Result<(Timeframe, Range<Timestamp>), Failure> {
    let only_quarters = timeframes == [Timeframe::M15];
    let timeframe = if only_quarters { Timeframe::M15 } else { Timeframe::M5 };
    // So that every longer bar that meets the stretch can be folded.
    let longest = timeframes.last().or(config.timeframes.last()).copied().unwrap_or(Timeframe::M5);
    let whole = span.start.floor(longest.seconds())..span.end.ceil(longest.seconds());
    let quarters = config.timeframes.contains(&Timeframe::M15);
    let too_old = || wishes::too_old(&whole, super::kept_from(config, timeframe)?);
    match wishes::refusal(&whole, timeframe, quarters).or_else(too_old) {
        Some(why) => Err(Failure::usage(format_args!("nothing can be fetched of that time: {why}"))),
        None => Ok((timeframe, whole)),
    }
}

/// Looks at the database, which need not be there.
fn look(config: &Config, order: &Order, ahead: bool) -> Result<Outlook, Failure> {
    let ahead = ahead && order.wish.stretches.is_empty();
    match Store::open_read_only(&config.database) {
        Ok(mut store) => outlook::look(Some(&mut store), config, &order.scope, &order.wish, ahead),
        Err(StoreError::Absent { .. }) => outlook::look(None, config, &order.scope, &order.wish, ahead),
        Err(error) => Err(error.into()),
    }
}

/// Has everything fetched that can be now; by the service where one runs.
///
/// # Errors
/// What a start of the service can fail with; a database that cannot be read.
pub async fn fetch(config: Config, order: Order, shows: bool) -> Result<Followed, Failure> {
    let stop = super::run::told_to_stop();
    let before = look(&config, &order, true)?;
    refuse_future(&before, &order, &config)?;
    let watches = order.wish.stretches.is_empty();
    // A market that goes by its own clock may have gone on without anybody knowing.
    let is_known = !watches || config.clock == ClockKind::System;
    if is_known && before.buckets_missing() == 0 {
        return Ok(Followed::nothing(before));
    }
    if before.is_collected() {
        return hand_over(&config, &order, &before, shows, stop).await;
    }
    if is_known && before.plan.requests.is_empty() {
        // Nothing can be asked for now, so nobody need log in. Whoever does next finds the wish.
        let mut store = Store::open(&config.database)?;
        store.bind_environment(config.ig.environment.as_str(), order.accept_feed_change)?;
        if !order.wish.stretches.is_empty() {
            store.ask_fetch(&order.wish.stretches, Clock::system().wall())?;
        }
        return Ok(Followed::nothing(before));
    }
    let flags = RunFlags {
        command: "backfill",
        retry_credentials: order.retry_credentials,
        accept_feed_change: order.accept_feed_change,
        purpose: Purpose::Backfill { scope: order.scope.clone(), watches },
    };
    let signs = Signs::new(&Clock::system(), None);
    let started = House::start(&config, flags, signs, Recorder::default(), stop.clone()).await?;
    let Some(mut house) = started else {
        return Ok(Followed { interrupted: true, ..Followed::nothing(before) });
    };
    let outcome = async {
        let catching_up = house.catch_up();
        let caught_up = tokio::select! {
            caught_up = catching_up => caught_up,
            failure = house.failed() => return Err(failure),
            () = stop.clone() => return Ok(Followed { interrupted: true, ..Followed::nothing(look(&config, &order, true)?) }),
        };
        match caught_up {
            Ok(()) => {}
            Err(HistoryError::Ig(IgError::AllowanceSpent(_))) => {
                return Ok(Followed::nothing(look(&config, &order, true)?));
            }
            Err(error) => {
                let what = "cannot learn what time it is in the market";
                return Err(Failure::failed(format_args!("{what}: {error}")));
            }
        }
        let asked = ask(house.store(), &order.wish).await?;
        house.heal();
        let store = house.store().clone();
        let mut follower = Follower::new(&config, &order, store, asked, &before, shows);
        tokio::select! {
            followed = follower.follow() => followed,
            failure = house.failed() => Err(failure),
            () = stop => Ok(follower.interrupted()),
        }
    };
    let outcome = outcome.await;
    let stopped = house.stop().await;
    outcome.and_then(|followed| stopped.map(|()| followed))
}

/// Has a running service fetch, and looks on.
async fn hand_over(
    config: &Config,
    order: &Order,
    before: &Outlook,
    shows: bool,
    stop: impl Future<Output = ()>,
) -> Result<Followed, Failure> {
    let store = Store::open(&config.database)?;
    let (store, _thread) = StoreHandle::spawn("candlekeep-asking", store)
        .map_err(|error| Failure::failed(format_args!("no thread for the database: {error}")))?;
    let asked = ask(&store, &order.wish).await?;
    if shows {
        remark("The running service fetches it; this only looks on, and Ctrl-C does not stop it.");
    }
    let mut follower = Follower::new(config, order, store, asked, before, shows).beside_a_service();
    tokio::select! {
        followed = follower.follow() => followed,
        () = stop => Ok(follower.interrupted()),
    }
}

/// Writes the requests down.
async fn ask(store: &StoreHandle, wish: &Wish) -> Result<Vec<i64>, Failure> {
    if wish.stretches.is_empty() {
        return Ok(Vec::new());
    }
    let mut times = 0;
    loop {
        let (stretches, now) = (wish.stretches.clone(), Clock::system().wall());
        match store.run(move |store| store.ask_fetch(&stretches, now)).await {
            Ok(ids) => return Ok(ids),
            Err(error) if error.is_retryable() && times < ASK_TIMES => times += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// What has become of the requests.
struct Settled {
    /// None is open any more.
    all: bool,
    /// None waits to be looked at.
    taken: bool,
    /// Why some were refused.
    refused: Vec<String>,
    /// Buckets of theirs that the ledger does not know, so that nothing has come of them.
    unknown: u64,
}

/// What has become of these requests.
async fn settled(store: &StoreHandle, asked: &[i64]) -> Result<Settled, StoreError> {
    let ids = asked.to_vec();
    let look = move |store: &mut Store| {
        let requests = store.requests(&ids)?;
        let mut unknown = 0;
        for FetchRequest { pair, timeframe, span, .. } in &requests {
            let span = wishes::buckets(span, *timeframe);
            let known: i64 = store
                .coverage(*pair, *timeframe, span.clone())?
                .iter()
                .map(|run| run.span.end.since(run.span.start))
                .sum();
            unknown += ((span.end.since(span.start) - known) / timeframe.seconds()).max(0).unsigned_abs();
        }
        Ok((requests, unknown))
    };
    let (requests, unknown) = store.run(look).await?;
    let is_settled = requests.iter().all(|request| !request.state.is_open());
    let is_taken = requests.iter().all(|request| request.state != RequestState::Asked);
    let mut refused: Vec<String> = requests
        .into_iter()
        .filter(|request| request.state == RequestState::Refused)
        .map(|request| format!("{} {}: {}", request.pair, request.timeframe, request.note))
        .collect();
    refused.dedup();
    Ok(Settled { all: is_settled, taken: is_taken, refused, unknown })
}
