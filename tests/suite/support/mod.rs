//! What the whole-program tests stand on: an endpoint that misbehaves on demand, exports as the
//! real exporter writes them, the real binary, and an independent reading of the conventions.

pub mod clock;
pub mod conventions;
pub mod exports;
pub mod fake_otlp;
pub mod fake_tempo;
pub mod program;
pub mod snapshot;
pub mod workspace;
