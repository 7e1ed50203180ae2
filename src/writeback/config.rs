//! Configuration of the write-back.

use serde::{Deserialize, Serialize};

use crate::fs::carried::WriteBackMode;

/// How the trace id is written back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WriteBackConfig {
    /// `in_place`, `beside` or `off`. Default: in_place.
    pub(crate) mode: WriteBackMode,
}
