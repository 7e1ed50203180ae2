//! Knows which file systems send events. Network file systems and other shared ones do not send
//! events for changes by other machines.

use std::path::Path;

/// Magic numbers of `statfs(2)`.
#[cfg(target_os = "linux")]
const WITHOUT_EVENTS: [(u32, &str); 12] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0bd0_0bd0, "lustre"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x786f_4256, "vboxsf"),
];

/// Returns the name of a file system that sends no events, or not all. `None` for one that does, or
/// if it is unknown.
#[cfg(target_os = "linux")]
pub(crate) fn without_events(path: &Path) -> Option<&'static str> {
    // The width of the field differs between platforms; the numbers have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let magic = rustix::fs::statfs(path).ok()?.f_type as u32;
    kind(magic)
}

#[cfg(target_os = "linux")]
fn kind(magic: u32) -> Option<&'static str> {
    WITHOUT_EVENTS.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn without_events(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_others_write_to_are_known_by_their_numbers() {
        for (magic, name) in [
            (rustix::fs::NFS_SUPER_MAGIC as u32, Some("nfs")),
            (0x0102_1997, Some("9p")),
            (0x6573_5546, Some("fuse")),
            (0xef53, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
        ] {
            assert_eq!(kind(magic), name, "{magic:x}");
        }
    }

    #[test]
    fn local_directories_give_events() {
        assert_eq!(without_events(tempfile::tempdir().unwrap().path()), None);
        assert_eq!(without_events(Path::new("/nowhere")), None);
    }
}
