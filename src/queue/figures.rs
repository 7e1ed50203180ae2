//! The state of the queue for health, metrics and logs.

use crate::base::clock::UnixNanos;

/// Whether the queue accepts new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// `queue_size` is reached. The text describes the exporter's backlog. Exports stay in their
    /// directories.
    Full(String),
    /// The disk fails, for example because it is full. Exports stay in their directories.
    Failing(String),
}

/// Conditions that an operator may have to act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    /// When the oldest undelivered entry was enqueued, among those of exporters that count for
    /// health.
    pub undelivered: Option<UnixNanos>,
    /// When the oldest delivered entry was enqueued whose id cannot be written, and why.
    pub unwritten: Option<(UnixNanos, String)>,
    /// Number of entries that exporters which count for health refused.
    pub refused: usize,
}

/// The backlog of one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    pub exporter: String,
    /// Number of entries that wait for the exporter.
    pub items: usize,
    /// Size of the requests that wait for it or that it refused, in bytes.
    pub bytes: u64,
    /// The exporter's `queue_size`, in bytes.
    pub capacity: u64,
}
