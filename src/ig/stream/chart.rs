//! Fields of a `CHART:{epic}:5MINUTE` item into candle updates. Pure.
//!
//! MERGE mode sends changed fields only, so the folded row lives across buckets: a field that is
//! equal in two candles is not sent again (IG streaming reference, CHART item). `UTM` says which
//! bucket a row belongs to.

use crate::domain::scale::{self, Scale, Verdict};
use crate::domain::{CandleUpdate, Epic, Ohlc, Pair, Price, Timeframe, Timestamp};
use crate::tlcp::Change;

/// The fields subscribed to, in this order: the smallest set that IG's demo is known to accept.
pub const SCHEMA: &str = "UTM LTV CONS_TICK_COUNT CONS_END BID_OPEN BID_HIGH BID_LOW BID_CLOSE \
                          OFR_OPEN OFR_HIGH OFR_LOW OFR_CLOSE";
/// Number of fields in [`SCHEMA`].
pub const FIELDS: u16 = 12;

const UTM: usize = 0;
const TICK_COUNT: usize = 2;
const CONS_END: usize = 3;
const FIRST_PRICE: usize = 4;
/// Open, high, low and close of either side.
const PRICES: usize = 8;

/// The item name of an epic's 5-minute candles.
pub fn group(epic: &Epic) -> String {
    format!("CHART:{epic}:5MINUTE")
}

/// Why a row was not handed on. The row's bucket then waits for a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChartFault {
    /// A field holds something that is no price, time or count.
    #[error("unreadable field")]
    Unreadable,
    /// A high below, or a low above, another price of its side.
    #[error("high and low do not enclose open and close")]
    Disordered,
    /// The first price fits neither a decimal nor a points quote.
    #[error("price scale in doubt")]
    ScaleInDoubt,
    /// The price is about 100 or 10,000 times the last one, or the reverse.
    #[error("price scale jumped")]
    ScaleJumped,
}

/// Folded state of one item. An unset field is one that was null or has not come yet.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    start: Option<Timestamp>,
    ticks: Option<u32>,
    closed: Option<bool>,
    prices: [Option<Price>; PRICES],
}

/// One watched item: its folded row and the scale of its prices.
#[derive(Clone, Debug)]
pub struct ChartItem {
    pair: Pair,
    known: Knowledge,
    scale: Option<Scale>,
    row: Row,
    last_close: Option<Price>,
}

/// Where the scale of an item's prices comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The operator settled it.
    Fixed(Scale),
    /// Its first price tells, of each subscription anew: a scale has been seen to change.
    ByPrice,
    /// What IG says of it contradicts its price: everything is held back.
    InDoubt,
}

impl ChartItem {
    /// An item that has not told anything yet.
    pub fn new(pair: Pair, known: Knowledge) -> ChartItem {
        let mut item = ChartItem { pair, known, scale: None, row: Row::default(), last_close: None };
        item.reset();
        item
    }

    /// Forgets the folded row and what its prices said of their scale: a new subscription begins.
    pub fn reset(&mut self) {
        self.row = Row::default();
        self.last_close = None;
        self.scale = match self.known {
            Knowledge::Fixed(scale) => Some(scale),
            Knowledge::ByPrice | Knowledge::InDoubt => None,
        };
    }

    /// Folds one update in. `None` while a field that a candle needs has no value.
    ///
    /// # Errors
    /// A [`ChartFault`] where the row cannot be trusted. An unreadable field counts as null from
    /// then on, until a good value comes.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<Option<CandleUpdate>, ChartFault> {
        let mut fault = None;
        let (others, prices) = changes.split_at(changes.len().min(FIRST_PRICE));
        for (field, change) in others.iter().enumerate() {
            if let Some(told) = told(change) {
                fault = self.set(field, told).err().or(fault);
            }
        }
        for (slot, change) in prices.iter().enumerate().take(PRICES) {
            if let Some(told) = told(change) {
                fault = self.set_price(slot, told).err().or(fault);
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => self.candle(),
        }
    }

