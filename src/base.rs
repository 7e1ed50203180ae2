//! Types that every room may use: ids, times, units, words. `base` names no other room.

pub mod clock;
pub(crate) mod contract;
pub(crate) mod diagnostics;
pub mod ids;
pub(crate) mod parallel;
pub(crate) mod path;
pub(crate) mod signal;
pub(crate) mod text;
pub(crate) mod units;
