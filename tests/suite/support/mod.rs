//! Support for tests of the whole program: an endpoint with fault injection, exports like those of
//! the real exporter, the real binary, and an independent implementation of the conventions.

pub mod clock;
pub mod conventions;
pub mod exports;
pub mod fake_otlp;
pub mod fake_tempo;
pub mod program;
pub mod snapshot;
pub mod workspace;
