//! Candles that move with time: which are watched, what each shows, when it closes. Pure.

use crate::domain::{Pair, Timestamp};
use crate::simulator::market::{BUCKET_S, Candle, Market, Tick};
use crate::simulator::tlcp::Row;

/// Candles that are looked at for the one before the forming one: a weekend of them.
const PREVIOUS_MAX: i64 = 600;

/// Ticks of one pair's current bucket, and how many of them time has passed.
#[derive(Debug)]
struct Tape {
    pair: Pair,
    bucket: Timestamp,
    ticks: Vec<Tick>,
    passed: usize,
}

/// One candle that moves: a pair's at one scale. Shared by all who subscribe to it.
#[derive(Debug)]
struct Series {
    tape: usize,
    length_s: i64,
    start: Timestamp,
    candle: Option<Candle>,
    /// Ticks came since the last row.
    stale: bool,
    watchers: usize,
    /// The row of the present step, if there is one.
    row: Option<Row>,
}

/// Every watched candle, and the time that they show.
#[derive(Debug)]
pub(crate) struct Candles {
    market: Market,
    rows_per_bar: u32,
    now: Timestamp,
    tapes: Vec<Tape>,
    series: Vec<Series>,
    /// Seconds of a bucket, 1 to 300, at which a row may be due.
    stops: Vec<u16>,
}

impl Candles {
    pub fn new(market: Market, rows_per_bar: u32, start: Timestamp) -> Candles {
        let (tapes, series) = (Vec::new(), Vec::new());
        let mut candles = Candles { market, rows_per_bar, now: start, tapes, series, stops: Vec::new() };
        candles.plan_stops();
        candles
    }

    /// Virtual time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The row that a series shows at the present stop, if there is one.
    pub fn row(&self, series: usize) -> Option<&Row> {
        self.series[series].row.as_ref()
    }

    /// The closing row of the last candle that a series has had, looked for as far back as the
    /// market is read at once.
    pub fn previous_row(&self, series: usize) -> Option<Row> {
        let series = &self.series[series];
        let pair = self.tapes[series.tape].pair;
        let before = (1..=PREVIOUS_MAX).map(|back| series.start.plus(-back * series.length_s));
        before.into_iter().find_map(|start| {
            let candle = self.market.candle(pair, start, start.plus(series.length_s))?;
            Some(row_of(start, &candle, true))
        })
    }

    /// The candle as it stands, complete or not.
    pub fn forming_row(&self, series: usize) -> Option<Row> {
        self.series[series].forming_row()
    }

    /// The series of a pair at a scale, standing where time stands.
    pub fn watch(&mut self, pair: Pair, length_s: i64) -> usize {
        self.pass_ticks(self.now);
        let tape = match self.tapes.iter().position(|tape| tape.pair == pair) {
            Some(tape) => tape,
            None => {
                self.tapes.push(Tape { pair, bucket: Timestamp(i64::MIN), ticks: Vec::new(), passed: 0 });
                self.tapes.len() - 1
            }
        };
        self.wind(tape);
        let known = self.series.iter().position(|one| one.tape == tape && one.length_s == length_s);
        let place = known.unwrap_or_else(|| {
            let start = Timestamp(i64::MIN);
            let (candle, stale, watchers, row) = (None, false, 0, None);
            self.series.push(Series { tape, length_s, start, candle, stale, watchers, row });
            self.series.len() - 1
        });
        let series = &mut self.series[place];
        if series.watchers == 0 {
            series.start = self.now.floor(length_s);
            series.candle = self.market.candle(pair, series.start, self.now);
            series.stale = false;
        }
        series.watchers += 1;
        self.plan_stops();
        place
    }

    /// Brings a tape that may have lain unused to the present bucket and second.
    fn wind(&mut self, tape: usize) {
        let tape = &mut self.tapes[tape];
        let bucket = self.now.floor(BUCKET_S);
        if tape.bucket != bucket {
            tape.bucket = bucket;
            self.market.ticks(tape.pair, bucket, &mut tape.ticks);
            let elapsed = self.now.since(bucket);
            tape.passed = tape.ticks.partition_point(|tick| i64::from(tick.offset_s) < elapsed);
        }
    }

