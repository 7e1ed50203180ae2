//! Tests of the configuration as a whole: what loads, which errors are reported and where, and the
//! shipped file.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::service::{MetricsConfig, TelemetryConfig};
use super::*;

const SHIPPED: &str = include_str!("../../pipeline.yaml");

const GOOD: &str = "\
receivers:
  export_dir: {directories: [out]}
exporters:
  otlp/a: {endpoint: 'localhost:4317', headers: {authorization: Bearer hunter2}}
  otlphttp: {endpoint: 'https://x/otlp'}
service:
  pipelines:
    traces/one:
      receivers: [export_dir]
      exporters: [otlp/a, otlphttp]
";

fn no_env(_: &str) -> Option<String> {
    None
}

fn load(yaml: &str) -> Result<(Config, String), String> {
    let source = ConfigDocument::Text { name: "p".into(), text: yaml.into() };
    let lines = |faults: Vec<Fault>| Faults(faults).to_string();
    match Config::from_sources(&[source], &[], &no_env) {
        Ok((config, warnings)) => Ok((config, lines(warnings))),
        Err(faults) => Err(faults.to_string()),
    }
}

#[test]
fn a_good_file_loads_and_prints_without_secrets() {
    let (config, warnings) = load(GOOD).unwrap();
    assert_eq!(warnings, "");
    let kinds: Vec<_> = config.exporters.values().map(ExporterConfig::kind).collect();
    assert_eq!(kinds, ["otlp_grpc", "otlp_http"]);
    let ExporterConfig::OtlpGrpc(otlp) = &config.exporters[0] else { panic!("{config:?}") };
    assert_eq!(otlp.headers["authorization"].expose(), "Bearer hunter2");

    let printed = serde_json::to_string(&config).unwrap() + &format!("{config:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("\"otlp/a\":{\"endpoint\":\"localhost:4317\""), "{printed}");
}

#[test]
fn every_fault_at_once_with_its_place() {
    let yaml = "\
recievers: {}
receivers:
  export_dir:
    directories: []
    settle: 20s
    max_file_size: 12 apples
    spans:
      group_by: colour
      max_attribute_bytes: 1
  gate_results:
  unheard_of: {a: 1}
processors:
  resource: {attributes: [a]}
exporters:
  otlp_http:
    endpoint: localhost:4318
    timeout: 10
    tls: {key_file: k.pem}
    retry_on_failure:
      multiplier: 0.5
      max_intervall: 5s
    sending_queue: {storage: disk}
  file:
  debug: {verbosity: loud}
  otlp_grpc: text
extensions:
  health_check:
service:
  extensions: [health_check, health_check, pprof]
  pipelines:
    traces:
      receivers: [export_dir, otlp_http, a b]
      exporters: [otlp_htp, debug, file]
    logs:
      receivers: [gate_results]
    metrics: {receivers: [unheard_of], exporters: [otlp_http]}
  telemetry: {logs: {level: loud, encoding: xml}}
";
    let expected = "\
p:1:1: unknown section `recievers`; did you mean `receivers`? Known: receivers, processors, exporters, extensions, service
p:4:5: name at least one directory to watch
p:5:13: has to be at most settle_timeout, which is 10s
p:6:20: `12 apples` is not a size such as 64MiB, 3.5MiB, 1GB or 4096
p:8:17: unknown value `colour`. Known: type, target, target_type
p:9:28: has to be between 64 and 1048576
p:10:3: name at least one directory to watch
p:11:3: unknown receiver `unheard_of`. Known: export_dir, gate_results
p:13:26: expected a map, found a list
p:16:15: must start with http:// or https://
p:17:14: `10` needs a unit, as in 10s or 10ms
p:18:21: needs cert_file beside it
p:20:19: has to be 1 or more
p:21:7: unknown key `max_intervall`; did you mean `max_interval`? Known: enabled, initial_interval, multiplier, randomization_factor, max_interval, max_elapsed_time
p:22:30: `disk` is not defined under extensions. Known: health_check
p:23:3: name the file to write
p:24:22: unknown value `loud`. Known: basic, normal, detailed
p:25:14: expected a map, found text
p:29:30: `health_check` is listed twice
p:29:30: a second health_check: one is all that runs
p:29:44: `pprof` is not defined under extensions. Known: health_check
p:32:31: `otlp_http` is defined under exporters, and used here as receivers
p:32:42: `a b` is not a component id: write `type` or `type/name`
p:33:19: `otlp_htp` is not defined under exporters; did you mean `otlp_http`? Known: otlp_http, file, debug, otlp_grpc
p:34:5: pipeline `logs` has no exporters
p:36:5: unknown pipeline kind `metrics`. Known: traces, logs
p:37:29: unknown level `loud`. Known: off, error, warn, info, debug, trace
p:37:45: unknown value `xml`. Known: text, json";
    assert_eq!(load(yaml).unwrap_err(), expected);
}

