//! IG's JSON into the house's own types.

use chrono::NaiveDateTime;
use serde_json::value::RawValue;

use super::models::{BidAsk, PriceRow};
use crate::domain::{Bar, BarKey, FetchedBar, Ohlc, Pair, Price, Source, Timeframe, Timestamp};

/// Reads one row. `None` where its time cannot be read or sits off the timeframe's grid: such a
/// row can be assigned to no bucket.
///
/// Times come from `snapshotTimeUTC` alone; `snapshotTime` is account-local and only serves to
/// learn the account's offset.
pub fn price_row(pair: Pair, timeframe: Timeframe, points_shift: u32, row: &PriceRow) -> Option<FetchedBar> {
    let start = utc_time(row.snapshot_time_utc.as_deref()?)?;
    if timeframe.bucket(start) != start {
        return None;
    }
    let local = row.snapshot_time.as_deref().and_then(local_time);
    let sides = [&row.open_price, &row.high_price, &row.low_price, &row.close_price];
    let side = |leg: fn(&BidAsk) -> &Option<Box<RawValue>>| -> Option<Ohlc> {
        let mut prices = [None; 4];
        for (to, from) in prices.iter_mut().zip(sides) {
            let text = leg(from.as_ref()?).as_ref()?.get();
            *to = Some(Price::parse(text, points_shift).ok()?);
        }
        let [open, high, low, close] = prices.map(|price| price.expect("filled above"));
        let side = Ohlc { open, high, low, close };
        side.is_ordered().then_some(side)
    };
    let bar = side(|legs| &legs.bid).zip(side(|legs| &legs.ask)).map(|(bid, ask)| Bar {
        key: BarKey { pair, timeframe, start },
        bid,
        ask,
        volume: row.last_traded_volume.map_or(0, |volume| volume.clamp(0.0, f64::from(u32::MAX)) as u32),
        source: Source::Rest,
    });
    Some(FetchedBar { start, local_offset_s: local.map(|local| local.since(start)), bar })
}

/// `2020-10-12T20:50:00`.
fn utc_time(text: &str) -> Option<Timestamp> {
    let time = NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), "%Y-%m-%dT%H:%M:%S").ok()?;
    Some(Timestamp(time.and_utc().timestamp()))
}

/// `2020/10/12 21:50:00`, read as if it were UTC.
fn local_time(text: &str) -> Option<Timestamp> {
    let time = NaiveDateTime::parse_from_str(text, "%Y/%m/%d %H:%M:%S").ok()?;
    Some(Timestamp(time.and_utc().timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ig::models::Prices;

    fn row(json: &str) -> Option<FetchedBar> {
        let row: PriceRow = serde_json::from_str(json).expect("test JSON");
        price_row("GBPUSD".parse().unwrap(), Timeframe::M5, 0, &row)
    }

    fn full(high_bid: &str, utc: &str) -> String {
        format!(
            r#"{{"snapshotTime":"2020/10/12 21:50:00","snapshotTimeUTC":"{utc}",
            "openPrice":{{"bid":1.30450,"ask":1.30459,"lastTraded":null}},
            "closePrice":{{"bid":1.30471,"ask":1.30480,"lastTraded":null}},
            "highPrice":{{"bid":{high_bid},"ask":1.30484,"lastTraded":null}},
            "lowPrice":{{"bid":1.30441,"ask":1.30450,"lastTraded":null}},
            "lastTradedVolume":252}}"#
        )
    }

    #[test]
    fn a_row_of_the_reference_is_read_exactly() {
        let read = row(&full("1.30475", "2020-10-12T20:50:00")).unwrap();
        assert_eq!(read.start.to_string(), "2020-10-12T20:50:00Z");
        assert_eq!(read.local_offset_s, Some(3600));
        let bar = read.bar.unwrap();
        assert_eq!(bar.bid.prices().map(|p| p.to_string()), ["1.3045", "1.30475", "1.30441", "1.30471"]);
        assert_eq!(bar.ask.prices().map(|p| p.to_string()), ["1.30459", "1.30484", "1.3045", "1.3048"]);
        assert_eq!(bar.volume, 252);
    }

    #[test]
    fn a_null_or_contradictory_leg_gives_no_bar_but_keeps_its_time() {
        for high in ["null", "\"1.3\"", "-1", "1.30440"] {
            let read = row(&full(high, "2020-10-12T20:50:00")).unwrap();
            assert_eq!(read.bar, None, "{high}");
        }
        let read = row(r#"{"snapshotTimeUTC":"2020-10-12T20:50:00"}"#).unwrap();
        assert_eq!(read.bar, None);
    }

    #[test]
    fn a_row_that_fits_no_bucket_is_dropped() {
        for utc in ["2020-10-12T20:51:00", "2020/10/12 20:50:00", "", "yesterday"] {
            assert_eq!(row(&full("1.30475", utc)), None, "{utc}");
        }
    }

    #[test]
    fn an_empty_answer_is_read() {
        let prices: Prices = serde_json::from_str(
            r#"{"prices":[],"metadata":{"allowance":{"remainingAllowance":9644,"totalAllowance":10000,
            "allowanceExpiry":69976},"size":0,"pageData":{"pageSize":20,"pageNumber":1,"totalPages":0}}}"#,
        )
        .unwrap();
        assert!(prices.prices.is_empty());
        assert_eq!(prices.metadata.unwrap().allowance.unwrap().remaining_allowance, 9644);
    }
}
