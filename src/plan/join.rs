//! Joins the files of an export into a [`Plan`]. Pure.
//!
//! ```text
//! manifest entries ─▶ gaps it does not list ─▶ each with graph, parameters, ownership
//! no manifest: gaps ∪ parameters ∪ graph ──────▶ the same
//! ```

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::manifest::Entry;
use super::{
    Artifact, Examples, ExportInfo, Manifest, ManifestUse, Onboarding, Plan, Project,
    ProjectContext, Rule, Status, TypeInfo, Warning, json,
};
use crate::base::ids::TaskId;

/// Used for a value that the export does not have.
const UNKNOWN: &str = "unknown";
const UNKNOWN_PROJECT: &str = "unknown-project";

/// The manifest, or why it was not used.
pub type ManifestInput = Result<Manifest, ManifestUse>;

/// Joins the three files. `project_id` overrides the id in the export (R5.5).
pub fn join(
    mut onboarding: Onboarding,
    manifest: ManifestInput,
    context: ProjectContext,
    project_id: Option<&str>,
) -> Plan {
    let mut warnings = std::mem::take(&mut onboarding.warnings);
    let (manifest, manifest_use) = match manifest {
        Ok(manifest) => (Some(manifest), ManifestUse::Used),
        Err(reason) => (None, reason),
    };
    let declared_id = declared_id(&onboarding, manifest.as_ref());
    let set_id = project_id.filter(|id| !id.is_empty()).map(str::to_owned);
    let id = set_id.or_else(|| declared_id.clone()).unwrap_or_else(|| {
        warnings.push(Warning::NoProjectId { id: UNKNOWN_PROJECT.to_owned() });
        UNKNOWN_PROJECT.to_owned()
    });
    // ContextCore's models drop `spec.project.name`; its exports have the other two.
    let of_manifest = manifest.as_ref().and_then(|manifest| manifest.project_name.clone());
    let name = context.name.or(of_manifest).or(context.resource_name);
    let types = types(&onboarding);
    // These are moved to the artifacts, not copied.
    let own = Own {
        graph: std::mem::take(&mut onboarding.graph),
        parameters: std::mem::take(&mut onboarding.parameters),
    };
    let lookup = Lookup::new(&onboarding);
    let artifacts = match manifest {
        Some(manifest) => from_manifest(manifest, own, &lookup, &mut warnings),
        None => from_metadata_alone(own, &lookup),
    };
    Plan {
        project: Project {
            name: name.unwrap_or_else(|| id.clone()),
            declared_id: declared_id.filter(|declared| *declared != id),
            id,
            owner: context.owner,
            epic: context.epic,
        },
        coverage: onboarding.coverage.clone(),
        artifacts,
        types,
        warnings,
        export: ExportInfo {
            source_checksum: onboarding.source_checksum,
            artifact_manifest_checksum: onboarding.artifact_manifest_checksum,
            project_context_checksum: onboarding.project_context_checksum,
            generated_at: onboarding.generated_at,
            schema_version: onboarding.schema_version,
            generation_profile: onboarding.generation_profile,
            manifest: manifest_use,
        },
    }
}

/// Returns the project id in the metadata, else the one in the manifest.
fn declared_id(onboarding: &Onboarding, manifest: Option<&Manifest>) -> Option<String> {
    let of_manifest = manifest.and_then(|manifest| manifest.project_id.clone());
    let known = [onboarding.project_id.clone(), of_manifest];
    known.into_iter().flatten().find(|id| !id.is_empty())
}

/// The properties of single artifacts in the metadata file.
struct Own {
    graph: IndexMap<String, Vec<String>>,
    parameters: IndexMap<String, Map<String, Value>>,
}

impl Own {
    /// Returns the dependencies of an artifact. Those in the graph replace those of the manifest.
    fn depends_on(&mut self, id: &str, of_manifest: Vec<String>) -> Vec<TaskId> {
        let list = self.graph.get_mut(id).map_or(of_manifest, std::mem::take);
        list.into_iter().map(TaskId::new).collect()
    }

    fn parameters(&mut self, id: &str, mut of_manifest: Map<String, Value>) -> Map<String, Value> {
        let resolved = self.parameters.get_mut(id).map(std::mem::take).unwrap_or_default();
        if of_manifest.is_empty() {
            return resolved;
        }
        of_manifest.extend(resolved);
        of_manifest
    }
}

/// The metadata file, indexed by artifact id.
struct Lookup<'a> {
    onboarding: &'a Onboarding,
    gaps: HashSet<&'a str>,
    target_of_gap: HashMap<&'a str, &'a str>,
}

