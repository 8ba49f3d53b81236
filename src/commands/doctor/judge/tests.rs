//! Tables of findings and what they mean.

use std::path::Path;

use super::*;
use crate::commands::doctor::check::{Check, Level};
use crate::commands::doctor::machine::{FileFacts, Me, Room};
use crate::config::{Access, ConfigError, SecretFrom};
use crate::domain::scale::Verdict;
use crate::domain::{Scale, Timeframe, Timestamp};
use crate::ig::IgError;
use crate::ig::markets::{Instrument, Listing};
use crate::ig::rest::{Hurdle, NoWay};
use crate::store::{AllowanceSeen, AllowanceState, LeaseState, SILENT_AFTER_S, ServerFacts, StoreError};
use crate::supervisor::chronicle::{LastRun, RunEnd};
use crate::tls::Mistrust;

const NOW: Timestamp = Timestamp(1_800_000_000);

/// Expects a line at this level that has these words in it.
fn check(found: &Check, level: Level, words: &[&str]) {
    let line = found.line(None);
    assert_eq!(found.level, level, "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} in {line}");
    }
    assert_eq!(found.mend.is_some(), level != Level::Ok, "what is not well says what mends it: {line}");
}

fn file(path: &str, access: Option<(u32, u32)>, is_writable: bool) -> FileFacts {
    let access = access.map(|(owner, mode)| Access { owner, mode });
    FileFacts { path: path.into(), access, group: 7, is_writable }
}

fn me(user: u32) -> Me {
    Me {
        user,
        users: "root:x:0:0::/:/\nkeep:x:5:7::/:/\nann:x:6:8::/:/\n".to_owned(),
        groups: "keep:x:7:\n".to_owned(),
    }
}

#[test]
fn who_may_not_write_is_told_what_to_run() {
    let permissions = |user, folder: &FileFacts, files: &[FileFacts]| permissions(&me(user), folder, files);
    let (own, ok) = (file("/s", Some((5, 0o750)), true), Level::Ok);
    let whole = [file("/s/c.db", Some((5, 0o640)), true), file("/s/c.db-wal", None, false)];
    check(&permissions(5, &own, &whole), ok, &["keep can write /s"]);
    check(&permissions(0, &own, &whole), ok, &["keep can write /s"]);
    check(&permissions(5, &file("/s", None, false), &[]), Level::Fix, &["no folder /s; mkdir -p /s"]);
    let readonly = |path: &str, owner, mode| file(path, Some((owner, mode)), false);
    let made_by_root = permissions(5, &readonly("/var/s", 0, 0o755), &[]);
    check(
        &made_by_root,
        Level::Fix,
        &["keep cannot write /var/s; name a database", "sudo chown keep /var/s"],
    );
    let own_but_readonly = permissions(5, &readonly("/s", 5, 0o500), &[]);
    check(&own_but_readonly, Level::Fix, &["keep cannot write /s; chmod u+rwx /s"]);
    // Nobody takes the system's folders, nor the service's.
    for (folder, files) in [(readonly("/", 0, 0o755), &[][..]), (readonly("/s", 5, 0o750), &whole)] {
        let found = permissions(6, &folder, files);
        check(&found, Level::Fix, &["ann cannot write /", "a database in a folder of ann's"]);
        assert!(!found.mend.as_ref().unwrap().contains("chown"), "{found:?}");
    }
    check(
        &permissions(6, &readonly("/s", 5, 0o750), &whole),
        Level::Fix,
        &["sudo -u keep candlekeep doctor"],
    );
    // Left behind by somebody who has started it as another user.
    let left = [file("/s/c.db", Some((5, 0o640)), true), file("/s/c.db-wal", Some((0, 0o640)), false)];
    check(
        &permissions(5, &own, &left),
        Level::Fix,
        &["not keep's: /s/c.db-wal; sudo chown keep /s/c.db-wal"],
    );
    let left = [file("/s/c.db", Some((5, 0o640)), true), file("/s/c.db-wal", Some((0, 0o640)), true)];
    check(&permissions(0, &own, &left), Level::Fix, &["sudo chown keep /s/c.db-wal"]);
    // A group may share it.
    check(&permissions(6, &own, &whole), ok, &["ann can write /s"]);
    let locked = [file("/s/c.db", Some((5, 0o440)), false)];
    check(&permissions(5, &own, &locked), Level::Fix, &["keep cannot write /s/c.db; chmod u+rw /s/c.db"]);
}

