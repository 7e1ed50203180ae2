//! The data that all spans and contracts of one trace are made from.

use serde_json::value::RawValue;

use crate::base::ids::TraceId;
use crate::plan::{Artifact, Plan, Status};

/// The phase that an export belongs to (TaskSpanContract, `task.phase`).
pub(crate) const PHASE: &str = "EXPORT_CONTRACT";

/// The data that all spans of one trace are made from.
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) trace_id: TraceId,
    /// The trace id as hexadecimal digits.
    pub(crate) trace_hex: String,
    /// The checksums of the export's files, as JSON.
    pub(crate) checksums: Option<Box<RawValue>>,
}

/// Progress of the tasks below a span.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpanTotals {
    /// Number of artifacts that do not exist yet.
    pub(crate) gaps: i64,
    pub(crate) total: usize,
    pub(crate) completed: usize,
    /// Number of artifacts that do not exist yet or are outdated.
    pub(crate) open: usize,
}

impl SpanTotals {
    pub(crate) fn of<'a>(artifacts: impl Iterator<Item = &'a Artifact>) -> SpanTotals {
        artifacts.fold(SpanTotals::default(), |sum, artifact| SpanTotals {
            gaps: sum.gaps + i64::from(artifact.status == Status::Needed),
            total: sum.total + 1,
            completed: sum.completed + usize::from(artifact.status == Status::Exists),
            open: sum.open + usize::from(artifact.status.is_open()),
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.open == 0
    }

    pub(crate) fn percent(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a percentage of some thousands")]
        let percent = |completed: usize, total: usize| 100.0 * completed as f64 / total as f64;
        if self.total == 0 { 100.0 } else { percent(self.completed, self.total) }
    }
}
