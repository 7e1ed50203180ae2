//! Parses `onboarding-metadata.json`: coverage and gaps, the graph, contracts, rules and
//! parameters.
//!
//! Only `coverage.gaps` is required. Any other section may be missing or replaced by the exporter's
//! profile (`{"_omitted": …}`). A section of an unexpected form is ignored with a warning.

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Coverage, Warning, json, memory};

/// The part of the metadata file that taskspan uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Onboarding {
    pub(crate) project_id: Option<String>,
    pub(crate) artifact_manifest_path: Option<String>,
    pub(crate) project_context_path: Option<String>,
    pub(crate) artifact_manifest_checksum: Option<String>,
    pub(crate) project_context_checksum: Option<String>,
    pub(crate) source_checksum: Option<String>,
    pub(crate) generated_at: Option<String>,
    pub(crate) schema_version: Option<String>,
    pub(crate) generation_profile: Option<String>,
    pub(crate) coverage: Coverage,
    /// The entries of `coverage.gaps`, without empty ids.
    pub(crate) gaps: Vec<String>,
    /// `coverage.byTarget[]`: each target with its gaps.
    pub(crate) by_target: Vec<(String, Vec<String>)>,
    pub(crate) graph: IndexMap<String, Vec<String>>,
    pub(crate) parameters: IndexMap<String, Map<String, Value>>,
    pub(crate) contracts: Map<String, Value>,
    pub(crate) rules: Map<String, Value>,
    pub(crate) artifact_types: Map<String, Value>,
    pub(crate) task_mapping: Map<String, Value>,
    /// The parameters that `parameter_resolvability` calls unresolved, by artifact id.
    pub(crate) unresolved: IndexMap<String, Vec<String>>,
    /// Output path and type, by artifact id, from `file_ownership`.
    pub(crate) ownership: IndexMap<String, (String, Option<String>)>,
    pub(crate) warnings: Vec<Warning>,
    /// The `task_trace_id` of an export that was emitted before.
    pub(crate) task_trace_id: Option<String>,
}

/// Why a metadata file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnboardingError {
    /// Not JSON. A file that is still being written looks like this, too.
    #[error("{line}:{column}: not valid JSON: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error("1:1: not valid JSON: the file is not UTF-8 (is it UTF-16?)")]
    NotUtf8,
    #[error("the top level is {found}, not an object")]
    NotAnObject { found: &'static str },
    #[error("has more than {limit} {what} (max_artifacts)")]
    TooMany { what: &'static str, limit: usize },
    #[error("the key `{key}` is missing or not {expected}")]
    MissingKey { key: &'static str, expected: &'static str },
}

/// The keys of the file. All other keys are skipped.
#[derive(Deserialize)]
struct Raw<T> {
    project_id: Option<T>,
    artifact_manifest_path: Option<T>,
    project_context_path: Option<T>,
    artifact_manifest_checksum: Option<T>,
    project_context_checksum: Option<T>,
    source_checksum: Option<T>,
    generated_at: Option<T>,
    schema_version: Option<T>,
    generation_profile: Option<T>,
    coverage: Option<T>,
    artifact_dependency_graph: Option<T>,
    resolved_artifact_parameters: Option<T>,
    expected_output_contracts: Option<T>,
    derivation_rules: Option<T>,
    artifact_types: Option<T>,
    artifact_task_mapping: Option<T>,
    parameter_resolvability: Option<T>,
    file_ownership: Option<T>,
    task_trace_id: Option<T>,
}

/// A metadata file whose sections are still text, so that the manifest can be read while the
/// sections are parsed.
pub(crate) struct Sections<'a> {
    text: &'a str,
    raw: Raw<&'a RawValue>,
    max_artifacts: usize,
}

/// Estimated memory, in bytes, up to which a faulty file is parsed as a whole for its message.
const MAX_WHOLE: u64 = 8 << 20;
/// Dependencies allowed per artifact, on average.
const DEPENDENCIES: usize = 10;
/// Values allowed in `coverage` per artifact: its gap, and the same in the figures of its target.
const COVERAGE_VALUES: usize = 5;

