//! Tests of the test support itself: what all other tests are judged by has to be right.

// Helpers of tests may stop at the first surprise, as tests may.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

#[path = "support_selftest/by_hand.rs"]
mod by_hand;
#[path = "support_selftest/checker.rs"]
mod checker;
#[path = "support_selftest/endpoint.rs"]
mod endpoint;
#[path = "support_selftest/exports.rs"]
mod exports;
