//! A progress line for large plans, on terminals only.

use std::sync::{Mutex, PoisonError};

use super::log_writer;
use crate::pipeline::event::Event;

/// Logs every event, and draws the progress on a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    on_terminal: bool,
    requests: Mutex<ProgressCounts>,
}

#[derive(Debug, Default)]
struct ProgressCounts {
    expected: usize,
    acknowledged: usize,
    open: usize,
}

impl Progress {
    pub(crate) fn start() -> Progress {
        Progress { on_terminal: super::is_rich(&std::io::stderr()), requests: Mutex::default() }
    }

    pub(crate) fn observe(&self, event: &Event) {
        if !self.on_terminal {
            event.log();
            return;
        }
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.count(event);
        // Clear the progress line: the log line takes its place.
        erase();
        event.log();
        // A single request is too fast for a progress line.
        if requests.expected > 1 && requests.open > 0 {
            let ProgressCounts { expected, acknowledged, .. } = *requests;
            draw(&format!("sending: {acknowledged} of {expected} requests"));
        }
    }
}

impl ProgressCounts {
    fn count(&mut self, event: &Event) {
        match event {
            Event::Accepted { requests, .. } => {
                self.expected += requests;
                self.open += 1;
            }
            Event::Acknowledged { .. } => self.acknowledged += 1,
            Event::Done { .. }
            | Event::Superseded { .. }
            | Event::NotWritten { .. }
            | Event::Rejected { .. } => {
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    *self = ProgressCounts::default();
                }
            }
            _ => {}
        }
    }
}

fn erase() {
    log_writer::write(b"\r\x1b[2K".to_vec());
}

fn draw(text: &str) {
    log_writer::write(text.as_bytes().to_vec());
}
