//! `candlekeep man`: the manual pages, written from what `--help` knows.

use std::fs;
use std::io;

use clap::CommandFactory as _;

use super::print;
use crate::cli::{Cli, Man};
use crate::exit::{Exit, Failure};

/// What an administrator looks for in the main page, besides what `--help` says.
const FILES: &str = r#".SH FILES
.TP
.I ./candlekeep.toml\fR, \fI~/.config/candlekeep/candlekeep.toml\fR, \fI/etc/candlekeep/candlekeep.toml
The configuration, the first of them that is there.
.B candlekeep init
writes one that explains every setting.
.TP
.I /etc/candlekeep/credentials/
Where the packaged unit takes
.IR api_key ", " username " and " password
from.
.TP
.I /var/lib/candlekeep/
Where the packaged unit keeps its database.
.SH ENVIRONMENT
.TP
.BR IG_API_KEY ", " IG_USERNAME ", " IG_PASSWORD
Secrets;
.BR IG_PASSWORD_FILE ,
and so on, name a file that holds one.
.TP
.BR CANDLEKEEP_CONFIG ", " DATABASE_URL ", " RUST_LOG
The configuration file, the database, and what is logged. Every key of the configuration has a variable as well.
"#;

/// Prints the main page, or writes all of them.
///
/// # Errors
/// When the folder or a page cannot be written.
pub fn execute(args: &Man) -> Result<Exit, Failure> {
    let command = built();
    let Some(folder) = &args.folder else {
        print(&page(&command))?;
        return Ok(Exit::Done);
    };
    let write = |name: String, text: Vec<u8>| {
        let path = folder.join(name);
        fs::write(&path, text)
            .map_err(|error| Failure::failed(format_args!("cannot write {}: {error}", path.display())))
    };
    fs::create_dir_all(folder)
        .map_err(|error| Failure::failed(format_args!("cannot make {}: {error}", folder.display())))?;
    write("candlekeep.1".to_owned(), page(&command))?;
    for command in command.get_subcommands() {
        write(format!("candlekeep-{}.1", command.get_name()), page(command))?;
    }
    Ok(Exit::Done)
}

/// The whole definition, with what each command takes from the program.
fn built() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// One page.
fn page(command: &clap::Command) -> Vec<u8> {
    let mut text = Vec::new();
    render(command, &mut text).expect("a vector takes whatever is written");
    text
}

fn render(command: &clap::Command, text: &mut Vec<u8>) -> io::Result<()> {
    let is_main = command.has_subcommands();
    // A page says which version it is of; a date would make two builds of one version differ.
    let page = clap_mangen::Man::new(command.clone())
        .date(" ")
        .source(concat!("candlekeep ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    page.render_title(text)?;
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    page.render_options_section(text)?;
    if is_main {
        page.render_subcommands_section(text)?;
    }
    if let Some(help) = command.get_after_help() {
        text.extend(after_help(&help.to_string()).into_bytes());
    }
    let others = if is_main {
        text.extend(FILES.as_bytes());
        ".BR candlekeep\\-demo (1),\n.BR candlekeep\\-run (1),\n.BR candlekeep\\-status (1),\n.BR candlekeep\\-doctor (1),\n.BR systemctl (1)\n"
    } else {
        ".BR candlekeep (1)\n"
    };
    text.extend(format!(".SH SEE ALSO\n{others}").into_bytes());
    Ok(())
}

/// What stands below a help text, as sections. Indented lines are examples, and stay lines; the others are headings
/// of a section, where they name one, or say what the examples below them do.
fn after_help(help: &str) -> String {
    let mut text = String::new();
    let mut is_example = false;
    for line in help.lines().filter(|line| !line.trim().is_empty()) {
        let section = match line {
            "Examples:" => Some("EXAMPLES"),
            "Exit codes:" => Some("EXIT STATUS"),
            _ if text.is_empty() => Some("EXAMPLES"),
            _ => None,
        };
        let indented = line.strip_prefix("  ");
        if is_example && indented.is_none() {
            text.push_str(".fi\n.RE\n");
        }
        if let Some(section) = section {
            text.push_str(&format!(".SH {section}\n"));
        }
        match indented {
            Some(example) => {
                if !is_example {
                    text.push_str(".RS 4\n.nf\n");
                }
                text.push_str(&escaped(example));
            }
            None if line == "Examples:" || line == "Exit codes:" => {}
            None => {
                text.push_str(".PP\n");
                text.push_str(&escaped(line));
            }
        }
        is_example = indented.is_some();
    }
    if is_example {
        text.push_str(".fi\n.RE\n");
    }
    text
}

/// A line that says to a typesetter nothing but itself.
fn escaped(line: &str) -> String {
    let plain = line
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti");
    format!("\\&{plain}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_help_text_becomes_sections_and_examples_keep_their_lines() {
        let check = |help: &str, expected: &str| assert_eq!(after_help(help), expected, "{help}");
        check("Examples:\n  a --b\n  c", ".SH EXAMPLES\n.RS 4\n.nf\n\\&a \\-\\-b\n\\&c\n.fi\n.RE\n");
        check(
            "Try it:\n  a\n\nExit codes:\n  0 done",
            ".SH EXAMPLES\n.PP\n\\&Try it:\n.RS 4\n.nf\n\\&a\n.fi\n.RE\n.SH EXIT STATUS\n.RS 4\n.nf\n\\&0 done\n.fi\n.RE\n",
        );
        // A dot or a quote at the beginning would be an order, a backslash anywhere.
        check(
            "Examples:\n  .so 'x' \\n ~",
            ".SH EXAMPLES\n.RS 4\n.nf\n\\&.so \\(aqx\\(aq \\en \\(ti\n.fi\n.RE\n",
        );
        check("", "");
    }

    #[test]
    fn every_page_has_what_its_help_text_has_and_nothing_hidden() {
        let command = built();
        for command in command.get_subcommands().chain([&command]) {
            let text = String::from_utf8(page(command)).unwrap();
            let name = command.get_name();
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "SEE ALSO"] {
                assert_eq!(text.matches(&format!("\n.SH {section}\n")).count(), 1, "{name}: {section}");
            }
            for option in command.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                let spelled = format!("\\-\\-{}", long.replace('-', "\\-"));
                let is_there = text.contains(&spelled);
                assert_eq!(is_there, !option.is_hide_set(), "{name}: {spelled}");
            }
        }
    }
}
