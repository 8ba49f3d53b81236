//! What one follower is sent: the log from where he is on, in order and without a hole. Pure.

use bytes::Bytes;
use serde::Serialize;

use super::forming::Shown;
use super::page::{Page, Wants, json};
use crate::api::asked::After;
use crate::store::Among;

/// When a client is to come again after a break, milliseconds.
const RETRY_MS: u32 = 2_000;
/// The longest id that is shown back, in characters.
const SHOWN_MAX: usize = 40;

/// What is said where the log cannot be gone on with from where somebody was.
#[derive(Serialize)]
struct ResetData<'a> {
    error: &'a str,
    reason: String,
    seq: i64,
}

/// Why it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Bars behind the id were deleted for their age, up to this `seq`.
    Deleted(i64),
    /// There was no such id here.
    Unknown,
}

/// Where a follower is.
#[derive(Debug)]
pub struct Follower {
    wants: Wants,
    /// He has everything up to this `seq`.
    at: i64,
    /// The id that he goes on from by himself after a break.
    told: i64,
    /// There is more for him in the database than comes by itself.
    is_behind: bool,
    /// What he is to be told of that: one who begins with the first bar has missed nothing of what was deleted.
    among: Among,
    /// The version of what is under way that he has seen.
    seen: u64,
}

impl Follower {
    /// One who begins, where the log ends with `last`; and what he is told first.
    pub fn begin(wants: Wants, after: &After, last: i64) -> (Follower, Bytes) {
        let (at, greeting) = match after {
            After::Now => (last, format!("id: {last}\n: what is stored after {last} follows\n\n")),
            After::Seq(seq) if *seq > last => (last, reset(Lost::Unknown, *seq, last)),
            After::Seq(seq) => (*seq, format!("id: {seq}\n: what is stored after {seq} follows\n\n")),
            After::Unreadable(text) => {
                let text: String = text.chars().take(SHOWN_MAX).collect();
                let reason = format!("{text:?} is no id of this stream: what is stored after {last} follows");
                (last, reset_because("unknown_id", reason, last))
            }
        };
        let among = if matches!(after, After::Seq(0)) { Among::Stored } else { Among::All };
        let follower = Follower { wants, at, told: at, is_behind: at < last, among, seen: 0 };
        (follower, format!("retry: {RETRY_MS}\n{greeting}").into())
    }

    /// Where he is.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// Whether he is to be told from the database what follows.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// What he is to be told from the database.
    pub fn among(&self) -> Among {
        self.among
    }

    /// He may have missed something.
    pub fn falls_behind(&mut self) {
        self.is_behind = true;
    }

    /// A page comes by: what he is sent of it.
    pub fn hears(&mut self, page: &Page) -> Option<Bytes> {
        if page.after > self.at {
            self.is_behind = true;
            return None;
        }
        if page.upto <= self.at {
            return None;
        }
        let text = page.text(self.at, &self.wants);
        self.at = page.upto;
        let (text, last) = text?;
        self.told = last;
        Some(text)
    }

    /// A page that was read for him: what he is sent of it.
    pub fn catches_up(&mut self, page: &Page) -> Option<Bytes> {
        let text = self.hears(page);
        self.is_behind = page.has_more;
        if !page.has_more {
            self.among = Among::All;
        }
        text
    }

    /// The log cannot be gone on with from where he is: it goes on behind `last`.
    pub fn is_lost(&mut self, lost: Lost, last: i64) -> Bytes {
        let at = std::mem::replace(&mut self.at, last);
        (self.told, self.is_behind, self.among) = (last, false, Among::All);
        reset(lost, at, last).into()
    }

    /// What keeps the connection: where he is, if that has changed without his hearing of it, so that he need not
    /// be shown again what he did not want.
    pub fn keepalive(&mut self) -> Bytes {
        if std::mem::replace(&mut self.told, self.at) == self.at {
            return Bytes::from_static(b": keepalive\n\n");
        }
        format!("id: {}\n: keepalive\n\n", self.at).into()
    }

    /// What is under way: what he is sent of it. Nothing of a state that was made before a bar was stored that he has,
    /// which may be among it: he sees the next.
    pub fn sees(&mut self, shown: &Shown) -> Option<Bytes> {
        if shown.at < self.at {
            return None;
        }
        let seen = std::mem::replace(&mut self.seen, shown.version);
        shown.since(seen, &self.wants)
    }
}

/// The last word to one who takes too little.
pub fn too_slow(seconds: u64) -> Bytes {
    last_word("slow", &format!("nothing was taken for {seconds} s"))
}

/// The last word where there is nothing to be read for him.
pub fn unavailable(why: &str) -> Bytes {
    last_word("unavailable", &format!("what is stored cannot be told: {why}"))
}

fn last_word(error: &str, why: &str) -> Bytes {
    let reason = format!("{why}; come again and go on from the last id");
    let data = json(&serde_json::json!({ "error": error, "reason": reason }));
    format!("event: error\ndata: {data}\n\n").into()
}

