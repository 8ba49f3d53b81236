//! Whole simulated weeks in which things go wrong at random, and the comparison of the database
//! with what happened: nothing is wrong, and everything absent is listed in the ledger.
//!
//! A failure prints its seed; `CANDLEKEEP_CHAOS_SEED=<seed>` plays the same again, and
//! `CANDLEKEEP_CHAOS_ROUNDS` says how many weeks (one, unless told).

use candlekeep::domain::Timestamp;
use candlekeep::simulator::{Control, Cut, MarketOptions, Options, Refusal, Rubbish, Speed, Unfiltered};

use super::world::{Holes, START, STEP, Service, World, market};

/// Length of a round, hours of market time: a week, its weekend included.
const HOURS: i64 = 7 * 24;
/// Faults of a round.
const FAULTS: usize = 40;
/// Codes with which sessions and requests end: every row of the protocol's tables that a client
/// comes back from at once or soon.
const CODES: [i32; 14] = [3, 4, 5, 6, 20, 21, 31, 32, 33, 40, 41, 48, 66, 68];

/// Timers that find trouble soon, and recover it in a time that a busy machine can keep.
const QUICK: [(&str, &str); 6] = [
    ("CANDLEKEEP_STREAM_KEEPALIVE_MS", "500"),
    ("CANDLEKEEP_STREAM_STALLED_MS", "250"),
    ("CANDLEKEEP_STREAM_RECONNECT_MS", "250"),
    ("CANDLEKEEP_STREAM_RECOVERY_MS", "3000"),
    ("CANDLEKEEP_STREAM_RETRY_MS", "250"),
    ("CANDLEKEEP_STREAM_WEBSOCKET_AGAIN_S", "1"),
];

#[test]
fn whatever_goes_wrong_the_database_is_right_and_its_holes_are_listed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let rounds = number("CANDLEKEEP_CHAOS_ROUNDS").unwrap_or(1);
    let first = number("CANDLEKEEP_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        println!("seed {seed}");
        let told = week(seed);
        println!("{told}");
    }
}

/// Plays one week; answers what it came to.
fn week(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let unfiltered = [Unfiltered::Granted, Unfiltered::Ignored, Unfiltered::Refused];
    let options = Options {
        market: MarketOptions::Seeded { seed, start: Some(START) },
        speed: Speed::Max,
        rows_per_bar: Some(random.u32(2..8)),
        unfiltered: *random.choice(&unfiltered).expect("there are some"),
        // Within a bucket, so that a program that starts after the end still learns from the
        // forming candle what time it is.
        end: Some(START.plus(HOURS * 3_600 + STEP / 2)),
        // What cannot be afforded would rightly stay open.
        allowance: 10_000_000,
        ..market(0)
    };
    let end = options.end.expect("the market has an end");
    let world = World::new(options);
    let mut service = world.start("run", &QUICK);
    let mut done = Vec::new();
    let mut moments: Vec<i64> = (0..FAULTS).map(|_| random.i64(STEP..end.since(START))).collect();
    moments.sort_unstable();
    for moment in moments {
        reach(&world, &mut service, START.plus(moment));
        let what = act(&world.simulator().control(), &world, end, &mut random);
        done.push(what);
        if random.u32(0..12) == 0 {
            service.kill();
            service = world.start("run", &QUICK);
            done.push("killed".to_owned());
        }
    }
    println!("{}", done.join(", "));
    // From here on nothing goes wrong any more, so that everything can be healed.
    let control = world.simulator().control();
    control.refuse_upgrades(None);
    control.refuse_http_streams(None);
    control.refuse_streams(false);
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    let stats = world.simulator().stats();
    format!(
        "{} faults, {} sessions, {} logins, {} bars over REST, {} breaks",
        done.len(),
        stats.sessions,
        stats.logins,
        summary.bars("5", "ig_rest"),
        world.number("SELECT count(*) FROM stream_breaks"),
    )
}

/// Waits for a moment of market time, or for its end.
fn reach(world: &World, service: &mut Service, time: Timestamp) {
    world.wait(service, &format!("market time {time}"), |world| {
        world.simulator().now() >= time || world.simulator().has_ended()
    });
}

/// Does one thing, and says what.
fn act(control: &Control, world: &World, end: Timestamp, random: &mut fastrand::Rng) -> String {
    let code = *random.choice(&CODES).expect("there are some");
    let cut = [Cut::Reset, Cut::Drop, Cut::Close(1001)][random.usize(..3)];
    match random.u32(0..12) {
        0 | 1 => {
            control.resend_at_next_recovery(random.u64(..50));
            control.cut_connections(cut);
            format!("{cut:?}")
        }
        2 => {
            control.cut_streams();
            "forgotten".to_owned()
        }
        3 => {
            control.half_open();
            "half open".to_owned()
        }
        4 => {
            control.rebind_sessions(random.u64(..200));
            "loop".to_owned()
        }
        5 => {
            control.end_sessions(code, "ended");
            format!("end {code}")
        }
        6 => {
            control.refuse_binds(random.u32(1..3), code, "refused");
            control.cut_connections(cut);
            format!("bind refused {code}")
        }
        7 => {
            control.refuse_creates(random.u32(1..3), code, "refused");
            control.cut_streams();
            format!("create refused {code}")
        }
        8 => {
            let now = world.simulator().now();
            // It ends before the market does, after which time stands still.
            let away_s = random.i64(1..4 * 3_600).min(end.since(now) - STEP).max(1);
            control.schedule_outage(now, now.plus(away_s));
            format!("away {away_s} s")
        }
        9 => {
            let rubbish = [Rubbish::Line, Rubbish::Binary, Rubbish::NotUtf8][random.usize(..3)];
            control.send_rubbish(rubbish);
            format!("{rubbish:?}")
        }
        10 => {
            control.wipe_tokens();
            control.cut_streams();
            "tokens wiped".to_owned()
        }
        _ => {
            let refusal = if random.bool() { Refusal::Status(403) } else { Refusal::Page };
            let refused = random.bool();
            control.refuse_upgrades(refused.then_some(refusal));
            control.cut_connections(cut);
            format!("websockets refused: {refused}")
        }
    }
}
