//! Applies flags and environment variables to the configuration of the files.
//!
//! ```text
//! --endpoint, --protocol, --project-id ─┐
//! OTEL_EXPORTER_OTLP_* ─────────────────┴─▶ the one OTLP exporter of the traces pipelines
//! OTEL_EXPORTER_OTLP_LOGS_* ──────────────▶ the one OTLP exporter of the logs pipelines
//! ```
//!
//! Both set one endpoint, so they apply only if there is one OTLP exporter. With several exporters
//! a flag is an error. Environment variables, which may be meant for other programs, are ignored
//! with a warning.

use std::path::PathBuf;

use super::fault::{Fault, Faults};
use super::otel_env::{EndpointEnv, OtelEnv, OtlpEnv};
use super::{Config, ExporterConfig, ReceiverConfig};
use crate::base::signal::Signal;
use crate::base::units::{ComponentId, HumanDuration};
use crate::exporter::config::{OtlpConfig, Protocol};
use crate::exporter::endpoint::Endpoint;

/// The flags of the command line for the pipelines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) endpoint: Option<String>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) project_id: Option<String>,
    /// Replaces the receiver's directories, unless empty.
    pub(crate) directories: Vec<PathBuf>,
}

/// Applies both to a configuration from files. Returns warnings.
///
/// # Errors
/// Returns an error for each flag that does not fit the configuration.
pub(crate) fn apply(
    config: &mut Config,
    flags: &Flags,
    otel: &OtelEnv,
) -> Result<Vec<Fault>, Faults> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    apply_to_receivers(config, flags, &mut faults);
    let of_file = config.clone();
    if flags.endpoint.is_some() && otlp_exporters(config, Signal::Traces).is_empty() {
        add_exporter(config);
    }
    let exporters = otlp_exporters(config, Signal::Traces);
    match exporters.as_slice() {
        [] => {}
        [only] => {
            if let Some(exporter) = config.exporters.get_mut(only) {
                *exporter = overlaid(exporter, flags, &otel.traces, Signal::Traces);
                check(only, exporter, &mut faults);
            }
        }
        several => {
            let names: Vec<String> = several.iter().map(ToString::to_string).collect();
            let names = names.join(", ");
            if flags.endpoint.is_some() || flags.protocol.is_some() {
                faults.0.push(Fault::nowhere(format!(
                    "--endpoint and --protocol fit a pipeline with one OTLP exporter, and there \
                     are several ({names}); set each endpoint in the configuration file"
                )));
            } else if otel.traces != OtlpEnv::default() {
                warnings.push(Fault::nowhere(format!(
                    "OTEL_EXPORTER_OTLP_* is set, but there are several OTLP exporters ({names}); \
                     each keeps what the configuration file says"
                )));
            }
        }
    }
    apply_to_logs(config, &of_file, flags, otel, &mut warnings, &mut faults);
    warnings.extend(doubtful_endpoints(config));
    if faults.is_empty() { Ok(warnings) } else { Err(faults) }
}

