//! Reads a trace back over Tempo's HTTP API, to verify that it arrived.
//!
//! ```text
//! trace id ─▶ GET /api/v2/traces/{id}, else /api/traces/{id} ─▶ span ids ─▶ which are missing
//! ```
//!
//! A backend's OK means "accepted", not "stored": spans above a limit can be dropped afterwards.

use std::collections::HashSet;
use std::time::Duration;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, USER_AGENT as USER_AGENT_HEADER};
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::config::OtlpConfig;
use super::endpoint::Endpoint;
use super::http::{Client, client};
use super::{BuildError, USER_AGENT, chain};
use crate::base::ids::TraceId;

/// The only configured header that is sent: the others are meant for the exporter's endpoint.
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Response limit in bytes. JSON is several times larger than protobuf.
const MAX_ANSWER_BYTES: usize = 256 << 20;

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

    /// Returns the ids of the spans that the backend has for a trace. Empty if it does not have the
    /// trace.
    ///
    /// # Errors
    /// Returns a [`TraceReadError`] if the backend did not return a trace or a 404. The caller should
    /// retry, because even `Refused` can be caused by overload.
    pub(crate) async fn stored_spans(
        &self,
        trace_id: TraceId,
    ) -> Result<HashSet<Vec<u8>>, TraceReadError> {
        let v2 = format!("/api/v2/traces/{trace_id}");
        let v1 = format!("/api/traces/{trace_id}");
        // An old Tempo has no v2 API and answers 404, as for an unknown trace.
        match self.get(&v2).await? {
            Some(trace) => Ok(span_ids(&trace)),
            None => Ok(self.get(&v1).await?.map(|trace| span_ids(&trace)).unwrap_or_default()),
        }
    }

    async fn get(&self, path: &str) -> Result<Option<Value>, TraceReadError> {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.fetch(path)).await;
        let late = || TraceReadError::Unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"));
        answer.unwrap_or_else(|_| Err(late()))
    }

    async fn fetch(&self, path: &str) -> Result<Option<Value>, TraceReadError> {
        let mut request = Request::new(Empty::new());
        let unavailable = |reason: String| TraceReadError::Unavailable(reason);
        let url = self.base.join(path).map_err(|error| unavailable(error.to_string()))?;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = self.headers.clone();
        let response =
            self.client.request(request).await.map_err(|error| unavailable(chain(&error)))?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if !status.is_success() => return Err(TraceReadError::of(status)),
            _ => {}
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| unavailable(error.to_string()))?.to_bytes();
        let json = serde_json::from_slice(&body);
        json.map(Some).map_err(|error| TraceReadError::Refused(format!("not JSON: {error}")))
    }
}

/// Collects the span ids at any depth of an answer, because the versions of the API nest spans
/// differently. Ids are in base64 or in hexadecimal.
fn span_ids(answer: &Value) -> HashSet<Vec<u8>> {
    let mut found = HashSet::new();
    let mut pending = vec![answer];
    while let Some(value) = pending.pop() {
        match value {
            Value::Array(items) => pending.extend(items),
            Value::Object(fields) => {
                for (key, value) in fields {
                    // Links contain the ids of other spans.
                    match (key.as_str(), value) {
                        ("links", _) => {}
                        ("spanId" | "spanID" | "span_id", Value::String(text)) => {
                            found.extend(id_bytes(text));
                        }
                        (_, value) => pending.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Decodes a span id. `None` if the text is not 8 bytes in either encoding.
fn id_bytes(text: &str) -> Option<Vec<u8>> {
    /// Length of a span id in hexadecimal digits.
    const HEX_DIGITS: usize = 16;
    if text.len() == HEX_DIGITS {
        return (0..HEX_DIGITS)
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect();
    }
    from_base64(text).filter(|bytes| bytes.len() == HEX_DIGITS / 2)
}

/// Decodes base64 in either alphabet, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabets = [&alphabet::STANDARD, &alphabet::URL_SAFE];
    let decode = |it| GeneralPurpose::new(it, LENIENT).decode(text).ok();
    alphabets.into_iter().find_map(decode)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_found_in_every_form_of_answer() {
        let expected = HashSet::from([vec![1, 2, 3, 4, 5, 6, 7, 8]]);
        let link = json!([{"spanId": "ffffffffffffffff"}]);
        for answer in [
            json!({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [
                {"spanId": "AQIDBAUGBwg=", "links": link, "parentSpanId": "CAcGBQQDAgE="}]}]}]}}),
            json!({"batches": [{"instrumentationLibrarySpans": [{"spans": [
                {"spanId": "0102030405060708"}]}]}]}),
        ] {
            assert_eq!(span_ids(&answer), expected);
        }
        assert!(span_ids(&json!({"trace": null})).is_empty());
        assert_eq!(id_bytes("not an id at all"), None);
    }
}
