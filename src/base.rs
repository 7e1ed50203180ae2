//! Types that every room may use: ids, times, units, words. `base` names no other room.

pub mod clock;
pub mod contract;
pub mod diagnostics;
pub mod ids;
pub mod parallel;
pub mod signal;
pub mod text;
pub mod units;
