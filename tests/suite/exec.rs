//! Guarantees:
//! - The job starts at once, and its exit code, streams and signals are its own, whatever is wrong
//!   with the telemetry.
//! - Only exports that the job wrote are delivered. Others stay unchanged and are mentioned in one
//!   line.
//! - Without `--watch` and configuration, the job's own output directory is watched.
//! - `--dry-run` runs the job, shows what it would send, and sends nothing.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{PATIENCE, Program};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// An export that a job can copy to its directory, which does not exist yet.
struct Job {
    workspace: Workspace,
    server: FakeOtlp,
}

impl Job {
    async fn new(server: crate::support::fake_otlp::Builder) -> Job {
        let workspace = Workspace::new();
        presets::typical().write_into(&workspace.root().join("template"));
        Job { workspace, server: server.start().await }
    }

    fn target(&self) -> String {
        self.workspace.root().join("made/by/the/job").display().to_string()
    }

    fn exec(&self) -> Program {
        let to = ["--watch", &self.target(), "--endpoint", self.server.endpoint()];
        self.workspace.program("exec").args(&to)
    }

    /// Returns a shell script that writes an export and then runs `then`.
    fn export_and(&self, then: &str) -> String {
        let (from, to) = (self.workspace.root().join("template"), self.target());
        format!("mkdir -p '{to}' && cp -p '{}'/* '{to}' && {then}", from.display())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::of(&Path::new(&self.target()).join("onboarding-metadata.json"))
    }

    fn id(&self) -> Option<String> {
        let path = Path::new(&self.target()).join("onboarding-metadata.json");
        let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        json["task_trace_id"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn exports_of_the_job_are_delivered() {
    for protocol in Protocol::BOTH {
        let job = Job::new(FakeOtlp::builder()).await;
        let script = job.export_and("echo out; echo err >&2; cat; exit 4");
        let mut program = job.exec().args(&["--protocol", protocol.name()]);
        program = program.args(&["--", "sh", "-c", &script]);
        let run = program.run().expect_code(4);
        assert_eq!(run.stdout, "out\n", "the job's, and nothing else");
        let id = job.id().expect("it has its id");
        let lines: Vec<&str> = run.stderr.lines().collect();
        let line = format!("taskspan: 1 export emitted, 10 spans; task_trace_id={id}");
        assert_eq!(lines, ["err", &line]);
        assert_eq!(job.server.spans().len(), 10);
    }
}

#[tokio::test]
async fn the_code_is_the_jobs_whatever_it_is() {
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let not_executable = job.workspace.config("no-program", "");
    for (command, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["there-is-no-such-command"], 127),
        (&[not_executable.to_str().unwrap()], 126),
    ] {
        job.exec().arg("--").args(command).run().expect_code(code);
    }
    job.exec().run().expect_code(2);
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_the_timeout_and_changes_no_file() {
    let job = Job::new(FakeOtlp::builder().forever(Fault::Stall)).await;
    let script = job.export_and("exit 3");
    let run = job.exec().args(&["--timeout", "500ms", "--", "sh", "-c", &script]).run();
    run.expect_code(3).expect_log(&["1 export not delivered"]);
    assert!(job.snapshot().is_untouched());
    let names = fs::read_dir(job.target()).unwrap().count();
    let template = fs::read_dir(job.workspace.root().join("template")).unwrap().count();
    assert_eq!(names, template, "no file of ours is left");
    assert_eq!(job.id(), None);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_does_not_stop_the_job() {
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let wrong = job.workspace.config("wrong.yaml", "exporters: {unheard_of: }\n");
    let script = job.export_and("exit 5");
    let config = ["-c", wrong.to_str().unwrap()];
    let run = job.workspace.program("exec").args(&config).args(&["--", "sh", "-c", &script]).run();
    run.expect_code(5).expect_log(&["unknown exporter `unheard_of`", "the job runs without it"]);
    // There is no endpoint at all.
    let watch = ["--watch", &job.target(), "--", "sh", "-c", "exit 6"];
    let run = job.workspace.program("exec").args(&watch).run();
    run.expect_code(6).expect_log(&["--endpoint", "the job runs without it"]);
    assert_eq!(job.id(), None);
}

/// Whether the test runner ignores a signal, as shells make background jobs do. The program then
/// ignores it too, and no shell can trap it.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or_default();
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[tokio::test]
async fn signals_reach_the_job() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::USR1, "USR1")] {
        if is_ignored(signal) {
            eprintln!("skipped: SIG{name} is ignored here");
            continue;
        }
        let job = Job::new(FakeOtlp::builder()).await;
        let trap = format!("trap 'echo got {name}; kill $p; exit 9' {name}; ");
        // A shell runs its trap when the command that it waits for is interrupted.
        let script = job.export_and(&format!("{trap} sleep 60 & p=$!; echo ready; wait"));
        let mut running = job.exec().args(&["--", "sh", "-c", &script]).spawn();
        running.wait_for_line("ready", PATIENCE);
        running.signal(signal);
        let code = running.wait(PATIENCE);
        let output = running.output(code).expect_code(9);
        assert!(output.stdout.contains(&format!("got {name}")), "{}", output.stdout);
        assert!(job.id().is_some(), "what it wrote is delivered all the same");
    }
}

/// A terminal sends a signal to all processes in its foreground, so the job has it already.
#[tokio::test]
async fn a_key_at_the_terminal_reaches_the_job_once() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no script(1) to make a terminal");
        return;
    }
    if is_ignored(Signal::INT) {
        eprintln!("skipped: SIGINT is ignored here");
        return;
    }
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let log = job.workspace.root().join("log");
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    let script = job.workspace.config(
        "job.sh",
        &format!(
            "trap 'echo INT >> {0}' INT; trap 'echo TERM >> {0}; kill $p; exit 0' TERM\n\
         echo $PPID > {0}.pid; echo ready >> {0}; sleep 60 & p=$!; while :; do wait $p; done\n",
            log.display()
        ),
    );
    let command = format!(
        "{} exec --watch {} --endpoint {} --state-dir {} -- sh {}",
        env!("CARGO_BIN_EXE_taskspan"),
        job.target(),
        job.server.endpoint(),
        job.workspace.root().join("state").display(),
        script.display()
    );
    let mut terminal = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let wait_for = |words: &'static str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !lines().contains(words) {
            assert!(std::time::Instant::now() < deadline, "no {words} in {:?}", lines());
            std::thread::yield_now();
        }
    };
    wait_for("ready");
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    wait_for("INT");
    let pid: i32 =
        fs::read_to_string(format!("{}.pid", log.display())).unwrap().trim().parse().unwrap();
    let taskspan = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(taskspan, Signal::TERM).unwrap();
    wait_for("TERM");
    assert_eq!(lines(), "ready\nINT\nTERM\n");
    drop(terminal.stdin.take());
    terminal.wait().unwrap();
}

