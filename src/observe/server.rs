//! A small HTTP/1.1 server for GET and HEAD, with one answer per path.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::page::POLICY;

/// Maximum of concurrent connections; others wait in the accept backlog.
const MAX_CONNECTIONS: usize = 32;
/// Maximum lifetime of a connection.
const MAX_CONNECTION: Duration = Duration::from_secs(60);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an error while accepting a connection.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Page {
    pub(crate) fn new(status: u16, content_type: &'static str, body: String) -> Page {
        Page { status, content_type, body }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Page {
        Page::new(status, "application/json", format!("{body}\n"))
    }

    pub(crate) fn html(body: String) -> Page {
        Page::new(200, "text/html; charset=utf-8", body)
    }

    /// The response while a scan of all files is in progress.
    pub(crate) fn busy() -> Page {
        let text = "another request is being answered; try again in a moment\n";
        Page::new(503, "text/plain; charset=utf-8", text.to_owned())
    }

    pub(crate) fn not_found() -> Page {
        Page::new(404, "text/plain; charset=utf-8", "not found\n".to_owned())
    }
}

/// Maps a path to a response. May block briefly.
pub(crate) type Answer = Arc<dyn Fn(&str) -> Page + Send + Sync>;

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(listener: TcpListener, answer: Answer, stop: CancellationToken) {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let mut connections = JoinSet::new();
    loop {
        let may_take = connections.len() < MAX_CONNECTIONS;
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if may_take => match accepted {
                Ok((stream, _)) => stream,
                // For example too many open files.
                Err(_) => {
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            },
        };
        let answer = Arc::clone(&answer);
        connections.spawn(async move {
            let service =
                service_fn(move |request| respond(Arc::clone(&answer), is_local, request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                // A client that keeps its connection would keep others, such as probes, waiting.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // The client sees how its connection ended.
            let _ = tokio::time::timeout(MAX_CONNECTION, connection).await;
        });
    }
}

/// Whether a request to a loopback address has an IP address or `localhost` as its host. A page
/// whose own host name resolves to this machine (DNS rebinding) has neither, and must not read the
/// status.
fn is_host_of_ours(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

async fn respond(
    answer: Answer,
    is_local: bool,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    if is_local && !is_host_of_ours(request.headers().get(HOST)) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::FORBIDDEN;
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    let page = tokio::task::spawn_blocking(move || answer(&path)).await;
    let page = page.unwrap_or_else(|_| Page::new(500, "text/plain", String::new()));
    let mut response = Response::new(Full::from(page.body));
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine() {
        for (host, ours) in [
            ("localhost", true),
            ("LOCALHOST:8888", true),
            ("127.0.0.1:8888", true),
            ("[::1]:8888", true),
            ("evil.example.com", false),
            ("localhost.example.com:8888", false),
            ("", false),
        ] {
            assert_eq!(is_host_of_ours(Some(&HeaderValue::from_static(host))), ours, "{host}");
        }
        assert!(is_host_of_ours(None));
    }
}
