//! Converts plans to OTLP requests. Pure: no I/O, no clock, no tokio.
//!
//! ```text
//! Plan ─▶ hierarchy (stories) ─▶ order (ranks = times) ─▶ spans ─▶ split ─▶ requests
//!                                  attributes · events · contracts · redact · slim, moved
//!                                                           └─▶ logs ─▶ split ─▶ requests
//! ```
//!
//! The same plan, trace id, time and settings always give the same bytes.

mod artifact_types;
mod attributes;
mod context;
mod contracts;
mod events;
mod gate_contract;
mod hierarchy;
mod json;
pub mod limits;
mod logs;
mod moved;
mod order;
mod parameters;
mod redact;
mod request;
mod resource;
mod slim;
mod span_builder;
mod spans;

pub(crate) mod additions;
pub mod options;
pub(crate) mod rewrite;
pub(crate) mod split;
pub(crate) mod state;
pub mod view;

use std::ops::ControlFlow;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::base::clock::UnixNanos;
use crate::base::ids::{TraceId, TraceParent};
use crate::base::parallel;
use crate::plan::Plan;
use limits::SpanLimits;
use options::{ResourceConfig, SpanOptions};
use slim::Slimming;
use spans::Part;
use split::{Fields, Packed, Packer};
use view::SpanView;

pub use redact::{BadPattern, Redaction};
pub use request::{Logs, Traces};

/// Converts plans to OTLP requests. The output depends only on the plan and on these settings.
#[derive(Clone, Debug)]
pub struct Converter {
    /// How spans are named, grouped and limited.
    pub spans: SpanOptions,
    /// Parameters whose values are replaced.
    pub redaction: Redaction,
    /// Attributes of the resource.
    pub resource: ResourceConfig,
    /// `OTEL_SPAN_*_LIMIT`. `None` means no limit.
    pub limits: SpanLimits,
    /// The trace context of the job that wrote the export. The epic is linked to it.
    pub triggered_by: Option<TraceParent>,
}

/// The requests made from one plan.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// Encoded requests. Each is valid by itself and at most `max_request_bytes` long, unless a
    /// single span is longer.
    pub requests: Vec<Bytes>,
    /// Number of spans in all requests.
    pub span_count: usize,
    /// Encoded size of all spans, in bytes.
    pub trace_bytes: u64,
    /// Problems that did not stop the conversion.
    pub warnings: Vec<ConversionWarning>,
}

impl Conversion {
    /// Decodes the requests, for inspection.
    pub fn traces(&self) -> Vec<Traces> {
        // The converter encoded these bytes, so decoding cannot fail.
        self.requests.iter().filter_map(|it| Traces::decode(it.clone()).ok()).collect()
    }
}

/// A problem that did not stop the conversion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionWarning {
    /// Details were left out to make the trace fit.
    #[error(
        "the trace was slimmed to fit into max_trace_bytes ({limit}): {steps} (taskspan.slimmed); what \
         was left out of its tasks is on their stories"
    )]
    Slimmed {
        /// What was left out.
        steps: String,
        /// `max_trace_bytes`.
        limit: u64,
    },
    /// The trace does not fit even without details.
    #[error(
        "the trace is {bytes} bytes although it was slimmed, over max_trace_bytes ({limit}): a backend \
         with such a limit keeps {fit} of {artifacts} artifacts and reports success; raise its limit per trace (Tempo: \
         max_bytes_per_trace), then max_trace_bytes"
    )]
    TraceTooLarge {
        /// Encoded size of the trace, in bytes.
        bytes: u64,
        /// `max_trace_bytes`.
        limit: u64,
        /// Number of artifacts in the requests that are within the limit.
        fit: u64,
        /// Number of artifacts in the trace.
        artifacts: u64,
    },
}

/// Spans made at a time. Each block checks every parameter key for secrets once.
const BLOCK: usize = 128;

/// Size of requests for a trace over `max_trace_bytes`, in bytes.
const SMALL_REQUEST: usize = 512 << 10;

/// Typical size of a task's span, in bytes.
const USUAL_TASK: usize = 2_000;

