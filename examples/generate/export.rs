//! Generates exports of any size like the real exporter, with the same sections in the same
//! proportions. The same size and seed always give the same bytes.
//!
//! ```text
//! seed ─▶ project, services, statuses ─▶ manifest ─sha256─┐
//!                                        ProjectContext ──┴─▶ metadata ─rename─▶ in place
//! ```
//!
//! `fixed.json` has the sections that do not grow with the number of artifacts.

mod disk;
mod parts;
mod random;
mod text;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use disk::{hex, summed};
use parts::{Artifact, INDEX, KINDS, Project};
use random::Random;
use text::Object;

const GENERATED_AT: &str = "2026-11-23T06:14:25.517736";
const METADATA: &str = "onboarding-metadata.json";

/// The format of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Yaml,
    Json,
}

/// A generated export that can be written to disk or to memory.
pub struct Export {
    language: Language,
    project: Project,
    /// Each service, with the statuses of its artifacts in the order of `KINDS`.
    services: Vec<(String, Vec<&'static str>)>,
    index: &'static str,
    fixed: Value,
}

/// The contents of the three files.
pub struct Files {
    pub metadata: Vec<u8>,
    pub manifest: Vec<u8>,
    pub context: Vec<u8>,
}

impl Export {
    /// Generates an export with this many artifacts. There is always at least one.
    pub fn new(artifacts: usize, seed: u64, language: Language) -> Export {
        let mut random = Random(seed);
        let (criticality, severity) = random.pick(&[("critical", "P1"), ("high", "P2")]);
        let area = random.pick(&["checkout", "payment", "catalog", "parcel", "ledger", "search"]);
        let project = Project {
            id: format!("{area}-{:05}", random.below(100_000)),
            team: random.pick(&["commerce-platform", "payment-desk", "catalog-platform"]),
            criticality,
            severity,
            availability: random.pick(&["99.9", "99.95", "99.99"]),
            latency: random.pick(&["150ms", "200ms", "400ms"]),
            throughput: random.pick(&["1000rps", "5000rps"]),
            namespace: random.pick(&["commerce", "payments", "storefront"]),
        };
        let mut services = Vec::new();
        let mut left = artifacts.saturating_sub(1);
        while left > 0 {
            let word = random.pick(&["api", "worker", "store", "gate", "relay", "index", "batch"]);
            // The number comes before the word, so that services are sorted by name.
            let name = format!("{area}-{:05}-{word}", services.len());
            let statuses = (0..left.min(KINDS.len())).map(|_| random.status()).collect();
            services.push((name, statuses));
            left = left.saturating_sub(KINDS.len());
        }
        let index = random.status();
        let fixed = serde_json::from_str(include_str!("fixed.json")).expect("it is JSON");
        Export { language, project, services, index, fixed }
    }

    /// Returns the file name of the manifest.
    pub fn manifest_name(&self) -> String {
        let extension = if self.language == Language::Yaml { "yaml" } else { "json" };
        format!("{}-artifact-manifest.{extension}", self.project.id)
    }

    fn context_name(&self) -> String {
        format!("{}-projectcontext.yaml", self.project.id)
    }

    /// Writes the manifest, the ProjectContext, and then the metadata by rename. Returns the path
    /// of the metadata.
    pub fn write_into(&self, dir: &Path) -> io::Result<PathBuf> {
        let (temp, target) = self.stage_into(dir)?;
        fs::rename(temp, &target)?;
        Ok(target)
    }

    /// Writes all files, but leaves the rename of the metadata to the caller. Returns its source
    /// and target.
    pub fn stage_into(&self, dir: &Path) -> io::Result<(PathBuf, PathBuf)> {
        fs::create_dir_all(dir)?;
        let manifest = summed(&dir.join(self.manifest_name()), |out| self.manifest(out))?;
        let context = summed(&dir.join(self.context_name()), |out| self.context(out))?;
        let (temp, target) = (dir.join(".onboarding-metadata.json.tmp"), dir.join(METADATA));
        summed(&temp, |out| self.metadata(&manifest, &context, out))?;
        Ok((temp, target))
    }

    /// Returns the three files in memory.
    pub fn files(&self) -> io::Result<Files> {
        let (mut metadata, mut manifest, mut context) = (Vec::new(), Vec::new(), Vec::new());
        self.manifest(&mut manifest)?;
        self.context(&mut context)?;
        let sum = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        self.metadata(&sum(&manifest), &sum(&context), &mut metadata)?;
        Ok(Files { metadata, manifest, context })
    }

    /// Returns the artifacts in manifest order: those of each service, then the index.
    fn artifacts(&self) -> impl Iterator<Item = Artifact<'_>> {
        let of_services = self.services.iter().flat_map(|(target, statuses)| {
            let siblings = statuses.len();
            let pairs = KINDS.iter().zip(statuses);
            pairs.map(move |(kind, status)| Artifact { kind, target, status, siblings })
        });
        let target = self.project.id.as_str();
        let index = Artifact { kind: &INDEX, target, status: self.index, siblings: 0 };
        of_services.chain([index])
    }

