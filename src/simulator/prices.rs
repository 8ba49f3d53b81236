//! `GET /prices`: which bars a request means, and how IG writes them. Pure.

use std::collections::HashMap;
use std::ops::Range;

use chrono::NaiveDateTime;
use serde::Serialize;

use super::desk::{Allowance, Refusal};
use super::listing::Instrument;
use super::market::{Candle, Market, Side};
use crate::domain::{Pair, Timestamp};

/// Most bars that one request may mean, over all its pages.
const BARS_MAX: usize = 10_000;
/// Buckets looked at for the bars of one request: most are closed or silent only at the ends of
/// a replay.
const BUCKETS_MAX: usize = 200_000;
/// Bars of a request that says nothing about its size.
const MAX_DEFAULT: usize = 10;
const PAGE_SIZE_DEFAULT: usize = 20;

/// Which zone the dates of a price request are in. IG's documentation does not say; hints point
/// at the account's local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestZone {
    /// The account's local time, as in `snapshotTime`.
    AccountLocal,
    /// UTC.
    Utc,
}

/// The versions of the price endpoints, which differ in dates and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
    V3,
}

impl Version {
    /// How dates in requests are written.
    fn request_format(self) -> &'static str {
        match self {
            Version::V1 => "%Y:%m:%d-%H:%M:%S",
            Version::V2 => "%Y-%m-%d %H:%M:%S",
            Version::V3 => "%Y-%m-%dT%H:%M:%S",
        }
    }

    /// How `snapshotTime` is written.
    fn snapshot_format(self) -> &'static str {
        match self {
            Version::V1 => "%Y:%m:%d-%H:%M:%S",
            Version::V2 | Version::V3 => "%Y/%m/%d %H:%M:%S",
        }
    }
}

/// The account's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zones {
    /// Hours that the account's local time is ahead of UTC.
    pub offset_hours: i32,
    /// From when on it is ahead by so many, as with daylight saving.
    pub change: Option<(Timestamp, i32)>,
    pub requests: RequestZone,
}

impl Zones {
    /// Hours that local time is ahead of UTC at an instant.
    pub fn hours_at(self, time: Timestamp) -> i32 {
        self.change.filter(|(from, _)| *from <= time).map_or(self.offset_hours, |(_, hours)| hours)
    }

    fn local(self, time: Timestamp) -> Timestamp {
        time.plus(i64::from(self.hours_at(time)) * 3600)
    }

    /// Reads a date of a request.
    fn read(self, text: &str, version: Version) -> Result<Timestamp, Refusal> {
        let time = NaiveDateTime::parse_from_str(text, version.request_format())
            .map_err(|_| Refusal::new(400, &format!("Unable to parse datetime={text:.40}")))?;
        let shown = Timestamp::from(time.and_utc());
        if self.requests == RequestZone::Utc {
            return Ok(shown);
        }
        let by = |hours: i32| shown.plus(-i64::from(hours) * 3600);
        // Of an hour that there is twice the later one is meant.
        let changed = self.change.map(|(from, hours)| (from, by(hours))).filter(|(from, time)| from <= time);
        Ok(changed.map_or(by(self.offset_hours), |(_, time)| time))
    }
}

/// Which bars are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The last so many that start at or before an instant, the forming one included.
    Last(usize, Timestamp),
    /// Those that start between two instants, both included.
    Between(Timestamp, Timestamp),
}

/// A checked price request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub length_s: i64,
    pub wanted: Wanted,
    /// Bars a page; 0 = all in one.
    pub page_size: usize,
    /// From 1 on.
    pub page: usize,
}

/// The length in seconds of a resolution that the simulator can compute.
fn resolution(name: &str) -> Result<i64, Refusal> {
    const MINUTE: i64 = 60;
    Ok(match name {
        "SECOND" => 1,
        "MINUTE" => MINUTE,
        "MINUTE_2" => 2 * MINUTE,
        "MINUTE_3" => 3 * MINUTE,
        "MINUTE_5" => 5 * MINUTE,
        "MINUTE_10" => 10 * MINUTE,
        "MINUTE_15" => 15 * MINUTE,
        "MINUTE_30" => 30 * MINUTE,
        "HOUR" => 60 * MINUTE,
        "HOUR_2" => 120 * MINUTE,
        "HOUR_3" => 180 * MINUTE,
        "HOUR_4" => 240 * MINUTE,
        "DAY" | "WEEK" | "MONTH" => return Err(io_error()),
        _ => return Err(Refusal::new(400, "validation.invalid.resolution")),
    })
}

