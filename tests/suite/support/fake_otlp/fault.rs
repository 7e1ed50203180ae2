//! The faults of a fake endpoint, and their answers.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::http::{HeaderMap, HeaderValue, Response};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::{Code, Status};

use super::Protocol;
use crate::support::clock;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How an endpoint answers a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    Ok,
    /// Success after this time.
    Slow(Duration),
    Grpc {
        code: Code,
        message: String,
        retry_info: Option<Duration>,
    },
    /// An HTTP error, also for gRPC calls, as from a proxy.
    Http {
        status: u16,
        message: String,
        retry_after: Option<RetryAfter>,
    },
    /// An HTTP error as Loki sends it: a protobuf status with another content type.
    Loki {
        status: u16,
        message: String,
    },
    /// A gRPC refusal with details that are not base64.
    MalformedDetails,
    Partial {
        rejected: i64,
        message: String,
    },
    /// Accepts the request and never answers.
    Stall,
    /// Accepts the request and closes the connection before answering.
    Reset,
    /// Success with a body that is not protobuf.
    Garbage,
    /// A redirect (307) to `/elsewhere` on the same server.
    Redirect,
}

/// The two forms of the `retry-after` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Seconds(u64),
    /// An HTTP date, this long after the answer.
    Date(Duration),
}

impl Fault {
    /// Returns a gRPC error with a default message.
    pub fn grpc(code: Code) -> Self {
        Self::Grpc { code, message: "injected".to_owned(), retry_info: None }
    }

    /// Returns an HTTP error with a default message.
    pub fn http(status: u16) -> Self {
        Self::Http { status, message: "injected".to_owned(), retry_after: None }
    }

    /// Returns a partial success that rejects this many spans.
    pub fn partial(rejected: i64, message: &str) -> Self {
        Self::Partial { rejected, message: message.to_owned() }
    }

    /// Returns Loki's answer to a log request that is above its limit of 4 MiB after expansion.
    pub fn loki_too_large() -> Self {
        let message = "rpc error: code = ResourceExhausted desc = grpc: received message larger than \
                       max (4408817 vs. 4194304)";
        Self::Loki { status: 503, message: message.to_owned() }
    }

    /// Returns an error that both protocols define as retryable.
    pub fn unavailable(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::grpc(Code::Unavailable),
            Protocol::Http => Self::http(503),
        }
    }

    /// Returns an error that both protocols define as permanent.
    pub fn invalid(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::grpc(Code::InvalidArgument),
            Protocol::Http => Self::http(400),
        }
    }

    /// Returns the error for a message of `size` bytes above `limit`. The gRPC text is that of the
    /// Go implementation.
    pub fn too_large(protocol: Protocol, size: usize, limit: usize) -> Self {
        let message = format!("grpc: received message larger than max ({size} vs. {limit})");
        match protocol {
            Protocol::Grpc => Self::grpc(Code::ResourceExhausted).with_message(&message),
            Protocol::Http => Self::http(413).with_message("request body too large"),
        }
    }

    /// Sets the message of a gRPC or HTTP error.
    pub fn with_message(mut self, words: &str) -> Self {
        if let Self::Grpc { message, .. } | Self::Http { message, .. } = &mut self {
            *message = words.to_owned();
        }
        self
    }

    /// Adds a `RetryInfo` to a gRPC error.
    pub fn with_retry_info(mut self, delay: Duration) -> Self {
        if let Self::Grpc { retry_info, .. } = &mut self {
            *retry_info = Some(delay);
        }
        self
    }

    /// Adds a `retry-after` header to an HTTP error.
    pub fn with_retry_after(mut self, hint: RetryAfter) -> Self {
        if let Self::Http { retry_after, .. } = &mut self {
            *retry_after = Some(hint);
        }
        self
    }

    /// Whether the answer is a full or partial success.
    pub fn accepts(&self) -> bool {
        matches!(self, Self::Ok | Self::Slow(_) | Self::Partial { .. })
    }

    /// Returns the answer. `None` for `Stall` and `Reset`.
    pub(super) fn response(&self, protocol: Protocol) -> Option<Response<Body>> {
        Some(match self {
            Self::Ok | Self::Slow(_) => {
                success(protocol, &ExportTraceServiceResponse::default().encode_to_vec())
            }
            Self::Partial { rejected, message } => {
                let response = ExportTraceServiceResponse {
                    partial_success: Some(ExportTracePartialSuccess {
                        rejected_spans: *rejected,
                        error_message: message.clone(),
                    }),
                };
                success(protocol, &response.encode_to_vec())
            }
            Self::Garbage => success(protocol, b"<html>It works!</html>"),
            Self::Grpc { code, message, retry_info } => {
                let details = rpc_status(*code as i32, message, *retry_info);
                Status::with_details(*code, message, details.into()).into_http()
            }
            Self::MalformedDetails => {
                let mut response: Response<Body> = Status::unavailable("injected").into_http();
                let details = HeaderValue::from_static("%%%");
                response.headers_mut().insert("grpc-status-details-bin", details);
                response
            }
            Self::Http { status, message, retry_after } => {
                let body = rpc_status(Code::Unknown as i32, message, None);
                let mut response = plain(*status, body);
                if let Some(hint) = retry_after {
                    let hint = HeaderValue::try_from(hint.header()).unwrap();
                    response.headers_mut().insert("retry-after", hint);
                }
                response
            }
            Self::Loki { status, message } => {
                let body = rpc_status(0, message, None);
                let mut response = plain(*status, body);
                let kind = HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert("content-type", kind);
                response
            }
            Self::Redirect => {
                let mut response = plain(307, Vec::new());
                response.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
                response
            }
            Self::Stall | Self::Reset => return None,
        })
    }
}

impl RetryAfter {
    fn header(self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            // Rounded up, because the date has whole seconds and the delay must not become shorter.
            Self::Date(delay) => {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + delay;
                clock::http_date(at.as_secs() + 1)
            }
        }
    }
}

fn plain(status: u16, body: Vec<u8>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/x-protobuf")
        .body(Full::from(body).boxed_unsync())
        .unwrap()
}

fn success(protocol: Protocol, message: &[u8]) -> Response<Body> {
    if protocol == Protocol::Http {
        return plain(200, message.to_vec());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    let trailers = HeaderMap::from_iter([(
        hyper::http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(frame.freeze()).with_trailers(async { Some(Ok(trailers)) });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed_unsync())
        .unwrap()
}

/// Encodes a `google.rpc.Status`, the body of HTTP errors and the details of gRPC errors.
fn rpc_status(code: i32, message: &str, retry_info: Option<Duration>) -> Vec<u8> {
    let details = retry_info.map(|delay| Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: RetryInfo {
            retry_delay: Some(ProtoDuration {
                seconds: delay.as_secs() as i64,
                nanos: delay.subsec_nanos() as i32,
            }),
        }
        .encode_to_vec(),
    });
    RpcStatus { code, message: message.to_owned(), details: Vec::from_iter(details) }
        .encode_to_vec()
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
