//! Fields of a `CHART:{epic}:5MINUTE` item into candle updates. Pure.
//!
//! MERGE mode sends changed fields only, so the folded row lives across buckets: a field that is
//! equal in two candles is not sent again (IG streaming reference, CHART item). `UTM` says which
//! bucket a row belongs to.
//!
//! What becomes of values that a candle should not have:
//!
//! | told | outcome |
//! |---|---|
//! | a price in points | divided exactly, by the scale that the item's first price shows |
//! | null (`#`) or empty (`$`) | the field has no value: no candle until it has one again; a tick count only where the item never had one |
//! | `NaN`, `inf`, `1e5`, words, two points, twenty digits | unreadable: held back, the field has no value |
//! | zero, negative, above ten million | as unreadable: nothing trades there |
//! | a time, count or flag that is none | as unreadable |
//! | five times the last price or more, or a fifth or less; prices so far apart within one row | the item is in doubt: every row is held back until one is plausible again, or [`ChartItem::confirm`] |
//! | a first price that fits no scale, or both | in doubt likewise |
//! | high below low; an open or close outside of them | held back: recorded bars of two brokers have none, and a bot's stops would be computed from it; a better row or REST settles the bucket |
//! | bid above ask | passed on: recorded bars have it in up to one of ten. Counted when settled |
//!
//! A row that is held back is never part of a bar, and its bucket may not be inferred.

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
    /// The prices may be on another scale than the one they are read by: the item is in doubt
    /// from here on until a candle comes.
    #[error("price scale in doubt")]
    ScaleInDoubt,
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
    /// It has told tick counts, so a row without one is not whole.
    counts: bool,
    /// What the next price must be near to.
    last_close: Option<Price>,
    doubt: Doubt,
}

/// Whether the scale is in doubt, so that rows are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    /// Only a price near the last one is good.
    Open,
    /// Only a price near the one that REST told is good, on whichever scale.
    Confirmed,
}

/// Where the scale of an item's prices comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The operator settled it.
    Fixed(Scale),
    /// Its first price tells. A scale has been seen to change: a later one is confirmed over REST.
    ByPrice,
    /// What IG says of it contradicts its price: everything is held back.
    InDoubt,
}

impl ChartItem {
    /// An item that has not told anything yet.
    pub fn new(pair: Pair, known: Knowledge) -> ChartItem {
        let mut item = ChartItem {
            pair,
            known,
            scale: None,
            row: Row::default(),
            counts: false,
            last_close: None,
            doubt: Doubt::None,
        };
        item.reset();
        item
    }

    /// Whether the scale is in doubt, so that rows are held back.
    pub fn in_doubt(&self) -> bool {
        self.doubt != Doubt::None
    }

    /// REST says that the pair trades at `bid`: rows near that are good again, on whichever scale
    /// they show, unless the operator settled one. What was folded was read by the old scale and
    /// is forgotten, so subscribe anew.
    pub fn confirm(&mut self, bid: Price) {
        if self.known == Knowledge::InDoubt {
            self.known = Knowledge::ByPrice;
        }
        (self.doubt, self.last_close) = (Doubt::Confirmed, Some(bid));
        (self.scale, self.row) = (self.told_scale(), Row::default());
    }

    /// Forgets the folded row: a new subscription begins. The last price and its scale are not
    /// forgotten, so that a scale that changed between two subscriptions is noticed too; nor is a
    /// doubt: whether it was right shows in the rows to come.
    pub fn reset(&mut self) {
        self.row = Row::default();
        if self.doubt == Doubt::Confirmed || self.last_close.is_none() {
            self.scale = self.told_scale();
        }
    }

    fn told_scale(&self) -> Option<Scale> {
        match self.known {
            Knowledge::Fixed(scale) => Some(scale),
            Knowledge::ByPrice | Knowledge::InDoubt => None,
        }
    }

    /// Whether the row has any price.
    pub fn has_price(&self) -> bool {
        self.row.prices.iter().any(Option::is_some)
    }

