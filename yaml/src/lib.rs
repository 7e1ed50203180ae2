//! YAML as PyYAML reads and writes it.
//!
//! ```text
//! text ─parser events─▶ reader ─────────────▶ Build ─▶ JSON value (`parse`)
//!                       aliases and nesting         └▶ any other tree (`read`)
//!                       within limits
//! ```
//!
//! Exports are written by PyYAML, which writes a text such as `1e3`, `08` or `y` without quotes,
//! because YAML 1.1 reads it as text. A YAML 1.2 reader would change its type, so plain scalars are
//! resolved here, on top of the parser of serde-saphyr.
//!
//! This is a separate crate so that it can be optimized for speed: the parser is generic, so it is
//! compiled where it is used, and the rest of the program is optimized for size.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod json;
mod reader;
mod scalar;

use std::fmt;

pub use json::{parse, parse_with_list};
pub use reader::{Build, Key, Limits, read};

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// Why a text cannot be read, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct YamlError {
    /// Where the parser stopped.
    pub at: Position,
    /// The reason. It may contain a key of the document, never a value.
    pub message: String,
}

impl std::error::Error for YamlError {}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "line {line} column {column}: {}", self.message)
    }
}
