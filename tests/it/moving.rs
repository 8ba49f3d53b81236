//! Bars that leave and enter by files, copies of the database and what is put back, and what is deleted
//! for its age: the whole program, also beside itself.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use candlekeep::domain::{Timeframe, Timestamp};
use candlekeep::simulator::faults::Script;
use candlekeep::simulator::{Options, Speed};
use rusqlite::Connection;

use super::postgres;
use super::world::{Database, Holes, START, STEP, World, market, row_of};

/// A command that has to end with this code; answers what it printed, on stdout or else on stderr.
fn told(world: &World, line: &str, variables: &[(&str, &str)], code: i32) -> String {
    let output = world.output(line, variables);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(code), "{line}: {stdout}{stderr}");
    if stdout.is_empty() { stderr } else { stdout }
}

/// What happened in the market, as a file to be imported: pair by pair, 5-minute bars with both sides.
fn file_of(world: &World, span: Range<Timestamp>) -> String {
    let truth = world.simulator().truth();
    let mut text = "pair,timeframe,timestamp,volume,bid_open,bid_high,bid_low,bid_close,\
                    ask_open,ask_high,ask_low,ask_close\n"
        .to_owned();
    for pair in truth.pairs() {
        for bar in truth.bars(*pair, Timeframe::M5, span.clone()) {
            write!(text, "{pair},5,{},{}", bar.key.start, bar.volume).unwrap();
            for price in bar.bid.prices().into_iter().chain(bar.ask.prices()) {
                write!(text, ",{price}").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

/// Holds every stored bar of these lengths against the market.
fn hold_against_market(world: &World) {
    let (truth, database) = (world.simulator().truth(), Database::open(&world.database()).unwrap());
    for timeframe in [Timeframe::M5, Timeframe::M15] {
        for (pair, bars) in database.bars(timeframe.as_str()) {
            for (start, stored) in bars {
                let happened = truth.bar(pair.parse().unwrap(), timeframe, Timestamp(start));
                let expected = happened.map(|bar| row_of(&bar));
                assert_eq!(Some((stored.prices, stored.volume)), expected, "{pair} {timeframe} {start}");
            }
        }
    }
}

#[test]
fn what_is_exported_is_imported_as_it_was_and_again_changes_nothing() {
    let world = World::new(market(3));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let wrote = told(&world, "export --output all.csv", &[], 0);
    let bars = world.stored();
    assert!(wrote.starts_with(&format!("wrote {bars} bars of 28 pairs to all.csv (")), "{wrote}");
    assert_eq!(told(&world, "export", &[], 0).lines().count() as i64, bars + 1);
    let some = told(
        &world,
        &format!("export --pairs eurusd --timeframes 5 --from {} --to {}", START, START.plus(600)),
        &[],
        0,
    );
    assert_eq!(some.lines().count(), 3, "{some}");

    let other = world.folder().join("other.db");
    let url = format!("sqlite:///{}", other.display());
    let into_other = [("DATABASE_URL", url.as_str())];
    told(&world, "import all.csv --dry-run", &into_other, 0);
    assert!(!other.exists());
    let first = told(&world, "import all.csv --format json", &into_other, 0);
    assert!(first.contains(r#""refused":0"#) && first.contains(r#""superseded":0"#), "{first}");
    let [was, is] = [world.database(), other].map(|path| Database::open(&path).unwrap());
    for timeframe in ["5", "15"] {
        let values = |database: &Database| -> Vec<_> {
            let bars = database.bars(timeframe).into_iter();
            bars.flat_map(|(pair, bars)| {
                bars.into_iter().map(move |(start, bar)| (pair.clone(), start, bar.prices, bar.volume))
            })
            .collect()
        };
        assert_eq!(values(&is), values(&was), "{timeframe}");
    }
    let before = told(&world, "export", &into_other, 0);
    let again = told(&world, "import all.csv", &into_other, 0);
    assert!(again.contains(&format!("{bars} unchanged")), "{again}");
    assert_eq!(told(&world, "export", &into_other, 0), before);
    told(&world, "gaps --verify", &into_other, 0);
}

#[test]
fn a_file_with_one_error_is_not_stored_at_all() {
    let world = World::new(market(1));
    let mut lines: Vec<String> =
        file_of(&world, START.plus(-86_400)..START).lines().map(str::to_owned).collect();
    assert!(lines.len() > 5_000, "more than a transaction");
    let last = lines.len();
    let fields: Vec<String> = lines[last - 1].split(',').map(str::to_owned).collect();
    lines[last - 1] = [&fields[..5], &["0.5".to_owned()], &fields[6..]].concat().join(",");
    std::fs::write(world.folder().join("bad.csv"), lines.join("\n")).unwrap();
    let why = told(&world, "import bad.csv", &[], 1);
    assert!(why.contains(&format!("bad.csv:{last}: column 6 (bid_high): 0.5 is not the highest")), "{why}");
    assert!(!world.database().exists());
}

#[test]
fn an_import_beside_the_service_fills_what_is_missing_and_disturbs_nothing() {
    let outage = r#"[{"do": "outage", "for_s": 1500, "after_s": 600}]"#;
    let faults = Script::parse(outage).unwrap();
    // No point for the outage, nor for the first history.
    let options =
        Options { faults, allowance: 0, rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(4) };
    let world = World::new(options);
    let mut service = world.run();
    let newest = "SELECT max(timestamp) FROM candles WHERE timeframe = '5'";
    let holes = format!(
        "SELECT count(*) FROM coverage WHERE state = 'missing' AND reason <> 'silent' AND timeframe = '5' AND from_ts >= {}",
        START.0
    );
    world.wait(&mut service, "the time after the outage", |world| {
        world.number(newest) > START.plus(3_600).0 && world.number(&holes) > 0
    });
    // More than is missing: what is there already says the same.
    std::fs::write(world.folder().join("true.csv"), file_of(&world, START.plus(-7_200)..START.plus(3_000)))
        .unwrap();
    let said = told(&world, "import true.csv --format json", &[], 0);
    assert!(said.contains(r#""refused":0"#) && said.contains(r#""superseded":0"#), "{said}");
    world.wait_streamed(&mut service);
    service.stop();
    hold_against_market(&world);
    let number = |query: &str| world.number(query);
    assert_eq!(number(&holes), 0, "the outage is filled");
    let imported = "SELECT count(*) FROM candles WHERE source = 'import'";
    assert!(number(imported) > 28 * 4);
    assert_eq!(number("SELECT count(*) FROM candles WHERE revision > 0"), 0);
    // What was stored as it is carries the name of the file, whatever the service did meanwhile.
    let evidence = "SELECT count(DISTINCT evidence) FROM coverage WHERE evidence = 'import:true.csv'";
    assert_eq!(number(evidence), 1);
    told(&world, "gaps --verify", &[], 0);
    let whole = format!("gaps --complete EUR_USD 15 {} {}", START.plus(-7_200), START.plus(3_600));
    told(&world, &whole, &[], 0);
}

/// Puts a copy in the place of the database, as the README says.
pub(super) fn restore(world: &World, copy: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let mut path = world.database().into_os_string();
        path.push(ending);
        let _ = std::fs::remove_file(path);
    }
    std::fs::copy(copy, world.database()).unwrap();
}

#[test]
fn a_backup_is_put_back_and_what_came_since_is_healed() {
    let options = Options { rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(3) };
    let world = World::new(options);
    let mut service = world.run();
    let newest = "SELECT max(timestamp) FROM candles WHERE timeframe = '5'";
    let has_come_to = |after_s: i64| move |world: &World| world.number(newest) >= START.plus(after_s).0;
    world.wait(&mut service, "bars", has_come_to(1_200));
    let said = told(&world, "backup monday.db", &[], 0);
    assert!(said.contains(" bars, ") && said.contains("to restore: stop the service"), "{said}");
    told(&world, "backup monday.db", &[], 1);
    told(&world, "backup monday.db --force", &[], 0);
    told(&world, "backup candlekeep.db --force", &[], 2);
    let backup = world.folder().join("monday.db");
    let kept = Database::open(&backup).unwrap().number(newest).unwrap();
    // The service has written on, and now loses it all.
    world.wait(&mut service, "later bars", move |world| world.number(newest) >= kept + 4 * STEP);
    service.kill();
    restore(&world, &backup);
    assert!(world.number(newest) <= kept);
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    told(&world, "gaps --verify", &[], 0);
}

/// Makes the database what it was when two migrations were known.
fn downgrade(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("../../migrations/sqlite/0006_ledger_in_rows/down.sql")).unwrap();
    connection
        .execute_batch(
            "DELETE FROM __diesel_schema_migrations WHERE version IN ('0003', '0004', '0005', '0006');
             DROP VIEW freshness; DROP TABLE watched_bars; DROP TABLE market_hours;
             DROP TABLE lease; DROP TABLE fetch_requests; DROP TABLE heal_attempts; DROP INDEX coverage_state;
             ALTER TABLE allowance DROP COLUMN pair; ALTER TABLE allowance DROP COLUMN timeframe;
             ALTER TABLE allowance DROP COLUMN from_ts; ALTER TABLE allowance DROP COLUMN to_ts;
             ALTER TABLE allowance DROP COLUMN incident_from; ALTER TABLE allowance DROP COLUMN incident_to;
             ALTER TABLE allowance DROP COLUMN refusal;",
        )
        .unwrap();
}

#[test]
fn the_copy_of_before_a_migration_is_put_back_and_migrated_again() {
    let options = Options { rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(2) };
    let world = World::new(options);
    let mut service = world.run();
    let newest = "SELECT max(timestamp) FROM candles WHERE timeframe = '5'";
    let has_come_to = |after_s: i64| move |world: &World| world.number(newest) >= START.plus(after_s).0;
    world.wait(&mut service, "bars", has_come_to(600));
    service.stop();
    downgrade(&world.database());
    let mut service = world.run();
    world.wait(&mut service, "later bars", has_come_to(1_800));
    service.kill();
    let copy = world.folder().join("candlekeep.db.schema-2.bak");
    restore(&world, &copy);
    assert!(world.number(newest) < START.plus(1_800).0);
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    world.verify(Holes::None);
    assert!(world.number("SELECT max(seq) FROM candles") > 1 << 20, "its numbers are no others'");
}

#[test]
fn old_bars_are_deleted_while_the_service_runs_and_are_no_holes() {
    let world = World::new(Options { rows_per_bar: Some(20), speed: Speed::Times(600.0), ..market(4) });
    let old = START.plus(-400 * 86_400).floor(86_400);
    let mut file = "pair,timeframe,timestamp,open,high,low,close\n".to_owned();
    // A year of quarters of an hour's first 5 minutes is more than a transaction, and two whole quarters.
    for start in (0..2_500)
        .map(|slot| old.plus(slot * 2 * STEP))
        .chain([1, 3, 5].map(|slot| old.plus(2_499 * 2 * STEP + slot * STEP)))
    {
        writeln!(file, "EUR_USD,5,{},1.1,1.2,1.0,1.1", start.0).unwrap();
    }
    writeln!(file, "EUR_USD,15,{},1.1,1.2,1.0,1.1", old.plus(-900).0).unwrap();
    std::fs::write(world.folder().join("old.csv"), file).unwrap();
    told(&world, "import old.csv", &[], 0);
    let count = |timeframe: &str| {
        world.number(&format!(
            "SELECT count(*) FROM candles WHERE timeframe = '{timeframe}' AND timestamp < {}",
            START.0 - 30 * 86_400
        ))
    };
    let longer = count("15");
    assert_eq!((count("5"), longer > 0), (2_503, true));

    let mut service = world.start("run", &[("CANDLEKEEP_RETENTION_DAYS", "{ 5 = 100 }")]);
    service.wait_said("old bars deleted timeframe=5 bars=2503 ", 1);
    let line = format!("backfill --pairs EUR_USD --from {} --to {}", old, old.plus(3_600));
    // Before anything is asked of the service or of IG, and an import likewise.
    let told_why = told(&world, &line, &[], 2);
    assert!(told_why.contains("retention.days keeps only what is from"), "{told_why}");
    told(&world, "import old.csv", &[], 1);
    let complete = format!("gaps --complete EUR_USD 5 {} {}", old, old.plus(3_600));
    assert!(told(&world, &complete, &[], 3).contains("older than what retention.days keeps"));
    world.wait_complete(&mut service);
    service.stop();
    assert_eq!((count("5"), count("15")), (0, longer), "15-minute bars are kept for ever");
    let oldest = "SELECT min(from_ts) FROM coverage WHERE timeframe = '5' AND pair = 'EUR_USD'";
    assert!(world.number(oldest) > START.plus(-86_400).0);
    told(&world, "gaps --verify", &[], 0);
    let explained = told(&world, &format!("explain EUR_USD {old}"), &[], 0);
    assert!(explained.contains("older than what retention.days keeps"), "{explained}");
}

#[test]
fn a_copy_to_a_server_and_back_is_the_same_and_goes_on_there() {
    let Some(server) = postgres::shared() else { return };
    // Slowly enough that the market lasts longer than the copy.
    let world = World::new(Options { speed: Speed::Times(600.0), ..market(6) });
    let mut service = world.run();
    world.wait(&mut service, "bars", |world| world.stored() > 1_000);
    let (file, away) = (format!("sqlite:///{}", world.database().display()), server.place());
    let copied = told(&world, &format!("copy {file} {away}"), &[], 0);
    assert!(copied.contains("every table read back and compared"), "{copied}");
    let not_empty = told(&world, &format!("copy {file} {away}"), &[], 1);
    assert!(not_empty.contains("is not empty: settings has "), "{not_empty}");
    service.stop();
    assert!(!world.simulator().has_ended());
    told(&world, &format!("copy {file} {away} --replace"), &[], 0);

    let world = world.on_server(away.clone());
    let before = world.number("SELECT max(seq) FROM candles");
    let verified = world.output("gaps --verify", &[]);
    assert!(verified.status.success(), "{verified:?}");
    // The service goes on with the copy: what came since is healed, and new numbers follow the copied ones.
    let mut service = world.run();
    world.wait_complete(&mut service);
    // History was asked for while the market flew by.
    world.verify_from(START.plus(7_200), Holes::None);
    service.stop();
    assert!(world.number("SELECT max(seq) FROM candles") > before);

    let back = world.folder().join("back.db");
    let json = told(&world, &format!("copy {away} sqlite:///{} --format json", back.display()), &[], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = |table: &str| {
        let sums = json["tables"].as_array().unwrap();
        sums.iter().find(|sum| sum["table"] == table).unwrap()["rows"].as_i64().unwrap()
    };
    let copy = Database::open(&back).unwrap();
    for table in ["candles", "coverage", "allowance", "feeds", "stream_breaks"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(copy.number(&count), Some(world.number(&count)), "{table}");
        assert_eq!(rows(table), world.number(&count), "{table}");
    }
    for timeframe in ["5", "15"] {
        assert_eq!(copy.bars(timeframe), Database::Server(away.clone()).bars(timeframe));
    }
    assert_eq!(copy.number("SELECT count(*) FROM lease WHERE command = 'copy'"), Some(1));
}

#[test]
fn half_a_copy_is_collected_into_by_nobody_and_begun_anew() {
    let world = World::new(market(3));
    let mut service = world.run();
    world.wait_complete(&mut service);
    service.stop();
    let half = world.folder().join("half.db");
    let (from, to) =
        (format!("sqlite:///{}", world.database().display()), format!("sqlite:///{}", half.display()));
    told(&world, &format!("copy {from} {to}"), &[], 0);
    // As if it had been killed: some rows are missing, and the mark is there.
    let broken = Connection::open(&half).unwrap();
    broken
        .execute_batch("DELETE FROM coverage; INSERT INTO settings VALUES ('copy.unfinished', 'x')")
        .unwrap();
    drop(broken);
    let refused = told(&world, "run", &[("DATABASE_URL", &to)], 78);
    assert!(refused.contains("a copy of x into this database was not finished"), "{refused}");
    told(&world, &format!("copy {from} {to}"), &[], 0);
    let count = "SELECT count(*) FROM coverage";
    assert_eq!(Database::open(&half).unwrap().number(count), Some(world.number(count)));
    told(&world, "gaps --verify", &[("DATABASE_URL", &to)], 0);
}

#[test]
fn an_import_of_a_pair_that_is_not_collected_says_so() {
    let world = World::new(market(1));
    let file = format!(
        "pair,timeframe,timestamp,open,high,low,close\nEUR_XXX,5,{0},1,1,1,1\nEUR_USD,5,{0},1,1,1,1\n",
        START.0
    );
    std::fs::write(world.folder().join("typo.csv"), file).unwrap();
    let checked = told(&world, "import --dry-run typo.csv", &[], 0);
    assert!(checked.contains("not among the pairs that are collected: EUR_XXX\n"), "{checked}");
}

#[test]
fn no_password_is_taken_from_an_argument() {
    let world = World::new(market(1));
    for line in [
        "copy postgres://me:secret@host/a sqlite://b.db",
        "copy sqlite://a.db postgres://me:secret@host/b",
        "status --database postgres://me:secret@host/a",
    ] {
        let refused = world.output(line, &[("DATABASE_URL", "")]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("~/.pgpass") && !said.contains("secret"), "{line}: {said}");
        assert!(matches!(refused.status.code(), Some(2 | 78)), "{line}: {said}");
    }
}
