//! Guarantees:
//!
//! - An export that is not valid is refused with its path, position and reason, and is left
//!   unchanged.
//! - A sibling that is broken, missing or outside the directory never stops the export; the export
//!   is sent without it, with a warning.
//! - No path in an export leads to a file outside its directory.
//! - `validate` and `run` report every error in the configuration at once, each with its place.
//! - Wrong usage exits with 2, an undelivered export with 1, and the export stays for the next run.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::exports::{Checksum, METADATA, presets, write_metadata};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::program::Output;
use crate::support::workspace::Workspace;

/// Runs `once` over a refused file next to a valid export, and checks everything that must hold.
async fn refused(bytes: &[u8], words: &[&str]) -> Output {
    let workspace = Workspace::new();
    let good = workspace.export("good", &presets::one()).snapshot;
    let dir = workspace.exports().join("bad");
    fs::create_dir(&dir).unwrap();
    let bad = write_metadata(&dir, bytes);

    let server = FakeOtlp::builder().start().await;
    let output = workspace.once(&server, Protocol::Grpc).run().expect_code(3);
    let path = bad.path.to_str().unwrap();
    let output = output.expect_log(&[path]).expect_log(words);
    assert!(bad.is_untouched(), "a refused export was changed");
    assert_eq!(good.check(&server.accepted()), [""; 0]);
    assert_eq!(good.check_written_back(), [""; 0]);
    output
}

/// Asserts that the output has the position, in either of the usual forms.
#[track_caller]
fn said_position(output: &Output, line: usize, column: usize) {
    let forms = [
        format!(":{line}:{column}"),
        format!("line {line} column {column}"),
        format!("line {line}, column {column}"),
    ];
    let said = forms.iter().any(|form| output.stderr.contains(form));
    assert!(said, "no line {line} and column {column} in:\n{}", output.stderr);
}

#[tokio::test]
async fn malformed_json() {
    let output = refused(b"{\n  \"project_id\": \"x\",\n  \"coverage\": oops\n}", &[]).await;
    said_position(&output, 3, 15);
}

#[tokio::test]
async fn a_partial_file() {
    let whole = presets::one().metadata();
    let half = &whole[..whole.len() / 2];
    let line = half.split(|&byte| byte == b'\n').count();
    let output = refused(half, &[]).await;
    let said = [format!(":{line}:"), format!("line {line}")];
    assert!(said.iter().any(|said| output.stderr.contains(said)), "{}", output.stderr);
}

#[tokio::test]
async fn not_even_an_object() {
    for bytes in ["", "[1, 2]", "\"text\"", "null", "\u{feff}"] {
        refused(bytes.as_bytes(), &[]).await;
    }
    refused(b"\xff\xfe{\0}\0", &[]).await;
}

#[tokio::test]
async fn nested_too_deeply() {
    let deep = format!("{{\"coverage\": {}", "[".repeat(200_000));
    refused(deep.as_bytes(), &[]).await;
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refused(deep.as_bytes(), &[]).await;
}

#[tokio::test]
async fn no_coverage() {
    refused(&presets::one().with("coverage", Value::Null).metadata(), &["coverage"]).await;
    refused(&presets::one().with("coverage", json!({})).metadata(), &["gaps"]).await;
}

#[tokio::test]
async fn coverage_of_the_wrong_type() {
    refused(&presets::one().with("coverage", json!({"gaps": "all"})).metadata(), &["gaps"]).await;
}

#[tokio::test]
async fn too_large_a_file() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::many(200)).snapshot;
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["max_file_size"] = json!("16KiB");
    let output = workspace.configured("once", &pipeline).run().expect_code(3);
    output.expect_log(&[snapshot.path.to_str().unwrap(), "max_file_size"]);
    assert!(snapshot.is_untouched() && server.attempts().is_empty());
}

#[tokio::test]
async fn a_wrong_checksum_is_logged_and_the_export_sent_without_its_manifest() {
    let workspace = Workspace::new();
    let written = workspace.export("a", &presets::typical().checksum(Checksum::Wrong));
    let server = FakeOtlp::builder().start().await;
    let output = workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    output.expect_log(&["shop-artifact-manifest.yaml", "checksum"]);
    assert_eq!(written.snapshot.check(&server.accepted()), [""; 0]);
}

#[tokio::test]
async fn a_malformed_manifest_is_reported_with_its_position() {
    let workspace = Workspace::new();
    let written = workspace.export("a", &presets::one().checksum(Checksum::Absent));
    fs::write(written.manifest.unwrap(), "artifacts:\n- id: a\n   type: [\n").unwrap();
    let server = FakeOtlp::builder().start().await;
    let output = workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    output.expect_log(&["one-artifact-manifest.yaml"]);
    assert_eq!(written.snapshot.check(&server.accepted()), [""; 0]);
}

#[tokio::test]
async fn paths_that_leave_the_directory_are_never_read() {
    let secret = "artifacts: [{id: stolen, type: dashboard, name: stolen}]";
    for key in ["artifact_manifest_path", "project_context_path"] {
        for form in ["parent", "absolute", "symlink"] {
            let workspace = Workspace::new();
            let outside = workspace.config("secret.yaml", secret);
            let path = match form {
                "parent" => "../../secret.yaml",
                "absolute" => outside.to_str().unwrap(),
                _ => "link.yaml",
            };
            let export = presets::one().checksum(Checksum::Absent).with(key, json!(path));
            let dir = workspace.exports().join("a");
            fs::create_dir(&dir).unwrap();
            symlink(&outside, dir.join("link.yaml")).unwrap();
            let snapshot = export.write_into(&dir).snapshot;

            let server = FakeOtlp::builder().start().await;
            let output = workspace.once(&server, Protocol::Grpc).run().expect_code(0);
            output.expect_log(&[path]);
            assert!(server.spans().iter().all(|span| span.name != "stolen"), "{key}, {form}");
            assert_eq!(snapshot.check(&server.accepted()), [""; 0], "{key}, {form}");
        }
    }
}

