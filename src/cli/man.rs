//! `man`: manual pages, made from the very command that parses. One page a command, as git has them.

use std::io;
use std::path::PathBuf;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{CliError, print};

/// What `man` reads from the command line.
#[derive(clap::Args)]
pub struct Args {
    /// The command whose page to print, such as `worker` or `config print`; without one, the program's own
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the pages of all commands into this folder in place of printing one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A manual page and the name of its file.
struct Page {
    file: String,
    text: String,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] when there is no such command; [`CliError::Failed`] when the pages cannot be written.
pub fn run(args: &Args, command: clap::Command) -> Result<(), CliError> {
    let pages = pages(command).map_err(|error| CliError::Failed(format!("cannot make the pages: {error}")))?;
    let Some(dir) = &args.dir else {
        let wanted = file_of(&args.command);
        return match pages.iter().find(|page| page.file == wanted) {
            Some(page) => print(&page.text),
            None => Err(CliError::Usage(format!("no command `{}`", args.command.join(" ")))),
        };
    };
    let failed =
        |path: &PathBuf, error: io::Error| CliError::Failed(format!("cannot write {}: {error}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for page in &pages {
        let path = dir.join(&page.file);
        std::fs::write(&path, &page.text).map_err(|error| failed(&path, error))?;
    }
    print(&format!("{} pages in {}\n", pages.len(), dir.display()))
}

fn file_of(command: &[String]) -> String {
    let words: Vec<&str> = std::iter::once("nats-rerank")
        .chain(command.iter().map(String::as_str))
        .collect();
    format!("{}.1", words.join("-"))
}

/// The page of every command, the program's own first.
fn pages(command: clap::Command) -> io::Result<Vec<Page>> {
    // Before `build`, which would otherwise give every command a `help` with a page of its own.
    let mut root = command.disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    let mut left = vec![root];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned());
        pages.push(page(command)?);
    }
    Ok(pages)
}

/// `Man::render` would put the examples into one paragraph under the heading EXTRA: the sections are written one by one.
fn page(command: clap::Command) -> io::Result<Page> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command)
        .source(concat!("nats-rerank ", env!("CARGO_PKG_VERSION")))
        .manual("nats-rerank");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_subcommands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::default();
    verbatim_sections(&mut roff, &after);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("nats-rerank config reference"), roman(" lists every setting.")]);
    roff.to_writer(&mut page)?;
    Ok(Page {
        file: man.get_filename(),
        text: String::from_utf8_lossy(&page).into_owned(),
    })
}

/// What stands below a command's help: headings that end with a colon, each with lines that keep their breaks.
fn verbatim_sections(roff: &mut Roff, text: &str) {
    let mut open = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            if open {
                roff.control("fi", []);
            }
            roff.control("SH", [heading.to_uppercase().as_str()]);
            roff.control("nf", []);
            open = true;
        } else if !line.trim().is_empty() {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
    }
    if open {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn all() -> Vec<Page> {
        pages(super::super::command()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_command_has_a_page() {
        let pages = all();
        let files: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files.first(), Some(&"nats-rerank.1"));
        for file in [
            "nats-rerank-gateway.1",
            "nats-rerank-config-print.1",
            "nats-rerank-man.1",
        ] {
            assert!(files.contains(&file), "{files:?}");
        }
        assert!(!files.iter().any(|file| file.contains("help.1")), "{files:?}");
    }

    #[test]
    fn a_page_has_its_sections_and_the_same_text_each_time() {
        let (pages, again) = (all(), all());
        assert!(pages.iter().zip(&again).all(|(one, other)| one.text == other.text));
        let bench = pages.iter().find(|page| page.file == "nats-rerank-bench.1");
        let text = bench.map(|page| page.text.as_str()).unwrap_or_default();
        for part in [
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH SETTINGS",
            ".SH EXAMPLES\n.nf\nnats\\-rerank bench",
            ".SH \"EXIT CODES\"\n.nf\n0",
        ] {
            assert!(text.contains(part), "no {part}:\n{text}");
        }
    }

    /// Where groff is there; elsewhere the pages are only made.
    #[test]
    fn groff_renders_every_page_without_a_warning() {
        if Command::new("groff").arg("--version").output().is_err() {
            super::super::say("NOT CHECKED: there is no groff on this machine");
            return;
        }
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        for page in all() {
            let path = folder.path().join(&page.file);
            std::fs::write(&path, &page.text).unwrap_or_else(|error| panic!("{error}"));
            let output = Command::new("groff")
                .args(["-man", "-Tutf8", "-wall", "-z"])
                .arg(&path)
                .output()
                .unwrap_or_else(|error| panic!("groff: {error}"));
            assert!(output.status.success(), "{}", page.file);
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", page.file);
        }
    }

    #[test]
    fn an_unknown_command_is_a_bad_argument() {
        let args = Args {
            command: vec!["nothing".to_owned()],
            dir: None,
        };
        assert_eq!(
            run(&args, super::super::command()),
            Err(CliError::Usage("no command `nothing`".to_owned()))
        );
    }
}