impl<'a> Lookup<'a> {
    fn new(onboarding: &'a Onboarding) -> Lookup<'a> {
        let mut target_of_gap = HashMap::new();
        for (target, gaps) in &onboarding.by_target {
            for gap in gaps {
                target_of_gap.entry(gap.as_str()).or_insert(target.as_str());
            }
        }
        let gaps = onboarding.gaps.iter().map(String::as_str).collect();
        Lookup { onboarding, gaps, target_of_gap }
    }

    /// Makes an artifact from its manifest entry and completes it from the metadata.
    fn artifact(
        &self,
        id: String,
        (entry, entries): (Entry, usize),
        own: &mut Own,
        unknown_statuses: &mut Examples,
    ) -> Artifact {
        let owned = self.onboarding.ownership.get(&id);
        let kind =
            entry.kind.filter(|it| filled(it)).or_else(|| owned.and_then(|(_, kind)| kind.clone()));
        let target = entry.target.filter(|it| filled(it));
        let target =
            target.or_else(|| self.target_of_gap.get(id.as_str()).map(|t| (*t).to_owned()));
        let output_path = entry.output_path.filter(|it| filled(it));
        let status = self.status(&id, entry.status.as_deref(), unknown_statuses);
        Artifact {
            kind: kind.unwrap_or_else(unknown),
            name: entry.name.filter(|it| filled(it)).unwrap_or_else(|| id.clone()),
            target: target.unwrap_or_else(unknown),
            priority: entry.priority.filter(|it| filled(it)).unwrap_or_else(|| self.priority(&id)),
            status,
            depends_on: own.depends_on(&id, entry.depends_on),
            parameters: own.parameters(&id, entry.parameters),
            derived_from: entry.derived_from,
            output_path: output_path.or_else(|| owned.map(|(path, _)| path.clone())),
            existing_path: entry.existing_path.filter(|it| filled(it)),
            mapped_id: json::text(self.onboarding.task_mapping.get(&id)),
            entries,
            parameters_unresolved: self.onboarding.unresolved.get(&id).cloned().unwrap_or_default(),
            id: TaskId::new(id),
        }
    }

    fn status(&self, id: &str, stated: Option<&str>, unknown: &mut Examples) -> Status {
        if let Some(stated) = stated {
            match Status::parse(stated) {
                Some(status) => return status,
                None => unknown.add(|| format!("{id}: `{stated}`")),
            }
        }
        if self.gaps.contains(id) { Status::Needed } else { Status::Exists }
    }

    fn priority(&self, id: &str) -> String {
        let priority = match (self.target_of_gap.contains_key(id), self.gaps.contains(id)) {
            (true, _) => "required",
            (false, true) => "recommended",
            (false, false) => UNKNOWN,
        };
        priority.to_owned()
    }
}

/// Whether a text is not empty. An empty one counts as missing.
fn filled(text: &str) -> bool {
    !text.is_empty()
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

/// Returns every artifact of the manifest once, then the gaps that it does not list (R1.3).
fn from_manifest(
    manifest: Manifest,
    mut own: Own,
    lookup: &Lookup<'_>,
    warnings: &mut Vec<Warning>,
) -> Vec<Artifact> {
    let by_id = by_id(manifest.artifacts, lookup, warnings);
    let mut unknown_statuses = Examples::default();
    let artifact = |(id, entry)| lookup.artifact(id, entry, &mut own, &mut unknown_statuses);
    let artifacts = by_id.into_iter().map(artifact).collect();
    unknown_statuses.warn(Warning::UnknownStatuses, warnings);
    artifacts
}

/// Returns the entry of each id and the number of entries with that id, in manifest order. Of
/// several entries the last one counts, as in the exporter's own maps.
fn by_id(
    entries: Vec<Entry>,
    lookup: &Lookup<'_>,
    warnings: &mut Vec<Warning>,
) -> IndexMap<String, (Entry, usize)> {
    let mut by_id: IndexMap<String, (Entry, usize)> = IndexMap::with_capacity(entries.len());
    let (mut duplicates, mut without_id) = (Examples::default(), Examples::default());
    for (index, mut entry) in entries.into_iter().enumerate() {
        match entry.id.take().filter(|it| filled(it)) {
            Some(id) => {
                let (last, count) = by_id.entry(id).or_default();
                (*last, *count) = (entry, *count + 1);
            }
            None => without_id.add(|| format!("entry {index}")),
        }
    }
    for (id, _) in by_id.iter().filter(|(_, (_, count))| *count > 1) {
        duplicates.add(|| id.clone());
    }
    duplicates.warn(Warning::DuplicateArtifacts, warnings);
    without_id.warn(Warning::ArtifactsWithoutId, warnings);
    for gap in &lookup.onboarding.gaps {
        by_id.entry(gap.clone()).or_default();
    }
    by_id
}

fn from_metadata_alone(mut own: Own, lookup: &Lookup<'_>) -> Vec<Artifact> {
    let mut seen = HashSet::new();
    let ids = lookup.onboarding.gaps.iter().chain(own.parameters.keys()).chain(own.graph.keys());
    let ids: Vec<String> =
        ids.filter(|id| filled(id) && seen.insert(id.as_str())).cloned().collect();
    ids.into_iter()
        .map(|id| lookup.artifact(id, Default::default(), &mut own, &mut Examples::default()))
        .collect()
}

fn types(onboarding: &Onboarding) -> IndexMap<String, TypeInfo> {
    let mut types: IndexMap<String, TypeInfo> = IndexMap::new();
    for (kind, contract) in &onboarding.contracts {
        let contract = contract.as_object().filter(|contract| !contract.is_empty());
        types.entry(kind.clone()).or_default().contract = contract.cloned();
    }
    for (kind, rules) in &onboarding.rules {
        let rules = rules.as_array().map(Vec::as_slice).unwrap_or_default();
        types.entry(kind.clone()).or_default().rules = rules.iter().map(Rule::from).collect();
    }
    for (kind, info) in &onboarding.artifact_types {
        let entry = types.entry(kind.clone()).or_default();
        let sources = info.get("parameter_sources").and_then(Value::as_object);
        entry.parameter_sources = sources.filter(|sources| !sources.is_empty()).cloned();
        entry.output_ext = json::text(info.get("output_ext"));
    }
    types
}

#[cfg(test)]
mod tests;
