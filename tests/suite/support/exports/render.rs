//! Renders the three files of an export.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Artifact, Checksum, ExportBuilder, Manifest, Style, yaml};

const GENERATED_AT: &str = "2026-11-23T06:14:25.517736";

impl Artifact {
    fn output_path(&self) -> String {
        format!("generated/{}/{}.yaml", self.kind, self.id)
    }

    fn entry(&self) -> Value {
        let mut entry = json!({
            "id": self.id,
            "type": self.kind,
            "name": self.name,
            "target": self.target,
            "priority": self.priority,
            "status": self.status,
            "derivedFrom": self.derived_from,
            "parameters": self.parameters,
            "dependsOn": self.depends_on,
            "validationErrors": [],
        });
        if let Some(path) = &self.existing_path {
            entry["existingPath"] = json!(path);
        }
        entry
    }
}

impl ExportBuilder {
    /// Returns the file name of the manifest, relative to the metadata.
    pub(super) fn manifest_path(&self) -> String {
        let extension = if self.manifest == Manifest::Json { "json" } else { "yaml" };
        format!("{}-artifact-manifest.{extension}", self.project_id)
    }

    /// Returns the file name of the ProjectContext, relative to the metadata.
    pub(super) fn context_path(&self) -> String {
        format!("{}-projectcontext.yaml", self.project_id)
    }

    /// Returns the manifest. `None` for `Manifest::None`.
    pub(super) fn manifest_bytes(&self) -> Option<Vec<u8>> {
        let mut manifest = json!({
            "apiVersion": "contextcore.io/v1",
            "kind": "ArtifactManifest",
            "metadata": {
                "schemaVersion": "1.0.0",
                "generatedAt": GENERATED_AT,
                "generatedFrom": ".contextcore.yaml",
                "projectId": self.project_id,
            },
            "artifacts": self.artifacts.iter().map(Artifact::entry).collect::<Vec<_>>(),
        });
        if let Some(name) = &self.manifest_name {
            manifest["projectContext"] = json!({"name": name});
        }
        match self.manifest {
            Manifest::Yaml => Some(yaml::write(&manifest).into_bytes()),
            Manifest::Json => Some(serde_json::to_vec_pretty(&manifest).unwrap()),
            Manifest::None => None,
        }
    }

    /// Returns the ProjectContext. `None` if it is left out.
    pub(super) fn context_bytes(&self) -> Option<Vec<u8>> {
        let context = self.context.as_ref()?;
        let mut spec = json!({
            "project": {"id": self.project_id},
            "business": {"criticality": "critical"},
        });
        if let Some(name) = &context.name {
            spec["project"]["name"] = json!(name);
        }
        if let Some(epic) = &context.epic {
            spec["project"]["epic"] = json!(epic);
        }
        if let Some(owner) = &context.owner {
            spec["business"]["owner"] = json!(owner);
        }
        let context = json!({
            "apiVersion": "contextcore.io/v1",
            "kind": "ProjectContext",
            "metadata": {
                "name": context.resource_name.as_ref().unwrap_or(&self.project_id),
                "namespace": "default",
            },
            "spec": spec,
        });
        Some(yaml::write(&context).into_bytes())
    }

    /// Returns the `run-provenance.json` that the exporter writes. `None` without `inputs`.
    pub(super) fn record_bytes(&self, metadata: &[u8]) -> Option<Vec<u8>> {
        let outputs =
            json!([{"path": "out/onboarding-metadata.json", "sha256": hex_sha256(metadata)}]);
        let record = json!({"inputs": self.inputs.as_ref()?, "outputs": outputs});
        Some(serde_json::to_vec_pretty(&record).unwrap())
    }

    /// Returns the metadata. `manifest` and `context` are the bytes that its checksums are of.
    pub(super) fn metadata_bytes(&self, manifest: &[u8], context: &[u8]) -> Vec<u8> {
        let mut metadata = Map::new();
        let mut put = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
        put("version", json!("1.0.0"));
        put("schema_version", json!("1.0.0"));
        put("generation_profile", json!("full"));
        put("schema", json!("contextcore.io/onboarding-metadata/v1"));
        put("project_id", json!(if self.empty_project_id { "" } else { &self.project_id }));
        put("artifact_manifest_path", json!(self.manifest_path()));
        put("project_context_path", json!(self.context_path()));
        put("generated_at", json!(GENERATED_AT));
        put("artifact_types", json!(self.artifact_types));
        put("coverage", self.coverage());
        put("derivation_rules", json!(self.rules));
        put("artifact_dependency_graph", self.dependency_graph());
        put("expected_output_contracts", json!(self.contracts));
        put("resolved_artifact_parameters", self.resolved_parameters());
        if !self.mapping.is_empty() {
            put("artifact_task_mapping", json!(self.mapping));
        }
        match self.checksum {
            Checksum::Right => put("artifact_manifest_checksum", json!(hex_sha256(manifest))),
            Checksum::Wrong => put("artifact_manifest_checksum", json!("0".repeat(64))),
            Checksum::Absent => None,
        };
        put("project_context_checksum", json!(hex_sha256(context)));
        put("source_checksum", json!(hex_sha256(self.project_id.as_bytes())));
        put("file_ownership", self.file_ownership());
        put("source_path_relative", json!("manifest.spec"));
        for (key, value) in &self.overrides {
            match value {
                Value::Null => metadata.shift_remove(key),
                value => metadata.insert(key.clone(), value.clone()),
            };
        }
        self.styled(&Value::Object(metadata))
    }

