//! What the program believes of whoever says that it is IG, and what it says to whom.

use std::fs;
use std::process::Output;

use candlekeep::simulator::{Options, Speed};
use serde_json::Value;

use super::clock;
use super::front::{Authority, Front, Valid, self_signed};
use super::world::{Service, World, market};

/// Ten hours of market time that last ten minutes: longer than any test.
fn world() -> World {
    World::new(Options { speed: Speed::Times(60.0), ..market(10) })
}

/// What doctor says of the way to IG: level, text and what mends it.
fn network(output: &Output) -> (String, String) {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "network").unwrap();
    (check["level"].as_str().unwrap().to_owned(), format!("{}; {}", check["state"], check["fix"]))
}

fn doctor(world: &World, variables: &[(&str, &str)]) -> (String, String) {
    network(&world.output("doctor --format json", &[variables, &[("CANDLEKEEP_HTTP", "off")]].concat()))
}

/// A front before the simulator that an authority of our own has certified: its address, and the authority's file.
fn ours(world: &World) -> (Front, String, String) {
    let authority = Authority::new("ours");
    let front = Front::start(world.simulator().address(), Some(authority.certify("127.0.0.1", Valid::Now)));
    let file = world.folder().join("ca.pem");
    authority.write(&file);
    let (url, file) = (front.api_url(), file.display().to_string());
    (front, url, file)
}

#[test]
fn a_company_s_authority_is_believed_where_it_is_named_for_rest_and_stream() {
    let world = world();
    let (front, url, file) = ours(&world);
    for transport in ["websocket", "http"] {
        let variables = [
            ("IG_API_URL", url.as_str()),
            ("CANDLEKEEP_IG_CA_FILE", file.as_str()),
            ("CANDLEKEEP_STREAM_TRANSPORT", transport),
        ];
        let (level, told) = doctor(&world, &variables);
        assert_eq!(level, "ok", "{told}");
        let before = world.stored();
        let mut service = world.start("run", &variables);
        service.wait_said("collecting", 1);
        world.wait(&mut service, "bars of the stream", |world| {
            world.number("SELECT count(*) FROM candles WHERE source = 'websocket'") > 0
                && world.stored() > before
        });
        service.stop();
    }
    // All of it came this way: no stream has left TLS.
    assert!(String::from_utf8_lossy(&front.heard()).contains("lightstreamerEndpoint\":\"https://127.0.0.1:"));
}

/// A service that waits, and says why, with pauses between its attempts.
fn expect_patience(mut service: Service, front: &Front, why: &str) {
    service.wait_said(why, 2);
    let log = service.stop();
    let told: Vec<_> = log.iter().filter(|line| line.contains(why)).collect();
    assert!(told.iter().all(|line| line.starts_with("<4>") && line.contains("pause_ms=")), "{told:#?}");
    assert!(front.connections() <= told.len() + 1, "{} attempts, told {}", front.connections(), told.len());
    assert!(front.heard().is_empty(), "something was said to a host that is not trusted");
}

#[test]
fn who_is_not_trusted_is_told_nothing_and_named_with_the_reason() {
    let world = world();
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let impostor = Authority::new("ours");
    let file = world.folder().join("ca.pem");
    authority.write(&file);
    let file = file.display().to_string();
    for (tls, why, mend) in [
        (authority.certify("127.0.0.1", Valid::Past), "it has expired: is the clock right?", "date -u"),
        (authority.certify("127.0.0.1", Valid::Later), "it is not valid yet: is the clock right?", "date -u"),
        (authority.certify("ig.example", Valid::Now), "it is for another host name", "is ig.api_url right"),
        (other.certify("127.0.0.1", Valid::Now), "no authority that is known has signed it", "ig.ca_file"),
        (impostor.certify("127.0.0.1", Valid::Now), "its signature is wrong", "ig.ca_file"),
        (self_signed("127.0.0.1"), "no authority that is known has signed it", "ig.ca_file"),
    ] {
        let front = Front::start(world.simulator().address(), Some(tls));
        let url = front.api_url();
        let variables = [("IG_API_URL", url.as_str()), ("CANDLEKEEP_IG_CA_FILE", file.as_str())];
        let (level, told) = doctor(&world, &variables);
        assert_eq!(level, "fix", "{told}");
        let host = url.strip_prefix("https://").unwrap().split('/').next().unwrap();
        let begins = format!("IG cannot be reached: the certificate of {host} is not trusted: ");
        assert!(told.contains(&begins) && told.contains(why) && told.contains(mend), "{told}");
        assert_eq!(front.connections(), 1, "doctor looks once");
        expect_patience(world.start("run", &variables), &front, why);
    }
    assert_eq!(world.simulator().stats().rest_requests, 0);
}

