//! Guarantees:
//!
//! - Health follows an outage, and names its reasons. Undelivered log records count, too.
//! - Metrics are valid for Prometheus, and count what the endpoint received.
//! - Pages show exports and plans without scripts or external resources.
//! - A standard error that is not read blocks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{PATIENCE, Program, Running};
use crate::support::workspace::Workspace;

fn observed(workspace: &Workspace, server: &FakeOtlp) -> Value {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["extensions"] =
        json!({"health_check": {"endpoint": "127.0.0.1:0", "unhealthy_after": "300ms"}});
    pipeline["service"]["extensions"] = json!(["health_check"]);
    pipeline["service"]["telemetry"] = json!({"metrics": {"address": "127.0.0.1:0"}});
    pipeline
}

/// A sidecar and the addresses of its servers.
struct Sidecar {
    running: Running,
    metrics: String,
    health: String,
}

impl Sidecar {
    fn start(program: Program) -> Sidecar {
        let running = program.spawn();
        let address = |words: &str| {
            let line = running.wait_for_line(words, PATIENCE);
            let (_, url) = line.split_once("http://").unwrap();
            url.trim_end_matches("/metrics").to_owned()
        };
        let (metrics, health) = (address("metrics are on"), address("health is on"));
        Sidecar { running, metrics, health }
    }

    fn health(&self, path: &str) -> (u16, Value) {
        let (status, body) = get(&self.health, path);
        (status, serde_json::from_str(&body).unwrap())
    }

    fn wait_for_health(&self, status: u16) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (found, body) = self.health("/");
            if found == status {
                return body;
            }
            assert!(Instant::now() < deadline, "{found}: {body}");
            std::thread::yield_now();
        }
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = get(&self.metrics, "/metrics");
        assert_eq!(status, 200);
        parse(&text)
    }

    fn stop(mut self) {
        self.running.signal(Signal::TERM);
        let code = self.running.wait(PATIENCE);
        self.running.output(code).expect_code(0);
    }
}

