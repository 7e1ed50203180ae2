//! Measures the whole program against its goals: the real binary, real files, and a receiver that
//! accepts everything.
//!
//! ```text
//! cargo bench --bench table                    # every row, as a Markdown table
//! cargo bench --bench table -- once-15 latency # only these rows
//! ```
//!
//! benches/README.md explains each row.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// A bench may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/cases.rs"]
#[allow(dead_code)]
mod cases;
#[path = "table/figure.rs"]
mod figure;
#[path = "table/once.rs"]
mod once;
#[path = "table/process.rs"]
mod process;
#[path = "table/receiver.rs"]
mod receiver;
#[path = "table/sidecar.rs"]
mod sidecar;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use figure::{Row, median, time};

type Rows = fn() -> Vec<Row>;

const ROWS: [(&str, Rows); 8] = [
    ("once-15", once::small),
    ("once-7001", once::large),
    ("parse-ratio", once::parse_ratio),
    ("latency", sidecar::latency),
    ("scale", once::scale),
    ("idle", sidecar::idle),
    ("backlog", sidecar::backlog),
    ("sustained", sidecar::sustained),
];

/// The name of the last row, which needs no export.
const BINARY: &str = "binary";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).chain([BINARY]).collect();
    if let Some(unknown) = args.iter().find(|arg| !names.contains(&arg.as_str())) {
        eprintln!("there is no row `{unknown}`: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let is_wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    println!("{}\n", machine());
    println!("| row | goal | figure | verdict |\n|---|---|---|---|");
    for (name, rows) in ROWS.into_iter().chain([(BINARY, binary as Rows)]) {
        if is_wanted(name) {
            rows().iter().for_each(Row::print);
        }
    }
    ExitCode::SUCCESS
}

fn binary() -> Vec<Row> {
    let path = Path::new(env!("CARGO_BIN_EXE_taskspan"));
    let bytes = fs::metadata(path).unwrap().len();
    let home = TempDir::new().unwrap();
    let version = || process::measure(process::taskspan(home.path()).arg("--version")).wall;
    let walls: Vec<Duration> = (0..31).map(|_| version()).collect();
    let wall = median(&walls);
    let size = format!("{:.1} MB", bytes as f64 / 1e6);
    vec![
        Row::new("the program, stripped", "under 9 MB", size, bytes < 9_000_000),
        Row::new("`taskspan --version`", "under 3 ms", time(wall), wall < Duration::from_millis(3)),
    ]
}

/// Describes when and on which machine the table was made.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown CPU", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date = now.split('T').next().unwrap_or_default();
    format!("{date}, {cores} cores of {model}, Linux {}", kernel.trim())
}
