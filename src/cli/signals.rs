//! Signals: the first stops the program gracefully, the second at once. `exec` forwards signals to
//! its job.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::fs::File;
use std::task::Poll;
use std::time::Duration;

use rustix::process::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watchdog::Watchdog;

/// How long a program that is stopped at once waits for its last log lines.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Signals within this time are the same wish: a supervisor and a terminal may both send one, and a
/// process group gets it several times.
pub(super) const SAME_WISH: Duration = Duration::from_millis(500);

/// Returns a token that the first signal cancels. A second signal, at least 500 ms later, ends the
/// program at once, with the exit code that shells use for a killed program.
///
/// # Errors
/// Returns an error if the system cannot install signal handlers.
pub(crate) fn stop_on_signal(shutdown_timeout: Duration) -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let name = either(&mut interrupt, &mut terminate).await.0;
        tracing::info!("{name}: finishing what is in flight; a second signal ends at once");
        token.cancel();
        let first = Instant::now();
        // Whatever hangs, the program ends.
        let _watchdog = Watchdog::arm(shutdown_timeout);
        let (name, number) = loop {
            let again = either(&mut interrupt, &mut terminate).await;
            if first.elapsed() >= SAME_WISH {
                break again;
            }
        };
        tracing::warn!("{name} again: ending at once");
        super::log_writer::flush(LAST_LINES);
        std::process::exit(128 + number);
    });
    Ok(stop)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
    }
}

/// The signals that are forwarded to a job.
pub(crate) struct Signals {
    streams: Vec<(SignalKind, Signal)>,
    /// When the last signal came.
    last: Option<Instant>,
}

/// Whether a signal must still be forwarded to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    ByUs,
    /// The terminal sent it to all processes in its foreground.
    ByTheTerminal,
}

impl Signals {
    /// Listens for the signals that this process does not ignore. A signal that it inherited as
    /// ignored, for example from `nohup`, must stay ignored for the job; a handler would change
    /// that.
    pub(crate) fn listen() -> Signals {
        let ignored = ignored();
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let heard = kinds.into_iter().filter(|kind| !is_in(ignored, *kind));
        let streams = heard.filter_map(|kind| Some((kind, signal(kind).ok()?)));
        Signals { streams: streams.collect(), last: None }
    }

    /// Waits for a signal that is not the same wish as an earlier one.
    pub(crate) async fn next_wish(&mut self) -> SignalKind {
        loop {
            let earlier = self.last;
            let kind = self.next().await;
            if earlier.is_none_or(|earlier| earlier.elapsed() >= SAME_WISH) {
                return kind;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> SignalKind {
        let kind = self.receive().await;
        self.last = Some(Instant::now());
        kind
    }

    async fn receive(&mut self) -> SignalKind {
        std::future::poll_fn(|context| {
            for (kind, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*kind);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Returns the signals that this process ignores, as a bit mask.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_in(mask: u64, kind: SignalKind) -> bool {
    let bit = u32::try_from(kind.as_raw_value() - 1).ok();
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|shifted| shifted & 1 == 1)
}

/// Whether a job in our process group has received a signal already. A terminal sends a signal to
/// all processes in its foreground, and the job must not get it twice.
pub(crate) fn passed_by(kind: SignalKind) -> Passed {
    let typed = [SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
    match typed.contains(&kind) && is_in_foreground() {
        true => Passed::ByTheTerminal,
        false => Passed::ByUs,
    }
}

fn is_in_foreground() -> bool {
    let terminal = File::open("/dev/tty");
    let group = terminal.ok().and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
    group == Some(rustix::process::getpgrp())
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn send(child: u32, kind: SignalKind) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let signal = rustix::process::Signal::from_named_raw(kind.as_raw_value());
    if let (Some(pid), Some(signal)) = (pid, signal) {
        // The child may have just ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
