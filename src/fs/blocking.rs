//! File system calls of one receiver, on blocking threads.
//!
//! ```text
//! run(call) ─▶ permit ─▶ blocking thread ─▶ result
//!                │ none in time  │ no answer in time: the thread keeps the permit until it returns
//!                └───────────────┴─▶ Unresponsive
//! ```
//!
//! A call on a mount whose server is gone may never return. It costs one thread and one permit of its own
//! receiver. Other receivers, and the runtime, do not wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Calls of one receiver that run at the same time.
const PERMITS: usize = 32;

/// How long a caller waits. Reading a large file from a slow disk takes less.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The file system did not answer in time. Try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file system does not answer; is a mount hanging?")]
pub struct Unresponsive;

/// Runs the file system calls of one receiver.
#[derive(Clone, Debug)]
pub struct BlockingFs {
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
    /// Returns [`Unresponsive`] if no thread was free, or the call did not return, within 30 s. The call may
    /// still return later, and its result is dropped then.
    ///
    /// # Panics
    /// Panics if the call panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unresponsive> {
        let permit = timeout(self.timeout, Arc::clone(&self.permits).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(permit)) = permit else { return Err(Unresponsive) };
        let call = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call()
        });
        match timeout(self.timeout, call).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going down, or the call hangs.
            Ok(Err(_)) | Err(_) => Err(Unresponsive),
        }
    }
}

/// The file system calls of each receiver, by its id.
#[derive(Clone, Debug, Default)]
pub struct FsByReceiver {
    receivers: Arc<HashMap<String, BlockingFs>>,
    /// For entries whose receiver is not configured any more.
    other: BlockingFs,
}

impl FsByReceiver {
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a String>) -> FsByReceiver {
        let receivers = ids.into_iter().map(|id| (id.clone(), BlockingFs::default()));
        let receivers = Arc::new(receivers.collect());
        FsByReceiver { receivers, other: BlockingFs::default() }
    }

    pub fn get(&self, receiver: &str) -> BlockingFs {
        self.receivers.get(receiver).unwrap_or(&self.other).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

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
