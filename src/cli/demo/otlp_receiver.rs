//! An OTLP receiver for the demo: accepts traces over gRPC on a free loopback port and keeps them
//! in memory.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Accepts traces until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    received: Received,
    server: JoinHandle<()>,
}

impl OtlpReceiver {
    /// Starts a receiver on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// If no port can be opened.
    pub async fn start() -> std::io::Result<OtlpReceiver> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let received = Received::default();
        let service = TraceServiceServer::new(Traces(Arc::clone(&received)))
            .accept_compressed(CompressionEncoding::Gzip);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                let connection = Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                // The client reports how its connection ends.
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Ok(OtlpReceiver { address, received, server })
    }

    /// Returns the receiver's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops listening and returns the requests that arrived.
    pub fn stop(self) -> Vec<ExportTraceServiceRequest> {
        self.server.abort();
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Traces(Received);

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        received.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
