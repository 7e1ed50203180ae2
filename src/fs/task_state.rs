//! Writes state files for a task tracker (R5.4): one JSON file per span, in the tracker's
//! directory.
//!
//! ```text
//! delivered ─▶ states ─▶ <directory>/<project>/<task>.json, under <task>.json.lock
//!                                    └─ /completed/<task>.json if the task is closed
//! ```
//!
//! The tracker changes these files later. A new export replaces a file only while the task still
//! has the status from an export.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::directory::Directory;
use super::file::SourceError;
use super::temp::TempFile;

/// Configuration of the state files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskStateConfig {
    /// The directory with the tracker's state.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) directory: PathBuf,
}

/// The state of one task, story or epic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskState {
    pub(crate) project_id: String,
    pub(crate) task_id: String,
    /// The id that a later phase uses for the task.
    pub(crate) mapped_id: Option<String>,
    /// Whether the task is closed: its artifact exists, or is not wanted.
    pub(crate) is_closed: bool,
    pub(crate) document: Value,
}

const COMPLETED: &str = "completed";

/// How long all locks of one export may be waited for: far longer than a holder needs to write one
/// small file, and not so long that the id of the export is late.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// Maximum length of a file name in bytes. Leaves room for suffixes.
const MAX_NAME_BYTES: usize = 200;

/// Why state files cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskStateError {
    #[error("the id `{id}` cannot be the name of a state file (task_state): {reason}")]
    Name { id: String, reason: &'static str },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{}: another process has held the lock for too long", .0.display())]
    Locked(PathBuf),
    #[error("the state files cannot be read from the queue: {0}")]
    Encoding(#[from] serde_json::Error),
}

/// Encodes states for [`write`].
///
/// # Errors
/// Returns the first state whose id cannot be a file name in the directory.
pub(crate) fn encode(states: &[TaskState]) -> Result<Vec<u8>, TaskStateError> {
    check(states)?;
    Ok(serde_json::to_vec(states)?)
}

fn check(states: &[TaskState]) -> Result<(), TaskStateError> {
    let ids = states.iter().flat_map(|state| [&state.project_id, &state.task_id]);
    ids.into_iter().try_for_each(|id| match unfit(id) {
        Some(reason) => Err(TaskStateError::Name { id: id.clone(), reason }),
        None => Ok(()),
    })
}

/// Returns why an id cannot be a file name. `None` if it can.
fn unfit(id: &str) -> Option<&'static str> {
    match id {
        "" => Some("it is empty"),
        id if id.contains(['/', '\\', '\0']) => Some("it has a path separator"),
        id if id.starts_with('.') => Some("it begins with a dot"),
        id if id.len() > MAX_NAME_BYTES => Some("it is too long"),
        _ => None,
    }
}

/// Writes all encoded states, each file atomically. A file for the same trace is kept. So is one
/// whose task has progressed, under the task's own id or its mapped id. Blocks on disk I/O.
///
/// # Errors
/// Returns the first failure, after it has tried to write all other files.
pub(crate) fn write(config: &TaskStateConfig, encoded: &[u8]) -> Result<(), TaskStateError> {
    let states: Vec<TaskState> = serde_json::from_slice(encoded)?;
    check(&states)?;
    let mut failure = None;
    let lock_by = Instant::now() + LOCK_TIMEOUT;
    for state in &states {
        if let Err(error) = write_one(config, state, lock_by) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

fn write_one(
    config: &TaskStateConfig,
    state: &TaskState,
    lock_by: Instant,
) -> Result<(), TaskStateError> {
    fs::create_dir_all(&config.directory).map_err(failed(&config.directory))?;
    let tracker = Directory::open(&config.directory)?;
    let active = made(&tracker, &state.project_id)?;
    let completed = match state.is_closed {
        true => Some(made(&active, COMPLETED)?),
        false => existing(&active, COMPLETED)?,
    };
    let (own, other) = match (&completed, state.is_closed) {
        (Some(completed), true) => (completed, Some(&active)),
        (completed, _) => (&active, completed.as_ref()),
    };
    let name = format!("{}.json", state.task_id);
    let _lock = lock(own, &name, lock_by)?;
    let is_this_export =
        |document: &Value| document.get("trace_id") == state.document.get("trace_id");
    let mut own_files = documents(own, other, &state.task_id);
    if own_files.any(|it| is_this_export(&it) || has_moved_on(&it, &state.document)) {
        return Ok(());
    }
    let mapped_id = state.mapped_id.as_deref().filter(|id| unfit(id).is_none());
    let mut mapped_files = mapped_id.into_iter().flat_map(|id| documents(own, other, id));
    if mapped_files.any(|it| has_moved_on(&it, &state.document)) {
        // The task continues under its mapped id. A file from an earlier export would start it a
        // second time.
        remove_unlocked(own, &name)?;
        return other.map_or(Ok(()), |other| remove(other, &name, lock_by));
    }
    replace(own, &name, &state.document.to_string())?;
    other.map_or(Ok(()), |other| remove(other, &name, lock_by))
}

/// Opens a sub-directory, and creates it if it is missing. A link is refused, because it leads
/// elsewhere.
fn made(parent: &Directory, name: &str) -> Result<Directory, TaskStateError> {
    let path = parent.canonical.join(name);
    match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(&path)(errno.into())),
    }
    existing(parent, name)?.ok_or_else(|| failed(&path)(ErrorKind::NotADirectory.into()))
}

