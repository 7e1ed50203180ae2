//! Runs processes, and reads their resource usage from the kernel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// A time limit that only a blocked program exceeds.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Ticks per second of the times in `/proc` (`USER_HZ`). It is 100 on all common architectures.
const TICKS: u64 = 100;

/// The resources of a finished process.
#[derive(Clone, Copy)]
pub struct Measured {
    pub wall: Duration,
    /// User plus system time, in steps of 10 ms.
    pub cpu: Duration,
    /// Peak resident memory in KiB.
    pub peak: u64,
}

/// Prepares taskspan with an almost empty environment. Its state goes into `home`.
pub fn taskspan(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskspan"));
    command.env_clear().env("HOME", home).env("XDG_STATE_HOME", home.join("state"));
    command.current_dir(home);
    command
}

/// Runs a process to its end. Panics if it fails.
pub fn measure(command: &mut Command) -> Measured {
    let cpu_before = cpu_of_children();
    let began = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let pid = child.id();
    let (ended, end) = sync_channel(1);
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        ended.send(Instant::now()).unwrap();
        output
    });
    let mut peak = 0;
    let ended = loop {
        match end.recv_timeout(Duration::from_micros(500)) {
            Ok(at) => break at,
            // The kernel keeps the maximum, so the last value before the end is the peak.
            Err(RecvTimeoutError::Timeout) => peak = status(pid, "VmHWM").unwrap_or(peak),
            Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for the process"),
        }
    };
    let output = waiter.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}\n{said}", command, output.status);
    Measured { wall: ended - began, cpu: cpu_of_children() - cpu_before, peak }
}

/// A running `taskspan run`. Dropping it kills the process.
pub struct Sidecar {
    child: Child,
    metrics: String,
    log: Option<JoinHandle<()>>,
}

impl Sidecar {
    /// Starts the sidecar, and returns as soon as it serves metrics.
    pub fn start(home: &Path, config: &Value) -> Sidecar {
        let path = home.join("pipeline.yaml");
        fs::write(&path, config.to_string()).unwrap();
        let mut command = taskspan(home);
        command.arg("run").arg("-c").arg(&path);
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let metrics = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended:\n{log}")).unwrap();
            if let Some((_, address)) = line.split_once("metrics are on http://") {
                break address.trim_end_matches("/metrics").to_owned();
            }
            log.push_str(&line);
            log.push('\n');
        };
        // An unread pipe would fill up and block the program.
        let log = std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Sidecar { child, metrics, log: Some(log) }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the value of a metric, summed over its labels. `None` if the program does not
    /// answer.
    fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.metrics).ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        let lines = page.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Some(values.sum())
    }

    /// Waits until a metric has reached this value, and returns the time. Panics after `PATIENCE`.
    pub fn wait_for(&self, name: &str, value: usize) -> Instant {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name).unwrap_or_default();
            if now >= value as f64 {
                return Instant::now();
            }
            assert!(Instant::now() < end, "{name} is {now}, not {value}");
            pause(Duration::from_millis(5));
        }
    }

    /// Stops the sidecar with SIGTERM and waits for its end.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.log.take().map(JoinHandle::join);
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Blocks the thread for this long.
pub fn pause(duration: Duration) {
    let (_nobody, never) = sync_channel::<()>(0);
    let _ = never.recv_timeout(duration);
}

/// Returns a figure of `/proc/PID/status`, memory in KiB. `None` if the process has ended.
pub fn status(pid: u32, key: &str) -> Option<u64> {
    figure(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, key)
}

fn figure(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the number of voluntary context switches of each thread.
pub fn switches(pid: u32) -> HashMap<OsString, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            Some((task.file_name(), figure(&status, "voluntary_ctxt_switches")?))
        })
        .collect()
}

/// Returns the number of wake-ups between two samples. A thread that has ended counts as one.
pub fn woken(before: &HashMap<OsString, u64>, now: &HashMap<OsString, u64>) -> u64 {
    let ended = before.keys().filter(|thread| !now.contains_key(*thread)).count();
    let known = |thread| before.get(thread).copied().unwrap_or_default();
    now.iter().map(|(thread, count)| count - known(thread)).sum::<u64>() + ended as u64
}

/// Returns the CPU time of a process so far.
pub fn cpu(pid: u32) -> Duration {
    times(&format!("/proc/{pid}/stat"), 11)
}

/// Returns the CPU time of the children that have ended.
fn cpu_of_children() -> Duration {
    times("/proc/self/stat", 13)
}

/// Returns user plus system time from a `stat` file. `first` is the index of the user time, counted
/// from the field after the name.
fn times(path: &str, first: usize) -> Duration {
    let stat = fs::read_to_string(path).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(first).take(2);
    let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// Returns the CPU time of this process so far.
pub fn own_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}
