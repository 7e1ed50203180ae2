//! A common interface for the requests of both signals: a resource, a scope, records.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

/// A request of spans (OTLP, `opentelemetry.proto.collector.trace.v1`).
pub type Traces = ExportTraceServiceRequest;
/// A request of log records (OTLP, `opentelemetry.proto.collector.logs.v1`).
pub type Logs = ExportLogsServiceRequest;

/// An export request whose records all have the same resource and scope.
pub(crate) trait Request: Message + Default {
    type Record: Message;

    fn of(resource: Resource, scope: InstrumentationScope, records: Vec<Self::Record>) -> Self;

    /// Splits a request made by [`Request::of`]. `None` if it does not have exactly one resource
    /// and one scope.
    fn into_parts(self) -> Option<(Resource, InstrumentationScope, Vec<Self::Record>)>;

    /// Applies `moved` to every time in a record.
    fn shift(record: &mut Self::Record, moved: impl Fn(&mut u64));
}

impl Request for Traces {
    type Record = Span;

    fn of(resource: Resource, scope: InstrumentationScope, spans: Vec<Span>) -> Traces {
        let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
        let resource_spans = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        Traces { resource_spans: vec![resource_spans] }
    }

    fn into_parts(mut self) -> Option<(Resource, InstrumentationScope, Vec<Span>)> {
        let mut group = only(&mut self.resource_spans)?;
        let scope = only(&mut group.scope_spans)?;
        Some((group.resource.unwrap_or_default(), scope.scope.unwrap_or_default(), scope.spans))
    }

    fn shift(span: &mut Span, moved: impl Fn(&mut u64)) {
        moved(&mut span.start_time_unix_nano);
        moved(&mut span.end_time_unix_nano);
        span.events.iter_mut().for_each(|event| moved(&mut event.time_unix_nano));
    }
}

impl Request for Logs {
    type Record = LogRecord;

    fn of(resource: Resource, scope: InstrumentationScope, log_records: Vec<LogRecord>) -> Logs {
        let scope_logs = ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() };
        let resource_logs = ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        };
        Logs { resource_logs: vec![resource_logs] }
    }

    fn into_parts(mut self) -> Option<(Resource, InstrumentationScope, Vec<LogRecord>)> {
        let mut group = only(&mut self.resource_logs)?;
        let scope = only(&mut group.scope_logs)?;
        Some((
            group.resource.unwrap_or_default(),
            scope.scope.unwrap_or_default(),
            scope.log_records,
        ))
    }

    fn shift(record: &mut LogRecord, moved: impl Fn(&mut u64)) {
        moved(&mut record.time_unix_nano);
        moved(&mut record.observed_time_unix_nano);
    }
}

fn only<T>(list: &mut Vec<T>) -> Option<T> {
    (list.len() == 1).then(|| list.pop())?
}
