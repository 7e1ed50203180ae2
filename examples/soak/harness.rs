//! Writes exports, injects faults into the endpoint, and kills the sidecar many times. At the end,
//! every export must have been delivered, and every repetition must be excused by the ledger.
//!
//! ```text
//! writer ─exports─▶ sidecar ─requests─▶ fake endpoint ─▶ ledger
//!    ▲                 ▲ kill -9           ok, later, reset, stall, away
//!    └── ids ──────────┘
//! ```

mod ledger;
mod random;
mod writer;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;

use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::snapshot::Snapshot;
use ledger::{Ledger, PROCESS, Repetitions, process_of};
use random::Random;
use writer::Writer;

/// A time limit that only a blocked program exceeds, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every n-th process finds the endpoint down. After it, a new endpoint is started.
const PROCESSES_PER_ENDPOINT: usize = 8;

/// In bytes. The sidecar's first requests can be larger, so that some must be split.
const MESSAGE_LIMIT: usize = 12_000;

/// The program to test, the seed, and the number of kills.
pub struct Options {
    pub binary: PathBuf,
    pub seed: u64,
    pub kills: usize,
}

/// The result of a run. Its `Display` form is the summary.
pub struct Report {
    pub kills: usize,
    terms: usize,
    exports: writer::Counts,
    requests: ledger::Counts,
    repetitions: Repetitions,
    took: Duration,
    /// Everything that went wrong. Empty if the run passed.
    pub faults: Vec<String>,
    log: String,
}

/// When and by which signal a process is ended.
struct Ending {
    moment: Moment,
    signal: Signal,
}

enum Moment {
    /// This long after the start.
    After(Duration),
    /// This long after the n-th request arrived. Depending on the delay, this is around the answer,
    /// its record, or the write-back.
    Request(usize, Duration),
}

/// Runs processes until the number of kills is reached, then delivers what is left and checks
/// everything.
pub async fn run(options: &Options) -> Report {
    let root = TempDir::new().unwrap();
    let mut soak = Soak::new(root.path(), options).await;
    let began = Instant::now();
    let (mut kills, mut terms, mut number) = (0, 0, 0);
    while kills < options.kills {
        if number % PROCESSES_PER_ENDPOINT == 0 {
            soak.stop_endpoint();
        } else if soak.server.is_none() {
            soak.start_endpoint().await;
        }
        number += 1;
        match soak.one_process(&format!("process-{number}")).await {
            Signal::KILL => kills += 1,
            _ => terms += 1,
        }
    }
    soak.finish().await;
    let repetitions = soak.ledger.repetitions();
    let mut faults = soak.writer.faults;
    let strangers = soak.ledger.traces();
    let strangers = strangers.difference(&soak.writer.versions);
    faults.extend(strangers.map(|trace| format!("trace {trace} is nobody's")));
    faults.extend(repetitions.unexcused.iter().cloned());
    let log = fs::read_to_string(&soak.log).unwrap();
    Report {
        kills,
        terms,
        exports: soak.writer.counts,
        requests: soak.ledger.counts,
        repetitions,
        took: began.elapsed(),
        faults,
        log,
    }
}

struct Soak {
    root: PathBuf,
    log: PathBuf,
    config: PathBuf,
    binary: PathBuf,
    random: Random,
    writer: Writer,
    ledger: Ledger,
    address: SocketAddr,
    server: Option<FakeOtlp>,
}

impl Soak {
    async fn new(root: &Path, options: &Options) -> Self {
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let server = FakeOtlp::builder().at(local).may_be_unused().start().await;
        let pipeline = json!({
            "receivers": {"export_dir": {
                "directories": [root.join("exports")],
                "settle": "10ms",
                // The minimum, so that few exports make many requests.
                "spans": {"max_request_bytes": "16KiB"},
            }},
            "exporters": {"otlp_grpc": {
                "endpoint": server.endpoint(),
                // Long enough that an answer which was sent is read before the time-out.
                "timeout": "3s",
                "retry_on_failure": {"initial_interval": "10ms", "max_interval": "100ms"},
            }},
            "service": {"pipelines": {"traces": {
                "receivers": ["export_dir"],
                "exporters": ["otlp_grpc"],
            }}},
        });
        let config = root.join("pipeline.yaml");
        fs::write(&config, pipeline.to_string()).unwrap();
        Self {
            root: root.to_owned(),
            log: root.join("log"),
            config,
            binary: options.binary.clone(),
            random: Random::new(options.seed),
            writer: Writer::new(root),
            ledger: Ledger::default(),
            address: server.stop(),
            server: None,
        }
    }