    fn set(&mut self, field: usize, text: Option<&str>) -> Result<(), ChartFault> {
        let row = &mut self.row;
        match field {
            // Without value first: what cannot be read must not leave the old one standing.
            UTM => {
                row.start = None;
                // UTM is the candle's start; the floor guards against one that is not aligned.
                let start = |utm_ms| Timeframe::M5.bucket(Timestamp::from_millis(utm_ms));
                row.start = number(text)?.map(start);
            }
            TICK_COUNT => {
                row.ticks = None;
                row.ticks = number(text)?;
            }
            CONS_END => {
                row.closed = None;
                row.closed = match text {
                    None => None,
                    Some("0") => Some(false),
                    Some("1") => Some(true),
                    Some(_) => return Err(ChartFault::Unreadable),
                };
            }
            // LTV equals the tick count for forex; nothing reads it.
            _ => {}
        }
        Ok(())
    }

    fn set_price(&mut self, slot: usize, text: Option<&str>) -> Result<(), ChartFault> {
        self.row.prices[slot] = None;
        if let Some(text) = text {
            let shift = self.shift(text)?;
            self.row.prices[slot] = Some(Price::parse(text, shift).map_err(|_| ChartFault::Unreadable)?);
        }
        Ok(())
    }

    /// The decimal shift of this item's prices, recognised from the first one where needed.
    fn shift(&mut self, text: &str) -> Result<u32, ChartFault> {
        if let Some(scale) = self.scale {
            return Ok(scale.points_shift());
        }
        if self.known == Knowledge::InDoubt {
            return Err(ChartFault::ScaleInDoubt);
        }
        let as_sent = Price::parse(text, 0).map_err(|_| ChartFault::Unreadable)?;
        match scale::classify(self.pair, Some(as_sent), None) {
            Verdict::Scale(scale) => {
                self.scale = Some(scale);
                Ok(scale.points_shift())
            }
            Verdict::NoPriceYet | Verdict::Ambiguous => Err(ChartFault::ScaleInDoubt),
        }
    }

    fn candle(&mut self) -> Result<Option<CandleUpdate>, ChartFault> {
        let row = &self.row;
        let Some(start) = row.start else { return Ok(None) };
        let [Some(bo), Some(bh), Some(bl), Some(bc), Some(ao), Some(ah), Some(al), Some(ac)] = row.prices
        else {
            return Ok(None);
        };
        let bid = Ohlc { open: bo, high: bh, low: bl, close: bc };
        let ask = Ohlc { open: ao, high: ah, low: al, close: ac };
        if !bid.is_ordered() || !ask.is_ordered() {
            return Err(ChartFault::Disordered);
        }
        if self.last_close.is_some_and(|last| scale::jumped(last, bid.close)) {
            return Err(ChartFault::ScaleJumped);
        }
        self.last_close = Some(bid.close);
        Ok(Some(CandleUpdate {
            start,
            bid,
            ask,
            ticks: row.ticks.unwrap_or(0),
            closed: row.closed.unwrap_or(false),
        }))
    }
}

