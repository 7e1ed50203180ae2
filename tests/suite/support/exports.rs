//! Writes exports like the real exporter: first the siblings, then the metadata by rename.
//!
//! ```text
//! ExportBuilder::new("shop").artifact(Artifact::new("api-slo", "slo_definition")).write_into(dir)
//! ```
//!
//! The same builder always writes the same bytes. `presets` has builders for special cases.

pub mod presets;
mod render;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::snapshot::Snapshot;

/// The file name of the metadata.
pub const METADATA: &str = "onboarding-metadata.json";

/// An entry of the artifact manifest.
#[derive(Clone, Debug)]
pub struct Artifact {
    id: String,
    kind: String,
    name: String,
    target: String,
    priority: String,
    status: String,
    existing_path: Option<String>,
    parameters: Value,
    derived_from: Value,
    depends_on: Vec<String>,
}

impl Artifact {
    /// Returns an artifact with status `needed` and priority `required`, for the target
    /// `checkout-api`.
    pub fn new(id: &str, kind: &str) -> Self {
        Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            name: format!("The {id}"),
            target: "checkout-api".to_owned(),
            priority: "required".to_owned(),
            status: "needed".to_owned(),
            existing_path: None,
            parameters: json!({}),
            derived_from: json!([]),
            depends_on: Vec::new(),
        }
    }

    /// Sets `name` (default: `The {id}`).
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Sets `target`.
    pub fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    /// Sets `priority`: `required`, `recommended` or another text.
    pub fn priority(mut self, priority: &str) -> Self {
        self.priority = priority.to_owned();
        self
    }

    /// Sets `status`: `needed`, `exists`, `outdated`, `skipped` or another text.
    pub fn status(mut self, status: &str) -> Self {
        self.status = status.to_owned();
        self
    }

    /// Sets `existingPath`, which is absent by default.
    pub fn existing_path(mut self, path: &str) -> Self {
        self.existing_path = Some(path.to_owned());
        self
    }

    /// Sets `parameters`, a JSON object.
    pub fn parameters(mut self, parameters: Value) -> Self {
        self.parameters = parameters;
        self
    }

    /// Sets `derivedFrom`, the derivation rules of this artifact.
    pub fn derived_from(mut self, rules: Value) -> Self {
        self.derived_from = rules;
        self
    }

    /// Sets `dependsOn`, the ids that this artifact depends on.
    pub fn depends_on(mut self, ids: &[&str]) -> Self {
        self.depends_on = owned(ids);
        self
    }
}

/// The format of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifest {
    Yaml,
    Json,
    /// The file is missing, although the metadata names it.
    None,
}

/// The manifest's checksum in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    Wrong,
    Absent,
}

/// The formatting of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The exporter's style: two spaces, no newline at the end, ASCII only.
    Indent2,
    OneLine,
    Crlf,
    Bom,
    TrailingNewline,
}

impl Style {
    /// Every style.
    pub const ALL: [Self; 5] =
        [Self::Indent2, Self::OneLine, Self::Crlf, Self::Bom, Self::TrailingNewline];
}

/// Contents of the ProjectContext. `None` means that a field is missing.
#[derive(Clone, Debug, Default)]
struct Context {
    name: Option<String>,
    resource_name: Option<String>,
    owner: Option<String>,
    epic: Option<String>,
}

/// An export that is not written yet.
#[derive(Clone, Debug)]
#[must_use]
pub struct ExportBuilder {
    project_id: String,
    empty_project_id: bool,
    artifacts: Vec<Artifact>,
    extra_gaps: Vec<String>,
    gaps: Option<Vec<String>>,
    graph: Map<String, Value>,
    resolved: Map<String, Value>,
    contracts: Map<String, Value>,
    rules: Map<String, Value>,
    artifact_types: Map<String, Value>,
    mapping: Map<String, Value>,
    overrides: Map<String, Value>,
    manifest: Manifest,
    checksum: Checksum,
    style: Style,
    snake_case_coverage: bool,
    context: Option<Context>,
    /// `projectContext.name` in the manifest.
    manifest_name: Option<String>,
    /// The `inputs` in the record of the run. `None` means that there is no record.
    inputs: Option<Value>,
}

impl ExportBuilder {
    /// Starts an export without artifacts: YAML manifest, correct checksum, the exporter's style.
    pub fn new(project_id: &str) -> Self {
        Self {
            project_id: project_id.to_owned(),
            empty_project_id: false,
            artifacts: Vec::new(),
            extra_gaps: Vec::new(),
            gaps: None,
            graph: Map::new(),
            resolved: Map::new(),
            contracts: Map::new(),
            rules: Map::new(),
            artifact_types: Map::new(),
            mapping: Map::new(),
            overrides: Map::new(),
            manifest: Manifest::Yaml,
            checksum: Checksum::Right,
            style: Style::Indent2,
            snake_case_coverage: false,
            context: Some(Context::default()),
            manifest_name: None,
            inputs: None,
        }
    }

    /// Adds an artifact to the manifest.
    pub fn artifact(mut self, artifact: Artifact) -> Self {
        self.artifacts.push(artifact);
        self
    }

    /// Sets the list of gaps, instead of the ids of the needed artifacts.
    pub fn gaps(mut self, ids: &[&str]) -> Self {
        self.gaps = Some(owned(ids));
        self
    }

    /// Adds a gap that is not in the manifest.
    pub fn extra_gap(mut self, id: &str) -> Self {
        self.extra_gaps.push(id.to_owned());
        self
    }