/// What is said to one who cannot go on from `at`, where the log ends with `last`.
fn reset(lost: Lost, at: i64, last: i64) -> String {
    let (word, why) = match lost {
        Lost::Deleted(to) => {
            ("deleted", format!("bars after {at} have been deleted for their age, the last of them {to}"))
        }
        Lost::Unknown if at > last => {
            ("unknown_id", format!("there is no {at} yet: this may be another database"))
        }
        Lost::Unknown => ("unknown_id", format!("there is no {at} here: this is a copy of another database")),
    };
    reset_because(word, format!("{why}; what is stored after {last} follows"), last)
}

fn reset_because(error: &str, reason: String, seq: i64) -> String {
    format!("event: reset\nid: {seq}\ndata: {}\n\n", json(&ResetData { error, reason, seq }))
}

#[cfg(test)]
mod tests {
    use super::super::forming::UnderWay;
    use super::super::page::testing::{page, short};
    use super::*;
    use crate::domain::{CandleUpdate, Ohlc, Price, Timeframe, Timestamp};

    /// A follower of a log that ends with 9.
    fn begin(after: &After, pairs: &str) -> (Follower, String) {
        let pairs = pairs.split_whitespace().map(|pair| pair.parse().unwrap()).collect();
        let (follower, text) = Follower::begin(Wants { pairs, timeframes: Vec::new() }, after, 9);
        (follower, String::from_utf8(text.to_vec()).unwrap())
    }

    fn heard(text: Option<Bytes>) -> String {
        text.map_or("-".to_owned(), |text| short(&text))
    }

    #[test]
    fn the_last_word_is_as_the_document_says() {
        let document = serde_json::from_str(include_str!("../openapi.json")).unwrap();
        let block = String::from_utf8(too_slow(20).to_vec()).unwrap();
        let data = block.strip_prefix("event: error\ndata: ").expect("an error");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        crate::api::document::fits_named(&document, "Error", &data);
        assert_eq!(data["error"], "slow");
    }

    #[test]
    fn the_first_word_says_from_where_on_bars_follow() {
        for (after, at, is_behind, expected) in [
            (After::Now, 9, false, "retry: 2000\nid: 9\n: what is stored after 9 follows\n\n"),
            (After::Seq(9), 9, false, "retry: 2000\nid: 9\n: what is stored after 9 follows\n\n"),
            (
                After::Seq(10),
                9,
                false,
                "retry: 2000\nevent: reset\nid: 9\ndata: {\"error\":\"unknown_id\",\"reason\":\"there is no 10 yet: \
                 this may be another database; what is stored after 9 follows\",\"seq\":9}\n\n",
            ),
            (After::Seq(5), 5, true, "retry: 2000\nid: 5\n: what is stored after 5 follows\n\n"),
            (
                After::Unreadable("x\ny".to_owned()),
                9,
                false,
                "retry: 2000\nevent: reset\nid: 9\ndata: {\"error\":\"unknown_id\",\"reason\":\
                 \"\\\"x\\\\ny\\\" is no id of this stream: what is stored after 9 follows\",\"seq\":9}\n\n",
            ),
        ] {
            let (follower, text) = begin(&after, "");
            assert_eq!((follower.at(), follower.is_behind(), text.as_str()), (at, is_behind, expected));
        }
        let (_, long) = begin(&After::Unreadable("x".repeat(5_000)), "");
        assert!(long.len() < 300);
    }

    #[test]
    fn pages_that_follow_each_other_are_heard_once() {
        let (mut follower, _) = begin(&After::Now, "");
        assert_eq!(heard(follower.hears(&page("7..9 8:EURUSD/5"))), "-", "that is known");
        assert_eq!(heard(follower.hears(&page("8..11 9:EURUSD/5 11:GBPUSD/5"))), "candle 11");
        assert_eq!(heard(follower.hears(&page("11..12 12:EURUSD/5*1"))), "revision 12");
        assert_eq!(heard(follower.hears(&page("8..11 9:EURUSD/5 11:GBPUSD/5"))), "-");
        assert!(!follower.is_behind());
    }

    #[test]
    fn a_hole_is_filled_from_the_database_before_anything_later_is_heard() {
        let (mut follower, _) = begin(&After::Now, "");
        assert_eq!(heard(follower.hears(&page("11..12 12:EURUSD/5"))), "-");
        assert!(follower.is_behind());
        assert_eq!(heard(follower.catches_up(&page("9..10 10:EURUSD/5 +"))), "candle 10");
        assert!(follower.is_behind(), "there is more");
        assert_eq!(
            heard(follower.catches_up(&page("10..12 11:GBPUSD/5 12:EURUSD/5"))),
            "candle 11, candle 12"
        );
        assert!(!follower.is_behind());
        assert_eq!(heard(follower.hears(&page("12..13 13:EURUSD/5"))), "candle 13");
    }

