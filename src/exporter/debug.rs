//! Requests into the log, for a person who wants to see what would be sent.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::classify::Reply;
use super::config::{DebugConfig, Verbosity};

#[derive(Debug)]
pub struct Debug {
    verbosity: Verbosity,
}

impl Debug {
    pub fn new(config: &DebugConfig) -> Debug {
        Debug { verbosity: config.verbosity }
    }

    pub fn send_traces(&self, request: &[u8]) -> Reply {
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