#[test]
fn bots_of_the_group_can_read_or_it_is_told_how() {
    let readers = |folder_mode, mode, wal_mode: Option<u32>| {
        let wal = file("/s/c.db-wal", wal_mode.map(|mode| (5, mode)), true);
        let folder = file("/s", Some((5, folder_mode)), true);
        readers(&me(5), &folder, &[file("/s/c.db", Some((5, mode)), true), wal]).unwrap()
    };
    check(&readers(0o750, 0o640, Some(0o640)), Level::Ok, &["group keep reads", "usermod -aG keep BOT"]);
    check(&readers(0o750, 0o640, None), Level::Ok, &["group keep reads"]);
    check(&readers(0o750, 0o600, None), Level::Ok, &["owner alone", "chmod g+r /s/c.db*"]);
    check(&readers(0o700, 0o640, None), Level::Warn, &["cannot get to it; chmod g+rx /s"]);
    check(&readers(0o750, 0o640, Some(0o600)), Level::Warn, &["/s/c.db-wal", "; chmod g+r /s/c.db-wal"]);
    assert_eq!(super::readers(&me(5), &file("/s", None, true), &[file("/s/c.db", None, false)]), None);
    let of_root = FileFacts { group: 0, ..file("/s/c.db", Some((0, 0o640)), true) };
    let told = super::readers(&me(0), &file("/s", Some((0, 0o755)), true), &[of_root]).unwrap();
    assert!(!told.line(None).contains("usermod"), "nobody joins root's group");
}

#[test]
fn credentials_are_there_from_somewhere_or_refused_before() {
    let missing = ConfigError::MissingCredentials { names: "IG_API_KEY".into(), hint: String::new() };
    let from = [None, Some(SecretFrom::File("/k".into())), Some(SecretFrom::Variable)];
    let nothing = [None, None, None];
    check(
        &credentials(Err(&missing), &nothing, false),
        Level::Fix,
        &["missing: IG_API_KEY; set IG_API_KEY in"],
    );
    check(&credentials(Ok(()), &nothing, false), Level::Ok, &["from the environment"]);
    check(&credentials(Ok(()), &from, false), Level::Ok, &["IG_USERNAME from /k, IG_PASSWORD from the env"]);
    check(&credentials(Ok(()), &from, true), Level::Fix, &["refused exactly these", "--retry-credentials"]);
}

#[test]
fn a_clock_that_cannot_be_right_is_to_be_mended() {
    check(&clock(Timestamp(0), None, None), Level::Fix, &["1970-01-01", "set-ntp true"]);
    check(&clock(NOW, Some(NOW.plus(1)), Some(true)), Level::Fix, &["the newest bar is of"]);
    check(&clock(NOW, Some(NOW), Some(true)), Level::Ok, &["synchronised"]);
    check(&clock(NOW, None, Some(false)), Level::Warn, &["nobody sets it right"]);
    check(&clock(NOW, None, None), Level::Ok, &["cannot be told"]);
    for (between, level, words) in [
        ((-900, 40), Level::Ok, "agrees"),
        ((-6_500, -4_800), Level::Ok, "agrees"),
        ((5_001, 6_000), Level::Warn, "5 s ahead of IG's, which is corrected for"),
        ((-9_999, -8_500), Level::Warn, "8 s behind IG's"),
        ((3_600_000, 3_601_000), Level::Fix, "60 min ahead of IG's, with which"),
        ((-9_000_000, -8_999_000), Level::Fix, "2 h 29 min behind"),
    ] {
        check(&clock_of_ig(between), level, &[words]);
    }
}

