//! The server's half of TLCP: requests read, lines written.
//!
//! Shares nothing with the client's room on purpose, so that one misreading of the protocol
//! cannot cancel another. Pure. Hot is [`write_row`] alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// A protocol version such as 2.4.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlcpVersion {
    /// First number.
    pub major: u8,
    /// Second number.
    pub minor: u8,
    /// Third number.
    pub patch: u8,
}

/// A text that is no protocol version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protocol version: \"{0}\" (write 2.4.0)")]
pub struct NotAVersion(String);

impl std::str::FromStr for TlcpVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotAVersion(text.chars().take(20).collect());
        let mut numbers = text.split('.').map(|part| part.parse::<u8>());
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(refuse);
        let version = TlcpVersion { major: next()?, minor: next()?, patch: next()? };
        if numbers.next().is_some() { Err(refuse()) } else { Ok(version) }
    }
}

impl std::fmt::Display for TlcpVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version that a WebSocket subprotocol such as `TLCP-2.4.0.lightstreamer.com` names.
pub(crate) fn version_of_subprotocol(name: &str) -> Option<TlcpVersion> {
    version_of_protocol(name.strip_suffix(".lightstreamer.com")?)
}

/// The version that a name such as `TLCP-2.4.0` gives.
pub(crate) fn version_of_protocol(name: &str) -> Option<TlcpVersion> {
    name.strip_prefix("TLCP-")?.parse().ok()
}

/// Codes of `CONERR`, `REQERR`, `ERROR` and `END` that the simulator sends of its own accord.
pub(crate) mod code {
    pub const CREDENTIALS: i32 = 1;
    pub const RECOVERY_IMPOSSIBLE: i32 = 4;
    pub const SUBSCRIPTION_UNKNOWN: i32 = 19;
    pub const SESSION_UNKNOWN: i32 = 20;
    pub const BAD_GROUP: i32 = 21;
    pub const BAD_SCHEMA: i32 = 23;
    pub const BAD_MODE: i32 = 24;
    pub const BAD_DATA_ADAPTER: i32 = 17;
    pub const RECONF_UNFILTERED: i32 = 13;
    pub const UNFILTERED_REFUSED: i32 = 26;
    pub const DESTROYED: i32 = 31;
    pub const REBOUND: i32 = 40;
    pub const BAD_VALUE: i32 = 65;
    pub const MALFORMED: i32 = 67;
    pub const ALREADY_STREAMING: i32 = 69;
    pub const CLIENT_NOT_SUPPORTED: i32 = 71;
    /// From IG's own metadata adapter.
    pub const ADAPTER: i32 = -1;
}

/// One message of a client: a request's name and its parameter lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub name: &'a str,
    pub lines: Vec<&'a str>,
}

impl<'a> Message<'a> {
    /// Cuts a WebSocket message into its lines. The line end after the last one may be missing.
    pub fn parse(text: &'a str) -> Message<'a> {
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let name = lines.next().unwrap_or_default();
        Message { name, lines: lines.filter(|line| !line.is_empty()).collect() }
    }

    /// A request whose name stands in an address and whose lines are the body.
    pub fn of_body(name: &'a str, body: &'a str) -> Message<'a> {
        let lines = body.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        Message { name, lines: lines.filter(|line| !line.is_empty()).collect() }
    }
}

/// The parameters of one line, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

/// Why a parameter line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLine {
    #[error("Malformed parameter")]
    NotAPair,
    #[error("Bad percent-encoding")]
    Encoding,
    #[error("Parameter {0} given twice")]
    Twice(String),
    #[error("One parameter line expected")]
    NotOne,
}

impl Params {
    /// Reads `name=value&name=value`.
    pub fn parse(line: &str) -> Result<Params, BadLine> {
        let mut params: Vec<(String, String)> = Vec::new();
        for part in line.split('&') {
            let (name, value) = part.split_once('=').ok_or(BadLine::NotAPair)?;
            if name.is_empty() || value.contains('=') {
                return Err(BadLine::NotAPair);
            }
            if params.iter().any(|(known, _)| known == name) {
                return Err(BadLine::Twice(name.chars().take(40).collect()));
            }
            params.push((name.to_owned(), decode(value)?));
        }
        Ok(Params(params))
    }

