//! `onboarding-metadata.json`: coverage and gaps, the graph, contracts, rules and parameters.
//!
//! Only `coverage.gaps` has to be there; every other section may be missing, left out by the
//! exporter's profile (`{"_omitted": …}`) or, with a warning, of a form nobody expected.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Coverage, Warning, json};

/// The metadata file as far as taskspan reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Onboarding {
    pub project_id: Option<String>,
    pub artifact_manifest_path: Option<String>,
    pub project_context_path: Option<String>,
    pub artifact_manifest_checksum: Option<String>,
    pub project_context_checksum: Option<String>,
    pub source_checksum: Option<String>,
    pub generated_at: Option<String>,
    pub schema_version: Option<String>,
    pub generation_profile: Option<String>,
    pub coverage: Coverage,
    /// `coverage.gaps`, as listed.
    pub gaps: Vec<String>,
    /// `coverage.byTarget[]`: a target and its gaps.
    pub by_target: Vec<(String, Vec<String>)>,
    pub graph: IndexMap<String, Vec<String>>,
    pub parameters: IndexMap<String, Map<String, Value>>,
    pub contracts: Map<String, Value>,
    pub rules: Map<String, Value>,
    pub artifact_types: Map<String, Value>,
    pub task_mapping: Map<String, Value>,
    /// Artifact id → (output path, type), from `file_ownership`.
    pub ownership: IndexMap<String, (String, Option<String>)>,
    pub warnings: Vec<Warning>,
    /// The export carries `task_trace_id`: it was emitted before.
    pub task_trace_id: Option<String>,
}

/// Why a metadata file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnboardingError {
    /// Not JSON, or not yet: a writer may be in the middle of it.
    #[error("{line}:{column}: not valid JSON: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error("1:1: not valid JSON: the file is not UTF-8 (is it UTF-16?)")]
    NotUtf8,
    #[error("the top level is {found}, not an object")]
    NotAnObject { found: &'static str },
    #[error("the key `{key}` is missing or not {expected}")]
    MissingKey { key: &'static str, expected: &'static str },
}

/// The keys as they stand in the file. Everything else is skipped without being kept.
#[derive(Deserialize)]
struct Raw {
    project_id: Option<Value>,
    artifact_manifest_path: Option<Value>,
    project_context_path: Option<Value>,
    artifact_manifest_checksum: Option<Value>,
    project_context_checksum: Option<Value>,
    source_checksum: Option<Value>,
    generated_at: Option<Value>,
    schema_version: Option<Value>,
    generation_profile: Option<Value>,
    coverage: Option<Value>,
    artifact_dependency_graph: Option<Value>,
    resolved_artifact_parameters: Option<Value>,
    expected_output_contracts: Option<Value>,
    derivation_rules: Option<Value>,
    artifact_types: Option<Value>,
    artifact_task_mapping: Option<Value>,
    file_ownership: Option<Value>,
    task_trace_id: Option<Value>,
}

