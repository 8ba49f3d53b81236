//! What healing will ask of IG and at which cost, as the database alone tells: the healer's own
//! plan, made by a reader.

pub mod words;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::aggregator::absent;
use crate::clock::{Clock, ClockKind};
use crate::config::{Config, Environment};
use crate::domain::coverage::{Run, overlay};
use crate::domain::{FeedIx, Mark, Pair, Reason, Timeframe, Timestamp};
use crate::exit::Failure;
use crate::healer::actor;
use crate::healer::attempts::{Attempt, Attempts};
use crate::healer::book::{self, Scope, Watched};
use crate::healer::holes::Page;
use crate::healer::plan::{self, BARS_PER_REQUEST_MAX, Now, Plan, Purse, Terms};
use crate::healer::wishes;
use crate::ig::history::pace::{DEFAULT_PER_MINUTE, DEMO_PER_MINUTE_MAX};
use crate::store::{AllowanceState, LeaseState, Refusals, Store, StoreError};
use crate::supervisor::groundwork::{self, SETTING_PACE};

/// The two lengths that are asked for over REST.
const FETCHED: [Timeframe; 2] = [Timeframe::M5, Timeframe::M15];

/// What stands to be fetched.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// The present.
    pub now: Now,
    /// The pairs by feed.
    pub pairs: Vec<Pair>,
    /// The requests to come, and what waits for points.
    pub plan: Plan,
    /// IG's numbers and what was spent.
    pub allowance: AllowanceState,
    /// What the plan was made with.
    pub purse: Purse,
    /// Points that backfill leaves alone.
    pub reserve: u32,
    /// Requests a minute, as far as is known.
    pub per_minute: u32,
    /// Missing buckets by pair and length, whether asked for now or later.
    pub missing: BTreeMap<(Pair, Timeframe), u64>,
    /// When something that was asked for in vain is asked for again, soonest.
    pub again_at: Option<Timestamp>,
    /// Who collects into the database, or did last.
    pub lease: Option<LeaseState>,
    /// The last spend that was booked.
    pub last_spend: i64,
    /// Where the ledger ends, where a wish of a market that goes by its own clock reaches further and nobody knows
    /// whether that market does.
    pub known_to: Option<Timestamp>,
}

impl Outlook {
    /// Missing buckets of both lengths.
    pub fn buckets_missing(&self) -> u64 {
        self.missing.values().sum()
    }

    /// The same in words, each length for itself.
    pub fn missing_in_words(&self) -> String {
        let of = |wanted: Timeframe| {
            let of_length = self.missing.iter().filter(|((_, timeframe), _)| *timeframe == wanted);
            of_length.map(|(_, buckets)| buckets).sum::<u64>()
        };
        match (of(Timeframe::M5), of(Timeframe::M15)) {
            (short, 0) => format!("{short} 5-minute buckets"),
            (0, long) => format!("{long} 15-minute buckets"),
            (short, long) => format!("{short} 5-minute and {long} 15-minute buckets"),
        }
    }

    /// Whether somebody collects now.
    pub fn is_collected(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.alive)
    }

    /// Points left of the week's, as far as is known; none while IG's word counts that they are spent.
    pub fn remaining(&self) -> u32 {
        if self.refusals().is_some() { 0 } else { self.allowance.remaining(self.now.wall) }
    }

    /// What IG has said of points that are spent, while that counts.
    pub fn refusals(&self) -> Option<Refusals> {
        self.purse.refused.and(self.allowance.refusals)
    }

    /// Minutes that the requests will take.
    pub fn minutes(&self) -> u64 {
        (self.plan.requests.len() as u64).div_ceil(u64::from(self.per_minute.max(1)))
    }
}

/// What somebody asks for by hand, before it stands in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Of which pair and length, and which buckets.
    pub stretches: Vec<(Pair, Timeframe, Range<Timestamp>)>,
    /// It is only to be told what that would cost: nobody will ask the market how far it has come.
    pub is_plan: bool,
}