#[tokio::test]
async fn a_ci_system_gets_its_outputs() {
    let job = Job::new(FakeOtlp::builder()).await;
    let root = job.workspace.root();
    let [summary, page, outputs] = ["summary.md", "page.md", "outputs"].map(|name| root.join(name));
    fs::write(&page, "before\n").unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let program = job.exec().arg("--summary").arg(&summary).env("GITHUB_STEP_SUMMARY", &page);
    let program = program.env("GITHUB_OUTPUT", &outputs).env("TRACEPARENT", parent);
    let script = job.export_and("true");
    program.args(&["--", "sh", "-c", &script]).run().expect_code(0);

    let id = job.id().unwrap();
    assert_eq!(fs::read_to_string(&outputs).unwrap(), format!("task_trace_id={id}\n"));
    let text = fs::read_to_string(&summary).unwrap();
    assert!(text.contains(&id) && text.contains("```mermaid"), "{text}");
    assert_eq!(fs::read_to_string(&page).unwrap(), format!("before\n{text}"));

    let epic = job.server.spans().into_iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    let link = &epic.links[0];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&link.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&link.span_id), "b7ad6b7169203331");
    assert_eq!((epic.links.len(), link.attributes[0].key.as_str()), (1, "link.type"));

    // A repeated step finds nothing to do, but still returns the id.
    let again = job.workspace.program("once").arg(job.target());
    let again = again.args(&["--endpoint", job.server.endpoint()]);
    again.env("GITHUB_OUTPUT", &outputs).run().expect_code(0);
    assert_eq!(fs::read_to_string(&outputs).unwrap(), format!("task_trace_id={id}\n").repeat(2));
}

#[tokio::test]
async fn the_summary_of_the_sample_export() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sample-export");
    for entry in fs::read_dir(sample).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, workspace.exports().join(path.file_name().unwrap())).unwrap();
    }
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["service"]["grafana_url"] = "https://grafana.example.com".into();
    let summary = workspace.root().join("summary.md");
    let program = workspace.configured("once", &pipeline).arg("--summary").arg(&summary);
    program.run().expect_code(0);
    let metadata = fs::read(workspace.exports().join("onboarding-metadata.json")).unwrap();
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let text = fs::read_to_string(&summary).unwrap();
    insta::assert_snapshot!(text.replace(metadata["task_trace_id"].as_str().unwrap(), "TRACE_ID"));
}

