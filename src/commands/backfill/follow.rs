//! Looks on while holes are healed, until nothing more can be asked for now.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{LOOK_EVERY, Order, TAKEN_WITHIN, settled};
use crate::clock::Clock;
use crate::commands::outlook::{self, Outlook, Wish};
use crate::config::Config;
use crate::domain::Pair;
use crate::exit::Failure;
use crate::store::{Store, StoreHandle};

/// How often a line is printed where there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(10);

/// What has come of it.
#[derive(Debug)]
pub struct Followed {
    /// How things stand in the end.
    pub outlook: Outlook,
    /// Buckets that were missing and are not any more.
    pub healed: u64,
    /// Points that IG has less to give now.
    pub spent: u32,
    /// Requests that were refused, and why.
    pub refused: Vec<String>,
    /// Told to stop before the end.
    pub interrupted: bool,
    /// The service that fetched is there no more.
    pub left_alone: bool,
}

impl Followed {
    /// There was nothing to do.
    pub fn nothing(outlook: Outlook) -> Followed {
        Followed { outlook, healed: 0, spent: 0, refused: Vec::new(), interrupted: false, left_alone: false }
    }

    /// Whether all that was asked for is there, or known not to exist.
    pub fn is_complete(&self) -> bool {
        !self.interrupted
            && !self.left_alone
            && self.refused.is_empty()
            && self.outlook.buckets_missing() == 0
    }
}

/// Looks on.
pub struct Follower<'a> {
    config: &'a Config,
    order: &'a Order,
    store: StoreHandle,
    asked: Vec<i64>,
    clock: Clock,
    began: Instant,
    last_spend: i64,
    spent: u32,
    last: Option<Outlook>,
    refused: Vec<String>,
    most_missing: u64,
    /// Another process fetches.
    is_beside: bool,
    left_alone: bool,
    view: View,
}

impl<'a> Follower<'a> {
    /// One that has not looked yet. `asked`: the requests that were written down; `before`: how things
    /// stood with what they ask for.
    pub fn new(
        config: &'a Config,
        order: &'a Order,
        store: StoreHandle,
        asked: Vec<i64>,
        before: &Outlook,
        shows: bool,
    ) -> Follower<'a> {
        let (clock, last_spend) = (Clock::system(), before.last_spend);
        let began = clock.monotonic();
        let view = View::new(shows, began);
        Follower {
            config,
            order,
            store,
            asked,
            clock,
            began,
            last_spend,
            spent: 0,
            last: None,
            refused: Vec::new(),
            most_missing: before.buckets_missing(),
            is_beside: false,
            left_alone: false,
            view,
        }
    }

    /// The same where another process fetches, which may end meanwhile.
    #[must_use]
    pub fn beside_a_service(self) -> Follower<'a> {
        Follower { is_beside: true, ..self }
    }

    /// Looks until nothing more can be asked for now.
    pub async fn follow(&mut self) -> Result<Followed, Failure> {
        loop {
            let (is_settled, is_taken, refused) = settled(&self.store, &self.asked).await?;
            self.refused = refused;
            let (config, scope, last_spend) =
                (self.config.clone(), self.order.scope.clone(), self.last_spend);
            let look = move |store: &mut Store| {
                let spent = store.points_after(last_spend)?;
                Ok((outlook::look(Some(store), &config, &scope, &Wish::default(), false), spent))
            };
            let (outlook, spent) = self.store.run(look).await?;
            let outlook = outlook?;
            self.spent = spent;
            let now = self.clock.monotonic();
            if !is_taken && now.saturating_duration_since(self.began) > TAKEN_WITHIN {
                return Err(Failure::failed(
                    "the running service does not take up the request; see `candlekeep status`",
                ));
            }
            let missing = outlook.buckets_missing();
            self.most_missing = self.most_missing.max(missing);
            self.view.show(&outlook, now);
            self.left_alone = self.is_beside && !outlook.is_collected();
            let is_done = self.left_alone
                || is_taken && outlook.plan.requests.is_empty() && (is_settled || missing > 0);
            self.last = Some(outlook);
            if is_done {
                return Ok(self.end(false));
            }
            actix_rt::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Told to stop.
    pub fn interrupted(&mut self) -> Followed {
        self.end(true)
    }

    fn end(&mut self, interrupted: bool) -> Followed {
        self.view.finish();
        let outlook = self.last.take().unwrap_or_default();
        Followed {
            healed: self.most_missing.saturating_sub(outlook.buckets_missing()),
            spent: self.spent,
            refused: std::mem::take(&mut self.refused),
            outlook,
            interrupted,
            left_alone: self.left_alone,
        }
    }
}

/// A bar a pair on a terminal, now and then a line elsewhere.
struct View {
    shows: bool,
    is_terminal: bool,
    bars: MultiProgress,
    pairs: BTreeMap<Pair, (ProgressBar, u64)>,
    most_missing: u64,
    printed: Instant,
    has_printed: bool,
}

impl View {
    fn new(shows: bool, now: Instant) -> View {
        let is_terminal = shows && std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        View {
            shows,
            is_terminal,
            bars: MultiProgress::with_draw_target(target),
            pairs: BTreeMap::new(),
            most_missing: 0,
            printed: now,
            has_printed: false,
        }
    }

    fn show(&mut self, outlook: &Outlook, now: Instant) {
        let mut by_pair: BTreeMap<Pair, u64> = self.pairs.keys().map(|pair| (*pair, 0)).collect();
        for ((pair, _), buckets) in &outlook.missing {
            *by_pair.entry(*pair).or_default() += buckets;
        }
        let minutes = outlook.minutes();
        let eta = match outlook.plan.requests.len() {
            0 => String::new(),
            requests => format!("{requests} requests left, about {minutes} min"),
        };
        for (pair, missing) in by_pair {
            let (bar, most) = self.pairs.entry(pair).or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new(missing));
                let style = ProgressStyle::with_template("{prefix}  [{bar:36}] {pos:>5} of {len:<5} {msg}")
                    .expect("the template is well-formed");
                bar.set_style(style.progress_chars("=> "));
                bar.set_prefix(pair.to_string());
                (bar, missing)
            });
            *most = (*most).max(missing);
            bar.set_length(*most);
            bar.set_position(*most - missing);
        }
        if let Some((bar, _)) = self.pairs.values().next() {
            bar.set_message(eta.clone());
        }
        let missing = outlook.buckets_missing();
        self.most_missing = self.most_missing.max(missing);
        let is_due = !self.has_printed || now.saturating_duration_since(self.printed) >= PRINT_EVERY;
        if self.shows && !self.is_terminal && is_due && self.most_missing > 0 {
            (self.printed, self.has_printed) = (now, true);
            eprintln!("{} of {} buckets; {eta}", self.most_missing - missing, self.most_missing);
        }
    }

    fn finish(&self) {
        for (bar, _) in self.pairs.values() {
            bar.finish();
        }
    }
}