/// A warning for each endpoint whose port or path belongs to the other protocol.
fn doubtful_endpoints(config: &Config) -> Vec<Fault> {
    let mut warnings = Vec::new();
    for signal in [Signal::Traces, Signal::Logs] {
        for id in otlp_exporters(config, signal) {
            let otlp = config.exporters.get(&id).and_then(ExporterConfig::otlp);
            let Some((protocol, otlp)) = otlp else { continue };
            let Ok(Some(endpoint)) = otlp.endpoint_for(protocol, signal) else { continue };
            if let Some(doubt) = endpoint.doubt(protocol) {
                let warning = Fault::nowhere(format!("exporter `{id}`: {endpoint}: {doubt}"));
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
    }
    warnings
}

/// Applies the settings to the exporter of logs. An exporter that only logs use gets the variables
/// for logs only: those for all signals are meant for the traces, and would send the records of a
/// Loki to a Tempo. An exporter that traces use too is duplicated if the settings of the two
/// signals differ.
fn apply_to_logs(
    config: &mut Config,
    of_file: &Config,
    flags: &Flags,
    otel: &OtelEnv,
    warnings: &mut Vec<Fault>,
    faults: &mut Faults,
) {
    let exporters = otlp_exporters(config, Signal::Logs);
    let [only] = exporters.as_slice() else {
        if !exporters.is_empty() && otel.logs != OtlpEnv::default() {
            let message = "OTEL_EXPORTER_OTLP_LOGS_* is set, but there are several OTLP exporters of \
                           logs; each keeps what the configuration file says";
            warnings.push(Fault::nowhere(message));
        }
        return;
    };
    let Some(original) = of_file.exporters.get(only).or(config.exporters.get(only)) else { return };
    let of_traces = otlp_exporters(config, Signal::Traces);
    let shares_all = of_traces.as_slice() == [only.clone()];
    let base = match shares_all {
        true => overlaid(original, flags, &otel.generic, Signal::Logs),
        false => original.clone(),
    };
    let mut named = otel.logs.clone();
    if shares_all && flags.endpoint.is_some() {
        named.endpoint = None;
    }
    let for_logs = overlaid(&base, &Flags::default(), &named, Signal::Logs);
    check(only, &for_logs, faults);
    if !of_traces.contains(only) {
        config.exporters.insert(only.clone(), for_logs);
    } else if config.exporters.get(only) != Some(&for_logs) {
        let name = only.name.as_ref().map_or("logs".to_owned(), |name| format!("{name}-logs"));
        let own = ComponentId { kind: for_logs.kind().to_owned(), name: Some(name) };
        config.exporters.insert(own.clone(), for_logs);
        let pipelines = config.service.pipelines.iter_mut().filter(|(id, _)| id.kind == "logs");
        for id in pipelines.flat_map(|(_, pipeline)| &mut pipeline.exporters) {
            if id == only {
                id.clone_from(&own);
            }
        }
    }
}

fn apply_to_receivers(config: &mut Config, flags: &Flags, faults: &mut Faults) {
    let export_dirs = config.receivers.values_mut().filter_map(|receiver| match receiver {
        ReceiverConfig::ExportDir(receiver) => Some(receiver),
        ReceiverConfig::GateResults(_) => None,
    });
    let mut export_dirs: Vec<_> = export_dirs.collect();
    if export_dirs.len() > 1 && !flags.directories.is_empty() {
        let message = "a directory was given, but there are several export_dir receivers";
        faults.0.push(Fault::nowhere(message));
    }
    for receiver in &mut export_dirs {
        if flags.project_id.is_some() {
            receiver.project_id.clone_from(&flags.project_id);
        }
        if !flags.directories.is_empty() {
            receiver.directories.clone_from(&flags.directories);
        }
    }
}

/// Returns the OTLP exporters that the pipelines of a signal use.
fn otlp_exporters(config: &Config, signal: Signal) -> Vec<ComponentId> {
    let kind = signal.to_string();
    let mut found: Vec<ComponentId> = Vec::new();
    let pipelines = config.service.pipelines.iter().filter(|(id, _)| id.kind == kind);
    for id in pipelines.flat_map(|(_, pipeline)| &pipeline.exporters) {
        let is_otlp = config.exporters.get(id).is_some_and(|exporter| exporter.otlp().is_some());
        if is_otlp && !found.contains(id) {
            found.push(id.clone());
        }
    }
    found
}

fn add_exporter(config: &mut Config) {
    let id = ComponentId { kind: "otlp_grpc".to_owned(), name: Some("endpoint".to_owned()) };
    config.exporters.insert(id.clone(), ExporterConfig::OtlpGrpc(OtlpConfig::default()));
    for (pipeline_id, pipeline) in &mut config.service.pipelines {
        if pipeline_id.kind == "traces" {
            pipeline.exporters.push(id.clone());
        }
    }
}

fn overlaid(
    exporter: &ExporterConfig,
    flags: &Flags,
    env: &OtlpEnv,
    signal: Signal,
) -> ExporterConfig {
    let Some((of_file, config)) = exporter.otlp() else {
        return exporter.clone();
    };
    let mut config = config.clone();
    let given = flags.endpoint.as_deref().or(env.endpoint.as_ref().map(|it| it.url.as_str()));
    match (&flags.endpoint, &env.endpoint) {
        (Some(url), _) | (None, Some(EndpointEnv { url, exact: false })) => {
            config.endpoint = Some(url.clone());
            config.traces_endpoint = None;
            config.logs_endpoint = None;
        }
        (None, Some(EndpointEnv { url, exact: true })) => {
            let own = match signal {
                Signal::Traces => &mut config.traces_endpoint,
                Signal::Logs => &mut config.logs_endpoint,
            };
            *own = Some(url.clone());
        }
        (None, None) => {}
    }
    // The protocol in the environment belongs to the endpoint there. Without that endpoint it would
    // change the component of the file.
    let of_env = env.protocol.filter(|_| given.is_some() || config.endpoint.is_none());
    let protocol =
        flags.protocol.or(of_env).or_else(|| given.and_then(protocol_of_port)).unwrap_or(of_file);

    config.headers.extend(env.headers.clone());
    config.timeout = env.timeout.map_or(config.timeout, HumanDuration);
    config.compression = env.compression.unwrap_or(config.compression);
    config.tls.insecure = env.insecure.unwrap_or(config.tls.insecure);
    let over = |value: &mut Option<PathBuf>, given: &Option<PathBuf>| {
        if given.is_some() {
            value.clone_from(given);
        }
    };
    over(&mut config.tls.ca_file, &env.ca_file);
    over(&mut config.tls.cert_file, &env.client_certificate);
    over(&mut config.tls.key_file, &env.client_key);
    match protocol {
        Protocol::Grpc => ExporterConfig::OtlpGrpc(config),
        Protocol::HttpProtobuf => ExporterConfig::OtlpHttp(config),
    }
}

/// If no protocol is given, it is inferred from the port of the endpoint.
fn protocol_of_port(endpoint: &str) -> Option<Protocol> {
    // `host:port` is an endpoint too.
    let endpoint =
        Endpoint::http(endpoint).or_else(|_| Endpoint::http(&format!("http://{endpoint}")));
    match endpoint.ok()?.port() {
        4317 => Some(Protocol::Grpc),
        4318 => Some(Protocol::HttpProtobuf),
        _ => None,
    }
}

/// Checks an exporter that was changed by flags or variables.
fn check(id: &ComponentId, exporter: &ExporterConfig, faults: &mut Faults) {
    let Some((protocol, config)) = exporter.otlp() else {
        return;
    };
    config.check(protocol, &mut |key, message| {
        faults.0.push(Fault::nowhere(format!("exporter `{id}`, {key}: {message}")));
    });
}

#[cfg(test)]
mod tests;