impl OnboardingError {
    pub(crate) fn too_many(what: &'static str, limit: usize) -> OnboardingError {
        OnboardingError::TooMany { what, limit }
    }
}

impl<'a> Sections<'a> {
    /// Finds the sections in the metadata file's bytes.
    ///
    /// # Errors
    /// Returns an error if the bytes are not JSON (with line and column), or not an object.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Sections<'a>, OnboardingError> {
        let bytes = json::without_bom(bytes);
        // ASCII text in UTF-16 is valid UTF-8, but JSON text never starts with a zero byte.
        let is_utf16 = bytes.iter().take(2).any(|byte| *byte == 0);
        match std::str::from_utf8(bytes) {
            Ok(text) if !is_utf16 => match parse_object(text) {
                Ok(raw) => Ok(Sections { text, raw, max_artifacts: usize::MAX }),
                Err(error) => Err(whole_fault(text).unwrap_or(error)),
            },
            _ => Err(OnboardingError::NotUtf8),
        }
    }

    /// Limits the artifacts, which limits memory.
    pub(crate) fn limited_to(self, max_artifacts: usize) -> Sections<'a> {
        Sections { max_artifacts, ..self }
    }

    /// Checks the sections whose values take far more memory than their text, before they are
    /// parsed. There is at most one value more than there are commas.
    pub(crate) fn check_sizes(&self) -> Result<(), OnboardingError> {
        let commas = |raw: Option<&RawValue>| {
            raw.map_or(0, |raw| raw.get().bytes().filter(|byte| *byte == b',').count())
        };
        let max = self.max_artifacts;
        if commas(self.raw.coverage) > max.saturating_mul(COVERAGE_VALUES) {
            return Err(OnboardingError::too_many("artifacts", max));
        }
        let dependencies = max.saturating_mul(DEPENDENCIES);
        if commas(self.raw.artifact_dependency_graph) > dependencies {
            return Err(OnboardingError::too_many("dependencies", dependencies));
        }
        Ok(())
    }

    /// Estimates the memory of the parsed sections and of their conversion, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let text = |raw: Option<&'a RawValue>| raw.map_or("", RawValue::get).as_bytes();
        let raw = &self.raw;
        let of_artifacts = [raw.artifact_dependency_graph, raw.resolved_artifact_parameters];
        let whole = [
            raw.expected_output_contracts,
            raw.derivation_rules,
            raw.artifact_types,
            raw.artifact_task_mapping,
        ];
        let by_member = [raw.parameter_resolvability, raw.file_ownership];
        let whole = whole.into_iter().map(|section| memory::of_json(text(section)).whole);
        let of_artifacts = of_artifacts
            .into_iter()
            .filter_map(|section| Some(memory::of_json(section?.get().as_bytes()).of_artifacts()));
        let whole = whole.chain(of_artifacts);
        let by_member =
            by_member.into_iter().map(|section| memory::of_json(text(section)).largest_member);
        memory::of_coverage(text(raw.coverage)) + whole.chain(by_member).sum::<u64>()
    }

    // An invalid id is reported by `read`.

    pub(crate) fn task_trace_id(&self) -> Option<String> {
        self.text(self.raw.task_trace_id).ok()?
    }

    pub(crate) fn artifact_manifest_path(&self) -> Option<String> {
        self.text(self.raw.artifact_manifest_path).ok()?
    }

    pub(crate) fn artifact_manifest_checksum(&self) -> Option<String> {
        self.text(self.raw.artifact_manifest_checksum).ok()?
    }

    /// Parses all sections.
    ///
    /// # Errors
    /// Returns an error if a value is invalid (with line and column), or if `coverage.gaps` is
    /// missing.
    pub(crate) fn read(&self) -> Result<Onboarding, OnboardingError> {
        self.read_each().map_err(|error| match error {
            // Parsing the whole text would take the memory that the limit saves.
            OnboardingError::TooMany { .. } => error,
            error => whole_fault(self.text).unwrap_or(error),
        })
    }

    fn read_each(&self) -> Result<Onboarding, OnboardingError> {
        let raw = &self.raw;
        if !raw.coverage.is_some_and(|coverage| coverage.get().starts_with('{')) {
            let expected = "an object";
            return Err(OnboardingError::MissingKey { key: "coverage", expected });
        }
        self.check_sizes()?;
        let warnings = &mut Vec::new();
        let whole = |map: &mut Map<String, Value>, key, value| drop(map.insert(key, value));
        let coverage = self.section("coverage", raw.coverage, warnings, whole)?;
        let gaps = gaps(&coverage, warnings)?;
        if gaps.len() > self.max_artifacts {
            return Err(OnboardingError::too_many("artifacts", self.max_artifacts));
        }
        let (figures, by_target) = (figures(&coverage, gaps.len()), by_target(&coverage));
        drop(coverage);
        let graph = self.section(
            "artifact_dependency_graph",
            raw.artifact_dependency_graph,
            warnings,
            |graph: &mut IndexMap<_, _>, id, deps| {
                graph.insert(id, json::strings(Some(&deps)));
            },
        )?;
        let parameters = self.section(
            "resolved_artifact_parameters",
            raw.resolved_artifact_parameters,
            warnings,
            |parameters: &mut IndexMap<_, _>, id, value| {
                let own = match value {
                    Value::Object(map) if !json::is_omitted(&map) => map,
                    // The key alone means that there is such an artifact.
                    _ => Map::new(),
                };
                parameters.insert(id, own);
            },
        )?;
        if parameters.len() > self.max_artifacts {
            return Err(OnboardingError::too_many("artifacts", self.max_artifacts));
        }
        let mut whole =
            |name: &str, raw: Option<&RawValue>| self.section(name, raw, warnings, whole);
        let contracts = whole("expected_output_contracts", raw.expected_output_contracts)?;
        let rules = whole("derivation_rules", raw.derivation_rules)?;
        let artifact_types = whole("artifact_types", raw.artifact_types)?;
        let task_mapping = whole("artifact_task_mapping", raw.artifact_task_mapping)?;
        let unresolved = self.section(
            "parameter_resolvability",
            raw.parameter_resolvability,
            warnings,
            unresolved,
        )?;
        let ownership = self.section("file_ownership", raw.file_ownership, warnings, owners)?;
        Ok(Onboarding {
            project_id: self.text(raw.project_id)?,
            artifact_manifest_path: self.text(raw.artifact_manifest_path)?,
            project_context_path: self.text(raw.project_context_path)?,
            artifact_manifest_checksum: self.text(raw.artifact_manifest_checksum)?,
            project_context_checksum: self.text(raw.project_context_checksum)?,
            source_checksum: self.text(raw.source_checksum)?,
            generated_at: self.text(raw.generated_at)?,
            schema_version: self.text(raw.schema_version)?,
            generation_profile: self.text(raw.generation_profile)?,
            coverage: figures,
            gaps,
            by_target,
            graph,
            parameters,
            contracts,
            rules,
            artifact_types,
            task_mapping,
            unresolved,
            ownership,
            task_trace_id: self.text(raw.task_trace_id)?,
            warnings: std::mem::take(warnings),
        })
    }

    /// Reads a section member by member. Empty if the exporter omitted the section or it has an
    /// unexpected form.
    fn section<T: Default>(
        &self,
        name: &str,
        raw: Option<&RawValue>,
        warnings: &mut Vec<Warning>,
        mut add: impl FnMut(&mut T, String, Value),
    ) -> Result<T, OnboardingError> {
        let Some(raw) = raw else { return Ok(T::default()) };
        if !raw.get().starts_with('{') {
            self.value(raw)?;
            warnings.push(Warning::MalformedSection { section: name.to_owned() });
            return Ok(T::default());
        }
        let (mut section, mut is_omitted) = (T::default(), false);
        let members = json::Members(|key: String, value| {
            is_omitted |= key == json::OMITTED;
            add(&mut section, key, value);
        });
        let read = serde_json::Deserializer::from_str(raw.get()).deserialize_map(members);
        read.map_err(|error| syntax(&error))?;
        Ok(if is_omitted { T::default() } else { section })
    }

    fn text(&self, raw: Option<&RawValue>) -> Result<Option<String>, OnboardingError> {
        let value = raw.map(|raw| self.value(raw)).transpose()?;
        Ok(json::text(value.as_ref()))
    }

    fn value(&self, raw: &RawValue) -> Result<Value, OnboardingError> {
        serde_json::from_str(raw.get()).map_err(|error| syntax(&error))
    }
}

