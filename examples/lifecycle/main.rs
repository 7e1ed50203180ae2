//! Shows the life of a plan in one trace: an export, one artifact through all phases, and two
//! gates. Run it with `cargo run --example lifecycle`; it needs nothing else.
//!
//! ```text
//! exec ─▶ task DESIGN ─▶ task IMPLEMENT ─▶ gate fails ─▶ task TEST ─▶ gate passes ─▶ … ─▶ FINALIZE
//!   └────────────┴────────────┴───── all to a built-in receiver ─────┴─▶ one trace ─▶ tree
//! ```
//!
//! Each step is a command line that the program's own code runs.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::{Value, json};
use taskspan::cli::{self, Cli, Exit, OtlpReceiver};
use taskspan::converter::view::{self, SpanView};

/// An artifact of the sample export, with status `needed`.
const ARTIFACT: &str = "tracking_api-prometheus-rules";

/// The phase and status of each task update.
const LIFE: [(&str, &str); 5] = [
    ("ARTISAN_DESIGN", "in_progress"),
    ("ARTISAN_IMPLEMENT", "in_progress"),
    ("TEST_VALIDATE", "in_progress"),
    ("REVIEW_CALIBRATE", "in_progress"),
    ("FINALIZE_VERIFY", "completed"),
];

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let place = tempfile::tempdir()?;
    let receiver = OtlpReceiver::start().await?;
    let steps = Steps { place: place.path(), endpoint: receiver.endpoint() };

    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sample-export");
    let job = format!("cp -r '{}' output", sample.display());
    let job = format!("cd '{}' && {job}", place.path().display());
    steps.run(&["exec", "--watch", &steps.path("output"), "--", "sh", "-c", &job]).await?;

    for (phase, status) in LIFE {
        let update = ["task", "--id", ARTIFACT, "--phase", phase, "--status", status];
        steps.add(&update, &[]).await?;
        if phase == "ARTISAN_IMPLEMENT" {
            steps.gate("rules-load", phase, "fail").await?;
        }
        if phase == "TEST_VALIDATE" {
            steps.gate("rules-load", phase, "pass").await?;
        }
    }

    let roots = view::trees(&receiver.stop());
    for root in &roots {
        anstream::println!("\n{}", cli::tree(root));
    }
    check(&roots)?;
    println!("one trace, every parent known, from the epic to FINALIZE_VERIFY");
    Ok(ExitCode::SUCCESS)
}

struct Steps<'a> {
    place: &'a Path,
    endpoint: String,
}

impl Steps<'_> {
    fn path(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// Prints a command line and runs it, with the options that all steps share.
    async fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        println!("$ taskspan {}", words.join(" "));
        let state = self.path("state");
        let common = ["--endpoint", &self.endpoint, "--state-dir", &state];
        let (subcommand, rest) = words.split_first().context("a subcommand")?;
        let line = ["taskspan", subcommand].into_iter().chain(common).chain(rest.iter().copied());
        let exit = cli::run(Cli::try_parse_from(line)?).await;
        ensure!(matches!(exit, Exit::Done | Exit::Job(0)), "it ended with {exit:?}");
        Ok(())
    }

    /// Runs a command line that adds spans to the trace of the export.
    async fn add(&self, words: &[&str], more: &[&str]) -> anyhow::Result<()> {
        let metadata = self.path("output/onboarding-metadata.json");
        self.run(&[words, &["--metadata", &metadata], more].concat()).await
    }

    async fn gate(&self, gate: &str, phase: &str, result: &str) -> anyhow::Result<()> {
        let path = self.path(&format!("{gate}-{result}.json"));
        let document: Value = json!({
            "schema_version": "v1",
            "gate_id": gate,
            "task_id": ARTIFACT,
            "phase": phase,
            "result": result,
            "severity": if result == "pass" { "info" } else { "error" },
            "blocking": result == "fail",
            "reason": if result == "pass" { "all rules load" } else { "a rule does not parse" },
            "checked_at": "2026-11-23T06:15:00Z",
        });
        std::fs::write(&path, document.to_string())?;
        self.add(&["gate"], &[&path]).await
    }
}

/// Checks that there is one trace with one root, and that the task has all updates and both gates.
fn check(roots: &[SpanView]) -> anyhow::Result<()> {
    let [root] = roots else {
        anyhow::bail!("{} spans have no parent; one trace has one", roots.len());
    };
    let spans = root.walk();
    ensure!(root.text("task.type") == "epic", "the root is {}", root.name);
    ensure!(spans.iter().all(|span| span.trace_id == root.trace_id), "there are several traces");
    let task = spans.iter().find(|span| span.name == ARTIFACT).context("the task is not there")?;
    let phases = |name: &str| -> Vec<&str> {
        let below = task.children.iter().filter(|span| span.name == name);
        below.map(|span| span.text("task.phase")).collect()
    };
    ensure!(phases("task.update") == LIFE.map(|(phase, _)| phase), "{:?}", phases("task.update"));
    ensure!(phases("gate.result").len() == 2, "both gates stand below the task");
    Ok(())
}
