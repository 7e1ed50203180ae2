//! Measures `taskspan run`: latency, throughput, and resource usage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cases::export::{Export, Language};
use crate::figure::{Row, median, memory, quantile, time};
use crate::process::{PATIENCE, Sidecar, cpu, pause, status, switches, woken};
use crate::receiver::Receiver;

/// An address where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:1";

/// The default of `settle`.
const SETTLE: Duration = Duration::from_millis(100);

const ACCEPTED: &str = "taskspan_receiver_accepted_exports_total";
const HELD: &str = "taskspan_exports{";

struct Place {
    home: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { home: TempDir::new().unwrap() }
    }

    fn exports(&self) -> PathBuf {
        self.home.path().join("exports")
    }

    /// Writes this many exports, each into its own directory.
    fn write(&self, exports: usize, artifacts: usize) {
        for number in 0..exports {
            let dir = self.exports().join(format!("{number:05}"));
            Export::new(artifacts, number as u64, Language::Yaml).write_into(&dir).unwrap();
        }
    }

    fn start(&self, endpoint: &str) -> Sidecar {
        Sidecar::start(self.home.path(), &self.config(endpoint, true))
    }

    fn config(&self, endpoint: &str, is_durable: bool) -> Value {
        json!({
            "receivers": {"export_dir": {"directories": [self.exports()]}},
            "exporters": {"otlp_grpc": {
                "endpoint": endpoint,
                "sending_queue": {"enabled": is_durable},
            }},
            "service": {
                "pipelines": {"traces": {
                    "receivers": ["export_dir"],
                    "exporters": ["otlp_grpc"],
                }},
                "telemetry": {"metrics": {"address": "127.0.0.1:0"}},
            },
        })
    }
}

/// Measures the time between the rename of an export and the arrival of its spans.
pub fn latency() -> Vec<Row> {
    const SAMPLES: usize = 200;
    let receiver = Receiver::start();
    let place = Place::new();
    let staged: Vec<_> = (0..=SAMPLES)
        .map(|number| {
            let dir = place.exports().join(format!("{number:03}"));
            let export = Export::new(15, number as u64, Language::Yaml);
            export.stage_into(&dir).unwrap()
        })
        .collect();
    let sidecar = place.start(&receiver.endpoint());
    let mut taken: Vec<Duration> = Vec::new();
    for (number, (temp, target)) in staged.iter().enumerate() {
        let began = Instant::now();
        fs::rename(temp, target).unwrap();
        let arrived = receiver.wait_for(number + 1, PATIENCE).at;
        taken.push((arrived - began).saturating_sub(SETTLE));
        wait_for_id(target);
    }
    sidecar.stop();
    // Without the first sample, which includes opening the connection.
    let taken = &taken[1..];
    let (middle, late) = (median(taken), quantile(taken, 0.99));
    let what = "rename of an export to its arrival, beyond `settle`";
    vec![
        Row::new(what, "median under 3 ms", time(middle), middle < Duration::from_millis(3)),
        Row::new(what, "p99 under 10 ms", time(late), late < Duration::from_millis(10)),
    ]
}

/// Waits until an export is done, so that it does not delay the next one.
fn wait_for_id(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(path).unwrap_or_default().contains("\"task_trace_id\"") {
        assert!(Instant::now() < end, "no id");
        pause(Duration::from_millis(1));
    }
}

/// Measures memory, CPU time and wake-ups of an idle sidecar.
pub fn idle() -> Vec<Row> {
    const DIRECTORIES: usize = 1_000;
    const WATCHED: Duration = Duration::from_secs(10);
    let receiver = Receiver::start();
    let place = Place::new();
    for number in 0..DIRECTORIES {
        fs::create_dir_all(place.exports().join(format!("{number:04}"))).unwrap();
    }
    let sidecar = place.start(&receiver.endpoint());
    sidecar.wait_for("taskspan_receiver_scans_total", 1);
    // Wait until the start is over: at most one wake-up in a second.
    let pid = sidecar.pid();
    let end = Instant::now() + PATIENCE;
    let mut before = switches(pid);
    loop {
        pause(Duration::from_secs(1));
        let now = switches(pid);
        let woken = woken(&before, &now);
        before = now;
        if woken <= 1 || Instant::now() > end {
            break;
        }
    }
    let cpu_before = cpu(pid);
    pause(WATCHED);
    let (used, woken) = (cpu(pid) - cpu_before, woken(&before, &switches(pid)));
    let resident = status(pid, "VmRSS").unwrap();
    let of_files = status(pid, "RssFile").unwrap();
    sidecar.stop();
    let what = "idle, 1,000 watched directories";
    let figure = format!("{}, of it {} the program's own file", memory(resident), memory(of_files));
    vec![
        Row::new(what, "resident under 10 MiB", figure, resident < 10 << 10),
        Row::new(
            what,
            "no CPU, no wake-ups but the rescan, in 10 s",
            format!("{} CPU, {woken} wake-ups", time(used)),
            used.is_zero() && woken <= 4,
        ),
    ]
}

