//! One line from the server → one [`Notification`].
//!
//! The number of arguments is fixed by the tag and the last one may contain commas. Every textual
//! argument is percent-decoded, except the values of an update, which have a coding of their own
//! (see [`update`](super::update)).

use std::borrow::Cow;

use memchr::memchr;

use super::SubId;
use super::lines::{BadLine, Excerpt};
use super::percent::{self, BadPercent};

/// Everything a server may say, as specified for TLCP 2.1.0 to 2.5.0. Texts borrow the line
/// wherever nothing had to be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields carry the names of the protocol's own arguments")]
pub enum Notification<'a> {
    /// An update.
    Update(UpdateLine<'a>),
    /// The WebSocket works.
    Wsok,
    /// The session is made or bound. A control link of `*` means: stay at this address.
    Conok {
        session_id: Cow<'a, str>,
        request_limit_bytes: u64,
        keepalive_ms: u64,
        control_link: Cow<'a, str>,
    },
    /// No session was made or bound.
    Conerr { code: i32, text: Cow<'a, str> },
    /// The server closed the session.
    End { code: i32, text: Cow<'a, str> },
    /// The session lives but is no longer bound to this connection.
    Loop { delay_ms: u64 },
    /// Nothing to say, but alive.
    Probe,
    /// Filler against buffering proxies.
    Noop,
    /// Seconds since the bind by the server's clock.
    Sync { seconds: u64 },
    /// The server's configured name.
    Servname { name: Cow<'a, str> },
    /// Our address as the server sees it.
    Clientip { address: Cow<'a, str> },
    /// The bandwidth in force: a decimal, `unlimited` or `unmanaged`.
    Cons { bandwidth: Cow<'a, str> },
    /// The data notification after which the data of this connection starts.
    Prog { count: u64 },
    /// A request was accepted; without id it answers a heartbeat over HTTP.
    Reqok { request_id: Option<Cow<'a, str>> },
    /// A request was refused.
    Reqerr { request_id: Cow<'a, str>, code: i32, text: Cow<'a, str> },
    /// A request was not even understood.
    Error { code: i32, text: Cow<'a, str> },
    /// A subscription is active.
    Subok { sub_id: SubId, items: u16, fields: u16 },
    /// A subscription in COMMAND mode is active; positions count from 1.
    Subcmd { sub_id: SubId, items: u16, fields: u16, key: u16, command: u16 },
    /// The frequency in force: a decimal or `unlimited`.
    Conf { sub_id: SubId, frequency: Cow<'a, str>, unfiltered: bool },
    /// The snapshot of an item is complete (never in MERGE mode).
    Eos { sub_id: SubId, item: u16 },
    /// The snapshot of an item is void (never in MERGE mode).
    Cs { sub_id: SubId, item: u16 },
    /// Updates of an item were dropped.
    Overflow { sub_id: SubId, item: u16, dropped: u64 },
    /// A subscription is gone.
    Unsub { sub_id: SubId },
    /// A message of ours was processed.
    Msgdone { sequence: Cow<'a, str>, prog: u64, response: Option<Cow<'a, str>> },
    /// A message of ours failed.
    Msgfail { sequence: Cow<'a, str>, prog: u64, code: i32, text: Cow<'a, str> },
    /// Something about push notifications, which we never ask for.
    Mpn,
}

/// The arguments of an update, by far the most frequent line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateLine<'a> {
    /// The subscription it is for.
    pub sub_id: SubId,
    /// Item in the group, from 1.
    pub item: u16,
    /// The values, still coded.
    pub values: &'a str,
}

/// Why a line is not a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// No such tag.
    #[error("unknown tag")]
    UnknownTag,
    /// Fewer arguments than the tag has.
    #[error("too few arguments")]
    TooFewArguments,
    /// An argument where the tag has none.
    #[error("unexpected argument")]
    UnexpectedArgument,
    /// A numeric argument that is no number or out of range.
    #[error("bad number")]
    BadNumber,
    /// A textual argument with a broken escape.
    #[error(transparent)]
    BadPercent(#[from] BadPercent),
    /// No readable line at all.
    #[error(transparent)]
    BadLine(#[from] BadLine),
}

/// A line that is not a notification, and what can be said of it nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}: {line}")]
pub struct NotificationError<'a> {
    /// What is wrong.
    pub fault: LineFault,
    /// Whether the server counts it as data: the tag alone decides.
    pub is_data: bool,
    /// The subscription it would have been for, if that much is readable.
    pub sub_id: Option<SubId>,
    /// The line, to be printed cut and escaped.
    pub line: Excerpt<'a>,
}

impl<'a> Notification<'a> {
    /// Reads one line, given without its line end.
    ///
    /// # Errors
    /// [`NotificationError`] for an unknown tag, a wrong number of arguments, a bad number or a
    /// bad percent-coding.
    pub fn parse(line: &'a str) -> Result<Notification<'a>, NotificationError<'a>> {
        if let Some(read) = UpdateLine::parse(line) {
            return read.map(Notification::Update);
        }
        parse_other(line).map_err(|fault| describe(fault, Excerpt::of(line)))
    }

    /// Whether the server counts it as data, for session recovery.
    pub fn is_data(&self) -> bool {
        use Notification::*;
        match self {
            Update(_) | Subok { .. } | Subcmd { .. } | Conf { .. } | Eos { .. } | Cs { .. } => true,
            Overflow { .. } | Unsub { .. } | Msgdone { .. } | Msgfail { .. } | Mpn => true,
            Wsok | Conok { .. } | Conerr { .. } | End { .. } | Loop { .. } | Probe | Noop => false,
            Sync { .. } | Servname { .. } | Clientip { .. } | Cons { .. } | Prog { .. } => false,
            Reqok { .. } | Reqerr { .. } | Error { .. } => false,
        }
    }
}

/// Returns what can be said of a line that is not a notification.
#[cold]
pub fn describe(fault: LineFault, line: Excerpt<'_>) -> NotificationError<'_> {
    let (is_data, of_subscription) = kind(line.bytes());
    let first = if of_subscription { line.bytes().split(|&byte| byte == b',').nth(1) } else { None };
    let sub_id = first.and_then(|bytes| number(bytes).ok()).map(SubId);
    NotificationError { fault, is_data, sub_id, line }
}

/// Longest tag, in bytes (TLCP specification, line syntax).
const TAG_BYTES_MAX: usize = 8;

/// Whether a line may begin with this in the protocol, known or not: capital letters, eight at most.
pub fn is_tag(text: &[u8]) -> bool {
    (1..=TAG_BYTES_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_uppercase)
}

/// Whether the server counts a line as data, readable or not: the tag alone decides.
pub fn is_data(line: &[u8]) -> bool {
    kind(line).0
}

/// Whether a line is data, and whether its first argument is a subscription.
fn kind(line: &[u8]) -> (bool, bool) {
    match line.split(|&byte| byte == b',').next() {
        Some(b"U" | b"SUBOK" | b"SUBCMD" | b"UNSUB" | b"EOS" | b"CS" | b"OV" | b"CONF") => (true, true),
        Some(b"MSGDONE" | b"MSGFAIL" | b"MPNREG" | b"MPNOK" | b"MPNCONF" | b"MPNDEL" | b"MPNZERO") => {
            (true, false)
        }
        _ => (false, false),
    }
}

impl<'a> UpdateLine<'a> {
    /// Reads a line if it is an update, without the detour over everything else it might be.
    ///
    /// # Errors
    /// As [`Notification::parse`].
    #[inline]
    pub fn parse(line: &'a str) -> Option<Result<UpdateLine<'a>, NotificationError<'a>>> {
        let args = line.strip_prefix("U,")?;
        Some(UpdateLine::parse_args(args).map_err(|fault| describe(fault, Excerpt::of(line))))
    }

    #[inline]
    fn parse_args(args: &'a str) -> Result<UpdateLine<'a>, LineFault> {
        // So it is for nearly every update.
        if let Some((sub_id, rest)) = short_number(args)
            && let Some((item, values)) = short_number(rest)
            && let Ok(item) = u16::try_from(item)
        {
            return Ok(UpdateLine { sub_id: SubId(sub_id), item, values });
        }
        UpdateLine::parse_any_args(args)
    }

    /// Reads what comes before the values in the line that begins at `at`: subscription and item, and where the values
    /// begin. `None` where that is not as simple as it nearly always is.
    #[inline]
    pub fn parse_head(lines: &str, at: usize) -> Option<(SubId, u16, usize)> {
        let lines = lines.as_bytes();
        let &[b'U', b',', ..] = lines.get(at..)? else { return None };
        let (sub_id, at) = small_number(lines, at + 2)?;
        let (item, at) = small_number(lines, at)?;
        Some((SubId(sub_id), item as u16, at))
    }

    #[cold]
    fn parse_any_args(args: &'a str) -> Result<UpdateLine<'a>, LineFault> {
        let mut args = Args(Some(args));
        Ok(UpdateLine {
            sub_id: args.sub_id()?,
            item: args.number()?,
            values: args.0.ok_or(LineFault::TooFewArguments)?,
        })
    }
}

/// Reads a number of a few digits and the comma behind it: the number, and what follows. `None` where
/// there is anything else.
#[inline]
fn short_number(args: &str) -> Option<(u32, &str)> {
    let mut number = 0;
    for (at, byte) in args.bytes().enumerate().take(9) {
        match byte {
            b'0'..=b'9' => number = number * 10 + u32::from(byte - b'0'),
            b',' if at > 0 => return Some((number, &args[at + 1..])),
            _ => return None,
        }
    }
    None
}

/// As [`short_number`], of up to four digits from `at` on: the number, and where what follows begins.
#[inline]
fn small_number(text: &[u8], mut at: usize) -> Option<(u32, usize)> {
    let mut number = 0;
    for place in 0..5 {
        let byte = *text.get(at)?;
        at += 1;
        match byte.wrapping_sub(b'0') {
            digit @ ..10 => number = number * 10 + u32::from(digit),
            _ if byte == b',' && place > 0 => return Some((number, at)),
            _ => return None,
        }
    }
    None
}

fn parse_other(line: &str) -> Result<Notification<'_>, LineFault> {
    let (tag, args) = match memchr(b',', line.as_bytes()) {
        Some(comma) => (&line[..comma], Args(Some(&line[comma + 1..]))),
        None => (line, Args(None)),
    };
    let mut args = args;
    Ok(match tag {
        "PROBE" => args.none(Notification::Probe)?,
        "SYNC" => Notification::Sync { seconds: args.last_number()? },
        "NOOP" => Notification::Noop,
        "SUBOK" => {
            Notification::Subok { sub_id: args.sub_id()?, items: args.number()?, fields: args.last_number()? }
        }
        "CONF" => Notification::Conf {
            sub_id: args.sub_id()?,
            frequency: args.text()?,
            // Anything but this word leaves it open whether updates are merged.
            unfiltered: args.last()? == "unfiltered",
        },
        "OV" => Notification::Overflow {
            sub_id: args.sub_id()?,
            item: args.number()?,
            dropped: args.last_number()?,
        },
        "UNSUB" => Notification::Unsub { sub_id: SubId(args.last_number()?) },
        "EOS" => Notification::Eos { sub_id: args.sub_id()?, item: args.last_number()? },
        "CS" => Notification::Cs { sub_id: args.sub_id()?, item: args.last_number()? },
        "WSOK" => args.none(Notification::Wsok)?,
        "CONOK" => Notification::Conok {
            session_id: args.text()?,
            request_limit_bytes: args.number()?,
            keepalive_ms: args.number()?,
            control_link: args.last()?,
        },
        "CONERR" => Notification::Conerr { code: args.code()?, text: args.last()? },
        "END" => Notification::End { code: args.code()?, text: args.last()? },
        "LOOP" => Notification::Loop { delay_ms: args.last_number()? },
        "SERVNAME" => Notification::Servname { name: args.last()? },
        "CLIENTIP" => Notification::Clientip { address: args.last()? },
        "CONS" => Notification::Cons { bandwidth: args.last()? },
        "PROG" => Notification::Prog { count: args.last_number()? },
        "REQOK" if args.0.is_none() => Notification::Reqok { request_id: None },
        "REQOK" => Notification::Reqok { request_id: Some(args.last()?) },
        "REQERR" => Notification::Reqerr { request_id: args.text()?, code: args.code()?, text: args.last()? },
        "ERROR" => Notification::Error { code: args.code()?, text: args.last()? },
        "SUBCMD" => Notification::Subcmd {
            sub_id: args.sub_id()?,
            items: args.number()?,
            fields: args.number()?,
            key: args.number()?,
            command: args.last_number()?,
        },
        "MSGDONE" => Notification::Msgdone {
            sequence: args.text()?,
            prog: args.number()?,
            // Only servers of 2.5.0 and later send a response text.
            response: args.0.map(percent::decode).transpose()?,
        },
        "MSGFAIL" => Notification::Msgfail {
            sequence: args.text()?,
            prog: args.number()?,
            code: args.code()?,
            text: args.last()?,
        },
        "MPNREG" | "MPNOK" | "MPNCONF" | "MPNDEL" | "MPNZERO" => Notification::Mpn,
        // An update without any argument.
        "U" => return Err(LineFault::TooFewArguments),
        _ => return Err(LineFault::UnknownTag),
    })
}

/// What is left of a line's arguments; `None` once the last is taken.
struct Args<'a>(Option<&'a str>);

impl<'a> Args<'a> {
    /// Takes the text up to the next comma.
    #[inline]
    fn next(&mut self) -> Result<&'a str, LineFault> {
        let rest = self.0.ok_or(LineFault::TooFewArguments)?;
        // These arguments are a few bytes long: a plain loop beats a vectorised search.
        match rest.as_bytes().iter().position(|&byte| byte == b',') {
            Some(comma) => {
                self.0 = Some(&rest[comma + 1..]);
                Ok(&rest[..comma])
            }
            None => {
                self.0 = None;
                Ok(rest)
            }
        }
    }

    fn text(&mut self) -> Result<Cow<'a, str>, LineFault> {
        Ok(percent::decode(self.next()?)?)
    }

    /// Takes all that is left, commas included.
    fn last(&mut self) -> Result<Cow<'a, str>, LineFault> {
        let rest = self.0.take().ok_or(LineFault::TooFewArguments)?;
        Ok(percent::decode(rest)?)
    }

    #[inline]
    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, LineFault> {
        number(self.next()?.as_bytes())
    }

    fn last_number<T: TryFrom<u64>>(&mut self) -> Result<T, LineFault> {
        number(self.0.take().ok_or(LineFault::TooFewArguments)?.as_bytes())
    }

    #[inline]
    fn sub_id(&mut self) -> Result<SubId, LineFault> {
        self.number().map(SubId)
    }

    /// Takes a code, which may be negative.
    fn code(&mut self) -> Result<i32, LineFault> {
        let text = self.next()?;
        match text.strip_prefix('-') {
            Some(digits) => number::<i32>(digits.as_bytes()).map(|code| -code),
            None => number(text.as_bytes()),
        }
    }

    fn none<T>(&self, notification: T) -> Result<T, LineFault> {
        if self.0.is_none() { Ok(notification) } else { Err(LineFault::UnexpectedArgument) }
    }
}

/// Reads decimal digits and nothing else; the standard parser would take `+5` too.
#[inline]
fn number<T: TryFrom<u64>>(digits: &[u8]) -> Result<T, LineFault> {
    // Nineteen nines still fit.
    if digits.is_empty() || digits.len() > 19 {
        return Err(LineFault::BadNumber);
    }
    let mut value = 0_u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(LineFault::BadNumber);
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    T::try_from(value).map_err(|_| LineFault::BadNumber)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every tag with arguments as the protocol reference shows them.
    #[test]
    fn short_and_long_numbers_of_an_update_are_read_alike() {
        for args in [
            "1,1,a|b",
            "12,3,",
            "007,01,x",
            "0,0,x",
            "12345678,65535,x",
            "123456789,1,x",
            "4294967295,1,x",
            "4294967296,1,x",
            "1,65536,x",
            "1,99999999,x",
            ",1,x",
            "1,,x",
            "",
            "1",
            "1,",
            "1,1",
            "x,1,a",
            "1,x,a",
            "+1,1,a",
            "1,-1,a",
            "1 ,1,a",
            "1,1é,a",
            "１,1,a",
        ] {
            assert_eq!(UpdateLine::parse_args(args), UpdateLine::parse_any_args(args), "{args}");
        }
        assert_eq!(short_number("12345678,x"), Some((12_345_678, "x")));
    }

    #[test]
    fn reads_every_tag() {
        let check = |line: &str, expected: Notification<'_>, is_data: bool| {
            let read = Notification::parse(line);
            assert_eq!(read.as_ref(), Ok(&expected), "{line}");
            assert_eq!(expected.is_data(), is_data, "{line}");
            // The two ways of telling data must agree, since a broken line is counted by tag.
            assert_eq!(describe(LineFault::BadNumber, Excerpt::of(line)).is_data, is_data, "{line}");
        };
        let (sub_id, item) = (SubId(3), 1);
        check("WSOK", Notification::Wsok, false);
        check(
            "CONOK,S98d4,50000,5000,apd245f.marketdatasystems.com",
            Notification::Conok {
                session_id: "S98d4".into(),
                request_limit_bytes: 50000,
                keepalive_ms: 5000,
                control_link: "apd245f.marketdatasystems.com".into(),
            },
            false,
        );
        check(
            "CONERR,65,Unsupported protocol version: 2.5.0",
            Notification::Conerr { code: 65, text: "Unsupported protocol version: 2.5.0".into() },
            false,
        );
        check("END,48,", Notification::End { code: 48, text: "".into() }, false);
        check("END,-3,a, b", Notification::End { code: -3, text: "a, b".into() }, false);
        check("LOOP,0", Notification::Loop { delay_ms: 0 }, false);
        check("PROBE", Notification::Probe, false);
        check("NOOP,sending filler, and more", Notification::Noop, false);
        check("SYNC,20", Notification::Sync { seconds: 20 }, false);
        check(
            "SERVNAME,Lightstreamer%20HTTPS, NSE",
            Notification::Servname { name: "Lightstreamer HTTPS, NSE".into() },
            false,
        );
        check("CLIENTIP,::1", Notification::Clientip { address: "::1".into() }, false);
        check("CONS,unlimited", Notification::Cons { bandwidth: "unlimited".into() }, false);
        check("PROG,15", Notification::Prog { count: 15 }, false);
        check("REQOK", Notification::Reqok { request_id: None }, false);
        check("REQOK,7", Notification::Reqok { request_id: Some("7".into()) }, false);
        check(
            "REQERR,7,-1,Insufficient permissions, sorry",
            Notification::Reqerr {
                request_id: "7".into(),
                code: -1,
                text: "Insufficient permissions, sorry".into(),
            },
            false,
        );
        check("ERROR,67,bad%2C bad", Notification::Error { code: 67, text: "bad, bad".into() }, false);
        check("SUBOK,3,1,12", Notification::Subok { sub_id, items: 1, fields: 12 }, true);
        check(
            "SUBCMD,3,1,12,4,5",
            Notification::Subcmd { sub_id, items: 1, fields: 12, key: 4, command: 5 },
            true,
        );
        check(
            "CONF,3,20.0,filtered",
            Notification::Conf { sub_id, frequency: "20.0".into(), unfiltered: false },
            true,
        );
        check(
            "CONF,3,unlimited,unfiltered",
            Notification::Conf { sub_id, frequency: "unlimited".into(), unfiltered: true },
            true,
        );
        check(
            "U,3,1,a%7C|b,c|",
            Notification::Update(UpdateLine { sub_id, item, values: "a%7C|b,c|" }),
            true,
        );
        check("U,3,1,", Notification::Update(UpdateLine { sub_id, item, values: "" }), true);
        check("EOS,3,1", Notification::Eos { sub_id, item }, true);
        check("CS,3,1", Notification::Cs { sub_id, item }, true);
        check("OV,3,1,2", Notification::Overflow { sub_id, item, dropped: 2 }, true);
        check("UNSUB,3", Notification::Unsub { sub_id }, true);
        check("MSGDONE,*,1", Notification::Msgdone { sequence: "*".into(), prog: 1, response: None }, true);
        check(
            "MSGDONE,*,1,ok, well",
            Notification::Msgdone { sequence: "*".into(), prog: 1, response: Some("ok, well".into()) },
            true,
        );
        check(
            "MSGFAIL,s,2,39,1",
            Notification::Msgfail { sequence: "s".into(), prog: 2, code: 39, text: "1".into() },
            true,
        );
        check("MPNREG,a,b", Notification::Mpn, true);
    }

    #[test]
    fn refuses_what_does_not_fit_the_tag() {
        use LineFault::*;
        for (line, fault, is_data, sub_id) in [
            ("", UnknownTag, false, None),
            ("HELLO,1", UnknownTag, false, None),
            ("probe", UnknownTag, false, None),
            ("CON,1", UnknownTag, false, None),
            ("SUBOKAY,1,1,1", UnknownTag, false, None),
            (" PROBE", UnknownTag, false, None),
            ("PROBE,", UnexpectedArgument, false, None),
            ("WSOK,1", UnexpectedArgument, false, None),
            ("CONOK,S,50000,5000", TooFewArguments, false, None),
            ("CONOK,S,many,5000,*", BadNumber, false, None),
            ("CONERR", TooFewArguments, false, None),
            ("END,48", TooFewArguments, false, None),
            ("END,99999999999,x", BadNumber, false, None),
            ("LOOP,-1", BadNumber, false, None),
            ("LOOP,+1", BadNumber, false, None),
            ("SYNC,1,2", BadNumber, false, None),
            ("PROG,99999999999999999999", BadNumber, false, None),
            ("SERVNAME,%4", BadPercent(percent::BadPercent), false, None),
            ("U", TooFewArguments, true, None),
            ("U,3", TooFewArguments, true, Some(3)),
            ("U,3,1", TooFewArguments, true, Some(3)),
            ("U,3,70000,a", BadNumber, true, Some(3)),
            ("U,x,1,a", BadNumber, true, None),
            ("U,-3,1,a", BadNumber, true, None),
            ("U,,,", BadNumber, true, None),
            ("SUBOK,3,1", TooFewArguments, true, Some(3)),
            ("SUBOK,3,1,12,9", BadNumber, true, Some(3)),
            ("CONF,3,1%zz,filtered", BadPercent(percent::BadPercent), true, Some(3)),
            ("UNSUB,4294967296", BadNumber, true, None),
        ] {
            let expected =
                NotificationError { fault, is_data, sub_id: sub_id.map(SubId), line: Excerpt::of(line) };
            assert_eq!(Notification::parse(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn an_error_prints_the_line_escaped() {
        let error = Notification::parse("HEL\u{7}LO").unwrap_err();
        assert_eq!(error.to_string(), "unknown tag: HEL\\u{7}LO");
    }

    #[test]
    fn the_head_of_an_update_is_read_wherever_it_stands() {
        for (line, is_short) in [
            ("U,3,1,a|b", true),
            ("U,1000,12,", true),
            ("U,0012,1,x", true),
            ("U,12345,1,x", false),
            ("U,3,12345,x", false),
            ("U,,1,x", false),
            ("U,3,", false),
            ("U,3x,1,x", false),
            ("U", false),
            ("UNSUB,3", false),
            ("", false),
        ] {
            let lines = format!("U,9,9,9\r\n{line}");
            let head = UpdateLine::parse_head(&lines, 9);
            assert_eq!(head.is_some(), is_short, "{line}");
            if let Some((sub_id, item, values_at)) = head {
                let expected = UpdateLine { sub_id, item, values: &lines[values_at..] };
                assert_eq!(UpdateLine::parse(line), Some(Ok(expected)), "{line}");
            }
        }
    }

    #[test]
    fn an_update_allocates_nothing() {
        let line = "U,12,1,1778847900000|17|17|0|13358.8";
        let Some(Ok(UpdateLine { values, .. })) = UpdateLine::parse(line) else { panic!("not an update") };
        assert_eq!(values.as_ptr(), line[7..].as_ptr());
    }

    proptest! {
        #[test]
        fn no_line_panics(tag in "U|SUBOK|CONOK|REQERR|[A-Z]{0,8}", rest in "(,[0-9%|,a-f^#$-]{0,12}){0,6}|\\PC*") {
            let line = format!("{tag}{rest}");
            if let Ok(notification) = Notification::parse(&line) {
                let by_tag = describe(LineFault::BadNumber, Excerpt::of(&line)).is_data;
                prop_assert_eq!(notification.is_data(), by_tag);
            }
        }
    }
}
