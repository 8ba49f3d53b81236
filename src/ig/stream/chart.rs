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
//! | a tick count of 0 | as null: what has prices had a tick |
//! | `NaN`, `inf`, `1e5`, words, two points, twenty digits | unreadable: held back, the field has no value |
//! | zero, negative, above ten million | as unreadable: nothing trades there |
//! | a time, count or flag that is none | as unreadable |
//! | five times the last price or more, or a fifth or less; prices so far apart within one row | the item is in doubt: every row is held back until one is plausible again, or [`ChartItem::confirm`] |
//! | a first price that fits no scale, or both | in doubt likewise |
//! | high below low; an open or close outside of them | held back: recorded bars of two brokers have none, and a bot's stops would be computed from it; a better row or REST settles the bucket |
//! | bid above ask | passed on: recorded bars have it in up to one of ten. Counted when settled |
//!
//! A row that is held back is never part of a bar, and its bucket may not be inferred.

use std::ops::Range;

use crate::domain::digits;
use crate::domain::scale::{self, Scale, Verdict};
use crate::domain::{CandleUpdate, Epic, Ohlc, Pair, Price, Timeframe, Timestamp};
use crate::tlcp::{Change, Changes, Plain};

/// The fields subscribed to, in this order: the smallest set that IG's demo is known to accept.
pub const SCHEMA: &str = "UTM LTV CONS_TICK_COUNT CONS_END BID_OPEN BID_HIGH BID_LOW BID_CLOSE \
                          OFR_OPEN OFR_HIGH OFR_LOW OFR_CLOSE";
/// Number of fields in [`SCHEMA`].
pub const FIELDS: u16 = 12;

const UTM: usize = 0;
const LTV: usize = 1;
const TICK_COUNT: usize = 2;
const CONS_END: usize = 3;
/// Open, high, low and close of the bid, then of the ask.
const PRICES: Range<usize> = 4..FIELDS as usize;
const FIRST_ASK: usize = 8;

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

/// Folded state of one item: the candle under way, and which of its fields were null or have not come yet.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Where a field has no value this holds anything, but no tick counts as none and no flag as not set.
    candle: CandleUpdate,
    /// A bit for each field that has no value.
    missing: u16,
}

impl Row {
    /// Nothing has come yet.
    const EMPTY: Row = {
        let side = Ohlc { open: Price::ONE, high: Price::ONE, low: Price::ONE, close: Price::ONE };
        let candle = CandleUpdate { start: Timestamp(0), bid: side, ask: side, ticks: 0, closed: false };
        Row { candle, missing: u16::MAX }
    };
    /// The fields without which there is no candle.
    const NEEDED: u16 = bit(UTM) | Row::ALL_PRICES;
    const ALL_PRICES: u16 = (1 << PRICES.end) - (1 << PRICES.start);

    fn lacks(&self, fields: u16) -> bool {
        self.missing & fields != 0
    }

    #[inline]
    fn price(&mut self, field: usize) -> &mut Price {
        let side = if field < FIRST_ASK { &mut self.candle.bid } else { &mut self.candle.ask };
        match field % 4 {
            0 => &mut side.open,
            1 => &mut side.high,
            2 => &mut side.low,
            _ => &mut side.close,
        }
    }
}

/// The bit of a field.
const fn bit(field: usize) -> u16 {
    1 << field
}

