//! Sends requests with OTLP over HTTP/1.1: binary protobuf, one POST per request.

use std::io::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use prost::Message;

use super::classify::{self, Answer, Delivery, Reply};
use super::config::{Compression, OtlpConfig, Protocol, TlsConfig};
use super::endpoint::Endpoint;
use super::{BuildError, USER_AGENT, chain, tls};
use crate::base::signal::Signal;
use crate::base::text::one_line;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Limit for the body of an answer, in bytes. A server's message is far shorter.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A pooled client for `http` and `https`.
pub(super) type Client<B> = legacy::Client<HttpsConnector<HttpConnector>, B>;

/// An OTLP/HTTP client for one signal.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<Full<Bytes>>,
    signal: Signal,
    endpoint: Endpoint,
    headers: HeaderMap,
    gzip: bool,
    timeout: Duration,
}

impl Http {
    /// Builds the client without connecting.
    pub(crate) fn build(config: &OtlpConfig, signal: Signal) -> Result<Http, BuildError> {
        let endpoint = config.endpoint_for(Protocol::HttpProtobuf, signal)?;
        let endpoint = endpoint.ok_or(BuildError::NoEndpoint)?;
        let gzip = config.compression == Compression::Gzip;
        Ok(Http {
            client: client(&config.tls, config.timeout.0, &endpoint)?,
            signal,
            endpoint,
            headers: headers(config, gzip)?,
            gzip,
            timeout: config.timeout.0,
        })
    }

    /// Returns the endpoint that requests are posted to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one encoded request, once, and classifies the answer.
    pub(crate) async fn send(&self, body: Bytes) -> Answer {
        let sent = tokio::time::timeout(self.timeout, self.post(body)).await;
        sent.unwrap_or_else(|_| Answer {
            reply: Reply::Retry {
                reason: format!("no answer within {:?}", self.timeout),
                after: None,
                delivery: Delivery::InDoubt,
            },
            code: "timeout".into(),
        })
    }

    async fn post(&self, body: Bytes) -> Answer {
        let body = if self.gzip { gzipped(&body) } else { body };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = self.headers.clone();
        match self.client.request(request).await {
            Ok(response) => {
                let code = response.status().as_u16().to_string().into();
                Answer { reply: answer(self.signal, response).await, code }
            }
            Err(error) => Answer {
                reply: Reply::Retry {
                    reason: chain(&error),
                    after: None,
                    delivery: match error.is_connect() {
                        true => Delivery::NotDelivered,
                        false => Delivery::InDoubt,
                    },
                },
                code: classify::NOT_CONNECTED.into(),
            },
        }
    }
}

/// Builds a client with the TLS settings of an exporter, without connecting.
pub(super) fn client<B>(
    tls: &TlsConfig,
    connect_timeout: Duration,
    endpoint: &Endpoint,
) -> Result<Client<B>, BuildError>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls::client_config(tls, endpoint.is_tls())?)
        .https_or_http();
    let builder = match tls::server_name(tls)? {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => builder,
    };
    let connector = builder.enable_http1().wrap_connector(tcp);
    Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
}

fn headers(config: &OtlpConfig, gzip: bool) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    headers.insert(hyper::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for (name, value) in &config.headers {
        let bad = |reason| BuildError::BadHeader { name: name.clone(), reason };
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad("its name is not a header name"))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| bad("its value is not printable ASCII"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    // These describe the body, so they replace configured headers.
    headers.insert(CONTENT_TYPE, PROTOBUF);
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(headers)
}

fn gzipped(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

async fn answer(signal: Signal, response: Response<Incoming>) -> Reply {
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after =
        header(RETRY_AFTER).and_then(|text| classify::retry_after(text, SystemTime::now()));
    let is_protobuf = response.headers().get(CONTENT_TYPE) == Some(&PROTOBUF);
    let body = match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if status.is_success() && error.is::<LengthLimitError>() => {
            // An OTLP answer is never this long. Invalid protobuf is classified as not OTLP.
            return classify::acknowledgement(b"\xff");
        }
        Err(error) if status.is_success() => {
            let reason = format!("the answer broke off: {error}");
            return Reply::Retry { reason, after: None, delivery: Delivery::InDoubt };
        }
        Err(_) => Bytes::new(),
    };
    match status {
        StatusCode::OK => classify::acknowledgement(&body),
        // Loki answers 204 and other backends 202, without an OTLP body.
        status if status.is_success() => Reply::Accepted,
        status => {
            let text = message_of(&body, is_protobuf);
            classify::http(signal, status.as_u16(), &one_line(&text), retry_after)
        }
    }
}

/// Returns the server's message, or an empty string. Loki sends a `google.rpc.Status` under another
/// content type, so a body that is not text is decoded as one.
fn message_of(body: &[u8], is_protobuf: bool) -> String {
    let is_text = |text: &&str| !text.contains(|c: char| c.is_control() && !c.is_whitespace());
    let text = std::str::from_utf8(body).ok().filter(is_text).unwrap_or_default();
    if is_protobuf || text.is_empty() {
        let message = status_message(body);
        if !message.is_empty() {
            return message;
        }
    }
    text.to_owned()
}

/// Decodes the message of a `google.rpc.Status`. Empty if the body is not one.
fn status_message(body: &[u8]) -> String {
    RpcStatus::decode(body).map(|status| status.message).unwrap_or_default()
}

/// `google.rpc.Status`, reduced to the field that is used here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_text_or_the_message_of_a_status() {
        let message = "rpc error: code = ResourceExhausted desc = grpc: received message larger than \
                       max (4408817 vs. 4194304)";
        let status = RpcStatus { message: message.to_owned() }.encode_to_vec();
        // Loki sends it under another content type.
        for is_protobuf in [false, true] {
            assert_eq!(message_of(&status, is_protobuf), message);
        }
        for is_protobuf in [false, true] {
            assert_eq!(message_of(b"no such tenant\n", is_protobuf), "no such tenant\n");
        }
        assert_eq!(message_of(b"\xff\x00", false), "");
    }
}