#[test]
fn no_pipeline_is_a_fault() {
    let message = "no pipeline: service.pipelines needs a `traces` at least";
    assert_eq!(load("").unwrap_err(), format!("p:1:1: {message}"));
    assert_eq!(load("\nservice:\n").unwrap_err(), format!("p:2:1: {message}"));
    assert_eq!(load("service:\n  pipelines: {}").unwrap_err(), format!("p:2:3: {message}"));
    assert_eq!(
        load("service: {pipelines: {traces: }}").unwrap_err(),
        "p:1:23: pipeline `traces` has no exporters\np:1:23: pipeline `traces` has no receivers"
    );
}

#[test]
fn an_unusual_value_is_a_warning() {
    let yaml = GOOD.replace("service:\n", "  debug:\nservice:\n  extensions: [health_check]\n")
        + "extensions: {health_check: , file_storage/x: {directory: d}}\n";
    let (config, warnings) = load(&yaml).unwrap();
    assert_eq!(
        warnings,
        "p:6:3: `debug` is defined and never used\n\
         p:13:30: `file_storage/x` is defined and never used"
    );
    assert_eq!(config.extensions.len(), 2);

    let token = GOOD.replace("Bearer hunter2", "'${env:TOKEN}'");
    let warning = "p:4:65: the environment has no TOKEN; it is taken as empty";
    assert_eq!(load(&token).unwrap().1, warning);
}

#[test]
fn files_sets_and_the_environment_come_together() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    std::fs::write(&file, GOOD).unwrap();
    let sets = ["receivers.export_dir.max_concurrent_exports=${N}".to_owned()];
    let env = |name: &str| (name == "N").then(|| "9".to_owned());
    let (config, _) = Config::load(&[file], &sets, &env).unwrap();
    let ReceiverConfig::ExportDir(receiver) = &config.receivers[0] else { panic!("not one") };
    assert_eq!(receiver.max_concurrent_exports, 9);

    let faults = Config::load(&["/no/such.yaml".into()], &[], &env).unwrap_err();
    assert!(faults.to_string().starts_with("/no/such.yaml: cannot be read"), "{faults}");
}

fn without_file() -> Config {
    let (config, warnings) =
        Config::from_sources(&[Config::without_file()], &[], &|_| None).unwrap();
    assert_eq!(warnings, []);
    config
}

#[test]
fn a_configuration_without_a_file_is_complete() {
    let config = without_file();
    let printed = serde_json::to_string(&config).unwrap();
    // JSON is YAML, so the printed configuration must load.
    assert_eq!(load(&printed).unwrap(), (config, String::new()));
}

#[test]
fn the_shipped_file_loads_without_a_warning() {
    let (config, warnings) = load(SHIPPED).unwrap();
    assert_eq!(warnings, "");
    let mut expected = without_file();
    let ReceiverConfig::ExportDir(receiver) = &mut expected.receivers[0] else { panic!("not one") };
    receiver.directories = vec!["./output".into()];
    let endpoint = Some("http://localhost:4317".into());
    expected.exporters[0] =
        ExporterConfig::OtlpGrpc(OtlpConfig { endpoint, ..OtlpConfig::default() });
    assert_eq!(config, expected);
}

/// Returns the line with its option enabled.
fn uncomment(line: &str) -> String {
    match line.trim_start().strip_prefix('#') {
        Some(option) if option.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            line.replacen('#', "", 1)
        }
        _ => line.to_owned(),
    }
}

