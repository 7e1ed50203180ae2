//! The parts of an export that depend on the project, a service or an artifact.

use serde_json::{Map, Value, json};

/// An artifact type of the exporter.
pub struct Kind {
    pub key: &'static str,
    suffix: &'static str,
    title: &'static str,
    path: [&'static str; 2],
    pub is_required: bool,
    depends_on: &'static [&'static str],
}

/// The types that every service has, sorted by suffix as in the exporter.
pub const KINDS: [Kind; 7] = [
    Kind {
        key: "dashboard",
        suffix: "dashboard",
        title: "Service Dashboard",
        path: ["grafana/dashboards/", "-dashboard.json"],
        is_required: true,
        depends_on: &[],
    },
    Kind {
        key: "loki_rule",
        suffix: "loki-rules",
        title: "Log Recording Rules",
        path: ["loki/rules/", "-loki-rules.yaml"],
        is_required: false,
        depends_on: &[],
    },
    Kind {
        key: "notification_policy",
        suffix: "notification",
        title: "Notification Policy",
        path: ["alertmanager/", "-notification.yaml"],
        is_required: true,
        depends_on: &["prometheus-rules"],
    },
    Kind {
        key: "prometheus_rule",
        suffix: "prometheus-rules",
        title: "Alerting Rules",
        path: ["prometheus/rules/", "-prometheus-rules.yaml"],
        is_required: true,
        depends_on: &["service-monitor"],
    },
    Kind {
        key: "runbook",
        suffix: "runbook",
        title: "Incident Runbook",
        path: ["runbooks/", "-runbook.md"],
        is_required: true,
        depends_on: &["prometheus-rules", "notification"],
    },
    Kind {
        key: "service_monitor",
        suffix: "service-monitor",
        title: "Service Monitor",
        path: ["k8s/observability/", "-service-monitor.yaml"],
        is_required: true,
        depends_on: &[],
    },
    Kind {
        key: "slo_definition",
        suffix: "slo",
        title: "SLO Definition",
        path: ["slo/", "-slo.yaml"],
        is_required: true,
        depends_on: &["service-monitor"],
    },
];

/// The type of the only artifact that belongs to the project itself.
pub const INDEX: Kind = Kind {
    key: "capability_index",
    suffix: "capability-index",
    title: "Capability Index",
    path: ["docs/capability-index/contextcore.agent.yaml", ""],
    is_required: false,
    depends_on: &[],
};

/// The values that the whole export shares.
pub struct Project {
    pub id: String,
    pub team: &'static str,
    pub criticality: &'static str,
    pub severity: &'static str,
    pub availability: &'static str,
    pub latency: &'static str,
    pub throughput: &'static str,
    pub namespace: &'static str,
}

/// One artifact: its type, its service, and its status.
pub struct Artifact<'a> {
    pub kind: &'static Kind,
    pub target: &'a str,
    pub status: &'static str,
    /// How many of `KINDS` this service has. Dependencies on the others are left out.
    pub siblings: usize,
}

