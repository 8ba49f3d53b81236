//! What file, environment and flags say, laid over each other: from three spellings to one map
//! of raw values, each with the place it came from.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::keys::{self, CONFIG_VARIABLE, PREFIX};
use super::{ConfigError, FileText, Flags};
use crate::domain::Pair;
use crate::exit::one_line;

/// Offending text in an error is cut to this many characters.
const SHOWN_CHARS_MAX: usize = 60;

/// Last parts of keys that people give secrets in a file.
const SECRET_NAMES: [(&str, &str); 6] = [
    ("api_key", "IG_API_KEY"),
    ("apikey", "IG_API_KEY"),
    ("username", "IG_USERNAME"),
    ("identifier", "IG_USERNAME"),
    ("user", "IG_USERNAME"),
    ("password", "IG_PASSWORD"),
];

/// Where the list of pairs stands that are to be all; what is said of a single one stands under it.
pub(super) const PAIRS: &str = "pairs";

/// A value as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// Text, or a date or time as its text.
    Text(String),
    Whole(i64),
    Switch(bool),
    List(Vec<Raw>),
    Table(BTreeMap<String, Raw>),
    /// A number that is not whole, or not an `i64`: no key takes one.
    OddNumber,
}

impl Raw {
    fn from_toml(value: &DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::OddNumber, Raw::Whole)
            }
            DeValue::Float(_) => Raw::OddNumber,
            DeValue::Boolean(on) => Raw::Switch(*on),
            DeValue::Datetime(time) => Raw::Text(time.to_string()),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| Raw::from_toml(item.get_ref())).collect())
            }
            DeValue::Table(table) => Raw::Table(
                table
                    .iter()
                    .map(|(key, value)| (key.get_ref().to_string(), Raw::from_toml(value.get_ref())))
                    .collect(),
            ),
        }
    }

    /// A variable's text where the key takes a list or table: TOML if it looks like it.
    fn from_structured_text(text: &str) -> Result<Raw, String> {
        if text.starts_with(['{', '[']) {
            DeValue::parse(text)
                .map(|value| Raw::from_toml(value.get_ref()))
                .map_err(|error| format!("not valid TOML: {}", one_line(error.message())))
        } else {
            Ok(Raw::Text(text.to_owned()))
        }
    }

    /// What it is, for an error.
    fn describe(&self) -> String {
        match self {
            Raw::Text(text) => format!("\"{}\"", cut(text)),
            Raw::Whole(number) => number.to_string(),
            Raw::Switch(on) => on.to_string(),
            Raw::List(_) => "a list".to_owned(),
            Raw::Table(_) => "a table".to_owned(),
            Raw::OddNumber => "a number with a fraction or out of range".to_owned(),
        }
    }
}

/// Text made fit for an error: one line, bounded.
pub(super) fn cut(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A value and where it was found: `candlekeep.toml:12: history.reserve`, `DATABASE_URL`,
/// `--database`.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub place: String,
    pub raw: Raw,
}

impl Given {
    /// An error about this value.
    pub fn invalid(&self, problem: impl Display) -> ConfigError {
        ConfigError::Invalid { place: self.place.clone(), problem: problem.to_string() }
    }

    fn expected(&self, what: impl Display) -> ConfigError {
        self.invalid(format_args!("expected {what}, found {}", self.raw.describe()))
    }

    /// A whole number within `range`.
    pub fn whole(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let number = match &self.raw {
            Raw::Whole(number) => u32::try_from(*number).ok(),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.expected(format_args!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// Text as it stands.
    pub fn text(&self) -> Result<&str, ConfigError> {
        match &self.raw {
            Raw::Text(text) => Ok(text),
            _ => Err(self.expected("text in quotes")),
        }
    }

    /// Text that `T` understands.
    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Result<T, ConfigError> {
        self.text()?.parse().map_err(|error| self.invalid(error))
    }

    /// One of a few words, in any case.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let given = match &self.raw {
            Raw::Text(text) => text.trim().to_ascii_lowercase(),
            Raw::Whole(number) => number.to_string(),
            _ => String::new(),
        };
        words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.expected(format_args!("one of {}", words.join(", ")))
        })
    }

    /// The items of a list, each with this value's place; text is split at commas.
    pub fn list(&self) -> Result<Vec<Given>, ConfigError> {
        let items = match &self.raw {
            Raw::List(items) => items.clone(),
            Raw::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Raw::Text(item.to_owned()))
                .collect(),
            _ => return Err(self.expected("a list")),
        };
        Ok(items.into_iter().map(|raw| Given { place: self.place.clone(), raw }).collect())
    }

    /// The entries of a table, each with its key added to the place. `None` if it is no table.
    pub fn table(&self) -> Option<BTreeMap<&str, Given>> {
        let Raw::Table(entries) = &self.raw else { return None };
        let given = |key: &str, raw: &Raw| Given { place: format!("{}.{key}", self.place), raw: raw.clone() };
        Some(entries.iter().map(|(key, raw)| (key.as_str(), given(&cut(key), raw))).collect())
    }

    /// The entries of a table that may have these keys only.
    pub fn table_of(&self, known: &[&str]) -> Result<BTreeMap<&str, Given>, ConfigError> {
        let entries =
            self.table().ok_or_else(|| self.expected(format_args!("a table of {}", known.join(", "))))?;
        for key in entries.keys() {
            if !known.contains(key) {
                let meant = keys::meant(key, known.iter().copied(), strsim::damerau_levenshtein);
                return Err(ConfigError::UnknownKey { place: self.place.clone(), key: cut(key), meant });
            }
        }
        Ok(entries)
    }
}

