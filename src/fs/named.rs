//! Opens files that the user named: configuration, summaries, outputs of a step.
//!
//! Opening a FIFO waits for its other end, and a device may never end. Only regular files are
//! opened, and descriptors that the program inherited, such as those of a shell's `<(…)`.

#![expect(clippy::disallowed_methods, reason = "these files are opened where blocking is allowed")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Directories and links that name inherited descriptors.
const INHERITED: [&str; 4] = ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"];

/// Opens a file without waiting for anything.
///
/// # Errors
/// Fails if the file cannot be opened, or is neither regular nor an inherited descriptor.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    if INHERITED.iter().any(|inherited| path.starts_with(inherited)) {
        return options.open(path);
    }
    let not_regular = || io::Error::other("it is not a regular file");
    // Without this, a FIFO would give the error of a missing device.
    if path.metadata().is_ok_and(|it| !it.is_file()) {
        return Err(not_regular());
    }
    let file = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(not_regular()),
    }
}

/// Reads a text.
///
/// # Errors
/// Fails if the file cannot be opened or read, is not UTF-8, or has more than `max_bytes`.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    open(path, OpenOptions::new().read(true))?.take(max_bytes + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()).is_ok_and(|it| it <= max_bytes) {
        true => Ok(text),
        false => Err(io::Error::other(format!("it is over {max_bytes} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "it is over 4 bytes");
    }

    #[test]
    fn other_files_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [fifo.as_path(), dir.path(), Path::new("/dev/zero")] {
            for options in [OpenOptions::new().read(true), OpenOptions::new().append(true)] {
                let error = open(path, options).unwrap_err().to_string();
                assert_eq!(error, "it is not a regular file", "{}", path.display());
            }
        }
    }
}
