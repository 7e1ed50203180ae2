//! The JSON values in events: contracts of the governance layer, and derivation rules.
//!
//! A backend truncates a string that is too long, and truncated JSON is not JSON. So every value is
//! made to fit and stays valid: optional parts are left out, and lists are spread over several
//! values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::artifact_types::ArtifactType;
use super::attributes::cut;
use super::context::{Context, PHASE, SpanTotals};
use super::json::{raw, text};
use crate::base::ids::{SpanId, TaskId};
use crate::plan::{Artifact, ExportInfo, Rule, Status};

const SCHEMA_VERSION: &str = "v1";

/// JSON within the limit, and whether parts were left out for that.
pub(crate) struct Fitted {
    pub(crate) json: String,
    pub(crate) reduced: bool,
}

/// The parts of a TaskSpanContract that differ between the spans of an export.
pub(crate) struct SpanContract<'a> {
    pub(crate) task_id: &'a TaskId,
    pub(crate) span_id: SpanId,
    pub(crate) parent_id: Option<&'a TaskId>,
    pub(crate) completed: bool,
    pub(crate) figures: SpanTotals,
    pub(crate) acceptance_criteria: Option<&'a RawValue>,
    pub(crate) checksums: Option<&'a RawValue>,
}

/// A TaskSpanContract v1. The fields are in the order of its schema.
#[derive(Serialize)]
struct TaskSpanContract<'a> {
    schema_version: &'static str,
    project_id: &'a str,
    trace_id: &'a str,
    span_id: String,
    task_id: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_task_id: Option<&'a TaskId>,
    phase: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    acceptance_criteria: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksums: Option<&'a RawValue>,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Checksums<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_checksum: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_manifest_checksum: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_context_checksum: Option<&'a String>,
}

#[derive(Serialize)]
struct Metrics {
    gap_count: i64,
    artifact_count: usize,
}

/// Makes a TaskSpanContract v1 (R4.1) of at most `max` bytes.
pub(crate) fn task_span_contract(
    context: &Context<'_>,
    span: &SpanContract<'_>,
    max: usize,
) -> Fitted {
    let SpanTotals { gaps, total, .. } = span.figures;
    let contract = TaskSpanContract {
        schema_version: SCHEMA_VERSION,
        project_id: &context.plan.project.id,
        trace_id: &context.trace_hex,
        span_id: span.span_id.to_string(),
        task_id: span.task_id,
        parent_task_id: span.parent_id,
        phase: PHASE,
        status: if span.completed { "completed" } else { "not_started" },
        acceptance_criteria: span.acceptance_criteria,
        checksums: span.checksums,
        metrics: Metrics { gap_count: gaps, artifact_count: total },
    };
    fit(
        contract,
        &[|it| it.acceptance_criteria.take().is_some(), |it| it.checksums.take().is_some()],
        max,
    )
}

/// Returns the checksums that an export has for its files, as JSON. `None` if it has none.
pub(crate) fn checksums(export: &ExportInfo) -> Option<Box<RawValue>> {
    let all = Checksums {
        source_checksum: export.source_checksum.as_ref(),
        artifact_manifest_checksum: export.artifact_manifest_checksum.as_ref(),
        project_context_checksum: export.project_context_checksum.as_ref(),
    };
    let Checksums { source_checksum, artifact_manifest_checksum, project_context_checksum } = &all;
    let known = [source_checksum, artifact_manifest_checksum, project_context_checksum];
    if known.iter().any(|it| it.is_some()) { raw(&all) } else { None }
}

/// Returns the intent for an artifact that must be created or renewed. `None` for one that exists.
pub(crate) fn intent_of(status: Status) -> Option<&'static str> {
    match status {
        Status::Needed => Some("create"),
        Status::Outdated => Some("update"),
        Status::Exists | Status::Skipped => None,
    }
}

/// An ArtifactIntent v1. The fields are in the order of its schema.
#[derive(Serialize)]
struct ArtifactIntent<'a> {
    schema_version: &'static str,
    artifact_id: &'a TaskId,
    artifact_type: &'a str,
    intent: &'a str,
    owner: &'a str,
    task_id: &'a TaskId,
    parameter_sources: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_convention: Option<OutputConvention<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acceptance_criteria: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct OutputConvention<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output_path: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_ext: Option<&'a String>,
}

