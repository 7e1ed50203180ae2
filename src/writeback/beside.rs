//! `write_back: beside` writes the trace id into a separate file and leaves the export unchanged.
//!
//! ```text
//! onboarding-metadata.json ─▶ as emitted? ─▶ temp file ─▶ rename ─▶ onboarding-metadata.task.json
//! ```
//!
//! It is for exports that are compared by checksum, or that cannot be written.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::path::Path;

use rustix::fs::Mode;

use super::error::failed;
use super::replace::{alone, sync};
use super::temp;
use super::{Outcome, WriteBackError, splice};
use crate::base::text::hex;
use crate::fs::carried::{CHECKSUM, EMITTED_AT, TRACE_ID, beside_name, id_beside};
use crate::fs::file::{FileVersion, SourceError};
use crate::fs::root::Roots;

/// Writes the two keys into the file next to the export that `source` identifies, if the export is
/// still there.
pub(crate) fn write_beside(
    roots: &Roots,
    source: &FileVersion,
    task_trace_id: &str,
    task_emission_timestamp: &str,
    max_bytes: u64,
) -> Result<Outcome, WriteBackError> {
    let path = source.canonical();
    let _alone = alone(path);
    let export = match roots.locate_version(source) {
        Err(SourceError::Missing { .. }) => return Ok(Outcome::Gone),
        export => export?,
    };
    let (dir, name) = (&export.dir, export.name.as_os_str());
    let original = match dir.load(Path::new(name), max_bytes) {
        Err(SourceError::Missing { .. }) => return Ok(Outcome::Gone),
        Ok((current, _)) if !current.source.same_version(source) => return Ok(Outcome::Superseded),
        Ok((_, original)) => original,
        Err(error) => return Err(error.into()),
    };
    if id_beside(&export)?.as_deref() == Some(task_trace_id) {
        return Ok(Outcome::Written);
    }
    let checksum = hex(&source.sha256);
    let entries =
        [(TRACE_ID, task_trace_id), (EMITTED_AT, task_emission_timestamp), (CHECKSUM, &checksum)];
    let text = splice::splice(b"{\n}\n", &entries)
        .map_err(|source| WriteBackError::Splice { path: path.to_path_buf(), source })?;

    let beside = beside_name(name);
    let (mut temp, _) =
        temp::create(dir, beside.as_os_str(), &source.sha256, &[text.into()], |new, path| {
            // The file belongs to taskspan's user. It gets the export's mode, so that readers of
            // the export can read it.
            let mode = rustix::fs::fstat(&original)
                .map(|stat| Mode::from_raw_mode(stat.st_mode & 0o666 | 0o200))
                .map_err(|errno| failed(path, "read the export's mode", errno))?;
            rustix::fs::fchmod(new, mode).map_err(|errno| failed(path, "set its mode", errno))
        })?;
    temp.persist(&beside)
        .map_err(|errno| failed(&dir.canonical.join(&beside), "put it in place", errno))?;
    sync(dir);
    Ok(Outcome::Written)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fs::root;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn the_export_is_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("onboarding-metadata.json");
        fs::write(&path, "{}").unwrap();
        let source = root::load(&path, 1 << 20).unwrap().source;
        let roots = Roots::of_file(&path);
        let beside = || id_beside(&roots.locate(&path).unwrap()).unwrap();
        assert_eq!(beside(), None);
        for _ in 0..2 {
            let outcome =
                write_beside(&Roots::of_file(&path), &source, ID, "2026-01-02T03:04:05Z", 1 << 20)
                    .unwrap();
            assert_eq!(outcome, Outcome::Written);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
        let text = fs::read_to_string(dir.path().join("onboarding-metadata.task.json")).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\n  \"task_trace_id\": \"{ID}\",\n  \"task_emission_timestamp\": \
                 \"2026-01-02T03:04:05Z\",\n  \"metadata_sha256\": \
                 \"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"\n}}\n"
            )
        );
        assert_eq!(beside().as_deref(), Some(ID));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn another_version_gets_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.json");
        fs::write(&path, "{}").unwrap();
        let source = root::load(&path, 1 << 20).unwrap().source;
        fs::write(&path, "{ }").unwrap();
        assert_eq!(
            write_beside(&Roots::of_file(&path), &source, ID, "", 1 << 20).unwrap(),
            Outcome::Superseded
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(
            write_beside(&Roots::of_file(&path), &source, ID, "", 1 << 20).unwrap(),
            Outcome::Gone
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