/// Parses the whole text as one value, to get an error with a position and a better message than
/// from the reader that skips values. `None` if there is no error, or if the value could take much
/// memory: none is reserved for it.
fn whole_fault(text: &str) -> Option<OnboardingError> {
    let is_small = memory::of_json(text.as_bytes()).whole <= MAX_WHOLE;
    is_small.then(|| parse_object::<Raw<Value>>(text).err()).flatten()
}

impl Onboarding {
    /// Parses the metadata file's bytes.
    ///
    /// # Errors
    /// Returns an error if the bytes are not JSON (with line and column), not an object, or have no
    /// `coverage.gaps`.
    pub fn parse(bytes: &[u8]) -> Result<Onboarding, OnboardingError> {
        Sections::of(bytes)?.read()
    }
}

fn parse_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, OnboardingError> {
    let found = match text.bytes().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Some("an array"),
        Some(b'"') => Some("a string"),
        Some(b't' | b'f') => Some("a boolean"),
        Some(b'n') => Some("null"),
        Some(b'-' | b'0'..=b'9') => Some("a number"),
        _ => None,
    };
    let parsed = serde_json::from_str(text);
    // serde would accept an array of the right length as the struct, so check the first character.
    match (parsed, found) {
        (Ok(raw), None) => Ok(raw),
        (Err(error), found) if found.is_none() || !error.is_data() => Err(syntax(&error)),
        (_, found) => Err(OnboardingError::NotAnObject { found: found.unwrap_or("no object") }),
    }
}

