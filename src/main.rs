//! The entry point: parses arguments and returns the exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use taskspan::cli::{self, Cli};

/// One heap for all threads. The C library has one per thread, and each keeps the memory of the
/// largest export that its thread ever read.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    cli::start(Cli::parse()).into()
}
