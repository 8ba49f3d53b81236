//! Rows a second through [`TlcpSession::handle_message`], against a bare search for separators
//! over the same bytes: no decoder that looks at every byte can be much faster than that.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use candlekeep::tlcp::{Event, Options, SubscriptionSpec, TlcpSession};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Items streamed at a time, as in the shipped configuration.
const ITEMS: u16 = 28;
/// The fields of a candle: start, volume, ticks, end flag, four prices of either side.
const SCHEMA: &str = "UTM LTV CONS_TICK_COUNT CONS_END \
                      BID_OPEN BID_HIGH BID_LOW BID_CLOSE OFR_OPEN OFR_HIGH OFR_LOW OFR_CLOSE";
const FIELDS: u16 = 12;
/// Rows decoded in one pass. Enough that no branch predictor knows them by heart.
const ROWS: usize = 28 * 200;

/// Updates as they come within a candle: both counts always, opens never, closes nearly always,
/// highs and lows now and then.
fn row(sub_id: usize, ticks: usize, rng: &mut fastrand::Rng) -> String {
    let mut row = format!("U,{sub_id},1,|{ticks}|{ticks}|");
    for chance in [0.02, 0.4, 0.4, 0.95, 0.02, 0.4, 0.4, 0.95] {
        row.push('|');
        if rng.f64() < chance {
            write!(row, "{}.{}", rng.u32(9_000..20_000), rng.u32(1..10)).expect("a String takes any text");
        }
    }
    row + "\r\n"
}

fn messages(rows_per_message: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(28);
    let rows: Vec<String> = (0..ROWS)
        .map(|at| row(at % usize::from(ITEMS) + 1, at / usize::from(ITEMS) + 17, &mut rng))
        .collect();
    rows.chunks(rows_per_message).map(|rows| rows.concat()).collect()
}

/// A session with every item subscribed and its first row received.
fn session(now: Instant) -> TlcpSession {
    let mut session = TlcpSession::new(Options::default(), "user".to_owned(), "password".to_owned());
    for tag in 0..ITEMS {
        session.subscribe(SubscriptionSpec {
            group: format!("CHART:ITEM{tag}:5MINUTE"),
            schema: SCHEMA.to_owned(),
            fields: FIELDS,
            snapshot: true,
            unfiltered: true,
            tag,
        });
    }
    session.handle_open(now);
    let mut start = "WSOK\r\nCONOK,S1,50000,5000,*\r\n".to_owned();
    let first = "1778847900000|17|17|0|13358.8|13359.1|13357.3|13357.4|13360.3|13360.6|13358.8|13358.9";
    for sub_id in 1..=ITEMS {
        write!(start, "SUBOK,{sub_id},1,{FIELDS}\r\nU,{sub_id},1,{first}\r\n")
            .expect("a String takes any text");
    }
    session.handle_message(now, &start, &mut |_| {});
    while session.poll_transmit().is_some() {}
    assert_eq!(session.data_count(), 2 * u64::from(ITEMS), "the session must be in full swing");
    session
}

fn decode(c: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "a bench is its own clock")]
    let now = Instant::now();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(ROWS as u64));
    for rows_per_message in [1, 28] {
        let messages = messages(rows_per_message);
        let mut session = session(now);
        group.bench_function(BenchmarkId::new("handle_message", rows_per_message), |b| {
            b.iter(|| {
                let mut changed = 0;
                for message in &messages {
                    session.handle_message(now, black_box(message), &mut |event| {
                        if let Event::Update { changes, .. } = event {
                            let first = black_box(changes)
                                .iter()
                                .fold(None, |first, change| first.or(Some(change.field)));
                            changed += usize::from(first == Some(1));
                        }
                    });
                }
                assert_eq!(changed, ROWS);
            });
        });
        group.bench_function(BenchmarkId::new("memchr floor", rows_per_message), |b| {
            b.iter(|| {
                let mut found = 0;
                for message in &messages {
                    let bytes = black_box(message).as_bytes();
                    memchr::memchr2_iter(b'|', b'\n', bytes).for_each(|at| found += black_box(at) & 1);
                }
                found
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
