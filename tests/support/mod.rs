//! What the whole-program tests stand on: an endpoint that misbehaves on demand, exports as the
//! real exporter writes them, the real binary, and an independent reading of the conventions.

// Every test file compiles all of this and uses a part of it.
#![allow(dead_code, unused_imports)]
// A test may stop at the first surprise; clippy knows that only inside of `#[test]`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

pub mod clock;
pub mod conventions;
pub mod exports;
pub mod fake_otlp;
pub mod fake_tempo;
pub mod program;
pub mod snapshot;
pub mod workspace;
