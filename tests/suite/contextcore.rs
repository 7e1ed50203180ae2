//! Guarantees:
//! - The report of the pipeline checker is accepted from a file, from standard input and by the
//!   receiver; every contract on a span is a valid GateResult v1.
//! - A task can be named by its artifact id or by the id that it is mapped to. The artifact id
//!   wins, and an id that two artifacts are mapped to is refused.
//! - An addition carries the attributes of its task that queries need.
//! - A refused file is reported once per version.
//! - An id that taskspan did not write is called foreign, is never reported as an outcome, and is
//!   replaced by `on_existing_trace_id: emit`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::followup::{Emitted, assert_added, stop, text, watching, write};
use crate::support::conventions::hex;
use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::program::PATIENCE;
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// The report that `contextcore contract a2a-check-pipeline OUTPUT --report FILE` writes.
fn report(project: &str) -> Value {
    let gate = |id: &str, phase: &str, result: &str, blocking: bool| {
        json!({
            "gate_id": format!("{project}-{id}"), "phase": phase, "result": result,
            "blocking": blocking, "reason": format!("{id}: {result}"),
        })
    };
    json!({
        "output_dir": "out", "project_id": project, "checked_at": CHECKED_AT,
        "total_gates": 3, "passed": 1, "failed": 2, "blocking_failures": 1, "is_healthy": false,
        "warnings": ["Overall coverage is 0%."], "skipped": [],
        "gates": [
            gate("structural-integrity", "EXPORT_CONTRACT", "pass", false),
            gate("gap-parity", "INGEST_PARSE_ASSESS", "fail", true),
            gate("design-calibration", "ARTISAN_DESIGN", "fail", false),
        ],
    })
}

const CHECKED_AT: &str = "2026-11-25T22:36:05.376517+00:00";
const EPIC: &str = "shop-artifact-generation";

/// Asserts that every span of the report is below the epic, in the report's order, with a valid
/// contract.
#[track_caller]
fn assert_report(spans: &[Span], epic: &Span) {
    let schema = include_str!("../fixtures/schemas/gate-result.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let mut severities = Vec::new();
    for span in spans {
        assert_added(span, epic, "validates");
        let contract = text(&span.events[0].attributes, "contract");
        let contract: Value = serde_json::from_str(&contract).unwrap();
        let faults: Vec<String> = schema.iter_errors(&contract).map(|it| it.to_string()).collect();
        assert_eq!(faults, [""; 0], "{contract}");
        assert_eq!(contract["checked_at"], CHECKED_AT);
        severities.push(text(&span.attributes, "gate.severity"));
    }
    assert_eq!(severities, ["info", "error", "warning"]);
    let starts: Vec<u64> = spans.iter().map(|span| span.start_time_unix_nano).collect();
    assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
}

#[tokio::test]
async fn the_checkers_report_is_accepted_from_a_file_and_from_standard_input() {
    let emitted = Emitted::new().await;
    emitted.gate(&report("shop")).expect_code(0);
    assert_report(&emitted.added(), &emitted.of_export(EPIC));

    let emitted = Emitted::new().await;
    let file = emitted.file("pipeline-report.json", &report("shop"));
    let stdin = Stdio::from(fs::File::open(file).unwrap());
    emitted.command("gate").arg("-").stdin(stdin).run().expect_code(0);
    assert_report(&emitted.added(), &emitted.of_export(EPIC));
}

#[tokio::test]
async fn the_checkers_report_of_another_project_sends_nothing() {
    let emitted = Emitted::new().await;
    emitted.gate(&report("other")).expect_code(3).expect_log(&["`other`", "`shop`"]);
    let mut unknown = report("shop");
    unknown["gates"][1]["phase"] = json!("DESIGN");
    emitted.gate(&unknown).expect_code(3).expect_log(&["gates[1].phase", "`DESIGN`"]);
    assert_eq!(emitted.added(), []);
}

/// The export was sent under another project id than its own, which the report has.
#[tokio::test]
async fn the_report_of_an_export_with_a_set_project_id_is_accepted() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let report = write(&workspace.root().join("report.json"), &report("shop"));
    let command = |name: &str| {
        let set = ["--project-id", "platform", "--endpoint", server.endpoint()];
        workspace.program(name).args(&set)
    };
    command("once").arg(workspace.exports()).run().expect_code(0);
    command("gate").arg("--metadata").arg(&snapshot.path).arg(report).run().expect_code(0);
    let spans = server.spans();
    let added: Vec<Span> = spans.iter().filter(|it| it.name == "gate.result").cloned().collect();
    let is_epic = |span: &&Span| text(&span.attributes, "task.type") == "epic";
    let epic = spans.iter().find(is_epic).unwrap();
    assert_eq!(added.len(), 3);
    for span in added {
        assert_eq!((&span.parent_span_id, &span.trace_id), (&epic.span_id, &epic.trace_id));
        assert_eq!(text(&span.attributes, "project.id"), "platform");
    }
}

