//! PostgreSQL's password file (manual, "The Password File"): a password a line, so that none has to stand
//! in an address. Finding the line is pure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio_postgres::config::Host;

/// A file that is larger is none of passwords.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The password for where `config` leads, if the address has none: from `PGPASSWORD`, else from the file
/// that the address (`passfile`) or `PGPASSFILE` names, else `~/.pgpass`.
pub(super) fn password(config: &tokio_postgres::Config, named: Option<&Path>) -> Option<String> {
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Some(password);
    }
    let file = named.map(Path::to_owned).or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
    let file = file.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass")))?;
    let about = match fs::metadata(&file) {
        Ok(about) => about,
        Err(error) => {
            if named.is_some() {
                log::warn!(file:% = file.display(), error:% = error; "the password file that was named cannot be read");
            }
            return None;
        }
    };
    if about.permissions().mode() & 0o077 != 0 || about.len() > FILE_BYTES_MAX {
        log::warn!(file:% = file.display(); "others can read this password file, or it is none: it is not used");
        return None;
    }
    let text = fs::read_to_string(&file).ok()?;
    let host = config.get_hosts().first().map_or("localhost", |host| match host {
        Host::Tcp(name) => name,
        Host::Unix(_) => "localhost",
    });
    // As the driver, and libpq, have it.
    let own_name = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let user = &config.get_user().map(str::to_owned).or_else(own_name)?;
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    find(&text, [host, &port, config.get_dbname().unwrap_or(user), user])
}

/// The password of the first line that fits host, port, database and user.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = split(line);
        let fits =
            wanted.iter().all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        fits.then(|| fields.next())?
    })
}

/// The fields of a line: a colon ends one unless a backslash stands before it.
fn split(line: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = Some(line.chars());
    std::iter::from_fn(move || {
        let mut field = String::new();
        let chars = rest.as_mut()?;
        loop {
            match chars.next() {
                Some(':') => return Some(field),
                Some('\\') => field.extend(chars.next()),
                Some(other) => field.push(other),
                None => {
                    rest = None;
                    return Some(field);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# of two servers\n\
                        db.example:5432:candles:me:first\n\
                        db.example:*:*:me:se\\:co\\\\nd\n\
                        *:*:*:bot:third\n\
                        broken line\n\
                        db.example:5432:candles";

    fn check(wanted: [&str; 4], expected: Option<&str>) {
        assert_eq!(find(FILE, wanted).as_deref(), expected, "{wanted:?}");
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        check(["db.example", "5432", "candles", "me"], Some("first"));
        check(["db.example", "5433", "candles", "me"], Some("se:co\\nd"));
        check(["elsewhere", "1", "x", "bot"], Some("third"));
        check(["elsewhere", "1", "x", "me"], None);
        check(["db.example", "5432", "candles", "you"], None);
    }
}
