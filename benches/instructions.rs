//! Counts the instructions of the pure steps with callgrind. The counts do not depend on the load
//! of the machine, so they show small regressions.
//!
//! ```text
//! cargo bench --bench instructions            # compare with benches/instructions.txt
//! cargo bench --bench instructions -- --bless # write new expected counts
//! ```
//!
//! The bench runs itself under valgrind twice per case: once for the set-up alone, and once with
//! the case. The difference is the count.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// A bench may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/cases.rs"]
#[allow(dead_code)]
mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use cases::Case;
use cases::export::Language;

/// Large enough to be dominated by artifacts, and small enough to be counted quickly.
const ARTIFACTS: usize = 700;

/// Maximum increase over the expected count, in percent.
const TOLERANCE: f64 = 3.0;

const COUNTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

const CASES: [&str; 6] =
    ["read_metadata", "read_manifest_yaml", "read_manifest_json", "join", "convert", "splice"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, case, part] = args.as_slice()
        && flag == "--case"
    {
        run(case, part == "whole");
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: there is no valgrind here to count instructions with");
        return ExitCode::SUCCESS;
    }
    let wanted = |case: &&str| {
        let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|name| name == *case)
    };
    let counts: BTreeMap<&str, u64> =
        CASES.into_iter().filter(wanted).map(|case| (case, counted(case))).collect();
    if args.iter().any(|arg| arg == "--bless") {
        bless(&counts);
    }
    report(&counts)
}

/// Returns the instructions of a case, without those of its set-up.
fn counted(case: &str) -> u64 {
    instructions(case, "whole").saturating_sub(instructions(case, "set-up"))
}

fn instructions(case: &str, part: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--case", case, part])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = line.unwrap_or_else(|| panic!("no count in:\n{said}"));
    count.trim().parse().unwrap()
}

/// Runs one case, as the process under valgrind. Neither result nor set-up is dropped, because that
/// would be counted.
fn run(case: &str, is_whole: bool) {
    let language = if case == "read_manifest_json" { Language::Json } else { Language::Yaml };
    let export = Case::new(ARTIFACTS, language);
    match case {
        "read_metadata" => only(is_whole, || export.onboarding()),
        "read_manifest_yaml" | "read_manifest_json" => only(is_whole, || export.manifest()),
        "splice" => only(is_whole, || export.spliced()),
        _ => {
            let parsed = export.parsed();
            if case == "join" {
                return only(is_whole, || cases::joined(parsed));
            }
            let (plan, trace_id) = (cases::joined(parsed), export.trace_id());
            let converter = cases::converter();
            only(is_whole, || cases::converted(&converter, &plan, trace_id));
        }
    }
    // `only` has exited already, in either run.
    std::process::exit(0);
}

fn only<T>(is_whole: bool, work: impl FnOnce() -> T) {
    if is_whole {
        std::mem::forget(black_box(work()));
    }
    std::process::exit(0);
}

fn expected() -> BTreeMap<String, u64> {
    let text = fs::read_to_string(COUNTS).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (case, count) = line.split_once(' ')?;
            Some((case.to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

fn bless(counts: &BTreeMap<&str, u64>) {
    let mut all = expected();
    all.extend(counts.iter().map(|(case, count)| ((*case).to_owned(), *count)));
    let mut text = format!(
        "# Instructions for an export of {ARTIFACTS} artifacts; \
         `cargo bench --bench instructions -- --bless` writes this.\n"
    );
    for (case, count) in all {
        writeln!(text, "{case} {count}").unwrap();
    }
    fs::write(Path::new(COUNTS), text).unwrap();
}

fn report(counts: &BTreeMap<&str, u64>) -> ExitCode {
    let expected = expected();
    let mut code = ExitCode::SUCCESS;
    println!("{:<20} {:>14} {:>14} {:>9}", "case", "instructions", "expected", "change");
    for (case, count) in counts {
        let Some(known) = expected.get(*case).filter(|known| **known > 0) else {
            println!("{case:<20} {count:>14} {:>14} {:>9}", "-", "-");
            continue;
        };
        let change = (*count as f64 / *known as f64 - 1.0) * 100.0;
        let verdict = if change > TOLERANCE { "  too many" } else { "" };
        println!("{case:<20} {count:>14} {known:>14} {change:>+8.2}%{verdict}");
        if change > TOLERANCE {
            code = ExitCode::FAILURE;
        }
    }
    code
}
