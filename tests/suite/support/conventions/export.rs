//! Reads and joins the three files of an export, independently of the product's code.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// An artifact, joined from the files of the export.
pub struct Task {
    pub id: String,
    pub kind: String,
    pub name: String,
    pub target: String,
    pub priority: String,
    pub status: String,
    pub output_path: Option<String>,
    pub existing_path: Option<String>,
    pub mapped_id: Option<String>,
    /// Number of manifest entries with this id.
    pub entries: usize,
    pub unresolved: Vec<String>,
    pub parameters: Map<String, Value>,
    pub depends_on: Vec<String>,
    /// The artifact's own derivation rules, else its type's.
    pub rules: Vec<Value>,
}

/// An export, joined from its three files.
pub struct Export {
    pub metadata: Value,
    pub project_id: String,
    pub project_name: String,
    pub owner: Option<String>,
    pub epic: Option<String>,
    /// From the metadata, else from the record of the run.
    pub source_checksum: Option<String>,
    /// The values that `export.manifest` may have.
    pub manifest_states: &'static [&'static str],
    /// In manifest order, each id once.
    pub tasks: Vec<Task>,
    pub gap_count: usize,
}

impl Export {
    /// Reads and joins the files below `dir`. `project_id` overrides the export's. Returns an error
    /// if the metadata is not JSON or has no coverage.
    pub fn read(dir: &Path, metadata: &[u8], project_id: Option<&str>) -> Result<Self, String> {
        let metadata = metadata.strip_prefix("\u{feff}".as_bytes()).unwrap_or(metadata);
        let metadata: Value = serde_json::from_slice(metadata).map_err(|e| e.to_string())?;
        let coverage = metadata.get("coverage").ok_or("the export has no coverage")?.clone();
        let mut gaps = texts(&coverage["gaps"]);
        gaps.retain(|gap| !gap.is_empty());

        let (manifest, manifest_states) = read_manifest(dir, &metadata);
        let context = sibling(dir, &metadata["project_context_path"]).ok().and_then(|b| yaml(&b));
        let context = context.unwrap_or_default();

        let candidates = [&metadata["project_id"], &manifest["metadata"]["projectId"]];
        let project_id = project_id
            .map(str::to_owned)
            .or_else(|| candidates.into_iter().find_map(text))
            .unwrap_or_else(|| "unknown-project".to_owned());
        let names = [
            &context["spec"]["project"]["name"],
            &manifest["projectContext"]["name"],
            &context["metadata"]["name"],
        ];
        let project_name = names.into_iter().find_map(text).unwrap_or_else(|| project_id.clone());
        let owner = text(&context["spec"]["business"]["owner"]);
        let epic = text(&context["spec"]["project"]["epic"]);
        let source_checksum =
            text(&metadata["source_checksum"]).or_else(|| recorded_source(dir, &manifest));

        let join = Join { metadata: &metadata, coverage: &coverage, gaps: &gaps };
        let tasks = join.tasks(&manifest);
        let gap_count = gaps.len();
        Ok(Self {
            metadata,
            project_id,
            project_name,
            owner,
            epic,
            source_checksum,
            manifest_states,
            tasks,
            gap_count,
        })
    }

    /// Returns a top-level string of the metadata. `None` if it is missing or empty.
    pub fn text(&self, key: &str) -> Option<String> {
        text(&self.metadata[key])
    }

    /// Returns the entry for a type or an artifact in an optional section. `None` if it is missing
    /// or null.
    pub fn entry(&self, section: &str, key: &str) -> Option<&Value> {
        entry(&self.metadata, section, key)
    }

    /// Returns a coverage figure in either spelling. `None` if it is missing.
    pub fn coverage(&self, camel: &str, snake: &str) -> Option<f64> {
        let coverage = &self.metadata["coverage"];
        coverage.get(camel).or_else(|| coverage.get(snake))?.as_f64()
    }

    /// Returns the artifact types, sorted, each once.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.tasks.iter().map(|task| task.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Returns the expected output contract of a type.
    pub fn contract(&self, kind: &str) -> Option<&Value> {
        self.entry("expected_output_contracts", kind)
    }

    /// Returns the completeness markers in the contract of a type.
    pub fn completeness_markers(&self, kind: &str) -> Vec<String> {
        self.contract(kind).map_or_else(Vec::new, |c| texts(&c["completeness_markers"]))
    }

    /// Whether the export has an artifact with this id.
    pub fn has_task(&self, id: &str) -> bool {
        self.tasks.iter().any(|task| task.id == id)
    }
}

/// The metadata that is joined with the manifest.
struct Join<'a> {
    metadata: &'a Value,
    coverage: &'a Value,
    gaps: &'a [String],
}