/// The winning value of every key that somebody gave.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<String, Given>);

impl Settings {
    /// The value of this path, if given.
    pub fn get(&self, path: &str) -> Option<&Given> {
        self.0.get(path)
    }

    /// Everything given under a prefix such as `pairs.`, by what follows it.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Given)> {
        self.0.iter().filter_map(move |(path, given)| Some((path.strip_prefix(prefix)?, given)))
    }

    /// Lays the file over what is there.
    pub fn add_file(&mut self, file: &FileText<'_>) -> Result<(), ConfigError> {
        let path = file.path.display().to_string();
        let document = DeTable::parse(file.text).map_err(|error| {
            let (line, column) = position(file.text, error.span().map_or(0, |span| span.start));
            ConfigError::Malformed { path: path.clone(), line, column, message: one_line(error.message()) }
        })?;
        FileLayer { path, text: file.text, settings: self }.add_table("", document.get_ref())
    }

    /// Lays our variables over what is there. Empty values count as absent.
    pub fn add_environment(&mut self, env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        let mut seen: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for (name, value) in env {
            if name == CONFIG_VARIABLE {
                continue;
            }
            let given = |raw| Given { place: name.clone(), raw };
            let structured = || {
                Raw::from_structured_text(value.trim())
                    .map_err(|problem| ConfigError::Invalid { place: name.clone(), problem })
            };
            if let Some(key) = keys::find_by_variable(name) {
                if value.is_empty() {
                    continue;
                }
                if let Some((other, other_value)) = seen.insert(key.path, (name, value))
                    && other_value != value
                {
                    return Err(ConfigError::Invalid {
                        place: name.clone(),
                        problem: format!("names the same setting as {other}, with another value"),
                    });
                }
                let raw = if key.structured { structured()? } else { Raw::Text(value.clone()) };
                self.0.insert(key.path.to_owned(), given(raw));
            } else if let Some((family, rest)) = family_of(name) {
                if value.is_empty() {
                    continue;
                }
                let given = given(structured()?);
                match rest {
                    None if family == "pairs" && !matches!(given.raw, Raw::Table(_)) => self.add_list(given),
                    None => self.add_family(family, &given)?,
                    Some(member) => self.add_member(family, &member, given)?,
                }
            } else if name.starts_with(PREFIX) {
                let nearest = keys::nearest_variable(name);
                return Err(ConfigError::UnknownVariable { name: cut(name), nearest });
            }
        }
        Ok(())
    }

    /// Lays command-line flags over what is there.
    pub fn add_flags(&mut self, flags: &Flags) {
        if let Some(url) = &flags.database {
            let given = Given { place: "--database".to_owned(), raw: Raw::Text(url.clone()) };
            self.0.insert("database.url".to_owned(), given);
        }
    }

    /// Adds every entry of a table of pairs or calendars.
    fn add_family(&mut self, family: &'static str, given: &Given) -> Result<(), ConfigError> {
        let entries = given.table().ok_or_else(|| given.expected("a table such as { NAME = ... }"))?;
        entries.into_iter().try_for_each(|(member, given)| self.add_member(family, member, given))
    }

    /// The pairs that are to be all.
    fn add_list(&mut self, given: Given) {
        self.0.insert(PAIRS.to_owned(), given);
    }

    fn add_member(&mut self, family: &'static str, member: &str, given: Given) -> Result<(), ConfigError> {
        let member = match family {
            "pairs" => member.parse::<Pair>().map_err(|error| given.invalid(error))?.to_string(),
            _ => member.to_ascii_lowercase(),
        };
        self.0.insert(format!("{family}.{member}"), given);
        Ok(())
    }
}

