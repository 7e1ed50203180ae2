//! The artifact manifest: every artifact with its title, type, status and dependencies.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{json, yaml};

/// The artifact manifest as far as taskspan reads it; unknown keys are normal.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Manifest {
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_is_default")]
    pub artifacts: Vec<Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    #[serde(alias = "project_id")]
    pub project_id: Option<String>,
}

/// One artifact as the manifest lists it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub id: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub name: Option<String>,
    pub target: Option<String>,
    pub priority: Option<String>,
    pub status: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub parameters: Map<String, Value>,
    #[serde(default, alias = "derived_from", deserialize_with = "null_is_default")]
    pub derived_from: Vec<Value>,
    #[serde(default, alias = "depends_on", deserialize_with = "null_is_default")]
    pub depends_on: Vec<String>,
    #[serde(alias = "output_path")]
    pub output_path: Option<String>,
    #[serde(alias = "existing_path")]
    pub existing_path: Option<String>,
}

impl Manifest {
    /// Parses JSON when the file name says so, YAML otherwise.
    ///
    /// # Errors
    /// What is wrong and where, ready to stand behind the file's path.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, String> {
        let bytes = json::without_bom(bytes);
        if name.ends_with(".json") {
            return serde_json::from_slice(bytes).map_err(|error| error.to_string());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
        yaml::parse(text).map_err(|error| yaml::brief(&error))
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "metadata: {projectId: p}\nartifacts:\n- id: a\n  type: dashboard\n  name: 12\n  \
                    target: null\n  parameters: {n: 1, f: 1.0, s: '1'}\n  dependsOn: null\n";
        let json = r#"{"metadata": {"projectId": "p"}, "kind": "X", "artifacts": [{"id": "a",
            "type": "dashboard", "name": "12", "parameters": {"n": 1, "f": 1.0, "s": "1"}}]}"#;
        let from_yaml = Manifest::parse("m.yaml", yaml.as_bytes()).expect("YAML");
        let from_json = Manifest::parse("m.json", json.as_bytes()).expect("JSON");
        assert_eq!(from_yaml, from_json);
        assert_eq!(from_yaml.artifacts[0].parameters["f"], 1.0);
    }

    #[test]
    fn faults_say_where() {
        let yaml = Manifest::parse("m.yaml", b"artifacts:\n  - id: [\n").expect_err("not YAML");
        assert!(yaml.contains("line"), "{yaml}");
        let json = Manifest::parse("m.json", b"{\n  \"artifacts\": 5}").expect_err("no list");
        assert!(json.contains("line 2"), "{json}");
        assert!(Manifest::parse("m.yaml", b"\xff\xfe").is_err());
    }
}
