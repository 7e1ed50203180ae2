//! Guarantees:
//!
//! - Paths, links and tests that the documentation names exist.
//! - Every requirement has one row in the table of requirements.
//! - Every command is in the README, and every shipped configuration is valid.
//! - The source does not use words that leave open who or what is meant, and no test sleeps on a
//!   thread.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Pages whose paths and tests must exist.
const CHECKED: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/requirements.md"];

/// The starts of paths in backticks, except for files of the root.
const PLACES: [&str; 8] =
    ["src/", "yaml/", "tests/", "docs/", "deploy/", "examples/", "benches/", "fuzz/"];

/// Number of rows of each group of requirements, from R1 on.
const REQUIREMENTS: [usize; 7] = [7, 6, 3, 5, 5, 4, 4];
const QUESTIONS: usize = 4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Runs the program in the repository's root with an empty environment.
fn taskspan(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taskspan"))
        .args(args)
        .env_clear()
        .current_dir(root())
        .output()
        .expect("the binary starts")
}

/// Returns the texts in backticks, without those in fenced blocks.
fn quoted(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in read(page).lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Returns a path of the repository, without the name of a test after it.
fn path_of(quoted: &str) -> Option<&str> {
    let path = quoted.split("::").next().unwrap_or_default();
    let in_root = !path.contains(['/', ' '])
        && [".md", ".toml", ".yaml", ".lock"].iter().any(|end| path.ends_with(end));
    let placed = PLACES.iter().any(|place| path.starts_with(place));
    (placed || in_root || ["LICENSE", ".ci/run"].contains(&path)).then_some(path)
}

#[test]
fn every_path_exists() {
    for page in CHECKED {
        let quoted = quoted(page);
        let paths: BTreeSet<&str> = quoted.iter().filter_map(|text| path_of(text)).collect();
        assert!(paths.len() > 10, "{page} names too few: {paths:?}");
        let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "{page} names {missing:?}");
    }
}

/// Words that stand for a part of the program without naming it.
#[test]
fn the_source_names_what_it_speaks_of() {
    let banned = ["whoever", "nobody", "somebody"];
    let mut found = Vec::new();
    for file in rust_files(&root().join("src")).into_iter().chain(rust_files(&root().join("yaml")))
    {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            let words = line.split(|c: char| !c.is_alphanumeric());
            if words.into_iter().any(|word| banned.contains(&word)) {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

/// Tests may block on files, so the lint against sleeping does not apply to them.
#[test]
fn no_test_sleeps_on_a_thread() {
    let word = concat!("thread::", "sleep");
    let files = ["tests", "benches", "examples"].map(|place| rust_files(&root().join(place)));
    let sleeps = |file: &PathBuf| fs::read_to_string(file).unwrap().contains(word);
    let found: Vec<PathBuf> = files.into_iter().flatten().filter(sleeps).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_test_exists() {
    for page in CHECKED {
        for text in quoted(page) {
            let Some((file, name)) = text.split_once(".rs::") else {
                continue;
            };
            let file = format!("{file}.rs");
            let is_there = read(&file).contains(&format!("fn {name}("));
            assert!(is_there, "{page} names {name}, which is not in {file}");
        }
    }
}

#[test]
fn every_requirement_has_one_row() {
    let page = read("docs/requirements.md");
    let groups = REQUIREMENTS.iter().enumerate();
    let requirements = groups
        .flat_map(|(group, rows)| (1..=*rows).map(move |row| format!("R{}.{row}", group + 1)));
    let questions = (1..=QUESTIONS).map(|number| format!("Q{number}"));
    for id in requirements.chain(questions) {
        let start = format!("| {id} |");
        let rows = page.lines().filter(|line| line.starts_with(&start)).count();
        assert_eq!(rows, 1, "{id}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "benches/README.md",
        "docs/README.md",
        "docs/comparison.md",
        "docs/configuration.md",
        "docs/cookbook.md",
        "docs/reliability.md",
        "docs/requirements.md",
        "docs/security.md",
        "docs/troubleshooting.md",
        "deploy/README.md",
        "examples/README.md",
    ];
    for page in pages {
        let text = read(page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            let beside = root().join(page).with_file_name(file);
            assert!(file.is_empty() || beside.exists(), "{page}: {target}");
        }
    }
}

#[test]
fn the_readme_begins_with_two_commands() {
    let readme = read("README.md");
    let first = readme.split("```").nth(1).expect("a block of commands");
    let commands: Vec<_> = first.lines().skip(1).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test"]);
}

#[test]
fn every_command_is_in_the_readme() {
    let help = String::from_utf8(taskspan(&["--help"]).stdout).unwrap();
    let listed = help.split("Commands:").nth(1).expect("a list of commands");
    let commands: Vec<_> = listed
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 6, "{help}");
    let readme = read("README.md");
    for command in commands {
        let cell = format!("| `taskspan {command}");
        assert!(readme.contains(&cell), "{command} has no row in README.md");
    }
}

#[test]
fn every_shipped_configuration_is_valid() {
    let mut pipelines = yaml_files(root(), false);
    pipelines.extend(yaml_files(&root().join("deploy"), true));
    pipelines.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("pipeline")
    });
    assert!(pipelines.len() >= 2, "{pipelines:?}");
    for path in pipelines {
        let output = taskspan(&["validate", "-c", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
        // Obstacles on this machine are not faults of the file.
        let is_of_here =
            |line: &str| ["the queue", "is in use"].iter().any(|word| line.contains(word));
        assert!(said.lines().all(is_of_here), "{}: {said}", path.display());
    }
}

fn yaml_files(directory: &Path, recursive: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && recursive {
            found.extend(yaml_files(&path, recursive));
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            found.push(path);
        }
    }
    found
}

/// Returns every source file below a directory.
pub fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .collect()
}