/// IG's answer to an unknown epic and to a request that is too large, doubled prefix and all.
pub(crate) fn io_error() -> Refusal {
    Refusal::new(404, "error.error.price-history.io-error")
}

impl Request {
    /// Reads the parameters of version 3.
    pub fn v3(query: &HashMap<String, String>, zones: Zones, now: Timestamp) -> Result<Request, Refusal> {
        let get = |name: &str| query.get(name).map(String::as_str);
        let number = |name: &str, default: usize| match get(name) {
            None => Ok(default),
            Some(text) => parse_count(text),
        };
        let max = number("max", MAX_DEFAULT)?;
        let date = |name: &str| get(name).map(|text| zones.read(text, Version::V3)).transpose();
        let wanted = match (date("from")?, date("to")?) {
            (None, None) => Wanted::Last(max, now),
            (None, Some(to)) => Wanted::Last(max, to),
            (Some(from), to) => between(from, to.unwrap_or(now))?,
        };
        let bad_page = |_| Refusal::new(400, "error.request.invalid.page-size");
        Ok(Request {
            length_s: resolution(get("resolution").unwrap_or("MINUTE"))?,
            wanted,
            page_size: number("pageSize", PAGE_SIZE_DEFAULT).map_err(bad_page)?,
            page: number("pageNumber", 1)?.max(1),
        })
    }

    /// The last `count` bars, versions 1 and 2.
    pub fn last(resolution_name: &str, count: &str, now: Timestamp) -> Result<Request, Refusal> {
        let wanted = Wanted::Last(parse_count(count)?, now);
        Ok(Request { length_s: resolution(resolution_name)?, wanted, page_size: 0, page: 1 })
    }

    /// A range, versions 1 and 2.
    pub fn range(
        resolution_name: &str,
        from: &str,
        to: &str,
        version: Version,
        zones: Zones,
    ) -> Result<Request, Refusal> {
        let wanted = between(zones.read(from, version)?, zones.read(to, version)?)?;
        Ok(Request { length_s: resolution(resolution_name)?, wanted, page_size: 0, page: 1 })
    }
}

fn between(from: Timestamp, to: Timestamp) -> Result<Wanted, Refusal> {
    if to < from {
        return Err(Refusal::new(400, "error.invalid.daterange"));
    }
    Ok(Wanted::Between(from, to))
}

fn parse_count(text: &str) -> Result<usize, Refusal> {
    let refuse = || Refusal::new(400, &format!("Unable to convert value={text:.40} to type= Integer int"));
    text.parse::<u32>().map(|count| count as usize).map_err(|_| refuse())
}

/// One bar of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub start: Timestamp,
    pub candle: Candle,
}

/// The bars that a request means as of `now`, over all pages, ascending.
///
/// # Errors
/// IG's `io-error` where that is more than one request may mean.
pub(crate) fn find(
    market: &Market,
    pair: Pair,
    request: &Request,
    now: Timestamp,
) -> Result<Vec<Found>, Refusal> {
    let length_s = request.length_s;
    let begins = market.begins().unwrap_or(Timestamp(0)).floor(length_s);
    let bar = |start: Timestamp| {
        let end = start.plus(length_s).min(now);
        market.candle(pair, start, end).map(|candle| Found { start, candle })
    };
    match request.wanted {
        Wanted::Last(count, at) => {
            if count > BARS_MAX {
                return Err(io_error());
            }
            let starts = back_from(at.min(now).floor(length_s), begins, length_s);
            let mut found: Vec<Found> = starts.take(BUCKETS_MAX).filter_map(bar).take(count).collect();
            found.reverse();
            Ok(found)
        }
        Wanted::Between(from, to) => {
            let first = from.max(begins).ceil(length_s);
            let found: Vec<Found> = forward(first..to.min(now).plus(1), length_s)
                .take(BUCKETS_MAX)
                .filter_map(bar)
                .take(BARS_MAX + 1)
                .collect();
            if found.len() > BARS_MAX { Err(io_error()) } else { Ok(found) }
        }
    }
}

