//! Keeps owner, mode and extended attributes of the old file on the new one.
//!
//! ```text
//! old file ─▶ FileMetadata ─apply─▶ new file: owner and group ─▶ extended attributes, ACLs ─▶ mode
//!                  └ later ─▶ FileMetadata ─apply_changes─▶ new file: only what changed in between
//! ```
//!
//! The owner is set first, while the mode still denies access to others. The mode is set last,
//! because it may forbid writing. An ACL that the new file inherited from its directory is removed
//! if the old file has none.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::WriteBackError;
use super::error::failed;

/// Owner, mode and extended attributes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileMetadata {
    uid: u32,
    gid: u32,
    mode: u32,
    /// Empty on a file system without extended attributes.
    extended: BTreeMap<OsString, Vec<u8>>,
}

impl FileMetadata {
    /// Reads the metadata of an open file. `path` is for messages.
    pub(super) fn of(file: &File, path: &Path) -> Result<FileMetadata, WriteBackError> {
        let stat =
            rustix::fs::fstat(file).map_err(|it| failed(path, "read its owner and mode", it))?;
        let extended = match extended(file) {
            Err(Errno::OPNOTSUPP) => BTreeMap::new(),
            extended => extended.map_err(|it| failed(path, "read its extended attributes", it))?,
        };
        let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        Ok(FileMetadata { uid, gid, mode, extended })
    }

    /// Gives a file this metadata.
    pub(super) fn apply(&self, file: &File, path: &Path) -> Result<(), WriteBackError> {
        let given = FileMetadata::of(file, path)?;
        self.set(&given, file, path)
    }

    /// Gives a file what differs from `before`, except for what was changed on the file itself since
    /// it got `before`.
    pub(super) fn apply_changes(
        &self,
        before: &FileMetadata,
        file: &File,
        path: &Path,
    ) -> Result<(), WriteBackError> {
        let given = FileMetadata::of(file, path)?;
        let mut wanted = given.clone();
        fn change<T: PartialEq + Clone>(wanted: &mut T, before: &T, now: &T) {
            if now != before && wanted == before {
                wanted.clone_from(now);
            }
        }
        change(&mut wanted.uid, &before.uid, &self.uid);
        change(&mut wanted.gid, &before.gid, &self.gid);
        change(&mut wanted.mode, &before.mode, &self.mode);
        for name in before.extended.keys().chain(self.extended.keys()) {
            let mut value = given.extended.get(name).cloned();
            let (then, now) = (before.extended.get(name), self.extended.get(name));
            change(&mut value, &then.cloned(), &now.cloned());
            match value {
                Some(value) => wanted.extended.insert(name.clone(), value),
                None => wanted.extended.remove(name),
            };
        }
        wanted.set(&given, file, path)
    }

    /// Sets what differs from `given`: even setting the same owner may be forbidden.
    fn set(&self, given: &FileMetadata, file: &File, path: &Path) -> Result<(), WriteBackError> {
        let FileMetadata { uid, gid, mode, extended } = self;
        let owner = (given.uid != *uid).then(|| Uid::from_raw(*uid));
        let group = (given.gid != *gid).then(|| Gid::from_raw(*gid));
        if owner.is_some() || group.is_some() {
            rustix::fs::fchown(file, owner, group).map_err(|errno| WriteBackError::Owner {
                path: path.to_path_buf(),
                uid: *uid,
                gid: *gid,
                source: errno.into(),
            })?;
        }
        set_extended(extended, &given.extended, file)
            .map_err(|errno| failed(path, "copy its extended attributes", errno))?;
        // A change of owner or ACL can change the mode, too.
        if self != given {
            rustix::fs::fchmod(file, Mode::from_raw_mode(*mode))
                .map_err(|errno| failed(path, "set the new file's mode", errno))?;
        }
        Ok(())
    }
}

