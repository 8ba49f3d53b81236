use super::keys::{KEYS, Shown};
use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = FileText { path: Path::new("candlekeep.toml"), text: file };
    load(Some(file), &env(variables), &Flags::default())
}

fn from_file(file: &str) -> Config {
    from(file, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn from_env(variables: &[(&str, &str)]) -> Config {
    from("", variables).unwrap_or_else(|error| panic!("{error}"))
}

/// The whole message, which must be one line.
fn refused(file: &str, variables: &[(&str, &str)], expected: &str) {
    let message = from(file, variables).expect_err(expected).to_string();
    assert_eq!(message, expected);
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn a_list_of_pairs_is_of_all_that_are_collected() {
    let pairs = |file: &str, variables: &[(&str, &str)]| {
        let config = from(file, variables).unwrap();
        config.pairs().map(|pair| pair.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(pairs("pairs = [\"EUR_USD\", \"usdjpy\"]", &[]), ["EUR_USD", "USD_JPY"]);
    for list in ["EUR_USD, USD_JPY", "['EUR_USD', 'USD_JPY']"] {
        assert_eq!(pairs("pairs = [\"GBP_USD\"]", &[("CANDLEKEEP_PAIRS", list)]), ["EUR_USD", "USD_JPY"]);
    }
    // A table beside it says how those of the list are collected, and adds none.
    let table =
        "[pairs]\nEUR_USD = \"CS.D.EURUSD.MINI.IP\"\nUSD_SEK = \"CS.D.USDSEK.CFD.IP\"\nGBP_CHF = false";
    let only = [("CANDLEKEEP_PAIRS", "EUR_USD,USD_NOK")];
    assert_eq!(pairs(table, &only), ["EUR_USD", "USD_NOK"]);
    let config = from(table, &only).unwrap();
    assert_eq!(config.feeds[0].epic.as_ref().map(|epic| epic.as_str()), Some("CS.D.EURUSD.MINI.IP"));
    assert_eq!(pairs(table, &[]).len(), 28, "without a list the table alone counts");
}

#[test]
fn nothing_given_is_the_documented_default() {
    let config = load(None, &env(&[]), &Flags::default()).unwrap();
    assert_eq!(config.ig.environment, Environment::Demo);
    assert_eq!(config.ig.api_url, "https://demo-api.ig.com/gateway/deal");
    assert_eq!(config.ig.account_id, None);
    assert_eq!(config.ig.product, Product::Auto);
    assert_eq!(config.pairs().collect::<Vec<_>>(), MAJOR_PAIRS);
    assert_eq!(config.timeframes, [Timeframe::M5, Timeframe::M15]);
    assert_eq!(config.database.to_string(), "sqlite://candlekeep.db");
    assert_eq!(config.clock, ClockKind::System);
    assert_eq!(config.session, Session { version: 2, login_spacing: Duration::from_secs(61) });
    assert_eq!(config.stream.tlcp_version, "2.4.0");
    assert_eq!(config.stream.stale, Duration::from_secs(600));
    assert_eq!(config.history.requests_per_minute, None);
    assert_eq!((config.history.reserve, config.history.incident_cap), (1000, 3000));
    assert_eq!(config.history.depth.bars(Timeframe::M15), 100);
    assert_eq!(config.history.give_up_days, 28);
    assert_eq!(config.store, Store { flush: Duration::ZERO, spool_dir: None });
    assert_eq!(config.http.listen, Some("127.0.0.1:8017".parse().unwrap()));
    assert!(config.calendars.is_empty() && config.forex_closed.is_empty());
}

#[test]
fn flags_win_over_environment_over_file() {
    let text = "[database]\nurl = \"sqlite://file.db\"\n";
    let file = Some(FileText { path: Path::new("c.toml"), text });
    let variables = env(&[("DATABASE_URL", "sqlite://env.db")]);
    let flags = Flags { config: None, database: Some("sqlite://flag.db".into()) };
    let url = |config: Result<Config, ConfigError>| config.unwrap().database.to_string();
    assert_eq!(url(load(file, &env(&[]), &Flags::default())), "sqlite://file.db");
    assert_eq!(url(load(file, &variables, &Flags::default())), "sqlite://env.db");
    assert_eq!(url(load(file, &variables, &flags)), "sqlite://flag.db");
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let config =
        from("[ig]\naccount_type = \"live\"\n", &[("IG_ACCOUNT_TYPE", ""), ("IG_API_KEY", "")]).unwrap();
    assert_eq!(config.ig.account_type, AccountType::Live);
    assert_eq!(config.credentials.api_key, None);
}

/// A value other than the default for every key, as the environment spells it.
const OTHER_VALUES: &[(&str, &str)] = &[
    ("timeframes", "5, 1h"),
    ("clock", "stream"),
    ("ig.account_type", "live"),
    ("ig.account_id", "XYZ99"),
    ("ig.api_url", "http://127.0.0.1:8018/gateway/deal/"),
    ("ig.product", "mini"),
    ("database.url", "postgres://u:p@h/n"),
    ("session.version", "3"),
    ("session.login_spacing_s", "5"),
    ("stream.tlcp_version", "2.1.0"),
    ("stream.stale_s", "90"),
    ("stream.silence_s", "0"),
    ("stream.transport", "http"),
    ("stream.retry_ms", "200"),
    ("stream.keepalive_ms", "1000"),
    ("stream.stalled_ms", "0"),
    ("stream.reconnect_ms", "1"),
    ("stream.recovery_ms", "0"),
    ("stream.inactivity_ms", "10000"),
    ("stream.content_length", "5000"),
    ("stream.websocket_again_s", "5"),
    ("stream.control_link", "ignore"),
    ("history.requests_per_minute", "4"),
    ("history.reserve", "7"),
    ("history.incident_cap", "8"),
    ("history.depth", "{ 5 = 9, 1h = 3 }"),
    ("history.give_up_days", "9"),
    ("retention.days", "{ 5 = 90, 1h = 900 }"),
    ("ig.ca_file", "/ca.pem"),
    ("store.flush_ms", "250"),
    ("store.spool_dir", "/spool"),
    ("http.listen", "off"),
    ("http.token_file", "/token"),
    ("http.allowed_hosts", "a.example, b.example"),
];

#[test]
fn every_key_is_heard_from_the_environment_and_from_the_file_alike() {
    let default = from_file("");
    for key in KEYS {
        let value = OTHER_VALUES.iter().find(|(path, _)| *path == key.path).expect(key.path).1;
        let heard = from_env(&[(key.variable().as_str(), value)]);
        assert_ne!(heard, default, "{} is not heard", key.variable());
        if let Some(short) = key.short {
            assert_eq!(from_env(&[(short, value)]), heard, "{short}");
        }
        let toml = if value.starts_with('{') { value.to_owned() } else { format!("{value:?}") };
        assert_eq!(from_file(&format!("{} = {toml}", key.path)), heard, "{} in the file", key.path);
    }
    assert_eq!(OTHER_VALUES.len(), KEYS.len());
}

#[test]
fn two_names_of_one_setting_may_not_disagree() {
    let same = [("IG_API_URL", "http://a/b"), ("CANDLEKEEP_IG_API_URL", "http://a/b")];
    assert_eq!(from_env(&same).ig.api_url, "http://a/b");
    refused(
        "",
        &[("IG_API_URL", "http://a/b"), ("CANDLEKEEP_IG_API_URL", "http://a/c")],
        "IG_API_URL: names the same setting as CANDLEKEEP_IG_API_URL, with another value",
    );
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known() {
    refused(
        "[history]\nreserv = 5\n",
        &[],
        "candlekeep.toml:2: unknown key \"history.reserv\"; the nearest known key is \"history.reserve\"",
    );
    refused(
        "\n[histroy]\nreserve = 5\n",
        &[],
        "candlekeep.toml:3: unknown key \"histroy.reserve\"; the nearest known key is \"history.reserve\"",
    );
    refused(
        "reserve = 5\n",
        &[],
        "candlekeep.toml:1: unknown key \"reserve\"; the nearest known key is \"history.reserve\"",
    );
    refused(
        "[pairs]\nUSD_SEK = { epik = \"CS.D.USDSEK.CFD.IP\" }\n",
        &[],
        "candlekeep.toml:2: pairs.USD_SEK: unknown key \"epik\"; the nearest known key is \"epic\"",
    );
    refused(
        "[pairs]\nUSD_SEK = { symbol = \"CS.D.USDSEK.CFD.IP\" }\n",
        &[],
        "candlekeep.toml:2: pairs.USD_SEK: unknown key \"symbol\"; known here are epic, scale, calendar",
    );
    refused(
        "[http]\nport = 8017\n",
        &[],
        "candlekeep.toml:2: unknown key \"http.port\"; known here are http.listen, http.token_file, http.allowed_hosts",
    );
    refused(
        "",
        &[("CANDLEKEEP_CLOKC", "")],
        "unknown environment variable CANDLEKEEP_CLOKC; the nearest known one is CANDLEKEEP_CLOCK",
    );
    refused(
        "",
        &[("CANDLEKEEP_PAIRSX", "1")],
        "unknown environment variable CANDLEKEEP_PAIRSX; the nearest known one is CANDLEKEEP_PAIRS",
    );
}

#[test]
fn variables_of_others_are_none_of_our_business() {
    from_env(&[("PATH", "/bin"), ("IGNORED", "1"), ("IG_SOMETHING", "1"), ("candlekeep_x", "1")]);
}

#[test]
fn malformed_toml_is_one_line_with_its_place() {
    for (text, place) in [
        ("[ig\n", "candlekeep.toml:1:4: not valid TOML: "),
        ("clock = \"system\"\nx = = 1\n", "candlekeep.toml:2:5: not valid TOML: "),
        ("clock = \"system\nx = 1\n", "candlekeep.toml:1:16: not valid TOML: "),
        ("clock = \"a\"\nclock = \"b\"\n", "candlekeep.toml:2:1: not valid TOML: "),
    ] {
        let message = from(text, &[]).unwrap_err().to_string();
        assert!(message.starts_with(place), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn secrets_in_the_file_are_refused_and_not_repeated() {
    for text in [
        "[ig]\npassword = \"hunter2\"\n",
        "IG_PASSWORD = \"hunter2\"\n",
        "[credentials]\npassword = \"hunter2\"\n",
        "password = hunter2\n",
    ] {
        let message = from(text, &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
    refused(
        "[ig]\nApi-Key = \"hunter2\"\n",
        &[],
        "candlekeep.toml:2: \"ig.Api-Key\" is a secret and is refused in the file: set IG_API_KEY in the environment",
    );
}

#[test]
fn nothing_secret_is_in_debug_or_errors() {
    let config = from_env(&[
        ("IG_API_KEY", "hunter2"),
        ("IG_USERNAME", "hunter2"),
        ("IG_PASSWORD", "hunter2"),
        ("IG_ACCOUNT_ID", "hunter2"),
        ("DATABASE_URL", "postgres://u:hunter2@h/n"),
    ]);
    assert!(!format!("{config:?} {config:#?} {:?}", config.credentials.require()).contains("hunter2"));
    for (name, value) in [
        ("DATABASE_URL", "mysql://u:hunter2@h/n"),
        ("IG_ACCOUNT_ID", "hunter2 hunter2"),
        ("IG_API_URL", "http://u:hunter2@h"),
        ("CANDLEKEEP_IG_PASSWORD", "hunter2"),
    ] {
        let error = from("", &[(name, value)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn missing_credentials_are_named_in_one_line() {
    let error = from_env(&[]).credentials.require().unwrap_err().to_string();
    assert!(
        error.starts_with("missing credentials: set IG_API_KEY, IG_USERNAME, IG_PASSWORD (or"),
        "{error}"
    );
    let config =
        from_env(&[("IG_API_KEY", "k"), ("IG_USER", "u"), ("IG_PASSWORD", "p"), ("IG_ACCOUNT_ID", "A")]);
    let error = config.credentials.require().unwrap_err().to_string();
    assert!(error.starts_with("missing credentials: set IG_USERNAME ("), "{error}");
    assert!(error.contains("; IG_USER is set but has no meaning;"), "{error}");
    let complete = from_env(&[("IG_API_KEY", "k"), ("IG_USERNAME", "u"), ("IG_PASSWORD", "p$")]);
    assert_eq!(complete.credentials.require().unwrap().password.expose(), "p$");
}

#[test]
fn values_out_of_bounds_or_of_another_kind_are_refused_with_their_place() {
    for (text, variables, expected) in [
        (
            "",
            &[("CANDLEKEEP_HISTORY_RESERVE", "many")][..],
            "CANDLEKEEP_HISTORY_RESERVE: expected a whole number from 0 to 1000000, found \"many\"",
        ),
        (
            "",
            &[("CANDLEKEEP_CLOCK", "wall")],
            "CANDLEKEEP_CLOCK: expected one of system, stream, found \"wall\"",
        ),
        (
            "",
            &[("DATABASE_URL", "candlekeep.db")],
            "DATABASE_URL: not a database address: write sqlite://file.db, sqlite:////absolute/path/file.db or postgres://user@host/name",
        ),
        (
            "",
            &[("CANDLEKEEP_HISTORY_DEPTH", "{ 7 = 1 }")],
            "CANDLEKEEP_HISTORY_DEPTH.7: unknown timeframe \"7\": use 5, 10, 15, 30 or 60 (also 5m, 1h)",
        ),
        (
            "",
            &[("CANDLEKEEP_HTTP", "0.0.0.0:80")],
            "CANDLEKEEP_HTTP: 0.0.0.0:80 is not loopback: http.token_file is required",
        ),
        (
            "",
            &[("CANDLEKEEP_HTTP", "8017")],
            "CANDLEKEEP_HTTP: expected ADDRESS:PORT such as 127.0.0.1:8017, or \"off\", found \"8017\"",
        ),
        (
            "",
            &[("IG_API_URL", "https://api.ig.com/gateway/deal")],
            "IG_API_URL: this is IG's live host, but ig.account_type is demo",
        ),
        ("session.version = 1", &[], "candlekeep.toml:1: session.version: expected one of 2, 3, found 1"),
        (
            "stream.stale_s = 0",
            &[],
            "candlekeep.toml:1: stream.stale_s: expected a whole number from 1 to 86400, found 0",
        ),
        (
            "stream.stale_s = 1.5",
            &[],
            "candlekeep.toml:1: stream.stale_s: expected a whole number from 1 to 86400, found a number with a fraction or out of range",
        ),
        ("ig = 5", &[], "candlekeep.toml:1: ig: expected a table"),
        ("pairs = 5", &[], "candlekeep.toml:1: pairs: expected a list such as [\"EUR_USD\"], or a table"),
        ("pairs = [\"EUR_USD\", \"EURUSD\"]", &[], "candlekeep.toml:1: pairs: EUR_USD is named twice"),
        ("pairs = []", &[], "pairs: no pair is left to watch"),
        (
            "pairs = [\"EUR_USD\"]",
            &[("CANDLEKEEP_PAIRS_EUR_USD", "false")],
            "CANDLEKEEP_PAIRS_EUR_USD: pairs lists it: take it out of one of them",
        ),
        (
            "",
            &[("CANDLEKEEP_PAIRS", "EUR_USD,EURO")],
            "CANDLEKEEP_PAIRS: not a currency pair: \"EURO\" (write EUR_USD, EURUSD or EUR/USD)",
        ),
        (
            "timeframes = [15]",
            &[],
            "candlekeep.toml:1: timeframes: 5 must be among the timeframes: the longer ones are folded from it",
        ),
        (
            "timeframes = [5, 7]",
            &[],
            "candlekeep.toml:1: timeframes: unknown timeframe \"7\": use 5, 10, 15, 30 or 60 (also 5m, 1h)",
        ),
        (
            "stream.tlcp_version = \"2.4\"",
            &[],
            "candlekeep.toml:1: stream.tlcp_version: expected a version such as 2.4.0",
        ),
    ] {
        refused(text, variables, expected);
    }
}

#[test]
fn pairs_are_removed_added_and_given_instruments() {
    let config = from_file(
        "[pairs]\nEURUSD = false\n'gbp/usd' = \"CS.D.GBPUSD.MINI.IP\"\nUSD_SEK = true\n\
         USD_NOK = { epic = \"CS.D.USDNOK.CFD.IP\", scale = \"points\" }\n",
    );
    assert_eq!(config.feeds.len(), 28 - 1 + 2);
    let find = |name: &str| config.feeds.iter().find(|feed| feed.pair.to_string() == name);
    assert_eq!(find("EUR_USD"), None);
    assert_eq!(config.feeds[0].pair.to_string(), "GBP_USD");
    assert_eq!(find("GBP_USD").unwrap().epic.as_ref().unwrap().as_str(), "CS.D.GBPUSD.MINI.IP");
    assert_eq!(find("USD_SEK").unwrap().epic, None);
    assert_eq!(find("USD_NOK").unwrap().scale, ScaleSetting::Fixed(Scale::Points(4)));
}

#[test]
fn the_environment_overrides_single_pairs() {
    let file = "[pairs]\nUSD_SEK = \"CS.D.USDSEK.CFD.IP\"\nEUR_USD = false\n";
    let variables = [
        ("CANDLEKEEP_PAIRS", "{ EUR_USD = true, USD_NOK = 'CS.D.USDNOK.CFD.IP' }"),
        ("CANDLEKEEP_PAIRS_USD_SEK", "false"),
        ("CANDLEKEEP_PAIRS_EURGBP", "{ scale = 'decimal' }"),
    ];
    let config = from(file, &variables).unwrap();
    let names: Vec<_> = config.pairs().map(|pair| pair.to_string()).collect();
    assert_eq!(names.len(), 29);
    assert!(names.contains(&"EUR_USD".to_owned()) && names.contains(&"USD_NOK".to_owned()));
    let eur_gbp = config.feeds.iter().find(|feed| feed.pair.letters() == "EURGBP").unwrap();
    assert_eq!(eur_gbp.scale, ScaleSetting::Fixed(Scale::Decimal));
}

#[test]
fn pairs_that_cannot_be_are_refused() {
    let letters = |n: u8| char::from(b'A' + n);
    let many: String = (0..13).map(|n| format!("SE{}_NOK = true\n", letters(n))).collect();
    for (text, expected) in [
        (format!("[pairs]\n{many}"), "pairs: 41 pairs are more than the 40 that IG streams at once"),
        (
            "[pairs]\nEURO = false".into(),
            "candlekeep.toml:2: pairs.EURO: not a currency pair: \"EURO\" (write EUR_USD, EURUSD or EUR/USD)",
        ),
        (
            "[pairs]\nEUR_USD = \"X\"".into(),
            "candlekeep.toml:2: pairs.EUR_USD: not an epic: \"X\" (6 to 30 letters, digits, dots and underscores)",
        ),
        (
            "[pairs]\nEUR_USD = 5".into(),
            "candlekeep.toml:2: pairs.EUR_USD: expected false, an epic, or { epic, scale, calendar }",
        ),
        (
            "[pairs]\nEUR_USD = true\neurusd = false".into(),
            "candlekeep.toml:3: pairs.eurusd: the same pair as EUR_USD, named before",
        ),
        (
            "[pairs]\nEUR_USD = { calendar = \"fx\" }".into(),
            "candlekeep.toml:2: pairs.EUR_USD: unknown calendar \"fx\"; known: forex",
        ),
    ] {
        refused(&text, &[], expected);
    }
    let none: String = MAJOR_PAIRS.iter().map(|pair| format!("{pair} = false\n")).collect();
    refused(&format!("[pairs]\n{none}"), &[], "pairs: no pair is left to watch");
    let forty: String = (0..12).map(|n| format!("SE{}_NOK = true\n", letters(n))).collect();
    assert_eq!(from_file(&format!("[pairs]\n{forty}")).feeds.len(), FEEDS_MAX);
}

#[test]
fn calendars_are_read_whole() {
    let config = from_file(
        "[calendars.Nordic]\nzone = \"Europe/Oslo\"\nweek = \"Monday 09:00 - Fri 24:00\"\n\
         daily_break = \"22:00 - 22:05\"\nclosed = [2026-12-25, \"2027-01-01\"]\n\
         [pairs]\nUSD_NOK = { calendar = \"nordic\" }\n",
    );
    let day = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).unwrap();
    assert_eq!(
        config.calendars["nordic"],
        CalendarConfig {
            zone: Zone::named("Europe/Oslo").unwrap(),
            opens: 24 * 60 + 9 * 60,
            closes: 6 * 24 * 60,
            daily_break: Some((22 * 60, 22 * 60 + 5)),
            closed: vec![day(2026, 12, 25), day(2027, 1, 1)],
        }
    );
    for (text, expected) in [
        ("zone = \"Europe/Oslo\"", "candlekeep.toml:2: calendars.x: week is missing"),
        (
            "zone = \"Oslo\"\nweek = \"Sun 22:00 - Fri 22:00\"",
            "candlekeep.toml:3: calendars.x.zone: expected a time zone such as \"Europe/London\"",
        ),
        (
            "zone = \"UTC\"\nweek = \"Fri 22:00 - Sun 22:00\"",
            "candlekeep.toml:3: calendars.x.week: expected a week such as \"Sun 22:00 - Fri 22:00\", from Sunday on",
        ),
    ] {
        let message = from(&format!("[calendars.x]\n{text}"), &[]).unwrap_err().to_string();
        // A table's entries are placed by the table's line.
        let (_, rest) = expected.split_once(": ").unwrap();
        assert!(message.ends_with(rest), "{message}");
    }
}

#[test]
fn the_built_in_calendar_takes_closed_dates_and_nothing_else() {
    let day = |text: &str| text.parse::<NaiveDate>().unwrap();
    let config = from_file("[calendars.forex]\nclosed = [\"2026-12-25\", 2026-12-28]\n");
    assert_eq!(config.forex_closed, [day("2026-12-25"), day("2026-12-28")]);
    assert!(config.calendars.is_empty());
    let forex = Calendar::forex().closed_on(config.forex_closed.clone());
    assert_eq!(config.calendar_of("EUR_USD".parse().unwrap()), Some(forex));
    let by_variable = from("", &[("CANDLEKEEP_CALENDARS_FOREX", "{ closed = [2026-12-25] }")]).unwrap();
    assert_eq!(by_variable.forex_closed, [day("2026-12-25")]);

    let refused = |text: &str, problem: &str| {
        let message = from(text, &[]).unwrap_err().to_string();
        assert!(message.ends_with(problem), "{text}: {message}");
    };
    const BUILT_IN: &str =
        "this calendar is built in, only `closed` may be given for it: choose another name for other hours";
    refused("[calendars.forex]\nzone = \"UTC\"", BUILT_IN);
    refused("[calendars.forex]\nclosed = []\nweek = \"Sun 22:00 - Fri 22:00\"", BUILT_IN);
    refused("[calendars.forex]\n", BUILT_IN);
    refused("[calendars]\nforex = \"UTC\"", BUILT_IN);
    refused("[calendars.forex]\nclosed = [\"Christmas\"]", "expected dates such as \"2026-12-25\"");
}

#[test]
fn every_feed_goes_by_its_own_calendar() {
    let config = from_file(
        "[calendars.nordic]\nzone = \"Europe/Oslo\"\nweek = \"Mon 09:00 - Fri 17:00\"\n\
         daily_break = \"12:00 - 12:30\"\nclosed = [2026-05-17]\n\
         [pairs]\nUSD_NOK = { calendar = \"nordic\" }\nEUR_NOK = { calendar = \"nordic\" }\n",
    );
    let nordic = Calendar::new(
        Zone::named("Europe/Oslo").unwrap(),
        24 * 60 + 9 * 60..5 * 24 * 60 + 17 * 60,
        Some(12 * 60..12 * 60 + 30),
    )
    .closed_on(["2026-05-17".parse().unwrap()]);
    let calendars = config.feed_calendars();
    assert_eq!(calendars.len(), config.feeds.len());
    for (feed, calendar) in config.feeds.iter().zip(&calendars) {
        let expected = if feed.calendar == "nordic" { &nordic } else { &Calendar::forex() };
        assert_eq!(**calendar, *expected, "{}", feed.pair);
        assert_eq!(config.calendar_of(feed.pair).as_ref(), Some(expected));
    }
    assert!(Arc::ptr_eq(&calendars[0], &calendars[27]), "those of one name share it");
    assert_eq!(config.calendar("of_old"), Calendar::forex());
    assert_eq!(config.calendar_of("USD_SEK".parse().unwrap()), None);
}

#[test]
fn the_template_changes_nothing() {
    let text = template();
    assert_eq!(from_file(&text), from_file(""));
    assert!(text.lines().all(|line| line.len() <= 100), "too wide for a terminal");
}

#[test]
fn the_template_shows_every_key_with_its_true_default() {
    let uncommented: String = template()
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with([' ', '\n']) && !rest.is_empty())
                .unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let config = from(&uncommented, &[]).unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    let default = from_file("");
    assert_eq!(config.history.depth, default.history.depth);
    assert_eq!(config.calendars.len(), 1);
    assert_eq!(config.feeds.len(), 28 - 1 + 2);
    for key in KEYS {
        assert!(uncommented.contains(&format!("\n{} = ", key.section_and_name().1)), "{}", key.path);
        if let Shown::Default(value) = key.shown {
            assert_eq!(from_file(&format!("{} = {value}", key.path)), default, "{}", key.path);
        }
    }
}

#[test]
fn bars_are_kept_for_ever_or_at_least_while_they_may_be_healed() {
    let days = |text: &str| {
        let retention = from_file(text).retention;
        [Timeframe::M5, Timeframe::M15].map(|timeframe| retention.days(timeframe))
    };
    assert_eq!(days(""), [None, None]);
    assert_eq!(days("retention.days = 400"), [Some(400), Some(400)]);
    assert_eq!(days("retention.days = { 5 = 40 }"), [Some(40), None]);
    // A hundred bars of 5 minutes and the weekends among them, and what is given up after four weeks.
    assert_eq!(days("retention.days = { 5 = 36 }"), [Some(36), None]);
    let refused = |text: &str| from(text, &[]).unwrap_err().to_string();
    let why = refused("retention.days = { 5 = 35 }");
    assert!(
        why.ends_with("35 days are too few: history.give_up_days and history.depth reach back 36 days"),
        "{why}"
    );
    assert!(refused("retention.days = 40").contains("too few"), "bars of an hour reach back further");
    assert!(refused("retention.days = { 5 = 90 }\nhistory.give_up_days = 90").contains("too few"));
    assert!(refused("retention.days = 0").contains("expected a whole number from 1 to"));
    let now = Timestamp(1_583_755_200 + 59);
    let limit = from_file("retention.days = { 5 = 40 }").retention.limit(Timeframe::M5, now);
    assert_eq!(limit, Some(Timestamp(1_583_755_200 - 40 * 86_400)));
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_every_error_is_one_line(text in "\\PC{0,80}", value in "\\PC{0,20}") {
        for result in [from(&text, &[]), from(&format!("[pairs]\nEUR_USD = {value}"), &[]),
                       from("", &[("CANDLEKEEP_HISTORY_DEPTH", &value), ("CANDLEKEEP_PAIRS", &text)])] {
            if let Err(error) = result {
                proptest::prop_assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
}

#[test]
fn the_documents_list_every_key_by_both_names() {
    let table = include_str!("../../docs/configuration.md");
    for key in KEYS {
        let variable = key.short.map_or_else(|| key.variable(), str::to_owned);
        let row = format!("| `{}` | `{variable}` |", key.path);
        assert!(table.contains(&row), "{row} is missing");
    }
}
