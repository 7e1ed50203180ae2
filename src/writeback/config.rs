//! What a user can set about `task_trace_id` and where it is written.

use serde::{Deserialize, Serialize};

use crate::fs::carried::WriteBackMode;

/// How the trace id gets back to the export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WriteBackConfig {
    /// `in_place`, `beside` or `off`. Default: in_place.
    pub mode: WriteBackMode,
}