    /// Starts an endpoint that answers 400 requests at random, about one in five with a fault. It
    /// accepts all later ones.
    async fn start_endpoint(&mut self) {
        let random = &mut self.random;
        let faults = (0..400).map(|_| match random.below(50) {
            0 => Fault::Stall,
            1..=4 => Fault::Reset,
            5 => Fault::grpc(Code::ResourceExhausted),
            6 => Fault::grpc(Code::Aborted),
            7 => Fault::http(503),
            8..=10 => Fault::unavailable(Protocol::Grpc),
            _ => Fault::Ok,
        });
        let builder = FakeOtlp::builder().at(self.address).may_be_unused();
        let builder = builder.message_limit(MESSAGE_LIMIT).script(faults);
        self.server = Some(builder.start().await);
    }

    /// Stops the endpoint and records its requests. No sidecar may run, because later requests
    /// would not be recorded.
    fn stop_endpoint(&mut self) {
        if let Some(server) = self.server.take() {
            self.ledger.enter(server.attempts());
            server.stop();
        }
    }

    fn command(&self, subcommand: &str) -> Command {
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.binary);
        command
            .arg(subcommand)
            .arg("-c")
            .arg(&self.config)
            .env_clear()
            .env("XDG_STATE_HOME", self.root.join("state"))
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    fn start(&self, name: &str) -> Child {
        let header = format!("exporters.otlp_grpc.headers.{PROCESS}={name}");
        let mut command = self.command("run");
        command.arg("--set").arg(header).spawn().unwrap()
    }

    /// Runs one sidecar from start to end while exports are written. Returns the signal that ended
    /// it.
    async fn one_process(&mut self, name: &str) -> Signal {
        let ending = self.choose_ending();
        let mut child = self.start(name);
        let server = self.server.as_ref();
        let (random, writer, ledger) = (&mut self.random, &mut self.writer, &self.ledger);
        let write = async {
            for _ in 0..=random.below(5) {
                tokio::time::sleep(random.up_to_millis(60)).await;
                writer.write(random, ledger, server);
            }
        };
        tokio::join!(write, wait_until(&ending.moment, name, server));

        if let Some(status) = child.try_wait().unwrap() {
            self.writer.faults.push(format!("{name} ended: {status}"));
            return ending.signal;
        }
        kill_process(Pid::from_child(&child), ending.signal).unwrap();
        match ending.signal {
            Signal::KILL => {
                child.wait().unwrap();
                self.ledger.note_kill(name);
            }
            _ => self.expect_success(&mut child, name).await,
        }
        ending.signal
    }

    fn choose_ending(&mut self) -> Ending {
        let random = &mut self.random;
        let moment = match random.below(3) {
            0 => Moment::After(random.up_to_millis(500)),
            1 => Moment::Request(1 + random.below(12), random.up_to_millis(2)),
            _ => Moment::Request(1 + random.below(12), random.up_to_millis(20)),
        };
        // After SIGTERM no repetition is excused.
        let signal = if random.one_in(6) { Signal::TERM } else { Signal::KILL };
        Ending { moment, signal }
    }

