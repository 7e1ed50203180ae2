//! Limits per span.

/// `OTEL_SPAN_*_LIMIT` of the OpenTelemetry specification (SDK environment variables). `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanLimits {
    pub attribute_count: Option<usize>,
    pub event_count: Option<usize>,
    pub link_count: Option<usize>,
    /// In characters.
    pub attribute_value_length: Option<usize>,
}