    /// Returns the names of all services, and the project, which the export describes like a
    /// service.
    fn service_names(&self) -> impl Iterator<Item = &str> {
        let names = self.services.iter().map(|(name, _)| name.as_str());
        names.chain([self.project.id.as_str()])
    }

    fn rules(&self, kind: &str) -> &Value {
        &self.fixed["derivation_rules"][kind]
    }

    fn manifest(&self, out: &mut impl Write) -> io::Result<()> {
        let head = json!({
            "apiVersion": "contextcore.io/v1",
            "kind": "ArtifactManifest",
            "metadata": {
                "schemaVersion": "1.0.0",
                "generatedAt": GENERATED_AT,
                "generatedFrom": ".contextcore.yaml",
                "contextcoreVersion": "2.0.0",
                "projectId": self.project.id,
            },
        });
        let entries = self
            .artifacts()
            .map(|artifact| artifact.entry(&self.project, self.rules(artifact.kind.key)));
        let conventions = &self.fixed["semantic_conventions"];
        let tail = json!({
            "projectContext": {
                "name": self.project.id,
                "owner": self.project.team,
                "value": "revenue-primary",
                "links": {"repository": format!("https://git.example.com/{}", self.project.id)},
            },
            "owners": self.project.owners(),
            "guidance": self.fixed["guidance"],
            "objectives": self.fixed["objectives"],
            "semanticConventions": conventions,
            "coverage": self.coverage(),
            "crdReference": self.context_name(),
        });
        if self.language == Language::Json {
            let mut whole = Object::begin(out, 0)?;
            for (key, value) in members(&head) {
                whole.member(key, value)?;
            }
            whole.list("artifacts", entries)?;
            for (key, value) in members(&tail) {
                whole.member(key, value)?;
            }
            return whole.end();
        }
        let mut text = String::new();
        text::yaml(&head, 0, &mut text);
        text.push_str("artifacts:\n");
        for entry in entries {
            text::yaml(&Value::Array(vec![entry]), 0, &mut text);
            out.write_all(text.as_bytes())?;
            text.clear();
        }
        text::yaml(&tail, 0, &mut text);
        out.write_all(text.as_bytes())
    }

    fn context(&self, out: &mut impl Write) -> io::Result<()> {
        let project = &self.project;
        let targets: Vec<Value> = self
            .services
            .iter()
            .map(|(name, _)| {
                json!({"kind": "Deployment", "name": name, "namespace": project.namespace})
            })
            .collect();
        let context = json!({
            "apiVersion": "contextcore.io/v1",
            "kind": "ProjectContext",
            "metadata": {"name": project.id, "namespace": "default"},
            "spec": {
                "project": {"id": project.id, "tasks": []},
                "business": {
                    "criticality": project.criticality,
                    "value": "revenue-primary",
                    "owner": project.team,
                    "stakeholders": [],
                },
                "requirements": {
                    "availability": project.availability,
                    "latencyP99": project.latency,
                    "throughput": project.throughput,
                },
                "risks": [],
                "targets": targets,
            },
        });
        let mut text = String::new();
        text::yaml(&context, 0, &mut text);
        out.write_all(text.as_bytes())
    }

    /// Returns the coverage for manifest and metadata. The list of all gaps is only in the
    /// metadata.
    fn coverage(&self) -> Map<String, Value> {
        let count = |status: &str| self.artifacts().filter(|it| it.status == status).count();
        let required = self.artifacts().filter(|it| it.kind.is_required).count();
        let mut by_type = Map::new();
        for artifact in self.artifacts() {
            let known = by_type.get(artifact.kind.key).and_then(Value::as_u64).unwrap_or_default();
            by_type.insert(artifact.kind.key.to_owned(), (known + 1).into());
        }
        let mut by_target: Vec<Value> =
            self.services.iter().map(|(target, statuses)| of_target(target, statuses)).collect();
        by_target.push(of_target(&self.project.id, &[]));
        let mut coverage = Map::new();
        let mut put = |key: &str, value: Value| coverage.insert(key.to_owned(), value);
        put("totalRequired", required.into());
        put("totalExisting", count("exists").into());
        put("totalOutdated", count("outdated").into());
        put("overallCoverage", percent(count("exists"), required));
        put("byTarget", by_target.into());
        put("byType", by_type.into());
        coverage
    }

