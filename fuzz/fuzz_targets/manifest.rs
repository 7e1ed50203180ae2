//! Artifact manifests, in YAML and JSON, and ProjectContexts are read or refused, and never expand
//! without end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taskspan::plan::{Manifest, ProjectContext};

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse("manifest.yaml", bytes);
    let _ = Manifest::parse("manifest.json", bytes);
    let _ = ProjectContext::parse(bytes);
});
