//! Reads one export from disk into one [`Plan`].
//!
//! ```text
//! onboarding-metadata.json ─▶ onboarding ─┐
//! artifact manifest ─────────▶ manifest ──┼─▶ join ─▶ Plan
//! ProjectContext ─▶ project_context ──────┘
//! ```
//!
//! Only `read` accesses the disk; the parsers and the join are pure. `provenance` adds a checksum
//! that the metadata may lack.

mod emitted;
mod json;
mod memory;
mod provenance;

pub(crate) mod gate;
pub(crate) mod join;
pub(crate) mod manifest;
pub(crate) mod onboarding;
pub(crate) mod project_context;
pub(crate) mod read;

use std::fmt;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::base::ids::TaskId;

pub(crate) use emitted::{Emitted, NotEmitted, read_emitted, trace_of};
pub(crate) use manifest::Manifest;
pub(crate) use onboarding::Onboarding;
pub(crate) use project_context::ProjectContext;
pub use read::{CarriedId, Export, Fresh, PlanError, ReadOptions, read};

/// The artifacts that a project must build, joined from the three files of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the plan is for.
    pub project: Project,
    /// Where the plan is from.
    pub export: ExportInfo,
    /// How much of the plan exists.
    pub coverage: Coverage,
    /// Every artifact once, in manifest order.
    pub artifacts: Vec<Artifact>,
    /// Properties of each artifact type.
    pub types: IndexMap<String, TypeInfo>,
    /// Problems that did not stop the export.
    pub warnings: Vec<Warning>,
}

/// A project, as far as its export describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The project id: configured, or from the files.
    pub id: String,
    /// The project id in the export's files, if the user configured another one as `id`.
    pub declared_id: Option<String>,
    /// The name, or the id if the files have no name.
    pub name: String,
    /// `spec.business.owner` of the ProjectContext.
    pub owner: Option<String>,
    /// `spec.project.epic` of the ProjectContext.
    pub epic: Option<String>,
}

impl Project {
    /// Whether `id` is the project's id, or the one in its files.
    pub fn is_named(&self, id: &str) -> bool {
        self.id == id || self.declared_id.as_deref() == Some(id)
    }
}

/// The origin of the export, as far as the export has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Checksum of the ProjectContext, from the metadata or `run-provenance.json`.
    pub source_checksum: Option<String>,
    /// Checksum of the artifact manifest, from the metadata.
    pub artifact_manifest_checksum: Option<String>,
    /// Checksum of the ProjectContext file, from the metadata.
    pub project_context_checksum: Option<String>,
    /// The time of the export, as the exporter wrote it.
    pub generated_at: Option<String>,
    /// Version of the metadata's format.
    pub schema_version: Option<String>,
    /// The exporter's profile.
    pub generation_profile: Option<String>,
    /// Whether the artifact manifest is part of the plan.
    pub manifest: ManifestUse,
}

/// Whether and how the artifact manifest was used (`export.manifest`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManifestUse {
    /// It was used.
    Used,
    /// The export has none.
    #[default]
    Missing,
    /// It could not be read or parsed.
    Unreadable,
    /// It is not the version that the metadata was made with.
    ChecksumMismatch,
}

impl ManifestUse {
    /// Returns the value of `export.manifest`.
    pub fn as_str(self) -> &'static str {
        match self {
            ManifestUse::Used => "used",
            ManifestUse::Missing => "missing",
            ManifestUse::Unreadable => "unreadable",
            ManifestUse::ChecksumMismatch => "checksum_mismatch",
        }
    }
}

/// Figures from the export. `None` for what it does not have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    /// Number of artifacts that the project requires.
    pub total_required: Option<i64>,
    /// Number of required artifacts that exist.
    pub total_existing: Option<i64>,
    /// Number of entries in `coverage.gaps`.
    pub total_gaps: i64,
    /// In percent, as computed by the exporter. It can exceed 100.
    pub percent: Option<f64>,
}

/// An artifact to build, or one that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The artifact id.
    pub id: TaskId,
    /// The artifact type, such as `dashboard`.
    pub kind: String,
    /// The name that people read.
    pub name: String,
    /// The service or component that the artifact is for.
    pub target: String,
    /// The priority, as the exporter wrote it.
    pub priority: String,
    /// Whether the artifact has to be built.
    pub status: Status,
    /// Dependencies in the order of the export's graph, repeats included.
    pub depends_on: Vec<TaskId>,
    /// The parameters of the manifest, overridden by the resolved values.
    pub parameters: Map<String, Value>,
    /// Rules by which the exporter derived the artifact.
    pub derived_from: Vec<Rule>,
    /// Where the artifact is to be written.
    pub output_path: Option<String>,
    /// Where the artifact is, if it exists.
    pub existing_path: Option<String>,
    /// The id that a later phase uses for the artifact, from `artifact_task_mapping`.
    pub mapped_id: Option<String>,
    /// Number of manifest entries with this id. 0 if the manifest does not list it.
    pub entries: usize,
    /// Parameters that the exporter could not resolve, from `parameter_resolvability`.
    pub parameters_unresolved: Vec<String>,
}

