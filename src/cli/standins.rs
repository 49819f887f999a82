//! In place of the subcommands that are written elsewhere: the lead replaces this file by `mod model; mod query; mod worker;`.
#![allow(missing_docs, dead_code)]

macro_rules! standin {
    ($name:ident, $done:ty) => {
        pub mod $name {
            #[derive(clap::Args)]
            pub struct Args {}
            pub fn run(_: Args, _: &crate::cli::Global) -> Result<$done, crate::cli::CliError> {
                Err(crate::cli::CliError::Failed(
                    concat!(stringify!($name), " is not part of this build").to_owned(),
                ))
            }
        }
    };
}

standin!(worker, u8);
standin!(query, ());
standin!(model, ());
