//! The data lines that a session was sent, kept so that a recovery can have them again. Pure.

/// The last data lines of a session, byte for byte, numbered from 1 since it began. Appending
/// costs a copy and nothing else; between half of the bound and the bound is kept.
#[derive(Debug)]
pub(crate) struct Sent {
    half_bytes: usize,
    old: Vec<u8>,
    new: Vec<u8>,
    /// Lines before the first of `old`, before the first of `new`, and in all.
    before_old: u64,
    before_new: u64,
    count: u64,
}

impl Sent {
    /// Keeps at most about `bytes_max`, and always the lines of the latest call.
    pub fn new(bytes_max: usize) -> Sent {
        Sent {
            half_bytes: bytes_max / 2,
            old: Vec::new(),
            new: Vec::new(),
            before_old: 0,
            before_new: 0,
            count: 0,
        }
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes `count` whole lines in.
    pub fn append(&mut self, lines: &[u8], count: u64) {
        if !self.new.is_empty() && self.new.len() + lines.len() > self.half_bytes {
            std::mem::swap(&mut self.old, &mut self.new);
            self.new.clear();
            (self.before_old, self.before_new) = (self.before_new, self.count);
        }
        self.new.extend_from_slice(lines);
        self.count += count;
    }

    /// The lines behind the first `number`, in two parts. `None` where they are no longer kept or
    /// there were not so many.
    pub fn after(&self, number: u64) -> Option<[&[u8]; 2]> {
        if number < self.before_old || number > self.count {
            return None;
        }
        if number < self.before_new {
            Some([behind(&self.old, number - self.before_old), &self.new])
        } else {
            Some([&[], behind(&self.new, number - self.before_new)])
        }
    }
}

/// What follows the first `count` lines.
fn behind(lines: &[u8], count: u64) -> &[u8] {
    let Some(last) = count.checked_sub(1) else { return lines };
    let end = memchr::memchr_iter(b'\n', lines).nth(last as usize);
    end.map_or(&[], |end| &lines[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sent: &Sent, number: u64) -> Option<String> {
        sent.after(number).map(|parts| String::from_utf8(parts.concat()).unwrap())
    }

    #[test]
    fn lines_are_had_again_from_any_that_is_kept() {
        let mut sent = Sent::new(12);
        sent.append(b"1\n2\n", 2);
        assert_eq!(after(&sent, 0).unwrap(), "1\n2\n");
        sent.append(b"3\n4\n", 2);
        sent.append(b"5\n", 1);
        for (number, lines) in
            [(0, "1\n2\n3\n4\n5\n"), (1, "2\n3\n4\n5\n"), (2, "3\n4\n5\n"), (4, "5\n"), (5, "")]
        {
            assert_eq!(after(&sent, number).as_deref(), Some(lines), "{number}");
        }
        assert_eq!(after(&sent, 6), None);
        // The first two are older than half of the bound.
        sent.append(b"6\n7\n", 2);
        assert_eq!(after(&sent, 1), None);
        assert_eq!(after(&sent, 2).unwrap(), "3\n4\n5\n6\n7\n");
        assert_eq!(sent.count(), 7);
    }

    #[test]
    fn more_than_the_bound_in_one_call_is_kept_whole() {
        let mut sent = Sent::new(2);
        sent.append(b"1\n", 1);
        sent.append(b"2\n3\n4\n", 3);
        assert_eq!(after(&sent, 1).unwrap(), "2\n3\n4\n");
    }
}
