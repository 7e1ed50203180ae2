//! `taskspan validate`: everything is built, nothing is started.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use rustix::fs::{Access, access};
use tokio::net::TcpStream;

use super::exit::Failure;
use super::setup::Setup;
use super::{ConfigArgs, Exit};
use crate::config::{Config, ExporterConfig, ExtensionConfig, Fault, Faults, ProcessorConfig};
use crate::converter::options::RedactionConfig;
use crate::pipeline::Pipelines;
use crate::queue::Location;
use crate::text::visible;

/// How long an endpoint has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Validate {
    #[command(flatten)]
    config: ConfigArgs,

    /// Print the configuration as it is in effect, with every default, without secrets
    #[arg(long)]
    print: bool,

    /// Connect to every endpoint, too; nothing is sent
    #[arg(long)]
    connect: bool,
}

impl Validate {
    pub async fn run(self) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &[])?;
        for warning in &setup.warnings {
            super::say(&format!("warning: {warning}"));
        }
        let pipelines = setup.build()?;
        let mut faults = faults_of_files(&setup.config);
        faults.0.extend(fault_of_the_queue(setup.location()));
        faults.0.extend(faults_of_addresses(&setup.config));
        if !faults.is_empty() {
            return Err(faults.into());
        }
        if self.print {
            let text = serde_saphyr::to_string(&setup.config).map_err(anyhow::Error::from)?;
            super::print(&(text + &beside_the_file(&setup)))?;
        } else {
            let destinations = pipelines.destinations().join(", ");
            super::print(&format!("valid; traces go to {destinations}\n"))?;
        }
        if self.connect { connect(&pipelines).await } else { Ok(Exit::Done) }
    }
}

/// Files that are made later have to have a place.
fn faults_of_files(config: &Config) -> Faults {
    let mut faults = Faults::default();
    for (id, exporter) in &config.exporters {
        let ExporterConfig::File(file) = exporter else { continue };
        let parent = file.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        if !parent.is_dir() {
            let parent = parent.display();
            faults.0.push(Fault::nowhere(format!("exporter `{id}`: {parent}: no such directory")));
        }
    }
    faults
}

/// The queue's directory is made when it is needed, where there is one to make it in.
fn fault_of_the_queue(location: Option<Location>) -> Option<Fault> {
    let message = match location {
        Some(Location::Directory(directory)) => {
            let existing = directory.ancestors().find(|it| it.exists()).unwrap_or(Path::new("."));
            let is_usable =
                existing.is_dir() && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok();
            if is_usable {
                return None;
            }
            let (directory, existing) = (directory.display(), existing.display());
            format!("the queue cannot be in {directory}: {existing} is no directory to write to")
        }
        Some(Location::Existing(_) | Location::Memory) => return None,
        None => {
            "there is no place for the queue: neither XDG_STATE_HOME nor HOME is set; name one \
                 with --state-dir or a file_storage extension"
                .to_owned()
        }
    };
    Some(Fault::nowhere(message))
}

/// Addresses to listen on. One that is taken may be taken by the taskspan that is to be reloaded.
fn faults_of_addresses(config: &Config) -> Vec<Fault> {
    let used = config.service.extensions.iter().filter_map(|id| config.extensions.get(id));
    let health = used.filter_map(|extension| match extension {
        ExtensionConfig::HealthCheck(health) => Some(("health_check", &health.endpoint)),
        ExtensionConfig::FileStorage(_) => None,
    });
    let metrics = config.service.telemetry.metrics.iter();
    let metrics = metrics.map(|it| ("service.telemetry.metrics", &it.address));
    let mut faults = Vec::new();
    let mut listening = Vec::new();
    for (what, address) in health.chain(metrics) {
        let port_is_free = address.ends_with(":0");
        if listening.contains(&address) && !port_is_free {
            let message = format!("{what}: something else of this file listens on {address}");
            faults.push(Fault::nowhere(message));
            continue;
        }
        listening.push(address);
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                super::say(&format!("warning: {what}: {address} is in use at this moment"));
            }
            Err(error) => {
                let message = format!("{what} cannot listen on {address}: {error}");
                faults.push(Fault::nowhere(message));
            }
        }
    }
    faults
}

/// What is in effect and no key of the file, as comments: the text stays a configuration.
fn beside_the_file(setup: &Setup) -> String {
    let Setup { config, otel, .. } = setup;
    let queue = match setup.location() {
        Some(Location::Directory(it) | Location::Existing(it)) => {
            visible(&it.display().to_string())
        }
        Some(Location::Memory) => "in memory".to_owned(),
        None => "nowhere".to_owned(),
    };
    let mut lines = vec![format!("queue: {queue}")];
    let is_redaction =
        |id| matches!(config.processors.get(id), Some(ProcessorConfig::Redaction(_)));
    for (id, pipeline) in &config.service.pipelines {
        if id.kind == "traces" && !pipeline.processors.iter().any(is_redaction) {
            let keys = RedactionConfig::default().keys.join(", ");
            lines.push(format!("redaction in {id}, built in: {keys}"));
        }
    }
    let attributes = otel.resource_attributes.iter().map(|(key, value)| (key.as_str(), value));
    let service_name = otel.service_name.iter().map(|name| ("service.name", name));
    let attributes = attributes.chain(service_name);
    lines.extend(attributes.map(|(key, value)| format!("resource: {key:?} = {value:?}")));
    for (what, limit) in [
        ("attributes of a span", otel.limits.attribute_count),
        ("events of a span", otel.limits.event_count),
        ("links of a span", otel.limits.link_count),
        ("bytes of an attribute", otel.limits.attribute_value_length),
    ] {
        lines.extend(limit.map(|limit| format!("limit: {limit} {what}")));
    }
    lines.extend(otel.triggered_by.map(|_| "TRACEPARENT: a link on every epic".to_owned()));
    lines.extend(otel.disabled.then(|| "OTEL_SDK_DISABLED: nothing is sent".to_owned()));
    let mut text = "# Also in effect:\n".to_owned();
    for line in lines {
        let _ = writeln!(text, "#   {line}");
    }
    text
}

async fn connect(pipelines: &Pipelines) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for (destination, address) in pipelines.addresses() {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await;
        let trouble = match connected {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no connection within {CONNECT_TIMEOUT:?}")),
        };
        if trouble.is_some() {
            exit = Exit::NotDelivered;
        }
        let result = trouble.as_deref().unwrap_or("takes connections");
        super::say(&format!("{destination}: {result}"));
    }
    Ok(exit)
}
