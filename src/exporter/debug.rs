//! Logs requests instead of sending them, to show what would be sent.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::classify::Reply;
use super::config::{DebugConfig, Verbosity};
use crate::base::signal::Signal;

/// An exporter that logs requests.
#[derive(Debug)]
pub(crate) struct Debug {
    signal: Signal,
    verbosity: Verbosity,
}

impl Debug {
    /// Creates the exporter.
    pub(crate) fn new(config: &DebugConfig, signal: Signal) -> Debug {
        Debug { signal, verbosity: config.verbosity }
    }

    /// Logs a request. `Refused` if it cannot be decoded.
    pub(crate) fn send(&self, request: &[u8]) -> Reply {
        match self.signal {
            Signal::Traces => self.traces(request),
            Signal::Logs => self.logs(request),
        }
    }

    fn logs(&self, request: &[u8]) -> Reply {
        let request = match ExportLogsServiceRequest::decode(request) {
            Ok(request) => request,
            Err(error) => {
                return Reply::Refused { reason: error.to_string() };
            }
        };
        let groups = request.resource_logs.iter().flat_map(|group| &group.scope_logs);
        let records: Vec<&LogRecord> = groups.flat_map(|scope| &scope.log_records).collect();
        tracing::info!(records = records.len(), "debug exporter: logs");
        match self.verbosity {
            Verbosity::Basic => {}
            Verbosity::Normal => {
                for record in records {
                    let attributes = record.attributes.len();
                    tracing::info!(event = record.event_name, attributes, "log record");
                }
            }
            Verbosity::Detailed => {
                for record in records {
                    tracing::info!("{record:#?}");
                }
            }
        }
        Reply::Accepted
    }

    fn traces(&self, request: &[u8]) -> Reply {
        let request = match ExportTraceServiceRequest::decode(request) {
            Ok(request) => request,
            Err(error) => {
                return Reply::Refused { reason: error.to_string() };
            }
        };
        let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
        let spans: Vec<&Span> = groups.flat_map(|scope| &scope.spans).collect();
        tracing::info!(spans = spans.len(), "debug exporter: traces");
        match self.verbosity {
            Verbosity::Basic => {}
            Verbosity::Normal => {
                for span in spans {
                    tracing::info!(name = span.name, attributes = span.attributes.len(), "span");
                }
            }
            Verbosity::Detailed => {
                for span in spans {
                    tracing::info!("{span:#?}");
                }
            }
        }
        Reply::Accepted
    }
}