impl Join<'_> {
    fn tasks(&self, manifest: &Value) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        if manifest.is_object() {
            // If an id is repeated, its last entry counts, at the position of the first.
            for entry in manifest["artifacts"].as_array().into_iter().flatten() {
                let Some(id) = text(&entry["id"]) else { continue };
                match tasks.iter_mut().find(|task| task.id == id) {
                    Some(task) => {
                        *task = Task { entries: task.entries + 1, ..self.task(id, entry) };
                    }
                    None => tasks.push(Task { entries: 1, ..self.task(id, entry) }),
                }
            }
        }
        let mut add = |id: String, entry: &Value| {
            if !tasks.iter().any(|task| task.id == id) {
                tasks.push(self.task(id, entry));
            }
        };
        for gap in self.gaps {
            add(gap.clone(), &Value::Null);
        }
        // Without a manifest, only these sections list the artifacts that exist.
        if !manifest.is_object() {
            for section in ["resolved_artifact_parameters", "artifact_dependency_graph"] {
                for id in section_of(self.metadata, section).into_iter().flat_map(Map::keys) {
                    add(id.clone(), &Value::Null);
                }
            }
        }
        tasks
    }

    fn task(&self, id: String, entry: &Value) -> Task {
        let or = |key: &str, fallback: &str| text(&entry[key]).unwrap_or(fallback.to_owned());
        let (owned_path, owned_kind) = self.owned_file(&id);
        let target_with_gap = self.target_with_gap(&id);
        let in_gaps = self.gaps.contains(&id);
        let kind = or("type", owned_kind.as_deref().unwrap_or("unknown"));

        let mut parameters = entry["parameters"].as_object().cloned().unwrap_or_default();
        let resolved = self.entry("resolved_artifact_parameters", &id);
        parameters.extend(resolved.and_then(Value::as_object).cloned().unwrap_or_default());

        let own_rules = entry["derivedFrom"].as_array().filter(|rules| !rules.is_empty());
        let type_rules = || self.entry("derivation_rules", &kind).and_then(Value::as_array);
        let rules = own_rules.or_else(type_rules).cloned().unwrap_or_default();

        let depends_on = match self.entry("artifact_dependency_graph", &id) {
            Some(ids) => texts(ids),
            None => texts(&entry["dependsOn"]),
        };
        let priority = match (&target_with_gap, in_gaps) {
            (Some(_), _) => "required",
            (None, true) => "recommended",
            (None, false) => "unknown",
        };
        Task {
            name: or("name", &id),
            target: or("target", target_with_gap.as_deref().unwrap_or("unknown")),
            priority: or("priority", priority),
            status: text(&entry["status"])
                .filter(|it| ["needed", "exists", "outdated", "skipped"].contains(&it.as_str()))
                .unwrap_or_else(|| if in_gaps { "needed" } else { "exists" }.to_owned()),
            output_path: owned_path.or_else(|| text(&entry["outputPath"])),
            existing_path: text(&entry["existingPath"]),
            mapped_id: self.entry("artifact_task_mapping", &id).and_then(text),
            entries: 0,
            unresolved: self
                .entry("parameter_resolvability", &id)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter(|(_, how)| how["status"] == "unresolved")
                .map(|(name, _)| name.clone())
                .collect(),
            kind,
            parameters,
            depends_on,
            rules,
            id,
        }
    }

    fn entry(&self, section: &str, key: &str) -> Option<&Value> {
        entry(self.metadata, section, key)
    }

    /// Returns the path and the type of the file that belongs to an artifact.
    fn owned_file(&self, id: &str) -> (Option<String>, Option<String>) {
        let files = section_of(self.metadata, "file_ownership").into_iter().flatten();
        for (path, owner) in files {
            if let Some(at) = texts(&owner["artifact_ids"]).iter().position(|other| other == id) {
                let kinds = texts(&owner["artifact_types"]);
                return (Some(path.clone()), kinds.get(at).or(kinds.first()).cloned());
            }
        }
        (None, None)
    }

    fn target_with_gap(&self, id: &str) -> Option<String> {
        let by_target = self.coverage.get("byTarget").or_else(|| self.coverage.get("by_target"))?;
        let mut targets = by_target.as_array()?.iter();
        let target = targets.find(|t| words(&t["gaps"]).any(|gap| gap == id))?;
        text(&target["target"])
    }
}

fn read_manifest(dir: &Path, metadata: &Value) -> (Value, &'static [&'static str]) {
    let bytes = match sibling(dir, &metadata["artifact_manifest_path"]) {
        Ok(bytes) => bytes,
        Err(states) => return (Value::Null, states),
    };
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let expected = text(&metadata["artifact_manifest_checksum"]);
    if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&digest)) {
        return (Value::Null, &["checksum_mismatch"]);
    }
    match yaml(&bytes) {
        Some(manifest) if manifest.is_object() => (manifest, &["used"]),
        _ => (Value::Null, &["unreadable"]),
    }
}

/// Returns the hash of the source from the record of the run.
fn recorded_source(dir: &Path, manifest: &Value) -> Option<String> {
    let record = fs::read(dir.join("run-provenance.json")).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    let source = text(&manifest["metadata"]["generatedFrom"])?;
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let is_source =
        |input: &&Value| text(&input["path"]).is_some_and(|path| name(&path) == name(&source));
    text(&record["inputs"].as_array()?.iter().find(is_source)?["sha256"])
}

/// Reads a file next to the metadata. If it cannot be read, the error has the values that
/// `export.manifest` may have.
fn sibling(dir: &Path, path: &Value) -> Result<Vec<u8>, &'static [&'static str]> {
    let Some(path) = text(path).map(PathBuf::from) else {
        return Err(&["missing"]);
    };
    if path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
        return Err(&["unreadable", "missing"]);
    }
    let Ok(real) = dir.join(path).canonicalize() else {
        return Err(&["missing"]);
    };
    if !real.starts_with(dir.canonicalize().unwrap()) {
        return Err(&["unreadable", "missing"]);
    }
    fs::read(real).map_err(|_| &["unreadable"] as &'static [&'static str])
}

/// Parses YAML, which includes JSON. The default budget refuses manifests of normal size, so there
/// is none.
fn yaml(bytes: &[u8]) -> Option<Value> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    let options = serde_saphyr::options! { budget: None };
    serde_saphyr::from_str_with_options(std::str::from_utf8(bytes).ok()?, options).ok()
}

/// Returns a section of the metadata, unless it is missing or omitted.
fn section_of<'a>(metadata: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    metadata[name].as_object().filter(|section| !section.contains_key("_omitted"))
}

fn entry<'a>(metadata: &'a Value, section: &str, key: &str) -> Option<&'a Value> {
    section_of(metadata, section)?.get(key).filter(|value| !value.is_null())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    words(value).map(str::to_owned).collect()
}

fn words(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
