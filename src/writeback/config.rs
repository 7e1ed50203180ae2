//! What a user can set about `task_trace_id` and where it is written.

use serde::{Deserialize, Serialize};

/// How the trace id gets back to the export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WriteBackConfig {
    /// `in_place`, `beside` or `off`. Default: in_place.
    pub mode: WriteBackMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WriteBackMode {
    /// Two keys are added to the export's own file.
    #[default]
    InPlace,
    /// They go into `onboarding-metadata.task.json` next to it; the export is left untouched.
    Beside,
    /// Nothing is written; only the queue remembers that it was sent.
    Off,
}