#[test]
fn a_database_is_well_or_there_is_something_to_do() {
    let database = |opened: Result<Option<&str>, &StoreError>| database("sqlite://c.db", opened, "demo");
    let why = || "x".to_owned();
    check(&database(Ok(Some("demo"))), Level::Ok, &["sqlite://c.db"]);
    check(&database(Ok(None)), Level::Ok, &[]);
    check(&database(Ok(Some("live"))), Level::Fix, &["environment live", "ig.account_type"]);
    for (error, level, words) in [
        (StoreError::Absent { place: why() }, Level::Ok, "candlekeep run"),
        (StoreError::OlderSchema { place: why() }, Level::Warn, "; candlekeep run"),
        (StoreError::NotOurs { place: why(), why: why() }, Level::Fix, "database.url"),
        (StoreError::NewerSchema { place: why(), found: why(), known: why() }, Level::Fix, "install"),
        (StoreError::HalfCopied { from: why() }, Level::Fix, "copy --replace"),
        (StoreError::Corrupt { why: why() }, Level::Fix, "backup"),
        (StoreError::Busy { why: why() }, Level::Fix, "holds its lock"),
        (StoreError::Unreachable { why: why() }, Level::Fix, "bring the server back"),
        (StoreError::Unopenable { place: why(), why: why() }, Level::Fix, "database.url"),
    ] {
        check(&database(Err(&error)), level, &[words]);
    }
    let corrupt = || StoreError::Corrupt { why: "malformed".to_owned() };
    check(&integrity(Some(Ok(Vec::new())), 20), Level::Ok, &["sound"]);
    check(&integrity(Some(Ok(vec!["row 3 missing".into()])), 20), Level::Fix, &["row 3 missing", "backup"]);
    check(&integrity(Some(Err(corrupt())), 20), Level::Fix, &["malformed"]);
    check(&integrity(None, 20), Level::Ok, &["longer than 20 s"]);
    check(&ledger(Some(Ok((0, None))), 20), Level::Ok, &["accounted"]);
    check(
        &ledger(Some(Ok((3, Some("EUR_USD 5".into())))), 20),
        Level::Fix,
        &["3 things", "EUR_USD 5; candlekeep gaps --verify"],
    );
    check(&ledger(None, 20), Level::Ok, &["gaps --verify"]);
}

#[test]
fn a_server_lets_this_user_do_what_is_needed() {
    let facts = ServerFacts { version: "15.4".into(), may_write: true, may_create: true, is_replica: false };
    check(&server(&facts), Level::Ok, &["PostgreSQL 15.4"]);
    check(&server(&ServerFacts { may_create: false, ..facts.clone() }), Level::Warn, &["GRANT CREATE"]);
    check(&server(&ServerFacts { may_write: false, ..facts.clone() }), Level::Fix, &["GRANT SELECT, INSERT"]);
    check(&server(&ServerFacts { is_replica: true, ..facts }), Level::Fix, &["primary"]);
}

#[test]
fn what_cannot_keep_a_file_safe_is_warned_about() {
    let of = |kind| file_system(Path::new("/s"), kind);
    // ext4, XFS, btrfs, ZFS, overlayfs.
    for kind in [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0x794c_7630] {
        assert_eq!(of(kind), None, "{kind:x}");
    }
    check(&of(0x6969).unwrap(), Level::Warn, &["NFS", "PostgreSQL"]);
    check(&of(0xff53_4d42).unwrap(), Level::Warn, &["SMB"]);
    check(&of(0x0102_1994).unwrap(), Level::Warn, &["in memory"]);
}

#[test]
fn room_is_counted_in_days_of_bars() {
    // 28 pairs, 288 bars of 5 minutes and 96 of 15.
    let day = bytes_a_day(28, &[Timeframe::M5, Timeframe::M15]);
    assert_eq!(day, 28 * (288 + 96) * BAR_BYTES);
    let space = |bytes, inodes| space("database", &Room { path: "/s".into(), bytes, inodes }, day);
    check(
        &space(SPACE_MIN_BYTES - 1, None),
        Level::Fix,
        &["63 MiB are free at /s", "the 64 that are needed", "du -xh /s"],
    );
    check(&space(SPACE_MIN_BYTES, None), Level::Warn, &["enough for 0 days"]);
    check(&space(SPACE_MIN_BYTES + 29 * day, None), Level::Warn, &["enough for 29 days"]);
    check(&space(SPACE_MIN_BYTES + 30 * day, Some(1_000)), Level::Ok, &["enough for 30 days"]);
    check(&space(1 << 40, None), Level::Ok, &["years"]);
    check(&space(1 << 40, Some(15)), Level::Fix, &["15 more files", "df -i /s"]);
    check(&space(1 << 40, Some(999)), Level::Warn, &["999 more files"]);
    check(&space(u64::MAX, None), Level::Ok, &[]);
}