    #[test]
    fn who_begins_with_the_first_bar_misses_nothing_that_was_deleted_until_he_has_come_to_the_end() {
        let (mut follower, _) = begin(&After::Seq(0), "");
        assert_eq!((follower.is_behind(), follower.among()), (true, Among::Stored));
        follower.catches_up(&page("0..4 4:EURUSD/5 +"));
        assert_eq!(follower.among(), Among::Stored);
        follower.catches_up(&page("4..9 9:EURUSD/5"));
        assert_eq!((follower.is_behind(), follower.among()), (false, Among::All));
        assert_eq!(begin(&After::Seq(1), "").0.among(), Among::All);
    }

    #[test]
    fn who_has_read_further_than_what_is_under_way_was_made_at_sees_it_when_it_has_come_as_far() {
        let (pair, side) = ("EURUSD".parse().unwrap(), Ohlc::from_prices([Price::ONE; 4]));
        let candle = CandleUpdate { start: Timestamp(0), bid: side, ask: side, ticks: 1, closed: false };
        let mut under_way = UnderWay::following(&Shown::default(), &[Timeframe::M5]);
        under_way.is_at(9);
        assert!(under_way.takes(&[(pair, candle)]));
        let (mut follower, _) = begin(&After::Now, "");
        let (mut other, _) = begin(&After::Now, "");
        assert_eq!(heard(other.sees(&under_way.shown())), "forming");
        // He missed that, and has read for himself that it is stored.
        follower.falls_behind();
        assert_eq!(heard(follower.catches_up(&page("9..10 10:EURUSD/5"))), "candle 10");
        assert_eq!(heard(follower.sees(&under_way.shown())), "-");
        under_way.is_at(10);
        assert_eq!(heard(follower.sees(&under_way.shown())), "forming", "which is another then");
        assert_eq!(heard(follower.sees(&under_way.shown())), "-", "nothing comes twice");
    }

    #[test]
    fn an_empty_page_tells_one_who_is_behind_that_he_is() {
        let (mut follower, _) = begin(&After::Now, "");
        assert_eq!(heard(follower.hears(&page("9..9"))), "-");
        assert!(!follower.is_behind());
        assert_eq!(heard(follower.hears(&page("12..12"))), "-");
        assert!(follower.is_behind());
    }

    #[test]
    fn a_keepalive_says_how_far_he_is_where_no_bar_has_said_so() {
        let (mut follower, _) = begin(&After::Now, "EURUSD");
        assert_eq!(short(&follower.keepalive()), "keepalive");
        assert_eq!(heard(follower.hears(&page("9..11 10:GBPUSD/5 11:GBPUSD/5"))), "-");
        assert_eq!(short(&follower.keepalive()), "11 keepalive");
        assert_eq!(short(&follower.keepalive()), "keepalive");
        assert_eq!(heard(follower.hears(&page("11..12 12:EURUSD/5"))), "candle 12");
        assert_eq!(short(&follower.keepalive()), "keepalive");
        assert_eq!(heard(follower.hears(&page("12..14 13:EURUSD/5 14:GBPUSD/5"))), "candle 13");
        assert_eq!(short(&follower.keepalive()), "14 keepalive");
    }

    #[test]
    fn a_keepalive_to_one_who_is_behind_says_how_far_he_has_come_and_no_further() {
        let (mut follower, _) = begin(&After::Seq(2), "EURUSD");
        assert_eq!(short(&follower.keepalive()), "keepalive", "nothing has been read for him");
        assert_eq!(heard(follower.catches_up(&page("2..5 4:GBPUSD/5 +"))), "-");
        assert_eq!(short(&follower.keepalive()), "5 keepalive");
        assert!(follower.is_behind(), "he goes on");
        assert_eq!(heard(follower.catches_up(&page("5..9 6:EURUSD/5"))), "candle 6");
        assert!(!follower.is_behind());
    }

    #[test]
    fn one_who_is_lost_is_told_why_and_goes_on_from_the_end() {
        for (lost, expected) in [
            (
                Lost::Deleted(7),
                "{\"error\":\"deleted\",\"reason\":\"bars after 5 have been deleted for their age, the last of \
                 them 7; what is stored after 9 follows\",\"seq\":9}",
            ),
            (
                Lost::Unknown,
                "{\"error\":\"unknown_id\",\"reason\":\"there is no 5 here: this is a copy of another database; \
                 what is stored after 9 follows\",\"seq\":9}",
            ),
        ] {
            let (mut follower, _) = begin(&After::Seq(5), "");
            let text = follower.is_lost(lost, 9);
            assert_eq!(
                std::str::from_utf8(&text).unwrap(),
                format!("event: reset\nid: 9\ndata: {expected}\n\n")
            );
            assert!(!follower.is_behind());
            assert_eq!(heard(follower.hears(&page("9..10 10:EURUSD/5"))), "candle 10");
        }
    }
}
