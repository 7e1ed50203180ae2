//! Decodes requests into trees of spans, for people. The preview shows the spans that would be
//! sent, the demo those that arrived.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use serde_json::{Map, Value};

use crate::base::text::hex;

/// A span with its children.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanView {
    /// The trace id, in hex.
    pub trace_id: String,
    /// The span id, in hex.
    pub span_id: String,
    /// The name of the span.
    pub name: String,
    /// Whether the status of the span is OK.
    pub is_ok: bool,
    /// Attributes as JSON, in the order of the span.
    pub attributes: Map<String, Value>,
    /// The task ids that this span depends on, from its links.
    pub links: Vec<String>,
    /// Names of the events.
    pub events: Vec<String>,
    /// Spans below this one, in the order of their times.
    pub children: Vec<SpanView>,
}

impl SpanView {
    /// Returns a text attribute. Empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        self.attributes.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns an attribute that is a number. 0 if there is none.
    pub fn number(&self, key: &str) -> i64 {
        self.attributes.get(key).and_then(Value::as_i64).unwrap_or_default()
    }

    /// Returns the texts of an array attribute. Empty if there is none.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let items = self.attributes.get(key).and_then(Value::as_array);
        items.map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    /// Returns this span and all below it, parents first.
    pub fn walk(&self) -> Vec<&SpanView> {
        let mut all = vec![self];
        all.extend(self.children.iter().flat_map(SpanView::walk));
        all
    }
}

/// Returns the roots of all traces in `requests`, in order of arrival. A span whose parent is
/// missing counts as a root.
pub fn trees(requests: &[ExportTraceServiceRequest]) -> Vec<SpanView> {
    let groups = requests.iter().flat_map(|request| &request.resource_spans);
    let scopes = groups.flat_map(|group| &group.scope_spans);
    trees_of(&scopes.flat_map(|scope| &scope.spans).collect::<Vec<_>>())
}

/// Like [`trees`], from decoded spans.
pub(super) fn trees_of(spans: &[&Span]) -> Vec<SpanView> {
    let ids: HashMap<&[u8], usize> =
        spans.iter().enumerate().map(|(index, span)| (span.span_id.as_slice(), index)).collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match ids.get(span.parent_span_id.as_slice()) {
            Some(&parent) if parent != index => children.entry(parent).or_default().push(index),
            _ => roots.push(index),
        }
    }
    roots.into_iter().map(|root| view(root, spans, &children)).collect()
}

/// Merges requests into one, keeping their groups.
pub fn merged(requests: Vec<ExportTraceServiceRequest>) -> ExportTraceServiceRequest {
    let resource_spans = requests.into_iter().flat_map(|request| request.resource_spans).collect();
    ExportTraceServiceRequest { resource_spans }
}

fn view(index: usize, spans: &[&Span], children: &HashMap<usize, Vec<usize>>) -> SpanView {
    let span = spans[index];
    let below = children.get(&index).map(Vec::as_slice).unwrap_or_default();
    let task_id = |attributes: &[KeyValue]| {
        let found = attributes.iter().find(|attribute| attribute.key == "task.id")?;
        json(found.value.as_ref()).as_str().map(str::to_owned)
    };
    SpanView {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        name: span.name.clone(),
        is_ok: span.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Ok)),
        attributes: span
            .attributes
            .iter()
            .map(|attribute| (attribute.key.clone(), json(attribute.value.as_ref())))
            .collect(),
        links: span.links.iter().filter_map(|link| task_id(&link.attributes)).collect(),
        events: span.events.iter().map(|event| event.name.clone()).collect(),
        children: below.iter().map(|&child| view(child, spans, children)).collect(),
    }
}

/// Returns a text attribute.
pub(super) fn text_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Whether `taskspan.truncated` lists this key.
pub(super) fn is_truncated(attributes: &[KeyValue], key: &str) -> bool {
    let listed = attributes.iter().find(|it| it.key == "taskspan.truncated");
    listed.and_then(|it| json(it.value.as_ref()).as_array().map(|keys| keys.contains(&key.into())))
        == Some(true)
}

/// Returns an attribute's value as JSON.
pub(super) fn json(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => Value::from(text.as_str()),
        Some(any_value::Value::BoolValue(value)) => Value::from(*value),
        Some(any_value::Value::IntValue(value)) => Value::from(*value),
        Some(any_value::Value::DoubleValue(value)) => Value::from(*value),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.iter().map(|value| json(Some(value))).collect()
        }
        // taskspan sends no other kinds.
        _ => Value::Null,
    }
}
