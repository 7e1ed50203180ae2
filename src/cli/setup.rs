//! Combines files, flags and environment variables into one configuration.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::Failure;
use super::session::{OnTrouble, Session};
use super::{ConfigArgs, Global, logging};
use crate::config::expand::Env;
use crate::config::load::ConfigDocument;
use crate::config::otel_env::{self, OtelEnv};
use crate::config::overlay::{self, Flags};
use crate::config::{
    Config, ExporterConfig, ExtensionConfig, Fault, Faults, LogsConfig, ReceiverConfig,
};
use crate::exporter::config::{VerifyConfig, verify_timeout};
use crate::exporter::endpoint::Endpoint;
use crate::pipeline::{PipelineError, Pipelines};
use crate::queue::Location;

/// The file that is read if no file is given.
const DEFAULT_FILE: &str = "pipeline.yaml";

/// The configuration of a command.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) otel: OtelEnv,
    pub(crate) warnings: Vec<Fault>,
    state_dir: Option<PathBuf>,
    default_state_dir: Option<PathBuf>,
}

/// Returns `$XDG_STATE_HOME/taskspan`, or `~/.local/state/taskspan` if the variable is not set.
pub(crate) fn default_state_dir(env: Env<'_>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").map(|home| home.join(".local/state"));
    absolute("XDG_STATE_HOME").or_else(home).map(|state| state.join("taskspan"))
}

impl Setup {
    /// Loads the configuration. `directories` replace those of the configuration.
    ///
    /// # Errors
    /// Returns all errors at once.
    pub(crate) fn load(args: &ConfigArgs, directories: &[PathBuf]) -> Result<Setup, Failure> {
        let missing: Vec<Fault> = directories
            .iter()
            .filter(|path| !path.exists())
            .map(|path| Fault::nowhere(format!("{}: there is no such directory", path.display())))
            .collect();
        if !missing.is_empty() {
            return Err(Faults(missing).into());
        }
        Setup::for_job(args, directories)
    }

    /// Like [`Setup::load`], for a job that may create the directories first.
    ///
    /// # Errors
    /// Returns all errors at once.
    pub(crate) fn for_job(args: &ConfigArgs, directories: &[PathBuf]) -> Result<Setup, Failure> {
        Setup::load_with(args, directories, &|name| std::env::var(name).ok())
    }

    /// Like [`Setup::load`], without reading environment variables.
    ///
    /// # Errors
    /// Returns all errors at once.
    pub(crate) fn without_environment(
        args: &ConfigArgs,
        directories: &[PathBuf],
    ) -> Result<Setup, Failure> {
        Setup::load_with(args, directories, &|_| None)
    }

    fn load_with(
        args: &ConfigArgs,
        directories: &[PathBuf],
        env: Env<'_>,
    ) -> Result<Setup, Failure> {
        let (otel, mut warnings) = otel_env::parse(env);
        let flags = Flags {
            endpoint: args.endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
            protocol: args.protocol,
            project_id: args.project_id.clone().filter(|id| !id.is_empty()),
            directories: directories.to_vec(),
        };
        let mut files = args.config.clone();
        if files.is_empty() && directories.is_empty() && Setup::has_default_file() {
            files.push(DEFAULT_FILE.into());
        }
        if files.is_empty() && directories.is_empty() {
            let message = format!(
                "no directory to look at: name one, or a configuration file with --config \
                 (there is no ./{DEFAULT_FILE})"
            );
            return Err(Faults(vec![Fault::nowhere(message)]).into());
        }
        let mut sources: Vec<ConfigDocument> =
            files.into_iter().map(ConfigDocument::File).collect();
        if sources.is_empty() {
            sources.push(Config::without_file());
        }
        let (mut config, more) = Config::from_sources(&sources, &args.set, env)?;
        warnings.extend(more);
        warnings.extend(overlay::apply(&mut config, &flags, &otel)?);
        Ok(Setup {
            config,
            otel,
            warnings,
            state_dir: args.state_dir.clone(),
            default_state_dir: default_state_dir(env),
        })
    }

    /// Whether the default configuration file exists.
    pub(crate) fn has_default_file() -> bool {
        Path::new(DEFAULT_FILE).exists()
    }

    /// Restricts receivers to directories: a file in place of a directory is not an export.
    pub(crate) fn without_files(mut self) -> Setup {
        for receiver in self.config.receivers.values_mut() {
            if let ReceiverConfig::ExportDir(dir) = receiver {
                dir.only_directories = true;
            }
        }
        self
    }

