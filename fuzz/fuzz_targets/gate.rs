//! Parses any bytes as gate results: they are refused, or each result keeps the `gate_id` of the
//! file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taskspan::base::clock::UnixNanos;
use taskspan::internals::GateFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = GateFile::parse(bytes, UnixNanos(0)) {
        for result in &file.results {
            assert_eq!(result.whole["gate_id"], result.gate_id.as_str());
        }
    }
});