/// Used if an artifact has no parameter sources, or too many to fit.
static NO_SOURCES: LazyLock<Box<RawValue>> = LazyLock::new(|| {
    to_raw_value(&BTreeMap::from([("source", "onboarding-metadata")])).unwrap_or_default()
});

/// Makes an ArtifactIntent v1 (R4.2) of at most `max` bytes. If it `is_shared`, the data that all
/// tasks of the story have in common is left out, because the story has it.
pub(crate) fn artifact_intent(
    context: &Context<'_>,
    artifact: &Artifact,
    kind: &ArtifactType<'_>,
    parameters: &Map<String, Value>,
    (intent, is_shared): (&str, bool),
    max: usize,
) -> Fitted {
    let convention = OutputConvention {
        output_path: artifact.output_path.as_ref(),
        output_ext: kind.output_ext,
    };
    let has_convention = convention.output_path.is_some() || convention.output_ext.is_some();
    let contract = ArtifactIntent {
        schema_version: SCHEMA_VERSION,
        artifact_id: &artifact.id,
        artifact_type: &artifact.kind,
        intent,
        owner: owner(context, parameters),
        task_id: &artifact.id,
        // The story has these once for all of its tasks.
        parameter_sources: match kind.parameter_sources.as_deref() {
            Some(sources) if !is_shared => sources,
            _ => &NO_SOURCES,
        },
        output_convention: has_convention.then_some(convention),
        acceptance_criteria: kind.criteria.as_deref().filter(|_| !is_shared),
    };
    let json = text(&contract);
    if json.len() <= max {
        return Fitted { json, reduced: false };
    }
    let fitted = fit(
        ArtifactIntent { parameter_sources: &NO_SOURCES, ..contract },
        &[|it| it.acceptance_criteria.take().is_some(), |it| it.output_convention.take().is_some()],
        max,
    );
    Fitted { reduced: true, ..fitted }
}

/// Makes an ArtifactIntent v1 for all artifacts of a type, with the id of their story.
pub(crate) fn intent_of_type(
    context: &Context<'_>,
    story: &TaskId,
    (kind, info): (&str, &ArtifactType<'_>),
    intent: &str,
    max: usize,
) -> Fitted {
    let project = &context.plan.project;
    let convention = OutputConvention { output_path: None, output_ext: info.output_ext };
    let contract = ArtifactIntent {
        schema_version: SCHEMA_VERSION,
        artifact_id: story,
        artifact_type: kind,
        intent,
        owner: project.owner.as_deref().filter(|it| !it.is_empty()).unwrap_or(&project.id),
        task_id: story,
        parameter_sources: &NO_SOURCES,
        output_convention: info.output_ext.is_some().then_some(convention),
        acceptance_criteria: info.criteria.as_deref(),
    };
    fit(
        contract,
        &[|it| it.acceptance_criteria.take().is_some(), |it| it.output_convention.take().is_some()],
        max,
    )
}

/// Returns the owner in the ProjectContext, else the artifact's `owner` parameter, else the
/// project.
fn owner<'a>(context: &'a Context<'_>, parameters: &'a Map<String, Value>) -> &'a str {
    let parameter = || parameters.get("owner").and_then(Value::as_str);
    let owner = context.plan.project.owner.as_deref().or_else(parameter);
    owner.filter(|owner| !owner.is_empty()).unwrap_or(&context.plan.project.id)
}

/// Leaves out optional parts, one after another, until the JSON fits. If the ids alone are too
/// long, the result exceeds the limit and the caller truncates it.
fn fit<T: Serialize>(mut contract: T, leave_out: &[fn(&mut T) -> bool], max: usize) -> Fitted {
    let mut fitted = Fitted { json: text(&contract), reduced: false };
    for leave_out in leave_out {
        if fitted.json.len() <= max {
            break;
        }
        if leave_out(&mut contract) {
            fitted = Fitted { json: text(&contract), reduced: true };
        }
    }
    fitted
}

