//! Events in which a story carries data for its tasks, in a slimmed trace.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::Value;

use super::artifact_types::ArtifactTypes;
use super::attributes::{Truncator, count};
use super::context::Context;
use super::contracts;
use super::events::{self, event};
use super::parameters;
use super::redact::Redactor;
use super::slim::{LONG_PARAMETER, Slimming};
use crate::base::ids::TaskId;
use crate::plan::{Artifact, Rule};

/// Long parameter values that at least two tasks of one story share. Maps the parameter key and the
/// value as JSON to the ids of these tasks.
#[derive(Debug, Default)]
pub(crate) struct SharedParameters<'a> {
    tasks: IndexMap<(&'a str, String), Vec<&'a TaskId>>,
}

impl<'a> SharedParameters<'a> {
    /// Collects the shared values of one story's artifacts. Secrets are redacted before values are
    /// compared.
    pub(crate) fn of(
        artifacts: impl Iterator<Item = &'a Artifact>,
        redactor: &Redactor<'a>,
    ) -> SharedParameters<'a> {
        let mut tasks: IndexMap<_, Vec<&TaskId>> = IndexMap::new();
        for artifact in artifacts {
            let redacted = redactor.apply(&artifact.parameters);
            for key in artifact.parameters.keys() {
                if let Some(json) = redacted.get(key).and_then(long) {
                    tasks.entry((key.as_str(), json)).or_default().push(&artifact.id);
                }
            }
        }
        tasks.retain(|_, tasks| tasks.len() > 1);
        SharedParameters { tasks }
    }

    /// Whether the story carries this value.
    pub(crate) fn has(&self, key: &str, value: &Value) -> bool {
        !self.tasks.is_empty()
            && long(value).is_some_and(|json| {
                self.tasks.keys().any(|(known, text)| *known == key && *text == json)
            })
    }

    /// Makes one event per value.
    pub(crate) fn events(&self, cutter: &mut Truncator) -> Vec<Event> {
        let event = |((key, json), ids): (&(&str, String), &Vec<&TaskId>)| {
            let value = serde_json::from_str(json).unwrap_or_default();
            let key = format!("artifact.parameters.{key}");
            let ids = cutter.strings("artifact_ids", ids.iter().map(|id| id.as_str()));
            let value = parameters::attribute(cutter, key, &value)?;
            Some(event("task.parameters", vec![value, ids]))
        };
        self.tasks.iter().filter_map(event).collect()
    }
}

/// Returns the JSON of a value if it is long.
fn long(value: &Value) -> Option<String> {
    // Fast path: most values are numbers and short words.
    if value.is_number() || value.as_str().is_some_and(|text| text.len() <= LONG_PARAMETER) {
        return None;
    }
    Some(value.to_string()).filter(|json| json.len() > LONG_PARAMETER)
}

/// Makes the events with the contract, the rules and the parameter sources of each type below a
/// story.
pub(crate) fn contracts_of_types(
    cutter: &mut Truncator,
    kinds: &ArtifactTypes<'_>,
    artifacts: &[&Artifact],
    slimming: Slimming,
    is_of_one_type: bool,
) -> Vec<Event> {
    let mut all = Vec::new();
    for (kind, artifacts) in by_type(artifacts) {
        let info = kinds.get(kind);
        let own = match slimming.has(Slimming::Contracts) {
            true => own_rules(info.rules, &artifacts),
            false => Vec::new(),
        };
        // The attributes of a story with a single type already name the type.
        let named = (!is_of_one_type).then_some(kind);
        let rules = info.rules.iter().chain(&own);
        let mut contract = events::contract(cutter, rules, info.contract.as_deref(), named);
        if let Some(first) = contract.first_mut().filter(|_| slimming.has(Slimming::Bare)) {
            first.attributes.extend(info.lists(cutter));
        }
        all.append(&mut contract);
        let sources = info.parameter_sources.as_deref().map(|sources| sources.get());
        let sources = sources.and_then(|json| serde_json::from_str::<Value>(json).ok());
        if let Some(sources) = sources.as_ref().and_then(Value::as_object) {
            let mut attributes: Vec<_> =
                named.map(|kind| cutter.string("artifact_type", kind)).into_iter().collect();
            let source = |(key, source)| parameters::attribute(cutter, key, source);
            attributes.extend(sources.iter().map(|(key, it)| (key.clone(), it)).filter_map(source));
            all.push(event("task.parameter_sources", attributes));
        }
    }
    all
}

/// Maximum number of artifacts that one copy of a rule names, so that it fits into an attribute.
const MAX_NAMED: usize = 16;

/// Collects the rules that artifacts have in addition to those of their type. A rule that all
/// artifacts have is listed once; any other rule names its artifacts.
fn own_rules(of_type: &[Rule], artifacts: &[&Artifact]) -> Vec<Rule> {
    let mut owners: IndexMap<&str, (&Rule, Vec<&TaskId>)> = IndexMap::new();
    for artifact in artifacts {
        for rule in &artifact.derived_from {
            let (_, ids) = owners.entry(rule.as_str()).or_insert_with(|| (rule, Vec::new()));
            if ids.last() != Some(&&artifact.id) {
                ids.push(&artifact.id);
            }
        }
    }
    // A rule of the type also applies to every artifact that has no rules of its own.
    let is_new = |(rule, ids): &(&Rule, Vec<&TaskId>)| {
        ids.len() < artifacts.len() || !of_type.contains(rule)
    };
    let named = |(rule, ids): (&Rule, Vec<&TaskId>)| match ids.len() == artifacts.len() {
        true => vec![rule.clone()],
        false => ids.chunks(MAX_NAMED).map(|ids| rule.of_artifacts(ids)).collect(),
    };
    owners.into_values().filter(is_new).flat_map(named).collect()
}

/// Makes one intent for all missing artifacts of a type, and one for all outdated ones. They carry
/// the story's id in place of the artifact's. Each task keeps the other fields as attributes.
pub(crate) fn intents_of_types(
    cutter: &mut Truncator,
    context: &Context<'_>,
    kinds: &ArtifactTypes<'_>,
    story: &TaskId,
    artifacts: &[&Artifact],
) -> Vec<Event> {
    let mut all = Vec::new();
    for (kind, artifacts) in by_type(artifacts) {
        let mut by_intent: BTreeMap<&str, usize> = BTreeMap::new();
        for intent in artifacts.iter().filter_map(|it| contracts::intent_of(it.status)) {
            *by_intent.entry(intent).or_default() += 1;
        }
        for (intent, number) in by_intent {
            let max = cutter.max_bytes();
            let info = kinds.get(kind);
            let fitted = contracts::intent_of_type(context, story, (kind, info), intent, max);
            if fitted.reduced {
                cutter.note("contract");
            }
            let attributes = vec![
                cutter.string("intent", intent),
                cutter.string("artifact_id", story.as_str()),
                cutter.string("artifact_type", kind),
                count("artifact_count", number),
                cutter.string("contract", fitted.json),
            ];
            all.push(event("artifact.intent", attributes));
        }
    }
    all
}

fn by_type<'a>(artifacts: &[&'a Artifact]) -> IndexMap<&'a str, Vec<&'a Artifact>> {
    let mut types: IndexMap<&str, Vec<&Artifact>> = IndexMap::new();
    for artifact in artifacts {
        types.entry(&artifact.kind).or_default().push(artifact);
    }
    types
}