/// Measures a start with many queued exports, and the delivery after it.
pub fn backlog() -> Vec<Row> {
    const MANY: usize = 10_000;
    const QUIET: Duration = Duration::from_secs(3);
    let with = |exports: usize| {
        let place = Place::new();
        place.write(exports, 1);
        let sidecar = place.start(NOWHERE);
        sidecar.wait_for(ACCEPTED, exports);
        let at_work = status(sidecar.pid(), "VmHWM").unwrap();
        sidecar.stop();
        let began = Instant::now();
        let sidecar = place.start(NOWHERE);
        let ready = sidecar.wait_for(HELD, exports) - began;
        // Wait for the scan, so that the peak includes the memory for all directories.
        sidecar.wait_for("taskspan_receiver_scans_total", 1);
        pause(QUIET);
        let with_directories = status(sidecar.pid(), "VmHWM").unwrap();
        sidecar.stop();
        let mut config = place.config(NOWHERE, true);
        config["receivers"]["export_dir"]["directories"] = json!([place.home.path().join("none")]);
        let sidecar = Sidecar::start(place.home.path(), &config);
        sidecar.wait_for(HELD, exports);
        pause(QUIET);
        let resident = status(sidecar.pid(), "VmHWM").unwrap();
        sidecar.stop();
        let receiver = Receiver::start();
        let began = Instant::now();
        let sidecar = place.start(&receiver.endpoint());
        let delivered = receiver.wait_for(1, PATIENCE).at - began;
        let last = receiver.wait_for(exports, PATIENCE).at - began;
        sidecar.stop();
        (ready, delivered, last, [resident, with_directories, at_work])
    };
    let (_, _, _, [few, ..]) = with(10);
    let (ready, delivered, last, [many, with_directories, at_work]) = with(MANY);
    let what = "10,000 waiting exports";
    let start = format!(
        "{} to its queue, {} to the first delivery, {} to the last",
        time(ready),
        time(delivered),
        time(last),
    );
    let beside = |kib: u64| format!("{} beside {} with 10", memory(kib), memory(few));
    let watching =
        format!("{}; {} while they were taken in", beside(with_directories), memory(at_work));
    let second = Duration::from_secs(1);
    let is_flat = |kib: u64| kib < few + (10 << 10);
    let goal = "memory flat: at most 10 MiB more";
    vec![
        Row::new(what, "start under 1 s", start, ready < second && delivered < second),
        Row::new("the same, the queue alone", goal, beside(many), is_flat(many)),
        Row::new(
            "the same, with their 10,000 directories watched",
            goal,
            watching,
            is_flat(with_directories),
        ),
    ]
}

/// Measures the throughput for many small exports, with the queue on disk and in memory.
pub fn sustained() -> Vec<Row> {
    const EXPORTS: usize = 3_000;
    let accepted = |is_durable: bool| {
        let place = Place::new();
        place.write(EXPORTS, 1);
        let sidecar = Sidecar::start(place.home.path(), &place.config(NOWHERE, is_durable));
        let began = sidecar.wait_for(ACCEPTED, 1);
        let taken = sidecar.wait_for(ACCEPTED, EXPORTS) - began;
        sidecar.stop();
        EXPORTS as f64 / taken.as_secs_f64()
    };
    let delivered = |is_durable: bool| {
        let receiver = Receiver::start();
        let place = Place::new();
        place.write(EXPORTS, 1);
        let config = place.config(&receiver.endpoint(), is_durable);
        let sidecar = Sidecar::start(place.home.path(), &config);
        let began = receiver.wait_for(1, PATIENCE).at;
        let taken = receiver.wait_for(EXPORTS, PATIENCE).at - began;
        sidecar.stop();
        EXPORTS as f64 / taken.as_secs_f64()
    };
    let row = |is_durable: bool, what: &str, wanted: f64| {
        let (taken_in, sent) = (accepted(is_durable), delivered(is_durable));
        let figure = format!("{taken_in:.0} a second; {sent:.0} delivered");
        Row::new(what, &format!("over {wanted} a second"), figure, taken_in > wanted)
    };
    vec![
        row(true, "small exports accepted, queue on disk", 300.0),
        row(false, "the same, `sending_queue.enabled: false`", 1_000.0),
    ]
}