    /// The bucket that the row says it is of.
    pub fn start(&self) -> Option<Timestamp> {
        self.row.start
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
            Some(ChartFault::ScaleInDoubt) => self.doubt(),
            Some(fault) => Err(fault),
            None => self.candle(),
        }
    }

    #[cold]
    fn doubt(&mut self) -> Result<Option<CandleUpdate>, ChartFault> {
        if self.doubt == Doubt::None {
            self.doubt = Doubt::Open;
        }
        Err(ChartFault::ScaleInDoubt)
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
                self.counts |= row.ticks.is_some();
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
        if self.counts && row.ticks.is_none() {
            return Ok(None);
        }
        let [Some(bo), Some(bh), Some(bl), Some(bc), Some(ao), Some(ah), Some(al), Some(ac)] = row.prices
        else {
            return Ok(None);
        };
        let bid = Ohlc { open: bo, high: bh, low: bl, close: bc };
        let ask = Ohlc { open: ao, high: ah, low: al, close: ac };
        // Where a scale changes in mid-candle, fields of both scales stand side by side.
        let (low, high) = (bid.low.min(ask.low), bid.high.max(ask.high));
        if scale::jumped(low, high) || scale::jumped(self.last_close.unwrap_or(low), bid.close) {
            return self.doubt();
        }
        if !bid.is_ordered() || !ask.is_ordered() {
            return self.disordered(&[bid, ask]);
        }
        (self.last_close, self.doubt) = (Some(bid.close), Doubt::None);
        Ok(Some(CandleUpdate {
            start,
            bid,
            ask,
            ticks: row.ticks.unwrap_or(0),
            closed: row.closed.unwrap_or(false),
        }))
    }

    /// High and low do not enclose the rest: nonsense, or two scales in one row.
    #[cold]
    fn disordered(&mut self, sides: &[Ohlc; 2]) -> Result<Option<CandleUpdate>, ChartFault> {
        let prices = || sides.iter().flat_map(Ohlc::prices);
        let apart = prices().min().zip(prices().max()).is_some_and(|(low, high)| scale::jumped(low, high));
        if apart { self.doubt() } else { Err(ChartFault::Disordered) }
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
    fn no_candle_without_the_tick_count_of_an_item_that_counts() {
        let mut counts = item();
        assert!(counts.apply(&row(FIRST)).unwrap().is_some());
        assert_eq!(counts.apply(&row("||#|1||||||||")).unwrap(), None);
        assert_eq!(counts.apply(&row("||18|||||||||")).unwrap().unwrap().ticks, 18);
        let mut never = item();
        let uncounted = FIRST.replacen("|17|17|", "|#|#|", 1);
        assert_eq!(never.apply(&row(&uncounted)).unwrap().unwrap().ticks, 0);
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

    /// What became of an update after [`FIRST`]: the bid's close, `none`, or the fault.
    fn outcome(item: &mut ChartItem, update: &str) -> String {
        match item.apply(&row(update)) {
            Ok(Some(candle)) => candle.bid.close.to_string(),
            Ok(None) => "none".to_owned(),
            Err(fault) => fault.to_string(),
        }
    }

    fn check(update: &str, expected: &str) {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert_eq!(outcome(&mut item, update), expected, "{update}");
    }

    /// Updates one after the other, from the first one on.
    fn check_all(updates: &[(&str, &str)]) {
        let mut item = item();
        for (update, expected) in updates {
            assert_eq!(outcome(&mut item, update), *expected, "{update}");
        }
    }

    const UNREADABLE: &str = "unreadable field";
    const DISORDERED: &str = "high and low do not enclose open and close";
    const IN_DOUBT: &str = "price scale in doubt";

    #[test]
    fn what_is_no_price_time_or_count_is_held_back() {
        for text in ["NaN", "inf", "-inf", "1e5", "1E-3", "13.35.8", "13,358.8", "0x3", " 13358", "-", "."] {
            check(&format!("|||||||{text}||||"), UNREADABLE);
        }
        for text in
            ["0", "0.0", "-1", "-13358.8", "99999999999999999999", "123456789012345678901", "1000000000000"]
        {
            check(&format!("|||||||{text}||||"), UNREADABLE);
        }
        for update in [
            "soon|||||||||||",
            "1.5|||||||||||",
            "||-1|||||||||",
            "||1.5|||||||||",
            "|||yes||||||||",
            "|||2||||||||",
        ] {
            check(update, UNREADABLE);
        }
    }

    #[test]
    fn a_field_without_value_makes_no_candle() {
        for hole in ["#", "$"] {
            for field in 4..12 {
                let mut fields = [""; 12];
                fields[field] = hole;
                check(&fields.join("|"), "none");
            }
            check(&format!("{hole}|||||||||||"), "none");
            check(&format!("||{hole}|||||||||"), "none");
            check(&format!("|{hole}||{hole}||||||||"), "1.33574");
        }
    }

    #[test]
    fn a_high_and_low_that_do_not_enclose_open_and_close_are_held_back() {
        check("|||||13357.0|||||||".trim_end_matches('|'), DISORDERED);
        check("||||||13360|||||", DISORDERED);
        check("|||||||13357.2||||", DISORDERED);
        check("|||||||13359.2||||", DISORDERED);
        check("||||13360|||||||", DISORDERED);
        check("|||||||||13357||", DISORDERED);
        check("|||||13357.3|13359.1|||||", DISORDERED);
        check("|||||13359.2||13359.2||||", "1.33592");
    }

    #[test]
    fn an_absurd_price_holds_rows_back_until_one_is_plausible_again() {
        for absurd in ["66790", "2671", "1.3", "133574000"] {
            check_all(&[
                (FIRST, "1.33574"),
                (&format!("|||||||{absurd}||||"), IN_DOUBT),
                ("||18|||||||||", IN_DOUBT),
                ("|||||||13357.6||||", "1.33576"),
            ]);
        }
        // It stays in the high as long as IG says that it was there.
        check_all(&[
            (FIRST, "1.33574"),
            ("|||||66790||66790||||", IN_DOUBT),
            ("|||||||13357.5||||", IN_DOUBT),
            ("1778848200000|1|1|0|13357|13357|13357|13357|13358|13358|13358|13358", "1.3357"),
        ]);
    }

    const DECIMAL: &str = "1778848200000|1|1|0|1.3350|1.3350|1.3350|1.3350|1.3352|1.3352|1.3352|1.3352";
    const POINTS: &str = "1778848200000|1|1|0|13350|13350|13350|13350|13352|13352|13352|13352";

    #[test]
    fn a_jump_of_scale_is_held_back_whatever_part_of_the_row_tells_it() {
        check("||||1.33588|1.33591|1.33573|1.33574||||", IN_DOUBT);
        check("||||||||1.33588|1.33591|1.33573|1.33574", IN_DOUBT);
        for field in 4..12 {
            let mut fields = [""; 12];
            fields[field] = "1.33574";
            check(&fields.join("|"), IN_DOUBT);
        }
        check_all(&[(DECIMAL, "1.335"), (POINTS, IN_DOUBT), (POINTS, IN_DOUBT), (DECIMAL, "1.335")]);
        check_all(&[(POINTS, "1.335"), (DECIMAL, IN_DOUBT), (DECIMAL, IN_DOUBT), (POINTS, "1.335")]);
    }

    #[test]
    fn a_new_scale_is_read_once_the_price_is_confirmed() {
        let price = |text| Price::parse(text, 0).unwrap();
        for (first, then) in [(POINTS, DECIMAL), (DECIMAL, POINTS)] {
            let mut item = item();
            assert_eq!(outcome(&mut item, first), "1.335");
            assert_eq!(outcome(&mut item, then), IN_DOUBT);
            // A new subscription alone settles nothing.
            item.reset();
            assert_eq!(outcome(&mut item, then), IN_DOUBT);
            item.confirm(price("1.34"));
            assert!(item.in_doubt(), "until a row is good");
            item.reset();
            assert_eq!(outcome(&mut item, "|||||||13350||||"), "none", "what was folded is forgotten");
            item.reset();
            assert_eq!(outcome(&mut item, then), "1.335");
            assert!(!item.in_doubt());
        }
    }

    #[test]
    fn a_price_that_contradicts_what_was_confirmed_stays_held_back() {
        let mut item = item();
        assert_eq!(outcome(&mut item, POINTS), "1.335");
        assert_eq!(outcome(&mut item, DECIMAL), IN_DOUBT);
        item.confirm(Price::parse("13.4", 0).unwrap());
        item.reset();
        assert_eq!(outcome(&mut item, DECIMAL), IN_DOUBT);
    }

    #[test]
    fn a_scale_that_the_operator_settled_is_not_changed_by_a_confirmation() {
        let pair = "GBPUSD".parse().unwrap();
        let mut item = ChartItem::new(pair, Knowledge::Fixed(Scale::Points(4)));
        assert_eq!(outcome(&mut item, POINTS), "1.335");
        assert_eq!(outcome(&mut item, DECIMAL), IN_DOUBT);
        item.confirm(Price::parse("1.335", 0).unwrap());
        item.reset();
        assert_eq!(outcome(&mut item, DECIMAL), IN_DOUBT);
        assert_eq!(outcome(&mut item, POINTS), "1.335");
    }

    #[test]
    fn a_contradiction_at_the_start_is_over_when_the_price_is_confirmed() {
        let mut item = ChartItem::new("GBPUSD".parse().unwrap(), Knowledge::InDoubt);
        assert_eq!(outcome(&mut item, POINTS), IN_DOUBT);
        item.confirm(Price::parse("1.335", 0).unwrap());
        item.reset();
        assert_eq!(outcome(&mut item, POINTS), "1.335");
    }

    #[test]
    fn what_cannot_be_read_counts_as_null_until_a_good_value_comes() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        assert!(item.apply(&row("soon|||||||||||")).is_err());
        assert_eq!(item.apply(&row("||18|1||||||||")), Ok(None), "its bucket is not known");
        assert!(item.apply(&row("1778848200000||many|||||||||")).is_err());
        assert_eq!(item.apply(&row("|||||||13357.5||||")), Ok(None), "its ticks are not known");
        let candle = item.apply(&row("||3|||||||||")).unwrap().unwrap();
        assert_eq!((candle.start.to_string().as_str(), candle.ticks), ("2026-05-15T12:30:00Z", 3));
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
    fn a_new_subscription_on_another_scale_is_a_jump_until_rest_confirms_it() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        item.reset();
        let decimal = "1778847900000|1|1|0|1.3|1.3|1.3|1.3|1.4|1.4|1.4|1.4";
        assert_eq!(item.apply(&row(decimal)), Err(ChartFault::ScaleInDoubt));
        item.confirm(Price::parse("1.3", 0).unwrap());
        item.reset();
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
