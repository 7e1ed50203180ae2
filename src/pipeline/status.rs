//! Determines the delivery state of every export below the watched directories, and the reason for
//! it.
//!
//! ```text
//! directories ─scan, read─▶ ExportOnDisk ─┐
//! queue ─list, done──────▶ QueueSnapshot ───┴─▶ ExportStatus: state, reason, trace id, plan
//! ```

use std::path::PathBuf;

use serde::Serialize;

use super::quarantine::{self, Quarantine};
use crate::base::ids::TraceId;
use crate::config::receivers::{ExistingTraceId, ExportDirConfig};
use crate::fs::carried;
use crate::fs::carried::WriteBackMode;
use crate::fs::directory::Located;
use crate::fs::root::Roots;
use crate::fs::stamp::IdOrigin;
use crate::plan::{self, CarriedId, Export, Fresh, Plan, PlanError, ReadOptions};
use crate::queue::admin::{EntryState, Listed};
use crate::receiver::scan::Scanner;

/// The delivery state of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Not in the queue yet.
    Waiting,
    /// The process died while it read the export, more than once. It is read last.
    Quarantined,
    /// Not a valid export.
    Invalid,
    /// The file cannot be read.
    Unreadable,
    /// In the queue, waiting or in flight.
    Queued,
    /// Delivered; the id is about to be written.
    Delivered,
    /// Delivered, and the id is written.
    Written,
    /// The export has an id that taskspan did not write. Nothing was sent.
    Foreign,
    /// Delivered, but the id cannot be written.
    NotWritten,
    /// Delivered in part.
    Incomplete,
    /// A dead letter: the server rejected it permanently, or the retry limit was reached.
    Rejected,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Quarantined => "quarantined",
            State::Invalid => "invalid",
            State::Unreadable => "unreadable",
            State::Queued => "queued",
            State::Delivered => "delivered",
            State::Written => "written",
            State::Foreign => "foreign",
            State::NotWritten => "not_written",
            State::Incomplete => "incomplete",
            State::Rejected => "rejected",
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ExportStatus {
    pub(crate) path: String,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    /// The trace id that it has or will get.
    pub(crate) trace_id: Option<String>,
    /// The plan, if the export can be read.
    #[serde(skip)]
    pub(crate) plan: Option<Plan>,
    /// Index of the receiver that found it, in the order of the configuration.
    #[serde(skip)]
    pub(crate) receiver: usize,
}

/// An export on disk.
#[derive(Debug)]
pub(crate) struct ExportOnDisk {
    path: PathBuf,
    roots: Roots,
    export: Result<Box<Fresh>, Unread>,
    mode: WriteBackMode,
    /// Whether the id that it carries makes it done.
    is_done_by_id: bool,
    receiver: usize,
}

/// Why there is no plan of an export.
#[derive(Debug)]
enum Unread {
    Failed(PlanError),
    /// To read it might kill this process, too.
    Quarantined {
        deaths: u32,
    },
}

/// The path of an export, and how it is read.
#[derive(Debug)]
pub(crate) struct ExportPath {
    path: PathBuf,
    /// How often the process died while it read the export, if it is quarantined.
    deaths: Option<u32>,
    roots: Roots,
    read: ReadOptions,
    mode: WriteBackMode,
    is_done_by_id: bool,
    receiver: usize,
}

/// Returns the path of every export that these receivers find, without reading the exports. Blocks
/// on disk I/O.
pub(crate) fn paths(receivers: &[ExportDirConfig], quarantine: &Quarantine) -> Vec<ExportPath> {
    let of_receiver = |(receiver, config): (usize, &ExportDirConfig)| {
        let read = ReadOptions { emit_existing: true, ..config.read_options() };
        let exports = Scanner::new(super::selection(&config.watching())).scan_all().exports;
        let mode = config.write_back.mode;
        let is_done_by_id = config.on_existing_trace_id == ExistingTraceId::Skip;
        let roots = Roots::new(&config.directories);
        let place = move |path: PathBuf| ExportPath {
            deaths: quarantine.sentence(&path, false).map(|sentence| sentence.deaths),
            path,
            roots: roots.clone(),
            read: read.clone(),
            mode,
            is_done_by_id,
            receiver,
        };
        exports.into_keys().map(place).collect::<Vec<_>>()
    };
    receivers.iter().enumerate().flat_map(of_receiver).collect()
}

/// Returns every export, and reads it. Blocks on disk I/O.
pub(crate) fn find(receivers: &[ExportDirConfig], quarantine: &Quarantine) -> Vec<ExportOnDisk> {
    paths(receivers, quarantine).into_iter().map(ExportPath::read).collect()
}

impl ExportPath {
    pub(crate) fn read(self) -> ExportOnDisk {
        let ExportPath { path, deaths, roots, read, mode, is_done_by_id, receiver } = self;
        let read = || match plan::read(&roots, &path, &read) {
            Ok(Export::Fresh(fresh)) => Ok(fresh),
            // The options ask for an export with an id to be returned as `Fresh`.
            Ok(Export::Emitted(carried)) => Err(Unread::Failed(PlanError::Unfit {
                path: path.clone(),
                reason: format!("carries {}", carried.text),
            })),
            Err(error) => Err(Unread::Failed(error)),
        };
        let export = deaths.map_or_else(read, |deaths| Err(Unread::Quarantined { deaths }));
        ExportOnDisk { path, roots, export, mode, is_done_by_id, receiver }
    }
}