    async fn expect_success(&mut self, child: &mut Child, name: &str) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.to_string();
            }
            if Instant::now() > end {
                child.kill().unwrap();
                child.wait().unwrap();
                break "still running".to_owned();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        if status != "exit status: 0" {
            let fault = format!("{name}, asked to stop: {status}");
            self.writer.faults.push(fault);
        }
    }

    /// Runs a sidecar until everything is delivered, with an endpoint that injects no faults. Then
    /// checks all exports.
    async fn finish(&mut self) {
        self.stop_endpoint();
        let builder = FakeOtlp::builder().at(self.address).may_be_unused();
        let server = builder.message_limit(MESSAGE_LIMIT).start().await;
        self.server = Some(server);
        let mut child = self.start("the last process");
        let end = Instant::now() + PATIENCE;
        let is_done = |snapshot: &Snapshot| snapshot.written_trace_id().is_some();
        // `queue list` opens the queue itself if no process uses it, which would block the
        // sidecar's start.
        while !(self.writer.in_place().all(is_done) && self.is_answering() && self.queue_is_empty())
        {
            if Instant::now() > end {
                self.writer.faults.push("not done in time".to_owned());
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        self.expect_success(&mut child, "the last process").await;
        let in_place: Vec<_> = self.writer.in_place().cloned().collect();
        for snapshot in &in_place {
            self.writer.check_finished(snapshot, &self.ledger, self.server.as_ref());
        }
        // A further run must not send anything.
        let attempts = self.server.as_ref().unwrap().attempts().len();
        let mut again = self.command("once").spawn().unwrap();
        self.expect_success(&mut again, "once").await;
        if self.server.as_ref().unwrap().attempts().len() != attempts {
            self.writer.faults.push("something was sent again".into());
        }
        self.stop_endpoint();
    }

    /// Whether a sidecar answers, and so uses the queue.
    fn is_answering(&self) -> bool {
        UnixStream::connect(self.root.join("state/taskspan/control.sock")).is_ok()
    }

    fn queue_is_empty(&self) -> bool {
        let mut list = self.command("queue");
        let list = list.args(["list", "--format", "json"]);
        let output = list.stdout(Stdio::piped()).output().unwrap();
        output.stdout.trim_ascii() == b"[]"
    }
}

async fn wait_until(moment: &Moment, name: &str, server: Option<&FakeOtlp>) {
    // A limit is needed, because there may be nothing to send, or a request may be stalled.
    const AT_MOST: Duration = Duration::from_millis(700);
    match (moment, server) {
        (Moment::After(delay), _) => tokio::time::sleep(*delay).await,
        (Moment::Request(_, delay), None) => tokio::time::sleep(*delay * 20).await,
        (Moment::Request(count, delay), Some(server)) => {
            let all = |state: &crate::support::fake_otlp::State| {
                let own = state.attempts.iter().filter(|it| process_of(it) == name);
                own.count() >= *count
            };
            let reached = server.wait_for(all, PATIENCE);
            if tokio::time::timeout(AT_MOST, reached).await.is_ok() {
                tokio::time::sleep(*delay).await;
            }
        }
    }
}

impl Report {
    /// Returns the last 60 lines of the log of all processes.
    pub fn end_of_log(&self) -> String {
        let lines: Vec<&str> = self.log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, terms, exports, requests, repetitions, .. } = self;
        writeln!(f, "{kills:>8} kills, {terms} stops by SIGTERM")?;
        writeln!(
            f,
            "{:>8} exports written, {} replaced before they had an id",
            exports.written, exports.overwritten
        )?;
        writeln!(f, "{:>8} exports found whole, with their id", exports.finished)?;
        writeln!(
            f,
            "{:>8} requests: {} acknowledged, {} refused for now, {} reset, {} stalled",
            requests.requests,
            requests.acknowledged,
            requests.refused,
            requests.reset,
            requests.stalled
        )?;
        writeln!(
            f,
            "{:>8} repetitions of requests that were never acknowledged",
            repetitions.in_doubt
        )?;
        writeln!(
            f,
            "{:>8} repetitions where a kill fell between acknowledgement and record",
            repetitions.after_a_kill
        )?;
        writeln!(f, "{:>8} faults", self.faults.len())?;
        write!(f, "{:>8} s", self.took.as_secs())
    }
}
