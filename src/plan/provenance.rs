//! Parses `run-provenance.json` for the version of the source that was exported.
//!
//! An export without `--emit-provenance` has no `source_checksum` in its metadata. The record of
//! the run has the same hash.

use std::path::Path;

use serde::Deserialize;

use super::json;
use crate::base::text::hex;

/// The file that every export run writes next to the metadata.
pub(crate) const FILE: &str = "run-provenance.json";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Provenance {
    inputs: Vec<File>,
    outputs: Vec<File>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    path: Option<String>,
    sha256: Option<String>,
}

/// The record belongs to another version of the metadata file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OtherVersion;

impl File {
    fn is_named(&self, name: &str) -> bool {
        let file_name = |path| Path::new(path).file_name();
        self.path.as_deref().is_some_and(|path| file_name(path) == file_name(name))
    }
}

/// Returns the SHA-256 of the exported source, in hexadecimal, from `inputs[]`. The source is the
/// input with the file name of `generated_from`, else the first input, where the exporter puts it.
///
/// `None` if the record has no such input.
///
/// # Errors
/// Returns an error if the record belongs to another version of the metadata file: either the last
/// run failed before it wrote its record, or a program changed the metadata file afterwards.
pub(crate) fn source_checksum(
    record: &[u8],
    metadata: (&str, &[u8; 32]),
    generated_from: Option<&str>,
) -> Result<Option<String>, OtherVersion> {
    let (name, sha256) = metadata;
    let Ok(record) = serde_json::from_slice::<Provenance>(json::without_bom(record)) else {
        return Ok(None);
    };
    let is_of_another_version = |file: &File| {
        let recorded = file.sha256.as_deref();
        file.is_named(name) && recorded.is_some_and(|it| !it.eq_ignore_ascii_case(&hex(sha256)))
    };
    if record.outputs.iter().any(is_of_another_version) {
        return Err(OtherVersion);
    }
    let is_source = |input: &&File| generated_from.is_some_and(|name| input.is_named(name));
    let source = record.inputs.iter().find(is_source).or(record.inputs.first());
    let sha256 = source.and_then(|source| source.sha256.clone());
    Ok(sha256.filter(|sha256| !sha256.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const METADATA: (&str, &[u8; 32]) = ("onboarding-metadata.json", &[0xab; 32]);

    #[test]
    fn the_source_is_found_among_the_inputs() {
        let source = json!({"path": "/srv/shop/.contextcore.yaml", "sha256": "aa"});
        let mapping = json!({"path": "/srv/shop/map.json", "sha256": "bb"});
        let find = |inputs: &[&serde_json::Value], from| {
            source_checksum(json!({"inputs": inputs}).to_string().as_bytes(), METADATA, from)
        };
        let from = Some("gen/.contextcore.yaml");
        assert_eq!(find(&[&source], None), Ok(Some("aa".to_owned())));
        assert_eq!(find(&[&source], Some("other.yaml")), Ok(Some("aa".to_owned())));
        assert_eq!(find(&[&mapping, &source], from), Ok(Some("aa".to_owned())));
        assert_eq!(find(&[&source, &mapping], None), Ok(Some("aa".to_owned())));
        assert_eq!(find(&[], from), Ok(None));
        assert_eq!(find(&[&json!({"path": null, "sha256": null})], from), Ok(None));
        for broken in ["", "[]", "{\"inputs\": 5}", "{\"inputs\": [5]}"] {
            assert_eq!(source_checksum(broken.as_bytes(), METADATA, from), Ok(None), "{broken}");
        }
    }

    #[test]
    fn the_record_of_another_run_is_not_used() {
        let record = |sha256: &str| {
            let record = json!({
                "inputs": [{"path": "c.yaml", "sha256": "aa"}],
                "outputs": [{"path": "out/onboarding-metadata.json", "sha256": sha256}],
            });
            source_checksum(record.to_string().as_bytes(), METADATA, None)
        };
        assert_eq!(record(&"ab".repeat(32)), Ok(Some("aa".to_owned())));
        assert_eq!(record(&"cd".repeat(32)), Err(OtherVersion));
    }
}
