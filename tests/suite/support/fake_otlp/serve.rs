//! The server: accept, decode, record, answer.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::{HeaderMap, Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use super::fault::Body;
use super::{Attempt, Fault, Protocol, Shared};

/// Serves until `stopped` resolves. After that, dropping the runtime closes all connections.
pub fn run(
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    ready: oneshot::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.expect("bind the fake endpoint");
        ready.send(listener.local_addr().unwrap()).expect("the test waits for the address");
        tokio::select! {
            () = accept(listener, tls, shared) => {}
            _ = stopped => {}
        }
    });
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        // An error means that the client has disconnected.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(connection(stream, tls.clone(), shared.clone()));
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let cut = Arc::new(Notify::new());
    let service = {
        let cut = cut.clone();
        service_fn(move |request| answer(shared.clone(), cut.clone(), request))
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    // Clients may disconnect at any time, so connection errors are ignored.
    match tls {
        None => {
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! { _ = serving => {}, () = cut.notified() => {} }
        }
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! { _ = serving => {}, () = cut.notified() => {} }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    cut: Arc<Notify>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Fault::http(400)
            .with_message("the body broke off")
            .response(Protocol::Http)
            .unwrap());
    };
    let (protocol, fault) = check_request(&shared, head.uri.path(), &head.headers, body.to_bytes());
    if let Fault::Slow(delay) = fault {
        tokio::time::sleep(delay).await;
    }
    match fault.response(protocol) {
        Some(response) => Ok(response),
        None => {
            if fault == Fault::Reset {
                cut.notify_one();
            }
            std::future::pending().await
        }
    }
}

/// Decodes and records one request, and decides the answer.
fn check_request(
    shared: &Shared,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> (Protocol, Fault) {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let protocol = match text("content-type") {
        kind if kind.starts_with("application/grpc") => Protocol::Grpc,
        _ => Protocol::Http,
    };
    let refuse = |words: &str| Fault::invalid(protocol).with_message(words);
    let payload = match protocol {
        Protocol::Grpc => grpc_payload(body, text("grpc-encoding")),
        Protocol::Http if text("content-type") != "application/x-protobuf" => {
            Err("the content type is not application/x-protobuf".to_owned())
        }
        Protocol::Http => plain(body, text("content-encoding")),
    };
    let (wire_bytes, message) = match payload {
        Ok((wire, message)) => (wire, Ok(message)),
        Err(words) => (0, Err(words)),
    };
    let encoded_bytes = message.as_ref().map_or(0, Bytes::len);

    let mut request = ExportTraceServiceRequest::default();
    let fault = match (endpoint_of(shared, protocol, path), message) {
        (None, _) if protocol == Protocol::Grpc => Fault::grpc(Code::Unimplemented),
        (None, _) => Fault::http(404),
        (_, Err(words)) => refuse(&words),
        (Some(Signal::Logs), Ok(message)) => match ExportLogsServiceRequest::decode(message) {
            Ok(logs) => {
                let fault = shared.next_log_fault(&logs);
                shared.state.send_modify(|state| {
                    state.log_attempts += 1;
                    if fault.accepts() {
                        state.logs.push(logs);
                    }
                });
                return (protocol, fault);
            }
            Err(error) => refuse(&error.to_string()),
        },
        (Some(Signal::Traces), Ok(message)) => match ExportTraceServiceRequest::decode(message) {
            Ok(_) if encoded_bytes > shared.message_limit => {
                Fault::too_large(protocol, encoded_bytes, shared.message_limit)
            }
            Ok(decoded) => {
                request = decoded;
                shared.next_fault(&request)
            }
            Err(error) => refuse(&error.to_string()),
        },
    };
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    shared.state.send_modify(|state| {
        if fault.accepts() {
            state.accepted.push(request.clone());
        }
        state.attempts.push(Attempt {
            protocol,
            headers,
            path: path.to_owned(),
            wire_bytes,
            encoded_bytes,
            request,
            fault: fault.clone(),
            at: Instant::now(),
        });
    });
    (protocol, fault)
}

enum Signal {
    Traces,
    Logs,
}

fn endpoint_of(shared: &Shared, protocol: Protocol, path: &str) -> Option<Signal> {
    match (protocol, path) {
        (Protocol::Grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Export") => {
            Some(Signal::Traces)
        }
        (Protocol::Grpc, "/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        | (Protocol::Http, "/v1/logs" | "/otlp/v1/logs") => Some(Signal::Logs),
        (Protocol::Http, path) if path == shared.http_path => Some(Signal::Traces),
        _ => None,
    }
}

/// Returns the size of a unary call's message on the wire, and the decompressed message.
fn grpc_payload(body: Bytes, encoding: &str) -> Result<(usize, Bytes), String> {
    let Some((prefix, _)) = body.split_first_chunk::<5>() else {
        return Err("the gRPC frame is cut short".to_owned());
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let compressed = prefix[0] == 1;
    let message = body.slice(5..);
    if message.len() != length {
        return Err(format!("the gRPC frame says {length} bytes and has {}", message.len()));
    }
    plain(message, if compressed { encoding } else { "" })
}

fn plain(body: Bytes, encoding: &str) -> Result<(usize, Bytes), String> {
    let wire = body.len();
    match encoding {
        "" | "identity" => Ok((wire, body)),
        "gzip" => {
            let mut message = Vec::new();
            flate2::read::GzDecoder::new(&*body)
                .read_to_end(&mut message)
                .map_err(|error| format!("not gzip: {error}"))?;
            Ok((wire, message.into()))
        }
        other => Err(format!("the encoding {other:?} is not spoken here")),
    }
}
