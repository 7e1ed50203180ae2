//! Spans as log records, for recording rules and LogQL (R6.3).
//!
//! ```text
//! span ─▶ task.created │ task.progress_updated (epic, story) │ task.completed (what exists)
//!          each: fields ─▶ attributes, and the same as one line of JSON ─▶ body
//! ```
//!
//! The fields have the names of ContextCore's task log, so that its readers understand these
//! records. They are copied from the span, so span and record always agree.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Map;

use super::attributes::{array, string};
use super::view;
use crate::base::clock::UnixNanos;
use crate::base::text::hex;

/// The trigger of an export's records.
const EXPORT: &str = "export";

/// Span attribute and log field, for every record.
const FIELDS: [(&str, &str); 6] = [
    ("project.id", "project_id"),
    ("task.id", "task_id"),
    ("task.type", "task_type"),
    ("task.title", "task_title"),
    ("task.parent_id", "parent_id"),
    ("artifact.priority", "priority"),
];

/// Span attribute and log field, for records of one kind only.
const CREATED: [(&str, &str); 1] = [("task.status", "task_status")];
const PROGRESS: [(&str, &str); 3] = [
    ("task.percent_complete", "percent_complete"),
    ("task.subtask_count", "subtask_count"),
    ("task.subtask_completed", "subtask_completed"),
];

/// Makes the records of one span of an export, in order.
pub(crate) fn records(span: &Span, resource: &Resource, t0: UnixNanos) -> Vec<LogRecord> {
    let source = Source { span, resource, trigger: EXPORT, at: t0 };
    let mut records = vec![source.record("task.created", &CREATED, &[])];
    if attribute(span, "artifact.status").is_none() {
        records.push(source.record("task.progress_updated", &PROGRESS, &[]));
    } else if view::text_of(&span.attributes, "artifact.status") == Some("exists") {
        records.push(source.record("task.completed", &[], &[]));
    }
    records
}

/// The span that records are about.
pub(crate) struct Source<'a> {
    pub(crate) span: &'a Span,
    pub(crate) resource: &'a Resource,
    /// The command that caused the event.
    pub(crate) trigger: &'a str,
    pub(crate) at: UnixNanos,
}

impl Source<'_> {
    /// Makes one record. `taken` are fields copied from the span, `own` are additional ones.
    pub(crate) fn record(
        &self,
        event: &str,
        taken: &[(&str, &str)],
        own: &[KeyValue],
    ) -> LogRecord {
        let Source { span, resource, trigger, at } = self;
        let mut fields = vec![string("event", event)];
        let service = resource.attributes.iter().find(|it| it.key == "service.name");
        fields.extend(service.map(|it| KeyValue { key: "service".into(), ..it.clone() }));
        let mut cut = Vec::new();
        for (from, to) in FIELDS.iter().chain(taken) {
            let Some(value) = attribute(span, from) else { continue };
            let value = Some(value.clone());
            fields.push(KeyValue { key: (*to).to_owned(), value, ..KeyValue::default() });
            if view::is_truncated(&span.attributes, from) {
                cut.push(Value::StringValue((*to).to_owned()));
            }
        }
        fields.push(string("trigger", trigger));
        fields.push(string("trace_id", &hex(&span.trace_id)));
        fields.push(string("span_id", &hex(&span.span_id)));
        fields.extend_from_slice(own);
        if !cut.is_empty() {
            fields.push(array("taskspan.truncated", cut));
        }
        let body: Map<_, _> =
            fields.iter().map(|it| (it.key.clone(), view::json(it.value.as_ref()))).collect();
        let body = serde_json::Value::Object(body).to_string();
        LogRecord {
            time_unix_nano: at.0,
            observed_time_unix_nano: at.0,
            severity_number: SeverityNumber::Info.into(),
            severity_text: "INFO".to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
            attributes: fields,
            trace_id: span.trace_id.clone(),
            span_id: span.span_id.clone(),
            event_name: event.to_owned(),
            ..LogRecord::default()
        }
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    span.attributes.iter().find(|it| it.key == key)?.value.as_ref()
}
