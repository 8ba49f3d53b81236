//! The program as a shell sees it: one clear line on stderr, the right exit code, and nothing
//! half-made left behind.

use std::path::Path;
use std::process::{Command, Output};

use candlekeep::store::{DatabaseUrl, Store};

/// The program in an empty folder, with these variables and no others.
fn candlekeep(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candlekeep"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8")
}

/// Runs a command that has to fail: with this code, one line that begins like this, nothing on
/// stdout and no file that was not there before.
fn refused(line: &str, variables: &[(&str, &str)], files: &[(&str, &str)], code: i32, begins: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let output = candlekeep(folder.path(), line, variables);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{line}: {stderr}");
    let folder_text = folder.path().canonicalize().unwrap().display().to_string();
    let begins = format!("candlekeep: {}", begins.replace("FOLDER", &folder_text));
    assert!(stderr.starts_with(&begins), "{line}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{line}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, files.len(), "{line} left something behind");
}

#[test]
fn wrong_usage_is_2() {
    refused("candels EUR_USD 5", &[], &[], 2, "unrecognized subcommand 'candels'; tip: ");
    refused("candles EUR_US 5", &[], &[], 2, "invalid value 'EUR_US' for '<PAIR>': not a currency pair");
    refused("candles EUR_USD 7", &[], &[], 2, "invalid value '7' for '<TIMEFRAME>': unknown timeframe");
    refused("candles EUR_USD 5 --count 0", &[], &[], 2, "invalid value '0' for '--count <BARS>'");
    refused(
        "candles EUR_USD 5 --from noon",
        &[],
        &[],
        2,
        "invalid value 'noon' for '--from <TIME>': not a time",
    );
}

#[test]
fn what_makes_no_sense_of_files_and_copies_is_2() {
    refused(
        "candles EUR_USD 5 --as-of noon",
        &[],
        &[],
        2,
        "invalid value 'noon' for '--as-of <TIME>': not a time",
    );
    refused(
        "candles EUR_USD 5 --as-of 5 --fetch",
        &[],
        &[],
        2,
        "the argument '--as-of <TIME>' cannot be used",
    );
    refused("export --from 9 --to 5", &[], &[], 2, "--from 1970-01-01T00:00:09Z is not before --to");
    refused(
        "backup b.db --database postgres://h/d",
        &[],
        &[],
        2,
        "backup copies an SQLite file: of PostgreSQL take pg_dump",
    );
    if cfg!(not(feature = "parquet")) {
        let begins =
            "this candlekeep is built without Parquet: use --format csv, or build it with `cargo install";
        refused("export --format parquet", &[], &[], 2, begins);
    }
}

#[test]
fn a_file_that_cannot_be_imported_is_told_by_line_and_leaves_no_database() {
    let header = "pair,timeframe,timestamp,open,high,low,close";
    let check = |text: &str, begins: &str| refused("import a.csv", &[], &[("a.csv", text)], 1, begins);
    check("", "a.csv is empty");
    check("open,high\n", "a.csv:1: no column low; the first line names the columns");
    check(&format!("{header}\n\nEUR_USD,5,300,1,2,1\n"), "a.csv:3: 6 fields, the first line names 7");
    check(
        &format!("{header}\nEUR_USD,5,301,1,2,1,1\n"),
        "a.csv:2: column 3 (timestamp): 1970-01-01T00:05:01Z is not",
    );
    check(
        &format!("{header}\nEUR_USD,5,300,1,2,1,1\nEUR_USD,5,300,1,2,1,1\n"),
        "a.csv:3: column 3 (timestamp): the bar of 1970-01-01T00:05:00Z of EUR_USD 5 is there twice",
    );
    refused("import nowhere.csv", &[], &[], 1, "cannot read nowhere.csv: ");
    refused("backup b.db", &[], &[], 1, "no database at FOLDER/candlekeep.db");
    refused("export --output e.csv", &[], &[], 1, "no database at FOLDER/candlekeep.db");
}

#[test]
fn a_wrong_configuration_is_78() {
    refused("run", &[], &[], 78, "missing credentials: set IG_API_KEY, IG_USERNAME, IG_PASSWORD");
    refused("run --config nowhere.toml", &[], &[], 78, "cannot read nowhere.toml: ");
    refused("run", &[("CANDLEKEEP_CONFIG", "nowhere.toml")], &[], 78, "cannot read nowhere.toml: ");
    refused("run", &[], &[("candlekeep.toml", "[ig\n")], 78, "candlekeep.toml:1:4: not valid TOML: ");
    refused(
        "candles EUR_USD 5",
        &[],
        &[("candlekeep.toml", "clok = 1\n")],
        78,
        "candlekeep.toml:1: unknown key \"clok\"; the nearest known key is \"clock\"",
    );
    refused(
        "run",
        &[("CANDLEKEEP_CLOK", "stream")],
        &[],
        78,
        "unknown environment variable CANDLEKEEP_CLOK; the nearest known one is CANDLEKEEP_CLOCK",
    );
    refused(
        "candles EUR_USD 5",
        &[("CANDLEKEEP_RETENTION_DAYS", "3")],
        &[],
        78,
        "CANDLEKEEP_RETENTION_DAYS: 3 days are too few: history.give_up_days and history.depth reach back",
    );
    refused("run", &[("IG_PASSWORD_FILE", "nowhere")], &[], 78, "cannot read nowhere: ");
}

#[test]
fn a_simulator_on_a_busy_port_says_how_to_take_another() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let line = format!("simulate --listen {address}");
    let output = candlekeep(tempfile::tempdir().unwrap().path(), &line, &[]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains(&address.to_string()) && told.contains("; --listen names another"), "{told}");
}

