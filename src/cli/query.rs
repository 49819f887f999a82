//! (stand-in)
#![allow(missing_docs, dead_code)]


#[derive(clap::Args)]
pub struct Args {}
pub fn run(_: Args, _: &crate::cli::Global) -> Result<(), crate::cli::CliError> { Err(crate::cli::CliError::Failed("not here".into())) }
