//! Rows and bytes a second through [`TlcpSession::handle_message`], and on into the item's candle, next to a search for
//! each separator by `memchr2_iter` over the same bytes. That is what a decoder by fields begins with, and no lower bound: separators
//! are so near to each other that what finds several of them at once is faster.

use std::hint::black_box;

use candlekeep::domain::pair::MAJOR_PAIRS;
use candlekeep::ig::stream::chart::{ChartItem, Knowledge};
use candlekeep::tlcp::{Event, TlcpSession};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[expect(dead_code, reason = "other benches use the rest")]
mod rooms;
#[expect(dead_code, reason = "other benches use the rest")]
mod timing;

/// Rows of a pass, of each item. Enough that no branch predictor knows them by heart.
const ROWS_PER_ITEM: usize = 300;

/// A session that streams all pairs, and their items.
fn start() -> (TlcpSession, Vec<ChartItem>) {
    let items = MAJOR_PAIRS.iter().map(|pair| ChartItem::new(*pair, Knowledge::ByPrice)).collect();
    (rooms::sessions(MAJOR_PAIRS.len(), timing::now()).remove(0), items)
}

fn decode(c: &mut Criterion) {
    let now = timing::now();
    let whole = rooms::messages(MAJOR_PAIRS.len(), 1, ROWS_PER_ITEM);
    let single: Vec<String> =
        whole.iter().flat_map(|message| message.split_inclusive('\n')).map(str::to_owned).collect();
    let mut group = c.benchmark_group("decode");
    for messages in [&single, &whole] {
        let rows = ROWS_PER_ITEM * MAJOR_PAIRS.len();
        let bytes: usize = messages.iter().map(String::len).sum();
        group.throughput(Throughput::ElementsAndBytes { elements: rows as u64, bytes: bytes as u64 });
        let rows_per_message = rows / messages.len();
        group.bench_function(BenchmarkId::new("handle_message", rows_per_message), |b| {
            let decode = |(mut session, _): (TlcpSession, Vec<ChartItem>)| {
                let mut updates = 0;
                for message in messages {
                    session.handle_message(now, black_box(message), &mut |event| {
                        updates += usize::from(matches!(black_box(event), Event::Update { .. }));
                    });
                }
                assert_eq!(updates, rows);
            };
            b.iter_batched(start, decode, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("and merge", rows_per_message), |b| {
            let merge = |(mut session, mut items): (TlcpSession, Vec<ChartItem>)| {
                let mut candles = 0;
                for message in messages {
                    session.handle_message(now, black_box(message), &mut |event| {
                        if let Event::Update { tag, changes, .. } = event {
                            let candle = items[usize::from(tag)].apply(changes).expect("good rows");
                            candles += usize::from(black_box(candle).is_some());
                        }
                    });
                }
                assert_eq!(candles, rows);
            };
            b.iter_batched(start, merge, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("memchr floor", rows_per_message), |b| {
            b.iter(|| {
                let find = |message: &String| memchr::memchr2_iter(b'|', b'\n', message.as_bytes()).count();
                messages.iter().map(|message| find(black_box(message))).sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
