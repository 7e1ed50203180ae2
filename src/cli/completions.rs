//! `taskspan completions SHELL`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Failure;
use super::{Cli, Exit};

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to generate the script for
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let mut command = Cli::command();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "taskspan", &mut script);
        super::print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
