//! Reads an emitted export again, to add spans to its trace.

use std::path::{Path, PathBuf};

use super::read::read_located;
use super::{CarriedId, Export, Fresh, Plan, PlanError, Project, ReadOptions};
use crate::base::ids::TraceId;
use crate::fs::carried;
use crate::fs::carried::WriteBackMode;
use crate::fs::directory::Located;
use crate::fs::file::FileVersion;
use crate::fs::root::Roots;
use crate::fs::stamp::IdOrigin;

#[derive(Clone, Debug)]
pub(crate) struct Emitted {
    pub(crate) source: FileVersion,
    /// The trace id in the metadata file, or in the file next to it.
    pub(crate) trace_id: TraceId,
    pub(crate) plan: Plan,
    /// Why the plan may differ from the one that was emitted.
    pub(crate) doubt: Option<String>,
}

/// Why there is no trace to add to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotEmitted {
    #[error(transparent)]
    Unreadable(#[from] PlanError),
    #[error(
        "{}: not emitted yet: it has no task_trace_id; run `taskspan once {}`",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )]
    NoId { path: PathBuf, project: Box<Project> },
    #[error(
        "{}: nothing says which trace it became, because write_back is off for it; with \
         `write_back: {{mode: beside}}` the id goes into a file next to it",
        .0.display()
    )]
    Off(PathBuf),
    #[error("{}: task_trace_id is `{text}`, which is no trace id", path.display())]
    BadId { path: PathBuf, text: String },
}

impl NotEmitted {
    /// Returns the memory that the export may take in bytes, if that is more than `max_memory`.
    pub(crate) fn needs_memory(&self) -> Option<u64> {
        match self {
            NotEmitted::Unreadable(PlanError::NoRoom { needs, .. }) => Some(*needs),
            _ => None,
        }
    }
}

/// Reads an export and its trace id. Blocks on disk I/O.
///
/// # Errors
/// Returns an error if the export cannot be read, and the errors of [`trace_of`].
pub(crate) fn read_emitted(
    roots: &Roots,
    path: &Path,
    options: &ReadOptions,
    mode: WriteBackMode,
) -> Result<Emitted, NotEmitted> {
    let all = ReadOptions { emit_existing: true, ..options.clone() };
    let metadata = roots.locate(path).map_err(PlanError::Source)?;
    let path = path.to_owned();
    let fresh = match read_located(&metadata, &all)? {
        Export::Fresh(fresh) => *fresh,
        // The options ask for an export with an id to be returned as `Fresh`.
        Export::Emitted(CarriedId { text, .. }) => return Err(NotEmitted::BadId { path, text }),
    };
    let trace_id = trace_of(&metadata, &fresh, options, mode)?;
    let manifest_at = fresh.manifest_mtime_ns;
    let is_newer = fresh.is_manifest_unchecked
        && manifest_at.is_some_and(|manifest_at| manifest_at > fresh.source.mtime_ns);
    let newer = fresh.manifest.filter(|_| is_newer);
    let is_foreign = fresh.carries.as_ref().is_some_and(|it| {
        it.origin == IdOrigin::Foreign && TraceId::from_hex(&it.text) == Some(trace_id)
    });
    let foreign = is_foreign.then(|| {
        format!(
            "{}: taskspan did not write task_trace_id; its trace may not have this plan",
            path.display()
        )
    });
    let newer = newer.map(|manifest| {
        format!(
            "{} has changed since the export was emitted; a task that it lists since then has no \
             span",
            manifest.display()
        )
    });
    let doubt = foreign.or(newer);
    Ok(Emitted { source: fresh.source, trace_id, plan: fresh.plan, doubt })
}

/// Returns the trace id from the file next to the export, else from the metadata file. Blocks on
/// disk I/O.
///
/// # Errors
/// Returns `NoId` if there is no id, `Off` if there is none and the write-back is off, `BadId` if
/// it is not a trace id, and `Unreadable` if the file next to the export cannot be read.
pub(crate) fn trace_of(
    metadata: &Located,
    fresh: &Fresh,
    options: &ReadOptions,
    mode: WriteBackMode,
) -> Result<TraceId, NotEmitted> {
    let path = metadata.path().to_owned();
    // With `emit_existing`, an id may come from an earlier export, so only an id that taskspan
    // wrote counts.
    let own = match options.emit_existing {
        true => fresh.own_id(),
        false => fresh.carries.as_ref().map(|it| it.text.as_str()),
    };
    let beside =
        carried::id_beside_of(metadata, &fresh.source.sha256).map_err(PlanError::Source)?;
    let text = match beside.or(own.map(str::to_owned)) {
        Some(text) => text,
        None if mode == WriteBackMode::Off => return Err(NotEmitted::Off(path)),
        None => {
            let project = Box::new(fresh.plan.project.clone());
            return Err(NotEmitted::NoId { path, project });
        }
    };
    TraceId::from_hex(&text).ok_or(NotEmitted::BadId { path, text })
}