fn forward(span: Range<Timestamp>, length_s: i64) -> impl Iterator<Item = Timestamp> {
    (span.start.0..span.end.0).step_by(length_s as usize).map(Timestamp)
}

fn back_from(last: Timestamp, first: Timestamp, length_s: i64) -> impl Iterator<Item = Timestamp> {
    forward(Timestamp(0)..Timestamp(last.since(first).saturating_add(1)), length_s)
        .map(move |back| Timestamp(last.0 - back.0))
}

/// The bars of the wanted page, and how many pages there are.
pub(crate) fn page<'a>(found: &'a [Found], request: &Request) -> (&'a [Found], usize) {
    if request.page_size == 0 {
        return (found, usize::from(!found.is_empty()));
    }
    let pages = found.len().div_ceil(request.page_size);
    let begin = ((request.page - 1).saturating_mul(request.page_size)).min(found.len());
    let end = (begin + request.page_size).min(found.len());
    (&found[begin..end], pages)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuoteJson {
    bid: f64,
    ask: Option<f64>,
    /// Always null: nothing is traded on an exchange here.
    last_traded: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PriceJson {
    snapshot_time: String,
    #[serde(rename = "snapshotTimeUTC", skip_serializing_if = "Option::is_none")]
    snapshot_time_utc: Option<String>,
    open_price: QuoteJson,
    close_price: QuoteJson,
    high_price: QuoteJson,
    low_price: QuoteJson,
    last_traded_volume: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AllowanceJson {
    remaining_allowance: u32,
    total_allowance: u32,
    allowance_expiry: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageJson {
    page_size: usize,
    page_number: usize,
    total_pages: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataJson {
    allowance: AllowanceJson,
    size: usize,
    page_data: PageJson,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerJson {
    prices: Vec<PriceJson>,
    instrument_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<MetadataJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowance: Option<AllowanceJson>,
}

/// Everything an answer is made of.
pub(crate) struct Answer<'a> {
    pub version: Version,
    pub instrument: Instrument,
    pub zones: Zones,
    pub request: Request,
    pub page: &'a [Found],
    pub pages: usize,
    pub allowance: Allowance,
    /// Whether the first bar has no ask at its high.
    pub has_null_leg: bool,
}

impl Answer<'_> {
    /// The body, as IG writes it for this version.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let allowance = AllowanceJson {
            remaining_allowance: self.allowance.remaining,
            total_allowance: self.allowance.total,
            allowance_expiry: self.allowance.expires_in_s,
        };
        let (metadata, allowance) = if self.version == Version::V3 {
            let page_data = PageJson {
                page_size: self.request.page_size,
                page_number: self.request.page,
                total_pages: self.pages,
            };
            (Some(MetadataJson { allowance, size: self.page.len(), page_data }), None)
        } else {
            (None, Some(allowance))
        };
        let mut prices: Vec<PriceJson> = self.page.iter().map(|found| self.price(found)).collect();
        if self.has_null_leg
            && let Some(first) = prices.first_mut()
        {
            first.high_price.ask = None;
        }
        serde_json::to_vec(&AnswerJson { prices, instrument_type: "CURRENCIES", metadata, allowance })
    }

    fn price(&self, found: &Found) -> PriceJson {
        let one = 10_f64.powi(self.instrument.decimals as i32);
        // Dividing exact integers once gives the double nearest to the decimal number.
        let quote = |field: fn(&Side) -> i32| QuoteJson {
            bid: f64::from(field(&found.candle.bid)) / one,
            ask: Some(f64::from(field(&found.candle.ask)) / one),
            last_traded: None,
        };
        let local = self.zones.local(found.start).utc();
        let utc = found.start.utc().format(Version::V3.request_format());
        PriceJson {
            snapshot_time: local.format(self.version.snapshot_format()).to_string(),
            snapshot_time_utc: (self.version == Version::V3).then(|| utc.to_string()),
            open_price: quote(|side| side.open),
            close_price: quote(|side| side.close),
            high_price: quote(|side| side.high),
            low_price: quote(|side| side.low),
            last_traded_volume: found.candle.ticks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::market::SeededMarket;
    use crate::simulator::market::tests::at;

    const ZONES: Zones = Zones { offset_hours: 1, change: None, requests: RequestZone::AccountLocal };

    fn request(query: &str) -> Result<Request, Refusal> {
        let query = query.split('&').filter_map(|part| part.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Request::v3(&query, ZONES, at("2020-01-15T12:02:00Z"))
    }

    fn starts(query: &str) -> Vec<String> {
        let market = Market::Seeded(SeededMarket::new(1));
        let pair = "EURUSD".parse().unwrap();
        let found = find(&market, pair, &request(query).unwrap(), at("2020-01-15T12:02:00Z")).unwrap();
        found.iter().map(|found| found.start.to_string()[11..16].to_owned()).collect()
    }

    #[test]
    fn last_n_ends_with_the_forming_bar() {
        assert_eq!(starts("resolution=MINUTE_5&max=3"), ["11:50", "11:55", "12:00"]);
    }

    #[test]
    fn a_range_is_local_time_and_includes_both_ends() {
        let query = "resolution=MINUTE_5&from=2020-01-15T12:50:00&to=2020-01-15T13:00:00&max=1";
        assert_eq!(starts(query), ["11:50", "11:55", "12:00"]);
        assert_eq!(starts("resolution=MINUTE_15&from=2020-01-15T12:31:00"), ["11:45", "12:00"]);
    }

    #[test]
    fn local_time_changes_with_daylight_saving() {
        let change = Some((at("2020-03-29T01:00:00Z"), 1));
        let zones = Zones { offset_hours: 0, change, requests: RequestZone::AccountLocal };
        let read = |text: &str| zones.read(text, Version::V3).unwrap().to_string();
        assert_eq!(read("2020-03-27T12:00:00"), "2020-03-27T12:00:00Z");
        assert_eq!(read("2020-03-30T12:00:00"), "2020-03-30T11:00:00Z");
        assert_eq!(zones.local(at("2020-03-30T11:00:00Z")), at("2020-03-30T12:00:00Z"));
        assert_eq!(
            (zones.hours_at(at("2020-03-29T00:59:59Z")), zones.hours_at(at("2020-03-29T01:00:00Z"))),
            (0, 1)
        );
    }

    #[test]
    fn a_minute_is_folded_from_its_own_ticks() {
        assert_eq!(starts("max=2"), ["12:00", "12:01"]);
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let code = |query| request(query).unwrap_err().code;
        assert_eq!(code("max=3.14159"), "Unable to convert value=3.14159 to type= Integer int");
        assert_eq!(code("from=2020-01-15"), "Unable to parse datetime=2020-01-15");
        assert_eq!(code("from=2020-01-15T12:00:00&to=2020-01-15T11:00:00"), "error.invalid.daterange");
        assert_eq!(code("pageSize=-1"), "error.request.invalid.page-size");
        assert_eq!(code("resolution=5MINUTE"), "validation.invalid.resolution");
    }

    #[test]
    fn pages_cut_the_bars() {
        let market = Market::Seeded(SeededMarket::new(1));
        let pair = "EURUSD".parse().unwrap();
        let pages = |query: &str| {
            let request = request(query).unwrap();
            let found = find(&market, pair, &request, at("2020-01-15T12:02:00Z")).unwrap();
            let (page, pages) = page(&found, &request);
            (page.len(), pages)
        };
        assert_eq!(pages("resolution=MINUTE_5&max=45"), (20, 3));
        assert_eq!(pages("resolution=MINUTE_5&max=45&pageNumber=3"), (5, 3));
        assert_eq!(pages("resolution=MINUTE_5&max=45&pageNumber=4"), (0, 3));
        assert_eq!(pages("resolution=MINUTE_5&max=45&pageSize=0"), (45, 1));
        assert_eq!(pages("resolution=MINUTE_5&max=0"), (0, 0));
    }
}
