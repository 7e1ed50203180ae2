//! An OTLP endpoint that accepts everything, and records only the time and the size of each
//! request. taskspan uses it over gRPC, and Python over HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// An empty gRPC message: not compressed, with length zero.
const EMPTY: &[u8] = &[0; 5];

/// A request that arrived.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub at: Instant,
    /// Size in bytes: of the decompressed message if sizes are measured, otherwise of the body as
    /// sent.
    pub bytes: usize,
}

/// A running endpoint.
pub struct Receiver {
    address: SocketAddr,
    arrivals: Arc<Arrivals>,
    /// Dropping the runtime closes all connections.
    _runtime: Runtime,
}

#[derive(Default)]
struct Arrivals {
    seen: Mutex<Vec<Arrival>>,
    more: Condvar,
    sizes: bool,
}

impl Receiver {
    /// Starts an endpoint at a free port of localhost. It does not decompress anything.
    pub fn start() -> Receiver {
        Self::with(Arrivals::default())
    }

    /// Starts an endpoint that measures the size of each decompressed message. Decompression takes
    /// time, so only `scale` uses it, which compares its times with each other.
    pub fn that_measures_sizes() -> Receiver {
        Self::with(Arrivals { sizes: true, ..Arrivals::default() })
    }

    fn with(arrivals: Arrivals) -> Receiver {
        let arrivals = Arc::new(arrivals);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&arrivals);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { answer(request, &shared).await }
                    });
                    let builder = Builder::new(TokioExecutor::new());
                    // Errors are ignored, because the client reports them.
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Receiver { address, arrivals, _runtime: runtime }
    }

    /// Returns the base URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests so far, in order.
    pub fn seen(&self) -> Vec<Arrival> {
        self.arrivals.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the n-th request, counted from one. Panics after the deadline.
    pub fn wait_for(&self, number: usize, deadline: Duration) -> Arrival {
        let seen = self.arrivals.seen.lock().unwrap();
        let more = &self.arrivals.more;
        let (seen, _) =
            more.wait_timeout_while(seen, deadline, |seen| seen.len() < number).unwrap();
        *seen.get(number - 1).unwrap_or_else(|| panic!("{} of {number} requests", seen.len()))
    }
}

async fn answer(
    request: Request<Incoming>,
    arrivals: &Arrivals,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let body = request.into_body().collect().await?.to_bytes();
    let at = Instant::now();
    let bytes = if arrivals.sizes { unpacked(&body) } else { body.len() };
    arrivals.seen.lock().unwrap().push(Arrival { at, bytes });
    arrivals.more.notify_all();
    let is_grpc =
        kind.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let body = if is_grpc {
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(0))]);
        let body = Full::new(Bytes::from_static(EMPTY));
        body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync()
    } else {
        Full::new(Bytes::new()).boxed_unsync()
    };
    let mut response = Response::new(body);
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    Ok(response)
}

/// Returns the size of the decompressed message of a gRPC request.
fn unpacked(body: &[u8]) -> usize {
    match body.split_at_checked(EMPTY.len()) {
        Some(([1, ..], message)) => {
            let mut decoder = flate2::read::GzDecoder::new(message);
            let bytes = io::copy(&mut decoder, &mut io::sink()).unwrap();
            usize::try_from(bytes).unwrap()
        }
        Some((_, message)) => message.len(),
        None => 0,
    }
}
