//! Guarantees:
//!
//! - An export that needs more memory than `service.max_memory` is refused with both numbers, and is left
//!   unchanged. Others are delivered.
//! - Exports that do not fit into the memory together are delivered one after the other.
//! - An export that has its id is done, however much memory it would take to parse.

use std::fs;

use serde_json::{Value, json};

use crate::support::exports::{METADATA, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::workspace::Workspace;

/// Writes an export that needs about `mib` MiB of memory: a `{}` counts as 490 bytes, and is 3 bytes of text.
fn write_export(workspace: &Workspace, name: &str, mib: usize) -> std::path::PathBuf {
    let objects = vec![json!({}); (mib << 20) / 490];
    let metadata = json!({
        "coverage": {"gaps": ["a"]},
        "expected_output_contracts": {"dashboard": {"examples": objects}},
    });
    let directory = workspace.exports().join(name);
    fs::create_dir(&directory).unwrap();
    let path = directory.join(METADATA);
    fs::write(&path, metadata.to_string()).unwrap();
    path
}

/// Returns a pipeline with the least memory that can be configured.
fn pipeline(workspace: &Workspace, server: &FakeOtlp) -> Value {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["service"]["max_memory"] = json!("16MiB");
    pipeline
}

fn trace_id_in(path: &std::path::Path) -> Option<String> {
    let metadata: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Some(metadata.get("task_trace_id")?.as_str()?.to_owned())
}

#[tokio::test]
async fn an_export_over_the_memory_limit_is_refused_with_both_numbers() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let large = write_export(&workspace, "large", 20);
    let before = fs::read(&large).unwrap();
    let good = workspace.export("good", &presets::one()).snapshot;
    let pipeline = pipeline(&workspace, &server);
    let output = workspace.configured("once", &pipeline).run().expect_code(3);
    let limit = "needs about 21MiB of memory, over the limit of 16MiB (service.max_memory)";
    output.expect_log(&[large.to_str().unwrap(), limit]);
    assert_eq!(fs::read(&large).unwrap(), before);
    assert_eq!(good.written_trace_id(), Some(good.trace_id()));
}

#[tokio::test]
async fn a_manifest_counts_as_well() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let directory = workspace.exports().join("a");
    fs::create_dir(&directory).unwrap();
    let metadata = json!({"coverage": {"gaps": ["a"]}, "artifact_manifest_path": "m.yaml"});
    fs::write(directory.join(METADATA), metadata.to_string()).unwrap();
    fs::write(directory.join("m.yaml"), "artifacts:\n".to_owned() + &"- id: a\n".repeat(120_000))
        .unwrap();
    let pipeline = pipeline(&workspace, &server);
    let output = workspace.configured("once", &pipeline).run().expect_code(3);
    output.expect_log(&["over the limit of 16MiB (service.max_memory)"]);
    assert!(server.attempts().is_empty());
}

#[tokio::test]
async fn exports_that_do_not_fit_together_are_delivered_one_after_the_other() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let name = |number: usize| format!("export-{number}");
    let exports: Vec<_> = (0..6).map(|it| write_export(&workspace, &name(it), 9)).collect();
    workspace.configured("once", &pipeline(&workspace, &server)).run().expect_code(0);
    for export in exports {
        assert!(trace_id_in(&export).is_some(), "{}", export.display());
    }
}

#[tokio::test]
async fn an_export_with_its_id_is_done_even_if_it_would_need_too_much_memory() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let large = write_export(&workspace, "large", 20);
    let mut pipeline = pipeline(&workspace, &server);
    pipeline["service"]["max_memory"] = json!("32MiB");
    workspace.configured("once", &pipeline).run().expect_code(0);
    let id = trace_id_in(&large);
    assert!(id.is_some());
    pipeline["service"]["max_memory"] = json!("16MiB");
    workspace.configured("once", &pipeline).run().expect_code(0);
    assert_eq!(trace_id_in(&large), id);
}
