//! Classifies server answers into replies, without I/O.
//!
//! ```text
//! gRPC status, RetryInfo ──┐
//! HTTP status, Retry-After ┼─▶ accepted │ partial │ retry │ too large │ refused
//! partial_success ─────────┘
//! ```
//!
//! The rules are those of the OTLP specification, "Failures" and "OTLP/HTTP Response". Comments
//! mark exceptions for backends that differ from it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::Code;

use crate::base::signal::Signal;
use crate::base::text::one_line;

/// A classified answer. It decides whether the request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Accepted,
    /// Accepted except for `rejected` records; must not be sent again. If `rejected` is 0,
    /// `message` is only a warning.
    Partial {
        rejected: i64,
        message: String,
    },
    /// Failed temporarily. Must not be retried before `after`, the pause in the server's answer.
    Retry {
        reason: String,
        after: Option<Duration>,
        delivery: Delivery,
    },
    /// Refused because of its size. The request must be split before it is sent again.
    TooLarge {
        reason: String,
    },
    /// Refused permanently; must not be sent again.
    Refused {
        reason: String,
    },
}

/// The result of sending one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    /// The status as the protocol spells it (`OK`, `UNAVAILABLE`, `503`), or `timeout`,
    /// [`NOT_CONNECTED`] or `malformed`. `OK` or `FAILED` for an exporter without network.
    pub(crate) code: Cow<'static, str>,
}

/// Returns the name of a gRPC status as in the gRPC specification.
pub(crate) fn grpc_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether an unacknowledged request may have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The server reported that it did not accept the request, or was never reached.
    NotDelivered,
    /// The server may have accepted the request: no answer arrived, or only a gateway answered.
    InDoubt,
}

/// The [`Answer::code`] of a request that reached no server, or whose connection broke.
pub(crate) const NOT_CONNECTED: &str = "connection";

/// Upper limit for the pause in a server's answer. Longer pauses are shortened to it.
pub(crate) const MAX_SERVER_WAIT: Duration = Duration::from_secs(600);

/// Classifies a gRPC status other than OK. `from_transport` is true if tonic created the status
/// because the connection broke, false if the server sent it.
pub(crate) fn grpc(
    code: Code,
    message: &str,
    retry_info: Option<Duration>,
    from_transport: bool,
) -> Reply {
    let reason = format!("{code:?}: {}", one_line(message));
    // Servers use many codes for this: tonic OUT_OF_RANGE, grpc-go RESOURCE_EXHAUSTED, gateways
    // UNAVAILABLE or UNKNOWN.
    if mentions_size(message) {
        return Reply::TooLarge { reason };
    }
    let delivery = match code {
        // A gateway that lost its connection to the server sends this. The server may already have
        // accepted the request.
        Code::Unavailable if mentions_broken_connection(message) && retry_info.is_none() => {
            Delivery::InDoubt
        }
        Code::Unavailable | Code::ResourceExhausted if !from_transport => Delivery::NotDelivered,
        _ => Delivery::InDoubt,
    };
    let retryable = matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // The specification requires RetryInfo for a retry, but Tempo before 3.0 sends none
            // with its rate limit.
            | Code::ResourceExhausted
    );
    // tonic reports a proxy's HTML page, or an answer without trailers, as INTERNAL or UNKNOWN.
    let not_grpc =
        matches!(code, Code::Internal | Code::Unknown) && message.starts_with("protocol error:");
    if retryable || from_transport || not_grpc {
        return Reply::Retry { reason, after: retry_info.map(clamp), delivery };
    }
    Reply::Refused { reason }
}

