//! The JSON that rides in events: contracts of the governance layer and derivation rules.
//!
//! A string that is too long for a backend would be cut by it and stop being JSON, so everything
//! here is made to fit while it stays valid: optional parts are left out, lists are spread.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Value};

use super::attributes::cut;
use super::spans::{Context, Figures};
use crate::ids::{SpanId, TaskId};
use crate::plan::{Artifact, Rule, Status};

/// The phase in which an export stands (TaskSpanContract, `task.phase`).
pub const PHASE: &str = "EXPORT_CONTRACT";
const SCHEMA_VERSION: &str = "v1";

/// JSON that fits, and whether something had to go for it.
pub struct Fitted {
    pub json: String,
    pub reduced: bool,
}

/// What a TaskSpanContract says beside what holds for the whole export.
pub struct SpanContract<'a> {
    pub task_id: &'a TaskId,
    pub span_id: SpanId,
    pub parent_id: Option<&'a TaskId>,
    pub completed: bool,
    pub figures: Figures,
    pub acceptance_criteria: &'a [&'a str],
}

/// A TaskSpanContract v1, in the order that its schema has.
#[derive(Serialize)]
struct TaskSpanContract<'a> {
    schema_version: &'static str,
    project_id: &'a str,
    trace_id: String,
    span_id: String,
    task_id: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_task_id: Option<&'a TaskId>,
    phase: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acceptance_criteria: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksums: Option<Checksums<'a>>,
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

/// A TaskSpanContract v1 (R4.1).
pub fn task_span_contract(context: &Context<'_>, span: &SpanContract<'_>, max: usize) -> Fitted {
    let Figures { gaps, total, .. } = span.figures;
    let contract = TaskSpanContract {
        schema_version: SCHEMA_VERSION,
        project_id: &context.plan.project.id,
        trace_id: context.trace_id.to_string(),
        span_id: span.span_id.to_string(),
        task_id: span.task_id,
        parent_task_id: span.parent_id,
        phase: PHASE,
        status: if span.completed { "completed" } else { "not_started" },
        acceptance_criteria: filled(span.acceptance_criteria),
        checksums: checksums(context),
        metrics: Metrics { gap_count: gaps, artifact_count: total },
    };
    fit(
        contract,
        &[
            |it| !std::mem::take(&mut it.acceptance_criteria).is_empty(),
            |it| it.checksums.take().is_some(),
        ],
        max,
    )
}

fn checksums<'a>(context: &Context<'a>) -> Option<Checksums<'a>> {
    let export = &context.plan.export;
    let all = Checksums {
        source_checksum: export.source_checksum.as_ref(),
        artifact_manifest_checksum: export.artifact_manifest_checksum.as_ref(),
        project_context_checksum: export.project_context_checksum.as_ref(),
    };
    let Checksums { source_checksum, artifact_manifest_checksum, project_context_checksum } = &all;
    let known = [source_checksum, artifact_manifest_checksum, project_context_checksum];
    known.iter().any(|it| it.is_some()).then_some(all)
}

/// What an artifact that is to be made or renewed is meant to become.
pub fn intent_of(status: Status) -> Option<&'static str> {
    match status {
        Status::Needed => Some("create"),
        Status::Outdated => Some("update"),
        Status::Exists | Status::Skipped => None,
    }
}

/// An ArtifactIntent v1, in the order that its schema has.
#[derive(Serialize)]
struct ArtifactIntent<'a> {
    schema_version: &'static str,
    artifact_id: &'a TaskId,
    artifact_type: &'a str,
    intent: &'a str,
    owner: &'a str,
    task_id: &'a TaskId,
    parameter_sources: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_convention: Option<OutputConvention<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acceptance_criteria: Vec<&'a str>,
}

#[derive(Serialize)]
struct OutputConvention<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output_path: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_ext: Option<&'a String>,
}

/// What stands for the sources of parameters where there are none, or too many.
static NO_SOURCES: LazyLock<Map<String, Value>> =
    LazyLock::new(|| Map::from_iter([("source".to_owned(), Value::from("onboarding-metadata"))]));

