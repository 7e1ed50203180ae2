//! An export that was emitted: the plan whose trace a later system adds to.

use std::path::{Path, PathBuf};

use super::{Export, Plan, PlanError, ReadOptions, read};
use crate::ids::TraceId;
use crate::source::Source;
use crate::writeback;

#[derive(Clone, Debug)]
pub struct Emitted {
    pub source: Source,
    /// The trace that its file, or the one beside it, names.
    pub trace_id: TraceId,
    pub plan: Plan,
}

/// Why there is no trace to add to.
#[derive(Debug, thiserror::Error)]
pub enum NotEmitted {
    #[error(transparent)]
    Unreadable(#[from] PlanError),
    #[error(
        "{}: not emitted yet: it has no task_trace_id; run `taskspan once {}`",
        .0.display(),
        .0.parent().unwrap_or(Path::new(".")).display()
    )]
    NoId(PathBuf),
    #[error("{}: task_trace_id is `{text}`, which is no trace id", path.display())]
    BadId { path: PathBuf, text: String },
}

/// Reads an export that has its id. Blocks on the disk.
///
/// # Errors
/// It cannot be read, or has no id.
pub fn read_emitted(path: &Path, options: &ReadOptions) -> Result<Emitted, NotEmitted> {
    let options = ReadOptions { emit_existing: true, ..options.clone() };
    let fresh = match read(path, &options)? {
        Export::Fresh(fresh) => *fresh,
        // Nobody asked for this to be told apart.
        Export::Emitted { .. } => return Err(NotEmitted::NoId(path.to_owned())),
    };
    let beside = || writeback::id_beside(path).filter(|id| *id == fresh.trace_id.to_string());
    let text = fresh.carries.clone().or_else(beside);
    let text = text.ok_or_else(|| NotEmitted::NoId(path.to_owned()))?;
    match TraceId::from_hex(&text) {
        Some(trace_id) => Ok(Emitted { source: fresh.source, trace_id, plan: fresh.plan }),
        None => Err(NotEmitted::BadId { path: path.to_owned(), text }),
    }
}