    /// Reads the one parameter line of a message.
    pub fn of(message: &Message<'_>) -> Result<Params, BadLine> {
        match message.lines[..] {
            [line] => Params::parse(line),
            _ => Err(BadLine::NotOne),
        }
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there and says `false`.
    pub fn is_false(&self, name: &str) -> bool {
        self.get(name) == Some("false")
    }

    /// Whether a parameter is there and says `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }
}

/// Percent-decodes strictly: a percent sign without two hex digits is an error.
fn decode(value: &str) -> Result<String, BadLine> {
    let bytes = value.as_bytes();
    let mut places = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let is_escape = |place: usize| {
        bytes.get(place + 1..place + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !places.all(|(place, _)| is_escape(place)) {
        return Err(BadLine::Encoding);
    }
    match percent_decode_str(value).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(BadLine::Encoding),
    }
}

/// Lines that count for a recovery.
const DATA_TAGS: [&[u8]; 10] =
    [b"U", b"SUBOK", b"SUBCMD", b"UNSUB", b"EOS", b"CS", b"OV", b"CONF", b"MSGDONE", b"MSGFAIL"];

/// Whether a line counts for a recovery.
pub(crate) fn is_data(line: &[u8]) -> bool {
    let end = line.iter().position(|byte| b",\r\n".contains(byte)).unwrap_or(line.len());
    DATA_TAGS.contains(&&line[..end])
}

/// Appends one line. Texts that may hold anything go through [`plain`] first.
pub(crate) fn write_line(out: &mut Vec<u8>, line: std::fmt::Arguments<'_>) {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    Bytes(out).write_fmt(line).expect("a vector takes any text");
    out.extend_from_slice(b"\r\n");
}

/// Percent-encodes what must not appear raw in a text argument.
pub(crate) fn plain(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' => encoded.push_str("%0D"),
            '\n' => encoded.push_str("%0A"),
            '%' => encoded.push_str("%25"),
            other => encoded.push(other),
        }
    }
    encoded
}

/// A field of IG's CHART candle items, in the order in which rows hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum Field {
    /// The candle's start, milliseconds since 1970.
    Utm,
    /// 1 in the closing row.
    ConsEnd,
    /// Ticks of the candle so far; also `LTV`.
    #[serde(rename = "CONS_TICK_COUNT")]
    TickCount,
    /// First bid.
    BidOpen,
    /// Highest bid.
    BidHigh,
    /// Lowest bid.
    BidLow,
    /// Last bid.
    BidClose,
    /// First ask.
    OfrOpen,
    /// Highest ask.
    OfrHigh,
    /// Lowest ask.
    OfrLow,
    /// Last ask.
    OfrClose,
    /// Any field that forex never fills here: traded prices, incremental volume, day statistics.
    #[serde(skip)]
    Null,
}

/// Number of places of a [`Row`].
pub(crate) const FIELDS: usize = Field::Null as usize;

/// One state of a candle: raw numbers by [`Field`]; prices in points.
pub(crate) type Row = [i64; FIELDS];

impl Field {
    /// The field that IG calls so.
    pub(crate) fn named(name: &str) -> Option<Field> {
        Some(match name {
            "UTM" => Field::Utm,
            "CONS_END" => Field::ConsEnd,
            // For forex the last traded volume equals the tick count (ig.md 7.4).
            "CONS_TICK_COUNT" | "LTV" => Field::TickCount,
            "BID_OPEN" => Field::BidOpen,
            "BID_HIGH" => Field::BidHigh,
            "BID_LOW" => Field::BidLow,
            "BID_CLOSE" => Field::BidClose,
            "OFR_OPEN" => Field::OfrOpen,
            "OFR_HIGH" => Field::OfrHigh,
            "OFR_LOW" => Field::OfrLow,
            "OFR_CLOSE" => Field::OfrClose,
            "TTV" | "LTP_OPEN" | "LTP_HIGH" | "LTP_LOW" | "LTP_CLOSE" | "DAY_OPEN_MID"
            | "DAY_NET_CHG_MID" | "DAY_PERC_CHG_MID" | "DAY_HIGH" | "DAY_LOW" => Field::Null,
            _ => return None,
        })
    }

