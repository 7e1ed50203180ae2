//! Runs the thread that owns the store. It commits concurrent changes in one transaction.
//!
//! ```text
//! write ┐                 one transaction,
//! write ┼─▶ bounded ─▶    one fsync        ─▶ one answer each
//! read  ┘   channel
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::record::{Blob, Seq};
use super::store::{Op, Store, StoreError};

/// One life of the store. After a corrupt store is replaced, writes that were meant for it are
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// Capacity of the command channel, and the largest number of commands in one transaction.
const MAX_WAITING: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Command {
    /// Writes a new entry, which can wait for room. Other writes may use the reserved space,
    /// because they make room in the end.
    Enqueue {
        ops: Vec<Op>,
        done: Reply<Epoch>,
    },
    Write {
        ops: Vec<Op>,
        of: Epoch,
        done: Reply<Epoch>,
    },
    Read {
        seq: Seq,
        blob: Blob,
        of: Epoch,
        done: Reply<Bytes>,
    },
    /// The store of this epoch is corrupt: quarantine and replace it.
    StartOver {
        corrupt: Epoch,
        done: Reply<(Epoch, Option<PathBuf>)>,
    },
}

/// A handle to the thread. When the last one is dropped, the thread writes its remaining commands
/// and ends.
#[derive(Clone, Debug)]
pub(crate) struct StoreWriter {
    commands: mpsc::Sender<Command>,
}

impl StoreWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub(crate) fn start(store: Store) -> io::Result<(StoreWriter, JoinHandle<()>)> {
        let (commands, incoming) = mpsc::channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || work(store, incoming))?;
        Ok((StoreWriter { commands }, thread))
    }

    /// Submits changes, all of which are made durable, or none. Changes are written in the order in
    /// which these calls return; a call waits only for room in the channel.
    pub(crate) async fn submit(&self, ops: Vec<Op>, of: Epoch) -> Ack {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Write { ops, of, done }).await;
        Ack { answer: sent.is_ok().then_some(answer) }
    }

    /// Makes all of these changes durable, or none.
    ///
    /// # Errors
    /// Returns an error if the disk failed or the epoch is over. Nothing was changed.
    pub(crate) async fn write(&self, ops: Vec<Op>, of: Epoch) -> Result<(), StoreError> {
        self.submit(ops, of).await.durable().await
    }

    /// Writes a new entry without using the reserved space. Returns the epoch that has it.
    ///
    /// # Errors
    /// Returns an error if the disk failed or has no room for new entries. Try again later.
    pub(crate) async fn enqueue(&self, ops: Vec<Op>) -> Result<Epoch, StoreError> {
        self.command(|done| Command::Enqueue { ops, done }).await
    }

    /// Reads one request.
    ///
    /// # Errors
    /// Returns an error if the disk failed, if the request is missing, or if the epoch is over.
    pub(crate) async fn read(&self, seq: Seq, blob: Blob, of: Epoch) -> Result<Bytes, StoreError> {
        self.command(|done| Command::Read { seq, blob, of, done }).await
    }

    /// Replaces the corrupt store of this epoch. Returns the new epoch, and the path of the old
    /// file.
    ///
    /// # Errors
    /// Returns an error if the disk failed, or if the store was replaced already.
    pub(crate) async fn start_over(
        &self,
        corrupt: Epoch,
    ) -> Result<(Epoch, Option<PathBuf>), StoreError> {
        self.command(|done| Command::StartOver { corrupt, done }).await
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The pending acknowledgement of submitted changes.
#[derive(Debug)]
#[must_use = "submitted changes are not durable yet"]
pub(crate) struct Ack {
    /// `None` if the thread has ended.
    answer: Option<oneshot::Receiver<Result<Epoch, StoreError>>>,
}

impl Ack {
    /// Waits until the changes are on disk.
    ///
    /// # Errors
    /// Returns an error if the disk failed or the epoch is over. Nothing was changed.
    pub(crate) async fn durable(self) -> Result<(), StoreError> {
        let Some(answer) = self.answer else { return Err(StoreError::Closed) };
        answer.await.unwrap_or(Err(StoreError::Closed)).map(drop)
    }
}

/// Runs redb's code. redb can panic on a file that another program changed, which counts as
/// corruption and must not end the thread.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Corrupt("it cannot be read any more".to_owned())))
}

