//! Notes on disk which files are being read, so that a file that kills the process is recognised
//! after the restart.
//!
//! ```text
//! begin ─▶ note ─▶ read, convert ─▶ complete: note removed
//!            └ the process dies: the next one counts that ─▶ 2 deaths: quarantined
//! ```
//!
//! A file in quarantine is read last: after a delay that doubles with each death, and alone. Thus it
//! cannot keep other exports from being delivered, and one that was only read at the same time as a
//! deadly one leaves the quarantine.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::path;
use crate::base::text::hex;

/// The directory of the notes, below the state directory.
const DIRECTORY: &str = "in-work";

/// Number of deaths from which a file is quarantined.
const DEADLY: u32 = 2;

/// Delay before a file is read again after two deaths, and the maximum. It doubles with each death.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(3_600);

/// The same maximum for a run that ends: a job waits for it.
const MAX_DELAY_OF_A_RUN: Duration = Duration::from_secs(10);

/// Age of the last death at which it is forgotten. The file may not exist any more.
const MEMORY: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What is noted about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    #[serde(with = "path")]
    path: PathBuf,
    /// How often the process died while it read the file.
    deaths: u32,
    /// Whether the file is being read.
    in_work: bool,
}

impl Noted {
    /// Returns the deaths, including one now.
    fn counted(&self) -> u32 {
        self.deaths.saturating_add(u32::from(self.in_work))
    }
}

/// The notes of one state directory. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine {
    /// `None` if nothing is noted.
    directory: Option<PathBuf>,
    /// The files with a death, and their number of deaths.
    deaths: Arc<Mutex<HashMap<PathBuf, u32>>>,
}

/// The note that a file is being read. Dropped, it says that the file is not read any more. Blocks
/// on disk I/O.
#[derive(Debug)]
pub(crate) struct Note<'a> {
    quarantine: &'a Quarantine,
    path: &'a Path,
}

/// Describes why a file is in quarantine.
pub(crate) fn reason(deaths: u32) -> String {
    format!("the process died {deaths} times while it read this file")
}

/// How a file in quarantine is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    pub(crate) deaths: u32,
    /// Time to wait before the file is read.
    pub(crate) delay: Duration,
}

impl Quarantine {
    /// Counts the deaths of earlier processes. The caller holds the lock of the state directory.
    /// Blocks on disk I/O.
    pub(crate) fn open(state: &Path) -> Quarantine {
        let directory = state.join(DIRECTORY);
        if let Err(error) = fs::create_dir_all(&directory) {
            tracing::debug!(path = %directory.display(), %error, "no notes of what is read");
            return Quarantine::default();
        }
        let this = Quarantine { directory: Some(directory), ..Quarantine::default() };
        for (note, noted) in notes(state) {
            match noted {
                Some(noted) if noted.in_work => {
                    let deaths = noted.counted();
                    this.write(&noted.path, deaths, false);
                    this.lock().insert(noted.path, deaths);
                }
                Some(noted) if !is_forgotten(&note) => {
                    this.lock().insert(noted.path, noted.deaths);
                }
                _ => drop(fs::remove_file(&note)),
            }
        }
        this
    }

    /// Reads the notes and changes nothing. A file that is being read may be read by a process that
    /// is alive. Blocks on disk I/O.
    pub(crate) fn look(state: &Path) -> Quarantine {
        let noted = notes(state).filter_map(|(_, noted)| noted);
        let deaths = noted.map(|noted| (noted.path.clone(), noted.counted())).collect();
        Quarantine { directory: None, deaths: Arc::new(Mutex::new(deaths)) }
    }

    /// Returns how a file is treated, if it is quarantined. `ends` means that the run ends when
    /// everything is delivered.
    pub(crate) fn sentence(&self, path: &Path, ends: bool) -> Option<Sentence> {
        let deaths = self.deaths(path).filter(|deaths| *deaths >= DEADLY)?;
        let doubled = 1_u32.checked_shl(deaths - DEADLY).unwrap_or(u32::MAX);
        let max = if ends { MAX_DELAY_OF_A_RUN } else { MAX_DELAY };
        Some(Sentence { deaths, delay: FIRST_DELAY.saturating_mul(doubled).min(max) })
    }

    /// Notes that a file is being read. Blocks on disk I/O.
    pub(crate) fn begin<'a>(&'a self, path: &'a Path) -> Note<'a> {
        self.write(path, self.deaths(path).unwrap_or_default(), true);
        Note { quarantine: self, path }
    }

    /// Removes the notes of files that are still being read: the process ends, and did not die of
    /// them. Blocks on disk I/O.
    pub(crate) fn close(&self) {
        let Some(state) = self.directory.as_ref().and_then(|it| it.parent()) else { return };
        for (_, noted) in notes(state) {
            if let Some(noted) = noted.filter(|noted| noted.in_work) {
                self.end(&noted.path);
            }
        }
    }

    /// Notes that a file is not being read any more.
    fn end(&self, path: &Path) {
        match self.deaths(path) {
            Some(deaths) => self.write(path, deaths, false),
            None => self.remove(path),
        }
    }

