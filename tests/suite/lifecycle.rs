//! Guarantees:
//!
//! - The example `lifecycle`, which shows the whole life of a plan, runs to its end with one trace.

use std::path::Path;
use std::process::Command;

#[test]
fn the_lifecycle_example_is_one_trace() {
    let examples = Path::new(env!("CARGO_BIN_EXE_taskspan")).with_file_name("examples");
    let home = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let run = Command::new(examples.join("lifecycle"))
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", path)
        .output()
        .expect("cargo test has built the examples");
    let stdout = String::from_utf8_lossy(&run.stdout);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("one trace, every parent known"), "{stdout}");
    for line in ["rules-load", "FINALIZE_VERIFY", "a rule does not parse"] {
        assert!(stdout.contains(line), "no {line} in {stdout}");
    }
}