    fn is_price(self) -> bool {
        self as u8 >= Field::BidOpen as u8
    }
}

/// What an item's subscriber has been told so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct ItemState {
    told: Option<Row>,
}

/// Appends the update line that brings a subscriber from what it was told to `row`: the whole
/// row first, later changed fields only. Returns whether there was anything to tell.
///
/// `prefix` is `U,<subscription>,<item>,`. `decimals` is how many of a price's digits stand behind
/// the point in this item's quotes.
pub(crate) fn write_row(
    out: &mut Vec<u8>,
    prefix: &[u8],
    schema: &[Field],
    row: &Row,
    decimals: usize,
    state: &mut ItemState,
) -> bool {
    let begin = out.len();
    out.extend_from_slice(prefix);
    let mut unchanged = 0_usize;
    let mut told_any = false;
    let mut first = true;
    for &field in schema {
        let place = field as usize;
        let same = match &state.told {
            // A field that is always null was told in the first row.
            Some(told) => place == FIELDS || told[place] == row[place],
            None => false,
        };
        if same {
            unchanged += 1;
            continue;
        }
        told_any = true;
        write_unchanged(out, unchanged, &mut first);
        unchanged = 0;
        separate(out, &mut first);
        if place == FIELDS {
            out.push(b'#');
        } else if field.is_price() {
            write_points(out, row[place], decimals);
        } else {
            write_integer(out, row[place]);
        }
    }
    if !told_any {
        out.truncate(begin);
        return false;
    }
    write_unchanged(out, unchanged, &mut first);
    out.extend_from_slice(b"\r\n");
    state.told = Some(*row);
    true
}

