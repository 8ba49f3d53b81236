//! Who may name whom: read from the sources, so that a room cannot come to know too much unseen.

use std::path::{Path, PathBuf};

/// Files and folders in which every decision is a function of its arguments.
const PURE: [&str; 74] = [
    "domain",
    "tlcp",
    "aggregator/mod.rs",
    "aggregator/finalizer.rs",
    "aggregator/inference.rs",
    "aggregator/outbox.rs",
    "aggregator/patience.rs",
    "aggregator/rollup.rs",
    "healer/anchor.rs",
    "healer/attempts.rs",
    "healer/book.rs",
    "healer/facts.rs",
    "healer/holes.rs",
    "healer/outcome.rs",
    "healer/plan.rs",
    "healer/wishes.rs",
    "writer/batch.rs",
    "writer/journal/form.rs",
    "writer/journal/place.rs",
    "writer/journal/text.rs",
    "writer/modes.rs",
    "ig/stream/calm.rs",
    "ig/stream/chart.rs",
    "ig/stream/faulty.rs",
    "ig/stream/probes.rs",
    "ig/stream/silence.rs",
    "ig/stream/state.rs",
    "ig/stream/translate.rs",
    "ig/parse.rs",
    "ig/error.rs",
    "ig/models.rs",
    "ig/history/answer.rs",
    "ig/history/form.rs",
    "ig/history/offsets.rs",
    "ig/history/pace.rs",
    "ig/history/zone.rs",
    "ig/session/failed.rs",
    "ig/session/complaints.rs",
    "ig/session/tokens.rs",
    "commands/candles/chart",
    "commands/candles/render.rs",
    "commands/doctor/check.rs",
    "commands/doctor/judge",
    "commands/import/lines.rs",
    "commands/import/rows.rs",
    "commands/grid.rs",
    "commands/market.rs",
    "commands/paint.rs",
    "retention/mod.rs",
    "supervisor/care.rs",
    "api/asked.rs",
    "api/asked/query.rs",
    "api/guard.rs",
    "api/push/follower.rs",
    "api/push/forming.rs",
    "api/push/page.rs",
    "api/views.rs",
    "columns.rs",
    "logging/line.rs",
    "logging/repeats.rs",
    "summary/mod.rs",
    "backoff.rs",
    "skew.rs",
    "store/correction.rs",
    "store/url.rs",
    "simulator/faults",
    "simulator/feed/mischief.rs",
    "simulator/feed/candles.rs",
    "simulator/market.rs",
    "simulator/transcript/answers.rs",
    "simulator/transcript/deck.rs",
    "transcript/format.rs",
    "transcript/redact.rs",
    "transcript/secrets.rs",
];

/// What touches the world, reads a clock, or is another thing each time.
const WORLDLY: [&str; 21] = [
    "actix",
    "actix_rt",
    "actix_web",
    "awc",
    "diesel",
    "tokio",
    "rusqlite",
    "Clock::system",
    "Utc::now",
    "Local::now",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::env",
    "process::id",
    "SystemRandom",
];

/// Words of candles and of IG, which the protocol below them does not know.
const OF_CANDLES: [&str; 13] =
    ["candle", "candles", "bar", "bars", "epic", "epics", "pair", "bid", "ofr", "ask", "ig", "utm", "chart"];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file at or under a path, in order.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let sources = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|ending| ending == "rs");
    paths.iter().filter(|path| sources(path)).flat_map(|path| files(path)).collect()
}

/// The lines of a formatted source that are code of the product, numbered from 1: without
/// comments and without items under `#[cfg(test)]`.
fn product_code(source: &str) -> Vec<(usize, String)> {
    let mut code = Vec::new();
    let mut lines = source.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let indent = line.len() - line.trim_start().len();
            let ends = |line: &str| {
                let own = line.len() - line.trim_start().len() == indent;
                own && (line.ends_with('}') || line.ends_with(';'))
            };
            lines.by_ref().find(|(_, line)| ends(line));
            continue;
        }
        let line = match line.split_once("//") {
            Some((before, _)) if before.matches('"').count().is_multiple_of(2) => before,
            _ => line,
        };
        if !line.trim().is_empty() {
            code.push((number + 1, line.to_owned()));
        }
    }
    code
}

