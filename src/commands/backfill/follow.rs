//! Looks on while holes are healed, until nothing more can be asked for now.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{LOOK_EVERY, Order, Settled, TAKEN_WITHIN, settled};
use crate::clock::Clock;
use crate::commands::outlook::{self, Outlook, Wish, words};
use crate::commands::remark;
use crate::config::Config;
use crate::domain::Pair;
use crate::exit::Failure;
use crate::logging;
use crate::store::{Store, StoreHandle};

/// How often bars are drawn.
const DRAWS_A_SECOND: u8 = 4;
/// Rows of a terminal that are not for pairs.
const ROWS_BESIDES: usize = 4;
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
    /// Another process fetches.
    pub is_beside: bool,
}

impl Followed {
    /// There was nothing to do.
    pub fn nothing(outlook: Outlook) -> Followed {
        Followed {
            outlook,
            healed: 0,
            spent: 0,
            refused: Vec::new(),
            interrupted: false,
            left_alone: false,
            is_beside: false,
        }
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
    last: Outlook,
    refused: Vec<String>,
    /// Asked for, and not in the ledger.
    unknown: u64,
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
        let view = View::new(shows, before, began);
        Follower {
            config,
            order,
            store,
            asked,
            clock,
            began,
            last_spend,
            spent: 0,
            last: before.clone(),
            refused: Vec::new(),
            unknown: 0,
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
            let Settled { all: is_settled, taken: is_taken, refused, unknown } =
                settled(&self.store, &self.asked).await?;
            (self.refused, self.unknown) = (refused, unknown);
            let (config, scope, last_spend) =
                (self.config.clone(), self.order.scope.clone(), self.last_spend);
            // Beside a service not all that is spent is spent on this.
            let only = self.is_beside.then(|| {
                let pairs = scope.pairs.clone().unwrap_or_else(|| config.pairs().collect());
                (pairs, scope.span.clone())
            });
            let look = move |store: &mut Store| {
                let spent = store.points_after(last_spend, only.as_ref())?;
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
            if is_taken {
                self.most_missing = self.most_missing.max(missing);
                self.view.show(&outlook, now);
            }
            self.left_alone = self.is_beside && !outlook.is_collected();
            let is_done = self.left_alone
                || is_taken && outlook.plan.requests.is_empty() && (is_settled || missing > 0);
            // Before that nobody has begun, and the ledger does not know of it.
            if is_taken {
                self.last = outlook;
            }
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
        let outlook = std::mem::take(&mut self.last);
        Followed {
            healed: self.most_missing.saturating_sub(outlook.buckets_missing() + self.unknown),
            spent: self.spent,
            refused: std::mem::take(&mut self.refused),
            outlook,
            interrupted,
            left_alone: self.left_alone,
            is_beside: self.is_beside,
        }
    }
}

/// A bar a pair on a terminal that is high enough, and one of all; now and then a line elsewhere.
struct View {
    shows: bool,
    is_terminal: bool,
    has_room: bool,
    bars: MultiProgress,
    all: ProgressBar,
    pairs: BTreeMap<Pair, (ProgressBar, u64)>,
    most_missing: u64,
    printed: Instant,
    last_line: String,
}

impl View {
    fn new(shows: bool, before: &Outlook, now: Instant) -> View {
        let is_terminal = shows && std::io::stderr().is_terminal();
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let pairs: BTreeSet<Pair> = before.missing.keys().map(|(pair, _)| *pair).collect();
        let height = terminal_size::terminal_size().map_or(0, |(_, height)| usize::from(height.0));
        let all = bars.add(ProgressBar::new(before.buckets_missing()));
        all.set_style(style("{prefix:7}  [{bar:36}] {pos:>5} of {len}\n{msg}"));
        all.set_prefix("all");
        if is_terminal {
            logging::draw_above(Some(bars.clone()));
        }
        View {
            shows,
            is_terminal,
            has_room: height > pairs.len() + ROWS_BESIDES,
            bars,
            all,
            pairs: BTreeMap::new(),
            most_missing: before.buckets_missing(),
            printed: now,
            last_line: String::new(),
        }
    }

    fn show(&mut self, outlook: &Outlook, now: Instant) {
        let mut by_pair: BTreeMap<Pair, u64> = self.pairs.keys().map(|pair| (*pair, 0)).collect();
        for ((pair, _), buckets) in &outlook.missing {
            *by_pair.entry(*pair).or_default() += buckets;
        }
        let eta = match outlook.plan.requests.len() {
            0 => String::new(),
            requests => format!("{}, about {} min", words::counted(requests, "request"), outlook.minutes()),
        };
        for (pair, missing) in by_pair.into_iter().filter(|_| self.has_room) {
            let (bar, most) = self.pairs.entry(pair).or_insert_with(|| {
                let bar = self.bars.insert_before(&self.all, ProgressBar::new(missing));
                bar.set_style(style("{prefix:7}  [{bar:36}] {pos:>5} of {len}"));
                bar.set_prefix(pair.to_string());
                (bar, missing)
            });
            *most = (*most).max(missing);
            bar.set_length(*most);
            bar.set_position(*most - missing);
        }
        let missing = outlook.buckets_missing();
        self.most_missing = self.most_missing.max(missing);
        self.all.set_length(self.most_missing);
        self.all.set_position(self.most_missing - missing);
        self.all.set_message(eta.clone());
        let mut line = format!("{} of {} buckets", self.most_missing - missing, self.most_missing);
        if !eta.is_empty() {
            line = format!("{line}; {eta}");
        }
        let is_due = self.last_line.is_empty() || now.saturating_duration_since(self.printed) >= PRINT_EVERY;
        if self.shows && !self.is_terminal && is_due && self.most_missing > 0 && line != self.last_line {
            remark(&line);
            (self.printed, self.last_line) = (now, line);
        }
    }

    /// Leaves the bars as they are.
    fn finish(&self) {
        for bar in self.pairs.values().map(|(bar, _)| bar).chain([&self.all]) {
            bar.abandon();
        }
        logging::draw_above(None);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed").progress_chars("=> ")
}
