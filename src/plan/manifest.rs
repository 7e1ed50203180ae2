//! Parses the artifact manifest: the artifacts with their titles, types, statuses and dependencies.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Rule, json};

/// The part of the artifact manifest that taskspan uses. Unknown keys are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// `metadata.projectId`
    pub(crate) project_id: Option<String>,
    /// `projectContext.name`
    pub(crate) project_name: Option<String>,
    /// `metadata.generatedFrom`: the file that was exported.
    pub(crate) generated_from: Option<String>,
    pub(crate) artifacts: Vec<Entry>,
}

/// An artifact in the manifest. Fields that are missing or invalid are `None`; the metadata may
/// have them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) priority: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) derived_from: Vec<Rule>,
    pub(crate) depends_on: Vec<String>,
    pub(crate) output_path: Option<String>,
    pub(crate) existing_path: Option<String>,
}

impl Manifest {
    /// Parses JSON if the file name ends in `.json`, else YAML. An invalid field of one artifact is
    /// ignored; only a manifest without a list of artifacts is refused.
    ///
    /// # Errors
    /// Returns what is wrong and where, to be shown after the file's path.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, String> {
        let bytes = json::without_bom(bytes);
        // Read one artifact at a time: all of them as values would use several times the memory of
        // their text.
        let mut artifacts = Vec::new();
        let each = |value| artifacts.push(Entry::read(value));
        let head = if name.ends_with(".json") {
            read_json(bytes, each)?
        } else {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
            read_yaml(text, each)?
        };
        let word = |section: &Option<Value>, names: &[&str]| {
            json::word(json::any(section.as_ref()?.as_object()?, names))
        };
        Ok(Manifest {
            project_id: word(&head.metadata, &["projectId", "project_id"]),
            project_name: word(&head.project_context, &["name"]),
            generated_from: word(&head.metadata, &["generatedFrom", "generated_from"]),
            artifacts,
        })
    }
}

const PROJECT_CONTEXT: &str = "projectContext";

const NO_MAP: &str = "it is empty, or no map";
const NO_LIST: &str = "it has no list `artifacts`";

/// The sections of a manifest other than its artifacts.
#[derive(Default)]
struct Head {
    metadata: Option<Value>,
    project_context: Option<Value>,
}

/// Calls `each` for every artifact and returns the other sections.
fn read_json(bytes: &[u8], each: impl FnMut(Value)) -> Result<Head, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let document = reader.deserialize_map(Document::default());
    let document = document.and_then(|document| reader.end().map(|()| document));
    let document = document.map_err(|error| match error.is_data() {
        true => NO_MAP.to_owned(),
        false => error.to_string(),
    })?;
    let list = document.artifacts.map(RawValue::get).filter(|text| text.starts_with('['));
    let mut list = serde_json::Deserializer::from_str(list.ok_or(NO_LIST)?);
    list.deserialize_seq(Items(each)).map_err(|error| error.to_string())?;
    Ok(document.head)
}

/// The members that are used. If a key occurs several times, the last one counts.
#[derive(Default)]
struct Document<'a> {
    artifacts: Option<&'a RawValue>,
    head: Head,
}

impl<'de> Visitor<'de> for Document<'de> {
    type Value = Document<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "artifacts" => self.artifacts = Some(map.next_value()?),
                "metadata" => self.head.metadata = Some(map.next_value()?),
                PROJECT_CONTEXT => self.head.project_context = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }
}

/// Passes on the items of a list, one at a time.
struct Items<F>(F);

impl<'de, F: FnMut(Value)> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item);
        }
        Ok(())
    }
}

