//! `taskspan validate`: everything is built, nothing is started.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpStream;

use super::exit::Failure;
use super::setup::Setup;
use super::{ConfigArgs, Exit};
use crate::config::{Config, ExporterConfig, ExtensionConfig, Fault, Faults};
use crate::pipeline::Pipelines;

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
        faults.0.extend(fault_of_addresses(&setup.config));
        if !faults.is_empty() {
            return Err(faults.into());
        }
        if self.print {
            let text = serde_saphyr::to_string(&setup.config).map_err(anyhow::Error::from)?;
            super::print(&text)?;
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

/// Two servers cannot listen at the same place.
fn fault_of_addresses(config: &Config) -> Option<Fault> {
    let metrics = &config.service.telemetry.metrics.as_ref()?.address;
    let mut used = config.service.extensions.iter().filter_map(|id| config.extensions.get(id));
    let is_taken = used.any(|extension| match extension {
        ExtensionConfig::HealthCheck(health) => health.endpoint == *metrics,
        ExtensionConfig::FileStorage(_) => false,
    });
    let message = format!("health_check and service.telemetry.metrics both listen on {metrics}");
    (is_taken && !metrics.ends_with(":0")).then(|| Fault::nowhere(message))
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
