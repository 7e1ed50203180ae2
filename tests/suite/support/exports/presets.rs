//! Exports, each named after its special case.

use serde_json::{Map, Value, json};

use super::{Artifact, ExportBuilder, Manifest};

/// Returns every preset except `many`, with its name.
pub fn all() -> Vec<(&'static str, ExportBuilder)> {
    vec![
        ("one", one()),
        ("empty", empty()),
        ("typical", typical()),
        ("every_status", every_status()),
        ("all_done", all_done()),
        ("cycle", cycle()),
        ("self_edge", self_edge()),
        ("unknown_dependency", unknown_dependency()),
        ("repeated_edge", repeated_edge()),
        ("long_rules", long_rules()),
        ("rule_over_limit", rule_over_limit()),
        ("long_strings", long_strings()),
        ("long_contract", long_contract()),
        ("many_parameters", many_parameters()),
        ("parameter_types", parameter_types()),
        ("secrets", secrets()),
        ("unicode", unicode()),
        ("gap_not_in_manifest", gap_not_in_manifest()),
        ("duplicate_artifact", duplicate_artifact()),
        ("sparse_manifest", sparse_manifest()),
        ("as_contextcore_writes", as_contextcore_writes()),
    ]
}

/// One artifact.
pub fn one() -> ExportBuilder {
    ExportBuilder::new("one").artifact(Artifact::new("api-slo", "slo_definition"))
}

/// No artifacts.
pub fn empty() -> ExportBuilder {
    ExportBuilder::new("empty")
}

/// Two targets, three types, dependencies, contracts and rules: a typical project.
pub fn typical() -> ExportBuilder {
    let mut export = ExportBuilder::new("shop")
        .project_name("Corner Shop")
        .owner("team-shop")
        .contract("dashboard", contract("comprehensive", 300))
        .contract("prometheus_rule", contract("standard", 150))
        .rules("service_monitor", json!([{"property": "interval", "source_field": "spec.metrics"}]))
        .artifact_type(
            "dashboard",
            json!({"parameter_sources": {"criticality": "manifest.spec.business.criticality"}}),
        )
        .mapped_task("cart-dashboard", "PI-007");
    for target in ["cart", "payment"] {
        let id = |suffix: &str| format!("{target}-{suffix}");
        export = export
            .artifact(
                Artifact::new(&id("dashboard"), "dashboard")
                    .target(target)
                    .parameters(
                        json!({"criticality": "critical", "datasources": ["Tempo", "Loki"]}),
                    )
                    .derived_from(json!([{"property": "title", "sourceField": "spec.name"}]))
                    .depends_on(&[&id("rules")]),
            )
            .artifact(
                Artifact::new(&id("rules"), "prometheus_rule")
                    .target(target)
                    .parameters(json!({"alertSeverity": "P1", "threshold": null}))
                    .depends_on(&[&id("monitor")]),
            )
            .artifact(
                Artifact::new(&id("monitor"), "service_monitor")
                    .target(target)
                    .priority("recommended")
                    .parameters(json!({"metricsInterval": "30s"})),
            );
    }
    export
}

/// One artifact per status, and a second type.
pub fn every_status() -> ExportBuilder {
    let with = |status: &str| Artifact::new(&format!("api-{status}"), "dashboard").status(status);
    ExportBuilder::new("statuses")
        .owner("team-status")
        .contract("dashboard", contract("brief", 50))
        .artifact(with("needed").depends_on(&["api-exists"]))
        .artifact(with("exists").existing_path("grafana/api.json"))
        .artifact(with("outdated"))
        .artifact(with("skipped"))
        .artifact(Artifact::new("api-runbook", "runbook").status("exists"))
}

/// All artifacts exist, and the exporter's coverage is above 100 %.
pub fn all_done() -> ExportBuilder {
    ExportBuilder::new("done")
        .artifact(Artifact::new("api-slo", "slo_definition").status("exists"))
        .artifact(Artifact::new("api-loki", "loki_rule").status("exists").priority("recommended"))
}

/// A cycle of three, a task that depends on it (and comes first), and one that it depends on.
pub fn cycle() -> ExportBuilder {
    let rule = |id: &str, on: &[&str]| Artifact::new(id, "prometheus_rule").depends_on(on);
    ExportBuilder::new("cycle")
        .artifact(rule("behind", &["ring-a"]))
        .artifact(rule("ring-a", &["ring-b"]))
        .artifact(rule("ring-b", &["ring-c"]))
        .artifact(rule("ring-c", &["ring-a", "before"]))
        .artifact(rule("before", &[]))
}

/// An artifact that depends on itself and on another one.
pub fn self_edge() -> ExportBuilder {
    ExportBuilder::new("self-edge")
        .artifact(Artifact::new("narcissus", "dashboard").depends_on(&["narcissus", "echo"]))
        .artifact(Artifact::new("echo", "dashboard"))
}

/// Dependencies on artifacts that do not exist.
pub fn unknown_dependency() -> ExportBuilder {
    ExportBuilder::new("unknown-dep")
        .artifact(Artifact::new("api-slo", "slo_definition").depends_on(&["nowhere", "api-sm"]))
        .artifact(Artifact::new("api-sm", "service_monitor"))
        .artifact(Artifact::new("api-runbook", "runbook").depends_on(&["gone"]))
}