fn get(address: &str, path: &str) -> (u16, String) {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

fn request(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Parses the text format like Prometheus: every sample belongs to a family with HELP and TYPE, no
/// series occurs twice, and the buckets of a histogram only grow.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeMap::new());
    let mut last_bucket: Option<(String, f64)> = None;
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split(' ').next().unwrap().to_owned()), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let name = series.split('{').next().unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(name.starts_with("taskspan_") && name.chars().all(is_name), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            (typed.get(family)? == "histogram").then_some(family)
        });
        let family = family.unwrap_or(name);
        assert!(helped.contains(family), "no HELP: {line}");
        let kind = typed.get(family).unwrap_or_else(|| panic!("no TYPE: {line}"));
        assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
        if name.ends_with("_bucket") {
            if let Some((last, before)) = &last_bucket {
                assert!(last != name || value >= *before || series.contains("0.001"), "{line}");
            }
            last_bucket = Some((name.to_owned(), value));
        }
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test]
async fn health_tells_the_truth_through_an_outage() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().forever(Fault::http(503)).start().await;
    let pipeline = observed(&workspace, &server);
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    assert_eq!(sidecar.wait_for_health(200)["status"], "Server available");
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let body = sidecar.wait_for_health(503);
    assert_eq!(body["status"], "Server not available");
    assert!(body["reasons"][0].as_str().unwrap().contains("has waited for its delivery"), "{body}");
    assert_eq!(sidecar.health("/live").0, 200, "a restart would not help");
    assert_eq!(sidecar.health("/ready").0, 200);
    let url = ["--url", &format!("http://{}", sidecar.health)];
    workspace.program("healthcheck").args(&url).run().expect_code(1);

    let address = server.stop();
    let _healthy = FakeOtlp::builder().at(address).start().await;
    snapshot.wait_for_trace_id(PATIENCE).await;
    sidecar.wait_for_health(200);
    let probe = workspace.program("healthcheck").args(&url).run().expect_code(0);
    assert!(probe.stdout.contains("Server available"), "{}", probe.stdout);
    assert_eq!(get(&sidecar.health, "/nothing").0, 404);
    let post =
        "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(request(&sidecar.health, post).0, 405);
    sidecar.stop();
    workspace.program("healthcheck").args(&url).run().expect_code(1);
    for url in ["nonsense", "https://localhost", "/path", ""] {
        let run = workspace.program("healthcheck").args(&["--url", url]).run().expect_code(2);
        run.expect_log(&["must be of the form http://host:port/path"]);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_unhealthy() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let mut pipeline = observed(&workspace, &server);
    pipeline["receivers"]["export_dir"]["rescan_interval"] = json!("1s");
    let closed = workspace.exports().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(workspace.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = workspace.config("pipeline.yaml", &pipeline.to_string());
    let program = Program::as_unprivileged("run", workspace.root()).arg("-c").arg(config);
    let sidecar = Sidecar::start(program);
    let body = sidecar.wait_for_health(503);
    assert!(body["reasons"][0].as_str().unwrap().contains("closed: cannot be looked into"));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    sidecar.wait_for_health(200);
    sidecar.stop();
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let workspace = Workspace::new();
    let script = [Fault::http(503), Fault::Reset];
    let server = FakeOtlp::builder().script(script).start().await;
    let mut pipeline = observed(&workspace, &server);
    pipeline["exporters"]["otlp_grpc"]["headers"] = json!({"authorization": "Bearer hunter2"});
    let pipelines = &mut pipeline["service"]["pipelines"];
    pipelines["logs"] = pipelines["traces"].clone();
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    let mut spans = 0;
    for n in 0..3 {
        let snapshot = workspace.export(&format!("job-{n}"), &presets::typical()).snapshot;
        snapshot.wait_for_trace_id(PATIENCE).await;
        spans += 10;
    }
    fs::create_dir(workspace.exports().join("bad")).unwrap();
    fs::write(workspace.exports().join("bad/onboarding-metadata.json"), "{}").unwrap();
    sidecar.running.wait_for_line("export refused", PATIENCE);
    server.wait_for(|state| state.logs.len() == 3, PATIENCE).await;

    let deadline = Instant::now() + PATIENCE;
    let metrics = loop {
        let metrics = sidecar.metrics();
        if metrics[r#"taskspan_write_backs_total{outcome="written"}"#] >= 3.0 {
            break metrics;
        }
        assert!(Instant::now() < deadline, "{metrics:#?}");
    };
    for (series, expected) in [
        ("taskspan_receiver_accepted_exports_total", 3.0),
        ("taskspan_receiver_accepted_spans_total", f64::from(spans)),
        ("taskspan_receiver_refused_exports_total", 1.0),
        (r#"taskspan_exporter_sent_spans_total{exporter="otlp_grpc"}"#, f64::from(spans)),
        (r#"taskspan_exporter_send_failed_spans_total{exporter="otlp_grpc"}"#, 20.0),
        (r#"taskspan_exporter_requests_total{code="OK",exporter="otlp_grpc"}"#, 3.0),
        (r#"taskspan_exporter_requests_total{code="connection",exporter="otlp_grpc"}"#, 1.0),
        (r#"taskspan_exporter_queue_items{exporter="otlp_grpc"}"#, 0.0),
        (r#"taskspan_exporter_queue_capacity_bytes{exporter="otlp_grpc"}"#, f64::from(512 << 20)),
        ("taskspan_delivery_duration_seconds_count", 3.0),
        ("taskspan_converter_duration_seconds_count", 3.0),
        ("taskspan_queue_oldest_item_age_seconds", 0.0),
        (r#"taskspan_exports{state="rejected"}"#, 0.0),
        (r#"taskspan_receiver_watch_mode{mode="events"}"#, 1.0),
    ] {
        assert_eq!(metrics.get(series), Some(&expected), "{series} in {metrics:#?}");
    }
    let logs = r#"taskspan_exporter_sent_log_records_total{exporter="otlp_grpc (logs)"}"#;
    assert!(metrics[logs] >= f64::from(spans), "{metrics:#?}");
    let (_, text) = get(&sidecar.metrics, "/metrics");
    assert!(!text.contains("hunter2"));
    assert!(metrics.len() < 120, "cardinality: {}", metrics.len());
    sidecar.stop();
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_fault() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let mut pipeline = observed(&workspace, &server);
    pipeline["extensions"]["health_check"]["endpoint"] = json!(server.address().to_string());
    let run = workspace.configured("run", &pipeline).run();
    run.expect_code(2).expect_log(&["health_check cannot listen on"]);
}

#[tokio::test]
async fn the_page_shows_what_is_known() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = observed(&workspace, &server);
    pipeline["service"]["grafana_url"] = json!("https://grafana.example.com");
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    let (status, empty) = get(&sidecar.metrics, "/");
    assert_eq!(status, 200);
    assert!(empty.contains("There are none below the watched directories"), "{empty}");

    let export = presets::typical().project_name("Corner <Shop> & \"Sons\"");
    let snapshot = workspace.export("out", &export).snapshot;
    let id = snapshot.wait_for_trace_id(PATIENCE).await;
    fs::create_dir(workspace.exports().join("<bad>")).unwrap();
    fs::write(workspace.exports().join("<bad>/onboarding-metadata.json"), "{}").unwrap();
    let (_, page) = get(&sidecar.metrics, "/");
    let name = "Corner &lt;Shop&gt; &amp; &quot;Sons&quot;";
    for words in ["written", "invalid", "&lt;bad&gt;", name, "grafana.example.com", "<meter"] {
        assert!(page.contains(words), "no {words} in {page}");
    }
    assert!(!page.contains("<bad>") && !page.contains("<script"));

    let (status, plan) = get(&sidecar.metrics, &format!("/plan/{id}"));
    assert_eq!(status, 200);
    for words in [name, "cart-rules", "<svg", "after cart-monitor", "Dashboard Artifacts"] {
        assert!(plan.contains(words), "no {words} in {plan}");
    }
    for path in ["/plan/", "/plan/x", "/plan/../../etc/passwd", "/other", "//"] {
        assert_eq!(get(&sidecar.metrics, path).0, 404, "{path}");
    }
    let mut stream = TcpStream::connect(&sidecar.metrics).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    let rebound = "GET / HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(request(&sidecar.metrics, rebound).0, 403);
    looks_right(&sidecar.metrics, &format!("/plan/{id}"), &["<svg", "cart-rules"]);
    looks_right(&sidecar.metrics, "/", &["class=\"mark written\""]);
    sidecar.stop();
}

#[tokio::test]
async fn the_page_is_bounded_for_many_exports_and_a_large_one() {
    use crate::support::exports::{Artifact, ExportBuilder};
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let sidecar = Sidecar::start(workspace.configured("run", &observed(&workspace, &server)));
    looks_right(&sidecar.metrics, "/", &["There are none"]);
    let long = ExportBuilder::new(&"long-name".repeat(20)).artifact(Artifact::new("a", "b"));
    workspace.export("long", &long).snapshot.wait_for_trace_id(PATIENCE).await;
    for n in 0..49 {
        workspace.export(&format!("job-{n}"), &presets::typical());
    }
    let large = (0..7_000).fold(ExportBuilder::new("large"), |export, n| {
        export.artifact(Artifact::new(&format!("artifact-{n}"), "dashboard"))
    });
    let snapshot = workspace.export("large", &large).snapshot;
    let id = snapshot.wait_for_trace_id(PATIENCE).await;
    let (_, page) = get(&sidecar.metrics, "/");
    assert_eq!(page.matches("<tr><td><span class=\"mark").count(), 51);
    let (_, plan) = get(&sidecar.metrics, &format!("/plan/{id}"));
    assert!(plan.contains("artifact-6999") && plan.contains("too many to draw"));
    assert!(plan.contains("<details><summary>"), "7,000 lines are not shown at once");
    looks_right(&sidecar.metrics, "/", &["job-48", "long-name"]);
    looks_right(&sidecar.metrics, &format!("/plan/{id}"), &["artifact-6999"]);
    sidecar.stop();
}

/// Opens a page in a browser of 1280 by 800, if there is one. There are no errors, and nothing is
/// outside of the window.
fn looks_right(address: &str, path: &str, shows: &[&str]) {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let browser = std::env::split_paths(&paths)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|path| path.is_file());
    let Some(browser) = browser else {
        eprintln!("skipped: there is no Chromium to look at the page with");
        return;
    };
    let profile = tempfile::tempdir().unwrap();
    let dom = |url: &str| {
        let output = std::process::Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"])
            // The page's console goes to standard error, and nothing leaves this machine.
            .args(["--enable-logging=stderr", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--dump-dom", url])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("CONSOLE") && !said.contains("Content Security Policy"), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let page = dom(&format!("http://{address}{path}"));
    for text in shows {
        assert!(page.contains(text), "no {text} in {path}");
    }
    // The page allows no script, so a copy of it measures itself.
    let (_, copy) = get(address, path);
    let measure = "<script>document.title = 'as wide as ' + document.documentElement.scrollWidth \
                   + ', in a window of ' + window.innerWidth</script></body>";
    let copied = profile.path().join("copy.html");
    fs::write(&copied, copy.replace("</body>", measure)).unwrap();
    let measured = dom(&format!("file://{}", copied.display()));
    let widths: Vec<u32> = measured
        .split("<title>as wide as ")
        .nth(1)
        .and_then(|rest| rest.split('<').next())
        .unwrap_or_else(|| panic!("not measured: {path}"))
        .split(", in a window of ")
        .map(|width| width.parse().unwrap())
        .collect();
    assert!(widths[0] <= widths[1], "{path} is {widths:?} wide");
}

/// A permanent refusal is unhealthy. A disabled program still answers its probes.
#[tokio::test]
async fn refusals_are_unhealthy_and_probes_are_answered_when_it_is_disabled() {
    let workspace = Workspace::new();
    let refusal = Fault::grpc(tonic::Code::Unauthenticated);
    let server = FakeOtlp::builder().forever(refusal).start().await;
    let pipeline = observed(&workspace, &server);
    workspace.export("out", &presets::typical());
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    let body = sidecar.wait_for_health(503);
    assert_eq!(body["reasons"][0], "1 export(s) were refused (`taskspan queue list`)");
    workspace.program("queue").args(&["drop", "0"]).run().expect_code(0);
    sidecar.wait_for_health(200);
    sidecar.stop();

    let program = workspace.configured("run", &pipeline).env("OTEL_SDK_DISABLED", "true");
    let disabled = Sidecar::start(program);
    for path in ["/", "/live", "/ready"] {
        assert_eq!(disabled.health(path).0, 200, "{path}");
    }
    disabled.stop();
}

/// The backend of log records is down, that of traces works. The id is written, and health and the
/// age of the oldest item count the waiting records.
#[tokio::test]
async fn log_records_that_wait_are_unhealthy() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = observed(&workspace, &server);
    pipeline["exporters"]["otlp_http/loki"] = json!({"endpoint": "http://127.0.0.1:1"});
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    let before = sidecar.metrics();
    for series in [
        r#"taskspan_exporter_requests_total{code="OK",exporter="otlp_grpc"}"#,
        r#"taskspan_exporter_requests_total{code="204",exporter="otlp_http/loki (logs)"}"#,
        r#"taskspan_exporter_sent_log_records_total{exporter="otlp_http/loki (logs)"}"#,
    ] {
        assert_eq!(before.get(series), Some(&0.0), "{series} in {before:#?}");
    }
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    let body = sidecar.wait_for_health(503);
    let reason = body["reasons"][0].as_str().unwrap();
    assert!(reason.contains("has waited for its delivery"), "{reason}");
    let age = sidecar.metrics()["taskspan_queue_oldest_item_age_seconds"];
    assert!(age > 0.3, "{age}");
    sidecar.stop();
}

/// Standard error is a full pipe that is never read. The export is delivered, and the program ends
/// by itself.
#[tokio::test]
async fn a_standard_error_that_is_not_read_holds_up_nothing() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("a", &presets::typical()).snapshot;
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let program = workspace.configured("once", &pipeline).env("RUST_LOG", "trace");
    let (program, _reader) = program.stderr_is_full();
    program.run().expect_code(0);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}

/// More clients than there are connections, each of which would like to keep its own.
#[tokio::test]
async fn clients_that_keep_their_connections_leave_room_for_a_probe() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let pipeline = observed(&workspace, &server);
    let sidecar = Sidecar::start(workspace.configured("run", &pipeline));
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&sidecar.health).unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        // The answer ends with the connection, although the client did not ask for that.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        kept.push(stream);
    }
    assert_eq!(sidecar.health("/live").0, 200);
    sidecar.stop();
}