    fn deaths(&self, path: &Path) -> Option<u32> {
        self.lock().get(path).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, u32>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_of(&self, path: &Path) -> Option<PathBuf> {
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let (name, _) = digest.split_at(16);
        Some(self.directory.as_ref()?.join(hex(name)))
    }

    /// Writes a note. It is not fsynced: it must outlive the process, and not the machine. Without
    /// the note the file is read all the same.
    fn write(&self, path: &Path, deaths: u32, in_work: bool) {
        let Some(note) = self.note_of(path) else { return };
        let noted = Noted { path: path.to_owned(), deaths, in_work };
        let written = serde_json::to_vec(&noted).map(|text| fs::write(&note, text));
        if let Ok(Err(error)) = written {
            tracing::debug!(path = %note.display(), %error, "not noted");
        }
    }

    fn remove(&self, path: &Path) {
        if let Some(note) = self.note_of(path) {
            // It may have been removed by hand.
            let _ = fs::remove_file(note);
        }
    }
}

impl Note<'_> {
    /// The file was read to its end, and did no harm.
    pub(crate) fn complete(self) {
        self.quarantine.lock().remove(self.path);
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        self.quarantine.end(self.path);
    }
}

/// Returns every note with its content. `None` for a note that a process did not finish writing.
fn notes(state: &Path) -> impl Iterator<Item = (PathBuf, Option<Noted>)> {
    let entries = fs::read_dir(state.join(DIRECTORY)).into_iter().flatten().flatten();
    entries.map(|entry| {
        let text = fs::read(entry.path()).unwrap_or_default();
        (entry.path(), serde_json::from_slice(&text).ok())
    })
}

fn is_forgotten(note: &Path) -> bool {
    let written = fs::metadata(note).and_then(|it| it.modified());
    written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > MEMORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file and dies of it.
    fn die(quarantine: &Quarantine, path: &Path) {
        std::mem::forget(quarantine.begin(path));
    }

    fn delay(quarantine: &Quarantine, path: &Path, ends: bool) -> Option<u64> {
        quarantine.sentence(path, ends).map(|sentence| sentence.delay.as_secs())
    }

    #[test]
    fn two_deaths_quarantine_a_file_and_each_more_doubles_the_delay() {
        let state = tempfile::tempdir().unwrap();
        let (deadly, good) = (Path::new("/w/deadly.json"), Path::new("/w/good.json"));
        let delays = (0..6).map(|_| {
            let quarantine = Quarantine::open(state.path());
            quarantine.begin(good).complete();
            assert_eq!(quarantine.sentence(good, false), None);
            let delay = delay(&quarantine, deadly, false);
            die(&quarantine, deadly);
            delay
        });
        let delays: Vec<_> = delays.collect();
        assert_eq!(delays, [None, None, Some(1), Some(2), Some(4), Some(8)]);
        let quarantine = Quarantine::look(state.path());
        assert_eq!(delay(&quarantine, deadly, true), Some(10), "at most, for a run that ends");
    }

    #[test]
    fn a_process_that_dies_of_something_else_is_no_death() {
        let state = tempfile::tempdir().unwrap();
        let path = Path::new("/w/export.json");
        for _ in 0..2 {
            die(&Quarantine::open(state.path()), path);
        }
        for _ in 0..5 {
            let quarantine = Quarantine::open(state.path());
            assert_eq!(delay(&quarantine, path, false), Some(1));
        }
    }

    #[test]
    fn a_file_that_is_read_to_its_end_leaves_the_quarantine() {
        let state = tempfile::tempdir().unwrap();
        let path = Path::new("/w/export.json");
        for _ in 0..3 {
            die(&Quarantine::open(state.path()), path);
        }
        let quarantine = Quarantine::open(state.path());
        drop(quarantine.begin(path));
        assert_eq!(delay(&quarantine, path, false), Some(2), "it was not read to its end");
        let quarantine = Quarantine::open(state.path());
        assert_eq!(delay(&quarantine, path, false), Some(2));
        quarantine.begin(path).complete();
        assert_eq!(quarantine.sentence(path, false), None);
        assert_eq!(Quarantine::open(state.path()).sentence(path, false), None);
        assert_eq!(fs::read_dir(state.path().join(DIRECTORY)).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_being_read_when_the_process_ends_killed_nothing() {
        let state = tempfile::tempdir().unwrap();
        let path = Path::new("/w/export.json");
        for _ in 0..3 {
            let quarantine = Quarantine::open(state.path());
            die(&quarantine, path);
            quarantine.close();
        }
        assert_eq!(Quarantine::open(state.path()).sentence(path, false), None);
    }

    #[test]
    fn a_note_that_cannot_be_read_is_none() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join(DIRECTORY)).unwrap();
        for text in ["", "{", "[]", r#"{"path":"/w"}"#] {
            fs::write(state.path().join(DIRECTORY).join("note"), text).unwrap();
            assert!(Quarantine::open(state.path()).lock().is_empty());
            assert_eq!(fs::read_dir(state.path().join(DIRECTORY)).unwrap().count(), 0);
        }
    }
}
