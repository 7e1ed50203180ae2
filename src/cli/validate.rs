//! `taskspan validate`: builds every component without starting any.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

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
use crate::base::signal::Signal;
use crate::base::text::escape_control;
use crate::config::service::listening;
use crate::config::{Config, ExporterConfig, Fault, Faults, ProcessorConfig};
use crate::converter::options::RedactionConfig;
use crate::pipeline::Pipelines;
use crate::queue::Location;

/// Time limit for connecting to an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    config: ConfigArgs,

    /// Print the effective configuration with all defaults, without secrets
    #[arg(long)]
    print: bool,

    /// Also connect to every endpoint, without sending anything
    #[arg(long)]
    connect: bool,
}

impl Validate {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &[])?;
        for warning in &setup.warnings {
            super::say(&format!("warning: {warning}"));
        }
        let pipelines = setup.build()?;
        let mut faults = faults_of_files(&setup.config);
        if let Some(trouble) = trouble_of_the_queue(setup.location()) {
            super::say(&format!("warning: {trouble}"));
        }
        faults.0.extend(faults_of_addresses(&setup.config));
        if !faults.is_empty() {
            return Err(faults.into());
        }
        if self.print {
            let text = serde_saphyr::to_string(&setup.config).map_err(anyhow::Error::from)?;
            super::print(&(text + &beside_the_file(&setup)))?;
        } else {
            let to = |signal| pipelines.destinations_of(signal).join(", ");
            let (traces, logs) = (to(Signal::Traces), to(Signal::Logs));
            let logs = if logs.is_empty() { logs } else { format!("; logs go to {logs}") };
            super::print(&format!("valid; traces go to {traces}{logs}\n"))?;
        }
        if self.connect { connect(&pipelines).await } else { Ok(Exit::Done) }
    }
}

/// Checks that files can be created where they are configured, and that existing ones can be
/// written.
fn faults_of_files(config: &Config) -> Faults {
    let mut faults = Faults::default();
    for (id, exporter) in &config.exporters {
        let ExporterConfig::File(file) = exporter else { continue };
        let path = file.path.display();
        let parent = file.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let trouble = if !parent.is_dir() {
            format!("{}: no such directory", parent.display())
        } else if file.path.is_dir() {
            format!("{path}: is a directory")
        } else if file.path.exists() {
            match access(&file.path, Access::WRITE_OK) {
                Ok(()) => continue,
                Err(error) => format!("{path}: {error}"),
            }
        } else {
            match may_write_below(parent) {
                Ok(()) => continue,
                Err(error) => error,
            }
        };
        faults.0.push(Fault::nowhere(format!("exporter `{id}`: {trouble}")));
    }
    faults
}

/// Whether a file can be created in this directory, or in the closest ancestor that exists.
fn may_write_below(directory: &Path) -> Result<(), String> {
    let existing = directory.ancestors().find(|it| it.exists());
    let existing = existing.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_usable =
        existing.is_dir() && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match is_usable {
        true => Ok(()),
        false => Err(format!("{} is no directory to write to", existing.display())),
    }
}

/// Returns why the queue's directory cannot be used here. It is created when needed, and may be
/// meant for another machine.
fn trouble_of_the_queue(location: Option<Location>) -> Option<String> {
    match location {
        Some(Location::Directory(directory)) => {
            let error = may_write_below(&directory).err()?;
            Some(format!("the queue cannot be in {} here: {error}", directory.display()))
        }
        Some(Location::Existing(_) | Location::Memory) => None,
        None => {
            let message = "there is no place for the queue here: neither XDG_STATE_HOME nor HOME \
                           is set; `run` needs one of them, --state-dir, or a file_storage \
                           extension";
            Some(message.to_owned())
        }
    }
}

/// Checks the addresses to listen on. An address that is in use may be that of the taskspan that
/// will be reloaded.
fn faults_of_addresses(config: &Config) -> Vec<Fault> {
    let health = config.health_check().into_iter().map(|it| ("health_check", &it.endpoint));
    let metrics = config.service.telemetry.metrics.iter();
    let metrics = metrics.map(|it| ("service.telemetry.metrics", &it.address));
    let mut faults = Vec::new();
    // Keep them until the end, so that two of them cannot share an address.
    let mut ours = Vec::new();
    for (what, address) in health.chain(metrics) {
        match TcpListener::bind(listening(address).as_ref()) {
            Ok(listener) => ours.push(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && !is_ours(&ours, address) => {
                super::say(&format!("warning: {what}: {address} is in use at this moment"));
            }
            // The address belongs to another machine, or the port needs privileges.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied
                ) =>
            {
                super::say(&format!("warning: {what} cannot listen on {address} here: {error}"));
            }
            Err(error) => {
                let message = format!("{what} cannot listen on {address}: {error}");
                faults.push(Fault::nowhere(message));
            }
        }
    }
    faults
}

/// Whether one of `ours` uses the address.
fn is_ours(ours: &[TcpListener], address: &str) -> bool {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let mut ports = ours.iter().filter_map(|it| it.local_addr().ok()).map(|it| it.port());
    ports.any(|it| Some(it) == port)
}

/// Formats the settings that are not in a file, as comments, so that the output stays a valid
/// configuration.
fn beside_the_file(setup: &Setup) -> String {
    let Setup { config, otel, .. } = setup;
    let queue = match setup.location() {
        Some(Location::Directory(it) | Location::Existing(it)) => {
            escape_control(&it.display().to_string())
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
