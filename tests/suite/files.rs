//! Guarantees:
//!
//! - Exports are found whatever the directories look like: links, mounted volumes, replaced and new
//!   directories.
//! - Files that are not valid exports are refused with a reason, and never changed; links out of
//!   the directory are never followed.
//! - `write_back: beside` and `off` leave the export unchanged, and send nothing twice.
//! - An id that another program wrote is never taken for one of taskspan.
//! - An id that cannot be written is kept, reported, and written later.
//! - `status` has the state of every export and the reason for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::conventions::of_trace;
use crate::support::exports::{ExportBuilder, presets, write_metadata};
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{Output, PATIENCE, Program, Running};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

const METADATA: &str = "onboarding-metadata.json";

struct Place {
    workspace: Workspace,
    server: FakeOtlp,
    pipeline: Value,
}

impl Place {
    /// `receiver` overrides the receiver's configuration.
    async fn new(receiver: Value) -> Self {
        Self::at(FakeOtlp::builder().may_be_unused().start().await, receiver)
    }

    fn at(server: FakeOtlp, receiver: Value) -> Self {
        let workspace = Workspace::new();
        let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
        for (key, value) in receiver.as_object().into_iter().flatten() {
            pipeline["receivers"]["export_dir"][key] = value.clone();
        }
        Self { workspace, server, pipeline }
    }

    fn once(&self) -> Output {
        self.workspace.configured("once", &self.pipeline).args(&["--timeout", "20s"]).run()
    }

    fn run(&self) -> Running {
        self.workspace.configured("run", &self.pipeline).spawn()
    }

    fn export(&self, name: &str, export: &ExportBuilder) -> Snapshot {
        self.workspace.export(name, export).snapshot
    }

    /// Returns state, reason and trace id of the only export in `taskspan status`.
    fn status(&self) -> (String, String, Option<String>) {
        let status = self.workspace.configured("status", &self.pipeline);
        let output = status.args(&["--format", "json"]).run().expect_code(0);
        let all: Value = serde_json::from_str(&output.stdout).unwrap();
        let [one] = all.as_array().unwrap().as_slice() else { panic!("{all}") };
        let text = |key: &str| one[key].as_str().map(str::to_owned);
        (text("state").unwrap(), text("reason").unwrap_or_default(), text("trace_id"))
    }
}

fn terminate(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}

/// With `write_back: beside` the export is unchanged, the id is in the file next to it, another run
/// sends nothing, and a new export gets an id of its own.
#[tokio::test]
async fn beside_does_not_change_the_export() {
    let place = Place::new(json!({"write_back": {"mode": "beside"}})).await;
    let beside = place.workspace.exports().join("a/onboarding-metadata.task.json");
    for sent in 1..=2 {
        let snapshot = place.export("a", &presets::typical());
        place.once().expect_code(0);
        place.once().expect_code(0);
        assert!(snapshot.is_untouched());
        let written: Value = serde_json::from_slice(&fs::read(&beside).unwrap()).unwrap();
        assert_eq!(written["task_trace_id"], json!(snapshot.trace_id()));
        assert!(written["task_emission_timestamp"].is_string());
        assert_eq!(place.server.accepted().len(), sent);
        assert_eq!(place.status().0, "written");
    }
}

/// With `write_back: off` nothing is written, and nothing is sent twice while the queue exists.
#[tokio::test]
async fn off_writes_nothing_and_remembers_what_was_sent() {
    let place = Place::new(json!({"write_back": {"mode": "off"}})).await;
    let snapshot = place.export("a", &presets::one());
    for _ in 0..3 {
        place.once().expect_code(0);
    }
    assert!(snapshot.is_untouched());
    assert_eq!(place.status().0, "delivered");
    assert_eq!(place.server.accepted().len(), 1);
    assert_eq!(fs::read_dir(place.workspace.exports().join("a")).unwrap().count(), 3);
}

