//! Copies owner, attributes and mode of the old file to the new one.
//!
//! ```text
//! owner and group ─▶ extended attributes, ACLs among them ─▶ mode
//! ```
//!
//! The owner is set first, while the mode still denies access to others. The mode is set last,
//! because it may forbid writing. An ACL that the new file inherited from its directory is removed
//! if the old file has none.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::WriteBackError;

pub(super) fn copy(old: &File, new: &File, path: &Path) -> Result<(), WriteBackError> {
    let failed = |action| {
        move |errno: Errno| WriteBackError::System {
            path: path.to_path_buf(),
            action,
            source: errno.into(),
        }
    };
    let wanted = rustix::fs::fstat(old).map_err(failed("read its owner and mode"))?;
    let given = rustix::fs::fstat(new).map_err(failed("read the new file's owner"))?;

    // Set only what differs: even setting the same owner may be forbidden.
    let (uid, gid) = (wanted.st_uid, wanted.st_gid);
    let owner = (given.st_uid != uid).then(|| Uid::from_raw(uid));
    let group = (given.st_gid != gid).then(|| Gid::from_raw(gid));
    if owner.is_some() || group.is_some() {
        rustix::fs::fchown(new, owner, group).map_err(|errno| WriteBackError::Owner {
            path: path.to_path_buf(),
            uid,
            gid,
            source: errno.into(),
        })?;
    }
    match copy_extended(old, new) {
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(failed("copy its extended attributes")(errno)),
    }
    rustix::fs::fchmod(new, Mode::from_raw_mode(wanted.st_mode & 0o7777))
        .map_err(failed("set the new file's mode"))
}

fn copy_extended(old: &File, new: &File) -> rustix::io::Result<()> {
    let wanted = names(old)?;
    for name in names(new)? {
        if !wanted.contains(&name) {
            settle(&name, rustix::fs::fremovexattr(new, &*name))?;
        }
    }
    for name in &wanted {
        let value = value(old, name)?;
        if self::value(new, name).as_ref() != Ok(&value) {
            settle(name, rustix::fs::fsetxattr(new, &**name, &value, XattrFlags::empty()))?;
        }
    }
    Ok(())
}

/// Decides about a failure to copy an attribute. User attributes and ACLs must be copied. Labels
/// such as `security.selinux` are set by the kernel's policy, and most programs may not change
/// them.
fn settle(name: &OsStr, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    let ours = [b"user.".as_slice(), b"system."].iter().any(|p| name.as_bytes().starts_with(p));
    if ours { result } else { Ok(()) }
}

/// The kernel's limit for a list of names and for one value, in bytes.
const XATTR_MAX: usize = 64 * 1024;

fn names(file: &File) -> rustix::io::Result<Vec<OsString>> {
    let mut list = vec![0; XATTR_MAX];
    let length = rustix::fs::flistxattr(file, &mut list[..])?;
    let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

fn value(file: &File, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; XATTR_MAX];
    let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
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
            copy(&File::open(&case.old).unwrap(), &file, &case.old).unwrap();
            case
        }

        fn modes(&self) -> [u32; 2] {
            [&self.old, &self.new].map(|path| fs::metadata(path).unwrap().mode() & 0o7777)
        }

        fn values(&self, name: &str) -> [rustix::io::Result<Vec<u8>>; 2] {
            let name = OsStr::new(name);
            [&self.old, &self.new].map(|path| value(&File::open(path).unwrap(), name))
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
