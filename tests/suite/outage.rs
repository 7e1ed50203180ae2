//! Guarantees:
//!
//! - Exports from the time of an outage all arrive afterwards, in order and once. The log has one
//!   line when it starts and one when it ends.
//! - A full, broken or occupied queue loses nothing. What does not fit stays in its directory.
//! - Several exporters are independent; an optional one does not delay the id.
//! - An export that keeps failing does not delay the others, and is not blamed for an outage.
//! - An export that waited long is sent with the current time, unless it may have arrived.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use taskspan::base::clock::UnixNanos;
use taskspan::converter::limits::SpanLimits;
use taskspan::converter::options::{ResourceConfig, SpanOptions};
use taskspan::converter::{Converter, Redaction};
use taskspan::internals::Roots;
use taskspan::internals::WriteBackMode;
use taskspan::internals::{Destination, Exporters, Location, NewEntry, Queue};
use taskspan::plan::{self, Export, ReadOptions};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::conventions::{hex, of_trace};
use crate::support::exports::{Artifact, ExportBuilder, presets};
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol, spans_of};
use crate::support::program::{Output, PATIENCE, Running};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// A workspace whose endpoint refuses connections.
struct Outage {
    workspace: Workspace,
    address: SocketAddr,
    pipeline: Value,
}

impl Outage {
    async fn new() -> Self {
        Self::with(Value::Null).await
    }

    /// `exporter` overrides the exporter's configuration.
    async fn with(exporter: Value) -> Self {
        let workspace = Workspace::new();
        let server = FakeOtlp::builder().may_be_unused().start().await;
        let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, exporter);
        Self { workspace, address: server.stop(), pipeline }
    }

    fn run(&self) -> Running {
        // With -v the log has a line for each accepted export and for each attempt.
        self.workspace.configured("run", &self.pipeline).arg("-v").spawn()
    }

    async fn end(&self) -> FakeOtlp {
        FakeOtlp::builder().at(self.address).start().await
    }

    /// Writes one export and waits until it is in the queue.
    fn export(&self, running: &Running, name: &str, export: &ExportBuilder) -> Snapshot {
        let snapshot = self.workspace.export(name, export).snapshot;
        running.wait_for_line(&snapshot.trace_id(), PATIENCE);
        snapshot
    }

    fn store(&self) -> PathBuf {
        self.workspace.root().join("state/taskspan/queue.redb")
    }
}

fn terminate(mut running: Running) -> Output {
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0)
}

/// Changes an export in place, keeping its size and its time.
fn change_in_place(snapshot: &Snapshot) -> Snapshot {
    let before = fs::metadata(&snapshot.path).unwrap();
    let mut text = snapshot.bytes.clone();
    // The first and the last line show the style of the file.
    let mut ends = (0..text.len()).filter(|at| text[*at] == b'\n');
    let third = ends.nth(2).expect("a line");
    text[third] = b' ';
    let mut file = fs::File::options().write(true).open(&snapshot.path).unwrap();
    file.write_all(&text).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = Snapshot::of(&snapshot.path);
    assert_eq!((after.bytes.len(), after.mtime_ns), (snapshot.bytes.len(), snapshot.mtime_ns));
    after
}

/// Asserts that each export was sent once, as the conventions require, and has its id.
#[track_caller]
fn assert_delivered(server: &FakeOtlp, snapshots: &[Snapshot]) {
    for snapshot in snapshots {
        let requests = of_trace(&server.accepted(), &snapshot.trace_id());
        assert_eq!(snapshot.check(&requests), [""; 0]);
        assert_eq!(snapshot.check_written_back(), [""; 0]);
    }
}

/// Returns the traces in the order of arrival, one per request.
fn arrivals(server: &FakeOtlp) -> Vec<String> {
    let first_trace = |request| hex(&spans_of(&[request])[0].trace_id);
    server.accepted().into_iter().map(first_trace).collect()
}

fn lines_with<'a>(output: &'a Output, words: &[&str]) -> Vec<&'a str> {
    let all = |line: &&str| words.iter().all(|word| line.contains(word));
    output.stderr.lines().filter(all).collect()
}