/// Looks at a database. `None` is one that is not there yet. With `ahead` it shows what a start now
/// would find missing besides: pairs that were never watched, and time since the last run.
///
/// # Errors
/// When the database cannot be read.
pub fn look(
    store: Option<&mut Store>,
    config: &Config,
    scope: &Scope,
    wish: &Wish,
    ahead: bool,
) -> Result<Outlook, Failure> {
    let wall = Clock::system().wall();
    let feeds: Vec<Watched> = config
        .pairs()
        .zip(config.feed_calendars())
        .map(|(pair, calendar)| Watched { pair, calendar })
        .collect();
    let known = match store {
        Some(store) => store.consistently(|store| Known::read(store, config, wall, wish))?,
        None => Known { wished: vec![Default::default(); wish.stretches.len()], ..Known::default() },
    };
    // A market that goes by its own clock is where its ledger ends at least, and for all that is known
    // where somebody's wish does.
    let wished = wish.stretches.iter().map(|(_, _, span)| span.end).max();
    // A plan finds out no more, and of what lies behind everybody's clock there is nothing to be had.
    let wished = wished.map(|end| if wish.is_plan { end.min(wall) } else { end });
    // Whoever collects knows of no later time.
    let is_collected = known.lease.as_ref().is_some_and(|lease| lease.alive);
    let goes_by_itself = config.clock == ClockKind::Stream;
    let newest = if is_collected { known.newest } else { known.newest.max(wished) };
    let event = newest.filter(|_| goes_by_itself).unwrap_or(wall);
    let known_to = known.newest.filter(|known_to| goes_by_itself && event > *known_to);
    let now = Now { event, wall };
    let mut ledger = Ledger { runs: known.runs };
    if ahead && !is_collected {
        for feed in &feeds {
            for mark in ahead_of(feed, config, known.ends.get(&feed.pair).copied(), event) {
                ledger.lay(mark);
            }
        }
    }
    for ((pair, timeframe, span), (runs, resting)) in wish.stretches.iter().zip(&known.wished) {
        let Some(feed) = feeds.iter().find(|feed| feed.pair == *pair) else { continue };
        let span = wishes::whole(span, *timeframe, event);
        let marks = wishes::marks(*pair, *timeframe, &span, runs, resting, &feed.calendar);
        marks.into_iter().for_each(|mark| ledger.lay(mark));
    }
    let pages = scope.narrow(book::pages(ledger.runs, &feeds));
    let purse = book::purse(&known.allowance, wall);
    let terms = Terms {
        reserve: config.history.reserve,
        incident_cap: config.history.incident_cap,
        bars_max: known.bars_max.unwrap_or(BARS_PER_REQUEST_MAX),
        quarters: config.timeframes.contains(&Timeframe::M15),
        reaching_now: u32::from(config.clock == ClockKind::System),
    };
    let plan = plan::plan(&pages, &known.attempts, &purse, &terms, now);
    let asked = config.history.requests_per_minute.or(known.per_minute);
    let is_missing = |pair: Pair, timeframe: Timeframe, span: &Range<Timestamp>| {
        pages.iter().any(|page| page.pair == pair && page.wants(timeframe, span))
    };
    let in_vain = known.attempts.all().filter(|(pair, timeframe, attempt)| {
        attempt.next_at > now.wall && is_missing(*pair, *timeframe, &attempt.span)
    });
    Ok(Outlook {
        now,
        pairs: feeds.iter().map(|feed| feed.pair).collect(),
        plan,
        purse,
        allowance: known.allowance,
        reserve: config.history.reserve,
        per_minute: asked.unwrap_or(match config.ig.environment {
            Environment::Demo => DEMO_PER_MINUTE_MAX,
            Environment::Live | Environment::Custom => DEFAULT_PER_MINUTE,
        }),
        missing: missing(&pages),
        again_at: in_vain.map(|(_, _, attempt)| attempt.next_at).min(),
        lease: known.lease,
        last_spend: known.last_spend,
        known_to,
    })
}

/// What the database says.
#[derive(Default)]
struct Known {
    runs: Vec<(Pair, Timeframe, Run)>,
    /// What is known of each stretch of a wish, and where nothing is reopened.
    wished: Vec<(Vec<Run>, Vec<Range<Timestamp>>)>,
    /// Where the ledger ends, of pairs that are watched.
    ends: BTreeMap<Pair, Timestamp>,
    /// Where the whole ledger ends.
    newest: Option<Timestamp>,
    allowance: AllowanceState,
    attempts: Attempts,
    bars_max: Option<u32>,
    per_minute: Option<u32>,
    lease: Option<LeaseState>,
    last_spend: i64,
}

