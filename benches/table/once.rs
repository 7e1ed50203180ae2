//! Measures one `taskspan once` from start to end, and the same work in Python.

use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use taskspan::converter::options::SpanOptions;
use tempfile::TempDir;

use crate::cases::export::{Export, Language};
use crate::cases::{self, Case};
use crate::figure::{Row, median, memory, ratio, time};
use crate::process::{Measured, measure, own_cpu, taskspan};
use crate::receiver::Receiver;

/// Earlier results of the Python SDK for a small and a large export. They are used if no Python
/// with the SDK is installed.
const MARKS: [Measured; 2] = [
    Measured { wall: Duration::from_millis(220), cpu: Duration::from_millis(220), peak: 46 << 10 },
    Measured {
        wall: Duration::from_millis(6_100),
        cpu: Duration::from_millis(6_100),
        peak: 229 << 10,
    },
];

/// Compares `once` with Python for 15 artifacts.
pub fn small() -> Vec<Row> {
    let receiver = Receiver::start();
    let (python, source) = python(15, 5, &receiver).unwrap_or((MARKS[0], "mark"));
    let ours = of_runs(11, || once(15, Language::Yaml, &receiver));
    let faster = ratio(python.wall, ours.wall);
    let figure = format!(
        "{} wall, {} CPU, {}; Python ({source}) {}, {}: {faster:.1}×",
        time(ours.wall),
        time(ours.cpu),
        memory(ours.peak),
        time(python.wall),
        memory(python.peak),
    );
    vec![Row::new("`once`, 15 artifacts", "20× less wall time", figure, faster >= 20.0)]
}

/// Compares `once` with Python for 7,001 artifacts.
pub fn large() -> Vec<Row> {
    let receiver = Receiver::start();
    let (python, source) = python(7_001, 1, &receiver).unwrap_or((MARKS[1], "mark"));
    let ours = of_runs(5, || once(7_001, Language::Yaml, &receiver));
    let json = of_runs(5, || once(7_001, Language::Json, &receiver));
    let what = "`once`, 7,001 artifacts, YAML manifest";
    let faster = |ours: Duration, python: Duration, wanted: f64, what: &str, unit: &str| {
        let times = ratio(python, ours);
        let figure = format!("{}; Python ({source}) {}: {times:.1}×", time(ours), time(python));
        Row::new(what, &format!("{wanted}× less {unit}"), figure, times >= wanted)
    };
    let peak = format!("{}; Python ({source}) {}", memory(ours.peak), memory(python.peak));
    let json_peak = format!("{} CPU, {}", time(json.cpu), memory(json.peak));
    let mut rows = vec![
        faster(ours.wall, python.wall, 20.0, what, "wall time"),
        faster(ours.cpu, python.cpu, 25.0, what, "CPU time"),
        Row::new(what, "peak under 80 MiB", peak, ours.peak < 80 << 10),
        faster(json.wall, python.wall, 60.0, "the same, JSON manifest", "wall time"),
    ];
    rows[3].figure.push_str(&format!("; {json_peak}"));
    rows
}

/// Measures one run of `once` that delivers and writes back.
fn once(artifacts: usize, language: Language, receiver: &Receiver) -> Measured {
    let home = TempDir::new().unwrap();
    let export = home.path().join("exports");
    let path = Export::new(artifacts, 1, language).write_into(&export).unwrap();
    backdate(&export);
    let before = receiver.seen().len();
    let mut command = taskspan(home.path());
    let measured =
        measure(command.arg("once").arg(&export).args(["--endpoint", &receiver.endpoint()]));
    assert!(receiver.seen().len() > before);
    assert!(std::fs::read_to_string(path).unwrap().contains("\"task_trace_id\""));
    measured
}

/// Sets all times back by one second. Otherwise `once` would wait for `settle`.
fn backdate(export: &std::path::Path) {
    let then = SystemTime::now() - Duration::from_secs(1);
    let entries = std::fs::read_dir(export).unwrap().map(|entry| entry.unwrap().path());
    for path in entries.chain([export.to_owned()]) {
        std::fs::File::open(path).unwrap().set_modified(then).unwrap();
    }
}

fn of_runs(runs: usize, mut run: impl FnMut() -> Measured) -> Measured {
    let all: Vec<Measured> = (0..runs).map(|_| run()).collect();
    let of = |pick: fn(&Measured) -> Duration| median(&all.iter().map(pick).collect::<Vec<_>>());
    let peak = median(&all.iter().map(|it| it.peak).collect::<Vec<_>>());
    Measured { wall: of(|it| it.wall), cpu: of(|it| it.cpu), peak }
}

