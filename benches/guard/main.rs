//! Counts the instructions of the hot paths with valgrind's callgrind and holds them to `figures.json`: `make guard`.
//! `make guard-refresh` (the argument `refresh`) stores new figures.
//!
//! Counts do not depend on how busy the machine is. This program runs itself under valgrind (the argument `run`); there
//! each hot path is called once through [`guard_measured`], on whose way in and out callgrind switches counting on and
//! off, and after which it writes down what it has counted.

#[path = "../paths/mod.rs"]
mod paths;

mod callgrind;
mod compare;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use compare::{Bound, Figures};
use paths::{HOT_PATHS, Material, Run};

const REFRESH: &str = "make guard-refresh";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => check(),
        ["refresh"] => refresh(),
        ["run"] => {
            run();
            Ok(true)
        }
        _ => Err("usage: guard [refresh]".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("guard: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted, and nothing else: a symbol of its own, under the name by which callgrind is told of it.
// SAFETY: no other symbol of the program is called so.
#[unsafe(no_mangle)]
#[inline(never)]
fn guard_measured(run: Run<'_>) {
    run();
}

/// Under valgrind: every path once as a warm-up, then once counted.
fn run() {
    let material = Material::new();
    for path in &HOT_PATHS {
        (path.prepare)(&material)();
        guard_measured((path.prepare)(&material));
    }
}

fn figures_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guard/figures.json")
}

fn count() -> Result<Figures, String> {
    let names: Vec<&str> = HOT_PATHS.iter().map(|path| path.name).collect();
    callgrind::count(&names, "guard_measured")
}

fn check() -> Result<bool, String> {
    let file = figures_file();
    let shown = file.display();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{shown}: {error}; `{REFRESH}` makes it"))?;
    let stored: Figures =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}; `{REFRESH}` makes it anew"))?;
    let now = count()?;
    let bound = Bound::between(&stored.origin, &now.origin);
    println!("stored  {}", stored.origin);
    println!("here    {}", now.origin);
    if bound != Bound::Same {
        println!(
            "NOTE: there are no stored figures for this compiler and CPU. The bound is {} % in place of {} %.",
            bound.percent(),
            Bound::Same.percent()
        );
    }
    let lines = compare::compare(&stored.instructions, &now.instructions, bound);
    println!(
        "\n{:<36}{:>14}{:>14}{:>11}",
        "instructions of", "stored", "now", "change"
    );
    for line in &lines {
        println!("{line}");
    }
    println!();
    if compare::fails(&lines) {
        eprintln!(
            "guard: FAILED. More than {} % above the stored figure, or no figure to hold it to (above). If the new cost is \
             meant, store it with `{REFRESH}`, and say why in the commit.",
            bound.percent()
        );
        return Ok(false);
    }
    if lines.iter().any(|line| line.verdict == compare::Verdict::Better) {
        println!("guard: passed. Some paths have become much cheaper: `{REFRESH}` stores that, so that it is kept.");
    } else {
        println!("guard: passed, within {} %", bound.percent());
    }
    Ok(true)
}

fn refresh() -> Result<bool, String> {
    let figures = count()?;
    let mut text = serde_json::to_string_pretty(&figures).map_err(|error| error.to_string())?;
    text.push('\n');
    let file = figures_file();
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("guard: stored in {} ({})", file.display(), figures.origin);
    for (path, instructions) in &figures.instructions {
        println!("{path:<36}{instructions:>14}");
    }
    Ok(true)
}
