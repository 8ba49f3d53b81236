//! `candlekeep man`: the manual pages, written from what `--help` knows.

use std::fs;
use std::io;

use clap::{Arg, CommandFactory as _};

use super::{print, say};
use crate::cli::{Cli, Man};
use crate::exit::{Exit, Failure};

/// What stands above the exit codes in the program's help.
const EXIT_CODES: &str = "Exit codes:";
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
        print(&page(&command, &exit_codes(&command)))?;
        return Ok(Exit::Done);
    };
    let write = |name: String, text: Vec<u8>| {
        let path = folder.join(name);
        fs::write(&path, text)
            .map_err(|error| Failure::failed(format_args!("cannot write {}: {error}", path.display())))
    };
    fs::create_dir_all(folder)
        .map_err(|error| Failure::failed(format_args!("cannot make {}: {error}", folder.display())))?;
    let codes = exit_codes(&command);
    write("candlekeep.1".to_owned(), page(&command, &codes))?;
    for command in command.get_subcommands() {
        write(format!("candlekeep-{}.1", command.get_name()), page(command, &codes))?;
    }
    let count = command.get_subcommands().count() + 1;
    say(format_args!("wrote {count} pages to {}: candlekeep.1 and one for every command", folder.display()));
    Ok(Exit::Done)
}

/// The whole definition, with what each command takes from the program.
fn built() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// How the program's help tells its exit codes, which are every command's.
fn exit_codes(program: &clap::Command) -> String {
    let help = program.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.find(EXIT_CODES).map(|place| help[place..].to_owned()).unwrap_or_default()
}

/// One page. `codes`: what the program's help says of exit codes.
fn page(command: &clap::Command, codes: &str) -> Vec<u8> {
    let mut text = Vec::new();
    render(command, codes, &mut text).expect("a vector takes whatever is written");
    text
}

fn render(command: &clap::Command, codes: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let is_main = command.has_subcommands();
    // A page says which version it is of; a date would make two builds of one version differ.
    let man = |command: clap::Command| {
        clap_mangen::Man::new(command)
            .date(" ")
            .source(concat!("candlekeep ", env!("CARGO_PKG_VERSION")))
            .manual("User Commands")
    };
    let page = man(command.clone());
    page.render_title(text)?;
    page.render_name_section(text)?;
    if is_main {
        page.render_synopsis_section(text)?;
    } else {
        text.extend(synopsis(command).into_bytes());
    }
    page.render_description_section(text)?;
    if command.get_positionals().next().is_some() {
        let headed = |it: Arg| if it.is_positional() { it.help_heading("Arguments") } else { it.hide(true) };
        man(command.clone().mut_args(headed)).render_options_section(text)?;
    }
    man(command.clone().mut_args(|it| if it.is_positional() { it.hide(true) } else { it }))
        .render_options_section(text)?;
    if is_main {
        page.render_subcommands_section(text)?;
    }
    if let Some(help) = command.get_after_help() {
        text.extend(after_help(&help.to_string()).into_bytes());
    }
    if !is_main {
        text.extend(after_help(codes).into_bytes());
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

/// A command with what it takes, and what its options take.
fn synopsis(command: &clap::Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut text = format!(".SH SYNOPSIS\n\\fB{name}\\fR\n");
    for argument in command.get_arguments().filter(|it| !it.is_hide_set() && !it.is_positional()) {
        let Some(long) = argument.get_long() else { continue };
        let values = if argument.get_action().takes_values() { argument.get_value_names() } else { None };
        let values = values.unwrap_or_default().join(" ");
        let gap = match (values.is_empty(), argument.is_require_equals_set()) {
            (true, _) => "",
            (false, true) => "=",
            (false, false) => " ",
        };
        text.push_str(&format!("[\\fB\\-\\-{}\\fR{gap}\\fI{values}\\fR]\n", long.replace('-', "\\-")));
    }
    for argument in command.get_positionals() {
        let values = argument.get_value_names().unwrap_or_default().join(" ");
        text.push_str(&if argument.is_required_set() {
            format!("\\fI{values}\\fR\n")
        } else {
            format!("[\\fI{values}\\fR]\n")
        });
    }
    text
}

/// What stands below a help text, as sections. Indented lines are examples, and stay lines; the others are headings
/// of a section, where they name one, or say what the examples below them do.
fn after_help(help: &str) -> String {
    let mut text = String::new();
    let mut is_example = false;
    for line in help.lines().filter(|line| !line.trim().is_empty()) {
        let section = match line {
            "Examples:" => Some("EXAMPLES"),
            EXIT_CODES => Some("EXIT STATUS"),
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
            None if line == "Examples:" || line == EXIT_CODES => {}
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
        let codes = exit_codes(&command);
        for command in command.get_subcommands().chain([&command]) {
            let text = String::from_utf8(page(command, &codes)).unwrap();
            let name = command.get_name();
            let sections =
                ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "SEE ALSO"];
            for section in sections {
                assert_eq!(text.matches(&format!("\n.SH {section}\n")).count(), 1, "{name}: {section}");
            }
            assert!(text.contains("\n\\&77 IG refuses") && text.contains("78 the configuration"), "{name}");
            let takes = command.get_positionals().next().is_some();
            assert_eq!(text.contains("\n.SH ARGUMENTS\n"), takes, "{name}");
            for option in command.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                // In the synopsis, and where it is explained.
                let spelled = format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-"));
                let expected = if option.is_hide_set() { 0 } else { 2 };
                assert_eq!(text.matches(&spelled).count(), expected, "{name}: {spelled}");
            }
        }
    }
}
