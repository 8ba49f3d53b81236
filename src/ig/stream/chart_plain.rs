//! Rows from the wire to the candle against a plain reading of the protocol and of what IG sends: whatever comes, no price
//! is another than it says, nothing good is held back, and nothing that cannot be read is let through.

use std::fmt::Write;
use std::time::Instant;

use proptest::prelude::*;

use super::chart::{ChartFault, ChartItem, FIELDS, Knowledge, SCHEMA};
use crate::domain::scale::Scale;
use crate::domain::{CandleUpdate, Ohlc, Price, Timestamp};
use crate::tlcp::{Event, Options, SubscriptionSpec, TlcpSession};

/// What an update says of a field.
#[derive(Clone, Debug)]
enum Said {
    Nothing,
    Null,
    Empty,
    /// What a candle has there, so much beside the middle, and with so many zeros behind it.
    Good(u32, usize),
    Text(String),
}

/// Said of a whole row; how unchanged fields are told, and whether texts are coded byte by byte.
#[derive(Clone, Debug)]
struct Row {
    bucket: i64,
    said: Vec<Said>,
    runs: bool,
    coded: bool,
}

impl Row {
    /// The text of a field, if it has any.
    fn text(&self, field: usize) -> Option<String> {
        match &self.said[field] {
            Said::Nothing | Said::Null | Said::Empty => None,
            Said::Text(text) => Some(text.clone()),
            Said::Good(beside, zeros) => Some(match field {
                0 => (1_778_847_900_000 + self.bucket * 300_000).to_string(),
                1 | 2 => beside.to_string(),
                3 => (beside % 2).to_string(),
                _ => {
                    // Open, high, low, close: in tenths of a point.
                    let middle = 133_588 + [0, 40, 0, 0][field % 4] + beside - [0, 0, 40, 0][field % 4];
                    format!("{}.{}{}", middle / 10, middle % 10, "0".repeat(*zeros))
                }
            }),
        }
    }

    /// As the server writes it.
    fn values(&self) -> String {
        let (mut tokens, mut unchanged) = (Vec::new(), 0);
        for (field, said) in self.said.iter().enumerate() {
            if let (Said::Nothing, true) = (said, self.runs) {
                unchanged += 1;
                continue;
            }
            if unchanged > 0 {
                tokens.push(format!("^{unchanged}"));
                unchanged = 0;
            }
            tokens.push(match said {
                Said::Nothing => String::new(),
                Said::Null => "#".to_owned(),
                Said::Empty => "$".to_owned(),
                Said::Good(..) | Said::Text(_) => self.token(&self.text(field).unwrap()),
            });
        }
        if unchanged > 0 {
            tokens.push(format!("^{unchanged}"));
        }
        tokens.join("|")
    }

    fn token(&self, text: &str) -> String {
        let mut token = String::new();
        for (at, byte) in text.bytes().enumerate() {
            let is_special = byte < b' ' || b"|%".contains(&byte) || (at == 0 && b"#$^".contains(&byte));
            if self.coded || is_special || byte > b'~' {
                write!(token, "%{byte:02X}").unwrap();
            } else {
                token.push(char::from(byte));
            }
        }
        token
    }
}

/// An item read plainly: the text of each field that has one that can be read.
#[derive(Default)]
struct Plain {
    shift: u32,
    fields: [Option<String>; FIELDS as usize],
    counts: bool,
    last_close: Option<Price>,
}

impl Plain {
    fn read(&mut self, row: &Row) -> Result<Option<CandleUpdate>, ChartFault> {
        let mut is_readable = true;
        for field in (0..row.said.len()).filter(|field| !matches!(row.said[*field], Said::Nothing)) {
            let text = row.text(field);
            self.fields[field] = text.clone().filter(|text| self.can_read(field, text));
            is_readable &= self.fields[field] == text;
        }
        // No tick is no count.
        self.fields[2].take_if(|text| text.parse() == Ok(0_u32));
        self.counts |= self.fields[2].is_some();
        if !is_readable {
            return Err(ChartFault::Unreadable);
        }
        let prices: Option<Vec<Price>> =
            (4..12).map(|field| self.price(self.fields[field].as_ref()?)).collect();
        let (Some(utm), Some(prices)) = (&self.fields[0], prices) else { return Ok(None) };
        if self.counts && self.fields[2].is_none() {
            return Ok(None);
        }
        let apart = |one: Price, two: Price| one.max(two).units() / 5 >= one.min(two).units();
        let (low, high) = (prices[2].min(prices[6]), prices[1].max(prices[5]));
        if apart(low, high) || self.last_close.is_some_and(|last| apart(last, prices[3])) {
            return Err(ChartFault::ScaleInDoubt);
        }
        let least = |side: &[Price]| side.iter().min() == Some(&side[2]);
        let most = |side: &[Price]| side.iter().max() == Some(&side[1]);
        if !prices.chunks(4).all(|side| least(side) && most(side)) {
            let ends = prices.iter().min().zip(prices.iter().max());
            let is_apart = ends.is_some_and(|(low, high)| apart(*low, *high));
            return Err(if is_apart { ChartFault::ScaleInDoubt } else { ChartFault::Disordered });
        }
        self.last_close = Some(prices[3]);
        let side = |p: &[Price]| Ohlc { open: p[0], high: p[1], low: p[2], close: p[3] };
        Ok(Some(CandleUpdate {
            start: Timestamp(utm.parse::<i64>().unwrap().div_euclid(300_000) * 300),
            bid: side(&prices[..4]),
            ask: side(&prices[4..]),
            ticks: self.fields[2].as_ref().map_or(0, |ticks| ticks.parse().unwrap()),
            closed: self.fields[3].as_deref() == Some("1"),
        }))
    }

