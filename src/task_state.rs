//! State files for a task tracker (R5.4): one JSON a span, where the tracker looks for them.
//!
//! ```text
//! delivered ─▶ states ─▶ <directory>/<project>/<task>.json, under <task>.json.lock
//!                                    └─ /completed/<task>.json when nothing is left to do
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::converter::state::TaskState;
use crate::source;

/// What a user can set about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskStateConfig {
    /// The directory that the tracker keeps its state in.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub directory: PathBuf,
}

const COMPLETED: &str = "completed";

/// Who holds a lock writes one small file. This long it never takes.
const LOCK_TRIES: u32 = 100;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// The longest name that file systems take, with room for what is added to it.
const MAX_NAME_BYTES: usize = 200;

/// Why there are no state files.
#[derive(Debug, thiserror::Error)]
pub enum TaskStateError {
    #[error("the id `{id}` cannot be the name of a state file (task_state): {reason}")]
    Name { id: String, reason: &'static str },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: somebody has held the lock for too long", .0.display())]
    Locked(PathBuf),
}

/// Whether every state has a name that stays within the directory.
///
/// # Errors
/// The first that has not.
pub fn check(states: &[TaskState]) -> Result<(), TaskStateError> {
    let ids = states.iter().flat_map(|state| [&state.project_id, &state.task_id]);
    ids.into_iter().try_for_each(|id| {
        let reason = match id.as_str() {
            "" => "it is empty",
            id if id.contains(['/', '\\', '\0']) => "it has a path separator",
            id if id.starts_with('.') => "it begins with a dot",
            id if id.len() > MAX_NAME_BYTES => "it is too long",
            _ => return Ok(()),
        };
        Err(TaskStateError::Name { id: id.clone(), reason })
    })
}

/// Writes all states, each whole or not at all. One that is there for the same trace stays: the tracker
/// may have gone on with it. Blocks on the disk.
///
/// # Errors
/// The first that cannot be written; the others are.
pub fn write(config: &TaskStateConfig, states: &[TaskState]) -> Result<(), TaskStateError> {
    check(states)?;
    let mut failure = None;
    for state in states {
        if let Err(error) = write_one(config, state) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

fn write_one(config: &TaskStateConfig, state: &TaskState) -> Result<(), TaskStateError> {
    let active = config.directory.join(&state.project_id);
    let completed = active.join(COMPLETED);
    let name = format!("{}.json", state.task_id);
    let (own, other) = if state.is_closed { (&completed, &active) } else { (&active, &completed) };
    fs::create_dir_all(&config.directory).map_err(failed(&config.directory))?;
    // A link would lead elsewhere.
    for directory in if state.is_closed { vec![&active, own] } else { vec![&active] } {
        if let Err(error) = fs::create_dir(directory)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(failed(directory)(error));
        }
        let metadata = fs::symlink_metadata(directory).map_err(failed(directory))?;
        if !metadata.is_dir() {
            return Err(failed(directory)(ErrorKind::NotADirectory.into()));
        }
    }
    let _lock = lock(own, &name)?;
    if is_of_same_trace(&own.join(&name), state) || is_of_same_trace(&other.join(&name), state) {
        return Ok(());
    }
    replace(own, &name, &state.document.to_string())?;
    remove(other, &name)
}

/// What is larger is no state file.
const MAX_BYTES: u64 = 16 << 20;

fn is_of_same_trace(path: &Path, state: &TaskState) -> bool {
    let Ok(loaded) = source::load(path, MAX_BYTES) else { return false };
    let found = serde_json::from_slice::<Value>(&loaded.bytes).ok();
    found.is_some_and(|it| it.get("trace_id") == state.document.get("trace_id"))
}

fn replace(directory: &Path, name: &str, text: &str) -> Result<(), TaskStateError> {
    let (path, temp) = (directory.join(name), directory.join(format!(".{name}.taskspan.tmp")));
    // What a run left that was killed here; the lock says that nobody else is at it.
    let _ = fs::remove_file(&temp);
    let file = OpenOptions::new().create_new(true).write(true).open(&temp);
    let written =
        file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&temp, &path)).map_err(|source| {
        let _ = fs::remove_file(&temp);
        TaskStateError::Io { path, source }
    })
}

