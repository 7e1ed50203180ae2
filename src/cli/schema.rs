//! `taskspan schema`: the configuration as a JSON Schema, for editors.

use clap::Args;

use super::Exit;
use super::exit::Failure;
use crate::config::schema;

#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub fn run(self) -> Result<Exit, Failure> {
        let text = serde_json::to_string_pretty(&schema::schema()).map_err(anyhow::Error::from)?;
        super::print(&format!("{text}\n"))?;
        Ok(Exit::Done)
    }
}