#[test]
fn what_may_pass_is_1() {
    let absent = "no database at FOLDER/candlekeep.db: `candlekeep run` makes one, `candlekeep demo` one \
                  without an account; --database, DATABASE_URL or database.url names another";
    refused("candles EUR_USD 5", &[], &[], 1, absent);
    refused(
        "init",
        &[],
        &[("candlekeep.toml", "")],
        1,
        "candlekeep.toml exists already: --force replaces it",
    );
    refused("init --path no/folder.toml", &[], &[], 1, "cannot write no/folder.toml: ");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let files = [("candlekeep.db", "this is not a database, but a letter to a friend")];
    refused("candles EUR_USD 5", &[], &files, 78, "");
}

#[test]
fn a_demonstration_wants_a_database_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let csv = "pair,timeframe,timestamp,open,high,low,close,volume\nEUR_USD,5,1704708000,1.1,1.1,1.1,1.1,7\n";
    std::fs::write(folder.path().join("a.csv"), csv).unwrap();
    let imported = candlekeep(folder.path(), "--database sqlite://a.db import a.csv", &[]);
    assert_eq!(imported.status.code(), Some(0), "{}", text(&imported.stderr));
    let refuses = |what: &str| {
        let before = std::fs::read(&path).unwrap();
        let output = candlekeep(folder.path(), "--database sqlite://a.db demo --exit", &[]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{what}: {told}");
        assert!(
            told.contains("a.db is not empty") && told.contains("leave --database out"),
            "{what}: {told}"
        );
        assert_eq!(text(&output.stdout), "", "{what}");
        assert!(std::fs::read(&path).unwrap() == before, "{what}: it was written to");
    };
    refuses("bars that were imported");
    // One that somebody has begun to use, though no bar has come yet.
    std::fs::remove_file(&path).unwrap();
    let url: DatabaseUrl = format!("sqlite://{}", path.display()).parse().unwrap();
    let mut store = Store::open(&url).unwrap();
    assert!(store.is_blank().unwrap());
    store.bind_environment("custom", false).unwrap();
    drop(store);
    refuses("the environment alone");
}

#[test]
fn in_the_journal_a_failure_has_its_priority() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlekeep(folder.path(), "run", &[("JOURNAL_STREAM", "9:1")]);
    assert!(text(&output.stderr).starts_with("<3>candlekeep: missing credentials"));
}

#[test]
fn init_writes_a_configuration_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlekeep(folder.path(), "init", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("wrote candlekeep.toml\n"));
    // It is found and accepted: what is missing next is the database.
    let output = candlekeep(folder.path(), "candles EUR_USD 5", &[]);
    assert!(text(&output.stderr).starts_with("candlekeep: no database at "), "{}", text(&output.stderr));
}