/// An ArtifactIntent v1 (R4.2).
pub fn artifact_intent(
    context: &Context<'_>,
    artifact: &Artifact,
    parameters: &Map<String, Value>,
    intent: &str,
    acceptance_criteria: &[&str],
    max: usize,
) -> Fitted {
    let info = context.plan.types.get(&artifact.kind);
    let convention = OutputConvention {
        output_path: artifact.output_path.as_ref(),
        output_ext: info.and_then(|info| info.output_ext.as_ref()),
    };
    let has_convention = convention.output_path.is_some() || convention.output_ext.is_some();
    let sources = info.and_then(|info| info.parameter_sources.as_ref());
    let contract = ArtifactIntent {
        schema_version: SCHEMA_VERSION,
        artifact_id: &artifact.id,
        artifact_type: &artifact.kind,
        intent,
        owner: owner(context, parameters),
        task_id: &artifact.id,
        parameter_sources: sources.unwrap_or(&NO_SOURCES),
        output_convention: has_convention.then_some(convention),
        acceptance_criteria: filled(acceptance_criteria),
    };
    let json = text(&contract);
    if json.len() <= max {
        return Fitted { json, reduced: false };
    }
    let fitted = fit(
        ArtifactIntent { parameter_sources: &NO_SOURCES, ..contract },
        &[
            |it| !std::mem::take(&mut it.acceptance_criteria).is_empty(),
            |it| it.output_convention.take().is_some(),
        ],
        max,
    );
    Fitted { reduced: true, ..fitted }
}

/// The ProjectContext's owner, else the artifact's `owner` parameter, else the project.
fn owner<'a>(context: &'a Context<'_>, parameters: &'a Map<String, Value>) -> &'a str {
    let parameter = || parameters.get("owner").and_then(Value::as_str);
    let owner = context.plan.project.owner.as_deref().or_else(parameter);
    owner.filter(|owner| !owner.is_empty()).unwrap_or(&context.plan.project.id)
}

/// The schemas want every criterion to say something.
fn filled<'a>(criteria: &[&'a str]) -> Vec<&'a str> {
    criteria.iter().filter(|text| !text.is_empty()).copied().collect()
}

/// Leaves out optional parts, one after the other, until the JSON fits. Ids alone can be too long;
/// then it is left to the caller to cut the text.
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

/// Nothing of ours is anything that JSON cannot say.
pub fn text(contract: &impl Serialize) -> String {
    serde_json::to_string(contract).unwrap_or_default()
}

/// Derivation rules as JSON arrays that each fit, in order; and whether a rule had to be cut
/// within, which happens only to one that is too long by itself.
pub fn rule_arrays<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    max: usize,
) -> (Vec<String>, bool) {
    const BRACKETS: usize = 2;
    let mut arrays = Vec::new();
    let mut reduced = false;
    let mut batch = String::new();
    for rule in rules {
        let mut json = Cow::from(rule.as_str());
        if json.len() + BRACKETS > max {
            // It was made from a value, so it reads as one.
            let value = serde_json::from_str(&json).unwrap_or_default();
            json = shrink(value, max.saturating_sub(BRACKETS)).to_string().into();
            reduced = true;
        }
        if !batch.is_empty() && batch.len() + 1 + json.len() + BRACKETS > max {
            arrays.push(format!("[{batch}]"));
            batch.clear();
        }
        if !batch.is_empty() {
            batch.push(',');
        }
        batch.push_str(&json);
    }
    if !batch.is_empty() {
        arrays.push(format!("[{batch}]"));
    }
    (arrays, reduced)
}

/// Cuts the longest strings within a value until its JSON fits.
fn shrink(mut value: Value, max: usize) -> Value {
    /// Strings shorter than this are not what makes a value long.
    const WORTH_CUTTING: usize = 64;
    loop {
        let json = value.to_string();
        let Some(excess) = json.len().checked_sub(max).filter(|excess| *excess > 0) else {
            return value;
        };
        match longest_string(&mut value).filter(|text| text.len() > WORTH_CUTTING) {
            // Escapes make JSON longer than the text, so this may take more than one round.
            Some(text) => {
                let keep = text.len().saturating_sub(excess + '…'.len_utf8());
                *text = cut(text, keep.max(WORTH_CUTTING));
            }
            // No single string is to blame: what is left of its JSON goes as one string, in which
            // every character may need an escape.
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
        fn whatever_is_shrunk_fits(depth in 1_usize..6, text in "[\"a\\\\é\n]{0,900}", max in 80_usize..400) {
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
