//! A small export and its expected request, written by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Proto;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::clock::compact_timestamp;
use crate::support::conventions::{hex, span_id, trace_id};
use crate::support::exports::{Artifact, ExportBuilder, Written};

/// Makes attributes from a JSON object, which has all the types that are needed.
fn attributes(values: Value) -> Vec<KeyValue> {
    let pair = |(key, value): (&String, &Value)| KeyValue {
        key: key.clone(),
        value: Some(any(value)),
        ..KeyValue::default()
    };
    values.as_object().unwrap().iter().map(pair).collect()
}

fn any(value: &Value) -> AnyValue {
    let value = match value {
        Value::String(text) => Proto::StringValue(text.clone()),
        Value::Bool(flag) => Proto::BoolValue(*flag),
        Value::Number(number) if number.is_i64() => Proto::IntValue(number.as_i64().unwrap()),
        Value::Number(number) => Proto::DoubleValue(number.as_f64().unwrap()),
        Value::Array(items) => {
            Proto::ArrayValue(ArrayValue { values: items.iter().map(any).collect() })
        }
        other => panic!("{other} is no attribute"),
    };
    AnyValue { value: Some(value) }
}

fn event(at: u64, name: &str, values: Value) -> Event {
    Event {
        time_unix_nano: at,
        name: name.to_owned(),
        attributes: attributes(values),
        ..Event::default()
    }
}

/// `a` depends on `b`, which exists. The parameters of `b` test typing, and the rules of `a` must
/// be split over two events.
fn export() -> ExportBuilder {
    let rule = |n: usize| json!({"property": format!("p{n}"), "transformation": "x".repeat(1200)});
    ExportBuilder::new("pair")
        .owner("team-a")
        .contract("dashboard", json!({"expected_depth": "brief", "max_lines": 9, "fields": ["f"]}))
        .artifact(
            Artifact::new("a", "dashboard")
                .depends_on(&["b", "nowhere", "b"])
                .derived_from(json!([rule(1), rule(2)])),
        )
        .artifact(Artifact::new("b", "dashboard").status("exists").parameters(json!({
            "int": 1, "double": 2.0, "list": ["x"], "mixed": ["x", 1], "null": null,
            "object": {"k": "v"}, "my_token": "hunter2", "long": "ü".repeat(1500),
        })))
}

/// The export on disk, and the request that a test may change.
pub struct Case {
    // Dropping the directory deletes the export.
    _dir: TempDir,
    pub written: Written,
    pub request: ExportTraceServiceRequest,
}

impl Case {
    /// Writes the export and builds its request.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let written = export().write_into(dir.path());
        let request = by_hand(&written);
        Self { _dir: dir, written, request }
    }

    /// Returns what the checker finds wrong with the request.
    pub fn faults(&self) -> Vec<String> {
        self.written.snapshot.check(std::slice::from_ref(&self.request))
    }

    /// Returns the only scope of the request.
    pub fn scope(&mut self) -> &mut ScopeSpans {
        &mut self.request.resource_spans[0].scope_spans[0]
    }

    /// Returns one of the spans: epic, story, task `a`, task `b`.
    pub fn span(&mut self, index: usize) -> &mut Span {
        &mut self.scope().spans[index]
    }

    /// Returns the first event of this name of a span.
    pub fn event(&mut self, span: usize, name: &str) -> &mut Event {
        self.span(span).events.iter_mut().find(|event| event.name == name).unwrap()
    }
}

/// Sets an attribute. `null` removes it.
pub fn set(attributes: &mut Vec<KeyValue>, key: &str, value: Value) {
    attributes.retain(|pair| pair.key != key);
    if !value.is_null() {
        attributes.extend(self::attributes(json!({key: value})));
    }
}