impl Known {
    fn read(store: &mut Store, config: &Config, wall: Timestamp, wish: &Wish) -> Result<Known, StoreError> {
        let mut ends = store.covered_to(Timeframe::M5)?;
        let newest = ends.values().max().copied();
        let feeds = store.feeds()?;
        ends.retain(|pair, _| {
            feeds.iter().any(|known| known.watched_to.is_none() && known.feed.pair == *pair)
        });
        // Whoever reads may be configured for another one, or for none.
        let bound = store.environment()?;
        let environment = bound.as_deref().unwrap_or(config.ig.environment.as_str());
        let key = store.latest_allowance_key(environment)?;
        let allowance = key.map(|key| store.allowance(&key, wall)).transpose()?.unwrap_or_default();
        let attempts = Attempts::from_kept(store.attempts()?.into_iter().map(|row| {
            (row.pair, row.timeframe, Attempt { span: row.span, times: row.times, next_at: row.next_at })
        }));
        let mut wished = Vec::new();
        for (pair, timeframe, span) in &wish.stretches {
            let step = timeframe.seconds();
            let runs = store.coverage(*pair, *timeframe, span.start.floor(step)..span.end.ceil(step))?;
            let reopened = store.reopened(*pair, *timeframe, wall)?;
            wished.push((runs, wishes::resting(&reopened, None, *timeframe, wall)));
        }
        let setting = store.setting(actor::SETTING_BARS_MAX)?;
        Ok(Known {
            runs: store.since_oldest_missing()?,
            wished,
            ends,
            newest,
            allowance,
            attempts,
            bars_max: setting
                .as_deref()
                .and_then(actor::read_bars_max)
                .and_then(|known| actor::bars_max(known, wall)),
            per_minute: store.setting(SETTING_PACE)?.and_then(|text| text.parse().ok()),
            lease: store.lease(wall)?,
            last_spend: store.last_spend()?,
        })
    }
}

/// What a start now would find missing of a pair.
fn ahead_of(feed: &Watched, config: &Config, end: Option<Timestamp>, now: Timestamp) -> Vec<Mark> {
    let now = Timeframe::M5.bucket(now);
    match end {
        Some(end) if end >= now => Vec::new(),
        Some(end) => {
            let span = end..now;
            absent::unseen(feed.pair, &feed.calendar, Timeframe::M5, span, Reason::Offline).collect()
        }
        None => absent::first_start(feed.pair, &feed.calendar, now, groundwork::depth(config)),
    }
}

/// The ledger's runs, and what is laid over them for a reader's eyes.
struct Ledger {
    runs: Vec<(Pair, Timeframe, Run)>,
}

impl Ledger {
    fn lay(&mut self, mark: Mark) {
        let of = |(pair, timeframe, _): &(Pair, Timeframe, Run)| {
            (*pair, *timeframe) == (mark.pair, mark.timeframe)
        };
        let (own, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.runs).into_iter().partition(of);
        let known: Vec<Run> = own.into_iter().map(|(_, _, run)| run).collect();
        let new = Run { span: mark.span, state: mark.state, reason: mark.reason, evidence: "".into() };
        self.runs = others;
        let laid = overlay(&known, &new).into_iter();
        self.runs.extend(laid.map(|run| (mark.pair, mark.timeframe, run)));
    }
}

fn missing(pages: &[Page]) -> BTreeMap<(Pair, Timeframe), u64> {
    let mut missing = BTreeMap::new();
    for page in pages {
        for timeframe in FETCHED {
            let buckets = page.buckets_missing(timeframe);
            if buckets > 0 {
                missing.insert((page.pair, timeframe), buckets);
            }
        }
    }
    missing
}

/// The pair of a feed.
pub fn pair_of(outlook: &Outlook, feed: FeedIx) -> Pair {
    outlook.pairs[feed.ix()]
}
