//! Exit codes, and the errors that lead to them.

use std::process::ExitCode;

use crate::config::Faults;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Something was not delivered in time, or could not be written back.
    NotDelivered,
    /// The command line or the configuration is at fault.
    Usage,
    /// An export was refused: bad input, or a server would not take it.
    Refused,
    /// As the job ended that was run.
    Job(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::NotDelivered => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Job(code) => code,
        })
    }
}

/// Why a command stopped early.
#[derive(Debug)]
pub enum Failure {
    /// Faults of the configuration, each with its place.
    Config(Faults),
    /// Anything else, at the edge of the program.
    Other(anyhow::Error),
}

impl Failure {
    /// What is wrong, for a log.
    pub fn text(&self) -> String {
        match self {
            Failure::Config(faults) => faults.to_string(),
            Failure::Other(error) => format!("{error:#}"),
        }
    }

    /// Tells a person and gives the exit code.
    pub fn report(self) -> Exit {
        match self {
            Failure::Config(faults) => {
                super::say(&faults.to_string());
                Exit::Usage
            }
            Failure::Other(error) => {
                super::say(&format!("taskspan: {error:#}"));
                Exit::NotDelivered
            }
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Failure {
        Failure::Config(faults)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure
where
    E: NotFaults,
{
    fn from(error: E) -> Failure {
        Failure::Other(error.into())
    }
}

/// Keeps the two conversions apart.
pub trait NotFaults {}
impl NotFaults for anyhow::Error {}
impl NotFaults for std::io::Error {}
impl NotFaults for crate::pipeline::StageDied {}
