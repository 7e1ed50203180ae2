//! What later systems add to the trace of an export: gate results and updates of tasks (R4.4, R4.5).
//!
//! ```text
//! Plan ─▶ the spans that its trace has ─▶ the one that is spoken of ─▶ a child span, linked to it
//! ```
//!
//! Spans are never opened again; a backend has no way to. Whoever holds the trace id and the plan can
//! compute every span id in it, so nobody has to be asked.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};
use serde_json::{Map, Value};

use super::attributes::{Cutter, boolean, string};
use super::logs::Source;
use super::request::{Logs, Traces};
use super::view;
use super::{Converter, resource, scope, split};
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
        Trace { converter: self, plan, trace_id, now, spans: self.whole_spans(plan, trace_id, now) }
    }
}

impl Trace<'_> {
    /// One span for each result.
    pub fn gate_results(&self, results: &[GateResult]) -> Vec<Traces> {
        self.requests(results.iter().map(|result| self.gate(result)).collect())
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
        let event = Event {
            time_unix_nano: self.now.0,
            name: "gate.result".to_owned(),
            attributes: vec![cutter.string("contract", &whole)],
            ..Event::default()
        };
        let code = match result.outcome {
            GateOutcome::Pass => StatusCode::Ok,
            GateOutcome::Fail => StatusCode::Error,
        };
        let span_id = self.trace_id.added_span("gate.result", whole.as_bytes());
        let link = ("validates", parent);
        self.added("gate.result", span_id, link, (attributes, event, cutter), (code, reason))
    }

    /// The span of a change.
    ///
    /// # Errors
    /// The trace has no such task.
    pub fn task_update(&self, update: &TaskUpdate) -> Result<Vec<Traces>, UnknownTask> {
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
        for (key, value) in &self.converter.redaction.apply(&update.attributes) {
            facts.push(cutter.string(key, value.as_str().unwrap_or_default()));
        }
        let reason = update.reason.as_deref();
        facts.extend(reason.map(|reason| cutter.string("reason", reason)));
        let event =
            Event { time_unix_nano: self.now.0, name, attributes: facts, ..Event::default() };
        let code = match update.status {
            TaskStatus::Completed => StatusCode::Ok,
            TaskStatus::Blocked | TaskStatus::Failed => StatusCode::Error,
            TaskStatus::NotStarted | TaskStatus::InProgress => StatusCode::Unset,
        };
        // The same change twice is two changes.
        let content = format!("{}\0{}", update.task_id, self.now.0);
        let span_id = self.trace_id.added_span("task.update", content.as_bytes());
        let link = ("implements_task", Some(task));
        let facts = (attributes, event, cutter);
        let span = self.added("task.update", span_id, link, facts, (code, reason));
        Ok(self.requests(vec![span]))
    }

    /// The same as log records of the task's span.
    ///
    /// # Errors
    /// The trace has no such task.
    pub fn task_update_logs(&self, update: &TaskUpdate) -> Result<Vec<Logs>, UnknownTask> {
        let span = self.known_task(&update.task_id)?;
        let resource = self.resource();
        let source = Source { span, resource: &resource, trigger: "task", at: self.now };
        let mut facts = vec![
            string("task_status", update.status.attribute()),
            string("phase", update.phase.as_str()),
        ];
        let mut cutter = self.converter.cutter();
        facts.extend(update.reason.as_deref().map(|reason| cutter.string("reason", reason)));
        let changed = [facts.clone(), change(update, span)].concat();
        let mut records = vec![source.record("task.status_changed", &[], &changed)];
        match update.status {
            TaskStatus::Completed => records.push(source.record("task.completed", &[], &facts)),
            TaskStatus::Blocked => records.push(source.record("task.blocked", &[], &facts)),
            TaskStatus::NotStarted | TaskStatus::InProgress | TaskStatus::Failed => {}
        }
        let max_bytes = self.converter.spans.max_request_bytes.0;
        Ok(split::split(&resource, &scope(), records, max_bytes))
    }

    /// A span below another, and linked to it.
    fn added(
        &self,
        name: &str,
        span_id: SpanId,
        (link_type, parent): (&str, Option<&Span>),
        (mut attributes, event, cutter): (Vec<KeyValue>, Event, Cutter),
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
            events: vec![event],
            links: vec![link],
            status: Some(Status { code: code.into(), message }),
            ..Span::default()
        }
    }

    fn requests(&self, spans: Vec<Span>) -> Vec<Traces> {
        let max_bytes = self.converter.spans.max_request_bytes.0;
        split::split(&self.resource(), &scope(), spans, max_bytes)
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
