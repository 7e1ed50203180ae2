//! The OTLP signals of a pipeline.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The OTLP signals that an export is converted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Spans.
    #[default]
    Traces,
    /// Log records.
    Logs,
}

impl Signal {
    /// Returns the name of the records in a request of this signal.
    pub fn records(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Logs => "log records",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Traces => "traces",
            Signal::Logs => "logs",
        })
    }
}
