//! What later systems add to the trace of an export: gate results and updates of tasks (R4.4, R4.5).
//!
//! ```text
//! Plan ─▶ the spans that its trace has ─▶ the one that is spoken of ─▶ a child span, linked to it
//! ```
//!
//! Spans are never opened again; a backend has no way to. Whoever holds the trace id and the plan can
//! compute every span id in it, so nobody has to be asked.

use std::collections::HashSet;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};
use serde_json::{Map, Value, json};

use super::attributes::{self, Cutter, boolean, string};
use super::logs::Source;
use super::request::{Logs, Request, Traces};
use super::split::{Fields, Packer};
use super::view;
use super::{Converter, resource, scope};
use crate::clock::UnixNanos;
use crate::config::fault::near;
use crate::contract::{GateOutcome, Phase, TaskStatus};
use crate::ids::{SpanId, TaskId, TraceId};
use crate::plan::Plan;
use crate::plan::gate::GateResult;

/// A change of one task.
#[derive(Clone, Debug)]
pub struct TaskUpdate {
    pub task_id: TaskId,
    pub status: TaskStatus,
    pub phase: Phase,
    /// What the status was before; as the export says unless given.
    pub from: Option<TaskStatus>,
    /// Something that happened, in place of the change of status.
    pub event: Option<String>,
    pub attributes: Map<String, Value>,
    pub reason: Option<String>,
}

/// The trace has no span for this task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the export has no task `{task_id}`{hint}")]
pub struct UnknownTask {
    pub task_id: TaskId,
    hint: String,
}

/// The trace of an export as it was emitted, to which something is added.
#[derive(Debug)]
pub struct Trace<'a> {
    converter: &'a Converter,
    plan: &'a Plan,
    trace_id: TraceId,
    now: UnixNanos,
    spans: Vec<Span>,
}

impl Converter {
    /// The trace of an emitted export; what is added to it is made `now`.
    pub fn trace<'a>(&'a self, plan: &'a Plan, trace_id: TraceId, now: UnixNanos) -> Trace<'a> {
        let mut spans = Vec::new();
        self.each_whole_span(plan, trace_id, now, |span| spans.push(span));
        Trace { converter: self, plan, trace_id, now, spans }
    }
}

