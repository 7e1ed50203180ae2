//! The entry point: parses arguments and returns the exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use taskspan::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("taskspan: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(cli::run(cli));
    cli::flush();
    // A read that blocks on a dead mount must not keep a stopped program alive.
    runtime.shutdown_background();
    exit.into()
}
