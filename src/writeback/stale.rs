//! Cleans up the temp files of an interrupted run.
//!
//! ```text
//! old temp file ─▶ ours? ─▶ incomplete, the new file, or the displaced one ─▶ removed
//!                   │ no    └▶ a version that was not read, and our new file is in place ─▶ exchanged
//!                   └───────▶ left alone                                                    back
//! ```
//!
//! Other users may write to the directory, so a name proves nothing. A file counts as ours if its
//! name belongs to an export of the receiver, and its owner is this user or the owner of the export.
//! It is in use if a write-back of the export is in progress, or if it is locked.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::ffi::OsStr;
use std::fs::TryLockError;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::Stat;
use rustix::process::geteuid;

use super::WriteBackError;
use super::replace::{Swap, try_alone};
use super::temp::{TempName, seconds, short};
use crate::fs::directory::Directory;
use crate::fs::file::SourceError;
use crate::fs::members;
use crate::fs::root::Roots;
use crate::fs::temp::TempFile;

/// Minimum age of a leftover, far longer than a write-back takes, so that none in progress in another
/// process is disturbed. It must not be longer: the leftover may be a newer export. A write-back that
/// is disturbed all the same, on a file system that hangs, fails and is retried.
const STALE: Duration = Duration::from_secs(5);

/// What happened to a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CleanUp {
    Removed,
    PutBack,
    /// It is in use, or it is not ours.
    Left,
}

/// Cleans up what earlier runs left in `dir`, and returns the number of files. `is_export` decides
/// whether a path is that of an export. Files younger than five seconds, and files that cannot be
/// read, are left for the next time.
pub(crate) fn remove_stale(
    roots: &Roots,
    dir: &Path,
    is_export: &dyn Fn(&Path) -> bool,
    max_bytes: u64,
) -> Result<usize, WriteBackError> {
    let is_named = |target: &str| is_export(&dir.join(target));
    remove_stale_at(SystemTime::now(), &roots.open(dir)?, &is_named, max_bytes)
}

