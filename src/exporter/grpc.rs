//! Sends requests with OTLP over gRPC. The queue holds encoded requests, so the codec passes bytes
//! through unchanged.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{ConnectError, Request, Status};

use super::classify::{self, Answer, Delivery, Reply};
use super::config::{Compression, OtlpConfig, Protocol};
use super::endpoint::Endpoint;
use super::{BuildError, USER_AGENT, causes, chain, tls};
use crate::base::signal::Signal;

const TRACES: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
const LOGS: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.logs.v1.LogsService/Export");

/// Interval of HTTP/2 pings, which detect a dead peer before the request times out.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// An OTLP/gRPC client for one signal.
#[derive(Debug)]
pub(crate) struct Grpc {
    client: tonic::client::Grpc<Channel>,
    method: PathAndQuery,
    metadata: MetadataMap,
    timeout: Duration,
    endpoint: Endpoint,
}

impl Grpc {
    /// Builds the client without connecting; the first request connects.
    pub(crate) fn build(config: &OtlpConfig, signal: Signal) -> Result<Grpc, BuildError> {
        let endpoint = config.endpoint_for(Protocol::Grpc, signal)?;
        let endpoint = endpoint.ok_or(BuildError::NoEndpoint)?;
        let bad = |error: tonic::transport::Error| BuildError::BadEndpoint(chain(&error));
        let timeout = config.timeout.0;
        let mut channel = Channel::builder(endpoint.uri().clone())
            .user_agent(USER_AGENT)
            .map_err(bad)?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(KEEP_ALIVE);
        if endpoint.is_tls() {
            channel = channel.tls_config(tls::grpc(&config.tls)?).map_err(bad)?;
        }
        let mut client = tonic::client::Grpc::new(channel.connect_lazy());
        if config.compression == Compression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let client = client.accept_compressed(CompressionEncoding::Gzip);
        let method = match signal {
            Signal::Traces => TRACES,
            Signal::Logs => LOGS,
        };
        Ok(Grpc { client, method, metadata: metadata(config)?, timeout, endpoint })
    }

    /// Returns the endpoint that requests are sent to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one encoded request, once, and classifies the answer.
    pub(crate) async fn send(&self, body: Bytes) -> Answer {
        // The request's own timeout does not cover `ready`, which would wait forever for a peer
        // that accepts the connection but never speaks HTTP/2.
        match tokio::time::timeout(self.timeout, self.call(body)).await {
            Ok(Ok(answer)) => {
                Answer { reply: classify::acknowledgement(&answer), code: "OK".into() }
            }
            Ok(Err(status)) => Answer {
                reply: classified(&status),
                code: match status.source() {
                    Some(_) => classify::NOT_CONNECTED.into(),
                    None => classify::grpc_name(status.code()).into(),
                },
            },
            Err(_) => Answer {
                reply: Reply::Retry {
                    reason: format!("no answer within {:?}", self.timeout),
                    after: None,
                    delivery: Delivery::InDoubt,
                },
                code: "timeout".into(),
            },
        }
    }

    async fn call(&self, body: Bytes) -> Result<Bytes, Status> {
        let mut client = self.client.clone();
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut request = Request::new(body);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        client
            .unary(request, self.method.clone(), EncodedCodec)
            .await
            .map(tonic::Response::into_inner)
    }
}

fn metadata(config: &OtlpConfig) -> Result<MetadataMap, BuildError> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &config.headers {
        let bad = |reason| BuildError::BadHeader { name: name.clone(), reason };
        let key = MetadataKey::<Ascii>::from_bytes(name.to_ascii_lowercase().as_bytes())
            .map_err(|_| bad("its name is not a header name"))?;
        let mut value = MetadataValue::<Ascii>::try_from(value.expose())
            .map_err(|_| bad("its value is not printable ASCII"))?;
        value.set_sensitive(true);
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn classified(status: &Status) -> Reply {
    let from_transport = status.source().is_some();
    if from_transport && never_connected(status) {
        return Reply::Retry {
            reason: chain(status),
            after: None,
            delivery: Delivery::NotDelivered,
        };
    }
    let message = if from_transport { chain(status) } else { status.message().to_owned() };
    let retry_info = classify::retry_info(status.details());
    classify::grpc(status.code(), &message, retry_info, from_transport)
}

fn never_connected(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// A codec that passes bytes through.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Passthrough;
    type Decoder = Passthrough;

    fn encoder(&mut self) -> Passthrough {
        Passthrough
    }

    fn decoder(&mut self) -> Passthrough {
        Passthrough
    }
}

struct Passthrough;

impl Encoder for Passthrough {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, body: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(body);
        Ok(())
    }
}

impl Decoder for Passthrough {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