fn work(mut store: Store, mut commands: mpsc::Receiver<Command>) {
    let mut present = Epoch::default();
    let mut failed = false;
    let mut batch = Vec::new();
    // If the caller is gone, the answer is dropped.
    while commands.blocking_recv_many(&mut batch, MAX_WAITING) > 0 {
        let starts_over = batch.iter().any(|command| matches!(command, Command::StartOver { .. }));
        if failed
            && !starts_over
            && let Err(error) = guarded(|| store.reopen())
        {
            batch.drain(..).for_each(|command| command.refuse(error.clone()));
            continue;
        }
        failed = false;
        let (mut new, mut progress) = (Writes::default(), Writes::default());
        for command in batch.drain(..) {
            match command {
                Command::Enqueue { ops, done } => new.add(ops, done),
                Command::Write { ops, of, done } if of == present => progress.add(ops, done),
                Command::Read { seq, blob, of, done } if of == present => {
                    let found = guarded(|| store.blob(seq, blob));
                    failed |= found.is_err();
                    let _ = done.send(found.and_then(|found| found.ok_or_else(missing)));
                }
                Command::StartOver { corrupt, done } if corrupt == present => {
                    std::mem::take(&mut progress).answer(&Err(StoreError::Replaced));
                    let begun = guarded(|| store.start_over());
                    present.0 += u64::from(begun.is_ok());
                    failed |= begun.is_err();
                    let _ = done.send(begun.map(|aside| (present, aside)));
                }
                late => late.refuse(StoreError::Replaced),
            }
        }
        failed |= write(&mut store, present, progress, new).is_err();
    }
}

fn missing() -> StoreError {
    StoreError::Corrupt("a request that was written is not there".to_owned())
}

/// Writes that are made in one transaction.
#[derive(Default)]
struct Writes {
    ops: Vec<Op>,
    waiting: Vec<Reply<Epoch>>,
}

impl Writes {
    fn add(&mut self, ops: Vec<Op>, done: Reply<Epoch>) {
        self.ops.extend(ops);
        self.waiting.push(done);
    }

    fn answer(self, result: &Result<Epoch, StoreError>) {
        for done in self.waiting {
            let _ = done.send(result.clone());
        }
    }
}

/// Commits all writes in one transaction. If there is no room for it, only `progress`, the changes
/// of existing entries, is written, with the reserved space.
fn write(
    store: &mut Store,
    present: Epoch,
    mut progress: Writes,
    mut new: Writes,
) -> Result<(), StoreError> {
    if !new.waiting.is_empty()
        && let Err(error) = guarded(|| store.ensure_reserve_space())
    {
        std::mem::take(&mut new).answer(&Err(error));
    }
    if progress.waiting.is_empty() && new.waiting.is_empty() {
        return Ok(());
    }
    let own = progress.ops.len();
    let mut ops = std::mem::take(&mut progress.ops);
    ops.append(&mut new.ops);
    let mut result = guarded(|| store.apply(&ops));
    new.answer(&result.clone().map(|()| present));
    if matches!(result, Err(StoreError::Failing(_))) && own > 0 && store.release_reserve() {
        result = guarded(|| store.reopen()).and_then(|()| guarded(|| store.apply(&ops[..own])));
    }
    progress.answer(&result.clone().map(|()| present));
    result
}

impl Command {
    fn refuse(self, error: StoreError) {
        match self {
            Command::Enqueue { done, .. } | Command::Write { done, .. } => {
                drop(done.send(Err(error)))
            }
            Command::Read { done, .. } => drop(done.send(Err(error))),
            Command::StartOver { done, .. } => drop(done.send(Err(error))),
        }
    }
}
