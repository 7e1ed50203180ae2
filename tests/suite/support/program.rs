//! Runs the real binary, with only the environment that a test sets.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

/// A time limit that only a blocked program reaches, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A run of the program that is not started yet.
#[must_use]
pub struct Program {
    command: Command,
    deadline: Duration,
    home: TempDir,
}

/// The result of a finished run.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or minus the number of the signal that ended the run.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails the test with the whole output unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { code: actual, stdout, stderr } = &self;
        assert_eq!(*actual, code, "\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    /// Fails the test unless each of these texts is on standard error.
    #[track_caller]
    pub fn expect_log(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "nothing of {word:?} in:\n{}", self.stderr);
        }
        self
    }
}

impl Program {
    /// Prepares a subcommand, with an empty environment except for a new home directory.
    pub fn new(subcommand: &str) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_taskspan")), subcommand)
    }

    /// Prepares a run without root's permissions. If the tests run as root, the binary is copied to
    /// `place`, because another user may not have access to the build directory. Other users must
    /// have access to `place`.
    pub fn as_unprivileged(subcommand: &str, place: &Path) -> Self {
        const NOBODY: u32 = 65_534;
        Self::as_user(NOBODY, subcommand, place)
    }

    fn as_user(user: u32, subcommand: &str, place: &Path) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::new(subcommand);
        }
        let binary = place.join("taskspan");
        if !binary.exists() {
            // `cp` runs in another process, because a program that another test starts now would
            // inherit a file that is open for writing here. The copy could then not be executed
            // (ETXTBSY).
            let copy = Command::new("cp").arg(env!("CARGO_BIN_EXE_taskspan")).arg(&binary).status();
            assert!(copy.unwrap().success());
        }
        let mut program = Self::of(&binary, subcommand);
        std::os::unix::fs::chown(program.home.path(), Some(user), Some(user)).unwrap();
        program.command.uid(user).gid(user);
        program
    }

    /// Prepares a run of a user who may have `processes` processes and threads. `None` if the tests
    /// do not run as root, because the user who runs them has more, or if there is no prlimit(1).
    pub fn with_processes(processes: usize, subcommand: &str, place: &Path) -> Option<Self> {
        /// No other test runs anything as this user.
        const LIMITED: u32 = 65_533;
        let has_prlimit = Command::new("prlimit").arg("--version").output().is_ok();
        if !has_prlimit || !rustix::process::geteuid().is_root() {
            return None;
        }
        let program = Self::as_user(LIMITED, subcommand, place);
        let mut program = program.behind(&["prlimit", &format!("--nproc={processes}")]);
        program.command.uid(LIMITED).gid(LIMITED);
        Some(program)
    }

    /// Makes another program, with these arguments, start this one.
    pub fn behind(mut self, starter: &[&str]) -> Self {
        let started = std::mem::replace(&mut self.command, Command::new(starter[0]));
        self.command.args(&starter[1..]).arg(started.get_program()).args(started.get_args());
        self.command.env_clear().current_dir(self.home.path());
        for (key, value) in started.get_envs() {
            self.command.env(key, value.expect("tests remove no variable"));
        }
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self
    }

    fn of(binary: &Path, subcommand: &str) -> Self {
        let home = TempDir::new().unwrap();
        let mut command = Command::new(binary);
        command
            .arg(subcommand)
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_STATE_HOME", home.path().join("state"))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { command, deadline: PATIENCE, home }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds several arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets standard input (default: empty).
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Makes standard error a pipe that is full. Writing to it blocks until the returned reader is
    /// read or dropped.
    pub fn stderr_is_full(mut self) -> (Self, std::io::PipeReader) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        while std::io::Write::write(&mut writer, &[b'.'; 4_096]).is_ok() {}
        while std::io::Write::write(&mut writer, b".").is_ok() {}
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        self.command.stderr(writer);
        (self, reader)
    }

    /// Sets the working directory (default: the home directory of the run).
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Sets the state directory, so that several runs can share it.
    pub fn state_dir(self, dir: &Path) -> Self {
        self.env("XDG_STATE_HOME", dir)
    }

    /// Sets the time limit of `run`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the program to its end. Fails the test after the deadline.
    pub fn run(self) -> Output {
        let deadline = self.deadline;
        let mut running = self.spawn();
        let code = running.wait(deadline);
        running.output(code)
    }

    /// Starts the program in the background.
    pub fn spawn(mut self) -> Running {
        let mut child = self.command.spawn().expect("the binary starts");
        let lines = Arc::new(Lines::default());
        let stdout = lines.collect(child.stdout.take().unwrap(), Stream::Out);
        let stderr = child.stderr.take().map(|it| lines.collect(it, Stream::Err));
        let readers = [stdout].into_iter().chain(stderr).collect();
        let ended = notice_end(Pid::from_child(&child));
        Running { child, lines, readers, ended, _home: self.home }
    }
}

