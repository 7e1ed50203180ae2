//! Guarantees:
//! - If a system call fails, `once` either delivers the export and succeeds, or says that it did not.
//! - Whatever fails, the file is the one that was written, or has the id of a trace that arrived.
//! - The next run delivers what was not, under the same id.

use std::process::Command;

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::workspace::Workspace;

/// The calls that fail, those of the same purpose together.
const CALLS: [&str; 8] = [
    "openat,openat2",
    "statx,newfstatat,fstat,lstat,stat",
    "getdents64,readlink",
    "read,pread64",
    "fsync,fdatasync",
    "flock",
    "renameat2,renameat,rename",
    "pwrite64,ftruncate,fallocate",
];

/// The errors, one after the other.
const ERRORS: [&str; 5] = ["EIO", "EACCES", "ENOMEM", "EINTR", "ENOSPC"];

/// How many calls of each kind fail, one in each run.
const RUNS: usize = 16;

fn has_strace() -> bool {
    let strace = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    strace.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn one_failing_call_gives_no_false_success_and_no_false_id() {
    if !has_strace() {
        eprintln!("skipped: there is no strace(1) that may trace");
        return;
    }
    for calls in CALLS {
        for run in 0..RUNS {
            // The first calls are those of the start; later ones are further apart.
            let (nth, error) = (1 + run * (1 + run / 4), ERRORS[run % ERRORS.len()]);
            check(calls, nth, error).await;
        }
    }
}

/// Runs `once` with the `nth` call failing in each thread, and then without.
async fn check(calls: &str, nth: usize, error: &str) {
    let case = format!("{calls}: {error} at call {nth}");
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let snapshot = workspace.export("a", &presets::typical()).snapshot;
    let inject = format!("inject={calls}:error={error}:when={nth}");
    let traced = format!("trace={calls}");
    let strace = ["strace", "-f", "-o", "/dev/null", "-e", &traced, "-e", &inject];
    let run =
        workspace.once(&server, Protocol::Grpc).args(&["--timeout", "5s"]).behind(&strace).run();
    match (run.code, snapshot.written_trace_id()) {
        (0, Some(id)) => assert_eq!(id, snapshot.trace_id(), "{case}\n{}", run.stderr),
        (0, None) => panic!("{case}: success without an id\n{}", run.stderr),
        (_, Some(id)) => assert_eq!(id, snapshot.trace_id(), "{case}\n{}", run.stderr),
        (_, None) => assert!(snapshot.is_untouched(), "{case}\n{}", run.stderr),
    }
    if snapshot.written_trace_id().is_some() {
        let faults = snapshot.check(&server.accepted());
        assert_eq!(faults, [""; 0], "{case}: the id leads to no complete trace\n{}", run.stderr);
    }
    let again = workspace.once(&server, Protocol::Grpc).run();
    assert_eq!(again.code, 0, "{case}\n{}\n--- again\n{}", run.stderr, again.stderr);
    assert_eq!(snapshot.written_trace_id().as_deref(), Some(&*snapshot.trace_id()), "{case}");
    assert!(!server.spans().is_empty(), "{case}");
}