/// A derivation rule: why an artifact is required. taskspan passes it on as JSON, so it is kept as
/// text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Box<str>);

impl Rule {
    /// Returns the rule as JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Rule {
    /// Returns the rule with the ids of its artifacts in front, as the member `artifact_ids`.
    pub fn of_artifacts(&self, ids: &[&TaskId]) -> Rule {
        let ids = Value::from_iter(ids.iter().map(|id| id.as_str()));
        Rule(match self.0.strip_prefix('{') {
            Some("}") => format!(r#"{{"artifact_ids":{ids}}}"#).into(),
            Some(members) => format!(r#"{{"artifact_ids":{ids},{members}"#).into(),
            None => format!(r#"{{"artifact_ids":{ids},"rule":{}}}"#, self.0).into(),
        })
    }
}

impl From<&Value> for Rule {
    fn from(value: &Value) -> Rule {
        Rule(value.to_string().into())
    }
}

/// Whether an artifact has to be built (`artifact.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It has to be built.
    Needed,
    /// It exists.
    Exists,
    /// It exists and has to be built anew.
    Outdated,
    /// It is deliberately not built.
    Skipped,
}

impl Status {
    /// Returns the value of `artifact.status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Needed => "needed",
            Status::Exists => "exists",
            Status::Outdated => "outdated",
            Status::Skipped => "skipped",
        }
    }

    /// Parses a status. `None` if it is not one of the four.
    fn parse(text: &str) -> Option<Status> {
        let all = [Status::Needed, Status::Exists, Status::Outdated, Status::Skipped];
        all.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the artifact is needed or outdated.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Needed | Status::Outdated)
    }
}

/// Properties that all artifacts of a type share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeInfo {
    /// The contract for a valid result.
    pub contract: Option<Map<String, Value>>,
    /// Derivation rules of the type.
    pub rules: Vec<Rule>,
    /// Where each parameter is from.
    pub parameter_sources: Option<Map<String, Value>>,
    /// File extension of a result.
    pub output_ext: Option<String>,
}

/// A problem in an export that did not stop it. Nothing was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The plan is made without the artifact manifest.
    #[error("the artifact manifest was not used ({reason}); emitting from the metadata alone")]
    ManifestNotUsed {
        /// Why.
        reason: String,
    },
    /// The plan is made without the ProjectContext.
    #[error("the ProjectContext was not used ({reason}); the project's owner is unknown")]
    ProjectContextNotUsed {
        /// Why.
        reason: String,
    },
    /// `run-provenance.json` belongs to another export.
    #[error(
        "run-provenance.json is of another version of the export; export.source_checksum is unknown"
    )]
    ProvenanceNotUsed,
    /// No file has a project id.
    #[error("no project id anywhere; using `{id}` (set one with --project-id)")]
    NoProjectId {
        /// The id that is used.
        id: String,
    },
    /// The manifest lists an artifact more than once.
    #[error("artifact ids with several manifest entries: {0}; the last entry of each is used")]
    DuplicateArtifacts(Examples),
    /// The manifest lists artifacts without an id.
    #[error("manifest entries without an id: {0}; they were ignored")]
    ArtifactsWithoutId(Examples),
    /// The manifest has statuses that are none of the four.
    #[error(
        "artifacts with an unknown status: {0}; coverage.gaps decides whether each is needed or exists"
    )]
    UnknownStatuses(Examples),
    /// `coverage.gaps` has empty entries.
    #[error("empty ids in coverage.gaps: {count}; they were ignored")]
    EmptyGaps {
        /// Number of empty entries.
        count: usize,
    },
    /// A section of the metadata has an unexpected form.
    #[error("`{section}` is not of the expected form and was ignored")]
    MalformedSection {
        /// The key of the section.
        section: String,
    },
}

/// The subjects of a warning: their number, and the first three names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    count: usize,
    first: Vec<String>,
}

impl Examples {
    /// Maximum number of names in a log line.
    const SHOWN: usize = 3;

    fn add(&mut self, name: impl FnOnce() -> String) {
        if self.count < Examples::SHOWN {
            self.first.push(name());
        }
        self.count += 1;
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the warning if there are subjects.
    fn warn(self, warning: impl FnOnce(Examples) -> Warning, warnings: &mut Vec<Warning>) {
        if !self.is_empty() {
            warnings.push(warning(self));
        }
    }
}

impl fmt::Display for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = match self.count - self.first.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        write!(f, "{} ({}{more})", self.count, self.first.join(", "))
    }
}