    /// Sets the dependencies of an artifact in the metadata, in place of the manifest's
    /// `dependsOn`.
    pub fn graph(mut self, id: &str, depends_on: &[&str]) -> Self {
        self.graph.insert(id.to_owned(), json!(depends_on));
        self
    }

    /// Sets the resolved parameters of an artifact, in place of the manifest's.
    pub fn resolved(mut self, id: &str, parameters: Value) -> Self {
        self.resolved.insert(id.to_owned(), parameters);
        self
    }

    /// Sets the expected output contract of an artifact type.
    pub fn contract(mut self, kind: &str, contract: Value) -> Self {
        self.contracts.insert(kind.to_owned(), contract);
        self
    }

    /// Sets the derivation rules of an artifact type.
    pub fn rules(mut self, kind: &str, rules: Value) -> Self {
        self.rules.insert(kind.to_owned(), rules);
        self
    }

    /// Sets the description of an artifact type, with its `parameter_sources`.
    pub fn artifact_type(mut self, kind: &str, description: Value) -> Self {
        self.artifact_types.insert(kind.to_owned(), description);
        self
    }

    /// Maps an artifact to a task id of the plan (`artifact_task_mapping`).
    pub fn mapped_task(mut self, id: &str, task: &str) -> Self {
        self.mapping.insert(id.to_owned(), json!(task));
        self
    }

    /// Sets a top-level key of the metadata. `null` removes it.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.overrides.insert(key.to_owned(), value);
        self
    }

    /// Replaces a section with the marker of smaller profiles.
    pub fn omit(self, section: &str) -> Self {
        self.with(section, json!({"_omitted": "profile=source"}))
    }

    /// Sets the format of the manifest.
    pub fn manifest(mut self, manifest: Manifest) -> Self {
        self.manifest = manifest;
        self
    }

    /// Sets whether the manifest's checksum is correct.
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Sets the formatting of the metadata.
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Writes the keys of `coverage` in snake_case.
    pub fn snake_case_coverage(mut self) -> Self {
        self.snake_case_coverage = true;
        self
    }

    /// Empties the project id in the metadata. The manifest keeps it.
    pub fn empty_project_id(mut self) -> Self {
        self.empty_project_id = true;
        self
    }

    /// Sets `spec.project.name` in the ProjectContext.
    pub fn project_name(mut self, name: &str) -> Self {
        self.context.get_or_insert_default().name = Some(name.to_owned());
        self
    }

    /// Sets `metadata.name` in the ProjectContext (default: the project id).
    pub fn resource_name(mut self, name: &str) -> Self {
        self.context.get_or_insert_default().resource_name = Some(name.to_owned());
        self
    }

    /// Sets `projectContext.name` in the manifest.
    pub fn manifest_name(mut self, name: &str) -> Self {
        self.manifest_name = Some(name.to_owned());
        self
    }

    /// Sets `spec.project.epic` in the ProjectContext.
    pub fn epic(mut self, epic: &str) -> Self {
        self.context.get_or_insert_default().epic = Some(epic.to_owned());
        self
    }

    /// Adds a `run-provenance.json` with these inputs, and with the hash of the metadata.
    pub fn recorded_inputs(mut self, inputs: Value) -> Self {
        self.inputs = Some(inputs);
        self
    }

    /// Sets `spec.business.owner` in the ProjectContext.
    pub fn owner(mut self, owner: &str) -> Self {
        self.context.get_or_insert_default().owner = Some(owner.to_owned());
        self
    }

    /// Leaves out the ProjectContext, although the metadata names it.
    pub fn no_context(mut self) -> Self {
        self.context = None;
        self
    }

    /// Returns the bytes of the metadata, as `write_into` writes them.
    pub fn metadata(&self) -> Vec<u8> {
        let manifest = self.manifest_bytes().unwrap_or_default();
        let context = self.context_bytes().unwrap_or_default();
        self.metadata_bytes(&manifest, &context)
    }

    /// Writes the export into `dir`, which is created if needed.
    pub fn write_into(&self, dir: &Path) -> Written {
        fs::create_dir_all(dir).unwrap();
        let manifest = self.manifest_bytes().map(|bytes| {
            let path = dir.join(self.manifest_path());
            fs::write(&path, bytes).unwrap();
            path
        });
        let context = self.context_bytes().map(|bytes| {
            let path = dir.join(self.context_path());
            fs::write(&path, bytes).unwrap();
            path
        });
        if let Some(record) = self.record_bytes(&self.metadata()) {
            fs::write(dir.join("run-provenance.json"), record).unwrap();
        }
        let snapshot = write_metadata(dir, &self.metadata());
        Written { metadata: snapshot.path.clone(), snapshot, manifest, context }
    }
}

/// Writes the metadata by rename. The snapshot is taken before the rename, because a running
/// sidecar may change the file directly after it.
pub fn write_metadata(dir: &Path, bytes: &[u8]) -> Snapshot {
    let target = dir.join(METADATA);
    let temp = dir.join(".onboarding-metadata.json.tmp");
    fs::write(&temp, bytes).unwrap();
    let snapshot = Snapshot {
        canonical: dir.canonicalize().unwrap().join(METADATA),
        path: target.clone(),
        ..Snapshot::of(&temp)
    };
    fs::rename(&temp, &target).unwrap();
    snapshot
}

/// An export on disk, with the snapshot of its metadata.
#[derive(Clone, Debug)]
pub struct Written {
    pub metadata: PathBuf,
    pub manifest: Option<PathBuf>,
    pub context: Option<PathBuf>,
    pub snapshot: Snapshot,
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}
