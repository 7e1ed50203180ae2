//! `taskspan schema`: the configuration as a JSON Schema, for editors.

use clap::Args;

use super::Exit;
use super::exit::Failure;

/// A test holds it against the types it is made from.
const SCHEMA: &str = include_str!("../../pipeline.schema.json");

#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub fn run(self) -> Result<Exit, Failure> {
        super::print(SCHEMA)?;
        Ok(Exit::Done)
    }
}
