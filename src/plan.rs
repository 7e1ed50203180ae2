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
mod manifest;
mod onboarding;
mod project_context;
mod provenance;

pub mod gate;
pub mod join;
pub mod read;

use std::fmt;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::base::ids::TaskId;

pub use emitted::{Emitted, NotEmitted, read_emitted, trace_of};
pub use manifest::Manifest;
pub use onboarding::Onboarding;
pub use project_context::ProjectContext;
pub use read::{CarriedId, Export, Fresh, PlanError, ReadOptions, read};

/// The artifacts that a project must build, joined from the three files of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub project: Project,
    pub export: ExportInfo,
    pub coverage: Coverage,
    /// Every artifact once, in manifest order.
    pub artifacts: Vec<Artifact>,
    /// Properties of each artifact type.
    pub types: IndexMap<String, TypeInfo>,
    /// Problems that did not stop the export.
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: String,
    /// The project id in the export's files, if the user configured another one as `id`.
    pub declared_id: Option<String>,
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
    pub source_checksum: Option<String>,
    pub artifact_manifest_checksum: Option<String>,
    pub project_context_checksum: Option<String>,
    pub generated_at: Option<String>,
    pub schema_version: Option<String>,
    pub generation_profile: Option<String>,
    pub manifest: ManifestUse,
}

/// Whether and how the artifact manifest was used (`export.manifest`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManifestUse {
    Used,
    #[default]
    Missing,
    Unreadable,
    ChecksumMismatch,
}

impl ManifestUse {
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
    pub total_required: Option<i64>,
    pub total_existing: Option<i64>,
    /// Number of entries in `coverage.gaps`.
    pub total_gaps: i64,
    /// In percent, as computed by the exporter. It can exceed 100.
    pub percent: Option<f64>,
}

/// An artifact to build, or one that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    pub id: TaskId,
    pub kind: String,
    pub name: String,
    pub target: String,
    pub priority: String,
    pub status: Status,
    /// Dependencies in the order of the export's graph, repeats included.
    pub depends_on: Vec<TaskId>,
    /// The parameters of the manifest, overridden by the resolved values.
    pub parameters: Map<String, Value>,
    pub derived_from: Vec<Rule>,
    pub output_path: Option<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Needed,
    Exists,
    Outdated,
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
    pub contract: Option<Map<String, Value>>,
    pub rules: Vec<Rule>,
    pub parameter_sources: Option<Map<String, Value>>,
    pub output_ext: Option<String>,
}

/// A problem in an export that did not stop it. Nothing was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error("the artifact manifest was not used ({reason}); emitting from the metadata alone")]
    ManifestNotUsed { reason: String },
    #[error("the ProjectContext was not used ({reason}); the project's owner is unknown")]
    ProjectContextNotUsed { reason: String },
    #[error(
        "run-provenance.json is of another version of the export; export.source_checksum is unknown"
    )]
    ProvenanceNotUsed,
    #[error("no project id anywhere; using `{id}` (set one with --project-id)")]
    NoProjectId { id: String },
    #[error("artifact ids with several manifest entries: {0}; the last entry of each is used")]
    DuplicateArtifacts(Examples),
    #[error("manifest entries without an id: {0}; they were ignored")]
    ArtifactsWithoutId(Examples),
    #[error(
        "artifacts with an unknown status: {0}; coverage.gaps decides whether each is needed or exists"
    )]
    UnknownStatuses(Examples),
    #[error("empty ids in coverage.gaps: {count}; they were ignored")]
    EmptyGaps { count: usize },
    #[error("`{section}` is not of the expected form and was ignored")]
    MalformedSection { section: String },
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
