//! Cleans up the temp files of an interrupted run.
//!
//! ```text
//! old temp file ─▶ the new file, the displaced file, or a partial one ─▶ removed
//!               └▶ a version that was not read, and the target is our new file ─▶ exchanged back
//! ```

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::WriteBackError;
use super::replace::Swap;
use super::temp::{TempName, seconds, short};
use crate::fs::directory::Directory;
use crate::fs::members;
use crate::fs::root::Roots;
use crate::fs::temp::TempFile;

/// Minimum age of a leftover, far longer than a write-back takes, so that none in progress is
/// disturbed. It must not be longer: the leftover may be a newer export. A write-back that is
/// disturbed all the same, on a file system that hangs, fails and is retried.
const STALE: Duration = Duration::from_secs(5);

/// Cleans up what earlier runs left in `dir`, and returns the number of files. Files younger than
/// five seconds, and files that cannot be read, are left for the next time.
pub(crate) fn remove_stale(
    roots: &Roots,
    dir: &Path,
    max_bytes: u64,
) -> Result<usize, WriteBackError> {
    remove_stale_at(SystemTime::now(), &roots.open(dir)?, max_bytes)
}

fn remove_stale_at(
    now: SystemTime,
    dir: &Directory,
    max_bytes: u64,
) -> Result<usize, WriteBackError> {
    let mut removed = 0;
    for (name, _) in dir.entries()? {
        let Some(parsed) = TempName::parse(&name) else {
            continue;
        };
        if seconds(now).saturating_sub(parsed.born) < STALE.as_secs() {
            continue;
        }
        match clean_up(dir, &name, &parsed, max_bytes) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(%error, "a leftover temp file stays for now"),
        }
    }
    Ok(removed)
}

fn clean_up(
    dir: &Directory,
    name: &OsStr,
    parsed: &TempName,
    max_bytes: u64,
) -> Result<(), WriteBackError> {
    let (left, _) = dir.load(Path::new(name), max_bytes)?;
    let digest = short(&left.source.sha256);
    let known = digest == parsed.original || digest == parsed.prepared;
    // A partial file is not JSON: we did not finish writing it.
    let unread = !known && members::parse(&left.bytes).is_ok();

    let temp = TempFile::adopt(dir, name.into());
    let target = OsStr::new(&parsed.target);
    let ours = dir.load(Path::new(target), max_bytes).ok();
    match ours.filter(|(it, _)| unread && short(&it.source.sha256) == parsed.prepared) {
        None => drop(temp),
        Some((it, _)) => {
            let placed = it.source.stamp();
            Swap { dir, name: target, temp, placed, before: &mut |_| Ok(()) }.put_back()?;
            let path = it.source.canonical().display();
            tracing::warn!(%path, "a newer version that a crash had left aside is back in place");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TARGET: &str = "o.json";
    const MAX: u64 = 1 << 20;
    const OLD: &str = r#"{"a": 1}"#;
    const PREPARED: &str = r#"{"a": 1, "task_trace_id": "0af7"}"#;
    const NEWER: &str = r#"{"a": 2}"#;

    /// Cleans a directory with these two texts, and returns both afterwards.
    fn cleaned(target: &str, temp: &str, age: Duration) -> (String, Option<String>) {
        use sha2::{Digest, Sha256};
        let dir = tempfile::tempdir().unwrap();
        let digest = |text: &str| short(&Sha256::digest(text).into());
        let (original, prepared) = (digest(OLD), digest(PREPARED));
        let temp_path =
            dir.path().join(format!(".{TARGET}.taskspan-64-{original:x}-{prepared:x}-1.tmp"));
        fs::write(dir.path().join(TARGET), target).unwrap();
        fs::write(&temp_path, temp).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(0x64) + age;
        let open = Directory::open(dir.path()).unwrap();
        remove_stale_at(now, &open, MAX).unwrap();
        let target = fs::read_to_string(dir.path().join(TARGET)).unwrap();
        (target, fs::read_to_string(temp_path).ok())
    }

    #[test]
    fn a_leftover_is_recognised_by_its_name_and_content() {
        for (target, temp, kept) in [
            (OLD, PREPARED, OLD),                  // cut short before the exchange
            (OLD, r#"{"a": 1, "ta"#, OLD),         // and before that, while writing
            (OLD, "", OLD),                        //
            (PREPARED, OLD, PREPARED),             // after the exchange
            (PREPARED, NEWER, NEWER),              // after it, and NEWER had come just before it
            (NEWER, OLD, NEWER),                   // exported again since
            (r#"{"a": 3}"#, NEWER, r#"{"a": 3}"#), // NEWER lost to a newer one in the end
            (PREPARED, r#"{"a": 1, "#, PREPARED),  // two leftovers: this one was never finished
        ] {
            let left = cleaned(target, temp, STALE);
            assert_eq!(left, (kept.to_owned(), None), "{target} {temp}");
        }
    }

    #[test]
    fn what_may_be_in_use_stays() {
        let young = STALE - Duration::from_secs(1);
        assert_eq!(cleaned(OLD, PREPARED, young), (OLD.to_owned(), Some(PREPARED.to_owned())));
    }

    #[test]
    fn other_files_are_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(&[dir.path().to_owned()]);
        for name in [".o.json.tmp", ".o.json.taskspan-x.tmp", "o.json.bak", "o.json"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert_eq!(remove_stale(&roots, dir.path(), MAX).unwrap(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
        assert!(remove_stale(&roots, &dir.path().join("none"), MAX).is_err());
    }
}