/// A job writes fifty exports while the endpoint is down. All arrive, in order and once, and the
/// waits during the outage are those of the backoff.
#[tokio::test]
async fn fifty_exports_wait_out_an_outage() {
    let outage = Outage::new().await;
    let began = Instant::now();
    let running = outage.run();
    let snapshots: Vec<Snapshot> =
        (0..50).map(|n| outage.export(&running, &format!("{n:02}"), &presets::one())).collect();
    let away = began.elapsed();
    let server = outage.end().await;
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    let output = terminate(running);

    assert_delivered(&server, &snapshots);
    let expected: Vec<String> = snapshots.iter().map(Snapshot::trace_id).collect();
    assert_eq!(arrivals(&server), expected);
    assert_eq!(lines_with(&output, &["WARN", "endpoint is down"]).len(), 1);
    assert_eq!(lines_with(&output, &["INFO", "endpoint is back"]).len(), 1);
    // Seven waits until the maximum, and then at least half of 200 ms each. The last few were while
    // the endpoint started.
    let attempts = lines_with(&output, &["DEBUG", "trying again"]).len();
    let most = 10 + usize::try_from(away.as_millis()).unwrap() / 100;
    assert!((1..=most).contains(&attempts), "{attempts} in {away:?}");
}

/// The endpoint closes each connection at once. Connections are as far apart as the backoff
/// requires.
#[tokio::test]
async fn an_endpoint_that_closes_connections_is_retried_with_backoff() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let pipeline = workspace.pipeline(&endpoint, Protocol::Grpc, Value::Null);
    let running = workspace.configured("run", &pipeline).spawn();
    let mut connections = Vec::new();
    while connections.len() < 12 {
        let accepted = timeout(PATIENCE, listener.accept()).await;
        drop(accepted.expect("it keeps trying").unwrap());
        connections.push(Instant::now());
    }
    terminate(running);
    let took = connections[11] - connections[0];
    // The shortest sum of eleven waits: 10, 15, 22, 33, 50, 75 and five times 100 ms.
    assert!(took >= Duration::from_millis(700), "12 in {took:?}");
    assert!(snapshot.is_untouched());
}

/// SIGTERM while the endpoint is down and the next attempt is an hour away. The program ends at
/// once with code 0, and the next one delivers from the queue.
#[tokio::test]
async fn a_stop_in_an_outage_is_prompt_and_the_next_run_delivers() {
    let hour = json!({"initial_interval": "1h", "max_interval": "1h"});
    let mut outage = Outage::with(json!({"retry_on_failure": hour})).await;
    let running = outage.run();
    let snapshots: Vec<Snapshot> =
        ["a", "b", "c"].map(|name| outage.export(&running, name, &presets::typical())).into();
    running.wait_for_line("endpoint is down", PATIENCE);
    let asked = Instant::now();
    terminate(running);
    // Ten seconds are allowed for requests in flight, of which there are none.
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(snapshots.iter().all(Snapshot::is_untouched));

    // A queued export is delivered even if its directory is no longer watched.
    let elsewhere = outage.workspace.root().join("elsewhere");
    outage.pipeline["receivers"]["export_dir"]["directories"] = json!([elsewhere]);
    let server = outage.end().await;
    let running = outage.run();
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    let output = terminate(running);
    assert_delivered(&server, &snapshots);
    assert_eq!(lines_with(&output, &["INFO", "earlier run left"]).len(), 1);
}

/// Adds a second exporter, so that one uses the server and the other an address that refuses.
fn add_second_exporter(outage: &mut Outage, server: &FakeOtlp, dead_is_required: bool) {
    let exporters = &mut outage.pipeline["exporters"];
    let mut dead = exporters["otlp_grpc"].take();
    let mut alive = dead.clone();
    alive["endpoint"] = json!(server.endpoint());
    dead["required"] = json!(dead_is_required);
    *exporters = json!({"otlp_grpc/dead": dead, "otlp_grpc/alive": alive});
    outage.pipeline["service"]["pipelines"]["traces"]["exporters"] =
        json!(["otlp_grpc/dead", "otlp_grpc/alive"]);
}

