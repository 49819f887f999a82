//! `nats-rerank query`: a caller for people and shells. One question and its documents, or many queries from a file.
//!
//! It does what every caller should: without an answer it goes on with the order that it was given, and says so.

mod args;
mod bulk;
mod failure;
mod files;
mod input;
mod lines;
mod render;

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use crate::client::{Answer, Caller};
use crate::config::Config;
use crate::protocol::Request;

use super::{CliError, Global};
use args::Format;
use failure::{BAD_SETTING, Failure};
use render::{Look, Outcome};

pub use args::Args;

/// Asks once and shows the answer, or asks all of `--queries`. The exit code: 0, or of many queries what
/// [`bulk::run`] says.
///
/// # Errors
/// [`CliError::Usage`] for arguments, documents or settings that will not do; [`CliError::Failed`] when there is no
/// ranking, after the documents have been shown in the order they came in.
pub fn run(args: Args, global: &Global) -> Result<u8, CliError> {
    args.check()?;
    let config = global.load_with(args.settings.flags())?.config;
    match (&args.bulk.queries, &args.query) {
        (Some(queries), _) => bulk::run(&args, queries, &config),
        (None, Some(query)) => one(&args, query, &config).map(|()| 0),
        // clap sees to it that there is one.
        (None, None) => Err(CliError::Usage("QUERY is missing".to_owned())),
    }
}

fn one(args: &Args, query: &str, config: &Config) -> Result<(), CliError> {
    let documents = input::documents(&args.documents).map_err(CliError::Usage)?;
    let request = Request {
        top_k: args.call.top_k.map(NonZeroUsize::get),
        raw_scores: args.call.raw_scores,
        model: args.call.model.clone(),
        ..Request::new(query, documents)
    };
    let asked = runtime()?.block_on(ask(&request, args, config));
    let format = args.show.format.unwrap_or(Format::Table);
    let show = |outcome| super::print(&render::page(format, &request, &outcome, &look()));
    let failure = match asked {
        Ok(answer) => return show(Outcome::Ranked(&answer)),
        Err(failure) => failure,
    };
    let mut message = format!("not reranked: {}. {}", failure.what, failure.advice);
    if !args.call.fail {
        show(Outcome::Unranked(&failure))?;
        message += ". The documents above are in the order they came in";
    }
    Err(if failure.kind == BAD_SETTING {
        CliError::Usage(message)
    } else {
        CliError::Failed(message)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))
}

async fn ask(request: &Request, args: &Args, config: &Config) -> Result<Answer, Failure> {
    let caller = Caller::connect(&config.nats.connection())
        .await
        .map_err(Failure::from)?;
    let options = args.call.options(config);
    caller.rerank(request, &options).await.map_err(Failure::from)
}

/// Colour and width as standard output has them.
fn look() -> Look {
    let terminal = std::io::stdout().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Look {
        terminal,
        color: terminal && !no_color,
        width: super::output_width().unwrap_or(render::WIDTH_UNKNOWN),
    }
}