#[test]
fn a_clock_that_is_wrong_is_named_where_it_breaks_tls() {
    let Some(library) = clock::library() else { return };
    let world = world();
    let (_front, url, file) = ours(&world);
    for (shown, expected) in [("@1999-01-01 00:00:00", "not valid yet"), ("@2099-01-01 00:00:00", "expired")]
    {
        let variables = [
            ("IG_API_URL", url.as_str()),
            ("CANDLEKEEP_IG_CA_FILE", file.as_str()),
            ("LD_PRELOAD", library),
            ("FAKETIME", shown),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("CANDLEKEEP_CLOCK", "system"),
        ];
        let (level, told) = doctor(&world, &variables);
        assert_eq!(level, "fix", "{told}");
        assert!(
            told.contains(expected) && told.contains("is the clock right?") && told.contains("set-ntp"),
            "{told}"
        );
    }
}

#[test]
fn a_redirect_is_named_and_never_followed() {
    let world = world();
    let thief = Front::start(world.simulator().address(), None);
    let front = Front::start(world.simulator().address(), None);
    let (url, elsewhere) = (front.api_url(), thief.api_url().replace("127.0.0.1", "localhost"));
    let variables = [("IG_API_URL", url.as_str())];

    // At the login already.
    front.point("/gateway", &elsewhere);
    let (level, told) = doctor(&world, &variables);
    assert_eq!(level, "fix", "{told}");
    assert!(
        told.contains("answers with a redirect to localhost (HTTP 307), which is never followed"),
        "{told}"
    );
    let mut service = world.start("run", &variables);
    service.wait_said("redirect to localhost (HTTP 307), which is never followed", 1);
    service.stop();

    // And with tokens in hand: over REST, and where the stream is opened either way.
    for (transport, path) in
        [("websocket", "/gateway"), ("websocket", "/lightstreamer"), ("http", "/lightstreamer")]
    {
        front.point_nowhere();
        let variables = [("IG_API_URL", url.as_str()), ("CANDLEKEEP_STREAM_TRANSPORT", transport)];
        let mut service = world.start("run", &variables);
        service.wait_said("streaming session begun", 1);
        front.point(path, &elsewhere);
        world.simulator().control().end_sessions(31, "ended");
        service.wait_said("(HTTP 307), which is never followed", 1);
        front.point_nowhere();
        service.wait_said("streaming session begun", 2);
        service.stop();
    }
    assert_eq!(thief.connections(), 0, "somebody else was told something");
    let heard = String::from_utf8_lossy(&front.heard()).to_lowercase();
    assert!(heard.contains("x-security-token: ") && heard.contains("ls_password="), "tokens were in play");
}

#[test]
fn tokens_do_not_leave_tls() {
    let world = world();
    let authority = Authority::new("ours");
    let file = world.folder().join("ca.pem");
    authority.write(&file);
    let front = Front::start(world.simulator().address(), Some(authority.certify("127.0.0.1", Valid::Now)));
    front.keep_quiet_about_tls();
    let (url, file) = (front.api_url(), file.display().to_string());
    let variables = [("IG_API_URL", url.as_str()), ("CANDLEKEEP_IG_CA_FILE", file.as_str())];
    let ended = world.start("run", &variables).ended();
    assert_eq!(ended.code, Some(78), "{:#?}", ended.log);
    assert!(
        ended.reason().contains("names a stream without TLS, to which tokens are not sent"),
        "{}",
        ended.reason()
    );
    assert_eq!(world.simulator().stats().sessions, 0);
}

#[test]
fn passwords_of_live_accounts_stay_off_networks_without_tls() {
    let world = world();
    let live = [("IG_API_URL", "http://192.0.2.1/gateway/deal"), ("IG_ACCOUNT_TYPE", "live")];
    let refused = world.start("run", &live).ended();
    assert_eq!((refused.code, refused.log.len()), (Some(78), 1), "{:#?}", refused.log);
    assert!(
        refused.reason().contains("does not go over a network in the clear: use https"),
        "{}",
        refused.reason()
    );
    // Of play money, to a simulator elsewhere, it is said.
    let mut service = world.start("run", &[("IG_API_URL", "http://192.0.2.1:1/gateway/deal")]);
    service.wait_said("password and tokens go over a network in the clear", 1);
    service.stop();
    assert!(!fs::exists(world.folder().join("candlekeep.toml")).unwrap());
}