/// Which table of free names a variable belongs to, and the name that follows, if any.
fn family_of(name: &str) -> Option<(&'static str, Option<String>)> {
    let rest = name.strip_prefix(PREFIX)?;
    [("pairs", "PAIRS"), ("calendars", "CALENDARS")].into_iter().find_map(|(family, spelled)| {
        let rest = rest.strip_prefix(spelled)?;
        match rest.strip_prefix('_') {
            _ if rest.is_empty() => Some((family, None)),
            Some(member) if !member.is_empty() => Some((family, Some(member.to_owned()))),
            _ => None,
        }
    })
}

/// The walk over a parsed file.
struct FileLayer<'a> {
    path: String,
    text: &'a str,
    settings: &'a mut Settings,
}

impl FileLayer<'_> {
    fn place(&self, offset: usize, path: &str) -> String {
        format!("{}:{}: {}", self.path, position(self.text, offset).0, cut(path))
    }

    fn add_table(&mut self, section: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let offset = name.span().start;
            let path = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            match value.get_ref() {
                DeValue::Table(family) if path == "pairs" || path == "calendars" => {
                    self.add_free_names(if path == "pairs" { "pairs" } else { "calendars" }, family)?;
                }
                DeValue::Table(inner) if keys::find(&path).is_none() && keys::is_section(&path) => {
                    self.add_table(&path, inner)?;
                }
                DeValue::Array(_) if path == PAIRS => {
                    let given =
                        Given { place: self.place(offset, &path), raw: Raw::from_toml(value.get_ref()) };
                    self.settings.add_list(given);
                }
                leaf if keys::find(&path).is_some() => {
                    let given = Given { place: self.place(offset, &path), raw: Raw::from_toml(leaf) };
                    self.settings.0.insert(path, given);
                }
                _ if keys::is_section(&path) || path == "pairs" || path == "calendars" => {
                    return Err(ConfigError::Invalid {
                        place: self.place(offset, &path),
                        problem: if path == PAIRS {
                            "expected a list such as [\"EUR_USD\"], or a table".to_owned()
                        } else {
                            "expected a table".to_owned()
                        },
                    });
                }
                other => return Err(self.unknown(offset, path, other)),
            }
        }
        Ok(())
    }

    fn add_free_names(&mut self, family: &'static str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in table {
            let (offset, name) = (name.span().start, name.get_ref());
            let place = self.place(offset, &format!("{family}.{name}"));
            let given = Given { place, raw: Raw::from_toml(value.get_ref()) };
            let spelled = name.replace(['_', '/', '-'], "").to_ascii_uppercase();
            if family == "pairs"
                && let Some(other) = seen.insert(spelled, name.to_string())
            {
                return Err(given.invalid(format_args!("the same pair as {other}, named before")));
            }
            self.settings.add_member(family, name, given)?;
        }
        Ok(())
    }

    /// The error for a name that no key has; for a table, it names the first thing inside.
    fn unknown(&self, offset: usize, path: String, value: &DeValue<'_>) -> ConfigError {
        if let DeValue::Table(table) = value
            && let Some((name, inner)) = table.iter().next()
        {
            return self.unknown(name.span().start, format!("{path}.{}", name.get_ref()), inner.get_ref());
        }
        let place = format!("{}:{}", self.path, position(self.text, offset).0);
        let last = path.rsplit('.').next().unwrap_or(&path).to_ascii_lowercase().replace('-', "_");
        let last = last.strip_prefix("ig_").unwrap_or(&last);
        if let Some((_, variable)) = SECRET_NAMES.iter().find(|(name, _)| *name == last) {
            return ConfigError::SecretInFile { place, key: cut(&path), variable };
        }
        ConfigError::UnknownKey { place, meant: keys::meant_path(&path), key: cut(&path) }
    }
}

/// Line and column, both from 1, of a byte offset; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_in_characters() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("a\nbc", 3), (2, 2));
        assert_eq!(position("é = 1", 3), (1, 3));
        assert_eq!(position("a\n", 99), (2, 1));
    }

    #[test]
    fn offending_text_is_cut() {
        assert_eq!(cut("a\nb"), "a b");
        assert_eq!(cut(&"é".repeat(61)).chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
