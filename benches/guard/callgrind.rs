//! This program under valgrind's callgrind, and what it has counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compare::{Counts, Figures, Origin};

/// Runs this program with the argument `run` and reads one count for each of `names`: the calls of the function
/// `measured`, in order.
pub fn count(names: &[&str], measured: &str) -> Result<Figures, String> {
    let origin = Origin {
        rustc: version_of("rustc", 1)?,
        arch: std::env::consts::ARCH.to_owned(),
        cpu: cpu().to_owned(),
        valgrind: version_of("valgrind", 0).map_err(|problem| {
            format!(
                "{problem}. Instructions cannot be counted without valgrind, and `make test` wants them counted. \
                 `tools/setup valgrind` installs Debian's package; elsewhere install valgrind 3.19 or newer."
            )
        })?,
    };
    let folder = scratch()?;
    let counted = run(&folder, measured).and_then(|()| read(&folder, names));
    let _ = std::fs::remove_dir_all(&folder);
    Ok(Figures {
        origin,
        instructions: counted?,
    })
}

/// From what the program says of itself, the word at this place: `rustc 1.95.0 (…)`, `valgrind-3.19.0`.
fn version_of(program: &str, word: usize) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{program} does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(word);
    let version = version.filter(|_| output.status.success());
    version
        .map(|version| version.trim_start_matches("valgrind-").to_owned())
        .ok_or_else(|| format!("`{program} --version` tells no version"))
}

/// The instructions that libraries look for while they run, as far as valgrind has them.
fn cpu() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return "avx2";
    }
    ""
}

/// An empty folder beside this program, among what the build makes.
fn scratch() -> Result<PathBuf, String> {
    let folder = this_program()?.with_file_name(format!("guard-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("where is this program? {error}"))
}

fn run(folder: &Path, measured: &str) -> Result<(), String> {
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}/counts", folder.display()))
        .arg(format!("--toggle-collect={measured}"))
        .arg(format!("--dump-after={measured}"))
        .arg(this_program()?)
        .arg("run")
        // The length of the environment moves the stack, and with it a few counts.
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .map_err(|error| format!("valgrind does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = told.lines().rev().take(12).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(format!("valgrind ended with {}:\n{}", output.status, last.join("\n")))
}

/// Callgrind numbers its files from 1, one for each time that it wrote; the last, at the end, has no number.
fn read(folder: &Path, names: &[&str]) -> Result<Counts, String> {
    let more = folder.join(format!("counts.{}", names.len() + 1));
    if more.exists() {
        return Err("callgrind has counted more calls than there are hot paths".to_owned());
    }
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let file = folder.join(format!("counts.{}", index + 1));
            let text = std::fs::read_to_string(&file).map_err(|error| format!("no count of {name}: {error}"))?;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))
                .and_then(|count| count.split_whitespace().next()?.parse::<u64>().ok())
                .filter(|&count| count > 0)
                .ok_or_else(|| format!("callgrind has counted nothing of {name}"))?;
            Ok(((*name).to_owned(), count))
        })
        .collect()
}
