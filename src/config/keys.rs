//! Every configuration key, once: what it is called in the file and in the environment, what it
//! does, and what it is when nobody says. The template, the documents' table and the check for
//! unknown names all follow this list.

use super::Meant;

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Its path in the file: `history.reserve`.
    pub path: &'static str,
    /// A second, customary name in the environment.
    pub short: Option<&'static str>,
    /// What the template shows after the equals sign.
    pub shown: Shown,
    /// Whether its value is a list or table, which the environment spells as TOML.
    pub structured: bool,
    /// What it means, as lines of prose.
    pub about: &'static [&'static str],
}

/// A value in the template.
#[derive(Clone, Copy, Debug)]
pub enum Shown {
    /// The default.
    Default(&'static str),
    /// An example; without the key, something is worked out.
    Example(&'static str),
}

impl Shown {
    /// The value as TOML.
    pub fn toml(self) -> &'static str {
        match self {
            Shown::Default(text) | Shown::Example(text) => text,
        }
    }
}

impl Key {
    const fn new(path: &'static str, shown: Shown, about: &'static [&'static str]) -> Key {
        Key { path, short: None, shown, structured: false, about }
    }

    const fn short(mut self, name: &'static str) -> Key {
        self.short = Some(name);
        self
    }

    const fn structured(mut self) -> Key {
        self.structured = true;
        self
    }

    /// Its long name in the environment: `CANDLEKEEP_HISTORY_RESERVE`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// The table it stands in, and its name there. Keys at the top stand in `""`.
    pub fn section_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }
}

/// How every variable of ours begins, but for the customary short names.
pub const PREFIX: &str = "CANDLEKEEP_";

/// Names the configuration file. Not a key: it is needed before there is a file.
pub const CONFIG_VARIABLE: &str = "CANDLEKEEP_CONFIG";

/// The secrets, which come from the environment, a file named by `<name>_FILE`, or
/// `$CREDENTIALS_DIRECTORY/<lower-case name>`, and never from the configuration file.
pub const SECRETS: [&str; 3] = ["IG_API_KEY", "IG_USERNAME", "IG_PASSWORD"];

use Shown::{Default, Example};

/// The keys, in the order of the template.
pub const KEYS: &[Key] = &[
    Key::new(
        "timeframes",
        Default(r#"["5", "15"]"#),
        &[
            "Bar lengths to keep, in minutes. 5 is what IG streams and must be there;",
            "10, 15, 30 and 60 are folded from it and cost no allowance.",
        ],
    )
    .structured(),
    Key::new(
        "clock",
        Default(r#""system""#),
        &[
            "What settles a bar in time: \"system\" (the wall clock, for IG itself) or \"stream\"",
            "(the stream's own stamps, for a simulator or replay that runs faster than time).",
        ],
    ),
    Key::new(
        "ig.account_type",
        Default(r#""demo""#),
        &["\"demo\" or \"live\". The two have separate keys and passwords."],
    )
    .short("IG_ACCOUNT_TYPE"),
    Key::new(
        "ig.account_id",
        Example(r#""ABC12""#),
        &["Account to stream on. Without it: the one the login lands on."],
    )
    .short("IG_ACCOUNT_ID"),
    Key::new(
        "ig.api_url",
        Example(r#""http://127.0.0.1:8018/gateway/deal""#),
        &["Base address in place of IG's own, for example that of `candlekeep simulate`."],
    )
    .short("IG_API_URL"),
    Key::new(
        "ig.ca_file",
        Example(r#""/etc/ssl/certs/company.pem""#),
        &[
            "PEM file of an authority to believe besides those of the web, where a proxy of yours",
            "reads what is encrypted.",
        ],
    ),
    Key::new(
        "ig.product",
        Default(r#""auto""#),
        &[
            "Which of IG's instruments: \"auto\" (by account type), \"cfd\", \"today\" (spread bet) or \"mini\".",
        ],
    ),
    Key::new(
        "database.url",
        Default(r#""sqlite://candlekeep.db""#),
        &[
            "Where the bars go: sqlite://relative.db or sqlite:////absolute/path.db.",
            "Or postgres://user@host/name?sslmode=verify-full; its password belongs into ~/.pgpass.",
        ],
    )
    .short("DATABASE_URL"),
    Key::new(
        "session.version",
        Default("2"),
        &["Version of IG's login, 2 or 3. Version 2 suits a long-running stream."],
    ),
    Key::new(
        "session.login_spacing_s",
        Default("61"),
        &[
            "Least seconds between two logins. IG answers logins within a minute of each other",
            "from a cache, with tokens that may be dead.",
        ],
    ),
    Key::new(
        "stream.tlcp_version",
        Default(r#""2.4.0""#),
        &["Version of Lightstreamer's protocol. IG's servers have accepted this one in all periods."],
    ),
    Key::new(
        "stream.stale_s",
        Default("600"),
        &["Seconds of silence, while the market is open, after which a pair is subscribed anew."],
    ),
    Key::new(
        "stream.silence_s",
        Example("120"),
        &[
            "Seconds without any pair's row, while the market is open, after which everything is",
            "subscribed anew, then a new streaming session made, then a new login, then the process",
            "ended for systemd to restart. 0: never. Without it: 120, with clock = \"stream\" never.",
        ],
    ),
    Key::new(
        "stream.transport",
        Default(r#""auto""#),
        &["\"auto\" (a WebSocket, and HTTP where a proxy lets none through), \"websocket\" or \"http\"."],
    ),
    Key::new(
        "stream.retry_ms",
        Default("4000"),
        &["Milliseconds to wait for a connection, and from one attempt to the next; grows to a minute."],
    ),
    Key::new(
        "stream.keepalive_ms",
        Example("5000"),
        &["Longest silence to ask of the server. Without it: the server's own choice."],
    ),
    Key::new(
        "stream.stalled_ms",
        Default("2000"),
        &["Milliseconds of grace after the server's keepalive has passed in silence."],
    ),
    Key::new(
        "stream.reconnect_ms",
        Default("3000"),
        &["Further milliseconds of silence after which the connection is given up."],
    ),
    Key::new(
        "stream.recovery_ms",
        Default("15000"),
        &[
            "How long to try to go on exactly where a broken connection stopped. 0: never, which",
            "costs the bars that close meanwhile.",
        ],
    ),
    Key::new(
        "stream.inactivity_ms",
        Example("10000"),
        &["Longest silence to promise to the server, kept by heartbeats. Without it: no promise."],
    ),
    Key::new(
        "stream.content_length",
        Default("50000000"),
        &["Bytes after which a connection over HTTP is made anew; nothing is lost by that."],
    ),
    Key::new(
        "stream.websocket_again_s",
        Default("600"),
        &["Seconds on HTTP after which a WebSocket is tried again."],
    ),
    Key::new(
        "stream.control_link",
        Default(r#""follow""#),
        &["Whether to \"follow\" or \"ignore\" the address that the server gives for further connections."],
    ),
    Key::new(
        "history.requests_per_minute",
        Example("6"),
        &["Pace of history requests. Without it: IG's own limit less two, at most 8 on demo."],
    ),
    Key::new(
        "history.reserve",
        Default("1000"),
        &["Data points of IG's weekly allowance that only holes younger than a day may use."],
    ),
    Key::new(
        "history.incident_cap",
        Default("3000"),
        &["Most data points that healing one incident may spend within a week of IG's."],
    ),
    Key::new(
        "history.depth",
        Default("100"),
        &[
            "Bars of history to fetch on the first start, per pair. One number, or by timeframe:",
            "{ 5 = 100, 15 = 200 }.",
        ],
    )
    .structured(),
    Key::new(
        "history.give_up_days",
        Default("28"),
        &["Days after which a hole that could not be healed counts as lost."],
    ),
    Key::new(
        "retention.days",
        Example("{ 5 = 400 }"),
        &[
            "Days after which bars are deleted, by the running service. One number, or by timeframe, so that",
            "15-minute bars may stay when their 5-minute bars go. Without it everything is kept.",
        ],
    )
    .structured(),
    Key::new(
        "store.flush_ms",
        Default("0"),
        &["Milliseconds to collect bars before writing. 0 writes at once when no write is under way."],
    ),
    Key::new(
        "store.spool_dir",
        Example(r#""/var/lib/candlekeep""#),
        &[
            "Folder of the journal that holds bars while the database is away: a file of 8 MiB, made",
            "at start. Without it: beside the database.",
        ],
    ),
    Key::new("http.listen", Default(r#""127.0.0.1:8017""#), &["Address of the HTTP interface, or \"off\"."])
        .short("CANDLEKEEP_HTTP"),
    Key::new(
        "http.token_file",
        Example(r#""/etc/candlekeep/token""#),
        &["File with the token that HTTP clients must present. Required off loopback."],
    ),
    Key::new(
        "http.allowed_hosts",
        Default("[]"),
        &["Host names, besides loopback, under which HTTP clients may call."],
    )
    .structured(),
];

/// The key of this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether keys live under this path, as under `history`.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.section_and_name().0 == path)
}

/// The key of this variable, long or short.
pub fn find_by_variable(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.short == Some(name) || key.variable() == name)
}

/// What a mistaken name most likely means of those that are known: the nearest, unless more than a third of its letters
/// differ.
pub fn meant<'a>(
    typed: &str,
    known: impl Iterator<Item = &'a str>,
    distance: impl Fn(&str, &str) -> usize,
) -> Meant {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|known| (distance(typed, known), *known)).min_by_key(|(far, _)| *far);
    match nearest {
        Some((far, nearest)) if far <= (typed.chars().count() / 3).max(1) => {
            Meant::Nearest(nearest.to_owned())
        }
        _ => Meant::OneOf(known.into_iter().map(str::to_owned).collect()),
    }
}

/// What a mistaken path most likely means. A bare last part counts too: `reserve` is close to
/// `history.reserve`. Where none is near, the keys of its section are meant, or those at the top and the sections.
pub fn meant_path(path: &str) -> Meant {
    let paths = || KEYS.iter().map(|key| key.path).chain(["pairs", "calendars"]);
    let distance = |typed: &str, known: &str| {
        let last = known.rsplit('.').next().unwrap_or(known);
        strsim::damerau_levenshtein(typed, known).min(strsim::damerau_levenshtein(typed, last))
    };
    let nearest = meant(path, paths(), distance);
    if matches!(nearest, Meant::Nearest(_)) {
        return nearest;
    }
    let section = path.split_once('.').map_or("", |(section, _)| section);
    let within = |section: &str| {
        let own = KEYS.iter().filter(|key| key.section_and_name().0 == section);
        own.map(|key| key.path.to_owned()).collect::<Vec<_>>()
    };
    let own = within(section);
    if !section.is_empty() && !own.is_empty() {
        return Meant::OneOf(own);
    }
    let mut all = within("");
    for section in paths().filter_map(|path| path.split_once('.')).map(|(section, _)| format!("[{section}]"))
    {
        if !all.contains(&section) {
            all.push(section);
        }
    }
    all.extend(["[pairs]", "[calendars]"].map(str::to_owned));
    Meant::OneOf(all)
}

/// The variable that a mistaken one most likely means.
pub fn nearest_variable(name: &str) -> String {
    // Secrets have no CANDLEKEEP_ name; somebody who puts the prefix there means the plain one.
    if let Some(secret) = SECRETS.iter().find(|secret| name.strip_prefix(PREFIX) == Some(secret)) {
        return (*secret).to_owned();
    }
    let shorts = KEYS.iter().filter_map(|key| key.short).map(str::to_owned);
    KEYS.iter()
        .map(Key::variable)
        .chain(shorts)
        .chain([CONFIG_VARIABLE.to_owned(), format!("{PREFIX}PAIRS"), format!("{PREFIX}CALENDARS")])
        .min_by_key(|known| strsim::damerau_levenshtein(name, known))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_follow_the_path() {
        assert_eq!(
            find("history.requests_per_minute").unwrap().variable(),
            "CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE"
        );
        for key in KEYS {
            assert_eq!(find_by_variable(&key.variable()).unwrap().path, key.path);
        }
    }

    #[test]
    fn a_typing_error_is_led_to_the_key_that_was_meant() {
        for (typed, meant) in [
            ("histroy.reserve", "history.reserve"),
            ("history.reserv", "history.reserve"),
            ("reserve", "history.reserve"),
            ("pair", "pairs"),
            ("database.ur", "database.url"),
            ("ig.acount_type", "ig.account_type"),
            ("timeframe", "timeframes"),
        ] {
            assert_eq!(meant_path(typed), Meant::Nearest(meant.to_owned()), "{typed}");
        }
        for (typed, first, last) in [
            ("http.port", "http.listen", "http.allowed_hosts"),
            ("logging.level", "timeframes", "[calendars]"),
            ("verbose", "timeframes", "[calendars]"),
        ] {
            let Meant::OneOf(keys) = meant_path(typed) else { panic!("{typed} is near to nothing") };
            assert_eq!(
                (keys.first().unwrap().as_str(), keys.last().unwrap().as_str()),
                (first, last),
                "{keys:?}"
            );
        }
        for (typed, meant) in [
            ("CANDLEKEEP_HISTORY_RESERV", "CANDLEKEEP_HISTORY_RESERVE"),
            ("CANDLEKEEP_CLOK", "CANDLEKEEP_CLOCK"),
            ("CANDLEKEEP_HTPP", "CANDLEKEEP_HTTP"),
            ("CANDLEKEEP_CONFG", "CANDLEKEEP_CONFIG"),
            ("CANDLEKEEP_IG_PASSWORD", "IG_PASSWORD"),
            ("CANDLEKEEP_DATABASE", "CANDLEKEEP_DATABASE_URL"),
        ] {
            assert_eq!(nearest_variable(typed), meant, "{typed}");
        }
    }
}