/// Two required exporters, of which one is down for a whole run. The other one receives everything
/// once, and no id is written before both have delivered.
#[tokio::test]
async fn a_required_exporter_that_is_down_delays_only_the_id() {
    let mut outage = Outage::new().await;
    let alive = FakeOtlp::builder().start().await;
    add_second_exporter(&mut outage, &alive, true);
    let running = outage.run();
    let snapshots: Vec<Snapshot> =
        ["a", "b", "c"].map(|name| outage.export(&running, name, &presets::typical())).into();
    alive.wait_for(|it| it.accepted.len() == 3, PATIENCE).await;
    terminate(running);
    assert!(snapshots.iter().all(Snapshot::is_untouched));

    let back = outage.end().await;
    let running = outage.run();
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    terminate(running);
    assert_delivered(&alive, &snapshots);
    assert_delivered(&back, &snapshots);
}

/// The exporter that is down is `required: false`. The id is written without it, and it receives
/// everything later.
#[tokio::test]
async fn an_exporter_that_is_not_required_is_not_waited_for() {
    let mut outage = Outage::new().await;
    let alive = FakeOtlp::builder().start().await;
    add_second_exporter(&mut outage, &alive, false);
    let running = outage.run();
    let snapshot = outage.export(&running, "a", &presets::typical());
    snapshot.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_delivered(&alive, std::slice::from_ref(&snapshot));

    let back = outage.end().await;
    let running = outage.run();
    let arrived = |count| move |it: &crate::support::fake_otlp::State| it.accepted.len() == count;
    back.wait_for(arrived(1), PATIENCE).await;
    terminate(running);
    assert_delivered(&back, std::slice::from_ref(&snapshot));
    assert_delivered(&alive, &[snapshot]);
}

/// Three exports wait. While the sidecar is stopped, one is changed in place with the same size and
/// time, and one is replaced. Both new versions are delivered. The unchanged one is not read again,
/// and is sent once.
#[tokio::test]
async fn an_export_that_changed_while_it_waited_is_read_again() {
    let outage = Outage::new().await;
    let running = outage.run();
    let [same, changed, replaced] =
        ["same", "changed", "replaced"].map(|name| outage.export(&running, name, &presets::one()));
    terminate(running);
    let changed = change_in_place(&changed);
    let replaced_by = outage.workspace.export("replaced", &presets::typical()).snapshot;
    assert_ne!(replaced.trace_id(), replaced_by.trace_id());

    let running = outage.run();
    for snapshot in [&changed, &replaced_by] {
        running.wait_for_line(&snapshot.trace_id(), PATIENCE);
    }
    running.wait_for_line("queued already, unchanged", PATIENCE);
    let server = outage.end().await;
    let latest = [same, changed, replaced_by];
    for snapshot in &latest {
        assert_eq!(snapshot.wait_for_trace_id(PATIENCE).await, snapshot.trace_id());
    }
    let output = terminate(running);
    assert_delivered(&server, &latest);
    let not_read = lines_with(&output, &["DEBUG", "queued already, unchanged"]);
    assert!(matches!(not_read[..], [line] if line.contains("/same/")), "{not_read:?}");
}

/// Five hundred exports while the endpoint is down. All are on disk and not in memory, the store is
/// not many times their size, and all arrive.
#[tokio::test]
async fn five_hundred_exports_wait_on_disk_and_not_in_memory() {
    let outage = Outage::new().await;
    let running = outage.run();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // About 40 KB each.
    let export = presets::many(20);
    let mut snapshots = Vec::new();
    let mut taken_in = |count| {
        let names = snapshots.len()..count;
        let new: Vec<Snapshot> =
            names.map(|n| outage.workspace.export(&format!("{n:03}"), &export).snapshot).collect();
        for snapshot in &new {
            running.wait_for_line(&snapshot.trace_id(), PATIENCE);
        }
        snapshots.extend(new);
    };
    taken_in(100);
    let early = resident();
    taken_in(500);
    let late = resident();
    let list = outage.workspace.program("queue").args(&["list", "--format", "json"]);
    let held: Value = serde_json::from_str(&list.run().expect_code(0).stdout).unwrap();
    let sizes = held.as_array().unwrap().iter().map(|one| one["bytes"].as_u64().unwrap());
    let bytes: u64 = sizes.sum();
    assert!(bytes > 10 << 20, "{bytes}");
    assert!(fs::metadata(outage.store()).unwrap().len() < 4 * bytes);
    assert!(late.saturating_sub(early) * 1024 < bytes / 2, "{early} KiB, then {late} KiB");

    let server = outage.end().await;
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    terminate(running);
    assert_eq!(server.accepted().len(), 500);
}