fn remove_stale_at(
    now: SystemTime,
    dir: &Directory,
    is_export: &dyn Fn(&str) -> bool,
    max_bytes: u64,
) -> Result<usize, WriteBackError> {
    let mut removed = 0;
    for (name, _) in dir.entries()? {
        let Some(parsed) = TempName::parse(&name) else {
            continue;
        };
        let age = seconds(now).saturating_sub(parsed.born);
        if age < STALE.as_secs() || !is_export(&parsed.target) {
            continue;
        }
        match clean_up(dir, &name, &parsed, max_bytes) {
            Ok(CleanUp::Removed | CleanUp::PutBack) => removed += 1,
            Ok(CleanUp::Left) => {}
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
) -> Result<CleanUp, WriteBackError> {
    let target = Path::new(&parsed.target);
    let Some(_alone) = try_alone(&dir.canonical.join(target)) else {
        return Ok(CleanUp::Left);
    };
    let of_target = dir.stat(target).ok();
    let file = dir.open_file(Path::new(name))?;
    let stat = rustix::fs::fstat(&file)
        .map_err(|errno| SourceError::from_io(&dir.canonical.join(name), errno.into()))?;
    let is_locked = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if is_locked || !is_ours(&stat, of_target.as_ref()) {
        return Ok(CleanUp::Left);
    }
    if !parsed.is_complete {
        drop(TempFile::adopt(dir, name.into()));
        return Ok(CleanUp::Removed);
    }
    let (left, _) = dir.load(Path::new(name), max_bytes)?;
    let digest = short(&left.source.sha256);
    if digest == parsed.original || digest == parsed.prepared {
        drop(TempFile::adopt(dir, name.into()));
        return Ok(CleanUp::Removed);
    }
    // Another version came out of the exchange. If it is not complete, its writer is still at work.
    let is_complete = members::parse(&left.bytes).is_ok();
    let ours = dir.load(target, max_bytes).ok();
    match ours.filter(|(it, _)| short(&it.source.sha256) == parsed.prepared) {
        Some((it, _)) if is_complete && stat.st_nlink == 1 => {
            let temp = TempFile::adopt(dir, name.into());
            let placed = it.source.stamp();
            let target = target.as_os_str();
            Swap { dir, name: target, temp, placed, before: &mut |_| Ok(()) }.put_back()?;
            let path = it.source.canonical().display();
            tracing::warn!(%path, "a newer version that a crash had left aside is back in place");
            Ok(CleanUp::PutBack)
        }
        // A newer export has replaced ours, so this version was replaced as well.
        None if is_complete => {
            drop(TempFile::adopt(dir, name.into()));
            Ok(CleanUp::Removed)
        }
        _ => Ok(CleanUp::Left),
    }
}

/// Whether a file can only be from this user, or from the owner of the export, whose files
/// write-back displaces.
fn is_ours(file: &Stat, target: Option<&Stat>) -> bool {
    let is_owner_of_target =
        target.is_some_and(|it| (it.st_uid, it.st_dev) == (file.st_uid, file.st_dev));
    file.st_uid == geteuid().as_raw() || is_owner_of_target
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
        cleaned_with(target, (temp, ""), age, |_, _| {})
    }

    /// `incomplete` is the mark of an incomplete file in the name, or empty. `prepare` gets the
    /// paths of the target and of the temp file.
    fn cleaned_with(
        target: &str,
        (temp, incomplete): (&str, &str),
        age: Duration,
        prepare: impl FnOnce(&Path, &Path),
    ) -> (String, Option<String>) {
        use sha2::{Digest, Sha256};
        let dir = tempfile::tempdir().unwrap();
        let digest = |text: &str| short(&Sha256::digest(text).into());
        let (original, prepared) = (digest(OLD), digest(PREPARED));
        let temp_path = dir
            .path()
            .join(format!(".{TARGET}.taskspan-{incomplete}64-{original:x}-{prepared:x}-1.tmp"));
        fs::write(dir.path().join(TARGET), target).unwrap();
        fs::write(&temp_path, temp).unwrap();
        prepare(&dir.path().join(TARGET), &temp_path);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(0x64) + age;
        let open = Directory::open(dir.path()).unwrap();
        remove_stale_at(now, &open, &|name| name == TARGET, MAX).unwrap();
        let target = fs::read_to_string(dir.path().join(TARGET)).unwrap();
        (target, fs::read_to_string(temp_path).ok())
    }

    #[test]
    fn a_leftover_is_recognised_by_its_name_and_content() {
        for (target, temp, kept) in [
            (OLD, PREPARED, OLD),                  // cut short before the exchange
            (PREPARED, OLD, PREPARED),             // after the exchange
            (PREPARED, NEWER, NEWER),              // after it, and NEWER had come just before it
            (NEWER, OLD, NEWER),                   // exported again since
            (r#"{"a": 3}"#, NEWER, r#"{"a": 3}"#), // NEWER lost to a newer one in the end
        ] {
            let left = cleaned(target, temp, STALE);
            assert_eq!(left, (kept.to_owned(), None), "{target} {temp}");
        }
    }

    #[test]
    fn an_incomplete_file_is_removed() {
        for temp in ["", r#"{"a": 1, "ta"#, PREPARED] {
            let left = cleaned_with(OLD, (temp, "w-"), STALE, |_, _| {});
            assert_eq!(left, (OLD.to_owned(), None), "{temp}");
        }
    }

    /// A writer that opened the file before the exchange may still write into it.
    #[test]
    fn an_incomplete_version_of_another_writer_stays() {
        for temp in ["", r#"{"a": 2, "#] {
            let left = cleaned(PREPARED, temp, STALE);
            assert_eq!(left, (PREPARED.to_owned(), Some(temp.to_owned())), "{temp}");
        }
    }

    #[test]
    fn a_file_that_another_user_planted_stays() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let give = |path: &Path, user| std::os::unix::fs::chown(path, Some(user), None).unwrap();
        for (temp, mark) in [(NEWER, ""), (OLD, ""), ("{", "w-")] {
            let left = cleaned_with(PREPARED, (temp, mark), STALE, |_, it| give(it, 12_345));
            assert_eq!(left, (PREPARED.to_owned(), Some(temp.to_owned())), "{temp}");
        }
        // The owner of the export displaced it, or was displaced.
        let both = |target: &Path, temp: &Path| [target, temp].map(|it| give(it, 12_345));
        let left = cleaned_with(PREPARED, (NEWER, ""), STALE, |target, temp| {
            both(target, temp);
        });
        assert_eq!(left, (NEWER.to_owned(), None));
        // A link to another file does not get the name of the export.
        let left = cleaned_with(PREPARED, (NEWER, ""), STALE, |target, temp| {
            fs::hard_link(temp, target.with_file_name("elsewhere")).unwrap();
        });
        assert_eq!(left, (PREPARED.to_owned(), Some(NEWER.to_owned())));
    }

    #[test]
    fn a_file_that_is_in_use_stays() {
        let left = cleaned_with(OLD, (PREPARED, "w-"), STALE, |_, temp| {
            let file = fs::File::open(temp).unwrap();
            file.lock().unwrap();
            std::mem::forget(file);
        });
        assert_eq!(left, (OLD.to_owned(), Some(PREPARED.to_owned())));
    }

    #[test]
    fn temp_files_in_use_are_kept() {
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
        let leftover = ".other.json.taskspan-1-2-3-4.tmp";
        fs::write(dir.path().join(leftover), "{}").unwrap();
        let is_export = |path: &Path| path.ends_with("o.json");
        assert_eq!(remove_stale(&roots, dir.path(), &is_export, MAX).unwrap(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
        assert!(remove_stale(&roots, &dir.path().join("none"), &is_export, MAX).is_err());
    }
}