#[test]
fn facts_that_wait_descriptors_and_addresses() {
    assert_eq!(spool(None, true), None);
    check(&spool(Some(0), true).unwrap(), Level::Ok, &["empty"]);
    check(&spool(Some(5), true).unwrap(), Level::Fix, &["5 facts wait", "end what holds its lock"]);
    check(&spool(Some(5), false).unwrap(), Level::Fix, &["5 facts wait", "; candlekeep run"]);
    check(&descriptors(Some(63)), Level::Fix, &["63", "LimitNOFILE"]);
    check(&descriptors(Some(64)), Level::Warn, &["64"]);
    check(&descriptors(Some(DESCRIPTORS_FEW - 1)), Level::Warn, &["319"]);
    check(&descriptors(Some(DESCRIPTORS_FEW)), Level::Ok, &["320"]);
    check(&descriptors(None), Level::Ok, &[]);
    let address = "127.0.0.1:8017".parse().unwrap();
    let ours = Listening::InUse(Answerer::Service(Some(7)));
    let other = Listening::InUse(Answerer::Service(Some(8)));
    let silent = Listening::InUse(Answerer::Service(None));
    let stranger = Listening::InUse(Answerer::Stranger);
    let mute = Listening::InUse(Answerer::Silent);
    for (listening, is_collecting, level, words) in [
        (Listening::Free, false, Level::Ok, "is free"),
        (Listening::Free, true, Level::Ok, "the service does not listen there"),
        (ours, true, Level::Ok, "the service's, pid 7"),
        (other, true, Level::Warn, "the service of another database, pid 8, listens on 127.0.0.1:8017"),
        (other, false, Level::Fix, "ss -ltnp sport = :8017"),
        (silent, true, Level::Ok, "wants its token"),
        (silent, false, Level::Fix, "another service listens"),
        (stranger, true, Level::Warn, "another program listens"),
        (stranger, false, Level::Fix, "ss -ltnp sport = :8017"),
        (mute, true, Level::Warn, "another program listens"),
        (mute, false, Level::Fix, "another program listens"),
        (Listening::NoSuchAddress, false, Level::Fix, "http.listen"),
        (Listening::Forbidden, false, Level::Fix, "1024"),
        (Listening::Failed, false, Level::Fix, "http.listen"),
    ] {
        let ours = Ours { processes: Some(&[7]), why_not: "", is_collecting, may_be_frozen: false };
        check(&http(address, listening, ours), level, &[words]);
    }
    let untold = Ours { processes: None, why_not: "--offline", is_collecting: false, may_be_frozen: false };
    let told = "not told (--offline): pid 8 listens on 127.0.0.1:8017";
    check(&http(address, other, untold), Level::Ok, &[told]);
    check(
        &http(address, silent, untold),
        Level::Ok,
        &["not told (--offline): a service that wants its token"],
    );
    check(&http(address, stranger, untold), Level::Fix, &["another program listens"]);
    let frozen = Ours { processes: Some(&[7]), why_not: "", is_collecting: true, may_be_frozen: true };
    check(&http(address, mute, frozen), Level::Warn, &["it is the service's", "frozen"]);
    check(&http(address, stranger, frozen), Level::Warn, &["another program listens"]);
}