/// Whether the folder's `mod.rs` takes this file in for tests alone.
fn is_for_tests(file: &Path) -> bool {
    let parent = std::fs::read_to_string(file.with_file_name("mod.rs")).unwrap_or_default();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    parent.contains(&format!("#[cfg(test)]\nmod {stem};"))
}

fn is_part_of_name(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Whether a line has this name, and not just as a part of a longer one.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        !is_part_of_name(before.chars().next_back()) && !is_part_of_name(after.chars().next())
    })
}

/// Every place in these rooms whose line is not as it should be.
fn offences(rooms: &[&str], offends: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = source_folder();
    let mut found = Vec::new();
    for file in rooms.iter().flat_map(|room| files(&folder.join(room))) {
        if is_for_tests(&file) {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&folder).unwrap().display();
        let lines = product_code(&source);
        assert!(!lines.is_empty(), "{name} has no code");
        found.extend(
            lines
                .iter()
                .filter(|(_, line)| offends(line))
                .map(|(number, line)| format!("src/{name}:{number}: {}", line.trim())),
        );
    }
    found
}

fn check(rooms: &[&str], offends: impl Fn(&str) -> bool) {
    let found = offences(rooms, offends);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The rooms that a line names by `crate::`.
fn rooms_named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !is_part_of_name(Some(c))).unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn pure_rooms_touch_no_world_and_read_no_clock() {
    check(&PURE, |line| WORLDLY.iter().any(|name| names(line, name)));
}

#[test]
fn the_protocol_knows_neither_candles_nor_ig() {
    check(&["tlcp"], |line| {
        // As words of snake_case and of CamelCase alike.
        let mut words = vec![String::new()];
        for c in line.chars() {
            if !c.is_alphanumeric() || c.is_uppercase() {
                words.push(String::new());
            }
            if c.is_alphanumeric() {
                words.last_mut().expect("there is one").extend(c.to_lowercase());
            }
        }
        words.iter().any(|word| OF_CANDLES.contains(&word.as_str()))
            || rooms_named(line).any(|room| room != "tlcp")
    });
}

#[test]
fn the_domain_knows_no_room() {
    check(&["domain"], |line| rooms_named(line).any(|room| room != "domain"));
}

#[test]
fn the_simulator_shares_nothing_with_the_client() {
    // The form of transcripts is neither's: a file between them.
    let shared = ["domain", "simulator", "transcript"];
    check(&["simulator"], |line| rooms_named(line).any(|room| !shared.contains(&room)));
}

#[test]
fn the_store_knows_neither_broker_nor_actors() {
    check(&["store"], |line| {
        ["actix", "awc"].iter().any(|name| names(line, name))
            || rooms_named(line).any(|room| ["ig", "tlcp", "simulator", "messages"].contains(&room))
    });
}

#[test]
fn only_the_clock_and_the_simulators_read_the_time() {
    let clocks = ["src/clock.rs", "src/simulator/clock.rs"];
    let reading = ["Utc::now", "Local::now", "Instant::now", "SystemTime::now"];
    let found = offences(&[""], |line| reading.iter().any(|name| names(line, name)));
    let elsewhere: Vec<_> =
        found.iter().filter(|place| !clocks.iter().any(|clock| place.starts_with(clock))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    assert!(found.len() >= 2, "the reader of sources finds nothing at all: {found:?}");
}

#[test]
fn the_reader_of_sources_sees_code_alone() {
    let source = "use a; // actix\n/// tokio\nlet url = \"http://x\";\n#[cfg(test)]\nmod tests {\n    use awc;\n}\nend\n";
    let code: Vec<String> = product_code(source).into_iter().map(|(_, line)| line).collect();
    assert_eq!(code, ["use a; ", "let url = \"http://x\";", "end"]);
    assert!(names("use actix::Actor;", "actix") && names("(Utc::now)()", "Utc::now"));
    assert!(!names("use actix_rt::spawn;", "actix") && !names("reawc", "awc"));
    assert_eq!(rooms_named("use crate::ig::{A}; crate::tlcp").collect::<Vec<_>>(), ["ig", "tlcp"]);
}
