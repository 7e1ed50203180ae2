//! Adds gate results and task updates to the trace of an export (R4.4, R4.5).
//!
//! ```text
//! Plan ─▶ the spans that its trace has ─▶ the span of the named task ─▶ a child span, linked to it
//! ```
//!
//! Spans are never opened again; a backend has no way to. Every span id follows from the trace id
//! and the plan, so no backend is queried.
//!
//! A backend evaluates structural queries within one block, and a plan and its additions are
//! usually in different ones. So every addition carries the attributes of its task that queries
//! need.

use std::collections::HashSet;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};
use serde_json::{Map, Value};

use super::attributes::{self, Truncator, boolean, string};
use super::events::event;
use super::gate_contract::{self, Pieces};
use super::logs::Source;
use super::request::{Logs, Request, Traces};
use super::span_builder::in_order;
use super::split::{Fields, Packer};
use super::view;
use super::{Converter, resource, scope};
use crate::base::clock::UnixNanos;
use crate::base::contract::{GateOutcome, Phase, TaskStatus};
use crate::base::diagnostics::near;
use crate::base::ids::{SpanId, TaskId, TraceId};
use crate::plan::gate::GateResult;
use crate::plan::{Artifact, Plan};

/// A status change, or another event, of one task.
#[derive(Clone, Debug)]
pub(crate) struct TaskUpdate {
    /// The id of the artifact, or the id that `artifact_task_mapping` maps it to.
    pub(crate) task_id: TaskId,
    pub(crate) status: TaskStatus,
    pub(crate) phase: Phase,
    /// The status before the change. Defaults to the status in the export.
    pub(crate) from: Option<TaskStatus>,
    /// The name of an event to record instead of a status change.
    pub(crate) event: Option<String>,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) reason: Option<String>,
}

/// Why an id does not identify a task of the trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTask {
    #[error("the export has no task `{task_id}`; the nearest are: {nearest}")]
    Unknown { task_id: TaskId, nearest: String },
    /// The caller must pass one of the artifact ids.
    #[error(
        "several artifacts are mapped to `{mapped_id}` in artifact_task_mapping ({artifacts}); name \
         one of them instead"
    )]
    Ambiguous { mapped_id: TaskId, artifacts: String },
}

/// Attributes of a task that are copied to each addition below it.
const COPIED: [&str; 6] = [
    "artifact.id",
    "artifact.type",
    "artifact.target",
    "artifact.priority",
    "artifact.status",
    "task.title",
];

/// The trace of an emitted export, to which spans are added.
#[derive(Debug)]
pub(crate) struct Trace<'a> {
    converter: &'a Converter,
    plan: &'a Plan,
    trace_id: TraceId,
    now: UnixNanos,
    spans: Vec<Span>,
}

impl Converter {
    /// Returns the trace of an emitted export. `now` is the time of the additions.
    pub(crate) fn trace<'a>(
        &'a self,
        plan: &'a Plan,
        trace_id: TraceId,
        now: UnixNanos,
    ) -> Trace<'a> {
        let mut spans = Vec::new();
        self.each_whole_span(plan, trace_id, now, |span| spans.push(span));
        Trace { converter: self, plan, trace_id, now, spans }
    }
}

