use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;

fn state(id: &str, is_closed: bool) -> TaskState {
    // Each state is of a trace of its own.
    static TRACES: AtomicU64 = AtomicU64::new(0);
    let trace_id = TRACES.fetch_add(1, Ordering::Relaxed);
    let document = json!({"task_id": id, "is_closed": is_closed, "trace_id": trace_id});
    let (project_id, task_id) = ("p".into(), id.into());
    TaskState { project_id, task_id, mapped_id: None, is_closed, document }
}

fn config(directory: &Path) -> TaskStateConfig {
    TaskStateConfig { directory: directory.to_owned() }
}

fn put(config: &TaskStateConfig, states: &[TaskState]) -> Result<(), TaskStateError> {
    write(config, &encode(states)?)
}

#[test]
fn a_task_is_active_or_completed() {
    let root = tempfile::tempdir().expect("a directory");
    let config = config(root.path());
    let active = root.path().join("p/t.json");
    let completed = root.path().join("p/completed/t.json");
    for is_closed in [false, true, false] {
        put(&config, &[state("t", is_closed)]).expect("written");
        let there = if is_closed { &completed } else { &active };
        let text = fs::read(there).expect("there");
        let found: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(found["is_closed"], json!(is_closed));
        assert_eq!((active.exists(), completed.exists()), (!is_closed, is_closed));
    }
    assert!(root.path().join("p/t.json.lock").exists());
}

#[test]
fn ids_with_a_path_are_no_file_names() {
    for id in ["a/b", "..", ".hidden", "a\\b", "", &"x".repeat(300)] {
        assert!(check(&[state(id, false)]).is_err(), "{id}");
    }
    assert!(check(&[state("a.b-c é", false)]).is_ok());
}

#[test]
fn existing_task_states_are_kept() {
    let root = tempfile::tempdir().expect("a directory");
    let config = config(root.path());
    let first = state("t", false);
    put(&config, std::slice::from_ref(&first)).expect("written");
    let path = root.path().join("p/t.json");
    let mut ours: Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    ours["status"] = json!("in_progress");
    fs::write(&path, ours.to_string()).expect("written");
    put(&config, &[first]).expect("nothing to do");
    assert_eq!(fs::read_to_string(&path).expect("there"), ours.to_string());
}

/// The state of a task after an export.
fn exported(artifact_status: &str, task_status: &str) -> TaskState {
    let mut state = state("t", matches!(task_status, "done" | "cancelled"));
    state.document["attributes"] = json!({
        "task.type": "task", "task.status": task_status, "artifact.status": artifact_status,
    });
    state
}

#[test]
fn a_new_export_takes_no_progress_back() {
    let (needed, exists) = (("needed", "todo"), ("exists", "done"));
    for (before, by_tracker, after, is_kept) in [
        (needed, "in_progress", needed, true),
        (needed, "in_review", needed, true),
        (needed, "blocked", needed, true),
        (needed, "done", needed, true),
        (needed, "cancelled", needed, true),
        (needed, "done", exists, true),
        // The artifact exists now.
        (needed, "in_progress", exists, false),
        // The status is that of the export, even if the tracker moved the file.
        (needed, "todo", needed, false),
        (needed, "todo", exists, false),
        (exists, "done", needed, false),
        // The task was taken up again.
        (exists, "in_progress", needed, true),
    ] {
        for is_moved in [false, true] {
            let root = tempfile::tempdir().expect("a directory");
            let config = config(root.path());
            let first = exported(before.0, before.1);
            put(&config, std::slice::from_ref(&first)).expect("written");
            let directories = [root.path().join("p"), root.path().join("p/completed")];
            let path =
                directories.iter().map(|it| it.join("t.json")).find(|it| it.exists()).unwrap();
            let mut document = first.document;
            document["attributes"]["task.status"] = json!(by_tracker);
            let place = if is_moved { directories[1].join("t.json") } else { path.clone() };
            fs::create_dir_all(&directories[1]).expect("made");
            fs::remove_file(path).expect("removed");
            fs::write(&place, document.to_string()).expect("written");

            let second = exported(after.0, after.1);
            put(&config, std::slice::from_ref(&second)).expect("written");
            let found: Vec<Value> = directories
                .iter()
                .filter_map(|it| fs::read(it.join("t.json")).ok())
                .map(|text| serde_json::from_slice(&text).expect("JSON"))
                .collect();
            let expected = if is_kept { document } else { second.document };
            assert_eq!(found, [expected], "{before:?} {by_tracker} {after:?} {is_moved}");
        }
    }
}

#[test]
fn progress_under_the_mapped_id_is_progress() {
    let root = tempfile::tempdir().expect("a directory");
    let config = config(root.path());
    let tracked = root.path().join("p/PI-006.json");
    fs::create_dir(root.path().join("p")).expect("made");
    for (status, is_written) in [("in_progress", false), ("todo", true)] {
        let document = json!({"attributes": {"task.type": "task", "task.status": status}});
        fs::write(&tracked, document.to_string()).expect("written");
        let mapped = TaskState { mapped_id: Some("PI-006".into()), ..exported("needed", "todo") };
        put(&config, &[mapped]).expect("written");
        assert_eq!(root.path().join("p/t.json").exists(), is_written, "{status}");
    }
    // A file from an earlier export, under the artifact id, would start the task a second time.
    let stale = root.path().join("p/t.json");
    assert!(stale.exists());
    let going_on = json!({"attributes": {"task.type": "task", "task.status": "in_progress"}});
    fs::write(&tracked, going_on.to_string()).expect("written");
    let mut mapped = exported("needed", "todo");
    mapped.mapped_id = Some("PI-006".into());
    mapped.document["trace_id"] = json!("that of a later export");
    put(&config, &[mapped]).expect("written");
    assert!(!stale.exists());
    let odd = TaskState { mapped_id: Some("../x".into()), ..exported("needed", "todo") };
    put(&config, &[odd]).expect("an id that is no name is no file");
}

#[test]
fn a_link_is_not_followed() {
    let root = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("p")).expect("a link");
    put(&config(root.path()), &[state("t", false)]).expect_err("a link");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("there").count(), 0);
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_respected() {
    let root = tempfile::tempdir().expect("a directory");
    put(&config(root.path()), &[state("t", false)]).expect("written");
    let held =
        lock(&Directory::open(&root.path().join("p")).expect("there"), "t.json", Instant::now())
            .expect("free");
    let states = [state("t", false), state("other", false)];
    let error = put(&config(root.path()), &states).expect_err("held");
    assert!(matches!(error, TaskStateError::Locked(_)));
    assert!(root.path().join("p/other.json").exists(), "the others are written");
    drop(held);
    put(&config(root.path()), &[state("t", false)]).expect("free again");
}

/// The id of an export is written after its state files.
#[test]
fn many_held_locks_are_waited_for_together() {
    let root = tempfile::tempdir().expect("a directory");
    let states: Vec<TaskState> = (0..20).map(|id| state(&format!("t{id}"), false)).collect();
    put(&config(root.path()), &states).expect("written");
    let directory = Directory::open(&root.path().join("p")).expect("there");
    let hold = |id| lock(&directory, &format!("t{id}.json"), Instant::now()).expect("free");
    let held: Vec<File> = (0..20).map(hold).collect();
    let started = Instant::now();
    put(&config(root.path()), &states).expect_err("held");
    assert!(started.elapsed() < 5 * LOCK_TIMEOUT, "not the time-out for each lock");
    drop(held);
}
