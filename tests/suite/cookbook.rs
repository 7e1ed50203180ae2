//! Guarantees:
//! - Every query of the cookbook finds something in what taskspan sends. A wrong name, type or
//!   value would find nothing.
//! - No query needs a plan and its additions in one block of a Tempo.
//! - Coverage counts a task once, counts back, and is 0 where nothing is done; the rule, the
//!   README, the cookbook and the dashboard have the same query.

mod logql;
mod traceql;

use std::fs;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};

use crate::deploy::{blocks, read};
use crate::support::conventions::hex;
use crate::support::exports::{Artifact, ExportBuilder, Manifest, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::workspace::Workspace;
use logql::Fields;
use traceql::Stored;

/// The trace context of the job that wrote the exports. The cookbook searches for it.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The project that the cookbook searches for.
fn my_project() -> ExportBuilder {
    let needed = |id: &str, kind: &str, target: &str| Artifact::new(id, kind).target(target);
    let rules = "checkout_api-prometheus-rules";
    let mut export = ExportBuilder::new("my-project")
        .contract(
            "dashboard",
            json!({"expected_depth": "comprehensive", "max_lines": 300, "max_tokens": 1500,
                "completeness_markers": ["panels"]}),
        )
        .mapped_task("checkout_api-dashboard", "PT-107")
        .with(
            "file_ownership",
            json!({"grafana/checkout.json": {
                "artifact_ids": ["checkout_api-dashboard"], "artifact_types": ["dashboard"],
            }}),
        )
        .artifact(
            needed("checkout_api-dashboard", "dashboard", "checkout-api")
                .parameters(json!({"refreshSeconds": 30, "datasources": ["Tempo", "Loki"]}))
                .depends_on(&[rules, "checkout_api-monitor", "checkout_api-slo"]),
        )
        .artifact(
            needed(rules, "prometheus_rule", "checkout-api")
                .parameters(json!({"alertSeverity": "P1"}))
                .depends_on(&["checkout_api-monitor"]),
        )
        .artifact(
            needed("checkout_api-monitor", "service_monitor", "checkout-api").status("exists"),
        )
        .artifact(needed("checkout_api-slo", "slo_definition", "checkout-api").status("outdated"))
        .artifact(needed("tracking_api-prometheus-rules", "prometheus_rule", "tracking-api"))
        .artifact(
            needed("tracking_api-runbook", "runbook", "tracking-api")
                .depends_on(&["tracking_api-prometheus-rules"]),
        );
    for n in 0..6 {
        export = export.artifact(needed(&format!("panel-{n}"), "dashboard", "tracking-api"));
    }
    export
}

/// Sends everything that the program can send. Returns the number of requests for the exports, too.
async fn everything() -> (FakeOtlp, FakeOtlp, Workspace, usize) {
    let workspace = Workspace::new();
    let (tempo, loki) = (FakeOtlp::builder().start().await, FakeOtlp::builder().start().await);
    let mut pipeline = workspace.pipeline(tempo.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_http/loki"] = json!({"endpoint": loki.endpoint()});
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    for (name, export) in presets::all() {
        workspace.export(name, &export);
    }
    workspace.export("no-manifest", &presets::typical().manifest(Manifest::None));
    let metadata = workspace.export("mine", &my_project()).metadata;
    workspace.configured("once", &pipeline).env("TRACEPARENT", TRACEPARENT).run().expect_code(0);
    let of_exports = tempo.accepted().len();

    let onto = ["--metadata", metadata.to_str().unwrap()];
    let task = "checkout_api-dashboard";
    let gate = |id: &str, result: &str| {
        json!({
            "schema_version": "v1", "gate_id": id, "phase": "CONTRACT_INTEGRITY", "result": result,
            "reason": "r", "severity": "critical", "blocking": true, "task_id": task,
            "checked_at": "2026-11-23T06:15:00Z",
        })
    };
    let gates = workspace.root().join("gates.json");
    let results = json!([gate("complete", "fail"), gate("checksum-chain", "pass")]);
    fs::write(&gates, results.to_string()).unwrap();
    workspace.configured("gate", &pipeline).args(&onto).arg(&gates).run().expect_code(0);
    for args in [
        &["--status", "in_progress", "--phase", "ARTISAN_DESIGN"][..],
        &["--status", "blocked", "--reason", "no data"],
        &["--status", "in_progress", "--from", "blocked"],
        &["--status", "failed"],
        &["--status", "completed"],
    ] {
        let program = workspace.configured("task", &pipeline).args(&onto).args(&["--id", task]);
        program.args(args).run().expect_code(0);
    }
    (tempo, loki, workspace, of_exports)
}

/// The contents of a Tempo minutes after the exports, when each addition is in a block of its own.
fn stored(tempo: &FakeOtlp, of_exports: usize) -> Vec<Stored> {
    let mut stored = Vec::new();
    for (at, request) in tempo.accepted().into_iter().enumerate() {
        let block = (at + 1).saturating_sub(of_exports);
        for resource_spans in request.resource_spans {
            let resource = resource_spans.resource.unwrap_or_default().attributes;
            let spans = resource_spans.scope_spans.into_iter().flat_map(|it| it.spans);
            stored.extend(spans.map(|span| Stored { span, resource: resource.clone(), block }));
        }
    }
    stored
}

/// Replaces the value of a field that is different in each run.
fn with_value(query: &str, field: &str, value: &str) -> String {
    let Some(at) = query.find(&format!("{field} = \"")) else { return query.to_owned() };
    let start = at + field.len() + " = \"".len();
    let end = start + query[start..].find('"').unwrap();
    format!("{}{value}{}", &query[..start], &query[end..])
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn plain(value: Option<&AnyValue>) -> String {
    match value.and_then(|it| it.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(int)) => int.to_string(),
        Some(any_value::Value::DoubleValue(double)) => double.to_string(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn every_query_of_the_cookbook_finds_something() {
    let (tempo, loki, _workspace, of_exports) = everything().await;
    let spans = stored(&tempo, of_exports);
    let is = |key: &str, value: &str| {
        let has = |it: &&Stored| text(&it.span.attributes, key).as_deref() == Some(value);
        &spans.iter().find(has).unwrap_or_else(|| panic!("no span with {key} {value}")).span
    };
    let epic = is("task.id", "my-project-artifact-generation");
    let needed = is("artifact.id", "checkout_api-prometheus-rules");
    let known = [
        ("span.export.id", text(&epic.attributes, "export.id").unwrap()),
        ("span.export.source_checksum", text(&epic.attributes, "export.source_checksum").unwrap()),
        ("link:spanID", hex(&needed.span_id)),
        ("span:id", hex(&needed.span_id)),
        ("span:parentID", hex(&needed.parent_span_id)),
    ];
    let page = read("docs/cookbook.md");
    let queries = blocks(&page, &["traceql"]);
    assert!(queries.len() > 60, "{}", queries.len());
    for query in &queries {
        let mut asked = query.clone();
        for (field, value) in &known {
            asked = with_value(&asked, field, value);
        }
        assert!(!traceql::run(&asked, &spans).is_empty(), "nothing found: {asked}");
    }
    // The cookbook warns of these queries. An evaluator that found something would be wrong.
    for nothing in [
        "{ span.coverage.percent > 30 }",
        "{ span.artifact.id = \"checkout_api\" }",
        "{ span.artifact.id =~ \"checkout_api\" }",
        "{ event:name = \"artifact.intent\" && event.dependency_count > 0 }",
        "{ name = \"task.update\" } < { span.artifact.status = \"needed\" }",
        "{ span.task.type = \"epic\" } >> { name = \"gate.result\" }",
        "{ link:traceID = \"0af7651916cd43dd8448eb211c80319c\" }",
    ] {
        assert!(traceql::run(nothing, &spans).is_empty(), "{nothing}");
    }

    let records = records(&loki);
    let trace_id = hex(&epic.trace_id);
    let queries = blocks(&page, &["logql"]);
    assert!(queries.len() > 10, "{}", queries.len());
    for query in &queries {
        let asked = query.replace("b846d43b1791aba1df4876cf02b130fa", &trace_id);
        let found = logql::run(&asked, &records);
        assert!(!found.is_empty() && found.iter().all(|it| !it.is_empty()), "nothing: {asked}");
    }
}

/// The contents of a Loki: attributes as structured metadata, in the order of their times.
fn records(loki: &FakeOtlp) -> Vec<Fields> {
    let mut records = loki.state().log_records();
    records.sort_by_key(|record| record.time_unix_nano);
    let fields = |record: &LogRecord| {
        let attributes = record.attributes.iter();
        let mut fields: Fields =
            attributes.map(|it| (it.key.replace('.', "_"), plain(it.value.as_ref()))).collect();
        fields.insert("service_name".to_owned(), "contextcore-export".to_owned());
        fields
    };
    records.iter().map(fields).collect()
}

fn coverage_query() -> String {
    let page = read("docs/cookbook.md");
    let queries = blocks(&page, &["logql"]);
    queries.into_iter().find(|query| query.starts_with("avg by (project_id) (")).unwrap()
}

/// Every place that shows coverage must have the same query.
#[test]
fn the_rule_the_readme_and_the_dashboard_have_the_query_of_the_cookbook() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let query = words(&coverage_query());
    for path in ["deploy/loki/rules.yaml", "README.md", "deploy/grafana/README.md"] {
        assert!(words(&read(path)).contains(&query), "{path}");
    }
    let dashboard = words(&read("deploy/grafana/dashboard.json")).replace("\\\"", "\"");
    assert!(dashboard.contains(&query), "the dashboard");
}

/// Five tasks, of which one exists. Then updates of the others, with the coverage after each.
#[tokio::test]
async fn coverage_follows_the_last_status_of_each_task() {
    let workspace = Workspace::new();
    let (tempo, loki) = (FakeOtlp::builder().start().await, FakeOtlp::builder().start().await);
    let mut pipeline = workspace.pipeline(tempo.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_http/loki"] = json!({"endpoint": loki.endpoint()});
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    let mut export =
        ExportBuilder::new("five").artifact(Artifact::new("there", "runbook").status("exists"));
    for id in ["a", "b", "c", "d"] {
        export = export.artifact(Artifact::new(id, "dashboard"));
    }
    let metadata = workspace.export("five", &export).metadata;
    workspace.export("none", &ExportBuilder::new("none").artifact(Artifact::new("x", "runbook")));
    workspace.configured("once", &pipeline).run().expect_code(0);
    let shown = || logql::coverage(&coverage_query(), &records(&loki));
    assert_eq!(shown(), [("five".to_owned(), 20.0), ("none".to_owned(), 0.0)]);
    for (id, status, expected) in [
        ("a", "completed", 40.0),
        ("a", "completed", 40.0),
        ("a", "completed", 40.0),
        ("b", "in_progress", 40.0),
        ("b", "completed", 60.0),
        ("a", "in_progress", 40.0),
        ("a", "blocked", 40.0),
        ("there", "failed", 20.0),
        ("a", "done", 40.0),
    ] {
        let task = workspace.configured("task", &pipeline).arg("--metadata").arg(&metadata);
        task.args(&["--id", id, "--status", status]).run().expect_code(0);
        assert_eq!(shown()[0].1, expected, "{id} {status}");
    }
    // The same project again: the new export has its own status.
    workspace.export("five", &export);
    workspace.configured("once", &pipeline).run().expect_code(0);
    assert_eq!(shown()[0].1, 20.0);
    // Updates alone do not show how many tasks there are.
    let updates: Vec<Fields> =
        records(&loki).into_iter().filter(|it| it["trigger"] == "task").collect();
    assert_eq!(logql::coverage(&coverage_query(), &updates), []);
}

/// A metric of taskspan exists in the program, and a metric of Loki is a shipped rule.
#[test]
fn every_figure_of_the_cookbook_exists() {
    let metrics = read("src/observe/metrics.rs");
    let rules = read("deploy/loki/rules.yaml");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut checked = 0;
    for query in blocks(&read("docs/cookbook.md"), &["promql"]) {
        for word in query.split(|c| !is_part(c)) {
            if let Some(name) = word.strip_prefix("taskspan_") {
                assert!(metrics.contains(name), "{word} in {query}");
                checked += 1;
            } else if word.contains(':') {
                assert!(rules.contains(&format!("record: {word}")), "{word} in {query}");
                checked += 1;
            }
        }
    }
    assert!(checked > 4, "{checked}");
}
