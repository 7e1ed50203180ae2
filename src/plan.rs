//! One export on disk becomes one [`Plan`].
//!
//! ```text
//! onboarding-metadata.json ─▶ onboarding ─┐
//! artifact manifest ─────────▶ manifest ──┼─▶ join ─▶ Plan
//! ProjectContext ─▶ project_context ──────┘
//! ```
//!
//! `read` touches the disk; the parsers and the join are pure. `provenance` fills in a checksum that
//! the metadata may lack.

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

/// What one export says is to be built, joined from its three files.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub project: Project,
    pub export: ExportInfo,
    pub coverage: Coverage,
    /// Every artifact once, in manifest order.
    pub artifacts: Vec<Artifact>,
    /// What the export says about a type of artifact as such.
    pub types: IndexMap<String, TypeInfo>,
    /// What was found amiss without stopping the export.
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: String,
    /// The id in the export's files, where `id` is one that the user set instead.
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

/// Where the export comes from, as far as it says so.
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

/// What became of the artifact manifest (`export.manifest`).
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

/// The export's own figures; what it does not say stays unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    pub total_required: Option<i64>,
    pub total_existing: Option<i64>,
    /// The length of `coverage.gaps`.
    pub total_gaps: i64,
    /// In percent; the exporter's own figure, which can exceed 100.
    pub percent: Option<f64>,
}

/// One thing to build, or built already.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    pub id: TaskId,
    pub kind: String,
    pub name: String,
    pub target: String,
    pub priority: String,
    pub status: Status,
    /// In the order of the export's graph, repeats included.
    pub depends_on: Vec<TaskId>,
    /// Resolved values over those of the manifest.
    pub parameters: Map<String, Value>,
    pub derived_from: Vec<Rule>,
    pub output_path: Option<String>,
    pub existing_path: Option<String>,
    /// The id that a later phase uses for it, from `artifact_task_mapping`.
    pub mapped_id: Option<String>,
    /// How many manifest entries have this id; 0 for one that the manifest does not list.
    pub entries: usize,
    /// Parameters whose source the exporter could not resolve, from `parameter_resolvability`.
    pub parameters_unresolved: Vec<String>,
}

/// Why a thing is as it is: passed through as JSON, and so kept as its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Box<str>);

impl Rule {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Rule {
    /// The rule with the artifacts that it is of, as a first member `artifact_ids`.
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
    /// The value of `artifact.status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Needed => "needed",
            Status::Exists => "exists",
            Status::Outdated => "outdated",
            Status::Skipped => "skipped",
        }
    }

    /// The status of this name; `None` if it is none of the four.
    fn parse(text: &str) -> Option<Status> {
        let all = [Status::Needed, Status::Exists, Status::Outdated, Status::Skipped];
        all.into_iter().find(|status| status.as_str() == text)
    }

    /// Returns whether the artifact is needed or outdated.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Needed | Status::Outdated)
    }
}

/// What holds for every artifact of a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeInfo {
    pub contract: Option<Map<String, Value>>,
    pub rules: Vec<Rule>,
    pub parameter_sources: Option<Map<String, Value>>,
    pub output_ext: Option<String>,
}

/// Something odd in an export that did not stop it: nothing was lost, but a person may want to know.
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

/// The subjects of a warning: their number and the first three names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    count: usize,
    first: Vec<String>,
}

impl Examples {
    /// More names than this make a log line unreadable.
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

    /// The warning, if it is about anything.
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