#[test]
fn trouble_on_the_way_to_ig_is_called_by_its_name() {
    let network = |hurdle| {
        let no_way = NoWay { error: IgError::Unreachable("whatever is said".into()), hurdle };
        network("https://api.example:8443/gateway", Err(&no_way))
    };
    check(&super::network("https://api.example/gateway", Ok(())), Level::Ok, &["certificate is trusted"]);
    check(&super::network("http://127.0.0.1:1/gateway", Ok(())), Level::Ok, &["answers"]);
    let believes = |why| Hurdle::Mistrust(Mistrust::of(&rustls::Error::InvalidCertificate(why)));
    for (hurdle, words) in [
        (Hurdle::Name, "getent hosts api.example asks once more; mend /etc/resolv.conf"),
        (Hurdle::Other, "curl -sSI https://api.example:8443/gateway/session"),
        (Hurdle::Redirect, "portal"),
        (believes(rustls::CertificateError::Expired), "; date -u"),
        (believes(rustls::CertificateError::NotValidYet), "; date -u"),
        (believes(rustls::CertificateError::NotValidForName), "is ig.api_url right"),
        (believes(rustls::CertificateError::UnknownIssuer), "ig.ca_file"),
        (Hurdle::Mistrust(Mistrust::of(&rustls::Error::DecryptError)), "curl -sSI"),
    ] {
        check(&network(hurdle), Level::Fix, &["whatever is said", words]);
    }
}

#[test]
fn why_nobody_logs_in_and_what_came_of_a_login() {
    for (why, level, words) in [
        (NoLogin::Offline, Level::Ok, "--offline"),
        (NoLogin::NoCredentials, Level::Ok, "see credentials"),
        (NoLogin::NoWay, Level::Ok, "see network"),
        (NoLogin::Running("run, pid 7".into()), Level::Ok, "run, pid 7"),
        (NoLogin::NoPlace("x".into()), Level::Warn, "a refusal could not be noted: x"),
        (NoLogin::OfAnother("keep".into()), Level::Warn, "; sudo -u keep candlekeep doctor"),
        (NoLogin::TooSoon(90), Level::Warn, "90 s"),
    ] {
        check(&not_logged_in(&why), level, &[words]);
    }
    let well = LoggedIn { account_type: Some("CFD".into()), ..LoggedIn::default() };
    check(&login(Ok(&well)), Level::Ok, &["CFD"]);
    for (error, level, words) in [
        (IgError::CredentialsRefused("error.security.invalid-details".into()), Level::Fix, "not tried again"),
        (IgError::Misconfigured("x".into()), Level::Fix, "ig.account_id"),
        (IgError::Retryable("x".into()), Level::Warn, "try again"),
        (IgError::RateLimited("x".into()), Level::Warn, "try again"),
    ] {
        check(&login(Err(&error)), level, &[words]);
    }
}

#[test]
fn epics_that_are_unknown_silent_or_in_doubt_are_named() {
    let instrument = |pair: &str, scale, listing| {
        let epic = format!("CS.D.{pair}.CFD.IP").parse().unwrap();
        (Instrument { pair: pair.parse().unwrap(), epic, scale, scale_is_fixed: false }, listing)
    };
    let (decimal, streamed) = (Verdict::Scale(Scale::Decimal), Listing::Streamed);
    let well = instrument("EURUSD", decimal, streamed);
    check(
        &epics(&[well.clone(), instrument("GBPUSD", Verdict::NoPriceYet, streamed)])[0],
        Level::Ok,
        &["all 2; 1 without a price"],
    );
    let told = epics(&[
        well,
        instrument("GBPUSD", Verdict::NoPriceYet, Listing::Unknown),
        instrument("USDJPY", decimal, Listing::NotStreamed),
        instrument("USDCHF", Verdict::Ambiguous, streamed),
    ]);
    check(
        &told[0],
        Level::Fix,
        &["does not know on this account: GBP_USD (CS.D.GBPUSD.CFD.IP)", "pairs.NAME = \"EPIC\""],
    );
    check(&told[1], Level::Fix, &["does not stream: USD_JPY", "= false"]);
    check(&told[2], Level::Fix, &["scale in doubt: USD_CHF", "scale = "]);
    let names: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    assert_eq!(listed(&names), "0, 1, 2, 3, 4, 5 and 3 more");
}

#[test]
fn points_left_are_told_and_warned_about_below_the_reserve() {
    let state = |remaining| {
        let seen = AllowanceSeen { remaining, total: 10_000, expires_at: NOW.plus(3_600) };
        AllowanceState { seen: Some((seen, NOW)), ..AllowanceState::default() }
    };
    check(&allowance(None, 1_000, NOW), Level::Ok, &["not known"]);
    check(&allowance(Some(&state(1_001)), 1_000, NOW), Level::Ok, &["1001 data points left; renewed"]);
    check(
        &allowance(Some(&state(1_000)), 1_000, NOW),
        Level::Warn,
        &["1000 data points left", "history.reserve"],
    );
}