fn by_hand(written: &Written) -> ExportTraceServiceRequest {
    let snapshot = &written.snapshot;
    let metadata: Value = serde_json::from_slice(&snapshot.bytes).unwrap();
    let trace = trace_id(&snapshot.canonical, snapshot.mtime_ns, &snapshot.bytes);
    let t0 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let id = |kind: &str, task: &str| span_id(&trace, kind, task).to_vec();
    let epic_id = "pair-artifact-generation";
    let story_id = "pair-dashboard-artifacts";
    let checksums = json!({
        "source_checksum": metadata["source_checksum"],
        "artifact_manifest_checksum": metadata["artifact_manifest_checksum"],
        "project_context_checksum": metadata["project_context_checksum"],
    });

    let span = |kind: &str, task: &str, parent: &str, name: &str, own: Value, gaps: i64, n: i64| {
        let done = task == "b";
        let mut values = json!({
            "project.id": "pair", "task.id": task, "task.type": kind, "task.title": name,
            "task.status": if done { "done" } else { "todo" }, "task.phase": "EXPORT_CONTRACT",
            "task.percent_complete": if done { 100.0 } else { 0.0 },
            "task.subtask_count": 0, "task.subtask_completed": 0,
        });
        let mut contract = json!({
            "schema_version": "v1", "project_id": "pair", "task_id": task,
            "trace_id": hex(&trace), "span_id": hex(&span_id(&trace, kind, task)),
            "phase": "EXPORT_CONTRACT", "status": if done { "completed" } else { "not_started" },
            "checksums": checksums, "metrics": {"gap_count": gaps, "artifact_count": n},
        });
        let parent_type = if kind == "task" { "story" } else { "epic" };
        if !parent.is_empty() {
            values["task.parent_id"] = json!(parent);
            contract["parent_task_id"] = json!(parent);
        }
        for (key, value) in own.as_object().unwrap() {
            values[key] = value.clone();
        }
        let contract = json!({"schema_version": "v1", "contract": contract.to_string()});
        Span {
            trace_id: trace.to_vec(),
            span_id: id(kind, task),
            parent_span_id: if parent.is_empty() { Vec::new() } else { id(parent_type, parent) },
            name: name.to_owned(),
            kind: 1,
            start_time_unix_nano: t0,
            end_time_unix_nano: t0 + 3000,
            attributes: attributes(values),
            events: vec![event(t0, "task.span_contract", contract)],
            status: Some(Status { code: i32::from(done), message: String::new() }),
            ..Span::default()
        }
    };

    let mut epic = span(
        "epic",
        epic_id,
        "",
        "pair Observability Artifact Generation",
        json!({
            "task.percent_complete": 50.0, "task.subtask_count": 2, "task.subtask_completed": 1,
            "coverage.total_required": 2, "coverage.total_existing": 1, "coverage.total_gaps": 1, "coverage.total_artifacts": 2,
            "coverage.percent": 50.0, "export.manifest": "used",
            "export.id": format!("export-pair-{}", compact_timestamp(t0 / 1_000_000_000)),
            "export.source_checksum": metadata["source_checksum"],
            "export.artifact_manifest_checksum": metadata["artifact_manifest_checksum"],
            "export.project_context_checksum": metadata["project_context_checksum"],
            "export.generated_at": metadata["generated_at"],
            "export.schema_version": "1.0.0", "export.generation_profile": "full",
        }),
        1,
        2,
    );
    let mut story = span(
        "story",
        story_id,
        epic_id,
        "Dashboard Artifacts",
        json!({
            "task.percent_complete": 50.0, "task.subtask_count": 2, "task.subtask_completed": 1,
            "artifact.type": "dashboard", "artifact.gap_count": 1, "artifact.total_count": 2,
            "expected_output.depth": "brief", "expected_output.max_lines": 9,
        }),
        1,
        2,
    );
    let artifact = |id: &str, status: &str, depends_on: Value| {
        json!({
            "task.title": format!("The {id}"), "artifact.id": id, "artifact.type": "dashboard",
            "artifact.target": "checkout-api", "artifact.priority": "required",
            "artifact.status": status, "artifact.depends_on": depends_on,
            "artifact.output_path": format!("generated/dashboard/{id}.yaml"),
            "expected_output.depth": "brief", "expected_output.max_lines": 9,
            "expected_output.fields": ["f"],
        })
    };
    let mut a = span(
        "task",
        "a",
        story_id,
        "a",
        artifact("a", "needed", json!(["b", "nowhere", "b"])),
        1,
        1,
    );
    let mut own = artifact("b", "exists", json!([]));
    let parameters = json!({
        "int": 1, "double": 2.0, "list": ["x"], "mixed": ["x", "1"], "object": "{\"k\":\"v\"}",
        "my_token": "[redacted]", "long": format!("{}…", "ü".repeat(1022)),
    });
    for (key, value) in parameters.as_object().unwrap() {
        own[format!("artifact.parameters.{key}")] = value.clone();
    }
    own["taskspan.truncated"] = json!(["artifact.parameters.long"]);
    let mut b = span("task", "b", story_id, "b", own, 0, 1);

    for (span, rank) in [(&mut a, 2), (&mut b, 1)] {
        span.start_time_unix_nano = t0 + rank * 1000;
        span.end_time_unix_nano = t0 + rank * 1000 + 1000;
    }
    for (span, kind) in [(&mut epic, "epic"), (&mut story, "story")] {
        let created = json!({"source": "contextcore.manifest.export", "task.type": kind});
        span.events.push(event(t0, "task.created", created));
    }
    let output = metadata["expected_output_contracts"]["dashboard"].to_string();
    for (span, status) in [(&mut a, "needed"), (&mut b, "exists")] {
        let created = json!({
            "source": "contextcore.manifest.export", "task.type": "task", "target": "checkout-api",
            "artifact_type": "dashboard", "priority": "required", "status": status,
        });
        span.events.push(event(t0, "task.created", created));
    }
    for part in [1, 2] {
        let rule = json!([{"property": format!("p{part}"), "transformation": "x".repeat(1200)}]);
        let mut values = json!({"derivation_rules": rule.to_string(), "part": part, "parts": 2});
        if part == 1 {
            values["expected_output_contract"] = json!(output);
        }
        a.events.push(event(t0, "task.contract", values));
    }
    b.events.push(event(t0, "task.contract", json!({"expected_output_contract": output})));
    let dependencies = json!({
        "depends_on": ["b", "nowhere", "b"], "dependency_count": 3, "unresolved": ["nowhere"],
    });
    a.events.push(event(t0, "task.dependencies", dependencies));
    let intent = json!({
        "schema_version": "v1", "artifact_id": "a", "artifact_type": "dashboard",
        "intent": "create", "owner": "team-a",
        "parameter_sources": {"source": "onboarding-metadata"},
    });
    let intent = json!({
        "intent": "create", "artifact_id": "a", "artifact_type": "dashboard",
        "contract": intent.to_string(),
    });
    a.events.push(event(t0, "artifact.intent", intent));
    a.links.push(Link {
        trace_id: trace.to_vec(),
        span_id: id("task", "b"),
        attributes: attributes(json!({"link.type": "depends_on", "task.id": "b"})),
        ..Link::default()
    });

    let scope = InstrumentationScope {
        name: "taskspan".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let resource = json!({
        "service.name": "contextcore-export", "project.id": "pair", "project.name": "pair",
        "telemetry.distro.name": "taskspan", "telemetry.distro.version": env!("CARGO_PKG_VERSION"),
    });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: attributes(resource), ..Resource::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: vec![epic, story, a, b],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}
