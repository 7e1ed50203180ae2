//! The part of Tempo's API that returns traces. It serves the spans that a fake OTLP endpoint has
//! accepted, and loses spans on demand.
//!
//! ```text
//! FakeOtlp ─accepted─▶ FakeTempo ◀─ GET /api/v2/traces/{id}, /api/traces/{id}
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::conventions::hex;
use super::fake_otlp::FakeOtlp;

/// Which of the accepted spans are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    All,
    /// The first spans of each trace, this many, are lost.
    Loses(usize),
    /// The first spans of each trace, this many, are stored only if they are sent twice.
    LosesAtFirst(usize),
    /// The first span of the first trace is lost.
    LosesOfFirstTrace,
}

/// The version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Version 2, with ids in base64. Other paths get a 404.
    V2,
    /// Version 1, with ids in hexadecimal. Other paths get a 404.
    V1,
}

/// A query that arrived.
#[derive(Clone, Debug)]
pub struct Query {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// A running Tempo. Dropping it closes its connections.
#[must_use]
pub struct FakeTempo {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    otlp: Arc<FakeOtlp>,
    api: Api,
    storage: Mutex<Storage>,
    queries: Mutex<Vec<Query>>,
}

impl FakeTempo {
    /// Starts at a free port of localhost.
    pub async fn start(otlp: &Arc<FakeOtlp>, api: Api, storage: Storage) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind the fake Tempo");
        Self::on(listener, otlp, api, storage)
    }

    /// Starts on this listener. A port that was closed and bound again could be taken by another
    /// test in between.
    pub fn on(listener: TcpListener, otlp: &Arc<FakeOtlp>, api: Api, storage: Storage) -> Self {
        let shared = Arc::new(Shared {
            otlp: otlp.clone(),
            api,
            storage: Mutex::new(storage),
            queries: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        // The server has its own thread, so a test may block on a child process.
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { shared, address, running: Some((stop, thread)) }
    }

    /// Returns the base URL of the API.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the queries so far, in order.
    pub fn queries(&self) -> Vec<Query> {
        self.shared.queries.lock().unwrap().clone()
    }

    /// Changes which spans are stored. This applies to all later queries.
    pub fn set_storage(&self, storage: Storage) {
        *self.shared.storage.lock().unwrap() = storage;
    }
}

impl Drop for FakeTempo {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking(), "the fake Tempo itself panicked");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // An error means that the client has disconnected.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = shared.answer(&request);
                async { Ok::<_, Infallible>(answer) }
            });
            let builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            // Clients may disconnect at any time, so connection errors are ignored.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let headers = request.headers().iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        self.queries.lock().unwrap().push(Query { path: path.clone(), headers: headers.collect() });
        let trace_id = match self.api {
            Api::V2 => path.strip_prefix("/api/v2/traces/"),
            Api::V1 => path.strip_prefix("/api/traces/"),
        };
        let stored = trace_id.map(|id| self.stored(id)).unwrap_or_default();
        if stored.is_empty() {
            return response(404, "trace not found".into());
        }
        let id = |bytes: &[u8]| match self.api {
            Api::V2 => base64(bytes),
            Api::V1 => hex(bytes),
        };
        let spans: Value = stored
            .iter()
            .map(|span| {
                json!({
                    "traceId": id(&span.trace_id),
                    "spanId": id(&span.span_id),
                    "parentSpanId": id(&span.parent_span_id),
                    "name": span.name,
                })
            })
            .collect();
        let groups = json!([{"resource": {}, "scopeSpans": [{"spans": spans}]}]);
        let answer = match self.api {
            Api::V2 => json!({"trace": {"resourceSpans": groups}}),
            Api::V1 => json!({"batches": groups}),
        };
        response(200, answer.to_string())
    }

    /// Returns the stored spans of a trace, without repetitions.
    fn stored(&self, trace_id: &str) -> Vec<Span> {
        let mut spans = self.otlp.spans();
        let is_first = spans.first().is_some_and(|span| hex(&span.trace_id) == trace_id);
        spans.retain(|span| hex(&span.trace_id) == trace_id);
        let mut times_sent: HashMap<Vec<u8>, usize> = HashMap::new();
        for span in &spans {
            *times_sent.entry(span.span_id.clone()).or_default() += 1;
        }
        let mut seen = HashSet::new();
        spans.retain(|span| seen.insert(span.span_id.clone()));
        match *self.storage.lock().unwrap() {
            Storage::LosesOfFirstTrace if is_first => spans.split_off(1),
            Storage::All | Storage::LosesOfFirstTrace => spans,
            Storage::Loses(count) => spans.split_off(count.min(spans.len())),
            Storage::LosesAtFirst(count) => {
                let mut position = 0;
                spans.retain(|span| {
                    position += 1;
                    position > count || times_sent[&span.span_id] > 1
                });
                spans
            }
        }
    }
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(Full::from(body)).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let padded = [three, &[0, 0]].concat();
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 0x3f;
            // Each digit encodes six bits. Digits without a byte are padding.
            let is_filler = digit > three.len();
            text.push(if is_filler { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    text
}
