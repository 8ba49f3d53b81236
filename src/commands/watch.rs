//! Something that is shown anew, in place on a terminal, one after the other elsewhere, until it is enough.

use std::io::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::margin;
use super::run::told_to_stop;
use crate::exit::{Exit, Failure};

/// Begins to show in place: a screen of its own, without cursor, lines cut where they are too long.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
/// Gives the terminal back as it was.
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// To the upper left corner.
const HOME: &str = "\u{1b}[H";
/// Takes away what is left of a line, and of what is below it.
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_BELOW: &str = "\u{1b}[J";

/// Gives the terminal back, however the watching ends.
struct Screen;

impl Screen {
    fn enter() -> Screen {
        put(ENTER);
        Screen
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put(LEAVE);
    }
}

/// Something to watch.
pub trait Watched: Send + Sync + 'static {
    /// What is to be shown, given the columns there are. May take as long as it likes.
    ///
    /// # Errors
    /// Why it cannot be told.
    fn draw(&self, columns: Option<usize>) -> Result<String, Failure>;

    /// What is shown instead, where it could be told before and cannot be now.
    fn draw_failure(&self, failure: &Failure) -> String;
}

/// Shows what is watched. Ends with the first failure; a later one is shown in its place, since what is watched may
/// come back.
///
/// # Errors
/// That of the first drawing.
pub fn watch(every: Duration, watched: impl Watched) -> Result<Exit, Failure> {
    // Who has nothing to show leaves the terminal alone.
    let mut shown = watched.draw(margin::columns())?;
    let watched = Arc::new(watched);
    super::on_actix(async move {
        let stop = told_to_stop();
        let mut resized = signal(SignalKind::window_change()).map_err(Failure::failed)?;
        let screen = screen_rows().map(|_| Screen::enter());
        tokio::pin!(stop);
        loop {
            let text = match screen_rows() {
                Some(rows) if screen.is_some() => framed(&shown, rows),
                _ => format!("{}\n", shown.trim_end()),
            };
            if !put(&text) {
                return Ok(Exit::Done);
            }
            tokio::select! {
                () = &mut stop => return Ok(Exit::Done),
                _ = resized.recv() => {}
                () = actix_rt::time::sleep(every) => {}
            }
            // A database that hangs keeps nobody who wants to leave.
            let drawn = tokio::select! {
                () = &mut stop => return Ok(Exit::Done),
                drawn = drawn_aside(&watched) => drawn,
            };
            shown = drawn.unwrap_or_else(|failure| watched.draw_failure(&failure));
        }
    })
}

/// Draws on a thread of its own, which ends with the process at the latest: one of the runtime's would have to end
/// before the runtime does.
async fn drawn_aside(watched: &Arc<impl Watched>) -> Result<String, Failure> {
    let (tell, told) = oneshot::channel();
    let watched = watched.clone();
    let drawing = move || _ = tell.send(watched.draw(margin::columns()));
    thread::Builder::new().name("candlekeep-draw".to_owned()).spawn(drawing).map_err(Failure::failed)?;
    told.await.unwrap_or_else(|_| Err(Failure::failed("reading failed")))
}

/// The rows of the terminal, where there is one on which the cursor can be moved.
fn screen_rows() -> Option<usize> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    margin::size().filter(|_| !is_dumb).map(|(_, rows)| rows)
}

/// Whether there still is somebody to show it to.
fn put(text: &str) -> bool {
    let mut stdout = anstream::stdout();
    // Moving about is no colour: the stream would take it out where colours are not wanted.
    if screen_rows().is_some() {
        let text = if super::has_colors() { text.to_owned() } else { uncoloured(text) };
        let mut raw = std::io::stdout();
        return raw.write_all(text.as_bytes()).and_then(|()| raw.flush()).is_ok();
    }
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// The text without what sets its colour, which ends in `m`; other sequences stay.
fn uncoloured(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let (before, sequence) = rest.split_at(at);
        let end = sequence.char_indices().skip(2).find(|(_, letter)| letter.is_ascii_alphabetic());
        let end = end.map_or(sequence.len(), |(at, _)| at + 1);
        plain.push_str(before);
        if !sequence[..end].ends_with('m') {
            plain.push_str(&sequence[..end]);
        }
        rest = &sequence[end..];
    }
    plain + rest
}

/// A text for a screen of so many rows: over what was there, and no longer than the screen.
fn framed(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let fit = if lines.len() <= rows { lines.len() } else { rows.saturating_sub(1) };
    let mut frame = HOME.to_owned();
    for (index, line) in lines[..fit].iter().enumerate() {
        if index > 0 {
            frame.push_str("\r\n");
        }
        frame.push_str(line);
        frame.push_str(CLEAR_LINE);
    }
    if fit < lines.len() {
        if fit > 0 {
            frame.push_str("\r\n");
        }
        frame.push_str(&format!(
            "… {} more lines: a taller or wider window shows them{CLEAR_LINE}",
            lines.len() - fit
        ));
    }
    frame + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::paint::{BAD, paint};

    #[test]
    fn a_frame_is_as_high_as_the_screen_at_most_and_says_what_it_cuts() {
        let check = |text: &str, rows, expected: &str| {
            let frame =
                framed(text, rows).replace(CLEAR_LINE, "<").replace(CLEAR_BELOW, "_").replace(HOME, "^");
            assert_eq!(frame, expected, "{text:?} in {rows}");
        };
        check("a\nb\n", 2, "^a<\r\nb<_");
        check("a\nb\n", 20, "^a<\r\nb<_");
        check("a\nb\nc", 2, "^a<\r\n… 2 more lines: a taller or wider window shows them<_");
        check("a\nb\nc", 1, "^… 3 more lines: a taller or wider window shows them<_");
        check("", 5, "^_");
    }

    #[test]
    fn without_colours_the_cursor_still_moves() {
        let painted = format!("{HOME}{}{CLEAR_LINE}\u{1b}[1;31m!\u{1b}[0m\u{1b}[", paint(BAD, "gone"));
        assert_eq!(uncoloured(&painted), format!("{HOME}gone{CLEAR_LINE}!\u{1b}["));
    }
}
