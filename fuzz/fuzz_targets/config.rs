//! Parses any text as configuration: it is accepted, or refused with at least one message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taskspan::internals::Config;
use taskspan::internals::ConfigDocument;

fuzz_target!(|text: &str| {
    let source = ConfigDocument::Text { name: "pipeline.yaml".to_owned(), text: text.to_owned() };
    if let Err(faults) = Config::from_sources(&[source], &[], &|_| None) {
        assert!(!faults.0.is_empty());
        for fault in faults.0 {
            assert!(!fault.to_string().is_empty());
        }
    }
});