/// An exporter carries the keys of the last export over. `skip` treats it as done by another
/// program. `emit` makes a new trace and replaces the value, and treats its own write as done.
#[tokio::test]
async fn an_id_copied_from_another_export_is_done_or_replaced() {
    const OLD: &str = "0af7651916cd43dd8448eb211c80319c";
    let carrying = presets::one().with("task_trace_id", json!(OLD));
    let place = Place::new(json!({})).await;
    let snapshot = place.export("a", &carrying);
    place.once().expect_code(0);
    assert!(snapshot.is_untouched() && place.server.accepted().is_empty());
    let (state, reason, trace_id) = place.status();
    assert_eq!((state.as_str(), trace_id), ("foreign", None));
    assert!(reason.contains(OLD), "{reason}");

    let place = Place::new(json!({"on_existing_trace_id": "emit"})).await;
    let snapshot = place.export("a", &carrying);
    let running = place.run();
    snapshot.wait_for_own_trace_id(PATIENCE).await;
    terminate(running);
    let (before, after) = (&snapshot.bytes, fs::read(&snapshot.path).unwrap());
    let at = |text: &[u8], id: &str| {
        text.windows(id.len()).position(|window| window == id.as_bytes()).unwrap()
    };
    let place_of_id = at(before, OLD);
    assert_eq!(at(&after, &snapshot.trace_id()), place_of_id);
    assert_eq!(after[..place_of_id], before[..place_of_id]);
    for _ in 0..2 {
        place.once().expect_code(0);
    }
    assert_eq!(place.server.accepted().len(), 1, "its own write is no new export");

    // A queue that does not have the export does not send it again either.
    let other = place.workspace.configured("once", &place.pipeline).arg("--state-dir");
    other.arg(place.workspace.root().join("other")).run().expect_code(0);
    assert_eq!(place.server.accepted().len(), 1);
    assert_eq!(place.status().0, "written");

    // The next export carries the last id over, as this exporter does.
    let next = presets::typical().with("task_trace_id", json!(snapshot.trace_id()));
    let next = place.export("a", &next);
    assert_eq!(place.status().0, "waiting");
    place.once().expect_code(0);
    assert_eq!(next.written_trace_id(), Some(next.trace_id()));
    assert_eq!(place.server.accepted().len(), 2);
}

/// Patterns and excluded directories.
#[tokio::test]
async fn patterns_say_what_is_an_export() {
    let place = Place::new(json!({"include": ["shop/**/*.json"], "exclude": ["**/old"]})).await;
    let taken = place.export("shop/eu", &presets::one());
    let others = ["elsewhere", "shop/old"].map(|name| place.export(name, &presets::one()));
    place.once().expect_code(0);
    assert_eq!(taken.check_written_back(), [""; 0]);
    assert!(others.iter().all(Snapshot::is_untouched));

    let place = Place::new(json!({})).await;
    let skipped = [".git", "node_modules", "a/target"].map(|it| place.export(it, &presets::one()));
    place.once().expect_code(0);
    assert!(skipped.iter().all(Snapshot::is_untouched));
}

/// A mounted volume, whose files are links into a directory that `..data` points to, is swapped as
/// a whole. Each version is emitted once, as soon as it exists, in any directory below the watched
/// one.
#[tokio::test]
async fn each_swap_of_a_volume_gives_an_export() {
    for recursive in [true, false] {
        let place = Place::new(json!({"recursive": recursive, "rescan_interval": "1h"})).await;
        let volume = place.workspace.exports();
        let running = place.run();
        for version in 1..=3 {
            let name = format!("..2026_{version}");
            let snapshot = place.export(&name, &presets::one().with("v", json!(version)));
            symlink(&name, volume.join("..next")).unwrap();
            fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
            if version == 1 {
                symlink(Path::new("..data").join(METADATA), volume.join(METADATA)).unwrap();
            }
            let id = snapshot.wait_for_trace_id(PATIENCE).await;
            assert_eq!(snapshot.check(&of_trace(&place.server.accepted(), &id)), [""; 0]);
            assert!(volume.join(METADATA).is_symlink());
        }
        terminate(running);
        assert_eq!(place.server.accepted().len(), 3);
    }
}

