//! Writes exports like the real exporter: the siblings first, then the metadata into a temp file
//! that is renamed.
//!
//! ```text
//! ExportBuilder::new("shop").artifact(Artifact::new("api-slo", "slo_definition")).write_into(dir)
//! ```
//!
//! The same builder always writes the same bytes. `presets` has builders for special properties.

pub mod presets;
mod render;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::snapshot::Snapshot;

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
    /// A required artifact of the target `checkout-api` that is needed.
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

    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    pub fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub fn priority(mut self, priority: &str) -> Self {
        self.priority = priority.to_owned();
        self
    }

    pub fn status(mut self, status: &str) -> Self {
        self.status = status.to_owned();
        self
    }

    pub fn existing_path(mut self, path: &str) -> Self {
        self.existing_path = Some(path.to_owned());
        self
    }

    pub fn parameters(mut self, parameters: Value) -> Self {
        self.parameters = parameters;
        self
    }

    pub fn derived_from(mut self, rules: Value) -> Self {
        self.derived_from = rules;
        self
    }

    pub fn depends_on(mut self, ids: &[&str]) -> Self {
        self.depends_on = owned(ids);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifest {
    Yaml,
    Json,
    /// The metadata names one, but the file is missing.
    None,
}

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
    /// `inputs[]` of the run's record.
    inputs: Option<Value>,
}

impl ExportBuilder {
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

    /// Adds an entry of the dependency graph that differs from the manifest's `dependsOn`.
    pub fn graph(mut self, id: &str, depends_on: &[&str]) -> Self {
        self.graph.insert(id.to_owned(), json!(depends_on));
        self
    }

    /// Sets resolved parameters that differ from the manifest's.
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

    pub fn mapped_task(mut self, id: &str, task: &str) -> Self {
        self.mapping.insert(id.to_owned(), json!(task));
        self
    }

    /// Replaces a top-level key of the metadata. `null` removes it.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.overrides.insert(key.to_owned(), value);
        self
    }

    /// Replaces a section with the marker that smaller profiles write.
    pub fn omit(self, section: &str) -> Self {
        self.with(section, json!({"_omitted": "profile=source"}))
    }

    pub fn manifest(mut self, manifest: Manifest) -> Self {
        self.manifest = manifest;
        self
    }

    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    pub fn snake_case_coverage(mut self) -> Self {
        self.snake_case_coverage = true;
        self
    }

    /// Empties the project id in the metadata. The manifest keeps it.
    pub fn empty_project_id(mut self) -> Self {
        self.empty_project_id = true;
        self
    }

    pub fn project_name(mut self, name: &str) -> Self {
        self.context.get_or_insert_default().name = Some(name.to_owned());
        self
    }

    /// Sets the name of the Kubernetes resource.
    pub fn resource_name(mut self, name: &str) -> Self {
        self.context.get_or_insert_default().resource_name = Some(name.to_owned());
        self
    }

    pub fn manifest_name(mut self, name: &str) -> Self {
        self.manifest_name = Some(name.to_owned());
        self
    }

    pub fn epic(mut self, epic: &str) -> Self {
        self.context.get_or_insert_default().epic = Some(epic.to_owned());
        self
    }

    /// Adds a `run-provenance.json` with these inputs and the hash of the metadata.
    pub fn recorded_inputs(mut self, inputs: Value) -> Self {
        self.inputs = Some(inputs);
        self
    }

    pub fn owner(mut self, owner: &str) -> Self {
        self.context.get_or_insert_default().owner = Some(owner.to_owned());
        self
    }

    /// Makes the metadata name a ProjectContext that does not exist.
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

    /// Writes the export and returns its state.
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

/// Writes the metadata by rename. The snapshot is taken before the rename, because a sidecar may
/// change the file afterwards.
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

/// An export in the state in which it was written.
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