/// The same edge three times, and dependency graph entries that override the manifest.
pub fn repeated_edge() -> ExportBuilder {
    ExportBuilder::new("repeated")
        .artifact(Artifact::new("a", "dashboard").depends_on(&["b", "c", "b", "b"]))
        .artifact(Artifact::new("b", "dashboard").depends_on(&["c"]))
        .artifact(Artifact::new("c", "dashboard").depends_on(&["a"]))
        .graph("b", &["c", "c"])
        .graph("c", &[])
}

/// About 3.6 KB of derivation rules, which do not fit into one attribute.
pub fn long_rules() -> ExportBuilder {
    let rule = |n: usize| {
        json!({
            "property": format!("panels.{n}"),
            "sourceField": format!("spec.requirements.field{n}"),
            "transformation": format!("threshold {n}: \"{}\"", "x".repeat(80)),
        })
    };
    let rules = (0..20).map(rule).collect::<Value>();
    ExportBuilder::new("long-rules")
        .contract("dashboard", contract("comprehensive", 300))
        .artifact(Artifact::new("own-rules", "dashboard").derived_from(rules.clone()))
        .artifact(Artifact::new("type-rules", "runbook"))
        .rules("runbook", rules)
}

/// A single rule that does not fit into an attribute.
pub fn rule_over_limit() -> ExportBuilder {
    let rule = json!({"property": "title", "transformation": "ü".repeat(2500)});
    let short = json!({"property": "panels", "transformation": "none"});
    ExportBuilder::new("rule-over-limit")
        .artifact(Artifact::new("api-dashboard", "dashboard").derived_from(json!([short, rule])))
}

/// Strings at and above the limit. Truncating by bytes would split a multi-byte character.
pub fn long_strings() -> ExportBuilder {
    let parameters = json!({
        "exactly": "x".repeat(2048),
        "one_more": "x".repeat(2049),
        "umlauts": format!("x{}", "ü".repeat(1500)),
        "emoji": "🦀".repeat(600),
        "object": {"nested": "y".repeat(3000)},
        "list": ["short", "z".repeat(4000)],
    });
    ExportBuilder::new("long-strings").artifact(
        Artifact::new("api-dashboard", "dashboard")
            .name(&"A long title. ".repeat(200))
            .parameters(parameters),
    )
}

/// An `artifact.intent` contract that is above the limit because of its parameter sources.
pub fn long_contract() -> ExportBuilder {
    let sources: Map<String, Value> =
        (0..60).map(|n| (format!("key{n}"), json!("spec.".repeat(12)))).collect();
    ExportBuilder::new("long-contract")
        .artifact_type("dashboard", json!({"parameter_sources": sources}))
        .contract("dashboard", contract("comprehensive", 300))
        .artifact(Artifact::new("api-dashboard", "dashboard"))
}

/// 200 parameters, more than the default attribute limit of OpenTelemetry SDKs (128).
pub fn many_parameters() -> ExportBuilder {
    let parameters: Map<String, Value> =
        (0..200).map(|n| (format!("parameter{n:03}"), json!(n))).collect();
    ExportBuilder::new("many-parameters")
        .artifact(Artifact::new("api-dashboard", "dashboard").parameters(Value::Object(parameters)))
}

/// Parameters of every type, one or more per typing rule.
pub fn parameter_types() -> ExportBuilder {
    let parameters = json!({
        "string": "text",
        "numeric_string": "99.95",
        "empty_string": "",
        "bool": true,
        "int": 42,
        "negative": -7,
        "largest_int": i64::MAX,
        "beyond_int": u64::MAX,
        "double": 0.5,
        "whole_double": 3.0,
        "null": null,
        "strings": ["a", "b"],
        "ints": [1, 2, 3],
        "doubles": [1.5, 2.0],
        "bools": [true, false],
        "nothing": [],
        "ints_and_doubles": [1, 2.5],
        "mixed": ["a", 1, null, true, {"deep": [1, "two"]}, [3]],
        "object": {"z": 1, "a": {"b": [true, null]}},
        "empty_object": {},
    });
    ExportBuilder::new("types")
        .artifact(Artifact::new("api-dashboard", "dashboard").parameters(parameters))
}

/// Parameters whose keys mark them as secrets, at any depth.
pub fn secrets() -> ExportBuilder {
    let parameters = json!({
        "DB_PASSWORD": "hunter2",
        "apiKey": "hunter2",
        "api-key": "hunter2",
        "private_key": ["hunter2"],
        "authToken": {"value": "hunter2"},
        "pin_secret": 1234,
        "receivers": [{"url": "https://example.com", "webhook_token": "hunter2"}],
        "database": {"user": "shop", "credentials": {"password": "hunter2"}},
        "plain": "visible",
    });
    ExportBuilder::new("secrets")
        .artifact(Artifact::new("api-notification", "notification_policy").parameters(parameters))
}