    /// One watcher less.
    pub fn unwatch(&mut self, series: usize) {
        self.series[series].watchers -= 1;
        self.plan_stops();
    }

    /// Time passes without anything to tell.
    pub fn idle_until(&mut self, until: Timestamp) {
        self.now = self.now.max(until);
    }

    /// The next second at which a row may be due or a bucket begins.
    pub fn next_stop(&self) -> Timestamp {
        let bucket = self.now.floor(BUCKET_S);
        let elapsed = self.now.since(bucket) as u16;
        let place = self.stops.partition_point(|stop| *stop <= elapsed);
        bucket.plus(self.stops.get(place).map_or(BUCKET_S, |stop| i64::from(*stop)))
    }

    /// Seconds at which anything can be due: the grid of rows, and the ends of watched candles.
    fn plan_stops(&mut self) {
        let rows = i64::from(self.rows_per_bar).clamp(1, BUCKET_S);
        let mut stops: Vec<i64> = vec![BUCKET_S];
        let watched = || self.series.iter().filter(|series| series.watchers > 0);
        if watched().next().is_some() {
            stops.extend((1..rows).map(|row| row * BUCKET_S / rows));
        }
        for series in watched().filter(|series| series.length_s < BUCKET_S) {
            stops.extend((1..BUCKET_S).filter(|second| second % series.length_s == 0));
        }
        stops.sort_unstable();
        stops.dedup();
        self.stops = stops.into_iter().map(|stop| stop as u16).collect();
    }

    /// Moves time to `next`, at most the next stop, and works out the rows that are due then.
    pub fn step(&mut self, next: Timestamp) {
        self.pass_ticks(next);
        self.now = next;
        self.make_rows();
    }

    /// Winds the tapes on where a bucket has begun. To be called once its closing rows are told.
    pub fn turn(&mut self) {
        if self.now.floor(BUCKET_S) == self.now {
            for tape in 0..self.tapes.len() {
                if self.series.iter().any(|series| series.tape == tape && series.watchers > 0) {
                    self.wind(tape);
                }
            }
        }
    }

    /// Takes the ticks before `until`, at most the end of the present bucket, into their candles.
    fn pass_ticks(&mut self, until: Timestamp) {
        for series in self.series.iter_mut().filter(|series| series.watchers > 0) {
            let tape = &self.tapes[series.tape];
            let elapsed = until.since(tape.bucket);
            let new = tape.ticks[tape.passed..].iter().take_while(|tick| i64::from(tick.offset_s) < elapsed);
            for tick in new {
                Candle::fold(&mut series.candle, tick);
                series.stale = true;
            }
        }
        for tape in &mut self.tapes {
            let elapsed = until.since(tape.bucket);
            tape.passed += tape.ticks[tape.passed..]
                .iter()
                .take_while(|tick| i64::from(tick.offset_s) < elapsed)
                .count();
        }
    }

    /// Works out each watched series' row for the present second: the closing one at a candle's
    /// end, else a forming one where ticks came.
    fn make_rows(&mut self) {
        let now = self.now;
        for series in self.series.iter_mut().filter(|series| series.watchers > 0) {
            series.row = if now.floor(series.length_s) == now {
                let closed = series.candle.take().map(|candle| row_of(series.start, &candle, true));
                series.start = now;
                series.stale = false;
                closed
            } else if std::mem::take(&mut series.stale) {
                series.forming_row()
            } else {
                None
            };
        }
    }
}

impl Series {
    fn forming_row(&self) -> Option<Row> {
        self.candle.as_ref().map(|candle| row_of(self.start, candle, false))
    }
}

fn row_of(start: Timestamp, candle: &Candle, closed: bool) -> Row {
    let (bid, ask) = (&candle.bid, &candle.ask);
    let price = |points: i32| i64::from(points);
    // In the order of `Field`.
    [
        start.0 * 1000,
        i64::from(closed),
        i64::from(candle.ticks),
        price(bid.open),
        price(bid.high),
        price(bid.low),
        price(bid.close),
        price(ask.open),
        price(ask.high),
        price(ask.low),
        price(ask.close),
    ]
}
