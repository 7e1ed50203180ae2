//! Limits of the OpenTelemetry SDK specification for spans.

/// The environment variables `OTEL_SPAN_*_LIMIT` (OpenTelemetry specification, SDK environment
/// variables). `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanLimits {
    /// Maximum number of attributes of a span.
    pub attribute_count: Option<usize>,
    /// Maximum number of events of a span.
    pub event_count: Option<usize>,
    /// Maximum number of links of a span.
    pub link_count: Option<usize>,
    /// In characters.
    pub attribute_value_length: Option<usize>,
}