/// A log that cannot be written must not stop the job.
#[tokio::test]
async fn a_full_disk_under_the_log_changes_nothing() {
    let job = Job::new(FakeOtlp::builder()).await;
    let state = job.workspace.root().join("state");
    let exec = |arguments: &[&str], script: &str| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskspan"));
        command.arg("exec").arg("--state-dir").arg(&state).args(arguments);
        command.args(["--", "sh", "-c", script]).stderr(full);
        command.output().unwrap()
    };
    let watch = ["--watch", &job.target(), "--endpoint", job.server.endpoint()];
    let run = exec(&watch, &job.export_and("echo ran; exit 4"));
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(4), &b"ran\n"[..]));
    assert!(job.id().is_some());
    let run = exec(&["-c", "/no/such.yaml"], "echo ran; exit 4");
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(4), &b"ran\n"[..]));
}

/// A signal that the program ignores stays ignored for the job.
#[tokio::test]
async fn a_job_under_nohup_outlives_a_hang_up() {
    if Command::new("nohup").arg("--version").output().is_err() {
        eprintln!("skipped: there is no nohup(1)");
        return;
    }
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let script = "kill -HUP $PPID; kill -HUP $$; echo still there";
    let run = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_taskspan"))
        .args(["exec", "--watch", &job.target(), "--endpoint", job.server.endpoint()])
        .arg("--state-dir")
        .arg(job.workspace.root().join("state"))
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(run.stdout, b"still there\n");
}

/// Results may be written long before the export of the same job.
#[tokio::test]
async fn gate_results_wait_as_long_as_the_job_runs() {
    let job = Job::new(FakeOtlp::builder()).await;
    let target = job.target();
    let mut pipeline = job.workspace.pipeline(job.server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["directories"] = serde_json::json!([target]);
    pipeline["receivers"]["gate_results"] = serde_json::json!({
        "directories": [target], "include": ["**/*gate*.json"],
        "settle": "20ms", "settle_timeout": "900ms",
    });
    pipeline["service"]["pipelines"]["traces"]["receivers"] =
        serde_json::json!(["export_dir", "gate_results"]);
    let gate = r#"{"schema_version": "v1", "gate_id": "g", "phase": "OTHER", "result": "pass",
        "severity": "info", "checked_at": "2026-11-23T06:15:00Z"}"#;
    let script = format!(
        "mkdir -p '{target}' && echo '{gate}' > '{target}/gate.json' && sleep 1 && {}",
        job.export_and("true")
    );
    let run = job.workspace.configured("exec", &pipeline).args(&["--", "sh", "-c", &script]).run();
    let run = run.expect_code(0);
    assert!(run.stderr.contains("1 added to traces"), "{}", run.stderr);
    assert!(job.server.spans().iter().any(|span| span.name == "gate.result"));
}

#[tokio::test]
async fn the_output_of_a_step_is_what_is_new() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    workspace.export("zz-old", &presets::typical());
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    let new = workspace.export("aa-new", &presets::typical()).snapshot;
    let outputs = workspace.root().join("outputs");
    workspace.once(&server, Protocol::Grpc).env("GITHUB_OUTPUT", &outputs).run().expect_code(0);
    let text = fs::read_to_string(&outputs).unwrap();
    assert_eq!(text, format!("task_trace_id={}\n", new.trace_id()));
}

/// The job writes an export and later an id of its own into it. Nothing is sent during the job, so
/// the file never names another trace than the one that is sent.
#[tokio::test]
async fn a_job_that_writes_ids_itself_has_ended_before_anything_is_read() {
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let id = r#"s/^{/{"task_trace_id": "b56a0afb5bf084080d92560a6b00dbe5",/"#;
    let file = format!("{}/onboarding-metadata.json", job.target());
    let script = job.export_and(&format!("sleep 0.5; sed -i '{id}' '{file}'"));
    let run = job.exec().args(&["--", "sh", "-c", &script, "job", "--emit-tasks"]).run();
    let run = run.expect_code(0);
    let said = ["a task_trace_id that taskspan did not write", "0 exports emitted"];
    let run = run.expect_log(&said);
    assert_eq!(job.server.attempts().len(), 0, "{}", run.stderr);
}

