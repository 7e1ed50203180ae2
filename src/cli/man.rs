//! `taskspan man`: the manual page, made from the help texts.

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;

use super::exit::Failure;
use super::{Cli, Exit};

#[derive(Debug, Args)]
pub(crate) struct Man {}

impl Man {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let mut text = Vec::new();
        let command = Cli::command();
        let page = Page::new(command.clone());
        page.render(&mut text)?;
        for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            section(&mut text, subcommand)?;
        }
        super::print(&String::from_utf8_lossy(&text))?;
        Ok(Exit::Done)
    }
}

/// Adds a section with the arguments of a subcommand.
fn section(text: &mut Vec<u8>, subcommand: &Command) -> std::io::Result<()> {
    use std::io::Write;
    let page = Page::new(subcommand.clone());
    writeln!(text, ".SH TASKSPAN {}", subcommand.get_name().to_uppercase())?;
    page.render_description_section(text)?;
    page.render_options_section(text)
}
