//! Errors and warnings about a configuration, with their places.
//!
//! ```text
//! any step ──push──▶ Report { faults, warnings } ──▶ one line each: file:line:column: message
//! ```
//!
//! No step stops at the first error. All steps add to the same report, and the user sees the whole
//! list in the order of the file.

use std::fmt;
use std::sync::Arc;

use crate::base::text::escape_control;

/// A position in a source. Line and column start at 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark {
    /// The file as the user named it, or `--set key`.
    pub(crate) file: Arc<str>,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong, or, among the warnings, one that is merely odd.
// The derived order is the order of the output: messages without a position first, then by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub(crate) mark: Option<Mark>,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn at(mark: &Mark, message: impl Into<String>) -> Self {
        Self { mark: Some(mark.clone()), message: message.into() }
    }

    /// Makes an error that has no place in a file.
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self { mark: None, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A fault is one line, whatever is in the paths and values that it names.
        let message = escape_control(&self.message);
        match &self.mark {
            Some(mark) => write!(f, "{}: {message}", escape_control(&mark.to_string())),
            None => f.write_str(&message),
        }
    }
}

/// All errors of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub(crate) fn push(&mut self, mark: &Mark, message: impl Into<String>) {
        self.0.push(Fault::at(mark, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort();
        for (index, fault) in sorted.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The errors and warnings that loading has found so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Errors: the program does not start.
    pub(crate) faults: Faults,
    /// Warnings: the program starts.
    pub(crate) warnings: Vec<Fault>,
}

impl Report {
    pub(crate) fn fault(&mut self, mark: &Mark, message: impl Into<String>) {
        self.faults.push(mark, message);
    }

    pub(crate) fn warn(&mut self, mark: &Mark, message: impl Into<String>) {
        self.warnings.push(Fault::at(mark, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_print_in_the_order_of_the_file() {
        let mark = |line, column| Mark { file: "p.yaml".into(), line, column };
        let mut faults = Faults::default();
        faults.push(&mark(10, 1), "last");
        faults.push(&mark(2, 7), "second");
        faults.push(&mark(2, 3), "first");
        faults.0.push(Fault::nowhere("no place"));
        assert_eq!(
            faults.to_string(),
            "no place\np.yaml:2:3: first\np.yaml:2:7: second\np.yaml:10:1: last"
        );
    }
}
