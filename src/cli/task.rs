//! `taskspan task`: adds a status update to the trace of the export that contains the task (R4.4).

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, Value};

use super::addition::Onto;
use super::exit::Failure;
use super::watchdog::Watchdog;
use super::{Exit, Global};
use crate::base::contract::{Phase, TaskStatus};
use crate::base::ids::TaskId;
use crate::converter::additions::TaskUpdate;

#[derive(Debug, Args)]
pub(crate) struct Task {
    #[command(flatten)]
    onto: Onto,

    /// Id of the artifact, or the id that it is mapped to, such as PI-006
    #[arg(long, value_name = "ID")]
    id: String,

    /// not_started (or todo), in_progress, blocked, completed (or done) or failed
    #[arg(long, value_name = "STATUS", value_parser = TaskStatus::of_word)]
    status: TaskStatus,

    /// Status before the change [default: the status in the export]
    #[arg(long, value_name = "STATUS", value_parser = TaskStatus::of_word)]
    from: Option<TaskStatus>,

    /// Phase of the workflow, such as ARTISAN_DESIGN
    #[arg(long, value_name = "PHASE", default_value = "OTHER")]
    phase: Phase,

    /// Record this event instead of a status change
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    event: Option<String>,

    /// Attribute of the event; may be repeated
    #[arg(long = "attr", value_name = "KEY=VALUE", value_parser = pair)]
    attributes: Vec<(String, String)>,

    /// Reason for the change
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key @ ("from" | "to" | "reason"), _)) => {
            Err(format!("`{key}` is the event's own; see --from, --status and --reason"))
        }
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("has to be KEY=VALUE".to_owned()),
    }
}

impl Task {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let Task { onto, id, status, from, phase, event, attributes, reason } = self;
        let watchdog = Watchdog::arm(onto.timeout.0);
        let prepared = onto.prepare(global)?;
        drop(watchdog);
        let ready = match prepared {
            Ok(ready) => ready,
            Err(exit) => return Ok(exit),
        };
        let texts = attributes.into_iter().map(|(key, value)| (key, Value::from(value)));
        let update = TaskUpdate {
            task_id: TaskId::new(id),
            status,
            phase,
            from,
            event,
            attributes: texts.collect::<Map<_, _>>(),
            reason,
        };
        let addition = ready.pipelines.addition(
            ready.metadata(),
            &ready.emitted,
            |trace| trace.task_update(&update),
            |trace| trace.task_update_logs(&update),
        );
        match addition {
            Ok(addition) => ready.send(addition).await,
            Err(error) => {
                tracing::error!("{}: {error}", ready.metadata().display());
                Ok(Exit::Refused)
            }
        }
    }
}
