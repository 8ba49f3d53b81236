//! Whole simulated weeks in which things go wrong at random, and the comparison of the database
//! with what happened: nothing is wrong, and everything absent is listed in the ledger.
//!
//! Everything happens at an instant of market time that the seed decides, but for the moment of a
//! kill within its instant. A failure prints its seed; `CANDLEKEEP_CHAOS_SEED=<seed>` plays the same
//! again, and `CANDLEKEEP_CHAOS_ROUNDS` says how many weeks (one, unless told).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candlekeep::clock::Clock;
use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::domain::{Pair, Timestamp};
use candlekeep::simulator::faults::{Closing, Fault, ScaledSide, Script, Withheld};
use candlekeep::simulator::{
    Address, Cut, Field, MarketOptions, Options, Refusal, Rubbish, Speed, Unfiltered,
};

use super::world::{Holes, START, STEP, Service, World, market};

/// Length of a round, hours of market time: a week, its weekend included.
const HOURS: i64 = 7 * 24;
/// Faults of a round.
const FAULTS: usize = 60;
/// Kills of a round, at most.
const KILLS: usize = 4;
/// Nothing goes wrong for so long at first, and the market does not go on until something is known of every pair: what was
/// sent on a connection that was cut before anything of it was read was never watched.
pub const CALM_S: i64 = 3_600;
/// After the last fault nothing goes wrong for so long, so that everything can be healed.
pub const QUIET_S: i64 = 4 * 3_600;
/// Codes with which sessions and requests end: every row of the protocol's tables that a client
/// comes back from at once or soon.
const CODES: [i32; 14] = [3, 4, 5, 6, 20, 21, 31, 32, 33, 40, 41, 48, 66, 68];
/// An address where nobody is.
const NOBODY: &str = "127.0.0.1:1";
/// Texts in the place of a price: no number, none that a market makes, none at all.
const TEXTS: [Option<&str>; 7] =
    [None, Some(""), Some("NaN"), Some("-1.1"), Some("1e300"), Some("0"), Some("99999999999999999999")];
/// Values that no update has.
const RAW: [&str; 6] = ["^99", "^0", "^x", "1|2|3", "%zz|^11", "^Tabc|^11"];