    fn styled(&self, metadata: &Value) -> Vec<u8> {
        let text = match self.style {
            Style::OneLine => serde_json::to_string(metadata).unwrap(),
            _ => ascii(&serde_json::to_string_pretty(metadata).unwrap()),
        };
        match self.style {
            Style::Indent2 | Style::OneLine => text,
            Style::Crlf => text.replace('\n', "\r\n"),
            Style::Bom => format!("\u{feff}{text}"),
            Style::TrailingNewline => format!("{text}\n"),
        }
        .into_bytes()
    }

    fn coverage(&self) -> Value {
        let count = |pick: &dyn Fn(&&Artifact) -> bool| self.artifacts.iter().filter(pick).count();
        let required = count(&|a| a.priority == "required");
        let existing = count(&|a| a.status == "exists");
        // The exporter counts optional artifacts that exist, so its percentage can be above 100.
        let percent = if required == 0 { 100.0 } else { 100.0 * existing as f64 / required as f64 };
        let needed = self.artifacts.iter().filter(|a| a.status == "needed");
        let gaps: Vec<_> = match &self.gaps {
            Some(gaps) => gaps.clone(),
            None => needed.map(|a| &a.id).chain(&self.extra_gaps).cloned().collect(),
        };
        let mut coverage = json!({
            (self.spelled("totalRequired")): required,
            (self.spelled("totalExisting")): existing,
            (self.spelled("totalOutdated")): count(&|a| a.status == "outdated"),
            (self.spelled("overallCoverage")): percent,
            (self.spelled("byTarget")): self.by_target(),
        });
        coverage["gaps"] = json!(gaps);
        coverage
    }

    fn by_target(&self) -> Vec<Value> {
        let mut targets: Vec<&str> = Vec::new();
        for artifact in &self.artifacts {
            if !targets.contains(&artifact.target.as_str()) {
                targets.push(&artifact.target);
            }
        }
        let gaps_of = |target: &str| -> Vec<&str> {
            let missing = self
                .artifacts
                .iter()
                .filter(|a| a.target == target && a.priority == "required" && a.status == "needed");
            missing.map(|a| a.id.as_str()).collect()
        };
        let entry = |target: &&str| json!({"target": target, "gaps": gaps_of(target)});
        targets.iter().map(entry).collect()
    }

    fn dependency_graph(&self) -> Value {
        let mut graph = Map::new();
        for artifact in self.artifacts.iter().filter(|a| !a.depends_on.is_empty()) {
            graph.insert(artifact.id.clone(), json!(artifact.depends_on));
        }
        graph.extend(self.graph.clone());
        Value::Object(graph)
    }

    fn resolved_parameters(&self) -> Value {
        let own = self.artifacts.iter().map(|a| (a.id.clone(), a.parameters.clone()));
        let mut resolved = Map::from_iter(own);
        resolved.extend(self.resolved.clone());
        Value::Object(resolved)
    }

    fn file_ownership(&self) -> Value {
        let entry = |a: &Artifact| {
            let owner = json!({
                "artifact_ids": [a.id], "artifact_types": [a.kind], "scope": "primary",
            });
            (a.output_path(), owner)
        };
        self.artifacts.iter().map(entry).collect::<Map<_, _>>().into()
    }

    /// Returns a coverage key in the spelling of this export.
    fn spelled(&self, camel: &str) -> String {
        if !self.snake_case_coverage {
            return camel.to_owned();
        }
        let letters = camel.chars().map(|c| match c {
            'A'..='Z' => format!("_{}", c.to_ascii_lowercase()),
            c => c.to_string(),
        });
        letters.collect()
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Escapes everything beyond ASCII, as Python does by default.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