impl Onboarding {
    /// Reads the metadata file's bytes.
    ///
    /// # Errors
    /// Not JSON (with line and column), not an object, or no `coverage.gaps`.
    pub fn parse(bytes: &[u8]) -> Result<Onboarding, OnboardingError> {
        let bytes = json::without_bom(bytes);
        // ASCII in UTF-16 is UTF-8 too, by its form; but no JSON text has a zero byte in front.
        let is_utf16 = bytes.iter().take(2).any(|byte| *byte == 0);
        if is_utf16 || std::str::from_utf8(bytes).is_err() {
            return Err(OnboardingError::NotUtf8);
        }
        let raw = parse_object(bytes)?;
        let mut warnings = Vec::new();
        let mut section = |name: &str, value: Option<Value>| object(name, value, &mut warnings);

        if !raw.coverage.as_ref().is_some_and(Value::is_object) {
            let expected = "an object";
            return Err(OnboardingError::MissingKey { key: "coverage", expected });
        }
        let coverage = section("coverage", raw.coverage);
        let graph = section("artifact_dependency_graph", raw.artifact_dependency_graph);
        let parameters = section("resolved_artifact_parameters", raw.resolved_artifact_parameters);
        let contracts = section("expected_output_contracts", raw.expected_output_contracts);
        let rules = section("derivation_rules", raw.derivation_rules);
        let artifact_types = section("artifact_types", raw.artifact_types);
        let task_mapping = section("artifact_task_mapping", raw.artifact_task_mapping);
        let ownership = section("file_ownership", raw.file_ownership);

        let gaps = gaps(&coverage)?;
        Ok(Onboarding {
            project_id: json::text(raw.project_id.as_ref()),
            artifact_manifest_path: json::text(raw.artifact_manifest_path.as_ref()),
            project_context_path: json::text(raw.project_context_path.as_ref()),
            artifact_manifest_checksum: json::text(raw.artifact_manifest_checksum.as_ref()),
            project_context_checksum: json::text(raw.project_context_checksum.as_ref()),
            source_checksum: json::text(raw.source_checksum.as_ref()),
            generated_at: json::text(raw.generated_at.as_ref()),
            schema_version: json::text(raw.schema_version.as_ref()),
            generation_profile: json::text(raw.generation_profile.as_ref()),
            coverage: figures(&coverage, gaps.len()),
            gaps,
            by_target: by_target(&coverage),
            graph: graph.iter().map(|(id, deps)| (id.clone(), json::strings(Some(deps)))).collect(),
            parameters: parameters
                .into_iter()
                .map(|(id, value)| match value {
                    Value::Object(map) if !json::is_omitted(&map) => (id, map),
                    // The key alone says that there is such an artifact.
                    _ => (id, Map::new()),
                })
                .collect(),
            contracts,
            rules,
            artifact_types,
            task_mapping,
            ownership: owners(&ownership),
            warnings,
            task_trace_id: json::text(raw.task_trace_id.as_ref()),
        })
    }
}

fn parse_object(bytes: &[u8]) -> Result<Raw, OnboardingError> {
    let found = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Some("an array"),
        Some(b'"') => Some("a string"),
        Some(b't' | b'f') => Some("a boolean"),
        Some(b'n') => Some("null"),
        Some(b'-' | b'0'..=b'9') => Some("a number"),
        _ => None,
    };
    let parsed = serde_json::from_slice(bytes);
    // An array of the right length would pass for the struct, so what stands first decides.
    match (parsed, found) {
        (Ok(raw), None) => Ok(raw),
        (Err(error), found) if found.is_none() || !error.is_data() => {
            Err(OnboardingError::Syntax {
                line: error.line(),
                column: error.column().max(1),
                message: without_position(&error),
            })
        }
        (_, found) => Err(OnboardingError::NotAnObject { found: found.unwrap_or("no object") }),
    }
}

/// serde_json appends ` at line L column C`, which stands in front of our message already.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn object(name: &str, value: Option<Value>, warnings: &mut Vec<Warning>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) if !json::is_omitted(&map) => map,
        Some(Value::Object(_) | Value::Null) | None => Map::new(),
        Some(_) => {
            warnings.push(Warning::MalformedSection { section: name.to_owned() });
            Map::new()
        }
    }
}

fn gaps(coverage: &Map<String, Value>) -> Result<Vec<String>, OnboardingError> {
    let missing =
        OnboardingError::MissingKey { key: "coverage.gaps", expected: "an array of strings" };
    let Some(list) = coverage.get("gaps").and_then(Value::as_array) else {
        return Err(missing);
    };
    let gaps: Option<Vec<String>> =
        list.iter().map(|gap| gap.as_str().map(str::to_owned)).collect();
    gaps.ok_or(missing)
}

fn figures(coverage: &Map<String, Value>, gaps: usize) -> Coverage {
    let int = |names: &[&str]| json::any(coverage, names).and_then(Value::as_i64);
    Coverage {
        total_required: int(&["totalRequired", "total_required"]),
        total_existing: int(&["totalExisting", "total_existing"]),
        total_gaps: i64::try_from(gaps).unwrap_or(i64::MAX),
        percent: json::any(coverage, &["overallCoverage", "overall_coverage"])
            .and_then(Value::as_f64),
    }
}

fn by_target(coverage: &Map<String, Value>) -> Vec<(String, Vec<String>)> {
    let list = json::any(coverage, &["byTarget", "by_target"]).and_then(Value::as_array);
    let list = list.map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|entry| {
            Some((json::text(entry.get("target"))?, json::strings(entry.get("gaps"))))
        })
        .collect()
}

