//! Configuration of the delivery queue.

use serde::{Deserialize, Serialize};

use crate::base::units::{ByteSize, ComponentId};

/// Exports wait in the queue until an endpoint has acknowledged them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QueueConfig {
    /// Whether the queue is kept on disk. Default: true.
    pub(crate) enabled: bool,
    /// If this much is queued, no more exports are read until there is room. At least 1MiB.
    /// Default: 512MiB.
    pub(crate) queue_size: ByteSize,
    /// The `file_storage` extension that sets the queue's directory. Default: not set.
    pub(crate) storage: Option<ComponentId>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { enabled: true, queue_size: ByteSize::mib(512), storage: None }
    }
}

impl QueueConfig {
    /// Calls `at` with the key path and a message for each value that is out of range.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.queue_size < ByteSize::mib(1) {
            at("queue_size", "has to be 1MiB or more".into());
        }
    }
}