/// Classifies an HTTP status other than 2xx. `body` is the server's message.
pub(crate) fn http(
    signal: Signal,
    status: u16,
    body: &str,
    retry_after: Option<Duration>,
) -> Reply {
    let reason = match body.trim() {
        "" => format!("HTTP {status}"),
        text => format!("HTTP {status}: {text}"),
    };
    // Loki can answer 400 after storing a part of the request, for example all but one line that is
    // too long. The stored part must not be sent again, so such a request is not split.
    let is_whole = status != 400 || signal == Signal::Traces || mentions_message(body);
    match status {
        413 => Reply::TooLarge { reason },
        // Tempo answers 400 to a body over its limit, and Loki 503 to one that exceeds its limit
        // after expansion. 414 and 431 are about the URL and the headers, which splitting does not
        // change.
        _ if mentions_size(body) && is_whole && !matches!(status, 414 | 431) => {
            Reply::TooLarge { reason }
        }
        429 | 503 => {
            let broke = status == 503 && retry_after.is_none() && mentions_broken_connection(body);
            let delivery = if broke { Delivery::InDoubt } else { Delivery::NotDelivered };
            Reply::Retry { reason, after: retry_after.map(clamp), delivery }
        }
        // The server behind the gateway may have accepted the request.
        502 | 504 => {
            Reply::Retry { reason, after: retry_after.map(clamp), delivery: Delivery::InDoubt }
        }
        300..=399 => Reply::Refused {
            reason: format!("{reason} (a redirect is not followed; configure the final address)"),
        },
        _ => Reply::Refused { reason },
    }
}

/// Classifies the body of a success: an `ExportTraceServiceResponse`, which may be empty. The
/// response for logs has the same encoding.
///
/// A body that is not OTLP does not come from an OTLP receiver; it may be a login page. If it
/// counted as an acknowledgement, the id of a trace that does not exist would be written back.
pub(crate) fn acknowledgement(body: &[u8]) -> Reply {
    let Ok(response) = ExportTraceServiceResponse::decode(body) else {
        let reason = "the server said OK, but its answer is not OTLP; is this the right endpoint?";
        return Reply::Refused { reason: reason.to_owned() };
    };
    match response.partial_success {
        Some(partial) if partial.rejected_spans > 0 || !partial.error_message.is_empty() => {
            Reply::Partial {
                // A negative number is invalid, and counts as 0.
                rejected: partial.rejected_spans.max(0),
                message: one_line(&partial.error_message),
            }
        }
        _ => Reply::Accepted,
    }
}

/// Parses `Retry-After`, which is a number of seconds or an HTTP date. Returns at most
/// [`MAX_SERVER_WAIT`], zero for a date in the past, and `None` for other text.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(clamp(Duration::from_secs(seconds)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(clamp(date.duration_since(now).unwrap_or_default()))
}

/// Returns the delay of the RetryInfo in the details of a gRPC status, at most [`MAX_SERVER_WAIT`].
/// `None` if there is no valid one.
pub(crate) fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(clamp(Duration::new(seconds, nanos)))
}

fn clamp(wait: Duration) -> Duration {
    wait.min(MAX_SERVER_WAIT)
}

/// Whether a message is typical of a gateway whose connection to the server broke during a request.
fn mentions_broken_connection(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    // tonic uses the last one if a gateway answers with an HTTP status such as 502 or 504.
    ["upstream", "reset", "disconnect", "terminat", "mapped from http status"]
        .iter()
        .any(|words| message.contains(words))
}

/// Whether a message is typical of a server that refuses a request because of its size.
fn mentions_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let is_about_size = ["larger than max", "too large", "exceeds the maximum", "message size"]
        .iter()
        .any(|words| message.contains(words));
    // nginx: "Request Header Or Cookie Too Large".
    is_about_size && !message.contains("header")
}

/// Whether a text contains grpc-go's error for a request that is too large as a whole.
fn mentions_message(text: &str) -> bool {
    text.contains("message larger than max")
}

/// `google.rpc.Status`, reduced to the field that is used here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Wait>,
}

/// `google.protobuf.Duration`
#[derive(Clone, PartialEq, Message)]
struct Wait {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests;