/// A running program. Dropping it kills the process.
pub struct Running {
    child: Child,
    lines: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
    ended: Receiver<()>,
    _home: TempDir,
}

impl Running {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line of either stream that contains `words`. Fails the test after the
    /// deadline.
    #[track_caller]
    pub fn wait_for_line(&self, words: &str, deadline: Duration) -> String {
        let lines = self.lines.seen.lock().unwrap();
        let find = |lines: &[(Stream, String)]| {
            lines.iter().find(|(_, line)| line.contains(words)).map(|(_, line)| line.clone())
        };
        let more = &self.lines.more;
        let waiting = |lines: &mut Vec<_>| find(lines).is_none();
        let (lines, _) = more.wait_timeout_while(lines, deadline, waiting).unwrap();
        let found = find(&lines);
        found.unwrap_or_else(|| panic!("no line with {words:?} in {deadline:?}:\n{}", all(&lines)))
    }

    /// Sends a signal. Must be called before `wait`.
    pub fn signal(&self, signal: Signal) {
        // The process is not reaped before `wait`, so its id cannot belong to another process.
        kill_process(Pid::from_child(&self.child), signal).expect("the program still runs");
    }

    /// Kills the program with SIGKILL and waits for its end.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end. Returns the exit code, or minus the number of the signal that ended the
    /// program. Fails the test after the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> i32 {
        if self.ended.recv_timeout(deadline).is_err() {
            let lines = self.lines.seen.lock().unwrap();
            panic!("still running after {deadline:?}:\n{}", all(&lines));
        }
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// Returns the whole output. `wait` must have returned `code`.
    pub fn output(&mut self, code: i32) -> Output {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let lines = self.lines.seen.lock().unwrap();
        let of = |wanted: Stream| {
            lines.iter().filter(|(stream, _)| *stream == wanted).fold(
                String::new(),
                |mut text, (_, line)| {
                    writeln!(text, "{line}").unwrap();
                    text
                },
            )
        };
        Output { code, stdout: of(Stream::Out), stderr: of(Stream::Err) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a channel that gets a message when a child has ended. The child is not reaped.
fn notice_end(child: Pid) -> Receiver<()> {
    let (ended, end) = sync_channel(1);
    std::thread::spawn(move || {
        let watch = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // `waitid` fails if the child was reaped already, and `send` if the receiver is gone.
        let _ = waitid(WaitId::Pid(child), watch);
        let _ = ended.send(());
    });
    end
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// The lines of both streams, in the order in which they were read.
#[derive(Default)]
struct Lines {
    seen: Mutex<Vec<(Stream, String)>>,
    more: Condvar,
}

impl Lines {
    fn collect(self: &Arc<Self>, pipe: impl Read + Send + 'static, from: Stream) -> JoinHandle<()> {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.seen.lock().unwrap().push((from, line));
                lines.more.notify_all();
            }
        })
    }
}

fn all(lines: &[(Stream, String)]) -> String {
    lines.iter().map(|(_, line)| format!("{line}\n")).collect()
}
