//! Every query of the cookbook finds something, in what the program sends: a slip in a name, a type
//! or a value would find nothing, for ever.

mod logql;
mod traceql;

use std::fs;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use serde_json::{Value, json};

use crate::deploy::{blocks, read};
use crate::support::conventions::hex;
use crate::support::exports::{Artifact, ExportBuilder, Manifest, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::workspace::Workspace;
use logql::Fields;
use traceql::Stored;

/// The job that wrote the exports was started by this, which the cookbook asks for.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The project that the cookbook asks for.
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

/// Everything that the program can send, sent.
async fn everything() -> (FakeOtlp, FakeOtlp, Workspace) {
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
    (tempo, loki, workspace)
}

fn stored(tempo: &FakeOtlp) -> Vec<Stored> {
    let mut stored = Vec::new();
    for resource_spans in tempo.accepted().into_iter().flat_map(|it| it.resource_spans) {
        let resource = resource_spans.resource.unwrap_or_default().attributes;
        let spans = resource_spans.scope_spans.into_iter().flat_map(|it| it.spans);
        stored.extend(spans.map(|span| Stored { span, resource: resource.clone() }));
    }
    stored
}

/// The literal of a field that no file can know in advance, in a query that is to find something.
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
    let (tempo, loki, _workspace) = everything().await;
    let spans = stored(&tempo);
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
    // What the cookbook warns of: it would be a poor evaluator that found these.
    for nothing in [
        "{ span.coverage.percent > 30 }",
        "{ span.artifact.id = \"checkout_api\" }",
        "{ span.artifact.id =~ \"checkout_api\" }",
        "{ event:name = \"artifact.intent\" && event.dependency_count > 0 }",
    ] {
        assert!(traceql::run(nothing, &spans).is_empty(), "{nothing}");
    }

    let mut records: Vec<Fields> = Vec::new();
    for record in loki.state().log_records() {
        let attributes = record.attributes.iter();
        let mut fields: Fields =
            attributes.map(|it| (it.key.replace('.', "_"), plain(it.value.as_ref()))).collect();
        fields.insert("service_name".to_owned(), "contextcore-export".to_owned());
        records.push(fields);
    }
    let trace_id = hex(&epic.trace_id);
    let queries = blocks(&page, &["logql"]);
    assert!(queries.len() > 10, "{}", queries.len());
    for query in &queries {
        let asked = query.replace("b846d43b1791aba1df4876cf02b130fa", &trace_id);
        let found = logql::run(&asked, &records);
        assert!(!found.is_empty() && found.iter().all(|it| !it.is_empty()), "nothing: {asked}");
    }
}

/// A figure of ours is one that the program has, and one of Loki's a rule that is shipped.
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
