//! `taskspan schema`: prints the JSON Schema of the configuration, for editors.

use clap::Args;

use super::Exit;
use super::exit::Failure;

/// A test compares it with the types that it is made from.
const SCHEMA: &str = include_str!("../../pipeline.schema.json");

#[derive(Debug, Args)]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        super::print(SCHEMA)?;
        Ok(Exit::Done)
    }
}