impl Trace<'_> {
    /// One span for each result; one that is there twice is one.
    pub fn gate_results(&self, results: &[GateResult]) -> Vec<Bytes> {
        let mut seen = HashSet::new();
        let spans = results.iter().map(|result| self.gate(result));
        self.requests::<Traces>(spans.filter(|span| seen.insert(span.span_id.clone())))
    }

    /// Whether the trace has a span for this task.
    pub fn knows(&self, id: &TaskId) -> bool {
        self.task(id).is_some()
    }

    fn gate(&self, result: &GateResult) -> Span {
        let task = result.task_id.as_ref().and_then(|id| self.task(id));
        let parent = task.or(self.spans.first());
        let whole = Value::Object(result.whole.clone()).to_string();
        let mut cutter = self.converter.cutter();
        let mut attributes = vec![
            cutter.string("project.id", &self.plan.project.id),
            cutter.string("task.id", parent.map(task_id).unwrap_or_default()),
            string("task.phase", result.phase.as_str()),
            cutter.string("gate.id", &result.gate_id),
            string("gate.phase", result.phase.as_str()),
            string("gate.result", result.outcome.as_str()),
        ];
        let severity = result.severity.map(|severity| string("gate.severity", severity.as_str()));
        attributes.extend(severity);
        attributes.push(boolean("gate.blocking", result.blocking));
        let reason = result.reason.as_deref();
        attributes.extend(reason.map(|reason| cutter.string("gate.reason", reason)));
        let parts = parts(result, cutter.max_bytes());
        let count = parts.len();
        let events = parts.iter().enumerate().map(|(index, part)| {
            let mut attributes = vec![cutter.string("contract", part)];
            if count > 1 {
                attributes.extend([
                    attributes::count("part", index + 1),
                    attributes::count("parts", count),
                ]);
            }
            self.event("gate.result", attributes)
        });
        let events = events.collect();
        let code = match result.outcome {
            GateOutcome::Pass => StatusCode::Ok,
            GateOutcome::Fail => StatusCode::Error,
        };
        let span_id = self.trace_id.added_span("gate.result", whole.as_bytes());
        let link = ("validates", parent);
        self.added("gate.result", span_id, link, (attributes, events, cutter), (code, reason))
    }

    /// The span of a change.
    ///
    /// # Errors
    /// The trace has no such task.
    pub fn task_update(&self, update: &TaskUpdate) -> Result<Vec<Bytes>, UnknownTask> {
        let task = self.known_task(&update.task_id)?;
        let mut cutter = self.converter.cutter();
        let attributes = vec![
            cutter.string("project.id", &self.plan.project.id),
            cutter.string("task.id", update.task_id.as_str()),
            string("task.type", text(task, "task.type")),
            string("task.status", update.status.attribute()),
            string("task.phase", update.phase.as_str()),
        ];
        let mut facts = Vec::new();
        let name = match &update.event {
            Some(name) => name.clone(),
            None => {
                facts.extend(change(update, task));
                "task.status_changed".to_owned()
            }
        };
        for (key, value) in self.converter.redaction.of_a_plan().apply(&update.attributes).as_ref()
        {
            facts.push(cutter.string(key, value.as_str().unwrap_or_default()));
        }
        let reason = update.reason.as_deref();
        facts.extend(reason.map(|reason| cutter.string("reason", reason)));
        let events = vec![self.event(&name, facts)];
        let code = match update.status {
            TaskStatus::Completed => StatusCode::Ok,
            TaskStatus::Blocked | TaskStatus::Failed => StatusCode::Error,
            TaskStatus::NotStarted | TaskStatus::InProgress => StatusCode::Unset,
        };
        // The same change twice is two changes.
        let content = format!("{}\0{}", update.task_id, self.now.0);
        let span_id = self.trace_id.added_span("task.update", content.as_bytes());
        let link = ("implements_task", Some(task));
        let facts = (attributes, events, cutter);
        let span = self.added("task.update", span_id, link, facts, (code, reason));
        Ok(self.requests::<Traces>([span]))
    }

    /// The same as log records of the task's span.
    ///
    /// # Errors
    /// The trace has no such task.
    pub fn task_update_logs(&self, update: &TaskUpdate) -> Result<Vec<Bytes>, UnknownTask> {
        let span = self.known_task(&update.task_id)?;
        let resource = self.resource();
        let source = Source { span, resource: &resource, trigger: "task", at: self.now };
        let mut facts = vec![
            string("task_status", update.status.attribute()),
            string("phase", update.phase.as_str()),
        ];
        let mut cutter = self.converter.cutter();
        facts.extend(update.reason.as_deref().map(|reason| cutter.string("reason", reason)));
        let first = match &update.event {
            Some(name) => source.record(name, &[], &facts),
            None => {
                let changed = [facts.clone(), change(update, span)].concat();
                source.record("task.status_changed", &[], &changed)
            }
        };
        let mut records = vec![first];
        match update.status {
            TaskStatus::Completed => records.push(source.record("task.completed", &[], &facts)),
            TaskStatus::Blocked => records.push(source.record("task.blocked", &[], &facts)),
            TaskStatus::NotStarted | TaskStatus::InProgress | TaskStatus::Failed => {}
        }
        Ok(self.requests::<Logs>(records))
    }

    /// A span below another, and linked to it.
    fn added(
        &self,
        name: &str,
        span_id: SpanId,
        (link_type, parent): (&str, Option<&Span>),
        (mut attributes, events, cutter): (Vec<KeyValue>, Vec<Event>, Cutter),
        (code, reason): (StatusCode, Option<&str>),
    ) -> Span {
        attributes.extend(cutter.truncated());
        let parent = parent.map(|span| span.span_id.clone()).unwrap_or_default();
        let link = Link {
            trace_id: self.trace_id.bytes().to_vec(),
            span_id: parent.clone(),
            attributes: vec![string("link.type", link_type)],
            ..Link::default()
        };
        let message = reason.filter(|_| code == StatusCode::Error).unwrap_or_default().to_owned();
        Span {
            trace_id: self.trace_id.bytes().to_vec(),
            span_id: span_id.bytes().to_vec(),
            parent_span_id: parent,
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.now.0,
            end_time_unix_nano: self.now.plus_micros(1).0,
            attributes,
            events,
            links: vec![link],
            status: Some(Status { code: code.into(), message }),
            ..Span::default()
        }
    }

    fn event(&self, name: &str, attributes: Vec<KeyValue>) -> Event {
        let (time_unix_nano, name) = (self.now.0, name.to_owned());
        Event { time_unix_nano, name, attributes, ..Event::default() }
    }

    fn requests<R: Request>(&self, records: impl IntoIterator<Item = R::Record>) -> Vec<Bytes> {
        let max_bytes = self.converter.max_request_bytes();
        let mut packer = Packer::<R>::new(&self.resource(), &scope(), max_bytes);
        packer.push(&Fields::of(records));
        packer.finish().requests
    }

    fn resource(&self) -> opentelemetry_proto::tonic::resource::v1::Resource {
        let Converter { resource, .. } = self.converter;
        resource::resource(resource, &self.plan.project, self.converter.cutter())
    }

    /// Artifacts before stories: an artifact may have any name.
    fn task(&self, id: &TaskId) -> Option<&Span> {
        let mut named = self.spans.iter().filter(|span| task_id(span) == id.as_str());
        let first = named.clone().next();
        named.find(|span| text(span, "task.type") == "task").or(first)
    }

    fn known_task(&self, id: &TaskId) -> Result<&Span, UnknownTask> {
        self.task(id).ok_or_else(|| {
            let known: Vec<&str> = self.spans.iter().map(task_id).collect();
            let near = near(id.as_str(), &known);
            let hint = format!("; the nearest are: {}", near.join(", "));
            UnknownTask { task_id: id.clone(), hint }
        })
    }
}

