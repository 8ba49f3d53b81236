//! One login and one spender per database: the program beside itself.

use candlekeep::domain::Timestamp;
use candlekeep::simulator::{Options, Speed};
use candlekeep::store::{DatabaseUrl, Store};

use super::world::{Database, World, market};

/// Ten hours of market time that last ten minutes: longer than any test.
fn world() -> World {
    World::new(Options { speed: Speed::Times(60.0), ..market(10) })
}

fn printed(world: &World, line: &str) -> String {
    let output = world.output(line, &[]);
    String::from_utf8(output.stdout).unwrap()
}

fn is_released(world: &World) -> bool {
    world.number("SELECT expires_at <= renewed_at FROM lease") == 1
}

#[test]
fn a_second_run_is_refused_before_it_logs_in() {
    let world = world();
    let mut first = world.start("run", &[("CANDLEKEEP_HTTP", "127.0.0.1:0")]);
    let address = first.http_address().to_string();
    first.wait_said("collecting", 1);
    // That the first one has the address too is no news then.
    let second = world.start("run", &[("CANDLEKEEP_HTTP", &address)]).ended();
    assert_eq!(second.code, Some(1), "{:#?}", second.log);
    let begins =
        format!("<3>candlekeep: another process collects into this database: run, pid {} on ", first.pid());
    assert!(second.reason().starts_with(&begins), "{}", second.reason());
    assert!(second.reason().ends_with("; stop it first"), "{}", second.reason());
    assert_eq!(second.log.len(), 1, "{:#?}", second.log);
    assert_eq!(world.simulator().stats().logins, 1);
    let service = format!("service   run, pid {} on ", first.pid());
    assert!(printed(&world, "status").contains(&service), "{}", printed(&world, "status"));

    first.kill();
    assert!(!is_released(&world));
    let status = printed(&world, "status");
    assert!(status.contains("ended without a word, last seen "), "{status}");

    // At once, though the row has not expired.
    let mut third = world.run();
    third.wait_said("collecting", 1);
    assert_eq!(world.simulator().stats().logins, 2);
    assert_eq!(world.number("SELECT epoch FROM lease"), 2, "who was refused has left no trace");
    let doctor = printed(&world, "doctor");
    assert!(doctor.contains(&format!("ok    service        run, pid {} on ", third.pid())), "{doctor}");
    third.stop();
    assert!(is_released(&world));
    let status = printed(&world, "status");
    assert!(status.contains("service   not running; the last run began "), "{status}");
}

#[test]
fn who_cannot_start_gives_the_lease_back() {
    let world = world();
    let ended = world.start("run", &[("IG_PASSWORD", "wrong")]).ended();
    assert_eq!(ended.code, Some(77), "{:#?}", ended.log);
    assert!(is_released(&world));
}

#[test]
fn who_loses_the_lease_stops_collecting() {
    let world = world();
    let mut service = world.run();
    service.wait_said("collecting", 1);
    std::fs::remove_file(world.folder().join("candlekeep.db.lock")).unwrap();
    let mut store = Store::open(&DatabaseUrl::sqlite(world.database())).unwrap();
    let now = Timestamp(world.number("SELECT renewed_at FROM lease"));
    let _other = store.acquire_lease("run", now).unwrap();
    let ended = service.ended();
    assert_eq!(ended.code, Some(1), "{:#?}", ended.log);
    assert!(
        ended.reason().contains("the lease of the database is lost to another process"),
        "{}",
        ended.reason()
    );
    let database = Database::open(&world.database()).unwrap();
    assert_eq!(database.number("SELECT epoch FROM lease WHERE expires_at > renewed_at"), Some(2));
}
