//! Runs the file system calls of each receiver on blocking threads.
//!
//! ```text
//! run(call) ─▶ permit ─▶ blocking thread ─▶ result
//!                │ none in time  │ no answer in time: the thread keeps the permit until it returns
//!                └───────────────┴─▶ Unresponsive
//! ```
//!
//! A call on a mount whose server is gone may never return. It costs one thread and one permit of
//! its own receiver. Other receivers, and the runtime, do not wait for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::root::Roots;

/// Maximum number of concurrent calls of one receiver: its write-backs, and a few reads. Each needs
/// a thread, whose memory the allocator keeps.
const PERMITS: usize = 24;

/// How long a caller waits. Reading a large file from a slow disk takes less.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The file system did not answer in time. Try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file system does not answer; is a mount hanging?")]
pub(crate) struct Unresponsive;

/// Runs the file system calls of one receiver.
#[derive(Clone, Debug)]
pub(crate) struct BlockingFs {
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl Default for BlockingFs {
    fn default() -> BlockingFs {
        BlockingFs { permits: Arc::new(Semaphore::new(PERMITS)), timeout: TIMEOUT }
    }
}

impl BlockingFs {
    /// Runs a call on a blocking thread.
    ///
    /// # Errors
    /// Returns [`Unresponsive`] if no permit became free within 30 s, or if the call did not return
    /// within 30 s. The caller should retry later. A call that returns later has its effects, but
    /// its result is dropped.
    ///
    /// # Panics
    /// Panics if the call panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unresponsive> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        let fill = move || *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(call());
        self.run_boxed(Box::new(fill)).await?;
        result.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Unresponsive)
    }

    /// Like [`BlockingFs::run`], but not generic, which keeps the program small.
    async fn run_boxed(&self, call: Box<dyn FnOnce() + Send>) -> Result<(), Unresponsive> {
        let permit = timeout(self.timeout, Arc::clone(&self.permits).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(permit)) = permit else { return Err(Unresponsive) };
        let call = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call();
        });
        match timeout(self.timeout, call).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, or the call hangs.
            Ok(Err(_)) | Err(_) => Err(Unresponsive),
        }
    }
}

/// The file system access of all receivers.
#[derive(Clone, Debug, Default)]
pub(crate) struct FsByReceiver {
    receivers: Arc<HashMap<String, ReceiverFs>>,
    /// For entries whose receiver is no longer configured.
    other: BlockingFs,
}

/// The directories of one receiver, and the access to them.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverFs {
    pub(crate) roots: Roots,
    pub(crate) calls: BlockingFs,
}

impl FsByReceiver {
    /// Creates the file system access of each receiver, from its id and directories.
    pub(crate) fn new<'a>(
        receivers: impl IntoIterator<Item = (&'a str, &'a [PathBuf])>,
    ) -> FsByReceiver {
        let fs = |(id, directories): (&str, &[PathBuf])| {
            let (roots, calls) = (Roots::new(directories), BlockingFs::default());
            (id.to_owned(), ReceiverFs { roots, calls })
        };
        let receivers = Arc::new(receivers.into_iter().map(fs).collect());
        FsByReceiver { receivers, other: BlockingFs::default() }
    }

    /// Returns the file system access of a receiver. An unknown receiver has no directories.
    pub(crate) fn get(&self, receiver: &str) -> ReceiverFs {
        let unknown = || ReceiverFs { roots: Roots::default(), calls: self.other.clone() };
        self.receivers.get(receiver).cloned().unwrap_or_else(unknown)
    }

    /// Returns the file system access for a file that a receiver found. An entry of version 0.1
    /// does not name its receiver, and the configuration may have changed since. In these cases,
    /// this returns the access of any receiver that watches the path, or else a new one for the
    /// file's directory.
    pub(crate) fn of_file(&self, receiver: &str, path: &Path) -> ReceiverFs {
        let named = self.receivers.get(receiver).filter(|fs| fs.roots.contain(path));
        let found = named.or_else(|| self.receivers.values().find(|fs| fs.roots.contain(path)));
        found.cloned().unwrap_or_else(|| {
            let (roots, calls) = (Roots::of_file(path), self.other.clone());
            ReceiverFs { roots, calls }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_holds_up_only_its_own_receiver() {
        let two = Arc::new(Semaphore::new(2));
        let hung = BlockingFs { permits: two, timeout: Duration::from_millis(20) };
        let other = BlockingFs::default();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..2 {
            let released = Arc::clone(&released);
            let hangs = hung.run(move || drop(released.lock().map(|it| it.recv())));
            assert_eq!(hangs.await, Err(Unresponsive));
        }
        assert_eq!(hung.run(|| 1).await, Err(Unresponsive), "every permit is held");
        assert_eq!(other.run(|| 1).await, Ok(1));
        drop(release);
        let patient = BlockingFs { timeout: TIMEOUT, ..hung };
        assert_eq!(patient.run(|| 1).await, Ok(1), "the calls have returned");
    }
}