/// Sends the same spans with the Python SDK of `TASKSPAN_PYTHON` or `python3`. `None` if there is
/// no such Python.
fn python(artifacts: usize, runs: usize, receiver: &Receiver) -> Option<(Measured, &'static str)> {
    let python = std::env::var("TASKSPAN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let needed = "import yaml, opentelemetry.sdk.trace, \
                  opentelemetry.exporter.otlp.proto.http.trace_exporter";
    let is_there = Command::new(&python).args(["-c", needed]).output().ok()?.status.success();
    is_there.then(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python_sdk.py");
        let run = || {
            let home = TempDir::new().unwrap();
            let path = Export::new(artifacts, 1, Language::Yaml).write_into(home.path()).unwrap();
            measure(Command::new(&python).arg(script).arg(path).arg(receiver.endpoint()))
        };
        (of_runs(runs, run), "here")
    })
}

/// Compares the CPU time of join, convert and encode with the time that the libraries need to parse
/// metadata and manifest.
pub fn parse_ratio() -> Vec<Row> {
    let best = |mut work: Box<dyn FnMut() -> Duration>| (0..7).map(|_| work()).min().unwrap();
    let rows = [Language::Yaml, Language::Json].map(|language| {
        let case = Case::new(7_001, language);
        let (parsed, trace_id) = (case.parsed(), case.trace_id());
        let converter = cases::converter();
        let work = best(Box::new(move || {
            let parsed = parsed.clone();
            taken(|| {
                let plan = cases::joined(parsed);
                (cases::converted(&converter, &plan, trace_id), plan)
            })
        }));
        let case = std::rc::Rc::new(case);
        let own = std::rc::Rc::clone(&case);
        let floor = best(Box::new(move || taken(|| case.floor())));
        let own = best(Box::new(move || taken(|| own.parsed())));
        let share = ratio(work, floor);
        let figure = format!(
            "{} to {} by the libraries alone ({} by our readers): {share:.2}",
            time(work),
            time(floor),
            time(own),
        );
        let name = match language {
            Language::Yaml => "YAML",
            Language::Json => "JSON",
        };
        let what = format!("join + convert + encode to parsing, CPU, 7,001 artifacts, {name}");
        Row::new(&what, "at most 1", figure, share <= 1.0)
    });
    rows.into()
}

/// Returns the CPU time of `work`, without the time to drop its result.
fn taken<T>(work: impl FnOnce() -> T) -> Duration {
    let before = own_cpu();
    let done = std::hint::black_box(work());
    let taken = own_cpu() - before;
    drop(done);
    taken
}

/// Measures 1,000 to 100,000 artifacts. Time must grow linearly, and memory must stay in proportion
/// to the input.
pub fn scale() -> Vec<Row> {
    let receiver = Receiver::that_measures_sizes();
    let limit = usize::try_from(SpanOptions::default().max_request_bytes.0).unwrap();
    let sizes = [1_000, 10_000, 100_000];
    let runs = sizes.map(|artifacts| {
        let home = TempDir::new().unwrap();
        let exports = home.path().join("exports");
        Export::new(artifacts, 1, Language::Yaml).write_into(&exports).unwrap();
        let files = std::fs::read_dir(&exports).unwrap();
        let input: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        let config = home.path().join("pipeline.yaml");
        std::fs::write(&config, pipeline(&exports, &receiver).to_string()).unwrap();
        let mut command = taskspan(home.path());
        let command = command.arg("once").arg("-c").arg(config).args(["--timeout", "300s"]);
        // By default, 100,000 artifacts are refused for the memory that they need.
        let command = command.args(["--set", "service.max_memory=4GiB"]);
        (measure(command), input)
    });
    let [_, (medium, _), (large, input)] = runs;
    let walls = runs.map(|(it, _)| time(it.wall)).join(", ");
    let cpus = runs.map(|(it, _)| time(it.cpu)).join(", ");
    let growth = ratio(large.wall, medium.wall);
    let share = (large.peak << 10) as f64 / input as f64;
    let largest = receiver.seen().iter().map(|it| it.bytes).max().unwrap_or_default();
    let what = "`once`, 100,000 artifacts, YAML";
    let time = format!("1,000, 10,000, 100,000: {walls} wall, {cpus} CPU; ×{growth:.1} at the end");
    let peak = format!("{} for {}: {share:.2}×", memory(large.peak), memory(input >> 10),);
    vec![
        Row::new(what, "linear: at most ×12.5 for ten times as many", time, growth <= 12.5),
        Row::new(what, "peak under 4× the input", peak, share < 4.0),
        Row::new(
            what,
            "every request under the limit",
            format!("{largest} of {limit} bytes, in {} requests", receiver.seen().len()),
            largest <= limit,
        ),
    ]
}

fn pipeline(exports: &std::path::Path, receiver: &Receiver) -> Value {
    json!({
        "receivers": {"export_dir": {"directories": [exports], "max_file_size": "1GiB"}},
        "exporters": {"otlp_grpc": {"endpoint": receiver.endpoint(), "timeout": "60s"}},
        "service": {"pipelines": {"traces": {
            "receivers": ["export_dir"],
            "exporters": ["otlp_grpc"],
        }}},
    })
}
