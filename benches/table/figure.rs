//! Rows of the table, and how their figures are computed and formatted.

use std::time::Duration;

/// One row: what is measured, the goal, the result, and whether the result meets the goal.
pub struct Row {
    pub what: String,
    pub goal: String,
    pub figure: String,
    pub is_met: bool,
}

impl Row {
    /// Makes a row. `figure` is the formatted result.
    pub fn new(what: &str, goal: &str, figure: String, is_met: bool) -> Row {
        Row { what: what.to_owned(), goal: goal.to_owned(), figure, is_met }
    }

    /// Prints the row as Markdown.
    pub fn print(&self) {
        let verdict = if self.is_met { "met" } else { "**missed**" };
        println!("| {} | {} | {} | {verdict} |", self.what, self.goal, self.figure);
    }
}

/// Returns the median. Panics if there are no values.
pub fn median<T: Ord + Copy>(values: &[T]) -> T {
    quantile(values, 0.5)
}

/// Returns the value at this quantile, from 0 to 1. Panics if there are no values.
pub fn quantile<T: Ord + Copy>(values: &[T], share: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// Formats a duration in µs, ms or s, with about three digits.
pub fn time(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        0.0..1.0 => format!("{:.0} µs", millis * 1e3),
        1.0..10.0 => format!("{millis:.2} ms"),
        10.0..100.0 => format!("{millis:.1} ms"),
        100.0..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}

/// Formats KiB as MiB.
pub fn memory(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// Returns `of` divided by `to`.
pub fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(1e-9)
}
