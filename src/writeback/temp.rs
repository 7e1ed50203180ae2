//! The temp file next to an export, and its name.
//!
//! ```text
//! .onboarding-metadata.json.taskspan-w-69e2a5d1-0f3c…-77ab…-9c41d2e8.tmp    while it is written
//! .onboarding-metadata.json.taskspan-69e2a5d1-0f3c…-77ab…-9c41d2e8.tmp      when it is complete
//!  └ target                          │        │     │     └ random
//!                                    └ born   │     └ prepared: digest of what was written into it
//!                                             └ original: digest of what it is to replace
//! ```
//!
//! After a crash the name alone shows what a leftover is. Under the first name it is an incomplete
//! file of ours, and nothing else. Under the second it is the new file, the displaced file, or
//! another version that was not read yet. The name has a time because an exchange does not change
//! the file's times, on some file systems not even the ctime.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Mode;
use sha2::{Digest, Sha256};

use super::WriteBackError;
use crate::fs::directory::Directory;
use crate::fs::file::Stamp;
use crate::fs::temp::TempFile;

/// Whether a name is that of a temp file. The receiver skips such files.
pub(crate) fn is_temp_name(name: impl AsRef<OsStr>) -> bool {
    TempName::parse(name.as_ref()).is_some()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TempName {
    pub(super) target: String,
    pub(super) is_complete: bool,
    /// In seconds since the epoch.
    pub(super) born: u64,
    pub(super) original: u64,
    pub(super) prepared: u64,
    random: u32,
}

const MARK: &str = ".taskspan-";
/// Follows the mark while the file is being written.
const INCOMPLETE: &str = "w-";

impl TempName {
    fn new(target: &OsStr, original: &[u8; 32], prepared: &[Cow<'_, [u8]>]) -> Self {
        let digest = prepared.iter().fold(Sha256::new(), |sum, part| sum.chain_update(part));
        TempName {
            target: target.to_string_lossy().into_owned(),
            is_complete: false,
            born: seconds(SystemTime::now()),
            original: short(original),
            prepared: short(&digest.finalize().into()),
            // Two names must only differ: the file is created exclusively.
            random: RandomState::new().hash_one(()) as u32,
        }
    }

    fn text(&self) -> String {
        let TempName { target, is_complete, born, original, prepared, random } = self;
        let incomplete = if *is_complete { "" } else { INCOMPLETE };
        format!(
            ".{target}{MARK}{incomplete}{born:x}-{original:016x}-{prepared:016x}-{random:08x}.tmp"
        )
    }

    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?.strip_prefix('.')?.strip_suffix(".tmp")?;
        let (target, rest) = name.rsplit_once(MARK)?;
        let complete = rest.strip_prefix(INCOMPLETE);
        let mut parts = complete.unwrap_or(rest).split('-');
        let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
        let (born, original, prepared, random) = (next()?, next()?, next()?, next()?);
        let name = TempName {
            target: target.to_owned(),
            is_complete: complete.is_none(),
            born,
            original,
            prepared,
            random: random.try_into().ok()?,
        };
        (!target.is_empty() && parts.next().is_none()).then_some(name)
    }
}

/// The part of a digest that fits into a name.
pub(super) fn short(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes a temp file next to `target`. `digest` is that of the version to replace.
pub(super) fn create<'a>(
    dir: &'a Directory,
    target: &OsStr,
    digest: &[u8; 32],
    text: &[Cow<'_, [u8]>],
    dress: impl FnOnce(&File, &Path) -> Result<(), WriteBackError>,
) -> Result<(TempFile<'a>, Stamp), WriteBackError> {
    let path = dir.canonical.join(target);
    let name = TempName::new(target, digest, text);
    let complete = PathBuf::from(TempName { is_complete: true, ..name.clone() }.text());
    let incomplete = PathBuf::from(name.text());
    let failed = |action, source| WriteBackError::System { path: path.clone(), action, source };
    let private = Mode::RUSR | Mode::WUSR;
    let (mut temp, stamp) =
        TempFile::create(dir, (incomplete, private), text, |file| dress(file, &path), failed)?;
    temp.rename_to(complete).map_err(|errno| failed("name the new file", errno.into()))?;
    Ok((temp, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_nothing_else_is() {
        let name =
            TempName::new(OsStr::new("onboarding-metadata.json"), &[0xab; 32], &[b"{}".into()]);
        let complete = TempName { is_complete: true, ..name.clone() };
        for name in [name, complete] {
            assert_eq!(TempName::parse(OsStr::new(&name.text())), Some(name));
        }
        assert!(is_temp_name(".o.json.taskspan-1-2-3-4.tmp"));
        for other in [
            "onboarding-metadata.json",
            ".onboarding-metadata.json.tmp",
            ".onboarding-metadata.json.taskspan-.tmp",
            ".o.taskspan-1-2-3.tmp",
            ".o.taskspan-1-2-3-4-5.tmp",
            ".o.taskspan-1-2-3-x.tmp",
            ".o.taskspan-x-1-2-3-4.tmp",
            ".o.taskspan-w-w-1-2-3-4.tmp",
            "o.taskspan-1-2-3-4.tmp",
            ".taskspan-1-2-3-4.tmp",
            ".o.taskspan-1-2-3-4",
            "",
        ] {
            assert!(!is_temp_name(other), "{other}");
        }
    }
}