/// Files, links, sockets and directories with the name of an export are refused with path and
/// reason, and not opened or changed. The valid export next to them gets its id.
#[tokio::test]
async fn no_file_with_the_name_of_an_export_delays_others() {
    let place = Place::new(json!({})).await;
    let good = place.export("good", &presets::one());
    let directory = |name: &str| {
        let directory = place.workspace.exports().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    };
    fs::create_dir(directory("directory").join(METADATA)).unwrap();
    let fifo = directory("fifo").join(METADATA);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let _socket = UnixListener::bind(directory("socket").join(METADATA)).unwrap();
    symlink("/dev/zero", directory("device").join(METADATA)).unwrap();
    symlink("nowhere", directory("dangling").join(METADATA)).unwrap();
    symlink(METADATA, directory("loop").join(METADATA)).unwrap();
    let sparse = fs::File::create(directory("sparse").join(METADATA)).unwrap();
    sparse.set_len(2 << 30).unwrap();
    let utf16: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let contents: [(&str, &[u8]); 5] = [
        ("utf16", &utf16),
        ("not-utf8", b"{\"project_id\": \"\xff\xfe\"}"),
        ("nan", b"{\"project_id\": \"x\", \"coverage\": {\"gaps\": [], \"overall\": NaN}}"),
        ("twice", b"{\"coverage\": {\"gaps\": []}, \"coverage\": {\"gaps\": []}}"),
        ("new\nline", b"{}"),
    ];
    let written: Vec<Snapshot> =
        contents.iter().map(|(name, bytes)| write_metadata(&directory(name), bytes)).collect();

    let output = place.once().expect_code(3);
    for (name, reason) in [
        ("directory", "a directory"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("device", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("loop", "a symbolic link"),
        ("sparse", "max_file_size"),
        ("utf16", "UTF-8"),
        ("not-utf8", "UTF-8"),
        ("nan", "JSON"),
        ("twice", "coverage"),
        ("new\\u{a}line", "coverage"),
    ] {
        let about = |line: &&str| line.contains(&format!("exports/{name}/")) || line.contains(name);
        let line = output.stderr.lines().find(about);
        let line = line.unwrap_or_else(|| panic!("nothing about {name}:\n{}", output.stderr));
        assert!(line.contains(reason), "{name}: {line}");
    }
    assert!(written.iter().all(Snapshot::is_untouched));
    assert_eq!(good.check_written_back(), [""; 0]);
}

/// A manifest with aliases that expand without end: the export is sent from the metadata alone,
/// within bounded time and memory.
#[tokio::test]
async fn a_manifest_of_aliases_is_not_unfolded() {
    let place = Place::new(json!({})).await;
    let snapshot =
        place.export("a", &presets::one().with("artifact_manifest_checksum", Value::Null));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..40 {
        let before = format!("*a{}", n - 1);
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(", "));
    }
    let metadata: Value = serde_json::from_slice(&snapshot.bytes).unwrap();
    let manifest = metadata["artifact_manifest_path"].as_str().unwrap();
    fs::write(snapshot.path.with_file_name(manifest), bomb).unwrap();
    let output = place.once().expect_code(0);
    assert!(output.stderr.contains("the artifact manifest was not used"), "{}", output.stderr);
}

/// An export passes through every state. `status` returns each state with its reason, and changes
/// nothing.
#[tokio::test]
async fn status_says_how_far_an_export_is() {
    let place = Place::new(json!({"settle_timeout": "100ms"})).await;
    let broken = write_metadata(&place.workspace.exports(), b"{\"project_id\": ");
    let (state, reason, _) = place.status();
    assert_eq!(state, "invalid");
    assert!(reason.contains(":1:"), "{reason}");
    fs::remove_file(broken.path).unwrap();

    let snapshot = place.export("a", &presets::one());
    let (state, reason, id) = place.status();
    assert_eq!((state.as_str(), id), ("waiting", None));
    assert!(reason.contains("not taken in yet"), "{reason}");
    place.once().expect_code(0);
    let id = snapshot.trace_id();
    assert_eq!(place.status(), ("written".into(), String::new(), Some(id)));

    // A server that refuses permanently, and one that is busy, next to a sidecar that holds the
    // queue.
    let refusing =
        FakeOtlp::builder().forever(Fault::invalid(Protocol::Grpc).with_message("no")).start();
    let place = Place::at(refusing.await, json!({}));
    place.export("a", &presets::one());
    place.once().expect_code(3);
    let (state, reason, _) = place.status();
    assert_eq!(state, "rejected");
    assert!(reason.contains("no"), "{reason}");

    let busy = FakeOtlp::builder().forever(Fault::unavailable(Protocol::Grpc)).start().await;
    let place = Place::at(busy, json!({}));
    let snapshot = place.export("a", &presets::one());
    let running = place.run();
    place.server.wait_for(|state| state.attempts.len() > 2, PATIENCE).await;
    let (state, reason, id) = place.status();
    assert_eq!((state.as_str(), id), ("queued", Some(snapshot.trace_id())));
    assert!(reason.contains("waits for otlp_grpc"), "{reason}");
    terminate(running);
}

/// Exports that another user may not read or write, for a sidecar that is not root.
struct Foreign {
    place: Place,
    snapshot: Snapshot,
}

impl Foreign {
    async fn new() -> Self {
        let place = Place::new(json!({"rescan_interval": "1s"})).await;
        let snapshot = place.export("a", &presets::one());
        allow(place.workspace.root(), 0o755);
        Self { place, snapshot }
    }

    fn program(&self, command: &str) -> Program {
        let root = self.place.workspace.root();
        let config = self.place.workspace.config("pipeline.yaml", &self.place.pipeline.to_string());
        let state = root.join("state");
        if !state.exists() {
            fs::create_dir(&state).unwrap();
            allow(&state, 0o777);
        }
        Program::as_unprivileged(command, root)
            .arg("-c")
            .arg(config)
            .arg("--state-dir")
            .arg(state.join("q"))
    }

    fn status(&self) -> (String, String) {
        let output = self.program("status").args(&["--format", "json"]).run().expect_code(0);
        let all: Value = serde_json::from_str(&output.stdout).unwrap();
        (all[0]["state"].as_str().unwrap().into(), all[0]["reason"].as_str().unwrap().into())
    }
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The id cannot be written at first. The state has the reason, nothing is sent again, and the id
/// is written as soon as it can be.
#[tokio::test]
async fn an_id_that_cannot_be_written_is_kept_and_written_later() {
    let foreign = Foreign::new().await;
    let directory = foreign.snapshot.path.parent().unwrap();
    allow(directory, 0o555);
    let running = foreign.program("run").spawn();
    running.wait_for_line("not written back", PATIENCE);
    let (state, reason) = foreign.status();
    assert_eq!(state, "not_written");
    assert!(reason.contains("write permission"), "{reason}");
    // The owner of the file is kept, so the sidecar must own the file to replace it.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&foreign.snapshot.path, Some(65_534), Some(65_534)).unwrap();
    }
    allow(directory, 0o777);
    foreign.snapshot.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_eq!(foreign.place.server.accepted().len(), 1);
}

/// An export that the sidecar may not read is reported once, with its owner, and is ingested as
/// soon as it can be read.
#[tokio::test]
async fn an_unreadable_export_is_read_once_it_is_readable() {
    let foreign = Foreign::new().await;
    allow(&foreign.snapshot.path, 0o000);
    let running = foreign.program("run").spawn();
    let line = running.wait_for_line("export refused", PATIENCE);
    assert!(line.contains("belongs to uid") && line.contains("mode 0000"), "{line}");
    assert_eq!(foreign.status().0, "unreadable");
    allow(&foreign.snapshot.path, 0o644);
    foreign.place.server.wait_for(|state| state.accepted.len() == 1, PATIENCE).await;
    terminate(running);
}

/// A file that never becomes valid JSON is reported once, however often it is scanned, and again
/// when it changes.
#[tokio::test]
async fn a_broken_file_is_reported_once_and_again_when_it_changes() {
    let place = Place::new(json!({"settle_timeout": "100ms", "poll_interval": "20ms"})).await;
    let running = place.run();
    let broken = write_metadata(&place.workspace.exports(), b"{\n  \"project_id\": ").path;
    running.wait_for_line("onboarding-metadata.json:2:", PATIENCE);
    // Another export is delivered meanwhile, which takes several scans.
    place.export("a", &presets::one()).wait_for_trace_id(PATIENCE).await;
    fs::write(&broken, b"{\n\n  \"project_id\": oops}").unwrap();
    running.wait_for_line("onboarding-metadata.json:3:", PATIENCE);
    place.export("b", &presets::one()).wait_for_trace_id(PATIENCE).await;
    let mut running = running;
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    let output = running.output(code).expect_code(0);
    let said = output.stderr.lines().filter(|line| line.contains("export refused")).count();
    assert_eq!(said, 2, "{}", output.stderr);
}

/// The watched directory is replaced by another one, and then by a link. Exports in whatever has
/// the name are found at once.
#[tokio::test]
async fn a_directory_that_is_moved_or_replaced_by_a_link_is_watched_still() {
    let mut place = Place::new(json!({"rescan_interval": "1h"})).await;
    let out = place.workspace.exports().join("out");
    place.pipeline["receivers"]["export_dir"]["directories"] = json!([out]);
    let running = place.run();
    place.export("out", &presets::one()).wait_for_trace_id(PATIENCE).await;
    fs::rename(&out, place.workspace.exports().join("old")).unwrap();
    place.export("out", &presets::one()).wait_for_trace_id(PATIENCE).await;
    fs::rename(&out, place.workspace.exports().join("older")).unwrap();
    let elsewhere = place.workspace.exports().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &out).unwrap();
    place.export("elsewhere", &presets::typical()).wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_eq!(place.server.accepted().len(), 3);
}