/// `file_ownership` is keyed by path; it is wanted by artifact.
fn owners(ownership: &Map<String, Value>) -> IndexMap<String, (String, Option<String>)> {
    let mut owners = IndexMap::new();
    for (path, entry) in ownership {
        let ids = json::strings(entry.get("artifact_ids"));
        let types = json::strings(entry.get("artifact_types"));
        for (index, id) in ids.iter().enumerate() {
            // The types are listed per artifact, or once for all of them.
            let kind = if types.len() == ids.len() { types.get(index) } else { types.first() };
            owners.entry(id.clone()).or_insert_with(|| (path.clone(), kind.cloned()));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Onboarding, OnboardingError> {
        Onboarding::parse(text.as_bytes())
    }

    #[test]
    fn both_spellings_of_coverage() {
        for (required, existing, percent, targets) in [
            ("totalRequired", "totalExisting", "overallCoverage", "byTarget"),
            ("total_required", "total_existing", "overall_coverage", "by_target"),
        ] {
            let text = format!(
                r#"{{"coverage": {{"{required}": 3, "{existing}": 1, "{percent}": 33,
                "{targets}": [{{"target": "api", "gaps": ["a"]}}], "gaps": ["a", "b"]}}}}"#
            );
            let onboarding = parse(&text).expect("an export");
            let coverage = Coverage {
                total_required: Some(3),
                total_existing: Some(1),
                total_gaps: 2,
                percent: Some(33.0),
            };
            assert_eq!(onboarding.coverage, coverage);
            assert_eq!(onboarding.by_target, [("api".to_owned(), vec!["a".to_owned()])]);
        }
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            ("{\"coverage\": {\n \"gaps\": [", "2:10: not valid JSON: EOF while parsing a list"),
            ("", "1:1: not valid JSON: EOF while parsing a value"),
            ("[]", "the top level is an array, not an object"),
            ("5", "the top level is a number, not an object"),
            ("{\"coverage\": NaN}", "1:14: not valid JSON: expected value"),
            ("{} x", "1:4: not valid JSON: trailing characters"),
            ("{}", "the key `coverage` is missing or not an object"),
            (
                r#"{"coverage": {}}"#,
                "the key `coverage.gaps` is missing or not an array of strings",
            ),
            (
                r#"{"coverage": {"gaps": "a"}}"#,
                "the key `coverage.gaps` is missing or not an array of strings",
            ),
            (
                r#"{"coverage": {"gaps": [1]}}"#,
                "the key `coverage.gaps` is missing or not an array of strings",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).expect_err(text).to_string(), message);
        }
        for utf16 in [b"\xff\xfe{\0}\0".as_slice(), b"{\0}\0", b"\0{\0}"] {
            assert_eq!(Onboarding::parse(utf16), Err(OnboardingError::NotUtf8));
        }
    }

    #[test]
    fn omitted_and_malformed_sections_do_not_refuse_the_export() {
        let onboarding = parse(
            r#"{"coverage": {"gaps": []}, "derivation_rules": {"_omitted": "profile=source"},
                "artifact_dependency_graph": [], "file_ownership": null}"#,
        )
        .expect("an export");
        assert!(onboarding.rules.is_empty() && onboarding.graph.is_empty());
        let warning = Warning::MalformedSection { section: "artifact_dependency_graph".into() };
        assert_eq!(onboarding.warnings, [warning]);
    }

    #[test]
    fn ownership_is_turned_around() {
        let onboarding = parse(
            r#"{"coverage": {"gaps": []}, "file_ownership": {
                "x.json": {"artifact_ids": ["a"], "artifact_types": ["dashboard"]},
                "y.yaml": {"artifact_ids": ["b", "c"], "artifact_types": ["rule"]}}}"#,
        )
        .expect("an export");
        let owner = |id: &str| onboarding.ownership.get(id).cloned();
        assert_eq!(owner("a"), Some(("x.json".into(), Some("dashboard".into()))));
        assert_eq!(owner("c"), Some(("y.yaml".into(), Some("rule".into()))));
    }
}
