//! The artifact manifest: every artifact with its title, type, status and dependencies.

use serde_json::{Map, Value};

use super::{json, yaml};

/// The artifact manifest as far as taskspan reads it; unknown keys are normal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    pub project_id: Option<String>,
    pub artifacts: Vec<Entry>,
}

/// One artifact as the manifest lists it. What is missing, or of no use, is left to the metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub id: Option<String>,
    pub kind: Option<String>,
    pub name: Option<String>,
    pub target: Option<String>,
    pub priority: Option<String>,
    pub status: Option<String>,
    pub parameters: Map<String, Value>,
    pub derived_from: Vec<Value>,
    pub depends_on: Vec<String>,
    pub output_path: Option<String>,
    pub existing_path: Option<String>,
}

impl Manifest {
    /// Parses JSON when the file name says so, YAML otherwise. One odd field of one artifact is no
    /// reason to lose the others, so only what is no list of artifacts is refused.
    ///
    /// # Errors
    /// What is wrong and where, ready to stand behind the file's path.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, String> {
        let bytes = json::without_bom(bytes);
        let value: Value = if name.ends_with(".json") {
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?
        } else {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
            yaml::parse(text).map_err(|error| error.to_string())?
        };
        let Value::Object(mut document) = value else {
            return Err("it is empty, or no map".to_owned());
        };
        let Some(Value::Array(artifacts)) = document.remove("artifacts") else {
            return Err("it has no list `artifacts`".to_owned());
        };
        let metadata = document.get("metadata").and_then(Value::as_object);
        let project_id =
            metadata.and_then(|it| json::word(json::any(it, &["projectId", "project_id"])));
        Ok(Manifest { project_id, artifacts: artifacts.into_iter().map(Entry::read).collect() })
    }
}

impl Entry {
    fn read(value: Value) -> Entry {
        let Value::Object(mut entry) = value else { return Entry::default() };
        let mut list = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| entry.remove(*name).filter(Value::is_array));
            match found {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        };
        let derived_from = list(["derivedFrom", "derived_from"]);
        let depends_on = list(["dependsOn", "depends_on"]);
        let parameters = match entry.remove("parameters") {
            Some(Value::Object(parameters)) => parameters,
            _ => Map::new(),
        };
        let word = |names: &[&str]| json::word(json::any(&entry, names));
        Entry {
            id: word(&["id"]),
            kind: word(&["type"]),
            name: word(&["name"]),
            target: word(&["target"]),
            priority: word(&["priority"]),
            status: word(&["status"]),
            output_path: word(&["outputPath", "output_path"]),
            existing_path: word(&["existingPath", "existing_path"]),
            depends_on: depends_on.iter().filter_map(|id| json::word(Some(id))).collect(),
            parameters,
            derived_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "metadata: {projectId: p}\nartifacts:\n- id: a\n  type: dashboard\n  name: 12\n  \
                    target: null\n  parameters: {n: 1, f: 1.0, s: '1'}\n  dependsOn: null\n";
        let json = r#"{"metadata": {"projectId": "p"}, "kind": "X", "artifacts": [{"id": "a",
            "type": "dashboard", "name": 12, "parameters": {"n": 1, "f": 1.0, "s": "1"}}]}"#;
        let from_yaml = Manifest::parse("m.yaml", yaml.as_bytes()).expect("YAML");
        let from_json = Manifest::parse("m.json", json.as_bytes()).expect("JSON");
        assert_eq!(from_yaml, from_json);
        assert_eq!(from_yaml.artifacts[0].parameters["f"], 1.0);
    }

    #[test]
    fn odd_fields_cost_nothing_but_themselves() {
        let yaml = "artifacts:\n- {id: a, parameters: [], dependsOn: x, status: exists}\n- null\n\
                    - {id: 7, name: [], parameters: {d: .inf}}\n";
        let manifest = Manifest::parse("m.yaml", yaml.as_bytes()).expect("a manifest");
        let ids: Vec<_> = manifest.artifacts.iter().map(|entry| entry.id.as_deref()).collect();
        assert_eq!(ids, [Some("a"), None, Some("7")]);
        assert_eq!(manifest.artifacts[0].status.as_deref(), Some("exists"));
        assert_eq!(manifest.artifacts[2].parameters["d"], ".inf");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["", "null", "[]", "metadata: {}", "artifacts: 5", "artifacts:"] {
            assert!(Manifest::parse("m.yaml", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn faults_say_where() {
        let yaml = Manifest::parse("m.yaml", b"artifacts:\n  - id: [\n").expect_err("not YAML");
        assert!(yaml.contains("line"), "{yaml}");
        let json = Manifest::parse("m.json", b"{\n  \"artifacts\": [}").expect_err("not JSON");
        assert!(json.contains("line 2"), "{json}");
        assert!(Manifest::parse("m.yaml", b"\xff\xfe").is_err());
    }
}
