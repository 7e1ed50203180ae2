use serde_json::json;

use super::*;

fn onboarding(value: Value) -> Onboarding {
    Onboarding::parse(value.to_string().as_bytes()).expect("an export")
}

fn entry(id: &str, status: &str) -> Entry {
    Entry { id: Some(id.into()), status: Some(status.into()), ..Entry::default() }
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.artifacts.iter().map(|artifact| artifact.id.as_str()).collect()
}

#[test]
fn the_manifest_comes_first_then_gaps_that_it_lacks() {
    let metadata = onboarding(json!({"coverage": {"gaps": ["b", "", "lost", "lost", "odd"]}}));
    let manifest = Manifest {
        artifacts: vec![
            entry("b", "needed"),
            entry("a", "exists"),
            entry("b", "exists"),
            entry("", "needed"),
            entry("odd", "existing"),
            entry("there", "existing"),
        ],
        ..Manifest::default()
    };
    let plan = join(metadata, Ok(manifest), ProjectContext::default(), Some("p"));
    assert_eq!(ids(&plan), ["b", "a", "odd", "there", "lost"]);
    let statuses: Vec<_> = plan.artifacts.iter().map(|it| it.status).collect();
    let (needed, exists) = (Status::Needed, Status::Exists);
    assert_eq!(statuses, [exists, exists, needed, exists, needed]);
    let entries: Vec<_> = plan.artifacts.iter().map(|it| it.entries).collect();
    assert_eq!(entries, [2, 1, 1, 1, 0]);
    assert_eq!(plan.coverage.total_gaps, 4);
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "empty ids in coverage.gaps: 1; they were ignored",
            "artifact ids with several manifest entries: 1 (b); the last entry of each is used",
            "manifest entries without an id: 1 (entry 3); they were ignored",
            "artifacts with an unknown status: 2 (odd: `existing`, there: `existing`); \
             coverage.gaps decides whether each is needed or exists",
        ]
    );
}

#[test]
fn the_last_of_several_entries_is_used() {
    let of = |name: &str, depends_on: &str, parameter: i32| Entry {
        name: Some(name.into()),
        depends_on: vec![depends_on.into()],
        parameters: json!({"n": parameter}).as_object().cloned().expect("a map"),
        ..entry("a", "needed")
    };
    let metadata = onboarding(json!({"coverage": {"gaps": ["a", "a", "a"]}}));
    let mut last = of("third", "z", 3);
    last.target = Some("payments".into());
    let artifacts = vec![of("first", "x", 1), of("second", "y", 2), last];
    let manifest = Manifest { artifacts, ..Manifest::default() };
    let plan = join(metadata, Ok(manifest), ProjectContext::default(), Some("p"));
    let [artifact] = &plan.artifacts[..] else { panic!("{:?}", plan.artifacts) };
    assert_eq!((artifact.name.as_str(), artifact.target.as_str()), ("third", "payments"));
    assert_eq!(artifact.depends_on, [TaskId::new("z")]);
    assert_eq!(artifact.parameters["n"], 3);
    assert_eq!(artifact.entries, 3);
    assert_eq!(plan.coverage.total_gaps, 3);
}

#[test]
fn a_warning_names_three_of_many() {
    let metadata = onboarding(json!({"coverage": {"gaps": []}}));
    let twice = (0..5).flat_map(|n| vec![entry(&format!("a{n}"), "exists"); 2]);
    let manifest = Manifest { artifacts: twice.collect(), ..Manifest::default() };
    let plan = join(metadata, Ok(manifest), ProjectContext::default(), Some("p"));
    assert_eq!(plan.warnings.len(), 1);
    let warning = plan.warnings[0].to_string();
    assert!(warning.contains(": 5 (a0, a1, a2 and 2 more);"));
}