/// The record of a run has the checksum of the metadata, which a write-back changes.
#[tokio::test]
async fn a_write_back_makes_no_warning_about_the_record_of_the_run() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let digest = hex(&Sha256::digest(fs::read(&snapshot.path).unwrap()));
    let record = json!({
        "inputs": [{"path": "shop.yaml", "sha256": "ab".repeat(32)}],
        "outputs": [{"path": "out/onboarding-metadata.json", "sha256": digest}],
    });
    write(&snapshot.path.with_file_name("run-provenance.json"), &record);
    let report = write(&workspace.root().join("report.json"), &report("shop"));
    let command = |name: &str| workspace.program(name).args(&["--endpoint", server.endpoint()]);
    let mut said = String::new();
    said += &command("once").arg(workspace.exports()).run().expect_code(0).stderr;
    let gate = command("gate").arg("--metadata").arg(&snapshot.path);
    said += &gate.arg(report).run().expect_code(0).stderr;
    assert!(!said.contains("run-provenance.json"), "{said}");
}

/// The reason is longer than an attribute may be.
#[tokio::test]
async fn a_long_reason_stays_valid_and_whole() {
    let emitted = Emitted::new().await;
    let reason = "the entry of a service has no transport_protocol; ".repeat(60);
    let mut file = report("shop");
    file["gates"][1]["reason"] = json!(reason);
    emitted.gate(&file).expect_code(0);
    let added = emitted.added();
    let span = added.iter().find(|span| span.events.len() > 1).expect("several pieces");
    let schema = include_str!("../fixtures/schemas/gate-result.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let mut found = String::new();
    for event in &span.events {
        let piece: Value = serde_json::from_str(&text(&event.attributes, "contract")).unwrap();
        assert!(schema.is_valid(&piece), "{piece}");
        found += piece["reason"].as_str().unwrap();
    }
    assert_eq!(found, reason);
}

#[tokio::test]
async fn the_checkers_report_is_found_by_the_receiver() {
    // The report is next to the export, or in the checker's working directory and names the
    // export's directory.
    for report_at in ["out/pipeline-report.json", "pipeline-report.json"] {
        found_by_the_receiver(report_at).await;
    }
}

async fn found_by_the_receiver(report_at: &str) {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    // The default `include`.
    pipeline["receivers"]["gate_results"] = json!({
        "directories": [workspace.exports()], "settle": "20ms", "settle_timeout": "1s",
    });
    pipeline["service"]["pipelines"]["traces"]["receivers"] = json!(["export_dir", "gate_results"]);
    workspace.export("out", &presets::typical());
    write(&workspace.exports().join(report_at), &report("shop"));
    for _ in 0..2 {
        workspace.configured("once", &pipeline).run().expect_code(0);
    }
    let (added, of_export): (Vec<Span>, Vec<Span>) =
        server.spans().into_iter().partition(|span| span.name == "gate.result");
    let mut added = added;
    added.sort_by_key(|span| span.start_time_unix_nano);
    let epic = of_export.iter().find(|span| text(&span.attributes, "task.id") == EPIC).unwrap();
    assert_report(&added, epic);
}

#[tokio::test]
async fn an_invalid_trace_id_is_a_warning() {
    let emitted = Emitted::new().await;
    let mut file = report("shop");
    file["gates"][0]["trace_id"] = json!("trace-of-the-pilot");
    file["gates"][0]["task_id"] = Value::Null;
    let run = emitted.gate(&file).expect_code(0);
    run.expect_log(&["no trace id: 1 (`trace-of-the-pilot`)"]);
    assert_report(&emitted.added(), &emitted.of_export(EPIC));
}

/// An artifact that the preset maps.
const MAPPED: &str = "cart-dashboard";
const MAPPED_TO: &str = "PI-007";

fn texts(span: &Span, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| text(&span.attributes, key)).collect()
}

const CARRIED: [&str; 6] = [
    "artifact.id",
    "artifact.type",
    "artifact.target",
    "artifact.priority",
    "artifact.status",
    "task.title",
];

