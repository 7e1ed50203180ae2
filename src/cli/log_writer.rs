//! Writes standard error on a separate thread, so that a log line never blocks the caller.
//!
//! ```text
//! write(line) ─▶ bounded channel ─▶ thread ─▶ standard error
//!                  │ full: the line is dropped and counted; the count is written when there is room
//! ```
//!
//! Otherwise a full pipe without a reader, or a stopped terminal, would block delivery.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::base::text::escape_styled;

/// Maximum number of queued lines. The channel allocates space for all of them.
const MAX_WAITING: usize = 1_024;

enum Message {
    Text(Vec<u8>),
    /// Acknowledged when everything before it is written.
    Flush(SyncSender<()>),
}

/// `None` if the thread could not be started. Callers then write lines themselves.
static WRITER: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Formats the count of dropped lines as a log line.
static DROPPED_LINE: OnceLock<fn(u64) -> String> = OnceLock::new();

/// Queues text for standard error. Drops it if the queue is full.
pub(crate) fn write(text: Vec<u8>) {
    let writer = WRITER.get_or_init(|| {
        let (sender, messages) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || work(&messages)).ok().map(|_| sender)
    });
    let Some(writer) = writer else {
        // Standard error may be closed; the program continues without it.
        let _ = io::stderr().write_all(&text);
        return;
    };
    if let Err(TrySendError::Full(_)) = writer.try_send(Message::Text(text)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sets the format of the line that reports dropped lines.
pub(crate) fn report_dropped_with(line: fn(u64) -> String) {
    let _ = DROPPED_LINE.set(line);
}

/// Waits until everything is written, or until the time-out.
pub(crate) fn flush(timeout: Duration) {
    if let Some(Some(writer)) = WRITER.get() {
        let (done, is_done) = sync_channel(1);
        // The channel may be full, so the request may have to wait as well. If there is no thread
        // for it, the last lines are not waited for.
        let request = move || drop(writer.send(Message::Flush(done)));
        if std::thread::Builder::new().spawn(request).is_ok() {
            let _ = is_done.recv_timeout(timeout);
        }
    }
}

fn work(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Text(text) => drop(io::stderr().write_all(&text)),
            Message::Flush(done) => drop(done.try_send(())),
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let line = DROPPED_LINE.get().map(|line| line(dropped)).unwrap_or_default();
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// One log line, for `tracing_subscriber`. A path or a message from outside may have any character;
/// it must neither end the line nor move the cursor of a terminal.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let line = String::from_utf8_lossy(&self.0);
            let line = escape_styled(line.strip_suffix('\n').unwrap_or(&line), false);
            write(format!("{line}\n").into_bytes());
        }
    }
}
