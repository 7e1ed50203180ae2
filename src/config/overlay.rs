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
mod tests {
    use super::*;
    use crate::config::expand::Env;
    use crate::config::load::ConfigDocument;
    use crate::config::otel_env;

    const ONE: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://file:4317, headers: {a: file, b: file}}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]}}}";

    const TWO: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://a:4317}, otlp_http: {endpoint: http://b:4318}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc, otlp_http]}}}";

    fn loaded(text: &str) -> Config {
        let source = ConfigDocument::Text { name: "t.yaml".into(), text: text.into() };
        let no_env: Env<'_> = &|_| None;
        Config::from_sources(&[source], &[], no_env).expect("a valid configuration").0
    }

    fn env(pairs: &[(&str, &str)]) -> OtelEnv {
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        otel_env::parse(&find).0
    }

    fn endpoint_flag(url: &str) -> Flags {
        Flags { endpoint: Some(url.into()), ..Flags::default() }
    }

    fn only(config: &Config) -> (Protocol, OtlpConfig) {
        let (protocol, config) = config.exporters[0].otlp().expect("OTLP");
        (protocol, config.clone())
    }

    #[test]
    fn flag_beats_environment_beats_file() {
        let otel = env(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "b=env"),
        ]);
        let mut config = loaded(ONE);
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        let (protocol, exporter) = only(&config);
        assert_eq!(exporter.endpoint.as_deref(), Some("http://env:4318"));
        assert_eq!(protocol, Protocol::HttpProtobuf, "the port says so");
        assert_eq!(exporter.headers["a"].expose(), "file");
        assert_eq!(exporter.headers["b"].expose(), "env");

        apply(&mut config, &endpoint_flag("http://flag:4317"), &otel).expect("fits");
        let (protocol, exporter) = only(&config);
        assert_eq!(
            (protocol, exporter.endpoint.as_deref()),
            (Protocol::Grpc, Some("http://flag:4317"))
        );
    }

    #[test]
    fn the_protocol_of_the_environment_belongs_to_its_endpoint() {
        let mut config = loaded(ONE);
        let otel = env(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        assert_eq!(only(&config).0, Protocol::Grpc);
    }

    #[test]
    fn the_endpoint_for_traces_is_used_as_it_is() {
        let mut config = loaded(ONE);
        let otel = env(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://env:4318/x"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318"),
        ]);
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        assert_eq!(only(&config).1.traces_endpoint.as_deref(), Some("http://env:4318/x"));
    }

    #[test]
    fn several_exporters_are_left_alone() {
        let mut config = loaded(TWO);
        let before = config.clone();
        let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317")]);
        let warnings = apply(&mut config, &Flags::default(), &otel).expect("a warning");
        assert_eq!((config, warnings.len()), (before.clone(), 1));
        let faults = apply(&mut before.clone(), &endpoint_flag("http://x:4317"), &otel);
        assert!(faults.is_err());
    }

    const LOGS: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://tempo:4317}, otlp_http/loki: {endpoint: http://loki}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]},
  logs: {receivers: [export_dir], exporters: [LOGS]}}}";

    #[test]
    fn logs_get_what_is_said_of_logs_and_no_secret_of_traces() {
        let otel = env(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "secret=of-traces"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "tenant=of-logs"),
        ]);
        let of_logs = |config: &Config| {
            let id = config.service.pipelines[1].exporters[0].clone();
            config.exporters[&id].otlp().expect("OTLP").1.clone()
        };
        // An exporter for Loki keeps its endpoint.
        let mut config = loaded(&LOGS.replace("[LOGS]", "[otlp_http/loki]"));
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        let loki = of_logs(&config);
        assert_eq!(loki.endpoint.as_deref(), Some("http://loki"));
        assert_eq!(loki.headers.keys().collect::<Vec<_>>(), ["tenant"]);

        // The exporter of the traces, with different settings for logs.
        let shared = LOGS
            .replace("[LOGS]", "[otlp_grpc]")
            .replace(", otlp_http/loki: {endpoint: http://loki}", "");
        let mut config = loaded(&shared);
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        let logs = of_logs(&config);
        assert_eq!(logs.endpoint.as_deref(), Some("http://env:4317"));
        assert_eq!(logs.headers.keys().collect::<Vec<_>>(), ["tenant"]);
        assert_eq!(only(&config).1.headers.keys().collect::<Vec<_>>(), ["secret"]);

        // The same exporter, with the same settings.
        let mut config = loaded(&shared);
        let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317")]);
        apply(&mut config, &Flags::default(), &otel).expect("fits");
        assert_eq!(config.exporters.len(), 1);
    }

    #[test]
    fn an_endpoint_of_the_other_protocol_is_a_warning() {
        let mut config = loaded(
            "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: 'http://tempo:4318'}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]}}}",
        );
        let apply_env = |config: &mut Config, otel: &OtelEnv| {
            let warnings = apply(config, &Flags::default(), otel).expect("fits");
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            apply_env(&mut config, &OtelEnv::default()),
            ["exporter `otlp_grpc`: http://tempo:4318: 4318 is usually the port of OTLP/HTTP, \
                 but this exporter uses gRPC"]
        );
        let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4317")]);
        assert_eq!(apply_env(&mut config, &otel), [""; 0]);
    }

    #[test]
    fn a_flag_adds_an_exporter_where_there_is_none() {
        let mut config = loaded(
            "receivers: {export_dir: {directories: [out]}}
exporters: {debug: {}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [debug]}}}",
        );
        apply(&mut config, &endpoint_flag("http://x:4318"), &OtelEnv::default()).expect("fits");
        let pipeline = &config.service.pipelines[0];
        assert_eq!(pipeline.exporters.len(), 2);
        assert!(matches!(config.exporters[1], ExporterConfig::OtlpHttp(_)));
    }

    #[test]
    fn a_bad_flag_is_a_fault() {
        let faults = apply(&mut loaded(ONE), &endpoint_flag("ftp://x"), &OtelEnv::default());
        assert!(faults.expect_err("no such scheme").to_string().contains("endpoint"));
    }
}
