//! The subcommands of the program.

/// Runs the program; its exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