#[test]
fn the_project_name_has_an_order() {
    let name = |of_spec: &str, of_manifest: &str, of_resource: &str| {
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let metadata = onboarding(json!({"project_id": "id", "coverage": {"gaps": []}}));
        let manifest = Manifest { project_name: filled(of_manifest), ..Manifest::default() };
        let context = ProjectContext {
            name: filled(of_spec),
            resource_name: filled(of_resource),
            ..ProjectContext::default()
        };
        join(metadata, Ok(manifest), context, None).project.name
    };
    assert_eq!(name("spec", "manifest", "resource"), "spec");
    assert_eq!(name("", "manifest", "resource"), "manifest");
    assert_eq!(name("", "", "resource"), "resource");
    assert_eq!(name("", "", ""), "id");
}

#[test]
fn unresolved_parameters_are_listed() {
    let metadata = onboarding(json!({
        "coverage": {"gaps": ["a", "b"]},
        "parameter_resolvability": {
            "a": {"x": {"status": "resolved"}, "y": {"status": "unresolved"}, "z": 1},
            "b": {"x": {"status": "resolved"}},
        },
    }));
    let plan = join(metadata, Err(ManifestUse::Missing), ProjectContext::default(), None);
    assert_eq!(plan.artifacts[0].parameters_unresolved, ["y"]);
    assert_eq!(plan.artifacts[1].parameters_unresolved, [""; 0]);
}

#[test]
fn from_the_metadata_alone() {
    let metadata = onboarding(json!({
        "coverage": {"gaps": ["a", "b"], "byTarget": [{"target": "api", "gaps": ["a"]}]},
        "resolved_artifact_parameters": {"c": {"k": 1}},
        "artifact_dependency_graph": {"d": ["a"], "a": ["zz"]},
        "file_ownership": {"out/a.json": {"artifact_ids": ["a"], "artifact_types": ["dash"]}},
        "artifact_task_mapping": {"a": "PI-1"},
    }));
    let plan = join(metadata, Err(ManifestUse::Missing), ProjectContext::default(), None);
    assert_eq!(ids(&plan), ["a", "b", "c", "d"]);
    let summary: Vec<_> = plan
        .artifacts
        .iter()
        .map(|a| (a.status, a.kind.as_str(), a.target.as_str(), a.priority.as_str()))
        .collect();
    assert_eq!(
        summary,
        [
            (Status::Needed, "dash", "api", "required"),
            (Status::Needed, "unknown", "unknown", "recommended"),
            (Status::Exists, "unknown", "unknown", "unknown"),
            (Status::Exists, "unknown", "unknown", "unknown"),
        ]
    );
    assert_eq!(plan.artifacts[0].output_path.as_deref(), Some("out/a.json"));
    assert_eq!(plan.artifacts[0].mapped_id.as_deref(), Some("PI-1"));
    assert_eq!(plan.artifacts[0].depends_on, [TaskId::new("zz")]);
    assert_eq!(plan.project.id, "unknown-project");
    assert_eq!(plan.export.manifest, ManifestUse::Missing);
}

#[test]
fn the_project_id_has_an_order() {
    let with = |id: &str| onboarding(json!({"project_id": id, "coverage": {"gaps": []}}));
    let manifest = || {
        let yaml = b"metadata: {projectId: of-manifest}\nartifacts: []";
        Ok(Manifest::parse("m.yaml", yaml).expect("YAML"))
    };
    let id =
        |metadata, wanted| join(metadata, manifest(), ProjectContext::default(), wanted).project.id;
    assert_eq!(id(with("own"), Some("flag")), "flag");
    assert_eq!(id(with("own"), None), "own");
    assert_eq!(id(with(""), None), "of-manifest");
}

#[test]
fn resolved_parameters_lie_over_those_of_the_manifest() {
    let metadata = onboarding(json!({
        "coverage": {"gaps": []},
        "resolved_artifact_parameters": {"a": {"x": 2, "new": true}},
    }));
    let parameters = json!({"w": 0, "x": 1}).as_object().cloned().expect("a map");
    let entry = Entry { parameters, ..entry("a", "exists") };
    let manifest = Manifest { artifacts: vec![entry], ..Manifest::default() };
    let plan = join(metadata, Ok(manifest), ProjectContext::default(), Some("p"));
    assert_eq!(
        Value::Object(plan.artifacts[0].parameters.clone()),
        json!({"w": 0, "x": 2, "new": true})
    );
}