#[tokio::test]
async fn a_task_is_named_by_either_id() {
    let emitted = Emitted::new().await;
    let task = emitted.of_export(MAPPED);
    for id in [MAPPED, MAPPED_TO] {
        let update = ["--id", id, "--status", "done"];
        emitted.command("task").args(&update).run().expect_code(0);
    }
    let mut file = report("shop");
    file["gates"][1]["task_id"] = json!(MAPPED_TO);
    file["gates"].as_array_mut().unwrap().truncate(2);
    emitted.gate(&file).expect_code(0);
    let added = emitted.added();
    let described = ["cart-dashboard", "dashboard", "cart", "required", "needed"];
    for update in &added[..2] {
        assert_added(update, &task, "implements_task");
        assert_eq!(texts(update, &CARRIED)[..5], described);
        assert_eq!(texts(update, &CARRIED)[5], text(&task.attributes, "task.title"));
        assert_eq!(text(&update.attributes, "task.status"), "done");
    }
    let [of_epic, of_task] = &added[2..] else { panic!("{added:?}") };
    assert_added(of_epic, &emitted.of_export(EPIC), "validates");
    assert_eq!(texts(of_epic, &CARRIED)[..5], [""; 5]);
    assert_added(of_task, &task, "validates");
    assert_eq!(texts(of_task, &CARRIED)[..5], described);
}

#[tokio::test]
async fn an_artifact_id_wins_over_a_mapped_id() {
    // The id of one artifact is the mapped id of another.
    let export = presets::typical().mapped_task("cart-rules", "cart-monitor");
    let emitted = Emitted::of(&export, Protocol::Grpc).await;
    let update = ["--id", "cart-monitor", "--status", "todo"];
    emitted.command("task").args(&update).run().expect_code(0);
    assert_added(&emitted.added()[0], &emitted.of_export("cart-monitor"), "implements_task");
}

#[tokio::test]
async fn an_id_that_two_artifacts_are_mapped_to_is_refused() {
    let export = presets::typical().mapped_task("payment-dashboard", MAPPED_TO);
    let emitted = Emitted::of(&export, Protocol::Grpc).await;
    let said = ["PI-007", "cart-dashboard", "payment-dashboard"];
    let update = ["--id", MAPPED_TO, "--status", "done"];
    emitted.command("task").args(&update).run().expect_code(3).expect_log(&said);
    let mut file = report("shop");
    file["gates"][0]["task_id"] = json!(MAPPED_TO);
    emitted.gate(&file).expect_code(3).expect_log(&said);
    let beside = emitted.snapshot.path.with_file_name("gate-report.json");
    write(&beside, &file);
    let running = watching(&emitted.workspace, &emitted.server);
    running.wait_for_line("gate results refused", PATIENCE);
    // If the report uses artifact ids, the same file is accepted.
    write(&beside, &report("shop"));
    let three = |spans: &[Span]| spans.iter().filter(|it| it.name == "gate.result").count() == 3;
    emitted.server.wait_for(|state| three(&state.spans()), PATIENCE).await;
    stop(running);
}

#[tokio::test]
async fn a_refused_version_is_reported_once() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    workspace.export("out", &presets::typical());
    let file = workspace.exports().join("out/broken-gate.json");
    write(&file, &json!({"schema_version": "v2"}));
    let mut running = watching(&workspace, &server);
    running.wait_for_line("gate results refused", PATIENCE);
    // A change of the mode is an event about the same version.
    for mode in [0o600, 0o640] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    write(&workspace.exports().join("out/good-gate.json"), &report("shop"));
    let arrived = |spans: &[Span]| spans.iter().any(|span| span.name == "gate.result");
    server.wait_for(|state| arrived(&state.spans()), PATIENCE).await;
    write(&file, &json!({"surprise": 1}));
    running.wait_for_line("surprise: is no key", PATIENCE);
    running.signal(rustix::process::Signal::TERM);
    let code = running.wait(PATIENCE);
    let output = running.output(code);
    let refusals = output.stderr.matches("gate results refused").count();
    assert_eq!(refusals, 2, "{}", output.stderr);
}