/// `queue_size` is reached while the endpoint is down. The log has a line, the other exports stay
/// in their directories, and all arrive in the end.
#[tokio::test]
async fn a_full_queue_leaves_exports_in_their_directories() {
    const EXPORTS: usize = 10;
    let outage = Outage::with(json!({"sending_queue": {"queue_size": "1MiB"}})).await;
    let running = outage.run();
    // About 400 KB each.
    let export = |n: String| outage.workspace.export(&n, &presets::many(200)).snapshot;
    let snapshots: Vec<Snapshot> = (0..EXPORTS).map(|n| export(format!("{n}"))).collect();
    running.wait_for_line("the queue is full", PATIENCE);
    let list = outage.workspace.program("queue").args(&["list", "--format", "json"]);
    let held: Value = serde_json::from_str(&list.run().expect_code(0).stdout).unwrap();
    let sizes = held.as_array().unwrap().iter();
    let sizes: Vec<u64> = sizes.map(|one| one["bytes"].as_u64().unwrap()).collect();
    let held: u64 = sizes.iter().sum();
    assert!(sizes.len() < EXPORTS && (1 << 19..=1 << 20).contains(&held), "{sizes:?}");
    assert!(snapshots.iter().all(Snapshot::is_untouched));

    let server = outage.end().await;
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    running.wait_for_line("takes exports again", PATIENCE);
    terminate(running);
    assert_delivered(&server, &snapshots);
}

/// Between two runs the store is overwritten, truncated, or damaged in the middle. It is
/// quarantined with an error, and every export is found again and delivered.
#[tokio::test]
async fn a_corrupt_store_is_set_aside_and_every_export_is_found_again() {
    type Damage = fn(&mut Vec<u8>);
    let overwritten: Damage = |bytes| bytes.fill(b'?');
    let cut_off: Damage = |bytes| bytes.truncate(bytes.len() / 3);
    let holed: Damage = |bytes| {
        let from = bytes.len() / 8;
        bytes[from..].fill(0xA5);
    };
    for damage in [overwritten, cut_off, holed] {
        let outage = Outage::new().await;
        let running = outage.run();
        let snapshots: Vec<Snapshot> =
            ["a", "b", "c"].map(|name| outage.export(&running, name, &presets::typical())).into();
        terminate(running);
        let mut bytes = fs::read(outage.store()).unwrap();
        damage(&mut bytes);
        fs::write(outage.store(), &bytes).unwrap();

        let server = outage.end().await;
        let running = outage.run();
        for snapshot in &snapshots {
            snapshot.wait_for_trace_id(PATIENCE).await;
        }
        let output = terminate(running);
        assert_delivered(&server, &snapshots);
        assert_eq!(lines_with(&output, &["ERROR", "corrupt"]).len(), 1);
        let beside = fs::read_dir(outage.store().parent().unwrap()).unwrap();
        let aside: Vec<PathBuf> = beside
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().contains("queue.redb.corrupt-"))
            .collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(fs::read(&aside[0]).unwrap().len(), bytes.len());
    }
}

/// A second process uses the state directory of a running sidecar. A second sidecar refuses to
/// start. `once` continues without the queue, with a warning.
#[tokio::test]
async fn a_queue_has_one_process() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let state_dir = workspace.root().join("queue");
    let on_it =
        |program: crate::support::program::Program| program.arg("--state-dir").arg(&state_dir);
    let running = on_it(workspace.configured("run", &pipeline)).spawn();
    let watched = workspace.export("watched", &presets::one()).snapshot;
    watched.wait_for_trace_id(PATIENCE).await;

    let second = on_it(workspace.configured("run", &pipeline)).run();
    second.expect_code(2).expect_log(&["another taskspan holds this queue", "--state-dir"]);

    let elsewhere = workspace.root().join("elsewhere");
    let snapshot = presets::one().write_into(&elsewhere).snapshot;
    let once = workspace.program("once").arg(&elsewhere).args(&[
        "--endpoint",
        server.endpoint(),
        "--protocol",
        "grpc",
    ]);
    let output = on_it(once).run().expect_code(0);
    assert_eq!(lines_with(&output, &["WARN", "in memory"]).len(), 1);
    terminate(running);
    assert_delivered(&server, &[watched, snapshot]);
}

