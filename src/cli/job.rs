//! Reads the command line of an export job. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The exporter's flag for writing an id of its own into the export.
const EMIT_TASKS: &str = "--emit-tasks";

const OUTPUT: [&str; 2] = ["-o", "--output-dir"];

/// Returns the directory in a job's `-o X`, `-oX`, `--output-dir X` or `--output-dir=X`. The last
/// one counts, as for the exporter.
pub(crate) fn output_directory(job: &[OsString]) -> Option<PathBuf> {
    let [short, long] = OUTPUT;
    let mut found = None;
    let mut arguments = job.iter().skip(1);
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        if OUTPUT.iter().any(|option| argument == option) {
            found = arguments.next().map(PathBuf::from).or(found);
        } else if let Some(rest) = bytes.strip_prefix(long.as_bytes()) {
            found = rest.strip_prefix(b"=").map(|value| OsStr::from_bytes(value).into()).or(found);
        } else if let Some(value) = bytes.strip_prefix(short.as_bytes()) {
            found = Some(OsStr::from_bytes(value).into());
        }
    }
    found.filter(|directory: &PathBuf| !directory.as_os_str().is_empty())
}

/// Whether the job writes trace ids itself.
pub(crate) fn emits_tasks(job: &[OsString]) -> bool {
    job.iter().skip(1).any(|argument| argument == EMIT_TASKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(words: &str) -> Vec<OsString> {
        words.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_output_directory_in_every_form() {
        for (words, directory) in [
            ("contextcore manifest export -p c.yaml -o out", Some("out")),
            ("contextcore manifest export -oout -p c.yaml", Some("out")),
            ("contextcore manifest export --output-dir out", Some("out")),
            ("contextcore manifest export --output-dir=out/a=b", Some("out/a=b")),
            ("contextcore manifest export -o first --output-dir=last", Some("last")),
            ("contextcore manifest export -o", None),
            ("contextcore manifest export --output-dir=", None),
            ("contextcore manifest export --output-directory x", None),
            ("-o", None),
            ("make", None),
        ] {
            let found = output_directory(&job(words));
            assert_eq!(found, directory.map(PathBuf::from), "{words}");
        }
    }

    #[test]
    fn the_exporters_own_flag() {
        assert!(emits_tasks(&job("contextcore manifest export --emit-tasks -o out")));
        assert!(!emits_tasks(&job("contextcore manifest export --emit-onboarding")));
        assert!(!emits_tasks(&job("--emit-tasks")));
    }
}