/// Opens a sub-directory if it exists.
fn existing(parent: &Directory, name: &str) -> Result<Option<Directory>, TaskStateError> {
    if matches!(parent.stat(Path::new(name)), Err(Errno::NOENT)) {
        return Ok(None);
    }
    match parent.child(Path::new(name)) {
        Ok(directory) => Ok(Some(directory)),
        Err(SourceError::Missing { path }) => Err(failed(&path)(ErrorKind::NotADirectory.into())),
        Err(error) => Err(error.into()),
    }
}

/// Size limit of a state file, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Returns the active and the completed state file of an id.
fn documents(
    own: &Directory,
    other: Option<&Directory>,
    id: &str,
) -> impl Iterator<Item = Value> + use<> {
    let name = PathBuf::from(format!("{id}.json"));
    let document = |directory: &Directory| {
        let (loaded, _) = directory.load(&name, MAX_BYTES).ok()?;
        serde_json::from_slice(&loaded.bytes).ok()
    };
    [Some(own), other].into_iter().flatten().filter_map(document).collect::<Vec<_>>().into_iter()
}

/// Whether a task has progressed since an export set its status, so that a new export must not
/// reset it. This never holds for stories and the epic: their status follows their tasks.
fn has_moved_on(document: &Value, new: &Value) -> bool {
    let text = |document: &'_ Value, key: &str| -> String {
        document["attributes"][key].as_str().unwrap_or_default().to_owned()
    };
    let status = text(document, "task.status");
    let as_exported: &[&str] =
        match (text(document, "artifact.status").as_str(), text(document, "task.type").as_str()) {
            ("needed" | "outdated", _) => &["todo"],
            ("exists", _) => &["done"],
            ("skipped", _) => &["cancelled"],
            (_, "epic" | "story") => &["todo", "done"],
            _ => &["", "todo", "backlog"],
        };
    let progress = |status: &str| match status {
        "" | "todo" | "backlog" => 0,
        "done" | "cancelled" => 2,
        _ => 1,
    };
    !as_exported.contains(&status.as_str())
        && progress(&status) >= progress(&text(new, "task.status"))
}

fn replace(directory: &Directory, name: &str, text: &str) -> Result<(), TaskStateError> {
    let (path, temp) = (directory.canonical.join(name), format!(".{name}.taskspan.tmp"));
    // A killed run left it; no other process has the lock.
    let _ = unlinkat(&directory.fd, &temp, AtFlags::empty());
    let mode = Mode::from_raw_mode(0o666);
    let failed = |_, source| TaskStateError::Io { path: path.clone(), source };
    let (mut temp, _) = TempFile::create(
        directory,
        (temp.into(), mode),
        &[text.as_bytes().into()],
        |_| Ok(()),
        failed,
    )?;
    temp.persist(Path::new(name)).map_err(|errno| failed("", errno.into()))
}

/// Removes the file of a task from this directory: a task is either active or completed.
fn remove(directory: &Directory, name: &str, lock_by: Instant) -> Result<(), TaskStateError> {
    if directory.stat(Path::new(name)).is_err() {
        return Ok(());
    }
    let _lock = lock(directory, name, lock_by)?;
    remove_unlocked(directory, name)
}

/// Like [`remove`], under a lock that the caller holds.
fn remove_unlocked(directory: &Directory, name: &str) -> Result<(), TaskStateError> {
    match unlinkat(&directory.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(&directory.canonical.join(name))(errno.into())),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TaskStateError + use<> {
    let path = path.to_owned();
    move |source| TaskStateError::Io { path: path.clone(), source }
}

/// Locks a state file as the tracker does. Tries once after the time `lock_by`. The lock file is not
/// removed, as in the tracker.
fn lock(directory: &Directory, name: &str, lock_by: Instant) -> Result<File, TaskStateError> {
    let name = format!("{name}.lock");
    let path = directory.canonical.join(&name);
    let failed = failed(&path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let file = openat(&directory.fd, &name, flags | OFlags::NONBLOCK, mode);
    let file = File::from(file.map_err(|errno| failed(errno.into()))?);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < lock_by => pause(),
            Err(TryLockError::WouldBlock) => return Err(TaskStateError::Locked(path)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock that is waited for has no end to wait for")]
fn pause() {
    std::thread::sleep(LOCK_WAIT);
}

#[cfg(test)]
mod tests;