fn set_extended(
    wanted: &BTreeMap<OsString, Vec<u8>>,
    given: &BTreeMap<OsString, Vec<u8>>,
    file: &File,
) -> rustix::io::Result<()> {
    for name in given.keys().filter(|name| !wanted.contains_key(*name)) {
        decide(name, rustix::fs::fremovexattr(file, name.as_os_str()))?;
    }
    for (name, value) in wanted.iter().filter(|(name, value)| given.get(*name) != Some(value)) {
        decide(name, rustix::fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Decides about a failure to copy an attribute. User attributes and ACLs must be copied. Labels
/// such as `security.selinux` are set by the kernel's policy, and most programs may not change
/// them.
fn decide(name: &OsStr, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if is_required(name) { result } else { Ok(()) }
}

fn is_required(name: &OsStr) -> bool {
    [b"user.".as_slice(), b"system."].iter().any(|prefix| name.as_bytes().starts_with(prefix))
}

/// The kernel's limit for a list of names and for one value, in bytes.
const XATTR_MAX: usize = 64 * 1024;

fn extended(file: &File) -> rustix::io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = rustix::fs::flistxattr(file, &mut buffer[..])?;
    let names = buffer[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let names: Vec<OsString> = names.map(|name| OsString::from_vec(name.to_vec())).collect();
    let mut extended = BTreeMap::new();
    for name in names {
        match rustix::fs::fgetxattr(file, name.as_os_str(), &mut buffer[..]) {
            Ok(length) => drop(extended.insert(name, buffer[..length].to_vec())),
            // It was removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(_) if !is_required(&name) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;

    const ACCESS: &str = "system.posix_acl_access";

    /// Two files in a directory, the second created like a temp file.
    struct Case {
        _dir: tempfile::TempDir,
        old: PathBuf,
        new: PathBuf,
    }

    impl Case {
        fn new(prepare: impl FnOnce(&Path, &Path)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (old, new) = (dir.path().join("old"), dir.path().join("new"));
            fs::write(&old, "").unwrap();
            prepare(dir.path(), &old);
            fs::write(&new, "").unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            let case = Case { _dir: dir, old, new };
            let file = File::options().write(true).open(&case.new).unwrap();
            let old = File::open(&case.old).unwrap();
            FileMetadata::of(&old, &case.old).unwrap().apply(&file, &case.old).unwrap();
            case
        }

        fn modes(&self) -> [u32; 2] {
            [&self.old, &self.new].map(|path| fs::metadata(path).unwrap().mode() & 0o7777)
        }

        fn values(&self, name: &str) -> [Option<Vec<u8>>; 2] {
            let name = OsStr::new(name);
            [&self.old, &self.new]
                .map(|path| extended(&File::open(path).unwrap()).unwrap().remove(name))
        }
    }

    /// Sets an attribute. Returns whether the file system supports it; otherwise there is nothing
    /// to copy.
    fn set(path: &Path, name: &str, value: &[u8]) {
        let _ = rustix::fs::setxattr(path, name, value, XattrFlags::empty());
    }

    /// `user::rw-,user:12345:r--,group::r--,mask::r--,other::---` in the kernel's format.
    fn acl() -> Vec<u8> {
        const UNDEFINED_ID: u32 = u32::MAX;
        let entries = [
            (1u16, 6u16, UNDEFINED_ID),
            (2, 4, 12345),
            (4, 4, UNDEFINED_ID),
            (16, 4, UNDEFINED_ID),
            (32, 0, UNDEFINED_ID),
        ];
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn mode_and_attributes_come_along() {
        for mode in [0o600, 0o640, 0o444, 0o664] {
            let case = Case::new(|_, old| {
                set(old, "user.origin", b"ci");
                fs::set_permissions(old, fs::Permissions::from_mode(mode)).unwrap();
            });
            assert_eq!(case.modes(), [mode; 2]);
            let [old, new] = case.values("user.origin");
            assert_eq!(old, new);
        }
    }

    #[test]
    fn an_acl_is_copied() {
        let case = Case::new(|_, old| set(old, ACCESS, &acl()));
        let [old, new] = case.values(ACCESS);
        assert_eq!(old, new);
        assert_eq!(case.modes()[0], case.modes()[1]);
    }

    #[test]
    fn an_acl_of_the_directory_is_not_added() {
        let case = Case::new(|dir, _| set(dir, "system.posix_acl_default", &acl()));
        let [old, new] = case.values(ACCESS);
        assert_eq!(old, new);
        assert_eq!(case.modes()[0], case.modes()[1]);
    }

    #[test]
    fn the_owner_comes_along() {
        // Only root can change the owner of a file. For others the owners are the same.
        let give_away = |old: &Path| std::os::unix::fs::chown(old, Some(12345), Some(54321));
        let case = Case::new(|_, old| give_away(old).unwrap_or_default());
        let [old, new] =
            [&case.old, &case.new].map(|path| fs::metadata(path).map(|it| (it.uid(), it.gid())));
        assert_eq!(old.unwrap(), new.unwrap());
    }
}