/// A thousand directories are watched by one watcher, which finds an export in the last one without
/// a full scan.
#[tokio::test]
async fn a_thousand_directories_are_watched() {
    let place = Place::new(json!({"rescan_interval": "1h"})).await;
    for n in 0..1_000 {
        fs::create_dir(place.workspace.exports().join(format!("{n:04}"))).unwrap();
    }
    let first = place.export("0000", &presets::one());
    let running = place.run();
    first.wait_for_trace_id(PATIENCE).await;
    for name in ["0999", "0500", "new/and/deep"] {
        place.export(name, &presets::one()).wait_for_trace_id(PATIENCE).await;
    }
    terminate(running);
}

/// A copy with the old times replaces an export that has its id, as by `cp -p` and `rsync -a`. It
/// is the same export: it is not sent again, and gets the same id.
#[tokio::test]
async fn a_copy_with_the_original_times_gets_the_same_id() {
    let place = Place::new(json!({})).await;
    let running = place.run();
    let snapshot = place.export("a", &presets::one());
    let id = snapshot.wait_for_trace_id(PATIENCE).await;
    let copy = snapshot.path.with_file_name("copy");
    fs::write(&copy, &snapshot.bytes).unwrap();
    // The contents of the file before the id was written into it.
    let nanos = u64::try_from(snapshot.mtime_ns).unwrap();
    let before = std::time::UNIX_EPOCH + Duration::from_nanos(nanos);
    fs::File::options().write(true).open(&copy).unwrap().set_modified(before).unwrap();
    fs::rename(&copy, &snapshot.path).unwrap();
    assert_eq!(snapshot.wait_for_trace_id(PATIENCE).await, id);
    terminate(running);
    assert_eq!(place.server.accepted().len(), 1);
}

