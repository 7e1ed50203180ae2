//! The temp file beside an export: its name, and the guard that removes it.
//!
//! ```text
//! .onboarding-metadata.json.taskspan-69e2a5d1-0f3c…-77ab…-9c41d2e8.tmp
//!  └ target                          │        │     │     └ random
//!                                    └ born   │     └ prepared: digest of what was written into it
//!                                             └ original: digest of what it is to replace
//! ```
//!
//! After a crash the name alone tells which of the three a leftover is: the new file, the displaced
//! file, or another version that was not read yet. It carries its own time
//! because an exchange leaves the file's times as they were, on some file systems even the ctime.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest, Sha256};

use super::WriteBackError;
use crate::fs::file::{Directory, Stamp};

/// Returns whether the name is that of a temp file. The receiver skips such files.
pub fn is_temp_name(name: impl AsRef<OsStr>) -> bool {
    TempName::parse(name.as_ref()).is_some()
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TempName {
    pub(super) target: String,
    /// In seconds since the epoch.
    pub(super) born: u64,
    pub(super) original: u64,
    pub(super) prepared: u64,
    random: u32,
}

const MARK: &str = ".taskspan-";

impl TempName {
    fn new(target: &OsStr, original: &[u8; 32], prepared: &[Cow<'_, [u8]>]) -> Self {
        let digest = prepared.iter().fold(Sha256::new(), |sum, part| sum.chain_update(part));
        TempName {
            target: target.to_string_lossy().into_owned(),
            born: seconds(SystemTime::now()),
            original: short(original),
            prepared: short(&digest.finalize().into()),
            // Two names must differ, no more: the file is created exclusively.
            random: RandomState::new().hash_one(()) as u32,
        }
    }

    fn text(&self) -> String {
        let TempName { target, born, original, prepared, random } = self;
        format!(".{target}{MARK}{born:x}-{original:016x}-{prepared:016x}-{random:08x}.tmp")
    }

    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?.strip_prefix('.')?.strip_suffix(".tmp")?;
        let (target, rest) = name.rsplit_once(MARK)?;
        let mut parts = rest.split('-');
        let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
        let (born, original, prepared, random) = (next()?, next()?, next()?, next()?);
        let name = TempName {
            target: target.to_owned(),
            born,
            original,
            prepared,
            random: random.try_into().ok()?,
        };
        (!target.is_empty() && parts.next().is_none()).then_some(name)
    }
}

/// As much of a digest as a name has room for.
pub(super) fn short(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A temp file that goes when the guard does, unless what it holds is not ours to remove.
#[derive(Debug)]
pub(super) struct Temp<'a> {
    dir: &'a Directory,
    pub(super) name: PathBuf,
    pub(super) disposable: bool,
}

impl<'a> Temp<'a> {
    /// A complete file, as durable as the disk: `text`, and all else as `dress` makes it.
    pub(super) fn create(
        dir: &'a Directory,
        target: &OsStr,
        digest: &[u8; 32],
        text: &[Cow<'_, [u8]>],
        dress: impl FnOnce(&File, &Path) -> Result<(), WriteBackError>,
    ) -> Result<(Self, Stamp), WriteBackError> {
        let path = dir.canonical.join(target);
        let failed = |action| {
            let path = path.clone();
            move |source| WriteBackError::System { path, action, source }
        };
        let name = PathBuf::from(TempName::new(target, digest, text).text());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir.fd, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create a file beside it")(errno.into()))?;
        let temp = Temp::adopt(dir, name);

        let mut file = File::from(fd);
        for part in text {
            file.write_all(part).map_err(failed("write the new file"))?;
        }
        dress(&file, &path)?;
        file.sync_all().map_err(failed("bring the new file to the disk"))?;
        let stamp = rustix::fs::fstat(&file)
            .map_err(|errno| failed("look at the new file")(errno.into()))?;
        Ok((temp, Stamp::from(&stamp)))
    }

    /// Takes charge of a temp file that is there already.
    pub(super) fn adopt(dir: &'a Directory, name: PathBuf) -> Self {
        Temp { dir, name, disposable: true }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.canonical.join(&self.name)
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.disposable {
            // A failure leaves a stray that the clean-up finds.
            let _ = rustix::fs::unlinkat(&self.dir.fd, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_nothing_else_is() {
        let name =
            TempName::new(OsStr::new("onboarding-metadata.json"), &[0xab; 32], &[b"{}".into()]);
        assert_eq!(TempName::parse(OsStr::new(&name.text())), Some(name));
        assert!(is_temp_name(".o.json.taskspan-1-2-3-4.tmp"));
        for other in [
            "onboarding-metadata.json",
            ".onboarding-metadata.json.tmp",
            ".onboarding-metadata.json.taskspan-.tmp",
            ".o.taskspan-1-2-3.tmp",
            ".o.taskspan-1-2-3-4-5.tmp",
            ".o.taskspan-1-2-3-x.tmp",
            "o.taskspan-1-2-3-4.tmp",
            ".taskspan-1-2-3-4.tmp",
            ".o.taskspan-1-2-3-4",
            "",
        ] {
            assert!(!is_temp_name(other), "{other}");
        }
    }
}
