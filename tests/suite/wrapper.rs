//! Guarantees of `deploy/contextcore/contextcore`, which adds `--emit-tasks` to the exporter's
//! command line:
//! - Without `--emit-tasks`, every argument reaches the real program unchanged.
//! - With it, the export is delivered, and its exit code is the exporter's, whatever taskspan does.
//! - With `--dry-run` as well, nothing is sent and nothing is left behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::exports::presets;
use crate::support::fake_otlp::FakeOtlp;
use crate::support::program::PATIENCE;
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// A directory with a stand-in for the exporter, which writes an export into the directory of `-o`
/// and its arguments into `arguments`, one per line after a `|`.
struct Place {
    workspace: Workspace,
    server: FakeOtlp,
}

const EXPORTER: &str = r#"#!/bin/sh
cd "${0%/*}/.."
printf '|%s\n' "$@" > arguments
output=.
while [ $# -gt 0 ]; do
  case $1 in -o | --output-dir) output=$2 ;; esac
  shift
done
[ -e fail ] && exit 5
mkdir -p "$output" && cp template/* "$output" && echo exported
exit "$(cat code 2>/dev/null || echo 0)"
"#;

impl Place {
    async fn new(server: crate::support::fake_otlp::Builder) -> Place {
        let place = Place { workspace: Workspace::new(), server: server.start().await };
        presets::typical().write_into(&place.root().join("template"));
        fs::create_dir(place.root().join("bin")).unwrap();
        program(&place.root().join("bin/contextcore"), EXPORTER);
        place
    }

    fn root(&self) -> &Path {
        self.workspace.root()
    }

    /// Runs the wrapper with a `PATH` on which it precedes the stand-in.
    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &OsStr)]) -> Output {
        self.command(arguments).envs(environment.iter().copied()).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = [wrapper().parent().unwrap().to_owned(), self.root().join("bin")];
        let path = path.into_iter().chain(["/usr/bin".into(), "/bin".into()]);
        let mut command = Command::new(wrapper());
        command
            .args(arguments)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("TMPDIR", self.temporary())
            .env("TASKSPAN", env!("CARGO_BIN_EXE_taskspan"))
            .env("XDG_STATE_HOME", self.root().join("state"));
        command
    }

    fn temporary(&self) -> PathBuf {
        let directory = self.root().join("tmp");
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn arguments(&self) -> String {
        fs::read_to_string(self.root().join("arguments")).unwrap()
    }
}

fn wrapper() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/contextcore/contextcore")
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn expect(output: &Output, code: i32, words: &[&str]) {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[tokio::test]
async fn without_emit_tasks_nothing_is_changed() {
    let place = Place::new(FakeOtlp::builder().may_be_unused()).await;
    for arguments in [
        &["manifest", "export", "-p", "a b", "", "*", "--dry-run", "--endpoint", "x", "two\nlines"]
            [..],
        &["task", "list", "--emit-tasks"],
        &["manifest", "validate", "--emit-tasks"],
        &["manifest", "export", "-p", "--emit-tasks"],
    ] {
        expect(&place.run(arguments), 0, &["exported"]);
        let expected: String = arguments.iter().map(|it| format!("|{it}\n")).collect();
        assert_eq!(place.arguments(), expected);
    }
    fs::write(place.root().join("code"), "7").unwrap();
    expect(&place.run(&["manifest", "export"]), 7, &["exported"]);
    assert_eq!(place.server.attempts().len(), 0);
}

#[tokio::test]
async fn with_emit_tasks_the_export_is_delivered() {
    let place = Place::new(FakeOtlp::builder()).await;
    let endpoint = format!("--endpoint={}", place.server.endpoint());
    let output = place.run(&[
        "manifest",
        "export",
        "--emit-tasks",
        "-p",
        "c.yaml",
        "-o",
        "out",
        &endpoint,
        "--project-id",
        "my-project",
        "--emit-provenance",
    ]);
    expect(&output, 0, &["exported", "taskspan: 1 export emitted, 10 spans; task_trace_id="]);
    let passed = "|manifest\n|export\n|-p\n|c.yaml\n|-o\n|out\n|--emit-provenance\n";
    assert_eq!(place.arguments(), passed);
    let written = Snapshot::of(&place.root().join("out/onboarding-metadata.json"));
    assert!(written.written_trace_id().is_some());
    let spans = place.server.spans();
    let epic = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    let project = epic.attributes.iter().find(|it| it.key == "project.id").unwrap();
    assert!(format!("{project:?}").contains("my-project"), "{project:?}");
}

#[tokio::test]
async fn the_exit_code_is_the_exporters() {
    let place = Place::new(FakeOtlp::builder().may_be_unused()).await;
    let export = ["manifest", "export", "--emit-tasks", "-o", "out"];
    expect(&place.run(&export), 0, &["exported", "endpoint"]);
    fs::write(place.root().join("fail"), "").unwrap();
    expect(&place.run(&export), 5, &[]);
    let dry = ["manifest", "export", "--emit-tasks", "-o", "out", "--dry-run"];
    expect(&place.run(&dry), 5, &[]);
    fs::remove_file(place.root().join("fail")).unwrap();
    // Without taskspan, the export is made all the same.
    let missing = [("TASKSPAN", OsStr::new("/no/such/taskspan"))];
    expect(&place.run_with(&export, &missing), 0, &["warning: /no/such/taskspan", "exported"]);
}

#[tokio::test]
async fn a_dry_run_sends_nothing_and_leaves_nothing() {
    let place = Place::new(FakeOtlp::builder().may_be_unused()).await;
    let endpoint = place.server.endpoint().to_owned();
    let output = place.run(&[
        "manifest",
        "export",
        "--emit-tasks",
        "--dry-run",
        "-o",
        "out",
        "--endpoint",
        &endpoint,
    ]);
    expect(&output, 0, &["exported", "Corner Shop Observability Artifact Generation"]);
    assert!(!place.arguments().contains("--dry-run"), "{}", place.arguments());
    assert!(!place.root().join("out").exists());
    assert_eq!(fs::read_dir(place.temporary()).unwrap().count(), 0);
    assert_eq!(place.server.attempts().len(), 0);
}

/// A signal during the export of a dry run ends the exporter and leaves nothing.
#[tokio::test]
async fn a_dry_run_that_is_ended_leaves_nothing() {
    let place = Place::new(FakeOtlp::builder().may_be_unused()).await;
    let waits = "#!/bin/sh\ntouch \"$TMPDIR\"/*/half-written\n: > started\nexec sleep 600\n";
    program(&place.root().join("bin/contextcore"), waits);
    let dry_run = ["manifest", "export", "--emit-tasks", "--dry-run", "-o", "out"];
    let mut running = place.command(&dry_run).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !place.root().join("started").exists() {
        assert!(Instant::now() < deadline, "the exporter did not start");
        tokio::task::yield_now().await;
    }
    // A shell cannot trap SIGINT and SIGHUP if it inherits them as ignored, as in a background job.
    kill_process(Pid::from_child(&running), Signal::TERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(143));
    assert_eq!(fs::read_dir(place.temporary()).unwrap().count(), 0);
}

#[tokio::test]
async fn without_the_real_program_it_is_a_clear_error() {
    let place = Place::new(FakeOtlp::builder().may_be_unused()).await;
    fs::remove_file(place.root().join("bin/contextcore")).unwrap();
    let said = ["error: contextcore on PATH", "help: install ContextCore", "CONTEXTCORE"];
    expect(&place.run(&["manifest", "export", "--emit-tasks"]), 127, &said);
    expect(&place.run(&["--version"]), 127, &said);
    // Neither a copy of the wrapper nor the wrapper itself is the real program.
    fs::copy(wrapper(), place.root().join("bin/contextcore")).unwrap();
    expect(&place.run(&["--version"]), 127, &said);
    let itself: OsString = wrapper().into();
    let named = [("CONTEXTCORE", itself.as_os_str())];
    expect(&place.run_with(&["--version"], &named), 127, &["this wrapper itself"]);
}