/// A queued export's file is replaced by one that is larger than memory. It is not read, and the
/// accepted export is delivered.
#[tokio::test]
async fn a_file_that_becomes_huge_while_its_export_waits_is_not_read() {
    let busy =
        FakeOtlp::builder().script(vec![Fault::unavailable(Protocol::Grpc); 5]).start().await;
    let place = Place::at(busy, json!({}));
    let snapshot = place.export("a", &presets::one());
    let running = place.run();
    place.server.wait_for(|state| !state.attempts.is_empty(), PATIENCE).await;
    let huge = snapshot.path.with_file_name("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    fs::rename(&huge, &snapshot.path).unwrap();
    place.server.wait_for(|state| state.accepted.len() == 1, PATIENCE).await;
    running.wait_for_line("max_file_size", PATIENCE);
    terminate(running);
}

/// A directory below a watched one is replaced, and stays empty for a while. A later export is
/// found at once, and not by the next full scan.
#[tokio::test]
async fn a_recreated_subdirectory_is_watched_again() {
    let place = Place::new(json!({"rescan_interval": "1h"})).await;
    let running = place.run();
    let out = place.workspace.exports().join("out");
    for _ in 0..3 {
        place.export("out", &presets::one()).wait_for_trace_id(PATIENCE).await;
        fs::remove_dir_all(&out).unwrap();
        fs::create_dir(&out).unwrap();
        // Another export shows that the new directory was seen.
        let marker = place.export("marker", &presets::one());
        marker.wait_for_trace_id(PATIENCE).await;
    }
    place.export("out", &presets::one()).wait_for_trace_id(PATIENCE).await;
    terminate(running);
}

/// A directory below the watched one becomes a link that leads elsewhere. Nothing is read or
/// written there.
#[tokio::test]
async fn a_directory_that_becomes_a_link_leads_nowhere() {
    let place = Place::new(json!({"rescan_interval": "1s"})).await;
    let outside = presets::one().write_into(&place.workspace.root().join("elsewhere")).snapshot;
    let running = place.run();
    place.export("a", &presets::one()).wait_for_trace_id(PATIENCE).await;
    let a = place.workspace.exports().join("a");
    fs::remove_dir_all(&a).unwrap();
    symlink(outside.path.parent().unwrap(), &a).unwrap();
    for n in 0..3 {
        place.export(&format!("b{n}"), &presets::one()).wait_for_trace_id(PATIENCE).await;
    }
    terminate(running);
    assert!(outside.is_untouched());
    assert_eq!(place.server.accepted().len(), 4);
}

/// A later tool may leave a placeholder.
#[tokio::test]
async fn a_text_that_is_no_trace_id_does_not_make_an_export_done() {
    let server = FakeOtlp::builder().start().await;
    for text in ["", "to be filled", "00000000000000000000000000000000"] {
        let workspace = Workspace::new();
        let written = workspace.export("a", &presets::one());
        let path = &written.snapshot.path;
        let json = fs::read_to_string(path).unwrap();
        let open = json.find('{').unwrap() + 1;
        let placeholder =
            format!("{}\n  \"task_trace_id\": \"{text}\",{}", &json[..open], &json[open..]);
        fs::write(path, placeholder).unwrap();
        let snapshot = Snapshot::of(path);
        workspace.once(&server, Protocol::Grpc).run().expect_code(0);
        assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()), "{text:?}");
    }
}