/// A snapshot of the queue: its entries, and the trace ids of exports that were delivered or
/// dropped and have left it. Empty if there is no queue.
#[derive(Debug, Default)]
pub(crate) struct QueueSnapshot {
    listed: Vec<Listed>,
    /// Exports that were delivered or dropped, and are not in the queue.
    done: Vec<TraceId>,
}

impl QueueSnapshot {
    pub(crate) fn new(listed: Vec<Listed>, done: Vec<TraceId>) -> QueueSnapshot {
        QueueSnapshot { listed, done }
    }

    pub(crate) fn add_done(&mut self, done: Vec<TraceId>) {
        self.done.extend(done);
    }

    fn find(&self, id: &str) -> Option<&Listed> {
        self.listed.iter().find(|listed| listed.trace_id == id && !listed.is_addition)
    }
}

impl ExportOnDisk {
    /// The key of this version in the queue.
    pub(crate) fn version(&self) -> Option<TraceId> {
        self.export.as_ref().ok().map(|fresh| fresh.trace_id)
    }

    pub(crate) fn status(self, queue: &QueueSnapshot) -> ExportStatus {
        let ExportOnDisk { path, roots, export, mode, is_done_by_id, receiver } = self;
        let (verdict, plan) = match export {
            Ok(fresh) => {
                let verdict = match fresh.carries.clone().filter(|it| is_done_by_id && it.is_id()) {
                    Some(CarriedId { text, origin: IdOrigin::Foreign }) => foreign(&text),
                    Some(CarriedId { text, .. }) => by_id(text, queue),
                    None => {
                        let export = roots.locate(&path).ok();
                        by_queue(export.as_ref(), &fresh, mode, queue)
                    }
                };
                (verdict, Some(fresh.plan))
            }
            Err(Unread::Quarantined { deaths }) => {
                ((State::Quarantined, Some(quarantine::reason(deaths)), None), None)
            }
            Err(Unread::Failed(error @ PlanError::Source(_))) => {
                ((State::Unreadable, Some(error.to_string()), None), None)
            }
            Err(Unread::Failed(error)) => ((State::Invalid, Some(error.to_string()), None), None),
        };
        let (state, reason, trace_id) = verdict;
        ExportStatus {
            path: path.to_string_lossy().into_owned(),
            state,
            reason,
            trace_id,
            plan,
            receiver,
        }
    }
}

type Verdict = (State, Option<String>, Option<String>);

/// The verdict for an export that carries an id. Optional exporters may still be delivering it.
fn by_id(id: String, queue: &QueueSnapshot) -> Verdict {
    (State::Written, queue.find(&id).and_then(|it| it.waits_for.clone()), Some(id))
}

/// The verdict for an id of another program. It is not shown as a trace id, because there may be no
/// such trace.
fn foreign(text: &str) -> Verdict {
    let reason = format!(
        "taskspan did not write its task_trace_id `{text}`; set on_existing_trace_id: emit to \
         replace it"
    );
    (State::Foreign, Some(reason), None)
}

fn by_queue(
    export: Option<&Located>,
    fresh: &Fresh,
    mode: WriteBackMode,
    queue: &QueueSnapshot,
) -> Verdict {
    let id = fresh.trace_id.to_string();
    let Some(listed) = queue.find(&id) else {
        let own = fresh.own_id().map(str::to_owned);
        let beside = match export.filter(|_| mode == WriteBackMode::Beside) {
            None => None,
            Some(export) => match carried::id_beside(export) {
                Ok(beside) => beside.filter(|beside| *beside == id),
                Err(error) => return (State::Unreadable, Some(error.to_string()), None),
            },
        };
        let written = own.or(beside);
        return match written {
            Some(id) => by_id(id, queue),
            // Delivered with the write-back off, or dropped by an operator: only the queue records
            // it.
            None if queue.done.contains(&fresh.trace_id) => {
                let reason = "not held any more, and no id is written for it";
                (State::Delivered, Some(reason.to_owned()), Some(id))
            }
            None => {
                let reason =
                    "not taken in yet: no sidecar has read it, or its queue is another one";
                (State::Waiting, Some(reason.to_owned()), None)
            }
        };
    };
    let refusal = || {
        let refused = listed.exporters.iter().find(|item| item.state.is_refusal());
        refused.and_then(|item| item.last_error.clone())
    };
    let (state, reason) = match listed.state {
        EntryState::Accepted | EntryState::Delivering => (State::Queued, listed.waits_for.clone()),
        EntryState::Delivered if listed.not_written.is_some() => {
            (State::NotWritten, listed.not_written.clone())
        }
        EntryState::Delivered => (State::Delivered, None),
        EntryState::WrittenBack => (State::Written, listed.waits_for.clone()),
        EntryState::Incomplete => (State::Incomplete, refusal()),
        EntryState::Rejected => (State::Rejected, refusal()),
    };
    (state, reason, Some(id))
}
