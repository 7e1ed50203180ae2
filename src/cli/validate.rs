//! `taskspan validate`: everything is built, nothing is started.

use clap::Args;

use super::exit::Failure;
use super::setup::Setup;
use super::{ConfigArgs, Exit};

#[derive(Debug, Args)]
pub struct Validate {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Validate {
    pub fn run(self) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &[])?;
        for warning in &setup.warnings {
            anstream::eprintln!("warning: {warning}");
        }
        let pipelines = setup.build()?;
        let destinations = pipelines.destinations().join(", ");
        super::print(&format!("valid; traces go to {destinations}\n"))?;
        Ok(Exit::Done)
    }
}
