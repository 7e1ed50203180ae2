//! `taskspan healthcheck`: a health probe for container images without a shell.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Exit;
use super::exit::Failure;

#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// URL of the health_check extension; /live and /ready work, too
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:13133/", value_parser = probe_url)]
    url: Uri,
}

/// Time limit for the probe.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of an answer that is shown, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Parses the URL of a probe.
///
/// # Errors
/// Returns an error if `text` is not an `http` URL with a host.
fn probe_url(text: &str) -> Result<Uri, String> {
    let is_of_http = |url: &Uri| url.scheme_str() == Some("http") && url.authority().is_some();
    let url = text.parse::<Uri>().ok().filter(is_of_http);
    url.ok_or_else(|| "must be of the form http://host:port/path".to_owned())
}

impl Healthcheck {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let asked = tokio::time::timeout(TIMEOUT, ask(&self.url)).await;
        let url = &self.url;
        let (status, body) = asked
            .map_err(|_| anyhow::anyhow!("{url}: no answer within {TIMEOUT:?}"))?
            .with_context(|| url.to_string())?;
        super::print(&body)?;
        Ok(if status == 200 { Exit::Done } else { Exit::NotDelivered })
    }
}

async fn ask(url: &Uri) -> anyhow::Result<(u16, String)> {
    let authority = url.authority().context("there is no host")?;
    // An IPv6 address is in brackets only in a URL.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The task ends with the answer.
    tokio::spawn(async move { drop(connection.await) });
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
