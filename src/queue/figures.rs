//! What the queue reports about itself, for health, metrics and logs.

use crate::base::clock::UnixNanos;

/// Whether the queue takes new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// `queue_size` is reached, and for which exporter. Exports stay in their directories.
    Full(String),
    /// The disk fails, for example because it is full. Exports stay in their directories.
    Failing(String),
}

/// Conditions that an operator may have to act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    /// When the oldest export was enqueued that waits for an exporter which counts for health.
    pub undelivered: Option<UnixNanos>,
    /// When the oldest export was enqueued that is delivered and whose id cannot be written, and why.
    pub unwritten: Option<(UnixNanos, String)>,
    /// Exports that an exporter which counts for health refused.
    pub refused: usize,
}

/// The backlog of one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    pub exporter: String,
    /// Entries that wait for it.
    pub items: usize,
    /// The size of the requests that wait for it or that it refused, in bytes.
    pub bytes: u64,
    pub capacity: u64,
}