#[tokio::test]
async fn files_that_never_become_complete_do_not_delay_others() {
    const TORN: usize = 3_000;
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    for number in 0..TORN {
        let directory = workspace.exports().join(format!("torn-{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("onboarding-metadata.json"), "{\"coverage\": ").unwrap();
    }
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["settle_timeout"] = json!("10m");
    let mut running = workspace.configured("run", &pipeline).spawn();
    running.wait_for_line("watching", PATIENCE);
    // Its name sorts last, and it is written after the others were found.
    let snapshot = workspace.export("whole", &presets::one()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    running.signal(Signal::TERM);
    assert_eq!(running.wait(PATIENCE), 0);
}

/// Names need not be UTF-8.
#[tokio::test]
async fn a_name_that_is_not_utf8_is_like_any_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let directory = workspace.exports().join(OsStr::from_bytes(b"caf\xe9"));
    let snapshot = presets::typical().write_into(&directory).snapshot;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()));
    // It waits in the queue like others, too.
    let refusing = FakeOtlp::builder().forever(Fault::http(503)).start().await;
    let other = workspace.exports().join(OsStr::from_bytes(b"th\xe9"));
    let snapshot = presets::one().write_into(&other).snapshot;
    let limited = ["--timeout", "500ms"];
    workspace.once(&refusing, Protocol::Http).args(&limited).run().expect_code(1);
    let list = workspace.program("queue").args(&["list", "--format", "json"]).run().expect_code(0);
    assert!(list.stdout.contains(&snapshot.trace_id()), "{}", list.stdout);
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()));
}

#[tokio::test]
async fn a_deep_tree_is_scanned_in_time() {
    const DEPTH: usize = 1_500;
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut directory = workspace.exports();
    for _ in 0..DEPTH {
        directory.push("d");
    }
    let snapshot = presets::one().write_into(&directory).snapshot;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()));
}
