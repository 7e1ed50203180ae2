//! Guarantees:
//!
//! - The test support reports the faults that it is meant to find: each planted error is found, and
//!   a correct trace has none.

mod by_hand;
mod checker;
mod endpoint;
mod exports;
