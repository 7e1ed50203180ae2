//! Span events that record the state of a task at export time.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::{Map, Value};

use super::artifact_types::ArtifactType;
use super::attributes::{Truncator, count};
use super::context::Context;
use super::contracts::{self, SpanContract};
use crate::base::ids::{TaskId, TaskType};
use crate::plan::{Artifact, Rule};

/// The value of `source`: the command that defined the work.
const SOURCE: &str = "contextcore.manifest.export";

/// Makes an event without a time. The span sets it (see
/// [`in_order`](super::span_builder::in_order)).
pub(crate) fn event(name: &str, attributes: Vec<KeyValue>) -> Event {
    Event { name: name.to_owned(), attributes, ..Event::default() }
}

/// Makes `task.created`, which every span has.
pub(crate) fn created(
    cutter: &mut Truncator,
    task_type: TaskType,
    artifact: Option<&Artifact>,
) -> Event {
    let mut attributes =
        vec![cutter.string("source", SOURCE), cutter.string("task.type", task_type.as_str())];
    if let Some(artifact) = artifact {
        attributes.extend([
            cutter.string("artifact_type", &artifact.kind),
            cutter.string("target", &artifact.target),
            cutter.string("priority", &artifact.priority),
            cutter.string("status", artifact.status.as_str()),
        ]);
    }
    event("task.created", attributes)
}

/// Makes `task.contract`: why the artifact exists and what a valid result must look like (R2.4,
/// R2.5). Rules that exceed the limit of one value are spread over several events.
pub(crate) fn contract<'a>(
    cutter: &mut Truncator,
    rules: impl IntoIterator<Item = &'a Rule>,
    contract: Option<&str>,
    artifact_type: Option<&str>,
) -> Vec<Event> {
    let (mut arrays, reduced) = contracts::rule_arrays(rules, cutter.max_bytes());
    if reduced {
        cutter.note("derivation_rules");
    }
    let parts = arrays.len().max(usize::from(contract.is_some()));
    (0..parts)
        .map(|index| {
            let mut attributes = Vec::new();
            if let Some(kind) = artifact_type {
                attributes.push(cutter.string("artifact_type", kind));
            }
            if let Some(array) = arrays.get_mut(index).map(std::mem::take) {
                attributes.push(cutter.string("derivation_rules", array));
            }
            if let Some(contract) = contract.filter(|_| index == 0) {
                attributes.push(cutter.string("expected_output_contract", contract));
            }
            if parts > 1 {
                attributes.extend([count("part", index + 1), count("parts", parts)]);
            }
            event("task.contract", attributes)
        })
        .collect()
}

/// Returns the rules of an artifact: its own, or those of its type if it has none.
pub(crate) fn rules_of<'a>(artifact: &'a Artifact, kind: &ArtifactType<'a>) -> &'a [Rule] {
    if artifact.derived_from.is_empty() { kind.rules } else { &artifact.derived_from }
}

/// Makes `task.dependencies`, for tasks that depend on others.
pub(crate) fn dependencies(
    cutter: &mut Truncator,
    depends_on: &[TaskId],
    unresolved: &[&TaskId],
) -> Option<Event> {
    if depends_on.is_empty() {
        return None;
    }
    let mut attributes = vec![
        cutter.strings("depends_on", depends_on.iter().map(TaskId::as_str)),
        count("dependency_count", depends_on.len()),
    ];
    if !unresolved.is_empty() {
        attributes.push(cutter.strings("unresolved", unresolved.iter().map(|id| id.as_str())));
    }
    Some(event("task.dependencies", attributes))
}

/// Makes `artifact.intent`, for tasks whose artifact is missing or outdated (R4.2).
pub(crate) fn intent(
    context: &Context<'_>,
    cutter: &mut Truncator,
    artifact: &Artifact,
    kind: &ArtifactType<'_>,
    (parameters, is_shared): (&Map<String, Value>, bool),
) -> Option<Event> {
    let intent = contracts::intent_of(artifact.status)?;
    let max = cutter.max_bytes();
    let how = (intent, is_shared);
    let fitted = contracts::artifact_intent(context, artifact, kind, parameters, how, max);
    if fitted.reduced {
        cutter.note("contract");
    }
    let attributes = vec![
        cutter.string("intent", intent),
        cutter.string("artifact_id", artifact.id.as_str()),
        cutter.string("artifact_type", &artifact.kind),
        cutter.string("contract", fitted.json),
    ];
    Some(event("artifact.intent", attributes))
}

/// Makes `task.span_contract`, which every span has (R4.1).
pub(crate) fn span_contract(
    context: &Context<'_>,
    cutter: &mut Truncator,
    span: &SpanContract<'_>,
) -> Event {
    let fitted = contracts::task_span_contract(context, span, cutter.max_bytes());
    if fitted.reduced {
        cutter.note("contract");
    }
    let attributes =
        vec![cutter.string("schema_version", "v1"), cutter.string("contract", fitted.json)];
    event("task.span_contract", attributes)
}
