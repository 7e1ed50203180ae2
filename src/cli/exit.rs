//! Exit codes, and the errors that lead to them.

use std::process::ExitCode;

use crate::base::text::escape_control;
use crate::config::Faults;

/// The exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: success.
    Done,
    /// 1: an export was not delivered in time, or its id could not be written.
    NotDelivered,
    /// 2: the command line or the configuration is invalid.
    Usage,
    /// 3: an export was refused, because it is invalid or because a server refused it.
    Refused,
    /// The exit code of the job that was run.
    Job(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::NotDelivered => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Job(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command stopped early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Errors in the configuration, each with its place.
    Config(Faults),
    /// Any other error.
    Other(anyhow::Error),
}

impl Failure {
    /// Returns the error for a log line.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Config(faults) => faults.to_string(),
            Failure::Other(error) => format!("{error:#}"),
        }
    }

    /// Logs each line of the error.
    pub(crate) fn log(&self) {
        self.text().lines().for_each(|line| tracing::error!("{line}"));
    }

    /// Prints the error and returns the exit code.
    pub(crate) fn report(self) -> Exit {
        match self {
            Failure::Config(faults) => {
                super::say(&faults.to_string());
                Exit::Usage
            }
            Failure::Other(error) => {
                super::say(&format!("taskspan: {}", escape_control(&format!("{error:#}"))));
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

/// Separates the two implementations of `From`.
pub(crate) trait NotFaults {}
impl NotFaults for anyhow::Error {}
impl NotFaults for std::io::Error {}
impl NotFaults for crate::pipeline::StageDied {}
