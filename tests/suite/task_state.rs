//! Guarantees:
//!
//! - State files are where the task tracker expects them, with the contents that it expects.
//! - A new export never resets a task that the tracker has changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::exports::{Artifact, ExportBuilder, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::workspace::Workspace;

fn pipeline(workspace: &Workspace, server: &FakeOtlp) -> Value {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let directory = workspace.root().join("tracker");
    pipeline["receivers"]["export_dir"]["task_state"] = json!({"directory": directory});
    pipeline
}

fn documents(directory: &Path) -> BTreeMap<String, Value> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|it| it == "json"));
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn every_span_has_a_state_file() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::every_status()).snapshot;
    workspace.configured("once", &pipeline(&workspace, &server)).run().expect_code(0);
    assert_eq!(snapshot.check_written_back(), [""; 0]);

    let spans = server.spans();
    let text = |span: &opentelemetry_proto::tonic::trace::v1::Span, key: &str| {
        let value = span.attributes.iter().find(|it| it.key == key).unwrap().value.clone().unwrap();
        serde_json::to_value(value).unwrap()["stringValue"].as_str().unwrap().to_owned()
    };
    let project = workspace.root().join("tracker").join(text(&spans[0], "project.id"));
    let (active, completed) = (documents(&project), documents(&project.join("completed")));
    assert_eq!(active.len() + completed.len(), spans.len());
    for span in &spans {
        let id = text(span, "task.id");
        let is_closed = ["done", "cancelled"].contains(&text(span, "task.status").as_str());
        let state = if is_closed { &completed[&id] } else { &active[&id] };
        let keys: Vec<&str> = state.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "task_id",
                "span_name",
                "trace_id",
                "span_id",
                "parent_span_id",
                "start_time",
                "end_time",
                "attributes",
                "events",
                "status",
                "status_description",
                "schema_version",
                "project_id",
                "created_at"
            ]
        );
        assert_eq!(state["schema_version"], 2);
        assert_eq!(state["trace_id"], json!(snapshot.trace_id()));
        assert_eq!(state["span_id"], json!(hex(&span.span_id)));
        let parent = Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty());
        assert_eq!(state["parent_span_id"], json!(parent));
        assert_eq!(state["end_time"].is_null(), !is_closed);
        assert_eq!(state["events"].as_array().unwrap().len(), span.events.len());
        let depends_on = &state["attributes"]["artifact.depends_on"];
        let has_any = depends_on.as_array().is_some_and(|ids| !ids.is_empty());
        let attributes = state["attributes"].as_object().unwrap();
        assert_eq!(attributes.get("task.depends_on"), Some(depends_on).filter(|_| has_any));
        assert_eq!(attributes.len(), span.attributes.len() + usize::from(has_any));
        assert_eq!(state["attributes"]["task.id"], json!(id));
    }
}

#[tokio::test]
async fn an_id_that_is_no_file_name_is_refused_and_nothing_is_sent() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let export = ExportBuilder::new("p").artifact(Artifact::new("../../escape", "dashboard"));
    let snapshot = workspace.export("out", &export).snapshot;
    let run = workspace.configured("once", &pipeline(&workspace, &server)).run();
    run.expect_code(3).expect_log(&["../../escape", "path separator", "onboarding-metadata.json"]);
    assert_eq!(server.attempts().len(), 0);
    assert!(snapshot.is_untouched());
    assert!(!workspace.root().join("tracker").exists());

    // Without state files any id is valid.
    let plain = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    workspace.configured("once", &plain).run().expect_code(0);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_an_error_message() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    fs::write(workspace.root().join("tracker"), "a file").unwrap();
    let run = workspace.configured("once", &pipeline(&workspace, &server)).run();
    run.expect_code(0).expect_log(&["no state files"]);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}

/// The tracker works on a task, and the project is exported again. The task keeps its status; the
/// other files belong to the new trace.
#[tokio::test]
async fn a_new_export_keeps_the_progress_of_a_task() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let first = workspace.export("out", &presets::typical()).snapshot;
    workspace.configured("once", &pipeline(&workspace, &server)).run().expect_code(0);
    let project = workspace.root().join("tracker/shop");
    let path = project.join("cart-rules.json");
    let mut begun: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    begun["attributes"]["task.status"] = json!("in_progress");
    fs::write(&path, begun.to_string()).unwrap();
    let second = workspace.export("out", &presets::typical()).snapshot;
    workspace.configured("once", &pipeline(&workspace, &server)).run().expect_code(0);
    let active = documents(&project);
    assert_eq!(active["cart-rules"], begun);
    assert_eq!(active["cart-rules"]["trace_id"], json!(first.trace_id()));
    assert_eq!(active["cart-monitor"]["trace_id"], json!(second.trace_id()));
}
