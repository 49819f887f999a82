//! The `nats-rerank` program: see `nats_rerank::cli`.

fn main() -> std::process::ExitCode {
    nats_rerank::cli::main()
}