/// Adds the entry that a run two hours ago enqueued for `otlp_grpc`. `in_doubt` means that it also
/// tried to send it, with an unknown result.
async fn accepted_two_hours_ago(outage: &Outage, snapshot: &Snapshot, in_doubt: bool) {
    const EXPORTER: &str = "otlp_grpc";
    let options = ReadOptions {
        max_file_size: 1 << 20,
        max_artifacts: 100_000,
        max_memory: u64::MAX,
        project_id: None,
        emit_existing: false,
    };
    let Export::Fresh(fresh) =
        plan::read(&Roots::of_file(&snapshot.path), &snapshot.path, &options).unwrap()
    else {
        panic!("it was just written");
    };
    let converter = Converter {
        spans: SpanOptions::default(),
        redaction: Redaction::default(),
        resource: ResourceConfig::default(),
        limits: SpanLimits::default(),
        triggered_by: None,
    };
    let made_at = UnixNanos(UnixNanos::now().0 - 7_200_000_000_000);
    let conversion = converter.convert(&fresh.plan, fresh.trace_id, made_at);
    let encoded = conversion.requests.iter().cloned();
    let delivery = NewEntry {
        trace_id: fresh.trace_id,
        addition: None,
        receiver: "export_dir".to_owned(),
        source: fresh.source,
        project_id: fresh.plan.project.id,
        span_count: conversion.span_count,
        made_at,
        requests: encoded.collect(),
        logs: Vec::new(),
        write_back: WriteBackMode::InPlace,
        state_files: None,
    };
    let directory = outage.store().parent().unwrap().to_owned();
    let exporters = Exporters::from([(EXPORTER.to_owned(), u64::MAX)]);
    let ready = Queue::open(Location::Directory(directory), &exporters, None).unwrap();
    let destination = Destination {
        exporter: EXPORTER.to_owned(),
        signal: taskspan::internals::Signal::Traces,
        required: true,
    };
    ready.queue.enqueue(&delivery, &[destination]).await;
    if in_doubt {
        let mut lease = ready.queue.lease(EXPORTER).await.unwrap();
        lease.mark_in_flight().await.unwrap();
        lease.fail("no answer", true, made_at).await.unwrap();
    }
    drop(ready.queue);
    ready.thread.join().unwrap();
}

/// An export waited for two hours. If it was never sent, it is sent with the current time, so that
/// searches find it. If it may have arrived, it is sent unchanged. The ids are the same.
#[tokio::test]
async fn old_entries_are_redated_unless_they_may_have_arrived() {
    for in_doubt in [false, true] {
        let outage = Outage::new().await;
        let snapshot = outage.workspace.export("a", &presets::typical()).snapshot;
        accepted_two_hours_ago(&outage, &snapshot, in_doubt).await;
        let started = UnixNanos::now().0;
        let server = outage.end().await;
        let running = outage.run();
        snapshot.wait_for_trace_id(PATIENCE).await;
        terminate(running);
        // The ids are those of the time when the export was first read. An export that may have
        // arrived does not start at the time that the checker expects.
        let mut faults = snapshot.check(&server.accepted());
        let aged = ["export.id is", "not the time of emission"];
        faults.retain(|fault| !aged.iter().any(|words| fault.contains(words)));
        assert_eq!(faults, [""; 0]);
        let is_now = |time: u64| time >= started;
        for span in server.spans() {
            let times = [span.start_time_unix_nano, span.end_time_unix_nano];
            let events = span.events.iter().map(|event| event.time_unix_nano);
            let mut all = times.into_iter().chain(events);
            assert!(all.all(|time| is_now(time) != in_doubt), "{span:?}");
        }
    }
}