#[test]
fn reading_needs_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlekeep(folder.path(), "candles EUR_USD 5", &[("IG_PASSWORD_FILE", "/nowhere")]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[test]
fn help_and_version_are_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for (line, code) in [("--help", 0), ("candles --help", 0), ("--version", 0), ("", 2)] {
        let output = candlekeep(folder.path(), line, &[]);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert_eq!(text(&output.stdout).is_empty(), code != 0, "{line}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlekeep(folder.path(), "man pages/man1", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = |name: &str| std::fs::read_to_string(folder.path().join("pages/man1").join(name)).unwrap();
    let help = text(&candlekeep(folder.path(), "--help", &[]).stdout);
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| !word.is_empty())
        .collect();
    assert!(commands.contains(&"run") && commands.contains(&"man"), "{commands:?}");
    let main = page("candlekeep.1");
    for command in &commands {
        let own = page(&format!("candlekeep-{command}.1"));
        assert!(own.contains(&format!("\n.TH candlekeep-{command} 1 ")), "{command}: {own}");
        assert!(own.contains(&format!("\ncandlekeep\\-{command} \\- ")), "{command}: {own}");
        assert!(main.contains(&format!("\ncandlekeep\\-{command}(1)\n")), "{command}");
    }
    let count = std::fs::read_dir(folder.path().join("pages/man1")).unwrap().count();
    assert_eq!(count, commands.len() + 1);
    let said = format!("wrote {count} pages to pages/man1: candlekeep.1 and one for every command\n");
    assert_eq!(text(&output.stdout), said);
    // As it is found in a terminal: what it takes, with values, and what its end means.
    let run = page("candlekeep-run.1");
    assert!(
        run.contains("[\\fB\\-\\-record\\fR \\fIFILE\\fR]\n") && run.contains("\n.SH EXIT STATUS\n"),
        "{run}"
    );
    let candles = page("candlekeep-candles.1");
    let place = |what: &str| candles.find(what).unwrap_or_else(|| panic!("{what}: {candles}"));
    assert!(place("\n.SH ARGUMENTS\n") < place("\n.SH OPTIONS\n"), "{candles}");
    assert_eq!(text(&candlekeep(folder.path(), "man", &[]).stdout), main);

    refused("man taken/man1", &[], &[("taken", "")], 1, "cannot make taken/man1: ");
}

#[test]
fn shells_complete_what_help_shows_and_nothing_hidden() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = candlekeep(folder.path(), &format!("completions {shell}"), &[]);
        assert_eq!(output.status.code(), Some(0), "{shell}: {}", text(&output.stderr));
        let script = text(&output.stdout);
        for shown in [
            "explain",
            "retry-credentials",
            "database",
            "timeframes",
            "watch",
            "chart",
            "color",
            "EUR_USD",
            "GBP_JPY",
        ] {
            assert!(script.contains(shown), "{shell}: {shown}");
        }
        assert!(!script.contains("failpoint"), "{shell}");
        // Which options a command has stands in a line each.
        if shell == "fish" {
            let takes = |command: &str, option: &str| {
                let (of, named) = (format!("_subcommand {command}\""), format!(" -l {option} "));
                script.lines().any(|line| line.contains(&of) && line.contains(&named))
            };
            for command in ["copy", "simulate", "man", "completions"] {
                assert!(!takes(command, "config") && !takes(command, "database"), "{command}");
            }
            assert!(takes("init", "config") && !takes("init", "database"));
            assert!(takes("run", "config") && takes("run", "database") && takes("copy", "color"));
        }
    }
    refused("completions tcsh", &[], &[], 2, "invalid value 'tcsh' for '<SHELL>'");
}

#[test]
fn what_cannot_be_printed_whole_is_1() {
    for line in ["man", "completions bash"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_candlekeep"))
            .args(line.split_whitespace())
            .stdout(full)
            .output()
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(text(&output.stderr).starts_with("candlekeep: cannot write to standard output: "), "{line}");
    }
}

/// Linked in by an object file of its own (`build.rs`), which nothing refers to.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_program_tells_its_allocator_how_to_give_memory_back() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_candlekeep")).unwrap();
    let asked_of_libc = b"\0mallopt\0";
    assert!(program.windows(asked_of_libc.len()).any(|bytes| bytes == asked_of_libc));
}