/// Returns derivation rules as JSON arrays of at most `max` bytes each, in order, and whether a
/// rule was truncated. Only a rule that exceeds the limit by itself is truncated.
pub(crate) fn rule_arrays<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    max: usize,
) -> (Vec<String>, bool) {
    let mut arrays = Vec::new();
    let mut reduced = false;
    let mut batch = String::new();
    for rule in rules {
        let mut json = Cow::from(rule.as_str());
        if "[]".len() + json.len() > max {
            // This JSON was made from a value, so parsing cannot fail.
            let value = serde_json::from_str(&json).unwrap_or_default();
            json = shrink(value, max.saturating_sub("[]".len())).to_string().into();
            reduced = true;
        }
        if !batch.is_empty() && batch.len() + ",]".len() + json.len() > max {
            batch.push(']');
            arrays.push(std::mem::take(&mut batch));
        }
        batch.push(if batch.is_empty() { '[' } else { ',' });
        batch.push_str(&json);
    }
    if !batch.is_empty() {
        batch.push(']');
        arrays.push(batch);
    }
    (arrays, reduced)
}

/// Truncates the longest strings within a value until its JSON fits.
fn shrink(mut value: Value, max: usize) -> Value {
    /// Strings shorter than this, in bytes, are never truncated.
    const WORTH_CUTTING: usize = 64;
    loop {
        let json = value.to_string();
        let Some(excess) = json.len().checked_sub(max).filter(|excess| *excess > 0) else {
            return value;
        };
        match longest_string(&mut value).filter(|text| text.len() > WORTH_CUTTING) {
            // Escaping makes JSON longer than the text, so this can take more than one round.
            Some(text) => {
                let keep = text.len().saturating_sub(excess + '…'.len_utf8());
                *text = cut(text, keep.max(WORTH_CUTTING));
            }
            // No single string is long. Return the start of the JSON as one string, in which every
            // character may need an escape.
            None => return Value::String(cut(&json, max.saturating_sub(2) / 2)),
        }
    }
}

fn longest_string(value: &mut Value) -> Option<&mut String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(items) => {
            items.iter_mut().filter_map(longest_string).max_by_key(|text| text.len())
        }
        Value::Object(map) => {
            map.values_mut().filter_map(longest_string).max_by_key(|text| text.len())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn elements(array: &str) -> Vec<Value> {
        serde_json::from_str(array).expect("a JSON array")
    }

    proptest! {
        #[test]
        fn rule_arrays_are_json_within_the_limit_and_keep_every_rule(
            texts in prop::collection::vec(".{0,300}", 0..12),
            max in 256_usize..2_048,
        ) {
            let rules: Vec<Value> =
                texts.iter().map(|text| json!({"property": "p", "rationale": text})).collect();
            let texts: Vec<Rule> = rules.iter().map(Rule::from).collect();
            let (arrays, reduced) = rule_arrays(&texts, max);
            let mut back = Vec::new();
            for array in &arrays {
                prop_assert!(array.len() <= max);
                back.extend(elements(array));
            }
            prop_assert_eq!(back.len(), rules.len());
            if !reduced {
                prop_assert_eq!(back, rules);
            }
        }

        #[test]
        fn whatever_is_shrunk_is_within_the_limit(depth in 1_usize..6, text in "[\"a\\\\é\n]{0,900}", max in 80_usize..400) {
            let mut value = json!([text.clone(), (0..90).collect::<Vec<_>>()]);
            for _ in 0..depth {
                value = json!({"k": value, "t": text.clone()});
            }
            prop_assert!(shrink(value, max).to_string().len() <= max);
        }
    }

    #[test]
    fn one_long_rule_stays_valid_json() {
        let rule = json!({"property": "title", "rationale": "r".repeat(3_000)});
        let (arrays, reduced) = rule_arrays(&[Rule::from(&rule)], 2_048);
        assert!(reduced);
        assert_eq!(arrays.len(), 1);
        assert_eq!(elements(&arrays[0])[0]["property"], "title");
    }
}
