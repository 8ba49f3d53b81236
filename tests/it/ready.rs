//! `/readyz` of the real binary, beside what the view says in bare SQL.

use serde_json::{Value, json};

use super::api::{ask, serving};
use super::away;

#[test]
fn a_service_is_ready_unless_its_bars_wait_in_the_spool() {
    let world = away::world();
    let (mut service, address) = serving(&world, &[]);
    let ready = || ask(address, "GET /readyz", "");
    service.wait("all pairs ready", || ready().status == 200);
    let lock = away::lock_out(&world, &mut service, 2);
    service.wait("not ready", || ready().status == 503);
    let told = ready().json();
    let why = told["why"][0].as_str().unwrap();
    assert!(why.ends_with("facts wait in the spool for the database"), "{told}");
    assert!(ask(address, "GET /metrics", "").body.contains("\ncandlekeep_ready 0\n"));
    lock.give_back();
    world.wait_complete(&mut service);
    service.wait("all pairs ready", || ready().status == 200);
    let told = ready().json();
    assert_eq!((&told["ready"], &told["why"]), (&json!(true), &json!([])));
    let pairs = told["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 28 * 2);
    for pair in pairs {
        let of = |column: &str| {
            let (name, timeframe) = (pair["pair"].as_str().unwrap(), pair["timeframe"].as_str().unwrap());
            world.number(&format!(
                "SELECT {column} FROM freshness WHERE pair = '{name}' AND timeframe = '{timeframe}'"
            ))
        };
        assert_eq!((&pair["fresh"], &pair["why"]), (&json!(true), &Value::Null), "{pair}");
        assert_eq!(pair["last"], of("last_timestamp"), "{pair}");
        assert_eq!(pair["expected_by"], of("expected_by"), "{pair}");
    }
    assert!(ask(address, "GET /metrics", "").body.contains("\ncandlekeep_ready 1\n"));
    service.stop();
}
