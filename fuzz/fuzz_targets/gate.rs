//! Files with gate results of any bytes are read or refused, without a panic, and results have the
//! contents of the file.

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
