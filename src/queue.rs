//! The durable queue: entries on disk, leased by exporters.
//!
//! ```text
//! enqueue ─▶ one item per exporter ─▶ lease ─▶ acknowledge … ─▶ delivered │ dead letter
//!    │ fsync            dropped lease: waits again │ fsync each    required ones ─▶ completion
//!    └──────────────────────────── store ──────────┘                 ─▶ written back ─▶ removed
//! ```
//!
//! The queue stores encoded requests and does not decode them. Each transition of an item is
//! durable before its next one starts, so after a crash the queue resumes at the last one.
//!
//! | file | contents |
//! |---|---|
//! | `entry`, `figures` | new entries, and reported figures |
//! | `record`, `transition` | the state of one entry, and how it changes, without I/O |
//! | `index` | all entries in memory, without requests |
//! | `store`, `writer` | the transactional store, and the thread that owns it |
//! | `handle`, `submit` | `Queue`: enqueue, and how a transition becomes durable |
//! | `lease`, `completion`, `admin` | the three users of transitions |
//! | `control` | operator commands from another process |

pub(crate) mod admin;
pub(crate) mod control;
pub(crate) mod lease;
pub(crate) mod record;
pub(crate) mod store;
pub(crate) mod transition;

mod completion;
mod entry;
mod figures;
mod handle;
mod index;
mod submit;
mod writer;

pub(crate) use completion::Completion;
pub use entry::{Destination, Enqueued, Exporters, NewEntry};
pub(crate) use figures::{Health, LaneFigures};
pub use handle::Queue;
pub(crate) use handle::Ready;
pub(crate) use lease::Lease;
pub(crate) use record::{Outcome, Rejection, RejectionKind};
pub use store::Location;
pub(crate) use store::{OpenError, is_there};
pub(crate) use submit::EntryGone;

#[cfg(test)]
mod tests;
