//! `nats-rerank rounds`: a system of the benchmark suite that stays loaded and is told, line by line, when to compute.
//!
//! Several systems take turns in one run (bench/README.md), so each is a process of its own that does nothing until its turn.
//! An order is a line of JSON on standard input, its outcome a line on standard output; the end of the input ends the process.
//! The peers in bench/peers speak the same.

mod caller;
mod engine;

use std::io::BufRead;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CliError, Global, print};

/// What `rounds` reads from the command line.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    system: System,
}

#[derive(Subcommand)]
enum System {
    /// The engine alone, as a worker of these settings would load it (model.id): no NATS, no tokenizing within the time
    Engine,
    /// A caller over NATS (nats.url, nats.subject)
    Caller,
}

/// What a system is told to do.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Order {
    /// Take requests from this file, one a line, in place of those before.
    Load { path: PathBuf },
    /// Compute this many of them, in turn, `callers` at once.
    Round {
        count: usize,
        #[serde(default = "one")]
        callers: usize,
    },
    /// Give the logits of the first `count` requests, in the order of their documents.
    Scores { count: usize },
}

fn one() -> usize {
    1
}

/// What takes orders.
trait Obey {
    /// Does it, and says what came of it.
    fn obey(&mut self, order: Order) -> Result<Value, CliError>;
}

/// Runs the subcommand.
///
/// # Errors
/// A bad setting, a model that cannot be loaded, no connection, an order that is none, or one that failed.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    // The same libraries' settings as a worker's.
    super::worker::settle_libraries();
    let config = global.load()?;
    let (mut system, about): (Box<dyn Obey>, Value) = match args.system {
        System::Engine => {
            let (engine, about) = engine::Alone::load(&config)?;
            (Box::new(engine), about)
        }
        System::Caller => {
            let caller = caller::OverNats::connect(&config)?;
            (Box::new(caller), json!({}))
        }
    };
    print(&format!("{}\n", json!({"ready": true, "about": about})))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| CliError::Failed(format!("cannot read standard input: {error}")))?;
        let order =
            serde_json::from_str(&line).map_err(|error| CliError::Usage(format!("{line:?} is no order: {error}")))?;
        let outcome = system.obey(order)?;
        print(&format!("{outcome}\n"))?;
    }
    Ok(())
}

/// The next `count` places of a list of `length` that is gone through again and again.
fn in_turn(next: &mut usize, count: usize, length: usize) -> Vec<usize> {
    (0..count)
        .map(|_| {
            let place = *next % length;
            *next = place + 1;
            place
        })
        .collect()
}

/// Refuses to work before there is something to work on.
fn loaded<T>(items: &[T]) -> Result<(), CliError> {
    if items.is_empty() {
        return Err(CliError::Usage("nothing was loaded yet".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_anything_else_is_refused() {
        let read = |text: &str| serde_json::from_str::<Order>(text);
        assert!(matches!(
            read(r#"{"do": "round", "count": 3}"#),
            Ok(Order::Round { count: 3, callers: 1 })
        ));
        assert!(matches!(
            read(r#"{"do": "scores", "count": 2}"#),
            Ok(Order::Scores { count: 2 })
        ));
        assert!(matches!(read(r#"{"do": "load", "path": "x"}"#), Ok(Order::Load { .. })));
        for wrong in [
            "",
            "{}",
            r#"{"do": "stop"}"#,
            r#"{"do": "round"}"#,
            r#"{"do": "round", "count": 1, "more": 1}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rounds_go_on_where_the_last_one_ended() {
        let mut next = 0;
        assert_eq!(in_turn(&mut next, 2, 3), [0, 1]);
        assert_eq!(in_turn(&mut next, 3, 3), [2, 0, 1]);
        // Another list, shorter: no place beyond its end.
        assert_eq!(in_turn(&mut next, 2, 1), [0, 0]);
    }
}