fn syntax(error: &serde_json::Error) -> OnboardingError {
    OnboardingError::Syntax {
        line: error.line(),
        column: error.column().max(1),
        message: without_position(error),
    }
}

/// Removes ` at line L column C`, which serde_json appends: taskspan's message starts with the
/// position.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn gaps(
    coverage: &Map<String, Value>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>, OnboardingError> {
    let missing =
        OnboardingError::MissingKey { key: "coverage.gaps", expected: "an array of strings" };
    let Some(list) = coverage.get("gaps").and_then(Value::as_array) else {
        return Err(missing);
    };
    let gaps: Option<Vec<String>> =
        list.iter().map(|gap| gap.as_str().map(str::to_owned)).collect();
    let mut gaps = gaps.ok_or(missing)?;
    let listed = gaps.len();
    gaps.retain(|gap| !gap.is_empty());
    if gaps.len() < listed {
        warnings.push(Warning::EmptyGaps { count: listed - gaps.len() });
    }
    Ok(gaps)
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

/// Reads one entry of `parameter_resolvability`: `{artifact: {parameter: {"status": …}}}`.
fn unresolved(unresolved: &mut IndexMap<String, Vec<String>>, id: String, parameters: Value) {
    let of_artifact = parameters.as_object().into_iter().flatten();
    let names = of_artifact.filter(|(_, it)| it.get("status").is_some_and(|it| it == "unresolved"));
    let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        unresolved.insert(id, names);
    }
}

/// Indexes one entry of `file_ownership` by artifact. The section is keyed by path.
fn owners(owners: &mut IndexMap<String, (String, Option<String>)>, path: String, entry: Value) {
    let ids = json::strings(entry.get("artifact_ids"));
    let types = json::strings(entry.get("artifact_types"));
    for (index, id) in ids.iter().enumerate() {
        // The types are listed per artifact, or once for all of them.
        let kind = if types.len() == ids.len() { types.get(index) } else { types.first() };
        owners.entry(id.clone()).or_insert_with(|| (path.clone(), kind.cloned()));
    }
}

#[cfg(test)]
mod tests;
