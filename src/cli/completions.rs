//! `completions <shell>`: a completion script, made from the very command that parses.

use clap_complete::{Shell, generate};

use super::{CliError, print};

/// What `completions` reads from the command line.
#[derive(clap::Args)]
pub struct Args {
    /// The shell that is to read it
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Failed`] when standard output takes nothing.
pub fn run(args: &Args, command: clap::Command) -> Result<(), CliError> {
    print(&script(args.shell, command))
}

fn script(shell: Shell, mut command: clap::Command) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    // clap_complete spells a program's hyphen in two ways in the script for bash, so that nothing after a subcommand is
    // completed (clap-rs/clap#6421). Where that is mended, there is nothing to replace.
    String::from_utf8_lossy(&script).replace("nats__subcmd__rerank", "nats__rerank")
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_every_subcommand_and_its_flags() {
        for shell in Shell::value_variants() {
            let script = script(*shell, super::super::command());
            for word in ["gateway", "healthcheck", "completions", "sweep", "profile"] {
                assert!(script.contains(word), "{shell} lacks {word}");
            }
        }
    }

    /// A shell that reads the script and then asks it, as a person does by pressing Tab.
    #[test]
    fn bash_completes_subcommands_and_flags() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let path = folder.path().join("nats-rerank.bash");
        std::fs::write(&path, script(Shell::Bash, super::super::command())).unwrap_or_else(|error| panic!("{error}"));
        let ask = r#"
            set -eu
            bash -n "$1"
            source "$1"
            function=$(complete -p nats-rerank | sed -E 's/.*-F ([^ ]+).*/\1/')
            ask() {
                COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                "$function" nats-rerank "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
                echo "${COMPREPLY[*]}"
            }
            ask nats-rerank heal
            ask nats-rerank gateway --list
            ask nats-rerank config print --format ''
        "#;
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", ask, "bash"])
            .arg(&path)
            .output()
            .unwrap_or_else(|error| panic!("bash: {error}"));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "healthcheck\n--listen\ntoml json\n"
        );
    }
}
