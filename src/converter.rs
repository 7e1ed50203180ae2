//! Plan → OTLP requests: no I/O, no clock, no tokio.
//!
//! ```text
//! Plan ─▶ hierarchy (stories) ─▶ order (ranks = times) ─▶ spans ─▶ split ─▶ requests
//!                                  attributes · events · contracts · redact
//!                                                           └─▶ logs ─▶ split ─▶ requests
//! ```
//!
//! The same plan, trace id, time and settings always give the same bytes.

mod attributes;
mod contracts;
mod draft;
mod events;
mod expected;
mod hierarchy;
mod logs;
mod order;
mod parameters;
mod redact;
mod request;
mod resource;
mod spans;

pub mod followup;
pub mod options;
pub mod rework;
pub mod split;
pub mod state;
pub mod view;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::clock::UnixNanos;
use crate::config::otel_env::SpanLimits;
use crate::ids::{TraceId, TraceParent};
use crate::plan::Plan;
use options::{ResourceConfig, SpanOptions};

pub use redact::{BadPattern, Redaction};
pub use request::{Logs, Traces};

/// Turns plans into requests, always in the same way.
#[derive(Clone, Debug)]
pub struct Converter {
    pub spans: SpanOptions,
    pub redaction: Redaction,
    pub resource: ResourceConfig,
    /// `OTEL_SPAN_*_LIMIT`; unset means no limit.
    pub limits: SpanLimits,
    /// What made the job run that wrote the export; the epic is linked to it.
    pub triggered_by: Option<TraceParent>,
}

/// What one plan became.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// Each valid by itself and under `max_request_bytes`.
    pub requests: Vec<Traces>,
    pub span_count: usize,
    /// Encoded size of the whole trace in bytes.
    pub trace_bytes: usize,
    pub warnings: Vec<ConversionWarning>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionWarning {
    #[error(
        "the trace is {bytes} bytes, over max_trace_bytes ({limit}): a backend with such a limit \
         keeps only a part of it and says nothing"
    )]
    TraceTooLarge { bytes: usize, limit: u64 },
}

/// Where the `task.contract` events stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContractPlacement {
    OnTasks,
    /// Once a type, to keep a large trace under the backend's limit.
    OnStories,
}

impl Converter {
    /// Converts a plan; `t0` is the time of emission.
    pub fn convert(&self, plan: &Plan, trace_id: TraceId, t0: UnixNanos) -> Conversion {
        let limit = self.spans.max_trace_bytes.0;
        let fits = |bytes: usize| u64::try_from(bytes).is_ok_and(|bytes| bytes <= limit);
        let build =
            |placement| spans::Builder::new(self, plan, trace_id, t0, placement).all_spans();

        let mut spans = build(ContractPlacement::OnTasks);
        let mut trace_bytes = spans.iter().map(Message::encoded_len).sum();
        let mut warnings = Vec::new();
        if !fits(trace_bytes) {
            spans = build(ContractPlacement::OnStories);
            trace_bytes = spans.iter().map(Message::encoded_len).sum();
            if !fits(trace_bytes) {
                warnings.push(ConversionWarning::TraceTooLarge { bytes: trace_bytes, limit });
            }
        }
        let span_count = spans.len();
        let scope = scope();
        let resource = resource::resource(&self.resource, &plan.project, self.cutter());
        let requests = split::split(&resource, &scope, spans, self.spans.max_request_bytes.0);
        Conversion { requests, span_count, trace_bytes, warnings }
    }

    /// The same plan as log records, for dashboards and recording rules (R6.3).
    pub fn logs(&self, plan: &Plan, trace_id: TraceId, t0: UnixNanos) -> Vec<Logs> {
        let spans = self.whole_spans(plan, trace_id, t0);
        let resource = resource::resource(&self.resource, &plan.project, self.cutter());
        let records = logs::records(&spans, &resource, t0);
        split::split(&resource, &scope(), records, self.spans.max_request_bytes.0)
    }

    /// Every span before a limit for spans takes something away.
    fn whole_spans(&self, plan: &Plan, trace_id: TraceId, t0: UnixNanos) -> Vec<Span> {
        let unlimited = Converter { limits: SpanLimits::default(), ..self.clone() };
        let placement = ContractPlacement::OnStories;
        spans::Builder::new(&unlimited, plan, trace_id, t0, placement).all_spans()
    }

    fn cutter(&self) -> attributes::Cutter {
        attributes::Cutter::new(self.spans.max_attribute_bytes, self.limits.attribute_value_length)
    }
}

/// Requests as the queue holds them.
pub fn encoded<R: Message>(requests: &[R]) -> Vec<Bytes> {
    requests.iter().map(|request| request.encode_to_vec().into()).collect()
}

/// Who made the records: this program.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

#[cfg(test)]
mod tests;
