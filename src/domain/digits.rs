//! Decimal digits, eight bytes in one word. Pure.

/// Bytes that are looked at together.
pub const WORD_BYTES: usize = size_of::<u64>();
/// All but the highest bit of each byte.
const LOW_BITS: u64 = u64::from_ne_bytes([0x7f; WORD_BYTES]);

/// Up to eight bytes, as what they would be worth as digits: the last in the highest byte, zeros below the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits(u64);

impl Digits {
    /// The `length` bytes of `text` before `end`, at least one. They are read together with those before them, so there
    /// must be eight in all: `None` where there are not, and where `length` is another.
    #[inline]
    pub fn before(text: &[u8], end: usize, length: usize) -> Option<Digits> {
        let unused = WORD_BYTES.checked_sub(length).filter(|unused| *unused < WORD_BYTES)?;
        let word = u64::from_le_bytes(*text.get(..end)?.last_chunk()?);
        // To and fro, so that what comes before is gone.
        Some(Digits((word ^ u64::from_ne_bytes([b'0'; WORD_BYTES])) >> (8 * unused) << (8 * unused)))
    }

    /// Four to eight bytes that stand alone.
    #[inline]
    pub fn of(text: &[u8]) -> Option<Digits> {
        let unused = WORD_BYTES.checked_sub(text.len())?;
        let (first, last) = (text.first_chunk()?, text.last_chunk()?);
        let values = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes) ^ u32::from_ne_bytes([b'0'; 4]));
        // Where both halves overlap they are equal.
        Some(Digits((values(last) << 32) | (values(first) << (8 * unused))))
    }

    /// The highest bit of each byte that is no digit, and no other bit.
    #[inline]
    fn others(self) -> u64 {
        // By this sum a byte reaches its highest bit from ten on.
        (((self.0 & LOW_BITS) + u64::from_ne_bytes([0x80 - 10; WORD_BYTES])) | self.0) & !LOW_BITS
    }

    /// What they spell where all are digits.
    #[inline]
    fn number(self) -> u64 {
        // Neighbours become numbers of two digits, of four, of eight.
        let word = (self.0.wrapping_mul(1 + (10 << 8)) >> 8) & 0x00ff_00ff_00ff_00ff;
        let word = (word.wrapping_mul(1 + (100 << 16)) >> 16) & 0x0000_ffff_0000_ffff;
        word.wrapping_mul(1 + (10_000 << 32)) >> 32
    }

    /// The whole number that they spell; `None` where one is no digit.
    #[inline]
    pub fn whole(self) -> Option<u64> {
        (self.others() == 0).then(|| self.number())
    }

    /// The number that they spell without their point, if they have one, and how many decimals it has. `None` where one
    /// is no digit, and where there is more than one point.
    #[inline]
    pub fn decimal(self) -> Option<(u64, u32)> {
        let (Digits(word), point) = (self, self.others());
        if point == 0 {
            return Some((self.number(), 0));
        }
        let place = point.trailing_zeros() & !7;
        if !point.is_power_of_two() || (word >> place) as u8 != b'.' ^ b'0' {
            return None;
        }
        // The digits before the point move up by one, onto it.
        let (before, through) = ((1 << place) - 1, u64::MAX >> (56 - place));
        let word = (word & !through) | ((word & before) << 8);
        Some((Digits(word).number(), 7 - place / 8))
    }
}

/// The whole number of up to sixteen digits in `text[start..end]`, read together with what comes before it. `None` where it
/// is anything else, or too little comes before it.
#[inline]
pub fn whole_within(text: &[u8], start: usize, end: usize) -> Option<u64> {
    let length = end.checked_sub(start)?;
    if length <= WORD_BYTES {
        return Digits::before(text, end, length)?.whole();
    }
    let last = Digits::before(text, end, WORD_BYTES)?.whole()?;
    let first = Digits::before(text, end - WORD_BYTES, length - WORD_BYTES)?.whole()?;
    Some(first * 100_000_000 + last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whole_numbers_are_read_wherever_they_stand(
            before in "[0-9|,.:a-z]{0,12}", number in "[0-9]{1,18}|[0-9.:/é|-]{0,17}", after in "[0-9|]{0,9}",
        ) {
            let text = format!("{before}{number}{after}");
            let (start, end) = (before.len(), before.len() + number.len());
            let has_room = end >= number.len().next_multiple_of(WORD_BYTES);
            let is_short = number.len() <= 2 * WORD_BYTES && number.bytes().all(|byte| byte.is_ascii_digit());
            let expected = number.parse().ok().filter(|_| has_room && is_short);
            prop_assert_eq!(whole_within(text.as_bytes(), start, end), expected);
        }
    }
}
