//! Lines of a file, each within a bound, numbered from 1.

use std::io::{self, BufRead};

/// The longest line that is read. One of `export` has some 250 bytes.
pub const LINE_BYTES_MAX: usize = 4_096;

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No line of ours is so long.
    #[error("longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Not text.
    #[error("not UTF-8")]
    NotUtf8,
}

/// Reads line after line into one buffer.
pub struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines from where `input` is.
    pub fn new(input: R) -> Lines<R> {
        Lines { input, buffer: Vec::new(), number: 0 }
    }

    /// The number of the line read last, or that could not be read.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, without its end and without the mark that some programs begin
    /// a file with. None after the last.
    pub fn next_line(&mut self) -> Result<Option<&str>, LineError> {
        loop {
            self.buffer.clear();
            self.number += 1;
            let mut within = io::Read::take(&mut self.input, LINE_BYTES_MAX as u64 + 1);
            if within.read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(LineError::TooLong);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let text = std::str::from_utf8(&self.buffer).map_err(|_| LineError::NotUtf8)?.trim_end();
        let is_first = self.number == 1;
        Ok(Some(text.strip_prefix('\u{feff}').filter(|_| is_first).unwrap_or(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut told = Vec::new();
        loop {
            let line = lines.next_line().map(|line| line.map(str::to_owned));
            let number = lines.number();
            match line {
                Ok(None) => return told,
                Ok(Some(line)) => told.push(format!("{number}:{line}")),
                Err(error) => {
                    told.push(format!("{number}!{error}"));
                    return told;
                }
            }
        }
    }

    #[test]
    fn lines_end_as_any_program_ends_them() {
        assert_eq!(read(b"a,b\n1,2\n"), ["1:a,b", "2:1,2"]);
        assert_eq!(read(b"a,b\r\n\r\n1,2"), ["1:a,b", "3:1,2"]);
        assert_eq!(read("\u{feff}a,b\n\u{feff}".as_bytes()), ["1:a,b", "2:\u{feff}"]);
        assert_eq!(read(b""), [""; 0]);
    }

    #[test]
    fn what_is_no_line_of_text_is_refused_without_being_held() {
        assert_eq!(read(b"a\n\xff\n"), ["1:a", "2!not UTF-8"]);
        assert_eq!(read(&vec![b'x'; 1_000_000]), ["1!longer than 4096 bytes"]);
        assert_eq!(read(&vec![b'x'; LINE_BYTES_MAX]).len(), 1);
    }
}