/// Prepares a directory with one export, and a script that writes another.
fn with_an_older_one(job: &Job) -> (Snapshot, String) {
    let older = presets::typical().write_into(&Path::new(&job.target()).join("older")).snapshot;
    (older, job.export_and("exit 4"))
}

#[tokio::test]
async fn exports_from_before_the_job_are_unchanged() {
    let job = Job::new(FakeOtlp::builder()).await;
    let (older, script) = with_an_older_one(&job);
    let run = job.exec().args(&["--", "sh", "-c", &script]).run().expect_code(4);
    let id = job.id().expect("the new one has its id");
    assert!(older.is_untouched());
    let lines: Vec<&str> = run.stderr.lines().collect();
    let [left, emitted] = lines[..] else { panic!("{lines:?}") };
    assert!(left.contains("left alone: 1") && left.contains("made/by/the/job/older"), "{left}");
    assert_eq!(emitted, format!("taskspan: 1 export emitted, 10 spans; task_trace_id={id}"));
    assert_eq!(job.server.spans().len(), 10);

    // The same bytes with the old times are a new version: the job wrote the file.
    let path = older.path.display();
    let again = format!("cp -p '{path}' '{path}.new' && mv '{path}.new' '{path}'");
    let run = job.exec().args(&["--", "sh", "-c", &again]).run().expect_code(0);
    run.expect_log(&["1 export emitted"]);
    assert_eq!(Snapshot::of(&older.path).written_trace_id(), Some(older.trace_id()));

    // No export is left without an id, so none is mentioned.
    let run = job.exec().args(&["--", "true"]).run().expect_code(0);
    assert_eq!(run.stderr, "taskspan: 0 exports emitted, 0 spans\n");
}

#[tokio::test]
async fn entries_of_an_earlier_job_are_delivered() {
    let job = Job::new(FakeOtlp::builder()).await;
    let away = FakeOtlp::builder().forever(Fault::http(503)).start().await;
    let to = ["--watch", &job.target(), "--endpoint", away.endpoint(), "--timeout", "300ms"];
    let script = job.export_and("true");
    let exec = job.workspace.program("exec").args(&to).args(&["--", "sh", "-c", &script]);
    exec.run().expect_code(0).expect_log(&["1 export not delivered"]);
    let run = job.exec().args(&["--", "true"]).run().expect_code(0);
    assert!(!run.stderr.contains("left alone"), "{}", run.stderr);
    assert!(job.id().is_some());
}

