//! Fields of a `CHART:{epic}:5MINUTE` item into candle updates. Pure.
//!
//! MERGE mode sends changed fields only, so the folded row lives across buckets: a field that is
//! equal in two candles is not sent again (IG streaming reference, CHART item). `UTM` says which
//! bucket a row belongs to.
//!
//! What becomes of what a row can hold:
//!
//! | in the row | outcome |
//! |---|---|
//! | prices in points | divided exactly by the scale's power of ten |
//! | null or empty field | no value; the item tells no candle until it has one again |
//! | `NaN`, `inf`, an exponent, a sign, any other text | [`ChartFault::Unreadable`]; then as null |
//! | zero, negative, above ten million, twenty digits | the same: no pair trades there |
//! | more than eight decimals | rounded half up at the eighth: the sender's binary arithmetic |
//! | high below low, open or close outside of them | [`ChartFault::Disordered`]: held back; REST has the last word |
//! | bid above ask | told on: such bars occur in brokers' records. They are stored and counted |
//! | a first price that fits no scale | [`ChartFault::ScaleInDoubt`]: held back |
//! | a price 50 times or more from the last, or from another of the row | [`ChartFault::ScaleJumped`] once, then [`ChartFault::ScaleInDoubt`]: held back until prices fit again, or until [`ChartItem::confirm_scale`] |
//!
//! What is held back leaves its bucket to REST, with a reason in the ledger.

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
    /// The price fits neither a decimal nor a points quote, or still lies on the wrong side of a
    /// jump.
    #[error("price scale in doubt")]
    ScaleInDoubt,
    /// The price is about 100 or 10,000 times the last one, or the reverse. Told once a jump.
    #[error("price scale jumped")]
    ScaleJumped,
}

impl ChartFault {
    /// Whether the row was held back on account of its scale.
    pub fn is_of_scale(self) -> bool {
        matches!(self, ChartFault::ScaleInDoubt | ChartFault::ScaleJumped)
    }
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
    /// A jump was told and prices do not fit again yet.
    jumped: bool,
}

/// Where the scale of an item's prices comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The operator settled it.
    Fixed(Scale),
    /// Its first price tells. What it told stands until REST confirms another.
    ByPrice,
    /// What IG says of it contradicts its price: everything is held back.
    InDoubt,
}

impl ChartItem {
    /// An item that has not told anything yet.
    pub fn new(pair: Pair, known: Knowledge) -> ChartItem {
        let scale = match known {
            Knowledge::Fixed(scale) => Some(scale),
            Knowledge::ByPrice | Knowledge::InDoubt => None,
        };
        ChartItem { pair, known, scale, row: Row::default(), last_close: None, jumped: false }
    }

    /// Forgets the folded row: a new subscription begins. The scale and the last price stay, so
    /// that a jump between two subscriptions is one too.
    pub fn reset(&mut self) {
        self.row = Row::default();
    }

