//! A file with gate results, of any bytes: read or refused, never a panic; what is read says what it
//! was read from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taskspan::base::clock::UnixNanos;
use taskspan::plan::gate::GateFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = GateFile::parse(bytes, UnixNanos(0)) {
        for result in &file.results {
            assert_eq!(result.whole["gate_id"], result.gate_id.as_str());
        }
    }
});