/// Text in several scripts, with control characters and combining characters.
pub fn unicode() -> ExportBuilder {
    ExportBuilder::new("größe-プロジェクト")
        .project_name("Größe “🦀” プロジェクト")
        .owner("équipe-ß")
        .artifact(
            Artifact::new("ダッシュボード-é", "dashboard")
                .name("Панель\nмониторинга\t\"кавычки\" \\ ’")
                .target("сервис-α")
                .parameters(
                    json!({"ключ": "значение", "emoji 🦀": ["🎉", "e\u{301}"], "rtl": "שלום"}),
                )
                .derived_from(json!([{"property": "título", "transformation": "→ ∞"}]))
                .depends_on(&["ルール"]),
        )
        .artifact(Artifact::new("ルール", "prometheus_rule").target("сервис-α"))
}

/// Gaps that are not in the manifest: one that other sections describe, and one that none does.
pub fn gap_not_in_manifest() -> ExportBuilder {
    let owner = json!({
        "stray/forgotten.md": {"artifact_ids": ["forgotten"], "artifact_types": ["runbook"]},
    });
    one()
        .extra_gap("forgotten")
        .extra_gap("unheard-of")
        .resolved("forgotten", json!({"escalation": "page"}))
        .with("file_ownership", owner)
}

/// Two manifest entries with the same id.
pub fn duplicate_artifact() -> ExportBuilder {
    ExportBuilder::new("duplicate")
        .artifact(Artifact::new("api-slo", "slo_definition").name("First"))
        .artifact(Artifact::new("api-sm", "service_monitor"))
        .artifact(Artifact::new("api-slo", "slo_definition").name("Second"))
        .gaps(&["api-slo", "api-sm"])
}

/// What a current exporter writes and the other presets lack: no `spec.project.name`, duplicate
/// ids, unknown statuses, an empty gap, mapped tasks, no `source_checksum`.
pub fn as_contextcore_writes() -> ExportBuilder {
    let rules = |target: &str, severity: &str| {
        Artifact::new("api-rules", "prometheus_rule")
            .name(&format!("Rules of {target}"))
            .target(target)
            .parameters(json!({"alertSeverity": severity, "latency": null}))
    };
    let source = "0123456789abcdef".repeat(4);
    ExportBuilder::new("parcel-prod")
        .resource_name("parcel-resource")
        .manifest_name("parcel")
        .epic("PARCEL-1")
        .owner("logistics")
        .with("source_checksum", Value::Null)
        .recorded_inputs(json!([
            {"path": "/srv/parcel/map.json", "sha256": "f".repeat(64)},
            {"path": "/srv/parcel/.contextcore.yaml", "sha256": source},
        ]))
        .with(
            "parameter_resolvability",
            json!({"api-rules": {
                "alertSeverity": {"status": "resolved", "source_path": "manifest"},
                "latency": {"status": "unresolved", "source_path": "manifest", "reason": "empty"},
            }}),
        )
        .mapped_task("api-rules", "PI-000")
        .mapped_task("api-runbook", "PI-001")
        .artifact(rules("api", "P1").depends_on(&["api-slo"]))
        .artifact(Artifact::new("api-slo", "slo_definition").status("existing"))
        .artifact(rules("api-staging", "P2"))
        .artifact(rules("api-canary", "P3").depends_on(&["api-runbook"]))
        .artifact(Artifact::new("api-runbook", "runbook").status("existing"))
        .gaps(&["api-rules", "api-rules", "api-rules", "", "api-runbook"])
}

/// An export of the profile `source`: four sections are marked as omitted, `artifact_types` and the
/// ProjectContext are missing, and coverage keys are in snake_case.
pub fn sparse_manifest() -> ExportBuilder {
    typical()
        .omit("derivation_rules")
        .omit("artifact_dependency_graph")
        .omit("expected_output_contracts")
        .omit("file_ownership")
        .with("artifact_types", Value::Null)
        .with("generation_profile", json!("source"))
        .with("source_checksum", json!(""))
        .snake_case_coverage()
        .no_context()
}

/// `n` artifacts of five types, in one chain of dependencies, to test large exports.
pub fn many(n: usize) -> ExportBuilder {
    let kinds = ["dashboard", "prometheus_rule", "loki_rule", "slo_definition", "runbook"];
    let mut export = ExportBuilder::new("many").manifest(Manifest::Json);
    for kind in kinds {
        export = export
            .contract(kind, contract("standard", 150))
            .rules(kind, json!([{"property": "title", "transformation": "t".repeat(600)}]));
    }
    for i in 0..n {
        let mut artifact = Artifact::new(&format!("artifact-{i:05}"), kinds[i % kinds.len()])
            .parameters(json!({"index": i, "filler": "f".repeat(200)}));
        if i > 0 {
            artifact = artifact.depends_on(&[&format!("artifact-{:05}", i - 1)]);
        }
        export = export.artifact(artifact);
    }
    export
}

fn contract(depth: &str, max_lines: u32) -> Value {
    json!({
        "expected_depth": depth,
        "max_lines": max_lines,
        "max_tokens": max_lines * 5,
        "completeness_markers": ["title", "panels"],
        "red_flag": "a skeleton, not a result",
        "fields": ["criticality", "datasources"],
    })
}