    fn can_read(&self, field: usize, text: &str) -> bool {
        match field {
            0 => text.parse::<i64>().is_ok(),
            1 => true,
            2 => text.parse::<u32>().is_ok(),
            3 => text == "0" || text == "1",
            _ => self.price(text).is_some(),
        }
    }

    /// Digits and at most one point, divided by the scale, to the nearest of eight decimals.
    fn price(&self, text: &str) -> Option<Price> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{decimals}");
        if text.len() > 25 || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let divisor = 10_u128.pow(decimals.len() as u32 + self.shift);
        let twice = digits.parse::<u128>().unwrap() * 2 * 10_u128.pow(8);
        i64::try_from((twice + divisor) / (2 * divisor)).ok().and_then(Price::from_units)
    }
}

fn any_said() -> impl Strategy<Value = Said> {
    let words = prop_oneof![
        Just("NaN"),
        Just("1e5"),
        Just("-1"),
        Just("+1"),
        Just("#"),
        Just("$"),
        Just("^3"),
        Just("1|2"),
        Just("é"),
        Just("1335é"),
        Just("13358..8"),
        Just("13358.8 "),
        Just("0"),
        Just("00000.00"),
        Just("13358.80000000000000001"),
        Just("9223372036854775808"),
        Just("100000000000.1"),
        Just("100000000000"),
    ];
    prop_oneof![
        40 => Just(Said::Nothing),
        40 => (0..9_u32, 0..14_usize).prop_map(|(beside, zeros)| Said::Good(beside, zeros * (zeros / 9))),
        2 => Just(Said::Null),
        2 => Just(Said::Empty),
        1 => words.prop_map(|word| Said::Text(word.to_owned())),
        1 => "[0-9]{0,8}\\.?[0-9]{0,9}|[0-9.|/:-]{1,9}".prop_filter("empty is not a text", |text| !text.is_empty())
            .prop_map(Said::Text),
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let said = proptest::collection::vec(any_said(), usize::from(FIELDS));
    (0..3_i64, said, any::<bool>(), proptest::bool::weighted(0.1))
        .prop_map(|(bucket, said, runs, coded)| Row { bucket, said, runs, coded })
}

#[expect(clippy::disallowed_methods, reason = "a test brings its own time")]
fn now() -> Instant {
    Instant::now()
}

proptest! {
    #[test]
    fn every_row_is_read_as_a_plain_reader_reads_it(
        mut rows in proptest::collection::vec(any_row(), 1..20), in_points: bool,
    ) {
        // The first says something of every field.
        for said in rows[0].said.iter_mut().filter(|said| matches!(said, Said::Nothing)) {
            *said = Said::Good(4, 0);
        }
        let scale = if in_points { Scale::Points(4) } else { Scale::Decimal };
        let mut item = ChartItem::new("EURUSD".parse().unwrap(), Knowledge::Fixed(scale));
        let mut plain = Plain { shift: scale.points_shift(), ..Plain::default() };
        let now = now();
        let mut session = TlcpSession::new(Options::default(), "user".to_owned(), "password".to_owned());
        session.subscribe(SubscriptionSpec {
            group: "CHART".to_owned(),
            schema: SCHEMA.to_owned(),
            fields: FIELDS,
            snapshot: true,
            unfiltered: true,
            tag: 0,
        });
        session.handle_open(now);
        session.handle_message(now, "WSOK\r\nCONOK,S1,50000,5000,*\r\nSUBOK,1,1,12\r\n", &mut |_| {});
        while session.poll_transmit().is_some() {}
        for row in &rows {
            let mut outcomes = Vec::new();
            session.handle_message(now, &format!("U,1,1,{}\r\n", row.values()), &mut |event| match event {
                Event::Update { changes, .. } => outcomes.push(item.apply(changes).map(Option::<&_>::copied)),
                other => panic!("{other:?}"),
            });
            prop_assert_eq!(outcomes, [plain.read(row)], "{}", row.values());
        }
    }
}