/// Every option that is commented out must exist, every existing option must be listed, and the
/// values shown must be the defaults.
#[test]
fn the_shipped_file_shows_every_option_with_its_default() {
    let full: Vec<String> = SHIPPED.lines().map(uncomment).collect();
    let full = full.join("\n");
    load(&full).unwrap();
    let root = Node::parse(&"p".into(), &full, &mut Report::default()).unwrap();

    for (path, defaults) in [
        ("receivers.export_dir", json(&ExportDirConfig::default())),
        ("receivers.gate_results", json(&GateResultsConfig::default())),
        ("receivers.export_dir.task_state.directory", Json::Null),
        ("service.grafana_url", Json::Null),
        ("service.grafana_datasource", json(&Service::default().grafana_datasource)),
        ("processors.redaction", json(&RedactionConfig::default())),
        ("processors.resource", json(&ResourceConfig::default())),
        ("exporters.otlp_grpc", json(&OtlpConfig::default())),
        ("exporters.file", json(&FileConfig::default())),
        ("exporters.debug", json(&DebugConfig::default())),
        ("extensions.file_storage", json(&FileStorageConfig::default())),
        ("extensions.health_check", json(&HealthCheckConfig::default())),
        ("service.shutdown_timeout", json(&Service::default().shutdown_timeout)),
        ("service.max_memory", Json::Null),
        ("service.telemetry.metrics", json(&MetricsConfig::default())),
        ("service.telemetry", json(&TelemetryConfig::default())),
    ] {
        shows(&root, path, &defaults);
    }
}

fn json<T: Serialize>(value: &T) -> Json {
    serde_json::to_value(value).unwrap()
}

fn shows(root: &Node, path: &str, default: &Json) {
    let (_, node) = root.find(path).unwrap_or_else(|| panic!("{path} is not in the file"));
    let text = node.text().unwrap_or_default();
    match default {
        Json::Object(fields) => {
            fields.iter().for_each(|(key, value)| shows(root, &format!("{path}.{key}"), value));
        }
        Json::Array(items) if !items.is_empty() => {
            let shown: Vec<_> = node.items().iter().filter_map(Node::text).collect();
            assert_eq!(json(&shown), *default, "{path}");
        }
        Json::String(default) if !default.is_empty() => assert_eq!(text, default, "{path}"),
        Json::Number(_) | Json::Bool(_) => assert_eq!(text, default.to_string(), "{path}"),
        // The option has no default: the file shows an example.
        _ => {}
    }
}

/// Pieces of configuration, combined at random.
fn yaml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "receivers",
            "export_dir",
            "exporters",
            "otlp",
            "service",
            "pipelines",
            "traces",
            "directories",
            "endpoint",
            "sending_queue",
            "storage",
            "extensions",
            "headers",
            ": ",
            ":\n",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "'",
            "\"",
            "#",
            "&a ",
            "*a",
            "${env:",
            "${",
            "}",
            "$$",
            "~",
            "1",
            "10s",
            "1MiB",
            "true",
            "|\n",
            "!!str ",
            "<<",
            "? ",
            "---\n",
            "\u{feff}",
            "\t",
            "é",
        ])
        .prop_map(str::to_owned),
        ".{0,4}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_panics(yaml in yaml_like(), set in yaml_like()) {
        let source = ConfigDocument::Text { name: "p".into(), text: yaml };
        let _ = Config::from_sources(&[source], &[set], &no_env);
    }

    #[test]
    fn no_change_of_a_good_file_panics(at in 0..GOOD.len(), length in 0..20_usize, put in ".{0,3}") {
        let mut yaml = GOOD.to_owned();
        yaml.replace_range(at..(at + length).min(GOOD.len()), &put);
        let _ = load(&yaml);
    }
}

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipeline.schema.json");

/// `TASKSPAN_SCHEMA=write cargo test --lib schema` writes the file.
#[test]
fn the_shipped_schema_is_that_of_the_types() {
    let made = serde_json::to_string_pretty(&schema::schema()).unwrap() + "\n";
    if std::env::var_os("TASKSPAN_SCHEMA").is_some_and(|what| what == "write") {
        std::fs::write(SCHEMA, &made).unwrap();
    }
    let is_same = std::fs::read_to_string(SCHEMA).unwrap() == made;
    assert!(is_same, "TASKSPAN_SCHEMA=write cargo test --lib schema");
    assert!(SHIPPED.starts_with("# yaml-language-server: $schema=pipeline.schema.json\n"));
}