/// The market is watched in stretches of so long, each of which has its own time: over a weekend no row shows that a session works,
/// so that after twenty that ended the pauses between two are a minute, and stay so until the market opens.
const STRETCH: i64 = 3_600;
/// And all of it together this.
const WEEK_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Timers that find trouble soon, and recover it in a time that a busy machine can keep.
pub const QUICK: [(&str, &str); 6] = [
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
    let unfiltered = *random.choice(&unfiltered).expect("there are some");
    let length_s = HOURS * 3_600 + STEP / 2;
    let mut faults = Script::default();
    for _ in 0..FAULTS {
        let after_s = random.i64(CALM_S..length_s - QUIET_S);
        for (later_s, fault) in fault(&mut random, unfiltered) {
            println!("{:>7} {fault:?}", after_s + later_s);
            faults.add(after_s + later_s, fault);
        }
    }
    let mut kills: Vec<i64> =
        (0..random.usize(0..=KILLS)).map(|_| random.i64(STEP..length_s - QUIET_S)).collect();
    kills.sort_unstable();
    let options = Options {
        market: MarketOptions::Seeded { seed, start: Some(START) },
        speed: Speed::Max,
        rows_per_bar: Some(random.u32(2..8)),
        unfiltered,
        // Within a bucket, so that a program that starts after the end still learns from the
        // forming candle what time it is.
        end: Some(START.plus(length_s)),
        // Given as control link, unless a fault says otherwise.
        second_listen: Some(([127, 0, 0, 1], 0).into()),
        // What cannot be afforded would rightly stay open.
        allowance: 10_000_000,
        faults,
        ..market(0)
    };
    let world = World::new(options);
    world.simulator().control().hold_at(Some(START.plus(CALM_S)));
    let given_up = Clock::system().monotonic() + WEEK_WITHIN;
    let mut service = world.start("run", &QUICK);
    world.wait(&mut service, "the first bars", has_a_ledger);
    world.simulator().control().hold_at(None);
    for kill in &kills {
        let time = START.plus(*kill);
        wait_until(&world, &mut service, time, given_up);
        // What was seen by a program that is killed before it has written anything is not known.
        world.wait(&mut service, "a ledger", has_a_ledger);
        service.kill();
        println!("killed at {}", world.simulator().now());
        service = world.start("run", &QUICK);
    }
    wait_until(&world, &mut service, START.plus(length_s), given_up);
    // Healing may be minutes of pauses too.
    world.wait_complete(&mut service);
    service.stop();
    let summary = world.verify(Holes::None);
    let output = world.output("gaps --verify", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let stats = world.simulator().stats();
    format!(
        "{FAULTS} faults, {} kills, {} sessions, {} logins, {} bars over REST, {} breaks",
        kills.len(),
        stats.sessions,
        stats.logins,
        summary.bars("5", "ig_rest"),
        world.number("SELECT count(*) FROM stream_breaks"),
    )
}

/// Waits for an instant of market time, or its end: in vain only where the market does not go on.
fn wait_until(world: &World, service: &mut Service, time: Timestamp, given_up: Instant) {
    let is_over = |world: &World, time| world.simulator().now() >= time || world.simulator().has_ended();
    while !is_over(world, time) {
        let next = world.simulator().now().plus(STRETCH).min(time);
        world.wait(service, &format!("market time {next}"), |world| is_over(world, next));
        assert!(Clock::system().monotonic() < given_up, "at {next} it has taken {WEEK_WITHIN:?}");
    }
}

fn has_a_ledger(world: &World) -> bool {
    world.number("SELECT count(DISTINCT pair) FROM coverage") == 28
}

/// Any fault that a client can come through without loss, and what ends it, with seconds after it.
pub fn fault(random: &mut fastrand::Rng, unfiltered: Unfiltered) -> Vec<(i64, Fault)> {
    let code = *random.choice(&CODES).expect("there are some");
    let text = "chaos".to_owned();
    let how = [Cut::Reset, Cut::Drop, Cut::Close(1001)][random.usize(..3)];
    let cut = Fault::Cut { how };
    let pairs: Vec<Pair> = (0..random.usize(1..4)).map(|_| MAJOR_PAIRS[random.usize(..28)]).collect();
    let ends_s = random.i64(60..6 * 3_600).min(QUIET_S / 2);
    let at_once = |fault| vec![(0, fault)];
    match random.u32(0..30) {
        0 => at_once(cut),
        1 => vec![(0, Fault::Resend { lines: random.u64(..50) }), (0, cut)],
        2 => vec![(0, Fault::WrongProg { lines: random.u64(1..5) }), (0, cut)],
        3 => at_once(Fault::Restart {}),
        4 => at_once(Fault::HalfOpen {}),
        5 => at_once(Fault::Loop { delay_ms: random.u64(..200) }),
        6 => at_once(Fault::End { code, text }),
        7 => vec![(0, Fault::RefuseBinds { times: random.u32(1..3), code, text }), (0, cut)],
        8 => vec![(0, Fault::RefuseCreates { times: random.u32(1..3), code, text }), (0, Fault::Restart {})],
        9 => at_once(Fault::Outage { for_s: random.u32(1..7_200) }),
        10 => {
            let huge = Rubbish::Huge(random.usize(1_000..10_000_000));
            let what = [Rubbish::Line, Rubbish::Binary, Rubbish::NotUtf8, huge][random.usize(..4)];
            at_once(Fault::Garbage { what })
        }
        11 => vec![(0, Fault::WipeTokens {}), (0, cut)],
        12 => {
            let with = if random.bool() { Refusal::Status(403) } else { Refusal::Page };
            vec![
                (0, Fault::RefuseWebsockets { with, times: u32::MAX }),
                (0, cut),
                (ends_s, Fault::RefuseWebsockets { with, times: 0 }),
            ]
        }
        13 => {
            let fragment_bytes = [1, 7, 100, 5_000][random.usize(..4)];
            let framing = Fault::Framing { fragment_bytes, single_lines: random.bool(), apart_ms: 0 };
            let whole = Fault::Framing { fragment_bytes: 0, single_lines: false, apart_ms: 0 };
            vec![(0, framing), (ends_s.min(1_800), whole)]
        }
        14 => {
            let what = if random.bool() { Withheld::Wsok } else { Withheld::Conok };
            vec![(0, Fault::Withhold { what, times: random.u32(1..3) }), (0, cut)]
        }
        15 => {
            let version = |text: &str| text.parse().expect("it is a version");
            vec![
                (0, Fault::TlcpVersion { newest: version("2.3.0") }),
                (0, Fault::Restart {}),
                (ends_s, Fault::TlcpVersion { newest: version("2.4.0") }),
            ]
        }
        16 => {
            let refuse = Fault::RefuseItems { pairs, times: 1, code: -1, text };
            vec![(0, refuse), (0, Fault::End { code: 48, text: String::new() })]
        }
        17 => at_once(Fault::Overflow { pairs, rows: random.u32(1..20) }),
        18 => {
            // Longer than any pair is let be silent.
            let for_s = random.u32(2 * 3_600..4 * 3_600);
            at_once(Fault::Stall { pairs, for_s, cured_by_subscribing: random.bool() })
        }
        19 | 20 => {
            let all = [Closing::Drop, Closing::Late, Closing::Repeat, Closing::Merge];
            // Where the server promises not to merge rows away it does not.
            let of = if unfiltered == Unfiltered::Granted { 3 } else { 4 };
            let (how, bars) = (all[random.usize(..of)], random.u32(1..10));
            at_once(Fault::Closes { pairs, how, bars, by_s: random.u32(1..900) })
        }
        21 => {
            let fields = [
                Field::BidHigh,
                Field::OfrClose,
                Field::BidLow,
                Field::OfrOpen,
                Field::Utm,
                Field::ConsEnd,
                Field::TickCount,
            ];
            let field = fields[random.usize(..fields.len())];
            let text = random.choice(TEXTS).expect("there are some").map(str::to_owned);
            at_once(Fault::Values { pairs, fields: BTreeMap::from([(field, text)]), rows: random.u32(1..4) })
        }
        22 => {
            let values = (*random.choice(&RAW).expect("there are some")).to_owned();
            at_once(Fault::Raw { pairs, values, rows: random.u32(1..3) })
        }
        23 => {
            let old = Fault::OldSnapshot { times: random.u32(1..29) };
            vec![(0, old), (0, Fault::End { code: 48, text: String::new() })]
        }
        24 => {
            let side = if random.bool() { ScaledSide::Both } else { ScaledSide::Stream };
            let scale = |in_points| Fault::Scale { pairs: pairs.clone(), in_points, side };
            vec![(0, scale(true)), (ends_s, scale(false))]
        }
        25 => {
            // Whom neither WebSockets nor HTTP let in for a few times, one of them does then.
            let (with, times) = (Refusal::Status(403), random.u32(1..4));
            vec![
                (0, Fault::RefuseWebsockets { with, times }),
                (0, Fault::RefuseHttp { with, times: random.u32(1..4) }),
                (0, cut),
            ]
        }
        26 => {
            let address = Address::Second;
            vec![(0, cut), (random.i64(0..STEP), Fault::Shut { address }), (ends_s, Fault::Open { address })]
        }
        27 => {
            let link = if random.bool() { "*" } else { NOBODY }.to_owned();
            vec![(0, Fault::ControlLink { link }), (0, cut), (ends_s, Fault::End { code, text })]
        }
        28 => {
            let behind = Fault::RestBehind { by_s: random.u32(1..=1_200), for_s: random.u32(1..=3_600) };
            vec![(0, behind), (0, if random.bool() { cut } else { Fault::Restart {} })]
        }
        _ => {
            let (status, code) =
                [(500, "system.error"), (404, "error.error.price-history.io-error")][random.usize(..2)];
            let (times, code, path) = (random.u32(1..4), code.to_owned(), "prices".to_owned());
            let refuse = Fault::RefuseRest { times, status, code, path };
            let null_legs = Fault::NullLegs { pairs, times: 1 };
            vec![(0, if random.bool() { refuse } else { null_legs }), (0, Fault::Restart {})]
        }
    }
}
