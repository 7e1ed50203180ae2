//! The JSON that rides in events: contracts of the governance layer and derivation rules.
//!
//! A string that is too long for a backend would be cut by it and stop being JSON, so everything
//! here is made to fit while it stays valid: optional parts are left out, lists are spread.

use serde_json::{Map, Value, json};

use super::attributes::cut;
use super::spans::{Context, Figures};
use crate::ids::{SpanId, TaskId};
use crate::plan::{Artifact, Status};

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
    pub acceptance_criteria: &'a [String],
}

/// A TaskSpanContract v1 (R4.1).
pub fn task_span_contract(context: &Context<'_>, span: &SpanContract<'_>, max: usize) -> Fitted {
    let mut contract = json!({
        "schema_version": SCHEMA_VERSION,
        "project_id": context.plan.project.id,
        "trace_id": context.trace_id.to_string(),
        "span_id": span.span_id.to_string(),
        "task_id": span.task_id,
    });
    let mut set = |key: &str, value: Value| contract[key] = value;
    if let Some(parent) = span.parent_id {
        set("parent_task_id", json!(parent));
    }
    set("phase", json!(PHASE));
    set("status", json!(if span.completed { "completed" } else { "not_started" }));
    let criteria = filled(span.acceptance_criteria);
    if !criteria.is_empty() {
        set("acceptance_criteria", json!(criteria));
    }
    let checksums = checksums(context);
    if !checksums.is_empty() {
        set("checksums", Value::Object(checksums));
    }
    let Figures { gaps, total, .. } = span.figures;
    set("metrics", json!({"gap_count": gaps, "artifact_count": total}));
    fit(contract, &["acceptance_criteria", "checksums"], max)
}

fn checksums(context: &Context<'_>) -> Map<String, Value> {
    let export = &context.plan.export;
    let known = [
        ("source_checksum", &export.source_checksum),
        ("artifact_manifest_checksum", &export.artifact_manifest_checksum),
        ("project_context_checksum", &export.project_context_checksum),
    ];
    known
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.as_deref()?))))
        .collect()
}

/// What an artifact that is to be made or renewed is meant to become.
pub fn intent_of(status: Status) -> Option<&'static str> {
    match status {
        Status::Needed => Some("create"),
        Status::Outdated => Some("update"),
        Status::Exists | Status::Skipped => None,
    }
}

/// An ArtifactIntent v1 (R4.2).
pub fn artifact_intent(
    context: &Context<'_>,
    artifact: &Artifact,
    parameters: &Map<String, Value>,
    intent: &str,
    acceptance_criteria: &[String],
    max: usize,
) -> Fitted {
    let info = context.plan.types.get(&artifact.kind);
    let fallback = || json!({"source": "onboarding-metadata"});
    let sources = info.and_then(|info| info.parameter_sources.clone());
    let mut contract = json!({
        "schema_version": SCHEMA_VERSION,
        "artifact_id": artifact.id,
        "artifact_type": artifact.kind,
        "intent": intent,
        "owner": owner(context, parameters),
        "task_id": artifact.id,
        "parameter_sources": sources.map_or_else(fallback, Value::Object),
    });
    let mut convention = Map::new();
    if let Some(path) = &artifact.output_path {
        convention.insert("output_path".to_owned(), json!(path));
    }
    if let Some(extension) = info.and_then(|info| info.output_ext.as_ref()) {
        convention.insert("output_ext".to_owned(), json!(extension));
    }
    if !convention.is_empty() {
        contract["output_convention"] = Value::Object(convention);
    }
    let criteria = filled(acceptance_criteria);
    if !criteria.is_empty() {
        contract["acceptance_criteria"] = json!(criteria);
    }
    if contract.to_string().len() <= max {
        return Fitted { json: contract.to_string(), reduced: false };
    }
    contract["parameter_sources"] = fallback();
    let fitted = fit(contract, &["acceptance_criteria", "output_convention"], max);
    Fitted { reduced: true, ..fitted }
}

/// The ProjectContext's owner, else the artifact's `owner` parameter, else the project.
fn owner<'a>(context: &'a Context<'_>, parameters: &'a Map<String, Value>) -> &'a str {
    let parameter = || parameters.get("owner").and_then(Value::as_str);
    let owner = context.plan.project.owner.as_deref().or_else(parameter);
    owner.filter(|owner| !owner.is_empty()).unwrap_or(&context.plan.project.id)
}

/// The schemas want every criterion to say something.
fn filled(criteria: &[String]) -> Vec<&String> {
    criteria.iter().filter(|text| !text.is_empty()).collect()
}

/// Leaves out optional parts, one after the other, until the JSON fits. Ids alone can be too long;
/// then it is left to the caller to cut the text.
fn fit(mut contract: Value, optional: &[&str], max: usize) -> Fitted {
    let mut reduced = false;
    for key in optional {
        if contract.to_string().len() <= max {
            break;
        }
        let removed = contract.as_object_mut().and_then(|map| map.shift_remove(*key));
        reduced |= removed.is_some();
    }
    Fitted { json: contract.to_string(), reduced }
}

/// Derivation rules as JSON arrays that each fit, in order; and whether a rule had to be cut
/// within, which happens only to one that is too long by itself.
pub fn rule_arrays(rules: &[Value], max: usize) -> (Vec<String>, bool) {
    const BRACKETS: usize = 2;
    let mut arrays = Vec::new();
    let mut reduced = false;
    let mut batch = String::new();
    for rule in rules {
        let mut json = rule.to_string();
        if json.len() + BRACKETS > max {
            json = shrink(rule.clone(), max.saturating_sub(BRACKETS)).to_string();
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
            let (arrays, reduced) = rule_arrays(&rules, max);
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
        let (arrays, reduced) = rule_arrays(&[rule], 2_048);
        assert!(reduced);
        assert_eq!(arrays.len(), 1);
        assert_eq!(elements(&arrays[0])[0]["property"], "title");
    }
}
