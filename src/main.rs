//! The entry point: parses arguments and returns the exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use taskspan::cli::{self, Cli};

fn main() -> ExitCode {
    cli::start(Cli::parse()).into()
}