    /// Sets the log level, unless the configuration sets one.
    pub(crate) fn lower_log_level(&mut self, level: &str) {
        let logs = &mut self.config.service.telemetry.logs;
        if *logs == LogsConfig::default() {
            logs.level = level.to_owned();
        }
    }

    /// Starts logging, and logs the warnings about the configuration.
    pub(crate) fn start_logging(&self, global: &Global) {
        logging::start(global, &self.config.service.telemetry.logs);
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Makes every OTLP exporter verify its traces at this URL.
    ///
    /// # Errors
    /// Returns an error if `url` is not a base URL.
    pub(crate) fn verify(&mut self, url: &str) -> Result<(), Failure> {
        Endpoint::base(url)
            .map_err(|error| Faults(vec![Fault::nowhere(format!("--verify: {error}"))]))?;
        for exporter in self.config.exporters.values_mut() {
            if let ExporterConfig::OtlpGrpc(config) | ExporterConfig::OtlpHttp(config) = exporter {
                let verify = config.verify.as_ref();
                let timeout = verify.map_or_else(verify_timeout, |it| it.timeout);
                let after = verify.and_then(|it| it.after);
                config.verify = Some(VerifyConfig { endpoint: url.to_owned(), timeout, after });
            }
        }
        Ok(())
    }

    /// Returns how long requests in flight may take to finish after a signal.
    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.config.service.shutdown_timeout.0
    }

    /// Returns the longest time that the verification of a delivered export can take.
    pub(crate) fn longest_verification(&self) -> Duration {
        let exporters = self.config.exporters.values().filter_map(ExporterConfig::otlp);
        let verified = exporters.filter_map(|(_, config)| config.verify.as_ref());
        verified.map(VerifyConfig::longest).max().unwrap_or_default()
    }

    /// Builds the pipelines and opens their queue.
    ///
    /// # Errors
    /// Returns an error if a component cannot be built, or if the queue cannot be opened and
    /// `on_trouble` refuses to continue without it.
    pub(crate) fn open(&self, on_trouble: OnTrouble) -> Result<Session, Failure> {
        Session::open(self.build()?, self.location(), on_trouble)
    }

    /// Checks that all exporters name the same queue, because they share one.
    fn check_storage(&self) -> Result<(), Failure> {
        let queues = self.config.exporters.values().filter_map(ExporterConfig::otlp);
        let named: BTreeSet<String> = queues
            .filter_map(|(_, config)| config.sending_queue.storage.as_ref())
            .map(ToString::to_string)
            .collect();
        if named.len() < 2 {
            return Ok(());
        }
        let named = Vec::from_iter(named).join("`, `");
        let message = format!(
            "sending_queue.storage: the exporters name different storages (`{named}`), but share \
             one queue; name the same for all"
        );
        Err(Faults(vec![Fault::nowhere(message)]).into())
    }

    /// Returns the location of the queue: the flag, the configured extension, or the user's state
    /// directory. `None` if there is none of them.
    pub(crate) fn location(&self) -> Option<Location> {
        let queues = self.config.exporters.values().filter_map(ExporterConfig::otlp);
        let mut durable = queues.map(|(_, config)| &config.sending_queue).filter(|it| it.enabled);
        let Some(first) = durable.next() else {
            return Some(Location::Memory);
        };
        let extensions = first.storage.iter().chain(&self.config.service.extensions);
        let configured = extensions.filter_map(|id| match self.config.extensions.get(id) {
            Some(ExtensionConfig::FileStorage(storage)) => storage.directory.clone(),
            _ => None,
        });
        let directory = self.state_dir.clone().or_else(|| configured.into_iter().next());
        directory.or_else(|| self.default_state_dir.clone()).map(Location::Directory)
    }

    /// Returns the queue's directory. `None` if the queue is in memory.
    pub(crate) fn queue_directory(&self) -> Option<PathBuf> {
        match self.location()? {
            Location::Directory(directory) => Some(directory),
            Location::Existing(_) | Location::Memory => None,
        }
    }

    /// Builds the pipelines.
    ///
    /// # Errors
    /// Returns an error for each component that cannot be built.
    pub(crate) fn build(&self) -> Result<Pipelines, Failure> {
        self.check_storage()?;
        Pipelines::build(&self.config, &self.otel).map_err(pipeline_faults)
    }
}

/// Reports components that cannot be built as errors in the configuration.
pub(crate) fn pipeline_faults(errors: Vec<PipelineError>) -> Failure {
    let faults = errors.iter().map(|error| Fault::nowhere(error.to_string()));
    Failure::Config(Faults(faults.collect()))
}