/// One watched item: its folded row and the scale of its prices.
#[derive(Clone, Debug)]
pub struct ChartItem {
    pair: Pair,
    known: Knowledge,
    scale: Option<Scale>,
    row: Row,
    /// The fields without which a row is not whole: that of the tick counts too once it has told one.
    needed: u16,
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
            row: Row::EMPTY,
            needed: Row::NEEDED,
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
        (self.scale, self.row) = (self.told_scale(), Row::EMPTY);
    }

    /// Forgets the folded row: a new subscription begins. The last price and its scale are not
    /// forgotten, so that a scale that changed between two subscriptions is noticed too; nor is a
    /// doubt: whether it was right shows in the rows to come.
    pub fn reset(&mut self) {
        self.row = Row::EMPTY;
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
        self.row.missing & Row::ALL_PRICES != Row::ALL_PRICES
    }

    /// The bucket that the row says it is of.
    pub fn start(&self) -> Option<Timestamp> {
        (!self.row.lacks(bit(UTM))).then_some(self.row.candle.start)
    }

    /// Whether its last row is of the bucket that begins then, and not the last of that.
    pub fn goes_on(&self, begin: Timestamp) -> bool {
        self.start() == Some(begin) && !self.row.candle.closed
    }

    /// Folds one update in. `None` while a field that a candle needs has no value.
    ///
    /// # Errors
    /// A [`ChartFault`] where the row cannot be trusted. An unreadable field counts as null from
    /// then on, until a good value comes.
    #[inline]
    pub fn apply(&mut self, changes: &Changes<'_>) -> Result<Option<&CandleUpdate>, ChartFault> {
        let fault = match (changes.plain(), self.scale) {
            (Some(plain), Some(scale)) => self.fold_plain(plain, scale.points_shift()),
            _ => self.fold(changes),
        };
        if let Some(fault) = fault {
            return Err(self.held_back(fault));
        }
        if self.row.lacks(self.needed) {
            return Ok(None);
        }
        self.check()?;
        Ok(Some(&self.row.candle))
    }

    /// Sets what an update says. Tells the last fault.
    #[cold]
    fn fold(&mut self, changes: &Changes<'_>) -> Option<ChartFault> {
        let mut fault = None;
        for Change { field, value } in changes.iter() {
            // Null and empty both mean "no value" here (protocol note on CHART fields).
            let text = value.filter(|text| !text.is_empty());
            let set = if field < PRICES.start { self.set(field, text) } else { self.set_price(field, text) };
            fault = set.err().or(fault);
        }
        fault
    }

    /// As [`ChartItem::fold`], of nothing but texts, prices on a known scale.
    #[inline]
    fn fold_plain(&mut self, plain: &Plain<'_>, points_shift: u32) -> Option<ChartFault> {
        let (mut fault, mut told) = (None, 0);
        let text = plain.text();
        let mut spans = plain.spans();
        let mut next = spans.next();
        while let Some((field, span)) = next.filter(|(field, _)| *field < PRICES.start) {
            fault = self.set_plain(field, text, span).err().or(fault);
            next = spans.next();
        }
        let Row { candle: CandleUpdate { bid, ask, .. }, missing } = &mut self.row;
        // A table of places, for no branch can foretell which price is next.
        let [bid, ask] =
            [bid, ask].map(|side| [&mut side.open, &mut side.high, &mut side.low, &mut side.close]);
        let mut places = [bid, ask];
        while let Some((field, span)) = next {
            let Some(place) = places.as_flattened_mut().get_mut(field - PRICES.start) else { break };
            if let Ok(price) = Price::parse_within(text.as_bytes(), span, points_shift) {
                **place = price;
                told |= bit(field);
            } else {
                *missing |= bit(field);
                fault = Some(ChartFault::Unreadable);
            }
            next = spans.next();
        }
        *missing &= !told;
        fault
    }

    #[inline]
    fn set_plain(
        &mut self,
        field: usize,
        text: &str,
        (start, end): (usize, usize),
    ) -> Result<(), ChartFault> {
        if field == LTV {
            return Ok(());
        }
        let Row { candle, missing } = &mut self.row;
        match (field, digits::whole_within(text.as_bytes(), start, end)) {
            (TICK_COUNT, Some(ticks)) if (1..=u64::from(u32::MAX)).contains(&ticks) => {
                candle.ticks = ticks as u32;
                *missing &= !bit(TICK_COUNT);
                self.needed |= bit(TICK_COUNT);
            }
            (CONS_END, Some(flag @ 0..=1)) if end - start == 1 => candle.closed = flag == 1,
            // Sixteen digits.
            (UTM, Some(utm_ms)) => {
                candle.start = Timeframe::M5.bucket(Timestamp::from_millis(utm_ms as i64));
                *missing &= !bit(UTM);
            }
            _ => return self.set(field, Some(&text[start..end])),
        }
        Ok(())
    }

    #[cold]
    fn held_back(&mut self, fault: ChartFault) -> ChartFault {
        if fault == ChartFault::ScaleInDoubt && self.doubt == Doubt::None {
            self.doubt = Doubt::Open;
        }
        fault
    }

    #[cold]
    fn set(&mut self, field: usize, text: Option<&str>) -> Result<(), ChartFault> {
        let row = &mut self.row;
        // Without value first: what cannot be read must not leave the old one standing.
        match field {
            UTM => {
                row.missing |= bit(UTM);
                if let Some(utm_ms) = number(text)? {
                    // UTM is the candle's start; the floor guards against one that is not aligned.
                    row.candle.start = Timeframe::M5.bucket(Timestamp::from_millis(utm_ms));
                    row.missing &= !bit(UTM);
                }
            }
            TICK_COUNT => {
                row.candle.ticks = 0;
                row.missing |= bit(TICK_COUNT);
                // A candle that has prices had a tick.
                if let Some(ticks) = number(text)?.filter(|ticks| *ticks > 0) {
                    row.candle.ticks = ticks;
                    row.missing &= !bit(TICK_COUNT);
                    self.needed |= bit(TICK_COUNT);
                }
            }
            CONS_END => {
                row.candle.closed = false;
                match text {
                    None | Some("0") => {}
                    Some("1") => row.candle.closed = true,
                    Some(_) => return Err(ChartFault::Unreadable),
                }
            }
            // LTV equals the tick count for forex; nothing reads it.
            _ => {}
        }
        Ok(())
    }

    fn set_price(&mut self, field: usize, text: Option<&str>) -> Result<(), ChartFault> {
        if !PRICES.contains(&field) {
            return Ok(());
        }
        let price = text.map(|text| self.price(text)).transpose();
        // What cannot be read must not leave the old price standing.
        match price {
            Ok(Some(price)) => {
                *self.row.price(field) = price;
                self.row.missing &= !bit(field);
            }
            Ok(None) | Err(_) => self.row.missing |= bit(field),
        }
        price.map(drop)
    }

    fn price(&mut self, text: &str) -> Result<Price, ChartFault> {
        let scale = match self.scale {
            Some(scale) => scale,
            None => self.recognise(text)?,
        };
        Price::parse(text, scale.points_shift()).map_err(|_| ChartFault::Unreadable)
    }

    /// The scale of this item's prices, recognised from the first one.
    #[cold]
    fn recognise(&mut self, first: &str) -> Result<Scale, ChartFault> {
        if self.known == Knowledge::InDoubt {
            return Err(ChartFault::ScaleInDoubt);
        }
        let as_sent = Price::parse(first, 0).map_err(|_| ChartFault::Unreadable)?;
        match scale::classify(self.pair, Some(as_sent), None) {
            Verdict::Scale(scale) => {
                self.scale = Some(scale);
                Ok(scale)
            }
            Verdict::NoPriceYet | Verdict::Ambiguous => Err(ChartFault::ScaleInDoubt),
        }
    }

    /// Whether the candle under way may be one.
    #[inline]
    fn check(&mut self) -> Result<(), ChartFault> {
        let CandleUpdate { bid, ask, .. } = &self.row.candle;
        // Where a scale changes in mid-candle, fields of both scales stand side by side.
        let (low, high) = (bid.low.min(ask.low), bid.high.max(ask.high));
        if scale::jumped(low, high) || scale::jumped(self.last_close.unwrap_or(low), bid.close) {
            return Err(self.held_back(ChartFault::ScaleInDoubt));
        }
        if !bid.is_ordered() || !ask.is_ordered() {
            return Err(self.disordered());
        }
        (self.last_close, self.doubt) = (Some(bid.close), Doubt::None);
        Ok(())
    }

    /// High and low do not enclose the rest: nonsense, or two scales in one row.
    #[cold]
    fn disordered(&mut self) -> ChartFault {
        let CandleUpdate { bid, ask, .. } = &self.row.candle;
        let prices = || [bid, ask].into_iter().flat_map(Ohlc::prices);
        let apart = prices().min().zip(prices().max()).is_some_and(|(low, high)| scale::jumped(low, high));
        self.held_back(if apart { ChartFault::ScaleInDoubt } else { ChartFault::Disordered })
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, ChartFault> {
    text.map(|text| text.parse().map_err(|_| ChartFault::Unreadable)).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tlcp::update;

    /// `|`-separated tokens: empty = unchanged, `#` = null, `$` = empty.
    fn row(text: &str) -> Changes<'_> {
        let changes = text.split('|').enumerate().filter_map(|(field, token)| match token {
            "" => None,
            "#" => Some(Change { field, value: None }),
            "$" => Some(Change { field, value: Some("") }),
            text => Some(Change { field, value: Some(text) }),
        });
        Changes::from(&*changes.collect::<Vec<_>>().leak())
    }

    fn item() -> ChartItem {
        ChartItem::new("GBPUSD".parse().unwrap(), Knowledge::ByPrice)
    }

    const FIRST: &str =
        "1778847900000|17|17|0|13358.8|13359.1|13357.3|13357.4|13360.3|13360.6|13358.8|13358.9";

    #[test]
    fn a_captured_row_in_points_is_read() {
        let candle = *item().apply(&row(FIRST)).unwrap().unwrap();
        assert_eq!(candle.start.to_string(), "2026-05-15T12:25:00Z");
        assert_eq!(candle.bid.prices().map(|p| p.to_string()), ["1.33588", "1.33591", "1.33573", "1.33574"]);
        assert_eq!(candle.ask.close.to_string(), "1.33589");
        assert_eq!((candle.ticks, candle.closed), (17, false));
    }

    proptest! {
        /// Rows of nothing but plain texts have a way of their own.
        #[test]
        fn plain_rows_are_read_as_all_others_are(rows in proptest::collection::vec(plain_row(), 1..12)) {
            let (mut plain, mut listed) = (item(), item());
            for text in [FIRST.to_owned()].into_iter().chain(rows) {
                let Some(changes) = update::plain(&text, FIELDS) else { continue };
                prop_assert!(changes.plain().is_some());
                let read = plain.apply(&changes).map(Option::<&CandleUpdate>::copied);
                prop_assert_eq!(read, listed.apply(&row(&text)).map(Option::<&CandleUpdate>::copied), "{}", text);
            }
        }
    }

    fn plain_row() -> impl Strategy<Value = String> {
        let start = "|||177884(79|82)00000|[0-9]{1,18}|-1";
        let count = "||[0-9]{1,3}|[0-9]{1,12}|[0-9./-]{1,4}";
        let end = "|||[01]|[0-9]{1,3}";
        let price = "||1335[0-9]([.][0-9])?|1335[0-9][.][0-9]|[0-9./-]{1,10}";
        let prices = proptest::collection::vec(price, 8).prop_map(|prices| prices.join("|"));
        (start, count, count, end, prices)
            .prop_map(|(start, volume, ticks, end, prices)| [start, volume, ticks, end, prices].join("|"))
    }

    #[test]
    fn fields_not_sent_keep_their_value_across_buckets() {
        let mut item = item();
        item.apply(&row(FIRST)).unwrap();
        let candle = *item.apply(&row("|19|19|1|||13357.1|13357.2|||13358.6|13358.7")).unwrap().unwrap();
        assert_eq!((candle.ticks, candle.closed), (19, true));
        assert_eq!(candle.bid.open.to_string(), "1.33588");
        let next = *item.apply(&row("1778848200000|1|1|0||||||||")).unwrap().unwrap();
        assert_eq!(next.start.since(candle.start), 300);
        assert_eq!((next.bid, next.closed), (candle.bid, false));
    }

    #[test]
    fn no_candle_without_the_tick_count_of_an_item_that_counts() {
        let mut counts = item();
        assert!(counts.apply(&row(FIRST)).unwrap().is_some());
        assert_eq!(counts.apply(&row("||#|1||||||||")).unwrap(), None);
        assert_eq!(counts.apply(&row("||18|||||||||")).unwrap().unwrap().ticks, 18);
        assert_eq!(counts.apply(&row("||0|1||||||||")).unwrap(), None);
        for none in ["#", "0"] {
            let mut never = item();
            let uncounted = FIRST.replacen("|17|17|", &format!("|{none}|{none}|"), 1);
            assert_eq!(never.apply(&row(&uncounted)).unwrap().unwrap().ticks, 0);
        }
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
    fn a_flag_that_cannot_be_read_is_not_set() {
        let mut item = item();
        item.apply(&row(&FIRST.replacen("|0|", "|1|", 1))).unwrap();
        assert!(item.apply(&row("||18|||||||||")).unwrap().unwrap().closed);
        assert_eq!(item.apply(&row("|||yes||||||||")), Err(ChartFault::Unreadable));
        assert!(!item.apply(&row("||19|||||||||")).unwrap().unwrap().closed);
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
        let candle = *item.apply(&row("||3|||||||||")).unwrap().unwrap();
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
        let candle = *item().apply(&row(&FIRST.replacen("900000", "913500", 1))).unwrap().unwrap();
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
        let mut gold = ChartItem::new(pair, Knowledge::Fixed(Scale::Decimal));
        assert_eq!(gold.apply(&row(FIRST)).unwrap().unwrap().bid.open.to_string(), "13358.8");
    }

    #[test]
    fn a_price_of_no_known_scale_waits() {
        let text = FIRST.replace("1335", "55").replace("1336", "55");
        assert_eq!(item().apply(&row(&text)), Err(ChartFault::ScaleInDoubt));
    }
}
