//! The thread that owns the store: changes that come in together go to disk together.
//!
//! ```text
//! write ┐                 one transaction,
//! write ┼─▶ bounded ─▶    one fsync        ─▶ an answer for each
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

/// Orders that may wait for the disk.
const MAX_WAITING: usize = 256;

enum Order {
    Write {
        ops: Vec<Op>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Read {
        seq: Seq,
        blob: Blob,
        done: oneshot::Sender<Result<Option<Bytes>, StoreError>>,
    },
    /// The file is corrupt: set it aside and begin a new one.
    StartOver {
        done: oneshot::Sender<Result<Option<PathBuf>, StoreError>>,
    },
}

/// A handle on the thread. When the last one is dropped the thread writes what it has and ends.
#[derive(Clone, Debug)]
pub struct Journal {
    orders: mpsc::Sender<Order>,
}

impl Journal {
    /// # Errors
    /// The system gives no thread.
    pub fn start(store: Store) -> io::Result<(Journal, JoinHandle<()>)> {
        let (orders, incoming) = mpsc::channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || work(store, incoming))?;
        Ok((Journal { orders }, thread))
    }

    /// Makes all changes durably, or none.
    ///
    /// # Errors
    /// The disk failed; nothing was changed.
    pub async fn write(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.order(|done| Order::Write { ops, done }).await
    }

    /// # Errors
    /// The disk failed.
    pub async fn read(&self, seq: Seq, blob: Blob) -> Result<Option<Bytes>, StoreError> {
        self.order(|done| Order::Read { seq, blob, done }).await
    }

    /// # Errors
    /// The disk failed.
    pub async fn start_over(&self) -> Result<Option<PathBuf>, StoreError> {
        self.order(|done| Order::StartOver { done }).await
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Order,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The library can trip over a file that somebody else wrote into. That is corruption, and no
/// reason for the thread to die.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Corrupt("it cannot be read any more".to_owned())))
}

fn work(mut store: Store, mut orders: mpsc::Receiver<Order>) {
    let mut failed = false;
    let mut batch = Vec::new();
    // An answer that nobody waits for any more is no loss.
    while orders.blocking_recv_many(&mut batch, MAX_WAITING) > 0 {
        let starts_over = batch.iter().any(|order| matches!(order, Order::StartOver { .. }));
        if failed
            && !starts_over
            && let Err(error) = guarded(|| store.reopen())
        {
            batch.drain(..).for_each(|order| order.refuse(error.clone()));
            continue;
        }
        failed = false;
        let mut ops = Vec::new();
        let mut writers = Vec::new();
        for order in batch.drain(..) {
            match order {
                Order::Write { ops: more, done } => {
                    ops.extend(more);
                    writers.push(done);
                }
                Order::Read { seq, blob, done } => {
                    let found = guarded(|| store.blob(seq, blob));
                    failed |= found.is_err();
                    let _ = done.send(found);
                }
                Order::StartOver { done } => {
                    let _ = done.send(guarded(|| store.start_over()));
                }
            }
        }
        if writers.is_empty() {
            continue;
        }
        let result = guarded(|| store.apply(&ops));
        failed |= result.is_err();
        for done in writers {
            let _ = done.send(result.clone());
        }
    }
}

impl Order {
    fn refuse(self, error: StoreError) {
        match self {
            Order::Write { done, .. } => drop(done.send(Err(error))),
            Order::Read { done, .. } => drop(done.send(Err(error))),
            Order::StartOver { done } => drop(done.send(Err(error))),
        }
    }
}