    fn metadata(&self, manifest: &str, context: &str, out: &mut impl Write) -> io::Result<()> {
        let fixed = |key: &str| &self.fixed[key];
        let project = &self.project;
        let mut whole = Object::begin(out, 0)?;
        for (key, value) in members(&json!({
            "version": "1.0.0",
            "schema_version": "1.0.0",
            "generation_profile": "full",
            "schema": "contextcore.io/onboarding-metadata/v1",
            "project_id": project.id,
            "artifact_manifest_path": self.manifest_name(),
            "project_context_path": self.context_name(),
            "crd_reference": self.context_name(),
            "generated_at": GENERATED_AT,
        })) {
            whole.member(key, value)?;
        }
        for key in ["artifact_types", "output_path_conventions", "parameter_schema"] {
            whole.member(key, fixed(key))?;
        }
        let mut coverage = self.coverage();
        let gaps = self.artifacts().filter(|it| it.status == "needed").map(|it| it.id());
        coverage.insert("gaps".to_owned(), gaps.collect());
        whole.member("coverage", &coverage.into())?;
        whole.member("semantic_conventions", fixed("semantic_conventions"))?;
        whole.member("provenance", &Value::Null)?;
        whole.member("guidance", fixed("guidance"))?;
        whole.member("capabilities", fixed("capabilities"))?;
        whole.object("derivation_rules", self.derivation_rules())?;
        let with_dependencies = self.artifacts().map(|it| (it.id(), it.depends_on()));
        let graph = with_dependencies.filter(|(_, list)| !list.is_empty());
        let graph = graph.map(|(id, list)| (id, list.into()));
        whole.object("artifact_dependency_graph", graph)?;
        whole.member("expected_output_contracts", fixed("expected_output_contracts"))?;
        let hints = members(fixed("design_calibration_hints"));
        let hints = hints.map(|(key, value)| (key.clone(), value.clone()));
        let of_services = self.service_names().flat_map(|name| {
            let both = members(fixed("service_hints"));
            both.map(move |(key, value)| (format!("{key}_{name}"), value.clone()))
        });
        whole.object("design_calibration_hints", hints.chain(of_services))?;
        whole.member("objectives", fixed("objectives"))?;
        let resolved = self.artifacts().map(|it| (it.id(), it.resolved(project)));
        whole.object("resolved_artifact_parameters", resolved)?;
        let judged = self.artifacts().map(|it| {
            let sources = &fixed("artifact_types")[it.kind.key]["parameter_sources"];
            (it.id(), it.resolvability(project, sources))
        });
        whole.object("parameter_resolvability", judged)?;
        let count = |value: Value| value.as_object().map_or(0, Map::len);
        let total: usize = self.artifacts().map(|it| count(it.parameters(project))).sum();
        let values: usize = self.artifacts().map(|it| count(it.resolved(project))).sum();
        let summary = json!({"resolved": values, "unresolved": total - values, "total": total});
        whole.member("parameter_resolvability_summary", &summary)?;
        whole.member("open_questions", fixed("open_questions"))?;
        whole.member("requirements_hints", fixed("requirements_hints"))?;
        let services = |template: &'static str| {
            let named = self.service_names();
            named.map(move |name| (name.to_owned(), project.filled(fixed(template), name)))
        };
        whole.object("service_metadata", services("service_metadata"))?;
        whole.object("instrumentation_hints", services("instrumentation_hints"))?;
        whole.member("artifact_manifest_checksum", &manifest.into())?;
        whole.member("project_context_checksum", &context.into())?;
        whole.member("source_checksum", &hex(&Sha256::digest(project.id.as_bytes())).into())?;
        let owned = self.artifacts().map(|it| (it.path(), it.ownership()));
        whole.object("file_ownership", owned)?;
        whole.member("source_path_relative", &"manifest.spec.requirements.throughput".into())?;
        whole.end()
    }

    /// Returns the derivation rules of each type, without repetitions. Log rules contain the
    /// service, so there is one per service.
    fn derivation_rules(&self) -> impl Iterator<Item = (String, Value)> {
        members(&self.fixed["derivation_rules"]).map(|(kind, rules)| {
            let mut all = Vec::new();
            let first = self.services.first().map_or("", |(name, _)| name.as_str());
            all.extend(self.project.filled(rules, first).as_array().cloned().unwrap_or_default());
            if kind == "loki_rule" {
                let others = self.services.iter().skip(1).filter(|(_, all)| all.len() > 1);
                all.extend(others.map(|(name, _)| self.project.filled(&rules[0], name)));
            }
            (kind.clone(), all.into())
        })
    }
}

fn of_target(target: &str, statuses: &[&'static str]) -> Value {
    let siblings = statuses.len();
    let pairs = KINDS.iter().zip(statuses).filter(|(kind, _)| kind.is_required);
    let required: Vec<Artifact<'_>> =
        pairs.map(|(kind, status)| Artifact { kind, target, status, siblings }).collect();
    let existing = required.iter().filter(|it| it.status == "exists").count();
    let gaps = required.iter().filter(|it| it.status == "needed").map(Artifact::id);
    json!({
        "target": target,
        "namespace": "default",
        "requiredCount": required.len(),
        "existingCount": existing,
        "coveragePercent": percent(existing, required.len()),
        "gaps": gaps.collect::<Vec<_>>(),
    })
}

fn percent(part: usize, whole: usize) -> Value {
    // Nothing is missing if nothing is required.
    let share = if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    (share * 100.0).into()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