/// Like [`read_json`], for YAML.
fn read_yaml(text: &str, mut each: impl FnMut(Value)) -> Result<Head, String> {
    let document = taskspan_yaml::parse_with_list(text, "artifacts", &mut each);
    match document.map_err(|error| error.to_string())? {
        Value::Object(mut document) => match document.remove("artifacts") {
            Some(Value::Array(left)) => {
                left.into_iter().for_each(each);
                Ok(Head {
                    metadata: document.remove("metadata"),
                    project_context: document.remove(PROJECT_CONTEXT),
                })
            }
            _ => Err(NO_LIST.to_owned()),
        },
        _ => Err(NO_MAP.to_owned()),
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
            derived_from: derived_from.iter().map(Rule::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "metadata: {projectId: p, generatedFrom: a/c.yaml}\nartifacts:\n- id: a\n  \
                    type: dashboard\n  name: 12\n  target: null\n  \
                    parameters: {n: 1, f: 1.0, s: '1'}\n  dependsOn: null\n\
                    projectContext: {name: Shop}\n";
        let json = r#"{"metadata": {"projectId": "p", "generatedFrom": "a/c.yaml"}, "kind": "X",
            "artifacts": [{"id": "a", "type": "dashboard", "name": 12,
            "parameters": {"n": 1, "f": 1.0, "s": "1"}}], "projectContext": {"name": "Shop"}}"#;
        let from_yaml = Manifest::parse("m.yaml", yaml.as_bytes()).expect("YAML");
        let from_json = Manifest::parse("m.json", json.as_bytes()).expect("JSON");
        assert_eq!(from_yaml, from_json);
        assert_eq!(from_yaml.project_name.as_deref(), Some("Shop"));
        assert_eq!(from_yaml.generated_from.as_deref(), Some("a/c.yaml"));
        assert_eq!(from_yaml.artifacts[0].parameters["f"], 1.0);
    }

    #[test]
    fn the_list_is_found_anywhere_and_in_any_style() {
        for yaml in [
            "artifacts: [{id: a}, {id: b}]\nmetadata: {projectId: p}\n",
            "metadata: {projectId: p}\nartifacts: &x\n- id: a\n- {id: b}\nagain: *x\n",
            "base: &base {artifacts: [{id: a}, {id: b}]}\n<<: *base\nmetadata: {projectId: p}\n",
            "inner: {artifacts: [1]}\nartifacts: [{id: &i a}, {id: b, name: *i}]\n\
             metadata: {projectId: p}\n",
        ] {
            let manifest = Manifest::parse("m.yaml", yaml.as_bytes()).expect(yaml);
            let ids: Vec<_> = manifest.artifacts.iter().map(|it| it.id.as_deref()).collect();
            assert_eq!(
                (ids, manifest.project_id.as_deref()),
                (vec![Some("a"), Some("b")], Some("p"))
            );
        }
        let json = r#"{"artifacts": [], "metadata": 5, "x": [1e999], "metadata": {"projectId": "p"},
            "artifacts": [{"id": "a"}]}"#;
        let last = Manifest::parse("m.json", json.as_bytes()).expect("the last counts");
        assert_eq!((last.artifacts.len(), last.project_id.as_deref()), (1, Some("p")));
        for none in ["null", "[[{}], {}]", "5", "\"artifacts\""] {
            assert_eq!(
                Manifest::parse("m.json", none.as_bytes()),
                Err(NO_MAP.to_owned()),
                "{none}"
            );
        }
        for twice in ["artifacts: []\nartifacts: []", "artifacts: 5\nartifacts: []"] {
            assert!(Manifest::parse("m.yaml", twice.as_bytes()).is_err(), "{twice}");
        }
    }

    #[test]
    fn malformed_fields_lose_only_themselves() {
        let yaml = "artifacts:\n- {id: a, parameters: [], dependsOn: x, status: exists}\n- null\n\
                    - {id: 7, name: [], parameters: {d: .inf}}\n";
        let manifest = Manifest::parse("m.yaml", yaml.as_bytes()).expect("a manifest");
        let ids: Vec<_> = manifest.artifacts.iter().map(|entry| entry.id.as_deref()).collect();
        assert_eq!(ids, [Some("a"), None, Some("7")]);
        assert_eq!(manifest.artifacts[0].status.as_deref(), Some("exists"));
        assert_eq!(manifest.artifacts[2].parameters["d"], ".inf");
    }

    #[test]
    fn invalid_manifests_are_refused() {
        for text in ["", "null", "[]", "metadata: {}", "artifacts: 5", "artifacts:"] {
            assert!(Manifest::parse("m.yaml", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn faults_have_a_position() {
        let yaml = Manifest::parse("m.yaml", b"artifacts:\n  - id: [\n").expect_err("not YAML");
        assert!(yaml.contains("line"), "{yaml}");
        let json = Manifest::parse("m.json", b"{\n  \"artifacts\": [}").expect_err("not JSON");
        assert!(json.contains("line 2"), "{json}");
        assert!(Manifest::parse("m.yaml", b"\xff\xfe").is_err());
    }
}