impl Converter {
    /// Converts a plan. `t0` is the time of emission, from which all times follow.
    pub fn convert(&self, plan: &Plan, trace_id: TraceId, t0: UnixNanos) -> Conversion {
        let limit = self.spans.max_trace_bytes.0;
        let resource = resource::resource(&self.resource, &plan.project, self.cutter());
        let pack = |slimming, at_most, max_request_bytes| {
            let builder = spans::Builder::new(self, plan, trace_id, t0, slimming);
            let parts = builder.parts();
            let blocks: Vec<&[Part<'_>]> = parts.chunks(BLOCK).collect();
            let mut packer = Packer::<Traces>::new(&resource, &scope(), max_request_bytes);
            let mut fits = true;
            // Encode the spans block by block, so that the trace is in memory only as bytes.
            let encode = |block: usize| {
                let mut fields = Fields::with_capacity(blocks[block].len() * USUAL_TASK);
                builder.each_span(blocks[block], |span| fields.push(span));
                fields
            };
            parallel::in_order(blocks.len(), encode, |fields| {
                fits = packer.push(&fields) <= at_most;
                if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            fits.then(|| (packer.finish(), builder.tops()))
        };
        // Skip a step that is sure to exceed the limit: a failed attempt costs as much as a
        // successful one.
        let may_fit = |step: &Slimming| self.estimate(plan, trace_id, *step) <= limit + limit / 4;
        let max = self.max_request_bytes();
        // The data moved to a story with very many tasks can make the story's span too large for
        // any request.
        let is_sendable =
            |(packed, _): &(Packed, u64)| packed.requests.iter().all(|it| it.len() <= max);
        let sendable = |step, at_most, max_request_bytes| {
            let packed = pack(step, at_most, max_request_bytes).filter(is_sendable)?;
            Some((step, packed))
        };
        let fitted = Slimming::LADDER
            .into_iter()
            .filter(may_fit)
            .find_map(|step| sendable(step, limit, max));
        let (slimming, (packed, tops)) = fitted.unwrap_or_else(|| {
            // A backend drops a request that exceeds its limit as a whole.
            let small = max.min(SMALL_REQUEST);
            let mut ladder = Slimming::LADDER.into_iter().rev();
            // A task that is too large by itself stays too large in every step.
            let as_it_is = || {
                let whole = pack(Slimming::Whole, limit, max).map(|it| (Slimming::Whole, it));
                let bare = || pack(Slimming::Bare, u64::MAX, small).unwrap_or_default();
                whole.unwrap_or_else(|| (Slimming::Bare, bare()))
            };
            ladder.find_map(|step| sendable(step, u64::MAX, small)).unwrap_or_else(as_it_is)
        });
        let Packed { requests, count, bytes } = packed;
        let warning = if bytes > limit {
            let kept = spans_within(&requests, limit);
            let (fit, artifacts) = (kept.saturating_sub(tops), (count as u64).saturating_sub(tops));
            Some(ConversionWarning::TraceTooLarge { bytes, limit, fit, artifacts })
        } else if slimming > Slimming::Whole {
            let steps = slimming.steps().collect::<Vec<_>>().join(", ");
            Some(ConversionWarning::Slimmed { steps, limit })
        } else {
            None
        };
        let warnings = warning.into_iter().collect();
        Conversion { requests, span_count: count, trace_bytes: bytes, warnings }
    }

    /// Estimates the size of the trace, in bytes, from one block of its spans.
    fn estimate(&self, plan: &Plan, trace_id: TraceId, slimming: Slimming) -> u64 {
        let builder = spans::Builder::new(self, plan, trace_id, UnixNanos(0), slimming);
        let mut parts = builder.parts();
        let all = parts.len();
        if all <= 2 * BLOCK {
            return 0;
        }
        let step = all / BLOCK;
        parts = parts.into_iter().step_by(step).collect();
        let mut bytes = 0;
        builder.each_span(&parts, |span| bytes += span.encoded_len());
        (bytes as u64).saturating_mul(all as u64) / parts.len() as u64
    }

    /// Converts the plan to log records, for dashboards and recording rules (R6.3).
    pub fn logs(&self, plan: &Plan, trace_id: TraceId, t0: UnixNanos) -> Vec<Bytes> {
        let resource = resource::resource(&self.resource, &plan.project, self.cutter());
        let mut packer = Packer::<Logs>::new(&resource, &scope(), self.max_log_request_bytes());
        self.each_whole_span(plan, trace_id, t0, |span| {
            packer.push(&Fields::of(logs::records(&span, &resource, t0)));
        });
        packer.finish().requests
    }

    /// Returns the plan as a tree with status and progress only, as the status page shows it.
    pub fn outline(&self, plan: &Plan, trace_id: TraceId) -> Vec<SpanView> {
        let mut spans = Vec::new();
        self.each_whole_span(plan, trace_id, UnixNanos(0), |mut span| {
            span.attributes.retain(|it| is_of_the_outline(&it.key));
            span.attributes.shrink_to_fit();
            spans.push(Span { events: Vec::new(), links: Vec::new(), ..span });
        });
        view::trees_of(&spans.iter().collect::<Vec<_>>())
    }

    /// Calls `each` for every span with all attributes: the limits of `OTEL_SPAN_*` do not apply,
    /// and events are left out.
    fn each_whole_span(
        &self,
        plan: &Plan,
        trace_id: TraceId,
        t0: UnixNanos,
        mut each: impl FnMut(Span),
    ) {
        let unlimited = Converter { limits: SpanLimits::default(), ..self.clone() };
        let builder = spans::Builder::new(&unlimited, plan, trace_id, t0, Slimming::Bare);
        builder.each_span(&builder.parts(), |span| each(std::mem::take(span)));
    }

    fn max_request_bytes(&self) -> usize {
        usize::try_from(self.spans.max_request_bytes.0).unwrap_or(usize::MAX)
    }

    fn max_log_request_bytes(&self) -> usize {
        let bytes = usize::try_from(self.spans.max_log_request_bytes.0).unwrap_or(usize::MAX);
        bytes.min(self.max_request_bytes())
    }

    fn cutter(&self) -> attributes::Truncator {
        attributes::Truncator::new(
            self.spans.max_attribute_bytes,
            self.limits.attribute_value_length,
        )
    }
}

/// Counts the spans that a backend keeps if it accepts whole requests up to `limit` bytes.
fn spans_within(requests: &[Bytes], limit: u64) -> u64 {
    let ends = requests.iter().scan(0, |end, request| {
        *end += request.len() as u64;
        Some((*end, request))
    });
    ends.take_while(|(end, _)| *end <= limit).map(|(_, request)| split::count(request)).sum()
}

fn is_of_the_outline(key: &str) -> bool {
    let whole = ["task.", "coverage.", "artifact."];
    whole.iter().any(|it| key.starts_with(it)) && !key.starts_with("artifact.parameters.")
}

/// The instrumentation scope of all records.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

#[cfg(test)]
mod tests;