/// The whole result as JSON, in pieces that a backend does not cut, each valid by itself: evidence is
/// what makes it long.
fn parts(result: &GateResult, max_bytes: usize) -> Vec<String> {
    let whole = Value::Object(result.whole.clone()).to_string();
    let Some(Value::Array(evidence)) = result.whole.get("evidence") else { return vec![whole] };
    if whole.len() <= max_bytes {
        return vec![whole];
    }
    let mut base = result.whole.clone();
    base.remove("evidence");
    let id = json!({"gate_id": result.gate_id});
    let rest = id.as_object().cloned().unwrap_or_default();
    let (mut parts, mut piece, mut taken) = (Vec::new(), base, Vec::new());
    let text = |piece: &Map<String, Value>, taken: &[Value]| {
        let mut piece = piece.clone();
        if !taken.is_empty() {
            piece.insert("evidence".to_owned(), Value::Array(taken.to_vec()));
        }
        Value::Object(piece).to_string()
    };
    for entry in evidence {
        taken.push(entry.clone());
        if text(&piece, &taken).len() > max_bytes {
            taken.pop();
            parts.push(text(&piece, &taken));
            (piece, taken) = (rest.clone(), vec![entry.clone()]);
        }
    }
    parts.push(text(&piece, &taken));
    parts
}

/// `from` and `to`.
fn change(update: &TaskUpdate, span: &Span) -> Vec<KeyValue> {
    let from = match update.from {
        Some(status) => status.attribute(),
        None => text(span, "task.status"),
    };
    vec![string("from", from), string("to", update.status.attribute())]
}

fn task_id(span: &Span) -> &str {
    text(span, "task.id")
}

fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    view::text_of(&span.attributes, key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::gate::GateFile;

    #[test]
    fn a_long_result_is_whole_in_pieces_that_are_json() {
        let evidence: Vec<Value> = (0..40)
            .map(|n| json!({"type": "file", "ref": format!("{n}-{}", "x".repeat(90))}))
            .collect();
        let document = json!({
            "schema_version": "v1", "gate_id": "g", "phase": "OTHER", "result": "pass",
            "severity": "info", "checked_at": "2026-11-23T06:15:00Z", "evidence": evidence,
        });
        let file = GateFile::parse(document.to_string().as_bytes()).expect("valid");
        let parts = parts(&file.results[0], 2_048);
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() <= 2_048));
        let mut found = Vec::new();
        for part in &parts {
            let part: Value = serde_json::from_str(part).expect("JSON");
            assert_eq!(part["gate_id"], "g");
            found.extend(part["evidence"].as_array().cloned().unwrap_or_default());
        }
        assert_eq!(found, evidence);
        assert_eq!(serde_json::from_str::<Value>(&parts[0]).expect("JSON")["phase"], "OTHER");
    }
}