#[test]
fn what_a_service_says_of_itself() {
    let lease = |alive, released| LeaseState {
        command: "run".into(),
        host: "h".into(),
        pid: 7,
        epoch: 1,
        acquired_at: NOW,
        renewed_at: NOW,
        released,
        alive,
        read_at: NOW,
    };
    let service_at = |lease: Option<&LeaseState>, run: Option<&LastRun>, later| {
        let lease = lease.map(|lease| LeaseState { read_at: NOW.plus(later), ..lease.clone() });
        service(lease.as_ref(), run, "x".into(), 0)
    };
    check(&service_at(None, None, 0), Level::Ok, &["x"]);
    check(&service_at(Some(&lease(true, false)), None, SILENT_AFTER_S), Level::Ok, &["x"]);
    let frozen = service_at(Some(&lease(true, false)), None, SILENT_AFTER_S + 1);
    check(&frozen, Level::Warn, &["x; no sign of life for 21 s, 20 s are long", "kill -CONT 7", "restart"]);
    let silent = LeaseState { read_at: NOW.plus(SILENT_AFTER_S + 1), ..lease(true, false) };
    let cannot_write = service(Some(&silent), None, "x".into(), 9);
    check(
        &cannot_write,
        Level::Warn,
        &["x; no sign of life", "the line on the spool", "leave the service alone"],
    );
    check(&service_at(Some(&lease(false, true)), None, 3_600), Level::Ok, &["x"]);
    check(&service_at(Some(&lease(false, false)), None, 0), Level::Warn, &["candlekeep run"]);
    let run = |exit: Option<u8>| {
        let end = exit.map(|exit| RunEnd { exit, ..RunEnd::default() });
        LastRun { end, ..LastRun::default() }
    };
    for (exit, level, words) in [
        (Some(0), Level::Ok, "x"),
        (Some(1), Level::Warn, "journalctl -u candlekeep"),
        (Some(77), Level::Warn, "change IG_API_KEY"),
        (Some(78), Level::Warn, "change what it names"),
        (None, Level::Warn, "candlekeep run goes on from there"),
    ] {
        // Whoever had the lease since, to look say, has given it back in good order.
        check(&service_at(Some(&lease(false, true)), Some(&run(exit)), 3_600), level, &[words]);
        check(&service_at(Some(&lease(true, false)), Some(&run(exit)), 0), Level::Ok, &["x"]);
    }
    let told =
        of_the_service(None, Some(("interrupted", "noon")), &["EUR_USD".into()], Some("IG is in trouble"));
    check(&told[0], Level::Warn, &["interrupted since noon"]);
    check(&told[1], Level::Fix, &["does not stream EUR_USD"]);
    check(&told[2], Level::Warn, &["IG is in trouble"]);
    check(&of_the_service(None, Some(("streaming", "noon")), &[], None)[0], Level::Ok, &["noon"]);
    assert_eq!(of_the_service(None, None, &[], None), []);
    let told = of_the_service(Some("the last 3 failed: x"), None, &[], None);
    check(&told[0], Level::Warn, &["the last 3 failed"]);
}

#[test]
fn a_mistake_in_the_configuration_names_its_key() {
    let told = |error: ConfigError| misconfigured(&error);
    let invalid = |place: &str| ConfigError::Invalid { place: place.into(), problem: "x".into() };
    check(&told(invalid("candlekeep.toml:3: history.depth")), Level::Fix, &["; change history.depth"]);
    check(&told(invalid("IG_API_URL")), Level::Fix, &["; change IG_API_URL"]);
    let unknown =
        ConfigError::UnknownVariable { name: "CANDLEKEEP_A".into(), nearest: "CANDLEKEEP_B".into() };
    check(&told(unknown), Level::Fix, &["; set CANDLEKEEP_B, and unset CANDLEKEEP_A"]);
}
