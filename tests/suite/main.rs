//! All tests of the whole program, in one binary: linking once instead of 25 times is faster and
//! needs less disk space. Each module is a subject; `cargo test --test suite outage::` runs one.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// Test helpers may panic, like tests.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod bad_input;
mod contextcore;
mod cookbook;
mod delivery;
mod deploy;
mod docs;
mod environment;
mod exec;
mod files;
mod followup;
mod generate;
mod kill;
mod lifecycle;
mod logs;
mod memory;
mod observe;
mod once;
mod outage;
mod queue_command;
mod race;
mod reload;
mod rooms;
mod sample;
mod sidecar;
mod stopping;
mod support;
mod support_selftest;
mod sweep;
mod task_state;
mod verify;
mod wrapper;