/// The words of the real exporter, as attributes on the wire.
#[tokio::test]
async fn fields_of_the_real_export_become_attributes() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::as_contextcore_writes()).snapshot;
    let run = workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    let run = run.expect_log(&[
        "artifact ids with several manifest entries: 1 (api-rules)",
        "artifacts with an unknown status: 2 (api-slo: `existing`, api-runbook: `existing`)",
        "empty ids in coverage.gaps: 1",
    ]);
    assert_eq!(run.stderr.matches("WARN").count(), 3, "one line each: {}", run.stderr);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
    let spans = server.spans();
    let find = |id: &str| spans.iter().find(|it| text(&it.attributes, "task.id") == id).unwrap();
    let int = |span: &Span, key: &str| match crate::followup::value(&span.attributes, key) {
        Some(any_value::Value::IntValue(value)) => Some(value),
        _ => None,
    };
    let epic = find("parcel-prod-artifact-generation");
    assert_eq!(epic.name, "parcel Observability Artifact Generation");
    assert_eq!(text(&epic.attributes, "project.epic"), "PARCEL-1");
    assert_eq!(text(&epic.attributes, "export.source_checksum"), "0123456789abcdef".repeat(4));
    assert_eq!(int(epic, "coverage.total_artifacts"), Some(3));
    let rules = find("api-rules");
    assert_eq!(
        texts(rules, &["task.title", "artifact.target"]),
        ["Rules of api-canary", "api-canary"]
    );
    assert_eq!(text(&rules.attributes, "artifact.parameters.alertSeverity"), "P3");
    assert_eq!(int(rules, "artifact.duplicate_count"), Some(3));
    let is_unresolved = |it: &&KeyValue| it.key == "artifact.parameters_unresolved";
    let unresolved = rules.attributes.iter().find(is_unresolved).unwrap().value.clone().unwrap();
    assert_eq!(
        serde_json::to_value(unresolved).unwrap()["arrayValue"]["values"],
        json!([{"stringValue": "latency"}])
    );
    let statuses =
        ["api-slo", "api-runbook"].map(|id| text(&find(id).attributes, "artifact.status"));
    assert_eq!(statuses, ["exists", "needed"]);
}

fn states(workspace: &Workspace, pipeline: &Value) -> Vec<(String, Option<String>)> {
    let status = workspace.configured("status", pipeline).args(&["--format", "json"]);
    let listed: Value = serde_json::from_str(&status.run().expect_code(0).stdout).unwrap();
    let text = |it: &Value| it.as_str().map(str::to_owned);
    let listed = listed.as_array().unwrap().iter();
    listed.map(|it| (text(&it["state"]).unwrap(), text(&it["trace_id"]))).collect()
}

#[tokio::test]
async fn an_id_of_another_program_is_foreign() {
    const FOREIGN: &str = "b56a0afb5bf084080d92560a6b00dbe5";
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    // The state after the exporter's own --emit-tasks, with an id that no backend has.
    let export = presets::typical()
        .with("task_trace_id", json!(FOREIGN))
        .with("task_emission_timestamp", json!("2026-11-26T00:59:08.036900+00:00"));
    let snapshot = workspace.export("out", &export).snapshot;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let outputs = workspace.root().join("outputs");
    let once = workspace.configured("once", &pipeline).env("GITHUB_OUTPUT", &outputs);
    once.run()
        .expect_code(0)
        .expect_log(&["a task_trace_id that taskspan did not write", "on_existing_trace_id: emit"]);
    assert!(snapshot.is_untouched());
    assert_eq!(fs::read_to_string(&outputs).unwrap(), "");
    assert_eq!(states(&workspace, &pipeline), [("foreign".to_owned(), None)]);
    let preview = workspace.configured("preview", &pipeline).run().expect_code(0);
    preview.expect_log(&["a task_trace_id that taskspan did not write"]);

    pipeline["receivers"]["export_dir"]["on_existing_trace_id"] = json!("emit");
    for _ in 0..2 {
        workspace.configured("once", &pipeline).run().expect_code(0);
    }
    let id = Some(snapshot.trace_id()).filter(|id| id != FOREIGN);
    assert_eq!(Snapshot::of(&snapshot.path).written_trace_id(), id);
    assert_eq!(server.spans().len(), 10, "sent once");

    // An id of taskspan is recognized even after the file was touched and copied.
    pipeline["receivers"]["export_dir"]["on_existing_trace_id"] = json!("skip");
    let written = fs::read(&snapshot.path).unwrap();
    fs::write(&snapshot.path, &written).unwrap();
    assert_eq!(states(&workspace, &pipeline), [("written".to_owned(), id)]);
    let run = workspace.configured("once", &pipeline).run().expect_code(0);
    assert!(!run.stderr.contains("did not write"), "{}", run.stderr);
    let metadata: Value = serde_json::from_slice(&written).unwrap();
    let timestamp = metadata["task_emission_timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with("+00:00"), "what Python 3.9 reads: {timestamp}");
}