impl Artifact<'_> {
    /// Returns the id: the target with underscores, and the suffix of the type.
    pub fn id(&self) -> String {
        self.sibling(self.kind.suffix)
    }

    fn sibling(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.target.replace('-', "_"))
    }

    /// Returns the path of the generated file.
    pub fn path(&self) -> String {
        let [before, after] = self.kind.path;
        let target = if after.is_empty() { "" } else { self.target };
        format!("{before}{target}{after}")
    }

    /// Returns the ids of the artifacts that it depends on.
    pub fn depends_on(&self) -> Vec<String> {
        let siblings = &KINDS[..self.siblings];
        let wanted = self.kind.depends_on.iter();
        let there = wanted.filter(|it| siblings.iter().any(|kind| kind.suffix == **it));
        there.map(|suffix| self.sibling(suffix)).collect()
    }

    /// Returns the artifact's entry in the manifest.
    pub fn entry(&self, project: &Project, rules: &Value) -> Value {
        // One type has no rules. Its list is empty.
        let none = json!([]);
        let rules = if rules.is_null() { &none } else { rules };
        let mut entry = json!({
            "id": self.id(),
            "type": self.kind.key,
            "name": format!("{} {}", self.target, self.kind.title),
            "target": self.target,
            "priority": if self.kind.is_required { "required" } else { "recommended" },
            "status": self.status,
            "derivedFrom": project.filled(rules, self.target),
            "parameters": self.parameters(project),
        });
        if self.status != "needed" {
            entry["existingPath"] = format!("deploy/{}", self.path()).into();
        }
        entry["dependsOn"] = self.depends_on().into();
        entry["validationErrors"] = json!([]);
        entry
    }

    /// Returns the parameters. Those without a value are null.
    pub fn parameters(&self, project: &Project) -> Value {
        let target = self.target;
        match self.kind.key {
            "dashboard" => json!({
                "criticality": project.criticality,
                "dashboardPlacement": "standard",
                "datasources": ["Tempo", "Loki", "mimir"],
                "risks": [],
            }),
            "loki_rule" => json!({
                "logSelectors": [format!("{{app=\"{target}\"}}")],
                "recordingRules": [
                    format!("{target}_error_rate_5m"),
                    format!("{target}_request_rate_5m"),
                ],
                "labelExtractors": ["level", "status_code", "method", "path"],
                "logFormat": "otel",
            }),
            "notification_policy" => json!({
                "alertChannels": [],
                "owner": project.team,
                "owners": project.owners(),
            }),
            "prometheus_rule" => json!({
                "alertSeverity": project.severity,
                "availabilityThreshold": project.availability,
                "latencyThreshold": project.latency,
                "latencyP50Threshold": null,
                "throughput": project.throughput,
            }),
            "runbook" => json!({"risks": [], "escalationContacts": project.owners()}),
            "service_monitor" => json!({
                "metricsInterval": "30s",
                "namespace": project.namespace,
            }),
            "slo_definition" => json!({
                "availability": project.availability,
                "latencyP99": project.latency,
                "errorBudget": null,
                "throughput": project.throughput,
            }),
            _ => json!({"project_root": ".", "index_dir": "docs/capability-index/"}),
        }
    }

    /// Returns the parameters that have a value.
    pub fn resolved(&self, project: &Project) -> Value {
        let Value::Object(mut parameters) = self.parameters(project) else { return Value::Null };
        parameters.retain(|_, value| !value.is_null());
        parameters.into()
    }

    /// Returns status and source of each parameter. `sources` are the `parameter_sources` of its
    /// type.
    pub fn resolvability(&self, project: &Project, sources: &Value) -> Value {
        let Value::Object(parameters) = self.parameters(project) else { return Value::Null };
        let judged = parameters.into_iter().map(|(key, value)| {
            let mut verdict = json!({"status": "resolved", "source_path": sources[&key]});
            if value.is_null() {
                verdict["status"] = "unresolved".into();
                verdict["reason_code"] = "value_not_materialized".into();
                verdict["reason"] =
                    "Source mapping exists but no concrete value was produced".into();
            }
            (key, verdict)
        });
        judged.collect::<Map<_, _>>().into()
    }

    /// Returns the entry of `file_ownership`.
    pub fn ownership(&self) -> Value {
        json!({
            "artifact_ids": [self.id()],
            "artifact_types": [self.kind.key],
            "scope": "primary",
            "task_ids": [],
        })
    }
}

impl Project {
    /// Returns the owners, which is one team.
    pub fn owners(&self) -> Value {
        let team = self.team;
        json!([{
            "team": team,
            "slack": format!("#{team}-oncall"),
            "email": format!("{team}@example.com"),
            "oncall": team,
        }])
    }

    /// Fills a template with the values of the project and of one service.
    pub fn filled(&self, template: &Value, target: &str) -> Value {
        match template {
            Value::String(text) => text
                .replace("{target}", target)
                .replace("{availability}", self.availability)
                .replace("{criticality}", self.criticality)
                .replace("{severity}", self.severity)
                .into(),
            Value::Array(items) => items.iter().map(|item| self.filled(item, target)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.clone(), self.filled(value, target)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }
}
