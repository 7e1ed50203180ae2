//! The steps that the benches measure, with exports from the generator.
//!
//! ```text
//! bytes ─▶ onboarding, manifest, context ─▶ join ─▶ convert, encode        bytes ─▶ splice
//! ```

#[path = "../../examples/generate/export.rs"]
pub mod export;

use std::hint::black_box;
use std::path::Path;

use serde_json::Value;
use taskspan::base::clock::UnixNanos;
use taskspan::base::ids::TraceId;
use taskspan::converter::limits::SpanLimits;
use taskspan::converter::options::{RedactionConfig, ResourceConfig, SpanOptions};
use taskspan::converter::{Conversion, Converter, Redaction};
use taskspan::internals::{Manifest, Onboarding, ProjectContext, join, splice};
use taskspan::plan::Plan;

use export::{Export, Files, Language};

/// The time of all spans, in ns since 1970. Any time would do.
pub const NOW: UnixNanos = UnixNanos(1_795_000_000_000_000_000);

/// The parsed files of an export.
#[derive(Clone)]
pub struct Parsed {
    pub onboarding: Onboarding,
    pub manifest: Manifest,
    pub context: ProjectContext,
}

/// One export in memory.
pub struct Case {
    pub files: Files,
    manifest_name: String,
}

impl Case {
    /// Generates an export with this many artifacts. The bytes are the same every time.
    pub fn new(artifacts: usize, language: Language) -> Case {
        let export = Export::new(artifacts, 1, language);
        Case { files: export.files().unwrap(), manifest_name: export.manifest_name() }
    }

    /// Parses the metadata.
    pub fn onboarding(&self) -> Onboarding {
        Onboarding::parse(&self.files.metadata).unwrap()
    }

    /// Parses the manifest.
    pub fn manifest(&self) -> Manifest {
        Manifest::parse(&self.manifest_name, &self.files.manifest).unwrap()
    }

    /// Parses the three files.
    pub fn parsed(&self) -> Parsed {
        let context = ProjectContext::parse(&self.files.context).unwrap();
        Parsed { onboarding: self.onboarding(), manifest: self.manifest(), context }
    }

    /// Returns the trace id of the export.
    pub fn trace_id(&self) -> TraceId {
        TraceId::of_export(Path::new("/exports/onboarding-metadata.json"), 0, &self.files.metadata)
    }

    /// Parses metadata and manifest with the libraries alone: a lower bound for any reader that
    /// uses them.
    pub fn floor(&self) -> (Value, Value) {
        let metadata = serde_json::from_slice(&self.files.metadata).unwrap();
        let manifest = if self.manifest_name.ends_with(".json") {
            serde_json::from_slice(&self.files.manifest).unwrap()
        } else {
            let text = std::str::from_utf8(&self.files.manifest).unwrap();
            // The default limits are meant for untrusted input and refuse this manifest.
            let options = serde_saphyr::options! { budget: None };
            serde_saphyr::from_str_with_options(text, options).unwrap()
        };
        (metadata, manifest)
    }

    /// Returns the metadata after a write-back.
    pub fn spliced(&self) -> Vec<u8> {
        let entries = [
            ("task_trace_id", "5a8a995303723658ab07faaa5146489f"),
            ("task_emission_timestamp", "2026-11-23T08:14:55.572Z"),
        ];
        splice(black_box(&self.files.metadata), &entries).unwrap()
    }
}

/// Joins the parsed files into a plan.
pub fn joined(parsed: Parsed) -> Plan {
    join(parsed.onboarding, Ok(parsed.manifest), parsed.context, None)
}

/// Returns a converter with the default settings.
pub fn converter() -> Converter {
    Converter {
        spans: SpanOptions::default(),
        redaction: Redaction::new(&RedactionConfig::default()).unwrap(),
        resource: ResourceConfig::default(),
        limits: SpanLimits::default(),
        triggered_by: None,
    }
}

/// Converts a plan into encoded requests.
pub fn converted(converter: &Converter, plan: &Plan, trace_id: TraceId) -> Conversion {
    converter.convert(plan, trace_id, NOW)
}
