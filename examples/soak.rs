//! Runs the kill test for a long time, with the program of the same build.
//!
//! ```text
//! cargo build --release && cargo run --release --example soak -- --kills 1000 --seed 1
//! ```
//!
//! docs/reliability.md explains the result.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// A test may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "soak/harness.rs"]
mod harness;
/// The parts of the test support that need no test runner.
#[path = "../tests/suite/support"]
#[allow(dead_code, unused_imports)]
mod support {
    pub mod clock;
    pub mod conventions;
    pub mod exports;
    pub mod fake_otlp;
    pub mod snapshot;
}

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Number of kills
    #[arg(long, default_value_t = 1000)]
    kills: usize,

    /// Seed for exports and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Program to kill [default: the one of the same build]
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let beside = || {
        let example = std::env::current_exe().unwrap();
        example.ancestors().nth(2).unwrap().join("taskspan")
    };
    let binary = args.binary.unwrap_or_else(beside);
    if !binary.exists() {
        eprintln!("{}: not built; `cargo build` does it", binary.display());
        return ExitCode::from(2);
    }
    let report =
        harness::run(&harness::Options { binary, seed: args.seed, kills: args.kills }).await;
    println!("{report}");
    if report.faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{}\n\n{}", report.faults.join("\n"), report.end_of_log());
    ExitCode::FAILURE
}
