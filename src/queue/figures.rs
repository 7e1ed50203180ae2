//! The state of the queue for health, metrics and logs.

use crate::base::clock::UnixNanos;

/// Whether the queue accepts new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// `queue_size` is reached. The text describes the exporter's backlog. Exports stay in their
    /// directories.
    Full(String),
    /// The disk fails, for example because it is full. Exports stay in their directories.
    Failing(String),
}

/// Conditions that an operator may have to act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthFacts {
    /// When the oldest undelivered entry was enqueued, among those of exporters that count for
    /// health.
    pub(crate) undelivered: Option<UnixNanos>,
    /// When the oldest delivered entry was enqueued whose id cannot be written, and why.
    pub(crate) unwritten: Option<(UnixNanos, String)>,
    /// Number of entries that exporters which count for health refused.
    pub(crate) refused: usize,
}

/// The backlog of one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneFigures {
    pub(crate) exporter: String,
    /// Number of entries that wait for the exporter.
    pub(crate) items: usize,
    /// Size of the requests that wait for it or that it refused, in bytes.
    pub(crate) bytes: u64,
    /// The exporter's `queue_size`, in bytes.
    pub(crate) capacity: u64,
}
