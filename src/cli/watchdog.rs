//! Ends a command with a time limit whose thread is blocked, for example by a hung mount.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::exit::Exit;

/// Time for the last steps of a command after its time limit.
const GRACE: Duration = Duration::from_secs(5);

/// Ends the program when the limit is over. Dropping this disarms it.
pub(crate) struct Watchdog(JoinHandle<()>);

impl Watchdog {
    /// Starts to wait for `limit` and a grace of 5 s. Must be called within a runtime of several
    /// threads, because the caller's thread may block.
    pub(crate) fn arm(limit: Duration) -> Watchdog {
        Watchdog(tokio::spawn(async move {
            tokio::time::sleep(limit.saturating_add(GRACE)).await;
            end();
        }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the program, which does not end by itself.
pub(crate) fn end() -> ! {
    super::say("taskspan: it did not end in time: does a mount hang?");
    super::flush();
    std::process::exit(Exit::NotDelivered.code().into())
}
