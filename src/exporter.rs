//! Exporters send encoded requests and return one [`Reply`] per request.
//!
//! ```text
//! bytes ─▶ grpc │ http ─▶ classify ─▶ Reply: accepted, partial, retry, too large, refused
//!        └ file │ debug ─▶ accepted
//! ```
//!
//! An exporter sends each request once. `retry` and the pipeline decide whether and when to retry.

pub(crate) mod classify;
pub(crate) mod config;
pub(crate) mod endpoint;
pub(crate) mod retry;

mod debug;
mod file;
mod grpc;
mod http;
pub(crate) mod sending_queue;
mod tls;
mod trace_reader;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::task::Poll;

use bytes::Bytes;

use crate::base::signal::Signal;
use crate::base::units::ComponentId;
use classify::Delivery;
pub(crate) use classify::{Answer, Reply};
use config::{ExporterConfig, RetryConfig};
use endpoint::EndpointError;
pub(crate) use trace_reader::{TraceReadError, TraceReader};

/// The user agent, in the form that the OTLP specification recommends.
const USER_AGENT: &str = concat!("OTel-OTLP-Exporter-taskspan/", env!("CARGO_PKG_VERSION"));

/// One exporter of a pipeline.
#[derive(Debug)]
pub(crate) struct Exporter {
    /// The component id as in the configuration, with a suffix in a logs pipeline.
    pub(crate) id: String,
    pub(crate) signal: Signal,
    /// Whether other steps wait for this exporter: the write-back for traces, and `once` for both
    /// signals.
    pub(crate) required: bool,
    pub(crate) retry: RetryConfig,
    /// Reads the trace back, if the configuration asks for verification.
    pub(crate) trace_reader: Option<TraceReader>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Grpc(Box<grpc::Grpc>),
    Http(Box<http::Http>),
    File(file::File),
    Debug(debug::Debug),
}

/// Why an exporter cannot be built. The configuration must be corrected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(
        "no endpoint: give one with --endpoint, with OTEL_EXPORTER_OTLP_ENDPOINT, or as \
         `endpoint` under `exporters` in the configuration file"
    )]
    NoEndpoint,
    #[error("endpoint: {0}")]
    BadEndpoint(String),
    #[error("the header `{name}` cannot be sent: {reason}")]
    BadHeader { name: String, reason: &'static str },
    #[error("{}: {reason}", path.display())]
    BadTlsFile { path: PathBuf, reason: String },
    #[error("TLS: {0}")]
    Tls(String),
}

impl From<EndpointError> for BuildError {
    fn from(error: EndpointError) -> Self {
        BuildError::BadEndpoint(error.to_string())
    }
}

impl Exporter {
    /// Returns the name of the exporter with this component id in a pipeline of `signal`.
    pub(crate) fn id_of(component: &ComponentId, signal: Signal) -> String {
        match signal {
            Signal::Traces => component.to_string(),
            Signal::Logs => format!("{component} (logs)"),
        }
    }

    /// Builds the exporter without connecting to anything.
    ///
    /// # Errors
    /// Returns a [`BuildError`] if the endpoint, a header or the TLS settings are invalid. The
    /// configuration must be corrected.
    pub(crate) fn build(
        id: &ComponentId,
        config: &ExporterConfig,
        signal: Signal,
    ) -> Result<Exporter, BuildError> {
        let (sink, retry) = match config {
            ExporterConfig::OtlpGrpc(config) => (
                Sink::Grpc(Box::new(grpc::Grpc::build(config, signal)?)),
                config.retry_on_failure.clone(),
            ),
            ExporterConfig::OtlpHttp(config) => (
                Sink::Http(Box::new(http::Http::build(config, signal)?)),
                config.retry_on_failure.clone(),
            ),
            ExporterConfig::File(config) => {
                (Sink::File(file::File::new(config, signal)), RetryConfig::default())
            }
            ExporterConfig::Debug(config) => {
                (Sink::Debug(debug::Debug::new(config, signal)), RetryConfig::default())
            }
        };
        let trace_reader = match config.otlp() {
            Some((_, config)) if signal == Signal::Traces => TraceReader::build(config)?,
            _ => None,
        };
        let (id, required) = (Exporter::id_of(id, signal), config.is_required());
        Ok(Exporter { id, signal, required, retry, trace_reader, sink })
    }

    /// Returns the endpoint or path for log lines. An endpoint has no user info and no query.
    pub(crate) fn destination(&self) -> String {
        match &self.sink {
            Sink::Grpc(grpc) => grpc.endpoint().to_string(),
            Sink::Http(http) => http.endpoint().to_string(),
            Sink::File(file) => file.destination(),
            Sink::Debug(_) => "the log".to_owned(),
        }
    }

    /// Returns each endpoint that the exporter connects to, as text and as `host:port`. Includes
    /// the endpoint for verification. Empty for exporters that do not use the network.
    pub(crate) fn addresses(&self) -> Vec<(String, String)> {
        let exporter = match &self.sink {
            Sink::Grpc(grpc) => Some(grpc.endpoint()),
            Sink::Http(http) => Some(http.endpoint()),
            Sink::File(_) | Sink::Debug(_) => None,
        };
        let verified = self.trace_reader.as_ref().map(TraceReader::endpoint);
        let endpoints = exporter.into_iter().chain(verified);
        endpoints.map(|endpoint| (endpoint.to_string(), endpoint.address())).collect()
    }

    /// Sends one encoded request, once, and returns the classified answer.
    ///
    /// tonic panics if `grpc-status-details-bin` is not base64. A panic is therefore caught and
    /// returned as a [`Reply::Retry`] whose delivery is in doubt.
    pub(crate) async fn send(&self, request: Bytes) -> Answer {
        let sent = without_panic(self.send_unguarded(request)).await;
        sent.unwrap_or_else(|| Answer {
            reply: Reply::Retry {
                reason: "the answer is malformed: it could not be read".to_owned(),
                after: None,
                delivery: Delivery::InDoubt,
            },
            code: "malformed".into(),
        })
    }

    async fn send_unguarded(&self, request: Bytes) -> Answer {
        let local = |reply: Reply| {
            let code = if reply == Reply::Accepted { "OK" } else { "FAILED" };
            Answer { reply, code: code.into() }
        };
        match &self.sink {
            Sink::Grpc(grpc) => grpc.send(request).await,
            Sink::Http(http) => http.send(request).await,
            Sink::File(file) => local(file.send(&request).await),
            Sink::Debug(debug) => local(debug.send(&request)),
        }
    }
}

/// Awaits a future. Returns `None` if it panics; it is not polled again after that.
async fn without_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        match catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Iterates over an error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Joins the messages of an error's causes, or returns the error's own message if it has no cause.
/// The outermost message is omitted because it is generic, for example `transport error`.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = causes(error).skip(1).map(ToString::to_string).collect();
    texts.dedup();
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
