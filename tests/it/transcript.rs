//! What is recorded of one run is the market of another, and holds no secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use candlekeep::simulator::{Account, AccountType, Credentials, Options};
use candlekeep::transcript::{Entry, Transcript};

use super::world::{DEPTH, Database, Holes, START, STEP, Service, World, market};

/// Whom the simulator knows. Every secret and every name has a mark.
fn marked() -> Credentials {
    let account = |id: &str, account_type, preferred| Account {
        id: id.to_owned(),
        name: format!("Name marked {id}"),
        account_type,
        preferred,
    };
    Credentials {
        identifier: "marked-user".to_owned(),
        password: "marked|pass&word%\"\\/é".to_owned(),
        api_key: "marked-key".to_owned(),
        accounts: vec![
            account("MARKED1", AccountType::Cfd, true),
            account("MARKED2", AccountType::Spreadbet, false),
        ],
        accept_any: false,
    }
}

/// Plays a file on a free port; the process, and where it serves.
fn play(file: &Path, folder: &Path) -> (Service, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlekeep"));
    command.args(["simulate", "--listen", "127.0.0.1:0", "--speed", "max", "--transcript"]).arg(file);
    let mut player = Service::spawn(command.current_dir(folder).env_clear().stdout(Stdio::piped()));
    let url = player.first_line();
    (player, url)
}

/// A text longer than any placeholder that looks made of random digits, as tokens do.
fn looks_random(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit()).any(|run| run.len() >= 16)
}

fn check(version: &str) {
    let world = World::new(Options { credentials: marked(), ..market(3) });
    let cut = START.plus(10 * STEP)..START.plus(12 * STEP);
    world.simulator().control().schedule_outage(cut.start, cut.end);
    // IG's own limits, so that it is asked for them.
    let limits = ("CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE", "");
    let variables = [("CANDLEKEEP_SESSION_VERSION", version), ("IG_ACCOUNT_ID", "MARKED2"), limits];
    let mut service = world.start("run --record said.jsonl", &variables);
    world.wait_complete(&mut service);
    let sessions = world.simulator().stream_sessions();
    service.stop();
    world.verify(Holes::None);

    let file = world.folder().join("said.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let plain = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().to_lowercase();
    for secret in ["marked", "100112233", "pass&word", "10000.0"] {
        assert!(!text.contains(secret) && !plain.contains(secret), "{secret} was recorded");
    }
    assert!(!sessions.is_empty() && sessions.iter().all(|(id, _)| !text.contains(id)));
    assert!(text.lines().all(|line| !looks_random(line)), "a token was recorded");
    for told in ["CST-1", "ACCOUNT-2", "STREAM-PASSWORD-1", "SESSION-2", "ADDRESS-1", "KEY-1", "USER-1"] {
        assert!(text.contains(told), "{told} is not in the transcript");
    }
    let transcript = Transcript::read(text.as_bytes()).unwrap();
    assert!(matches!(transcript.lines.last().unwrap().entry, Entry::Ended { .. }));
    assert!(!transcript.lines.iter().any(|line| matches!(line.entry, Entry::Dropped { .. })));

    let (player, url) = play(&file, world.folder());
    let other = world.folder().join("played.db");
    let database = format!("sqlite:///{}", other.display());
    let variables = [
        ("CANDLEKEEP_SESSION_VERSION", version),
        ("IG_ACCOUNT_ID", "ACCOUNT-1"),
        ("IG_API_URL", url.as_str()),
        ("DATABASE_URL", database.as_str()),
        limits,
    ];
    let recorded = Database::open(&world.database()).unwrap();
    let mut service = world.start("run", &variables);
    let bars = "SELECT count(*) FROM candles";
    let expected = recorded.number(bars);
    service.wait("the bars of the transcript", || {
        Database::open(&other).and_then(|database| database.number(bars)) == expected
    });
    service.stop();
    player.stop();
    let played = Database::open(&other).unwrap();
    for timeframe in ["5", "15"] {
        let (recorded, played) = (recorded.bars(timeframe), played.bars(timeframe));
        assert_eq!(recorded.len(), 28);
        for (pair, bars) in recorded {
            let prices = |bars: &std::collections::BTreeMap<i64, super::world::StoredRow>| -> Vec<_> {
                bars.iter().map(|(start, row)| (*start, row.prices, row.volume, row.revision)).collect()
            };
            assert_eq!(prices(&bars), prices(&played[&pair]), "{pair} {timeframe}");
            assert!(bars.len() as i64 >= DEPTH, "{pair} {timeframe}: {} bars", bars.len());
        }
    }
}

#[test]
fn a_run_is_recorded_without_secrets_and_played_back() {
    check("2");
}

#[test]
fn so_is_a_run_with_oauth_tokens() {
    check("3");
}

#[test]
fn a_recording_overwrites_nothing_and_what_is_no_transcript_is_not_played() {
    let world = World::new(market(1));
    std::fs::write(world.folder().join("precious.txt"), "precious\n").unwrap();
    let recording = world.output("run --record precious.txt", &[]);
    let error = String::from_utf8(recording.stderr).unwrap();
    assert_eq!((recording.status.code(), error.lines().count()), (Some(78), 1), "{error}");
    assert!(error.contains("precious.txt exists already: a recording needs a new file"), "{error}");
    assert_eq!(std::fs::read(world.folder().join("precious.txt")).unwrap(), b"precious\n");
    assert!(!world.database().exists() && world.simulator().stats().rest_requests == 0);

    let playing = world.output("simulate --transcript precious.txt", &[]);
    let error = String::from_utf8(playing.stderr).unwrap();
    assert_eq!((playing.status.code(), error.lines().count()), (Some(78), 1), "{error}");
    assert!(error.contains("precious.txt, line 1: not the head of a transcript"), "{error}");
}
