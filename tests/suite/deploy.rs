//! Guarantees:
//!
//! - Every file under `deploy/` parses, and the image is built from files that exist.
//! - Every query of the dashboard is in the cookbook.
//! - The reference pages list every option, command, error and warning, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde_json::Value;

use crate::support::workspace::Workspace;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(directory: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ends));
        } else if path.extension().is_some_and(|end| ends.iter().any(|it| end == *it)) {
            found.push(path);
        }
    }
    found
}

/// Returns the lines of the fenced blocks in these languages.
pub fn blocks(page: &str, languages: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => inside = !inside && languages.contains(&language),
            None if inside && !line.trim().is_empty() => lines.push(line.trim().to_owned()),
            None => {}
        }
    }
    lines
}

#[test]
fn everything_under_deploy_parses() {
    let deploy = root().join("deploy");
    let yaml = files(&deploy, &["yaml", "yml"]);
    assert!(yaml.len() > 15, "{yaml:?}");
    for path in yaml {
        let text = fs::read_to_string(&path).unwrap();
        let documents = serde_saphyr::from_multiple::<Value>(&text);
        let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!documents.is_empty(), "{}", path.display());
    }
    for path in files(&deploy, &["json"]) {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = serde_json::from_str::<Value>(&text);
        parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Every file that the build reads must be copied into the image's build.
#[test]
fn the_dockerfile_copies_what_the_build_reads() {
    let dockerfile = read("Dockerfile");
    let sources = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    let context: Vec<&str> = sources
        .filter(|line| !line.starts_with("--"))
        .flat_map(|line| line.split(' ').rev().skip(1).collect::<Vec<_>>())
        .collect();
    let ignored = read(".dockerignore");
    for path in &context {
        assert!(ignored.lines().any(|line| line.strip_prefix('!') == Some(path)), "{path}");
    }
    for path in files(&root().join("src"), &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("include_str!(\"") {
            let target = text[at..].split('"').nth(1).unwrap();
            let target = path.parent().unwrap().join(target).canonicalize().unwrap();
            let target = target.strip_prefix(root()).unwrap();
            let is_test = path.ends_with("tests.rs");
            let is_copied = context.iter().any(|it| target.starts_with(it));
            assert!(is_copied || is_test, "{} reads {}", path.display(), target.display());
        }
    }
    // Cargo refuses the manifest if a target that it names is missing.
    let manifest = read("Cargo.toml");
    for path in manifest.lines().filter_map(|line| line.strip_prefix("path = ")) {
        let path = path.trim_matches('"');
        assert!(context.iter().any(|it| Path::new(path).starts_with(it)), "{path}");
    }
    assert!(!manifest.contains("[[bench]]") || context.contains(&"benches"));
}

/// Collects every string under a key that holds a query.
fn queries(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if ["expr", "query"].contains(&key.as_str()) => {
                        found.insert(text.split_whitespace().collect::<Vec<_>>().join(" "));
                    }
                    _ => queries(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_query_of_the_dashboard_is_in_the_cookbook() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).unwrap();
    let mut used = BTreeSet::new();
    queries(&dashboard["panels"], &mut used);
    assert!(used.len() > 10, "{used:?}");
    let cookbook = read("docs/cookbook.md");
    let known: BTreeSet<String> =
        blocks(&cookbook, &["traceql", "logql", "promql"]).into_iter().collect();
    for query in used.iter().filter(|query| *query != "$trace" && !query.is_empty()) {
        let plain = query
            .replace("$project", "my-project")
            .replace("$artifact", "tracking_api-prometheus-rules");
        assert!(known.contains(&plain), "not in docs/cookbook.md: {plain}");
    }
    let listed = blocks(&read("deploy/grafana/README.md"), &["text"]);
    for query in listed.iter().filter(|query| *query != "$trace") {
        assert!(known.contains(query), "not in docs/cookbook.md: {query}");
    }
}

/// Collects the options of one component in dotted form, from the schema.
fn options(schema: &Value, node: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    let resolved = |node: &Value| -> Value {
        let reference = ["/$ref", "/allOf/0/$ref", "/anyOf/0/$ref"];
        let name = reference.iter().find_map(|path| node.pointer(path)?.as_str());
        match name.and_then(|name| name.strip_prefix("#/definitions/")) {
            Some(name) => schema["definitions"][name].clone(),
            None => node.clone(),
        }
    };
    for (key, value) in node["properties"].as_object().into_iter().flatten() {
        let inner = resolved(value);
        let name = format!("{prefix}{key}");
        if inner["properties"].is_object() {
            options(schema, &inner, &format!("{name}."), found);
        } else {
            found.insert(name);
        }
    }
}

#[test]
fn the_configuration_page_has_every_option() {
    let schema: Value = serde_json::from_str(&read("pipeline.schema.json")).unwrap();
    let page = read("docs/configuration.md");
    for (heading, definition) in [
        ("receivers: export_dir", "ExportDirConfig"),
        ("receivers: gate_results", "GateResultsConfig"),
        ("processors: redaction", "RedactionConfig"),
        ("processors: resource", "ResourceConfig"),
        ("exporters: file", "FileConfig"),
        ("exporters: debug", "DebugConfig"),
        ("extensions: file_storage", "FileStorageConfig"),
        ("extensions: health_check", "HealthCheckConfig"),
        ("service", "Service"),
    ] {
        let section = page.split(&format!("\n## {heading}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<String> =
            rows.map(|row| row.split('`').next().unwrap().to_owned()).collect();
        let mut expected = BTreeSet::new();
        options(&schema, &schema["definitions"][definition], "", &mut expected);
        assert_eq!(listed, expected, "{heading}");
    }
    let mut otlp = BTreeSet::new();
    options(&schema, &schema["definitions"]["OtlpConfig"], "", &mut otlp);
    for option in otlp {
        assert!(page.contains(&format!("| `{option}` |")), "{option}");
    }
}

/// A message that is no longer printed must not be on the page.
#[test]
fn the_messages_of_the_troubleshooting_page_are_in_the_source() {
    let source: String = [root().join("src"), root().join("yaml/src")]
        .iter()
        .flat_map(|directory| files(directory, &["rs"]))
        .map(|it| fs::read_to_string(it).unwrap())
        .collect();
    // A literal may span several lines.
    let plain =
        |text: &str| text.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let source = plain(&source.replace("\\\"", "\""));
    let page = read("docs/troubleshooting.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let mut checked = 0;
    for row in rows {
        let first = row.split(" | ").next().unwrap();
        for fragment in first.split('`').skip(1).step_by(2).filter(|it| it.trim().len() >= 12) {
            let is_command = fragment.trim().starts_with("taskspan ");
            assert!(
                is_command || source.contains(fragment.trim()),
                "not in the source: {fragment}"
            );
            checked += 1;
        }
    }
    assert!(checked > 150, "{checked}");
}

/// The other direction: errors and warnings of the source must be on the page.
#[test]
fn the_troubleshooting_page_has_every_error_and_warning() {
    let literal = r#""((?:[^"\\]|\\.)*)""#;
    let shown = [r"#\[error\(", r"tracing::(?:warn|error)!\([^\x22]*", r"(?:anyhow|bail)!\("];
    let shown = shown.map(|what| Regex::new(&format!("{what}{literal}")).unwrap());
    let (broken, value) = (Regex::new(r"\\\n\s*").unwrap(), Regex::new(r"\{[^}]*\}").unwrap());
    let page = read("docs/troubleshooting.md");
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).map(str::trim).collect();
    let named: Vec<&str> = named.into_iter().filter(|it| it.len() >= 8).collect();
    let mut checked = 0;
    for path in files(&root().join("src"), &["rs"]) {
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("\nmod tests {").next().unwrap();
        let source = broken.replace_all(source, "");
        for found in shown.iter().flat_map(|what| what.captures_iter(&source)) {
            let message = found[1].replace("\\\"", "\"");
            let parts: Vec<&str> = value.split(&message).map(str::trim).collect();
            let parts: Vec<&str> = parts.into_iter().filter(|it| it.len() >= 12).collect();
            let is_named = named
                .iter()
                .any(|it| message.contains(it) || parts.iter().any(|part| it.contains(part)));
            assert!(
                is_named || parts.is_empty(),
                "not on the page: {message} ({})",
                path.display()
            );
            checked += usize::from(!parts.is_empty());
        }
    }
    assert!(checked > 70, "{checked}");
}

#[test]
fn the_manual_page_speaks_of_every_command() {
    let workspace = Workspace::new();
    let page = workspace.program("man").run().expect_code(0).stdout;
    for command in ["RUN", "ONCE", "EXEC", "TASK", "GATE", "QUEUE", "VALIDATE"] {
        assert!(page.contains(&format!(".SH TASKSPAN {command}")), "{command}");
    }
}
