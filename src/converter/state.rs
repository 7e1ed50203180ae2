//! Converts spans to the state files of ContextCore's task tracker (R5.4), schema version 2.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use serde_json::{Map, Value, json};

use super::request::Traces;
use super::view;
use crate::base::clock::UnixNanos;
use crate::base::text::hex;
use crate::fs::task_state::TaskState;

/// Returns the state of every span in a trace.
pub(crate) fn states(requests: &[Traces]) -> Vec<TaskState> {
    let groups = requests.iter().flat_map(|request| &request.resource_spans);
    groups.flat_map(|group| &group.scope_spans).flat_map(|scope| &scope.spans).map(state).collect()
}

fn state(span: &Span) -> TaskState {
    let text = |key: &str| view::text_of(&span.attributes, key).unwrap_or_default().to_owned();
    let (project_id, task_id) = (text("project.id"), text("task.id"));
    let is_closed = matches!(text("task.status").as_str(), "done" | "cancelled");
    let id = |bytes: &[u8]| (!bytes.is_empty()).then(|| hex(bytes));
    let start = UnixNanos(span.start_time_unix_nano).iso();
    let events: Vec<Value> = span
        .events
        .iter()
        .map(|event| {
            json!({
                "name": event.name,
                "timestamp": UnixNanos(event.time_unix_nano).iso(),
                "attributes": fields(&event.attributes),
            })
        })
        .collect();
    let status = span.status.clone().unwrap_or_default();
    let mut attributes = fields(&span.attributes);
    // Readers of state files take the order of tasks from this attribute.
    let depends_on = attributes.get("artifact.depends_on").filter(|it| **it != json!([])).cloned();
    attributes.extend(depends_on.map(|ids| ("task.depends_on".to_owned(), ids)));
    let mapped_id = Some(text("task.mapped_id")).filter(|id| !id.is_empty());
    let document = json!({
        "task_id": task_id,
        "span_name": span.name,
        "trace_id": id(&span.trace_id),
        "span_id": id(&span.span_id),
        "parent_span_id": id(&span.parent_span_id),
        "start_time": start,
        "end_time": is_closed.then(|| UnixNanos(span.end_time_unix_nano).iso()),
        "attributes": attributes,
        "events": events,
        "status": match StatusCode::try_from(status.code) {
            Ok(StatusCode::Ok) => "OK",
            Ok(StatusCode::Error) => "ERROR",
            _ => "UNSET",
        },
        "status_description": (!status.message.is_empty()).then_some(status.message),
        "schema_version": 2,
        "project_id": project_id,
        "created_at": start,
    });
    TaskState { project_id, task_id, mapped_id, is_closed, document }
}

fn fields(attributes: &[KeyValue]) -> Map<String, Value> {
    attributes.iter().map(|it| (it.key.clone(), view::json(it.value.as_ref()))).collect()
}