/// What must be true of a piece of configuration.
enum Is {
    /// It loads, and the schema accepts it.
    Good,
    /// It does not load, and the schema refuses it.
    Bad,
    /// It does not load, but a schema cannot express why: a rule between two values, or a form
    /// without a pattern.
    BeyondTheSchema,
}

#[test]
fn the_schema_and_the_loader_agree() {
    use Is::{Bad, BeyondTheSchema, Good};
    let schema = jsonschema::draft7::new(&schema::schema()).unwrap();
    let uncommented: Vec<String> = SHIPPED.lines().map(uncomment).collect();
    let whole = [SHIPPED.to_owned(), GOOD.to_owned(), uncommented.join("\n")];
    let whole = whole.into_iter().map(|text| (text, Good));
    let export_dir = |options: &str, is| (format!("receivers: {{export_dir: {{{options}}}}}"), is);
    let otlp = |options: &str, is| (format!("exporters: {{otlp/a: {{{options}}}}}"), is);
    let service = |options: &str, is| (format!("service: {{{options}}}"), is);
    let plain = |text: &str, is| (text.to_owned(), is);
    let pieces = [
        // A key without a value means the default.
        plain("receivers:", Good),
        plain("processors: {redaction: , resource/x: }", Good),
        plain("extensions: {health_check: , file_storage/q: {directory: }}", Good),
        export_dir("recursive: , include: , settle: , spans: , project_id: ", Good),
        export_dir("spans: {group_by: , max_attribute_bytes: }, write_back: {mode: }", Good),
        otlp("headers: , tls: , retry_on_failure: {multiplier: , enabled: }, compression: ", Good),
        service("extensions: , telemetry: {logs: {level: }, metrics: }", Good),
        // A variable may replace any value.
        export_dir("recursive: '${env:T}', max_concurrent_exports: '${env:N}'", Good),
        export_dir("settle: '${env:D}', max_file_size: '${env:NONE:-1MiB}'", Good),
        export_dir("spans: {group_by: '${env:G}'}, directories: ['${env:X}/out']", Good),
        otlp("retry_on_failure: {multiplier: '${env:N}'}, compression: '${env:C}'", Good),
        service("telemetry: {logs: {level: '${env:L}', encoding: '${env:E}'}}", Good),
        // The target type decides.
        export_dir("recursive: 'false', max_concurrent_exports: '8', project_id: 12", Good),
        export_dir("max_file_size: 4096.5, settle: '100ms', poll_interval: 1h2m3.5s", Good),
        otlp("retry_on_failure: {max_elapsed_time: 0, randomization_factor: '0.1'}", Good),
        otlp("headers: {a: 1, b: true, c: x}, verify: {endpoint: 'http://t:3200'}", Good),
        plain("processors: {resource: {attributes: {a: true, b: 1, c: 1.10}}}", Good),
        service("telemetry: {logs: {level: WARN, encoding: json}}, shutdown_timeout: 0", Good),
        service("pipelines: {traces/one: {processors: }}, grafana_url: ", Good),
        service("max_memory: 16MiB", Good),
        service("telemetry: {metrics: {address: '[::1]:0'}}", Good),
        // Spelling errors.
        plain("recievers: {}", Bad),
        plain("receivers: {export_dirs: {}}", Bad),
        plain("receivers: {'export_dir/': {}}", Bad),
        plain("receivers: []", Bad),
        plain("exporters: {file: {path: ''}}", Bad),
        plain("exporters: {debug: {verbosity: loud}}", Bad),
        plain("processors: {redaction: {keys: ['']}}", Bad),
        plain("extensions: {health_check: {endpoint: localhost}}", Bad),
        plain("extensions: {health_check: {path: live}}", Bad),
        plain("extensions: {health_check: {path: /live}}", Bad),
        export_dir("directory: x", Bad),
        export_dir("directories: out", Bad),
        export_dir("directories: []", Bad),
        export_dir("directories: ['']", Bad),
        export_dir("include: []", Bad),
        export_dir("recursive: maybe", Bad),
        export_dir("recursive: 1", Bad),
        export_dir("settle: 100", Bad),
        export_dir("settle: 5 apples", Bad),
        export_dir("settle: -1s", Bad),
        export_dir("max_file_size: 12 apples", Bad),
        export_dir("max_file_size: -1", Bad),
        export_dir("max_concurrent_exports: 0", Bad),
        export_dir("max_concurrent_exports: 65", Bad),
        export_dir("max_concurrent_exports: 1.5", Bad),
        export_dir("max_concurrent_exports: many", Bad),
        export_dir("project_id: ' '", Bad),
        export_dir("on_existing_trace_id: never", Bad),
        export_dir("write_back: off", Bad),
        export_dir("write_back: {mode: sideways}", Bad),
        export_dir("spans: {group_by: colour}", Bad),
        export_dir("spans: {max_attribute_bytes: 63}", Bad),
        export_dir("task_state: {directory: ''}", Bad),
        export_dir("task_state: {}", Bad),
        otlp("compression: zip", Bad),
        otlp("headers: [a]", Bad),
        otlp("retry_on_failure: {multiplier: 0.5}", Bad),
        otlp("retry_on_failure: {randomization_factor: 2}", Bad),
        otlp("sending_queue: {storage: a b}", Bad),
        otlp("verify: {}", Bad),
        service("pipelines: {metrics: {}}", Bad),
        service("pipelines: {traces/one: {receivers: export_dir}}", Bad),
        service("pipelines: {traces/one: {receivers: []}}", Bad),
        service("pipelines: {traces/one: {exporters: [a b]}}", Bad),
        service("telemetry: {logs: {level: loud}}", Bad),
        service("telemetry: {metrics: {address: '8888'}}", Bad),
        service("telemetry: {traces: {}}", Bad),
        // Only `taskspan validate` finds these.
        export_dir("settle: 20s", BeyondTheSchema),
        export_dir("settle: 0s", BeyondTheSchema),
        export_dir("rescan_interval: 1ms", BeyondTheSchema),
        export_dir("include: ['[']", BeyondTheSchema),
        export_dir("max_file_size: 1B", BeyondTheSchema),
        otlp("endpoint: 'ftp://x'", BeyondTheSchema),
        otlp("tls: {key_file: k.pem}", BeyondTheSchema),
        otlp("retry_on_failure: {max_interval: 1ms}", BeyondTheSchema),
        otlp("sending_queue: {storage: nowhere}", BeyondTheSchema),
        service("max_memory: 15MiB", BeyondTheSchema),
        service("extensions: [pprof]", BeyondTheSchema),
        service("pipelines: {traces/one: {receivers: [unknown]}}", BeyondTheSchema),
        plain("processors: {redaction: {keys: ['(']}}", BeyondTheSchema),
    ];
    let env = |name: &str| {
        let known = [
            ("T", "true"),
            ("N", "9"),
            ("D", "1s"),
            ("G", "target"),
            ("X", "/x"),
            ("C", "gzip"),
            ("L", "info"),
            ("E", "json"),
        ];
        known.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    for (text, is) in whole.chain(pieces) {
        let sources = [("good", GOOD), ("piece", &text)]
            .map(|(name, text)| ConfigDocument::Text { name: name.into(), text: text.into() });
        let loads =
            Config::from_sources(&sources, &[], &env).err().map(|faults| faults.to_string());
        let parsed: Json = serde_saphyr::from_str(&text).unwrap();
        let says: Vec<_> = schema.iter_errors(&parsed).map(|error| error.to_string()).collect();
        match is {
            Good => assert!(loads.is_none() && says.is_empty(), "{text}\n{loads:?}\n{says:?}"),
            Bad => assert!(loads.is_some() && !says.is_empty(), "{text}\n{loads:?}\n{says:?}"),
            BeyondTheSchema => {
                assert!(loads.is_some() && says.is_empty(), "{text}\n{loads:?}\n{says:?}");
            }
        }
    }
}