/// The endpoint answers one export with an error that OTLP calls temporary, and accepts all others.
/// The others are delivered. The one is deferred, and `queue list` and the log show it with the
/// error.
#[tokio::test]
async fn one_export_that_keeps_failing_does_not_hold_up_the_others() {
    for protocol in Protocol::BOTH {
        let workspace = Workspace::new();
        let fault = Fault::unavailable(protocol).with_message("this one makes me dizzy");
        let server = FakeOtlp::builder().of_project("poison", fault).start().await;
        let pipeline = workspace.pipeline(server.endpoint(), protocol, Value::Null);
        let poison = |n: u32| {
            let export = ExportBuilder::new("poison").artifact(Artifact::new("a", "dashboard"));
            workspace.export(&format!("poison-{n}"), &export).snapshot
        };
        let poisoned = [poison(1), poison(2)];
        let running = workspace.configured("run", &pipeline).spawn();
        running.wait_for_line("endpoint is down", PATIENCE);
        let mut others = Vec::new();
        for round in 0..3 {
            for n in 0..4 {
                let name = format!("good-{round}-{n}");
                others.push(workspace.export(&name, &presets::typical()).snapshot);
            }
            for other in &others {
                other.wait_for_trace_id(PATIENCE).await;
            }
        }
        let listed = workspace.program("queue").args(&["list", "--format", "json"]).run();
        let listed: Value = serde_json::from_str(&listed.expect_code(0).stdout).unwrap();
        let all = listed.as_array().unwrap().iter();
        // One of the others may be in flight.
        let listed: Vec<_> = all.filter(|it| it["project_id"] == "poison").collect();
        assert_eq!(listed.len(), poisoned.len(), "{listed:?}");
        for export in listed {
            let item = &export["exporters"][0];
            assert!(item["deferrals"].as_u64() >= Some(1), "{item}");
            assert!(item["last_error"].as_str().unwrap().contains("dizzy"), "{item}");
        }
        let output = terminate(running);
        let told = lines_with(&output, &["WARN", "export deferred", "dizzy"]);
        assert_eq!(told.len(), poisoned.len(), "one line each: {}", output.stderr);
        assert!(poisoned.iter().all(Snapshot::is_untouched));
        assert_delivered(&server, &others);
    }
}

/// An endpoint answers every request with an error that leaves in doubt whether the request
/// arrived. Only a few exports are tried during the outage, because those keep their times. None is
/// reported as failing while others are delivered.
#[tokio::test]
async fn an_outage_in_doubt_touches_few_exports() {
    let workspace = Workspace::new();
    let outage = vec![Fault::http(504); 9];
    let server = FakeOtlp::builder().script(outage).start().await;
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Http, Value::Null);
    let exports: Vec<Snapshot> = (0..6)
        .map(|n| workspace.export(&format!("out-{n}"), &presets::typical()).snapshot)
        .collect();
    let running = workspace.configured("run", &pipeline).spawn();
    for export in &exports {
        export.wait_for_trace_id(PATIENCE).await;
    }
    let attempts = server.attempts();
    let refused: HashSet<Vec<u8>> = attempts
        .iter()
        .filter(|it| !it.fault.accepts())
        .map(|it| spans_of(std::slice::from_ref(&it.request))[0].trace_id.clone())
        .collect();
    assert!((1..=2).contains(&refused.len()), "{} exports were tried", refused.len());
    let output = terminate(running);
    assert_eq!(lines_with(&output, &["export deferred"]), [""; 0]);
}

/// The server sends gRPC details that are not base64, on which tonic panics. The sidecar retries,
/// and the export is delivered as soon as the server answers correctly.
#[tokio::test]
async fn a_malformed_answer_is_a_failure_like_others() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().script(vec![Fault::MalformedDetails; 3]).start().await;
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let running = workspace.configured("run", &pipeline).spawn();
    snapshot.wait_for_trace_id(PATIENCE).await;
    let output = terminate(running);
    assert_eq!(lines_with(&output, &["endpoint is down", "the answer is malformed"]).len(), 1);
    assert_eq!(server.attempts().len(), 4);
}

