//! Reads a trace back over Tempo's HTTP API, to verify that it arrived.
//!
//! ```text
//! trace id ─▶ GET /api/v2/traces/{id}, else /api/traces/{id} ─▶ span ids ─▶ which are missing
//! ```
//!
//! An answer is parsed as it arrives, so its size does not matter for memory (`answer`).
//!
//! A backend's OK means "accepted", not "stored": spans above a limit can be dropped afterwards.

mod answer;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, USER_AGENT as USER_AGENT_HEADER};
use hyper::{Request, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::config::OtlpConfig;
use super::endpoint::Endpoint;
use super::http::{Client, client};
use super::{BuildError, USER_AGENT, chain};
use crate::base::ids::TraceId;
use answer::Chunks;

/// The only configured header that is sent: the others are meant for the exporter's endpoint.
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Size limit of an answer in bytes. JSON is several times larger than protobuf.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// Maximum number of chunks between the connection and the parser.
const CHUNKS: usize = 4;

/// Time limit for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for one backend's trace API.
#[derive(Debug)]
pub(crate) struct TraceReader {
    client: Client<Empty<Bytes>>,
    base: Endpoint,
    headers: HeaderMap,
    /// Maximum wait until every span is found.
    pub(crate) timeout: Duration,
    /// Delay before spans that were all found are verified a second time. `None` for one
    /// verification.
    pub(crate) after: Option<Duration>,
}

/// Why the backend did not return a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TraceReadError {
    /// The backend is unreachable, overloaded or refuses the credentials. It may still have the
    /// trace.
    Unavailable(String),
    /// The backend refuses this trace, for example because it is too large to read.
    Refused(String),
}

impl TraceReadError {
    fn of(status: StatusCode) -> TraceReadError {
        let reason = format!("HTTP {}", status.as_u16());
        match status.as_u16() {
            // 401, 403 and 407 concern the credentials, so they do not mean that the trace is lost.
            401 | 403 | 407 | 408 | 429 | 502..=504 => TraceReadError::Unavailable(reason),
            _ => TraceReadError::Refused(reason),
        }
    }
}

impl TraceReader {
    /// Builds a reader without connecting. Returns `None` if the exporter is not configured to
    /// verify.
    ///
    /// # Errors
    /// Returns a [`BuildError`] if the endpoint, the tenant header or the TLS settings are invalid.
    /// The configuration must be corrected.
    pub(crate) fn build(config: &OtlpConfig) -> Result<Option<TraceReader>, BuildError> {
        let Some(verify) = &config.verify else {
            return Ok(None);
        };
        let base = Endpoint::base(&verify.endpoint)?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT_HEADER, HeaderValue::from_static(USER_AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let tenant =
            config.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(TENANT.as_str()));
        if let Some((name, value)) = tenant {
            let value =
                HeaderValue::from_str(value.expose()).map_err(|_| BuildError::BadHeader {
                    name: name.clone(),
                    reason: "its value is not printable ASCII",
                })?;
            headers.insert(TENANT, value);
        }
        let client = client(&config.tls, config.timeout.0, &base)?;
        let after = verify.after.map(|after| after.0);
        Ok(Some(TraceReader { client, base, headers, timeout: verify.timeout.0, after }))
    }

    /// Returns the base URL of the backend's API.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.base
    }

    /// Returns the spans of `sent` that the backend does not have: all of them if it does not have
    /// the trace.
    ///
    /// # Errors
    /// Returns a [`TraceReadError`] if the backend did not return a trace or a 404. The caller should
    /// retry, because even `Refused` can be caused by overload.
    pub(crate) async fn missing_spans(
        &self,
        trace_id: TraceId,
        sent: &HashSet<Vec<u8>>,
    ) -> Result<HashSet<Vec<u8>>, TraceReadError> {
        let v2 = format!("/api/v2/traces/{trace_id}");
        let v1 = format!("/api/traces/{trace_id}");
        // An old Tempo has no v2 API and answers 404, as for an unknown trace.
        for path in [v2, v1] {
            let missing = timeout(REQUEST_TIMEOUT, self.fetch(&path, sent)).await;
            let late = || unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"));
            if let Some(missing) = missing.unwrap_or_else(|_| Err(late()))? {
                return Ok(missing);
            }
        }
        Ok(sent.clone())
    }

    /// Returns the missing spans. `None` if the backend does not have the trace.
    async fn fetch(
        &self,
        path: &str,
        sent: &HashSet<Vec<u8>>,
    ) -> Result<Option<HashSet<Vec<u8>>>, TraceReadError> {
        let mut request = Request::new(Empty::new());
        let url = self.base.join(path).map_err(|error| unavailable(error.to_string()))?;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = self.headers.clone();
        let response = self.client.request(request).await;
        let response = response.map_err(|error| unavailable(chain(&error)))?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if !status.is_success() => return Err(TraceReadError::of(status)),
            _ => {}
        }
        let mut missing = sent.clone();
        let (sender, chunks) = mpsc::channel(CHUNKS);
        // Parsing a large answer takes time. The thread ends when `sender` is dropped.
        let parsed = tokio::task::spawn_blocking(move || {
            answer::remove_found(Chunks::new(chunks), &mut missing).map(|()| missing)
        });
        pass_on(response.into_body(), sender).await?;
        match parsed.await {
            Ok(Ok(missing)) => Ok(Some(missing)),
            Ok(Err(error)) => Err(TraceReadError::Refused(format!("not a trace: {error}"))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}

/// Passes the chunks of a body on, until it ends or the receiver wants no more of it.
async fn pass_on(body: Incoming, to: mpsc::Sender<Bytes>) -> Result<(), TraceReadError> {
    let mut body = Limited::new(body, MAX_ANSWER_BYTES);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => TraceReadError::Refused(format!("it is over {MAX_ANSWER_BYTES} bytes of JSON")),
            false => unavailable(error.to_string()),
        })?;
        if let Ok(chunk) = frame.into_data()
            && to.send(chunk).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

fn unavailable(reason: String) -> TraceReadError {
    TraceReadError::Unavailable(reason)
}
