//! Writes exports of any size like the real exporter, for benches and experiments.
//!
//! ```text
//! cargo run --release --example generate -- --artifacts 7001 --seed 1 --manifest yaml DIR
//! ```

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// A development tool may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "generate/export.rs"]
#[allow(dead_code)]
mod export;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use export::{Export, Language};

#[derive(Parser)]
struct Args {
    /// Number of artifacts
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    artifacts: u32,

    /// Seed; the same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Format of the manifest
    #[arg(long, value_enum, default_value_t = Manifest::Yaml)]
    manifest: Manifest,

    /// Directory for the export; created if needed
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Manifest {
    Yaml,
    Json,
}

fn main() {
    let args = Args::parse();
    let language = match args.manifest {
        Manifest::Yaml => Language::Yaml,
        Manifest::Json => Language::Json,
    };
    let export = Export::new(args.artifacts as usize, args.seed, language);
    match export.write_into(&args.directory) {
        Ok(path) => println!("{}", path.display()),
        Err(error) => {
            eprintln!("{}: {error}", args.directory.display());
            std::process::exit(1);
        }
    }
}