#[tokio::test]
async fn a_metadata_file_that_links_out_of_the_directory_is_not_rewritten() {
    let workspace = Workspace::new();
    let outside = presets::one().write_into(&workspace.root().join("elsewhere")).snapshot;
    let dir = workspace.exports().join("a");
    fs::create_dir(&dir).unwrap();
    symlink(&outside.path, dir.join(METADATA)).unwrap();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let output = workspace.once(&server, Protocol::Grpc).args(&["--timeout", "2s"]).run();
    assert!(outside.is_untouched(), "{output:?}");
    assert!(dir.join(METADATA).is_symlink());
}

#[test]
fn no_endpoint_names_the_ways_to_give_one() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let output = workspace.program("once").arg(workspace.exports()).run().expect_code(2);
    output.expect_log(&["--endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "exporters"]);
    assert!(snapshot.is_untouched());
}

#[test]
fn faults_of_the_configuration_come_all_at_once_with_their_places() {
    let workspace = Workspace::new();
    let path = workspace.config(
        "bad.yaml",
        "receivers:\n  export_dir:\n    directories: [/tmp]\n    setle: 1s\n\
         exporters:\n  otlp_grpc:\n    endpoint: http://127.0.0.1:1\n    timeout: soon\n\
         service:\n  pipelines:\n    traces:\n      receivers: [export_dir]\n      exporters: [otlp]\n",
    );
    for command in ["once", "run", "validate"] {
        let output = workspace.program(command).arg("-c").arg(&path).run().expect_code(2);
        let output = output.expect_log(&[path.to_str().unwrap(), "setle", "timeout"]);
        said_position(&output, 4, 5);
        said_position(&output, 8, 14);
        assert!(output.stderr.contains(":13:"), "{}", output.stderr);
    }
}

#[test]
fn wrong_usage_exits_2() {
    let workspace = Workspace::new();
    for args in [&["--protocol", "carrier-pigeon"][..], &["--timeout", "soon"], &["--no-such-flag"]]
    {
        workspace.program("once").arg(workspace.exports()).args(args).run().expect_code(2);
    }
    let missing = workspace.root().join("none.yaml");
    let output = workspace.program("once").arg("-c").arg(&missing).run().expect_code(2);
    output.expect_log(&[missing.to_str().unwrap()]);
}

#[tokio::test]
async fn undelivered_exports_exit_1_and_stay_queued() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let down = server.address();
    let run = workspace.once(&server, Protocol::Grpc).args(&["--timeout", "2s"]);
    server.stop();
    let run = run.deadline(Duration::from_secs(20));
    run.run().expect_code(1).expect_log(&[snapshot.path.to_str().unwrap()]);
    assert!(snapshot.is_untouched());

    // The queue on disk has the export; the next run delivers it.
    let server = FakeOtlp::builder().at(down).start().await;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
}

/// A name from outside ends no line and moves no cursor.
#[tokio::test]
async fn names_are_escaped_in_every_line() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let name = "a\nERROR forged\u{1b}[2J\r\u{202e}";
    let export = workspace.export(name, &presets::one());
    fs::write(&export.snapshot.path, "{").unwrap();
    let missing = workspace.root().join("no\nERROR forged\u{1b}[2J").display().to_string();
    let once = workspace.once(&server, Protocol::Grpc).args(&["--timeout", "1s"]);
    for output in [
        once.run(),
        workspace.program("once").arg(&missing).args(&["--endpoint", server.endpoint()]).run(),
        workspace.program("status").arg("--watch").arg(workspace.exports()).run(),
    ] {
        for line in output.stderr.lines().chain(output.stdout.lines()) {
            assert!(!line.starts_with("ERROR forged"), "{line:?}");
            assert!(!line.contains(['\u{1b}', '\r', '\u{202e}']), "{line:?}");
        }
    }
}

/// An export whose plan would take gigabytes is refused with a number, and delays no other.
#[tokio::test]
async fn too_many_artifacts_or_dependencies_are_refused() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let ids: Vec<String> = (0..1_001).map(|id| format!("a{id}")).collect();
    let dense: serde_json::Map<String, Value> =
        ids[..200].iter().map(|id| (id.clone(), json!(ids[..200]))).collect();
    let huge = vec!["x"; 2_000_000];
    for (name, metadata) in [
        ("gaps", json!({"coverage": {"gaps": ids}})),
        ("dense", json!({"coverage": {"gaps": ["a0"]}, "artifact_dependency_graph": dense})),
        ("huge", json!({"coverage": {"gaps": huge}})),
    ] {
        let directory = workspace.exports().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(METADATA), metadata.to_string()).unwrap();
    }
    let good = workspace.export("good", &presets::one()).snapshot;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["max_artifacts"] = json!(1_000);
    let output = workspace.configured("once", &pipeline).run().expect_code(3);
    let refused = output.stderr.matches("has more than 1000 artifacts (max_artifacts)").count();
    assert_eq!(refused, 2, "{}", output.stderr);
    output.expect_log(&["has more than 10000 dependencies (max_artifacts)"]);
    assert_eq!(good.written_trace_id(), Some(good.trace_id()));
}
