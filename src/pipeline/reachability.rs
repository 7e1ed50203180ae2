//! Tracks whether an endpoint accepts requests. Reports once when it stops, and once when it
//! resumes.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::event::{Event, Observer};
use crate::queue::Queue;

pub(crate) struct Reachability {
    exporter: String,
    destination: String,
    queue: Queue,
    observer: Observer,
    /// Since when the endpoint has been down.
    down_since: Mutex<Option<Instant>>,
}

impl Reachability {
    pub(crate) fn new(
        exporter: &str,
        destination: String,
        queue: Queue,
        observer: Observer,
    ) -> Reachability {
        let exporter = exporter.to_owned();
        Reachability { exporter, destination, queue, observer, down_since: Mutex::default() }
    }

    pub(crate) fn report_down(&self, reason: &str) {
        let mut since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            drop(since);
            (self.observer)(&Event::Down {
                exporter: self.exporter.clone(),
                destination: self.destination.clone(),
                reason: reason.to_owned(),
            });
        }
    }

    pub(crate) fn report_up(&self) {
        let since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = since {
            (self.observer)(&Event::Up {
                exporter: self.exporter.clone(),
                destination: self.destination.clone(),
                after: since.elapsed(),
                waiting: self.queue.waiting().len(),
            });
        }
    }
}
