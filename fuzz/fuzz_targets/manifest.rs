//! Parses any bytes as artifact manifest (YAML and JSON) and as ProjectContext, without a panic or
//! unlimited memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taskspan::internals::{Manifest, ProjectContext};

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse("manifest.yaml", bytes);
    let _ = Manifest::parse("manifest.json", bytes);
    let _ = ProjectContext::parse(bytes);
});
