//! What every room uses and what names no room: ids, times, units, words.

pub mod clock;
pub mod contract;
pub mod diagnostics;
pub mod ids;
pub mod parallel;
pub mod signal;
pub mod text;
pub mod units;
