//! Guarantees:
//!
//! - The generator of large exports writes the same bytes for the same seed.
//! - taskspan accepts its exports of every size without a warning.

#[path = "../../examples/generate/export.rs"]
mod export;

use taskspan::internals::Roots;
use taskspan::plan::{self, Export as Read, ManifestUse, ReadOptions};
use tempfile::TempDir;

use export::{Export, Language};

fn read(export: &Export) -> plan::Plan {
    let dir = TempDir::new().unwrap();
    let path = export.write_into(dir.path()).unwrap();
    let options = ReadOptions {
        max_file_size: 1 << 26,
        max_artifacts: 100_000,
        max_memory: u64::MAX,
        project_id: None,
        emit_existing: false,
    };
    match plan::read(&Roots::of_file(&path), &path, &options).unwrap() {
        Read::Fresh(fresh) => {
            assert!(!fresh.provisional);
            fresh.plan
        }
        Read::Emitted(carried) => panic!("it carries {}", carried.text),
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let files = |seed| Export::new(50, seed, Language::Yaml).files().unwrap();
    let [one, again, other] = [1, 1, 2].map(files);
    assert!(one.metadata == again.metadata && one.manifest == again.manifest);
    assert!(one.context == again.context);
    assert!(one.metadata != other.metadata && one.manifest != other.manifest);
}

#[test]
fn the_files_are_those_in_memory() {
    let dir = TempDir::new().unwrap();
    let export = Export::new(50, 1, Language::Json);
    let path = export.write_into(dir.path()).unwrap();
    let files = export.files().unwrap();
    assert!(std::fs::read(path).unwrap() == files.metadata);
    assert!(std::fs::read(dir.path().join(export.manifest_name())).unwrap() == files.manifest);
}

#[test]
fn every_size_is_read_without_a_warning() {
    for artifacts in [1, 2, 8, 15, 100, 701] {
        let plans = [Language::Yaml, Language::Json]
            .map(|language| read(&Export::new(artifacts, artifacts as u64, language)));
        for plan in &plans {
            assert_eq!(plan.artifacts.len(), artifacts);
            assert_eq!(plan.warnings, []);
            assert_eq!(plan.export.manifest, ManifestUse::Used);
        }
        assert_eq!(plans[0], {
            let mut same = plans[1].clone();
            same.export.artifact_manifest_checksum =
                plans[0].export.artifact_manifest_checksum.clone();
            same
        });
    }
}
