//! Guarantees:
//!
//! - Every kind of export becomes the trace that the conventions define, over both protocols, as
//!   judged by an independent implementation of the conventions.
//! - The write-back keeps every other byte of the file, in every style of JSON.
//! - A second run sends nothing. A new export in the same place is a new trace.
//! - A large export is sent in requests that a Collector accepts.
//! - `preview` sends and writes nothing.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::conventions::{Settings, check_with, of_trace, trace_id};
use crate::support::exports::{Checksum, METADATA, Manifest, Style, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// Runs once, and returns everything that is wrong with the result.
async fn faults_after_once(
    workspace: &Workspace,
    snapshot: &Snapshot,
    by: Protocol,
) -> Vec<String> {
    let server = FakeOtlp::builder().start().await;
    workspace.once(&server, by).run().expect_code(0);
    let mut faults = snapshot.check(&server.accepted());
    faults.extend(snapshot.check_written_back());
    faults
}

#[tokio::test]
async fn every_preset_becomes_what_the_conventions_say() {
    for (name, export) in presets::all() {
        for protocol in Protocol::BOTH {
            let workspace = Workspace::new();
            let snapshot = workspace.export(name, &export).snapshot;
            let faults = faults_after_once(&workspace, &snapshot, protocol).await;
            assert!(faults.is_empty(), "{name} over {}: {faults:#?}", protocol.name());
        }
    }
}

#[tokio::test]
async fn every_style_of_file_keeps_its_bytes() {
    for style in Style::ALL {
        let workspace = Workspace::new();
        let snapshot = workspace.export("a", &presets::unicode().style(style)).snapshot;
        let faults = faults_after_once(&workspace, &snapshot, Protocol::Grpc).await;
        assert!(faults.is_empty(), "{style:?}: {faults:#?}");
    }
}

#[tokio::test]
async fn the_manifest_may_be_json_or_missing_or_another() {
    let presets = [presets::typical(), presets::every_status(), presets::gap_not_in_manifest()];
    for export in presets {
        for variant in [
            export.clone().manifest(Manifest::Json),
            export.clone().manifest(Manifest::None),
            export.clone().manifest(Manifest::None).empty_project_id(),
            export.clone().checksum(Checksum::Absent),
            export.clone().empty_project_id(),
            export.clone().omit("resolved_artifact_parameters"),
        ] {
            let workspace = Workspace::new();
            let snapshot = workspace.export("a", &variant).snapshot;
            let faults = faults_after_once(&workspace, &snapshot, Protocol::Grpc).await;
            assert!(faults.is_empty(), "{faults:#?}\nof {variant:#?}");
        }
    }
}

#[tokio::test]
async fn parameters_are_typed_alike_from_the_manifest_alone() {
    let workspace = Workspace::new();
    let export = presets::parameter_types().omit("resolved_artifact_parameters");
    let snapshot = workspace.export("a", &export).snapshot;
    let faults = faults_after_once(&workspace, &snapshot, Protocol::Grpc).await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn the_sample_of_the_readme_works() {
    let workspace = Workspace::new();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sample-export");
    for entry in fs::read_dir(sample).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), workspace.exports().join(entry.file_name())).unwrap();
    }
    let snapshot = Snapshot::of(&workspace.exports().join(METADATA));
    let faults = faults_after_once(&workspace, &snapshot, Protocol::Grpc).await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn a_second_run_sends_nothing() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::typical()).snapshot;
    let server = FakeOtlp::builder().start().await;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    let sent = server.attempts().len();
    let written = fs::read(&snapshot.path).unwrap();

    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert_eq!(server.attempts().len(), sent);
    assert_eq!(fs::read(&snapshot.path).unwrap(), written);
}

#[tokio::test]
async fn a_new_export_in_the_same_place_is_a_new_trace() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut traces = Vec::new();
    for _ in 0..2 {
        let snapshot = workspace.export("a", &presets::one()).snapshot;
        workspace.once(&server, Protocol::Grpc).run().expect_code(0);
        traces.push(snapshot.written_trace_id().unwrap());
        let own = of_trace(&server.accepted(), &snapshot.trace_id());
        assert_eq!(snapshot.check(&own), [""; 0]);
    }
    assert_ne!(traces[0], traces[1]);
}

#[tokio::test]
async fn many_exports_each_get_their_own_trace() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let exports = presets::all().into_iter().enumerate();
    let written: Vec<_> = exports
        .map(|(index, (name, export))| {
            workspace.export(&format!("{index}/{name}"), &export).snapshot
        })
        .collect();
    workspace.once(&server, Protocol::Http).run().expect_code(0);
    for snapshot in written {
        let own = of_trace(&server.accepted(), &snapshot.trace_id());
        assert_eq!(snapshot.check(&own), [""; 0], "{}", snapshot.path.display());
        assert_eq!(snapshot.check_written_back(), [""; 0]);
    }
}

#[tokio::test]
async fn a_large_export_goes_in_requests_a_collector_takes() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("a", &presets::many(2500)).snapshot;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert!(server.accepted().len() > 1);
    assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}

#[tokio::test]
async fn the_project_id_can_be_given() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("a", &presets::typical()).snapshot;
    let run = workspace.once(&server, Protocol::Grpc).args(&["--project-id", "another"]);
    run.run().expect_code(0);

    let settings = Settings { project_id: Some("another".to_owned()), ..Settings::default() };
    let trace = trace_id(&snapshot.canonical, snapshot.mtime_ns, &snapshot.bytes);
    let dir = snapshot.canonical.parent().unwrap();
    let faults = check_with(&settings, dir, &snapshot.bytes, trace, &server.accepted());
    assert_eq!(faults, [""; 0]);
}

#[tokio::test]
async fn preview_sends_nothing_and_writes_nothing() {
    let server = FakeOtlp::builder().may_be_unused().start().await;
    for command in ["preview", "once"] {
        let workspace = Workspace::new();
        let snapshot = workspace.export("a", &presets::typical()).snapshot;
        let mut run = workspace.once(&server, Protocol::Grpc).arg("--dry-run");
        if command == "preview" {
            run = workspace.program("preview").arg(workspace.exports()).args(&["--format", "json"]);
        }
        let output = run.run().expect_code(0);
        assert!(output.stdout.contains("cart-dashboard"), "{}", output.stdout);
        if command == "preview" {
            serde_json::from_str::<Value>(&output.stdout).unwrap();
        }
        assert!(snapshot.is_untouched());
    }
    assert!(server.attempts().is_empty());
}
