//! Rows of the table: the goal, the result, and whether the goal is met.

use std::time::Duration;

pub struct Row {
    pub what: String,
    pub goal: String,
    pub figure: String,
    pub is_met: bool,
}

impl Row {
    pub fn new(what: &str, goal: &str, figure: String, is_met: bool) -> Row {
        Row { what: what.to_owned(), goal: goal.to_owned(), figure, is_met }
    }

    pub fn print(&self) {
        let verdict = if self.is_met { "met" } else { "**missed**" };
        println!("| {} | {} | {} | {verdict} |", self.what, self.goal, self.figure);
    }
}

pub fn median<T: Ord + Copy>(values: &[T]) -> T {
    quantile(values, 0.5)
}

pub fn quantile<T: Ord + Copy>(values: &[T], share: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// Formats with three digits, in a suitable unit.
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

/// Formats KiB.
pub fn memory(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

pub fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(1e-9)
}