#[tokio::test]
async fn without_a_directory_it_is_the_jobs_own() {
    for form in ["-o {}", "-o{}", "--output-dir {}", "--output-dir={}"] {
        let job = Job::new(FakeOtlp::builder()).await;
        let script = job.export_and("true");
        let program = job.workspace.config("export", &format!("#!/bin/sh\n{script}\n"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let output = form.replace("{}", "made/by/the/job");
        let exec = job.workspace.program("exec").current_dir(job.workspace.root());
        let exec = exec.args(&["--endpoint", job.server.endpoint(), "--"]).arg(&program);
        let exec = exec.args(&output.split(' ').collect::<Vec<_>>()).arg("--emit-tasks");
        let run = exec.run().expect_code(0).expect_log(&[
            "watching made/by/the/job, the job's output directory",
            "the job itself has --emit-tasks",
            "1 export emitted",
        ]);
        assert!(job.id().is_some(), "{}", run.stderr);
    }
    // Many programs have an option `-o` for a file.
    for is_there_before in [true, false] {
        let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
        let metadata = job.workspace.root().join("template/onboarding-metadata.json");
        let target = job.workspace.root().join("result.json");
        if is_there_before {
            fs::copy(&metadata, &target).unwrap();
        }
        let program = job.workspace.root().join("program");
        fs::write(&program, format!("#!/bin/sh\ncp {} \"$2\"\n", metadata.display())).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let exec = job.workspace.program("exec").current_dir(job.workspace.root());
        let exec = exec.args(&["--endpoint", job.server.endpoint(), "--"]).arg(&program);
        exec.args(&["-o", "result.json"]).run().expect_code(0);
        assert_eq!(fs::read(&target).unwrap(), fs::read(&metadata).unwrap(), "untouched");
        assert_eq!(job.server.attempts().len(), 0);
    }
    // A configuration takes precedence.
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let empty = job.workspace.root().join("elsewhere");
    let mut pipeline = job.workspace.pipeline(job.server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["directories"] = serde_json::json!([empty]);
    let script = job.export_and("true");
    let exec = job.workspace.configured("exec", &pipeline);
    let run = exec.args(&["--", "sh", "-c", &script, "-o", &job.target()]).run().expect_code(0);
    assert_eq!((run.stderr.as_str(), job.id()), ("taskspan: 0 exports emitted, 0 spans\n", None));
}

#[tokio::test]
async fn a_dry_run_runs_the_job_and_sends_nothing() {
    let job = Job::new(FakeOtlp::builder().may_be_unused()).await;
    let (older, script) = with_an_older_one(&job);
    let run = job.exec().args(&["--dry-run", "--", "sh", "-c", &script]).run().expect_code(4);
    let preview = run.stdout.as_str();
    assert!(preview.contains("Corner Shop Observability Artifact Generation"), "{preview}");
    assert_eq!(preview.matches("Artifact Generation").count(), 1, "only the job's: {preview}");
    assert!(older.is_untouched() && job.id().is_none());
    assert_eq!(job.server.attempts().len(), 0);
    let run = job.exec().args(&["--dry-run", "--", "true"]).run().expect_code(0);
    run.expect_log(&["the job wrote no export"]);
}

/// Makes a FIFO that has no other end.
fn make_fifo(path: &Path) -> String {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
    path.display().to_string()
}

/// Each obstacle alone must neither change the job's exit code nor delay the job.
#[tokio::test]
async fn the_job_runs_at_once_whatever_the_telemetry_meets() {
    let server = FakeOtlp::builder().forever(Fault::Stall).may_be_unused().start().await;
    let workspace = Workspace::new();
    let root = workspace.root();
    let fifo = make_fifo(&root.join("fifo"));
    let state_of_fifos = root.join("fifos");
    fs::create_dir(&state_of_fifos).unwrap();
    for name in ["queue.redb", "queue.lock", "queue.reserve", "control.sock"] {
        make_fifo(&state_of_fifos.join(name));
    }
    let watch = ["--watch", root.to_str().unwrap(), "--endpoint", server.endpoint()];
    let state = state_of_fifos.to_str().unwrap();
    for (obstacle, arguments, environment) in [
        ("a FIFO as configuration", &["-c", &fifo][..], None),
        ("an endless configuration", &["-c", "/dev/zero"], None),
        ("a directory as configuration", &["-c", "/"], None),
        ("a FIFO as state directory", &["--state-dir", &fifo], None),
        ("FIFOs in the state directory", &["--state-dir", state], None),
        ("a FIFO as summary", &["--summary", &fifo], None),
        ("a FIFO as output of the step", &[], Some("GITHUB_OUTPUT")),
        ("a FIFO as summary of the step", &[], Some("GITHUB_STEP_SUMMARY")),
        ("a FIFO as watched directory", &["--watch", &fifo], None),
    ] {
        let mut program = workspace.program("exec").args(&watch).args(arguments);
        if let Some(name) = environment {
            program = program.env(name, &fifo);
        }
        // Ends in time only if the job and the end do not wait for the obstacle.
        let program = program.args(&["--timeout", "2m", "--", "sh", "-c", "exit 7"]);
        let run = program.deadline(Duration::from_secs(20)).run();
        assert_eq!(run.code, 7, "{obstacle}:\n{}", run.stderr);
    }
}

#[tokio::test]
async fn a_full_standard_error_does_not_keep_the_job_from_running() {
    let workspace = Workspace::new();
    let job = ["--watch", "/no/such", "--", "sh", "-c", "exit 7"];
    let (program, reader) = workspace.program("exec").args(&job).stderr_is_full();
    let mut running = program.spawn();
    assert_eq!(running.wait(Duration::from_secs(20)), 7);
    drop(reader);
}

/// With so few processes, some or all threads cannot be started.
#[tokio::test]
async fn the_job_runs_where_no_thread_can_be_started() {
    let workspace = Workspace::new();
    for processes in 2..12 {
        let watch =
            ["--watch", "/tmp", "--endpoint", "http://127.0.0.1:9", "--", "sh", "-c", "exit 7"];
        let Some(program) = Program::with_processes(processes, "exec", workspace.root()) else {
            eprintln!("skipped: this needs root and prlimit(1)");
            return;
        };
        let run = program.args(&watch).deadline(Duration::from_secs(20)).run();
        assert_eq!(run.code, 7, "{processes} processes:\n{}", run.stderr);
    }
}