/// Appends an update line with the whole row, in which some fields have other texts.
pub(crate) fn write_false_row(
    out: &mut Vec<u8>,
    prefix: &[u8],
    schema: &[Field],
    row: &Row,
    decimals: usize,
    texts: &BTreeMap<Field, Option<String>>,
) {
    out.extend_from_slice(prefix);
    let mut first = true;
    for &field in schema {
        separate(out, &mut first);
        match texts.get(&field) {
            Some(Some(text)) => out.extend_from_slice(value(text).as_bytes()),
            Some(None) => out.push(b'#'),
            None if field == Field::Null => out.push(b'#'),
            None if field.is_price() => write_points(out, row[field as usize], decimals),
            None => write_integer(out, row[field as usize]),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A text as the value of a field.
fn value(text: &str) -> String {
    let encoded = plain(text).replace('|', "%7C");
    match encoded.chars().next() {
        None => "$".to_owned(),
        Some(first @ ('#' | '$' | '^')) => format!("%{:02X}{}", u32::from(first), &encoded[1..]),
        Some(_) => encoded,
    }
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if *first {
        *first = false;
    } else {
        out.push(b'|');
    }
}

/// Marks a run of unchanged fields in whichever form is shorter.
fn write_unchanged(out: &mut Vec<u8>, count: usize, first: &mut bool) {
    if count > 2 {
        separate(out, first);
        out.push(b'^');
        write_integer(out, count as i64);
    } else {
        for _ in 0..count {
            separate(out, first);
        }
    }
}

/// Appends a price without trailing zeros, as IG does.
pub(crate) fn write_points(out: &mut Vec<u8>, points: i64, decimals: usize) {
    let mut buffer = [b'0'; DIGITS_MAX];
    // At least one digit stands before the point.
    let begin = write_digits(&mut buffer, points).min(DIGITS_MAX - 1 - decimals);
    let point = DIGITS_MAX - decimals;
    let mut end = DIGITS_MAX;
    while end > point && buffer[end - 1] == b'0' {
        end -= 1;
    }
    out.extend_from_slice(&buffer[begin..point]);
    if end > point {
        out.push(b'.');
        out.extend_from_slice(&buffer[point..end]);
    }
}

/// Appends a number that is not negative.
fn write_integer(out: &mut Vec<u8>, value: i64) {
    let mut buffer = [b'0'; DIGITS_MAX];
    let begin = write_digits(&mut buffer, value);
    out.extend_from_slice(&buffer[begin..]);
}

/// Most digits of a number.
const DIGITS_MAX: usize = 20;

/// Writes a number's digits at the end of the buffer and returns where they begin.
fn write_digits(buffer: &mut [u8; DIGITS_MAX], value: i64) -> usize {
    let mut begin = DIGITS_MAX;
    let mut put = |digit: u32| {
        begin -= 1;
        buffer[begin] = b'0' + digit as u8;
    };
    let mut rest = value.unsigned_abs();
    // Only instants need more than 32 bits; dividing fewer is several times faster.
    while rest > u64::from(u32::MAX) {
        put((rest % 10) as u32);
        rest /= 10;
    }
    let mut rest = rest as u32;
    loop {
        put(rest % 10);
        rest /= 10;
        if rest == 0 {
            return begin;
        }
    }
}

/// Decodes an update's values over what was known before. For tests alone.
#[cfg(test)]
pub(crate) fn decode_values(values: &str, before: &[Option<String>], fields: usize) -> Vec<Option<String>> {
    let mut row = before.to_vec();
    row.resize(fields, None);
    let mut place = 0;
    for token in values.split('|') {
        match token {
            "" => place += 1,
            "#" => {
                row[place] = None;
                place += 1;
            }
            run if run.starts_with('^') => place += run[1..].parse::<usize>().unwrap(),
            text => {
                row[place] = Some(text.to_owned());
                place += 1;
            }
        }
    }
    assert_eq!(place, fields, "{values}");
    row
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &str = "UTM LTV CONS_TICK_COUNT CONS_END BID_OPEN BID_HIGH BID_LOW BID_CLOSE OFR_OPEN OFR_HIGH OFR_LOW OFR_CLOSE LTP_OPEN";

    fn schema(names: &str) -> Vec<Field> {
        names.split(' ').map(|name| Field::named(name).unwrap()).collect()
    }

    fn check_points(points: i64, decimals: usize, expected: &str) {
        let mut out = Vec::new();
        write_points(&mut out, points, decimals);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn prices_have_no_trailing_zeros() {
        check_points(130_450, 5, "1.3045");
        check_points(130_459, 5, "1.30459");
        check_points(100_001, 5, "1.00001");
        check_points(99, 5, "0.00099");
        check_points(119_870, 3, "119.87");
        check_points(200_000, 5, "2");
        check_points(133_590, 1, "13359");
        check_points(133_588, 1, "13358.8");
    }

    #[test]
    fn a_false_row_is_whole_and_its_texts_decode_back() {
        let schema = schema("UTM BID_OPEN BID_HIGH BID_LOW LTP_OPEN OFR_OPEN");
        let texts = [(Field::BidHigh, Some("^1|%")), (Field::BidLow, None), (Field::OfrOpen, Some(""))];
        let texts = texts.map(|(field, text)| (field, text.map(str::to_owned))).into();
        let mut out = Vec::new();
        write_false_row(&mut out, b"U,1,1,", &schema, &[133_588; FIELDS], 5, &texts);
        assert_eq!(String::from_utf8(out).unwrap(), "U,1,1,133588|1.33588|%5E1%7C%25|#|#|$\r\n");
    }

    #[test]
    fn a_message_is_a_name_and_its_lines() {
        let message = Message::parse("control\r\nLS_reqId=1&LS_op=add\r\nLS_reqId=2&LS_op=add");
        assert_eq!((message.name, message.lines.len()), ("control", 2));
        assert_eq!(Message::parse("wsok"), Message { name: "wsok", lines: vec![] });
        assert_eq!(Message::parse("heartbeat\r\n\r\n"), Message { name: "heartbeat", lines: vec![] });
    }

    #[test]
    fn parameters_are_percent_decoded_strictly() {
        let params = Params::parse("LS_user=a%7Cb&LS_group=x%20y&LS_z=&LS_plus=a+b%2B").unwrap();
        assert_eq!(params.get("LS_user"), Some("a|b"));
        assert_eq!(params.get("LS_group"), Some("x y"));
        assert_eq!(params.get("LS_z"), Some(""));
        assert_eq!(params.get("LS_plus"), Some("a+b+"));
        assert_eq!(params.get("LS_none"), None);
        for line in ["", "a", "=b", "a=1=2", "a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2", "a=1&"] {
            assert!(Params::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_counts_is_told_by_the_whole_tag() {
        for line in ["U,1,1,a|b\r\n", "SUBOK,1,1,12", "CONF,1,unlimited,filtered", "UNSUB,1", "OV,1,1,3"] {
            assert!(is_data(line.as_bytes()), "{line}");
        }
        for line in ["", "\r\n", "UX,1", "CONS,unlimited", "PROBE\r\n", "REQOK,1", "LOOP,0", "u,1,1,"] {
            assert!(!is_data(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn subprotocols_name_a_version() {
        let version = |text: &str| version_of_subprotocol(text).map(|version| version.to_string());
        assert_eq!(version("TLCP-2.4.0.lightstreamer.com"), Some("2.4.0".to_owned()));
        for text in ["TLCP-2.4.0", "TLCP-2.4.lightstreamer.com", "chat", "TLCP-2.4.0.1.lightstreamer.com"] {
            assert_eq!(version(text), None, "{text}");
        }
        let of = |text: &str| text.parse::<TlcpVersion>().unwrap();
        assert!(of("2.5.0") > of("2.4.0") && of("2.10.0") > of("2.5.0"));
    }

    #[test]
    fn the_first_row_is_whole_and_later_ones_tell_changes() {
        let schema = schema("UTM CONS_END BID_OPEN BID_HIGH BID_LOW BID_CLOSE LTP_OPEN");
        let mut row: Row = [0; FIELDS];
        row[Field::Utm as usize] = 1_500_000;
        for field in [Field::BidOpen, Field::BidHigh, Field::BidLow, Field::BidClose] {
            row[field as usize] = 130_450;
        }
        let (mut out, mut state) = (Vec::new(), ItemState::default());
        let mut tell = |row: &Row| {
            out.clear();
            let told = write_row(&mut out, b"U,1,2,", &schema, row, 5, &mut state);
            (told, String::from_utf8(out.clone()).unwrap())
        };
        assert_eq!(tell(&row), (true, "U,1,2,1500000|0|1.3045|1.3045|1.3045|1.3045|#\r\n".to_owned()));
        assert_eq!(tell(&row), (false, String::new()));
        row[Field::BidClose as usize] = 130_449;
        assert_eq!(tell(&row), (true, "U,1,2,^5|1.30449|\r\n".to_owned()));
        row[Field::Utm as usize] = 1_800_000;
        assert_eq!(tell(&row), (true, "U,1,2,1800000|^6\r\n".to_owned()));
        row[Field::ConsEnd as usize] = 1;
        row[Field::BidLow as usize] = 130_400;
        assert_eq!(tell(&row), (true, "U,1,2,|1|||1.304||\r\n".to_owned()));
    }

    proptest! {
        #[test]
        fn rows_decode_back(rows in prop::collection::vec(prop::array::uniform11(0_i64..5), 1..20)) {
            let schema = schema(SCHEMA);
            let mut state = ItemState::default();
            let mut known: Vec<Option<String>> = Vec::new();
            for row in rows {
                let mut out = Vec::new();
                let told = write_row(&mut out, b"", &schema, &row, 2, &mut state);
                let line = String::from_utf8(out).unwrap();
                if told {
                    known = decode_values(line.strip_suffix("\r\n").unwrap(), &known, schema.len());
                }
                for (field, value) in schema.iter().zip(&known) {
                    let mut expected = Vec::new();
                    match *field {
                        Field::Null => {}
                        price if price.is_price() => write_points(&mut expected, row[price as usize], 2),
                        number => write_integer(&mut expected, row[number as usize]),
                    }
                    prop_assert_eq!(value.as_deref().unwrap_or_default().as_bytes(), &expected[..]);
                }
            }
        }
    }
}