    /// REST has told the scale of this item's quotes. True if that is news: prices are read on it
    /// from here on, and the item should be subscribed again, since what is folded was read on the
    /// old one. What the operator has settled stays.
    pub fn confirm_scale(&mut self, scale: Scale) -> bool {
        if matches!(self.known, Knowledge::Fixed(_)) || self.scale == Some(scale) {
            return false;
        }
        (self.known, self.scale) = (Knowledge::ByPrice, Some(scale));
        (self.row, self.last_close, self.jumped) = (Row::default(), None, false);
        true
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
            // A row may hold prices of both scales: fields that did not change are not sent again.
            let (low, high) = (row.prices.iter().flatten().min(), row.prices.iter().flatten().max());
            let mixed = low.zip(high).is_some_and(|(low, high)| scale::jumped(*low, *high));
            return Err(if mixed { self.hold() } else { ChartFault::Disordered });
        }
        let within = scale::jumped(bid.low.min(ask.low), bid.high.max(ask.high));
        let fits = match self.last_close {
            Some(last) => !scale::jumped(last, bid.close),
            None => matches!(self.known, Knowledge::Fixed(_)) || scale::is_plausible(self.pair, bid.close),
        };
        if within || !fits {
            return Err(self.hold());
        }
        (self.last_close, self.jumped) = (Some(bid.close), false);
        Ok(Some(CandleUpdate {
            start,
            bid,
            ask,
            ticks: row.ticks.unwrap_or(0),
            closed: row.closed.unwrap_or(false),
        }))
    }

    /// A row whose prices do not fit the scale.
    fn hold(&mut self) -> ChartFault {
        if std::mem::replace(&mut self.jumped, true) {
            ChartFault::ScaleInDoubt
        } else {
            ChartFault::ScaleJumped
        }
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
    use crate::domain::Bar;

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
        for price in [
            "NaN",
            "nan",
            "inf",
            "-inf",
            "Infinity",
            "1.33588e4",
            "1E4",
            "-1",
            "-13358.8",
            "+13358.8",
            "0",
            "0.0",
            "-0",
            "1000000000000",
            "99999999999999999999",
            "13,358.8",
            " 13358.8",
            "0x34",
            ".",
            "-",
        ] {
            check_fault(&format!("||||{price}|||||||"), ChartFault::Unreadable);
        }
        check_fault("soon|||||||||||", ChartFault::Unreadable);
        check_fault("|||yes||||||||", ChartFault::Unreadable);
        for disordered in [
            "|||||13350||||||",      // bid high below the rest
            "||||||13358||||||",     // bid low above the close
            "|||||13357|13359|||||", // bid high below low
            "||||13359.2|||||||",    // open above high
            "|||||||13357.2||||",    // close below low
            "|||||||||13350||",      // ask high below the rest
            "||||||||||13359|",      // ask low above the close
        ] {
            check_fault(disordered, ChartFault::Disordered);
        }
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
        let candle = item.apply(&row(crossed)).unwrap().unwrap();
        assert!(Bar::from_candle("GBPUSD".parse().unwrap(), &candle).is_crossed());
    }

    #[test]
    fn an_unaligned_time_belongs_to_the_bucket_around_it() {
        let candle = item().apply(&row(&FIRST.replacen("900000", "913500", 1))).unwrap().unwrap();
        assert_eq!(candle.start.to_string(), "2026-05-15T12:25:00Z");
    }

    const DECIMAL: &str = "1778847900000|1|1|0|1.3|1.3|1.3|1.3|1.4|1.4|1.4|1.4";

    #[test]
    fn a_jump_of_scale_is_told_once_and_held_back_until_prices_fit_again() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleJumped));
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleInDoubt));
        assert!(item.apply(&row(FIRST)).unwrap().is_some(), "plausible again");
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleJumped), "the next jump");
    }

    #[test]
    fn a_new_subscription_on_another_scale_is_a_jump_too() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        item.reset();
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleJumped));
    }

    #[test]
    fn a_scale_that_rest_confirms_is_gone_by_from_the_next_whole_row() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert!(!item.confirm_scale(Scale::Points(4)), "no news");
        item.apply(&row(DECIMAL)).unwrap_err();
        assert!(item.confirm_scale(Scale::Decimal));
        assert_eq!(item.apply(&row("|2|2|0||||1.31||||")), Ok(None), "what was folded is forgotten");
        assert_eq!(item.apply(&row(DECIMAL)).unwrap().unwrap().bid.open.to_string(), "1.3");
        assert_eq!(item.apply(&row(FIRST)), Err(ChartFault::ScaleJumped));
    }

    #[test]
    fn a_confirmed_scale_is_believed_only_if_prices_fit_it() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert!(item.confirm_scale(Scale::Decimal));
        assert_eq!(item.apply(&row(FIRST)), Err(ChartFault::ScaleJumped), "still quoted in points");
        assert!(item.confirm_scale(Scale::Points(4)));
        assert!(item.apply(&row(FIRST)).unwrap().is_some());
    }

    #[test]
    fn the_operators_scale_is_not_overruled() {
        let mut item = ChartItem::new("GBPUSD".parse().unwrap(), Knowledge::Fixed(Scale::Points(4)));
        item.apply(&row(FIRST)).unwrap();
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleJumped));
        assert!(!item.confirm_scale(Scale::Decimal));
        assert_eq!(item.apply(&row(DECIMAL)), Err(ChartFault::ScaleInDoubt));
    }

    #[test]
    fn a_row_with_prices_of_two_scales_is_held_back() {
        // As where only the fields that changed are sent on the new scale.
        check_fault("||||||1.33570|1.33572||||", ChartFault::ScaleJumped);
        check_fault("||||||||1.33603|1.33606|1.33588|1.33589", ChartFault::ScaleJumped);
    }

    #[test]
    fn a_scale_in_doubt_from_the_start_can_be_confirmed() {
        let mut item = ChartItem::new("GBPUSD".parse().unwrap(), Knowledge::InDoubt);
        assert_eq!(item.apply(&row(FIRST)), Err(ChartFault::ScaleInDoubt));
        assert!(item.confirm_scale(Scale::Points(4)));
        assert!(item.apply(&row(FIRST)).unwrap().is_some());
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
