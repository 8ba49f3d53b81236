//! The commented configuration that `candlekeep init` writes. It follows [`KEYS`], so it cannot
//! lag behind; every setting is there, commented out, with its default.

use std::fmt::Write as _;

use super::keys::{KEYS, Key, Shown};

const HEAD: &str = "\
# candlekeep's configuration. It works as it is: every setting is commented out and shows its
# default, or an example where it has none. Flags win over environment variables, those over this
# file. Each setting has a variable: history.reserve is CANDLEKEEP_HISTORY_RESERVE.
#
# Secrets do not go here and are refused. Set IG_API_KEY, IG_USERNAME and IG_PASSWORD in the
# environment, or IG_API_KEY_FILE and so on to the name of a file, or use systemd's
# LoadCredential= with the names ig_api_key, ig_username and ig_password.
";

const PAIRS: &str = "\
[pairs]
# The 28 pairs of EUR USD GBP JPY AUD NZD CAD CHF are collected without being named. This table
# removes some, adds others (40 at most), or gives one its instrument, its scale (\"auto\",
# \"decimal\", \"points\") and its calendar. To collect a few alone, write instead of the table, above
# the first [section]: pairs = [\"EUR_USD\", \"USD_JPY\"], or set CANDLEKEEP_PAIRS=EUR_USD,USD_JPY.
#GBP_CHF = false
#USD_SEK = \"CS.D.USDSEK.CFD.IP\"
#USD_NOK = { epic = \"CS.D.USDNOK.CFD.IP\", scale = \"decimal\", calendar = \"forex\" }
";

const CALENDARS: &str = "\
# Trading hours beside the built-in \"forex\", in one city's time; a pair goes by them that names
# them as its calendar.
#[calendars.short_week]
#zone = \"Europe/London\"
#week = \"Sun 22:00 - Fri 21:00\"
#daily_break = \"22:00 - 22:05\"
#closed = [\"2026-12-25\", \"2027-01-01\"]

# Of \"forex\" only this may be set: days without trading, each from 17:00 New York of the day
# before to 17:00. Without it, 25 December and 1 January are days on which no bar is missed.
#[calendars.forex]
#closed = [\"2026-12-25\"]
";

/// The text of a fresh `candlekeep.toml`.
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.section_and_name();
        if in_section != section {
            // After the broker come the pairs to have from it.
            if section == "ig" {
                text.push('\n');
                text.push_str(PAIRS);
            }
            section = in_section;
            let _ = write!(text, "\n[{section}]");
        }
        text.push('\n');
        write_key(&mut text, key, name);
    }
    text.push('\n');
    text.push_str(CALENDARS);
    text
}

fn write_key(text: &mut String, key: &Key, name: &str) {
    for line in key.about {
        let _ = writeln!(text, "# {line}");
    }
    if let Shown::Example(_) = key.shown {
        let _ = writeln!(text, "# No default; for example:");
    }
    let _ = writeln!(text, "#{name} = {}", key.shown.toml());
}