impl Trace<'_> {
    /// Makes one span per result. The same result always gets the same span id. Each result starts
    /// 1 µs after the one before it, which preserves their order.
    ///
    /// # Errors
    /// Returns [`NoTask::Ambiguous`] for the first result whose `task_id` is the mapped id of
    /// several artifacts.
    pub(crate) fn gate_results(&self, results: &[GateResult]) -> Result<Vec<Bytes>, NoTask> {
        let spans = results.iter().enumerate().map(|(index, result)| self.gate(index, result));
        let spans: Vec<Span> = spans.collect::<Result<_, _>>()?;
        let mut seen = HashSet::new();
        let once = spans.into_iter().filter(|span| seen.insert(span.span_id.clone()));
        Ok(self.requests::<Traces>(once))
    }

    /// Makes the requests for one result, the `index`-th of its report.
    ///
    /// # Errors
    /// As for [`Trace::gate_results`].
    pub(crate) fn gate_result(
        &self,
        index: usize,
        result: &GateResult,
    ) -> Result<Vec<Bytes>, NoTask> {
        Ok(self.requests::<Traces>([self.gate(index, result)?]))
    }

    /// Returns the ids in `results` that match no task. These results are added below the epic.
    pub(crate) fn unknown_tasks<'b>(&self, results: &'b [GateResult]) -> Vec<&'b TaskId> {
        let named = results.iter().filter_map(|result| result.task_id.as_ref());
        named.filter(|id| matches!(self.task(id), Err(NoTask::Unknown { .. }))).collect()
    }

    fn gate(&self, index: usize, result: &GateResult) -> Result<Span, NoTask> {
        let task = match result.task_id.as_ref().map(|id| self.task(id)) {
            Some(Err(ambiguous @ NoTask::Ambiguous { .. })) => return Err(ambiguous),
            Some(task) => task.ok(),
            None => None,
        };
        let parent = task.or(self.spans.first());
        let whole = Value::Object(result.whole.clone()).to_string();
        let mut cutter = self.converter.cutter();
        let mut attributes = self.describing(parent, &mut cutter);
        attributes.extend([
            string("task.phase", result.phase.as_str()),
            cutter.string("gate.id", &result.gate_id),
            string("gate.phase", result.phase.as_str()),
            string("gate.result", result.outcome.as_str()),
            string("gate.severity", result.severity.as_str()),
            boolean("gate.blocking", result.blocking),
        ]);
        let reason = result.reason.as_deref();
        attributes.extend(reason.map(|reason| cutter.string("gate.reason", reason)));
        let Pieces { json, reduced } = gate_contract::pieces(&result.whole, cutter.max_bytes());
        if reduced {
            cutter.note("contract");
        }
        let count = json.len();
        let events = json.into_iter().enumerate().map(|(index, piece)| {
            let mut attributes = vec![cutter.string("contract", piece)];
            if count > 1 {
                attributes.extend([
                    attributes::count("part", index + 1),
                    attributes::count("parts", count),
                ]);
            }
            event("gate.result", attributes)
        });
        let events = events.collect();
        let code = match result.outcome {
            GateOutcome::Pass => StatusCode::Ok,
            GateOutcome::Fail => StatusCode::Error,
        };
        let span_id = self.trace_id.added_span("gate.result", whole.as_bytes());
        let start = self.now.plus_micros(u64::try_from(index).unwrap_or(0));
        let link = ("validates", parent);
        let facts = (attributes, events, cutter);
        Ok(self.added("gate.result", (span_id, start), link, facts, (code, reason)))
    }

    /// Makes the span of a task update.
    ///
    /// # Errors
    /// Returns an error if the update's id matches no task, or several.
    pub(crate) fn task_update(&self, update: &TaskUpdate) -> Result<Vec<Bytes>, NoTask> {
        let task = self.task(&update.task_id)?;
        let mut cutter = self.converter.cutter();
        let mut attributes = self.describing(Some(task), &mut cutter);
        attributes.extend([
            string("task.type", text(task, "task.type")),
            string("task.status", update.status.attribute()),
            string("task.phase", update.phase.as_str()),
        ]);
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
        let events = vec![event(&name, facts)];
        let code = match update.status {
            TaskStatus::Completed => StatusCode::Ok,
            TaskStatus::Blocked | TaskStatus::Failed => StatusCode::Error,
            TaskStatus::NotStarted | TaskStatus::InProgress => StatusCode::Unset,
        };
        // Two equal updates at different times are two updates, so the time is part of the id.
        let content = format!("{}\0{}", task_id(task), self.now.0);
        let span_id = self.trace_id.added_span("task.update", content.as_bytes());
        let link = ("implements_task", Some(task));
        let facts = (attributes, events, cutter);
        let span = self.added("task.update", (span_id, self.now), link, facts, (code, reason));
        Ok(self.requests::<Traces>([span]))
    }

    /// Makes the log record of a task update, which carries the ids of the task's span.
    ///
    /// # Errors
    /// As for [`Trace::task_update`].
    pub(crate) fn task_update_logs(&self, update: &TaskUpdate) -> Result<Vec<Bytes>, NoTask> {
        let span = self.task(&update.task_id)?;
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

    /// Makes a span that is a child of `parent` and linked to it.
    fn added(
        &self,
        name: &str,
        (span_id, start): (SpanId, UnixNanos),
        (link_type, parent): (&str, Option<&Span>),
        (mut attributes, mut events, cutter): (Vec<KeyValue>, Vec<Event>, Truncator),
        (code, reason): (StatusCode, Option<&str>),
    ) -> Span {
        attributes.extend(cutter.truncated());
        let end = in_order(&mut events, start).max(start.plus_micros(1));
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
            start_time_unix_nano: start.0,
            end_time_unix_nano: end.0,
            attributes,
            events,
            links: vec![link],
            status: Some(Status { code: code.into(), message }),
            ..Span::default()
        }
    }

    /// Returns the attributes that every addition below `parent` has: those of the project, and
    /// those of the task that queries need.
    fn describing(&self, parent: Option<&Span>, cutter: &mut Truncator) -> Vec<KeyValue> {
        let mut attributes = vec![
            cutter.string("project.id", &self.plan.project.id),
            cutter.string("task.id", parent.map(task_id).unwrap_or_default()),
        ];
        let Some(parent) = parent else { return attributes };
        for key in COPIED {
            attributes.extend(parent.attributes.iter().find(|it| it.key == key).cloned());
            if view::is_truncated(&parent.attributes, key) {
                cutter.note(key);
            }
        }
        attributes
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

    /// Finds the span with an id: that of the artifact with it, else of the story or the epic with
    /// it, else of the artifact that is mapped to it. Artifacts come first because their ids can be
    /// any text.
    ///
    /// # Errors
    /// Returns an error if there is no such task, or if several artifacts are mapped to the id.
    fn task(&self, id: &TaskId) -> Result<&Span, NoTask> {
        let named = |id: &str| {
            let mut named = self.spans.iter().filter(|span| task_id(span) == id);
            let first = named.clone().next();
            named.find(|span| text(span, "task.type") == "task").or(first)
        };
        if let Some(span) = named(id.as_str()) {
            return Ok(span);
        }
        let is_mapped = |it: &&Artifact| it.mapped_id.as_deref() == Some(id.as_str());
        let mapped = self.plan.artifacts.iter().filter(is_mapped);
        let mapped: Vec<&Span> = mapped.filter_map(|it| named(it.id.as_str())).collect();
        match mapped[..] {
            [task] => Ok(task),
            [] => {
                let mapped = self.plan.artifacts.iter().filter_map(|it| it.mapped_id.as_deref());
                let known: Vec<&str> = self.spans.iter().map(task_id).chain(mapped).collect();
                let nearest = near(id.as_str(), &known).join(", ");
                Err(NoTask::Unknown { task_id: id.clone(), nearest })
            }
            _ => {
                let artifacts = mapped.into_iter().map(task_id).collect::<Vec<_>>().join(", ");
                Err(NoTask::Ambiguous { mapped_id: id.clone(), artifacts })
            }
        }
    }
}

/// Returns the attributes for the old and the new status.
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