/// What an update says of a field: nothing, no value, or a value.
fn told<'a>(change: &'a Change<'_>) -> Option<Option<&'a str>> {
    match change {
        Change::Unchanged => None,
        Change::Null => Some(None),
        // Null and empty both mean "no value" here (protocol note on CHART fields).
        Change::Text(text) => Some(Some(text.as_ref()).filter(|text| !text.is_empty())),
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, ChartFault> {
    text.map(|text| text.parse().map_err(|_| ChartFault::Unreadable)).transpose()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    /// `|`-separated tokens: empty = unchanged, `#` = null.
    fn row(text: &str) -> Vec<Change<'_>> {
        text.split('|')
            .map(|token| match token {
                "" => Change::Unchanged,
                "#" => Change::Null,
                "$" => Change::Text(Cow::Borrowed("")),
                text => Change::Text(Cow::Borrowed(text)),
            })
            .collect()
    }

    fn item() -> ChartItem {
        ChartItem::new("GBPUSD".parse().unwrap(), Knowledge::ByPrice)
    }

    const FIRST: &str =
        "1778847900000|17|17|0|13358.8|13359.1|13357.3|13357.4|13360.3|13360.6|13358.8|13358.9";

    #[test]
    fn a_captured_row_in_points_is_read() {
        let candle = item().apply(&row(FIRST)).unwrap().unwrap();
        assert_eq!(candle.start.to_string(), "2026-05-15T12:25:00Z");
        assert_eq!(candle.bid.prices().map(|p| p.to_string()), ["1.33588", "1.33591", "1.33573", "1.33574"]);
        assert_eq!(candle.ask.close.to_string(), "1.33589");
        assert_eq!((candle.ticks, candle.closed), (17, false));
    }

    #[test]
    fn fields_not_sent_keep_their_value_across_buckets() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        let candle = item.apply(&row("|19|19|1|||13357.1|13357.2|||13358.6|13358.7")).unwrap().unwrap();
        assert_eq!((candle.ticks, candle.closed), (19, true));
        assert_eq!(candle.bid.open.to_string(), "1.33588");
        let next = item.apply(&row("1778848200000|1|1|0||||||||")).unwrap().unwrap();
        assert_eq!(next.start.since(candle.start), 300);
        assert_eq!((next.bid, next.closed), (candle.bid, false));
    }

    #[test]
    fn no_candle_without_all_eight_prices() {
        for hole in ["#", "$"] {
            let mut item = item();
            item.apply(&row(FIRST)).unwrap();
            assert_eq!(item.apply(&row(&format!("||||{hole}|||||||"))), Ok(None));
            assert_eq!(item.apply(&row("||18|1||||||||")), Ok(None), "the field stays without value");
            assert!(item.apply(&row("||||13358.8|||||||")).unwrap().unwrap().closed);
        }
    }

    #[test]
    fn a_time_that_cannot_be_read_is_no_time() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert_eq!(item.apply(&row("soon|1|1|0||||||||")), Err(ChartFault::Unreadable));
        assert_eq!(item.apply(&row("|41|41|1||||||||")), Ok(None), "the close of an unknown bucket");
    }

    fn check_fault(update: &str, expected: ChartFault) {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert_eq!(item.apply(&row(update)), Err(expected), "{update}");
    }

    #[test]
    fn rows_that_cannot_be_trusted_are_held_back() {
        check_fault("||||NaN|||||||", ChartFault::Unreadable);
        check_fault("||||-1|||||||", ChartFault::Unreadable);
        check_fault("||||99999999999999999999|||||||", ChartFault::Unreadable);
        check_fault("soon|||||||||||", ChartFault::Unreadable);
        check_fault("|||yes||||||||", ChartFault::Unreadable);
        check_fault("|||||13350|||||||".trim_end_matches('|'), ChartFault::Disordered);
        check_fault("||||1.33588|1.33591|1.33573|1.33574||||", ChartFault::ScaleJumped);
    }

    #[test]
    fn what_cannot_be_read_counts_as_null_until_a_good_value_comes() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert!(item.apply(&row("soon|||||||||||")).is_err());
        assert_eq!(item.apply(&row("||18|1||||||||")), Ok(None), "its bucket is not known");
        assert!(item.apply(&row("1778848200000||many|||||||||")).is_err());
        let candle = item.apply(&row("|||||||13357.5||||")).unwrap().unwrap();
        assert_eq!((candle.start.to_string().as_str(), candle.ticks), ("2026-05-15T12:30:00Z", 0));
    }

    #[test]
    fn a_crossed_book_is_passed_on() {
        let mut item = item();
        let crossed = "1778847900000|1|1|0|13360|13360|13360|13360|13359|13359|13359|13359";
        assert!(item.apply(&row(crossed)).unwrap().is_some());
    }

    #[test]
    fn an_unaligned_time_belongs_to_the_bucket_around_it() {
        let candle = item().apply(&row(&FIRST.replacen("900000", "913500", 1))).unwrap().unwrap();
        assert_eq!(candle.start.to_string(), "2026-05-15T12:25:00Z");
    }

    #[test]
    fn a_new_subscription_may_quote_on_another_scale() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        item.reset();
        let decimal = "1778847900000|1|1|0|1.3|1.3|1.3|1.3|1.4|1.4|1.4|1.4";
        assert_eq!(item.apply(&row(decimal)).unwrap().unwrap().bid.open.to_string(), "1.3");
    }

    #[test]
    fn a_scale_in_doubt_holds_everything_back_and_a_settled_one_is_not_questioned() {
        let pair = "XAUUSD".parse().unwrap();
        assert_eq!(
            ChartItem::new(pair, Knowledge::InDoubt).apply(&row(FIRST)),
            Err(ChartFault::ScaleInDoubt)
        );
        let gold = ChartItem::new(pair, Knowledge::Fixed(Scale::Decimal)).apply(&row(FIRST));
        assert_eq!(gold.unwrap().unwrap().bid.open.to_string(), "13358.8");
    }

    #[test]
    fn a_price_of_no_known_scale_waits() {
        let text = FIRST.replace("1335", "55").replace("1336", "55");
        assert_eq!(item().apply(&row(&text)), Err(ChartFault::ScaleInDoubt));
    }
}