/// A task is either active or completed, as its latest export says.
fn remove(directory: &Path, name: &str) -> Result<(), TaskStateError> {
    let path = directory.join(name);
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(directory, name)?;
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(failed(&path)(source)),
        _ => Ok(()),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TaskStateError + use<> {
    let path = path.to_owned();
    move |source| TaskStateError::Io { path: path.clone(), source }
}

/// The tracker's own convention; the lock file stays, as the tracker's does.
fn lock(directory: &Path, name: &str) -> Result<File, TaskStateError> {
    let path = directory.join(format!("{name}.lock"));
    let failed = failed(&path);
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(&path).map_err(&failed)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => pause(),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    Err(TaskStateError::Locked(path))
}

#[expect(clippy::disallowed_methods, reason = "a lock that is waited for has no end to wait for")]
fn pause() {
    std::thread::sleep(LOCK_WAIT);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::{Value, json};

    use super::*;

    fn state(id: &str, is_closed: bool) -> TaskState {
        // Each is of a trace of its own.
        static TRACES: AtomicU64 = AtomicU64::new(0);
        let trace_id = TRACES.fetch_add(1, Ordering::Relaxed);
        let document = json!({"task_id": id, "is_closed": is_closed, "trace_id": trace_id});
        TaskState { project_id: "p".into(), task_id: id.into(), is_closed, document }
    }

    fn config(directory: &Path) -> TaskStateConfig {
        TaskStateConfig { directory: directory.to_owned() }
    }

    #[test]
    fn a_task_is_active_or_completed() {
        let root = tempfile::tempdir().expect("a directory");
        let config = config(root.path());
        let active = root.path().join("p/t.json");
        let completed = root.path().join("p/completed/t.json");
        for is_closed in [false, true, false] {
            write(&config, &[state("t", is_closed)]).expect("written");
            let there = if is_closed { &completed } else { &active };
            let text = fs::read(there).expect("there");
            let found: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(found["is_closed"], json!(is_closed));
            assert_eq!((active.exists(), completed.exists()), (!is_closed, is_closed));
        }
        assert!(root.path().join("p/t.json.lock").exists());
    }

    #[test]
    fn ids_that_lead_elsewhere_are_no_names() {
        for id in ["a/b", "..", ".hidden", "a\\b", "", &"x".repeat(300)] {
            assert!(check(&[state(id, false)]).is_err(), "{id}");
        }
        assert!(check(&[state("a.b-c é", false)]).is_ok());
    }

    #[test]
    fn what_the_tracker_made_of_it_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let config = config(root.path());
        let first = state("t", false);
        write(&config, std::slice::from_ref(&first)).expect("written");
        let path = root.path().join("p/t.json");
        let mut ours: Value =
            serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        ours["status"] = json!("in_progress");
        fs::write(&path, ours.to_string()).expect("written");
        write(&config, &[first]).expect("nothing to do");
        assert_eq!(fs::read_to_string(&path).expect("there"), ours.to_string());
    }

    #[test]
    fn a_link_is_not_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let elsewhere = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("p")).expect("a link");
        write(&config(root.path()), &[state("t", false)]).expect_err("a link");
        assert_eq!(fs::read_dir(elsewhere.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_lock_that_is_held_is_waited_for_and_respected() {
        let root = tempfile::tempdir().expect("a directory");
        write(&config(root.path()), &[state("t", false)]).expect("written");
        let held = lock(&root.path().join("p"), "t.json").expect("free");
        let states = [state("t", false), state("other", false)];
        let error = write(&config(root.path()), &states).expect_err("held");
        assert!(matches!(error, TaskStateError::Locked(_)));
        assert!(root.path().join("p/other.json").exists(), "the others are written");
        drop(held);
        write(&config(root.path()), &[state("t", false)]).expect("free again");
    }
}