/// An endpoint refuses every request for a while with an error that nothing arrived. Afterwards, no
/// export is reported as failing while others are delivered.
#[tokio::test]
async fn an_outage_is_no_fault_of_an_export() {
    for protocol in Protocol::BOTH {
        let workspace = Workspace::new();
        let outage = vec![Fault::unavailable(protocol); 7];
        let server = FakeOtlp::builder().script(outage).start().await;
        let pipeline = workspace.pipeline(server.endpoint(), protocol, Value::Null);
        let exports: Vec<Snapshot> = (0..4)
            .map(|n| workspace.export(&format!("out-{n}"), &presets::typical()).snapshot)
            .collect();
        let running = workspace.configured("run", &pipeline).spawn();
        for export in &exports {
            export.wait_for_trace_id(PATIENCE).await;
        }
        let output = terminate(running);
        assert_eq!(lines_with(&output, &["export deferred"]), [""; 0], "{protocol:?}");
        assert_eq!(lines_with(&output, &["endpoint is down"]).len(), 1, "{}", output.stderr);
    }
}

/// One export always fails, and others follow one after another. Its own waits grow; it is not sent
/// again each time another one is delivered.
#[tokio::test]
async fn an_export_that_fails_keeps_its_own_waits() {
    let workspace = Workspace::new();
    let fault = Fault::http(503);
    let server = FakeOtlp::builder().of_project("poison", fault).start().await;
    let retry = json!({"retry_on_failure": {"initial_interval": "200ms", "max_interval": "60s", "multiplier": 10.0, "randomization_factor": 0.0}});
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Http, retry);
    let first = workspace.export("first", &presets::typical()).snapshot;
    let running = workspace.configured("run", &pipeline).spawn();
    first.wait_for_trace_id(PATIENCE).await;
    let poison = ExportBuilder::new("poison").artifact(Artifact::new("a", "dashboard"));
    workspace.export("poison", &poison);
    running.wait_for_line("endpoint is down", PATIENCE);
    let mut others = Vec::new();
    for n in 0..12 {
        others.push(workspace.export(&format!("good-{n}"), &presets::typical()).snapshot);
        others[n].wait_for_trace_id(PATIENCE).await;
    }
    running.wait_for_line("export deferred", PATIENCE);
    let refused = server.attempts().iter().filter(|it| !it.fault.accepts()).count();
    assert!(refused <= 3, "sent {refused} times");
    terminate(running);
}

/// A Loki expands log requests of more than 40 records beyond its limit, and answers 503 with a
/// binary body. The requests are split until they fit, every record arrives once, and no message
/// shows the bytes.
#[tokio::test]
async fn log_requests_that_loki_expands_are_halved() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let loki = FakeOtlp::builder().log_limit(40, Fault::loki_too_large()).start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_http/loki"] = json!({"endpoint": loki.endpoint()});
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    let snapshot = workspace.export("out", &presets::many(200)).snapshot;
    let run = workspace.configured("once", &pipeline).arg("-v").run().expect_code(0);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
    assert!(!run.stderr.contains('\u{12}'), "{}", run.stderr);
    let records = loki.state().log_records();
    let created = records.iter().filter(|record| record.event_name == "task.created");
    assert_eq!(created.count(), 206);
    let mut ids: Vec<_> = records.iter().map(|it| (&it.span_id, &it.event_name)).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), records.len(), "once each");
}

/// While an export waits, its directory is replaced by a link to a copy outside. The export is
/// delivered, and the copy is unchanged. When the directory is back, the id is written.
#[tokio::test]
async fn a_directory_that_becomes_a_link_leads_no_write_back_outside() {
    let mut outage = Outage::new().await;
    outage.pipeline["receivers"]["export_dir"]["rescan_interval"] = json!("1s");
    let running = outage.run();
    let snapshot = outage.export(&running, "a", &presets::one());
    let directory = snapshot.path.parent().unwrap();
    let outside = outage.workspace.root().join("outside");
    let copied = Command::new("cp").arg("-rp").arg(directory).arg(&outside).status();
    assert!(copied.unwrap().success());
    let aside = outage.workspace.root().join("aside");
    fs::rename(directory, &aside).unwrap();
    std::os::unix::fs::symlink(&outside, directory).unwrap();

    let server = outage.end().await;
    running.wait_for_line("leads out of the watched directory", PATIENCE);
    let copy = outside.join(snapshot.path.file_name().unwrap());
    assert_eq!(fs::read(copy).unwrap(), snapshot.bytes);
    fs::remove_file(directory).unwrap();
    fs::rename(&aside, directory).unwrap();
    snapshot.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_delivered(&server, &[snapshot]);
}
