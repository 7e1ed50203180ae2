//! Bounds the memory of the exports that are read, converted, enqueued and written back at the same
//! time.
//!
//! ```text
//! read ─▶ needs more than it has? ─▶ reserve: wait for room ─▶ read again
//!                                       └ more than max_memory: refused
//! ```
//!
//! Small exports are not counted: `max_concurrent_exports` bounds them. So they never wait for a
//! large one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::units::ByteSize;

/// Memory that an export may take without a reservation, in bytes.
const SMALL: u64 = 2 << 20;

/// Typical memory of an export, as a multiple of the size of its metadata file.
const TYPICAL: u64 = 8;

/// The unit of reservations, in bytes.
const UNIT: u64 = 1 << 10;

/// Limit of the budget if none is configured, and the least that is useful, in bytes.
const DEFAULT: u64 = 128 << 20;
const LEAST: u64 = 16 << 20;

/// Returns the limit of the budget if none is configured. `container` is the memory limit of the
/// container, in bytes. The program and its requests need memory next to the exports, so they get
/// half of that.
pub(crate) fn default_limit(container: Option<u64>) -> ByteSize {
    ByteSize(container.map_or(DEFAULT, |limit| (limit / 2).clamp(LEAST, DEFAULT)))
}

/// The memory that all receivers share. Clones share it, too.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    max: u64,
    free: Arc<Semaphore>,
}

/// Memory that an export may take, until this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    fn is_counted(&self) -> bool {
        self.bytes > SMALL
    }
}

/// An export needs more memory than all exports together may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("needs about {needs} of memory, over the limit of {max} (service.max_memory)")]
pub(crate) struct TooLarge {
    needs: ByteSize,
    max: ByteSize,
}

impl MemoryBudget {
    /// Creates a budget of `max` bytes.
    pub(crate) fn new(max: ByteSize) -> MemoryBudget {
        let units = usize::try_from(max.0 / UNIT).unwrap_or(usize::MAX);
        let free = Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)));
        MemoryBudget { max: max.0, free }
    }

    /// Returns how many bytes to reserve for an export that needs at least `needs` bytes, more than
    /// its `room`.
    pub(crate) fn next_reservation(&self, needs: u64, room: &Room) -> u64 {
        match room.is_counted() {
            true => needs,
            // Only the size of the file is known yet. To reserve what is typical saves reading the
            // file once more.
            false => needs.saturating_mul(TYPICAL).min(self.max).max(needs),
        }
    }

    /// Waits until this many bytes are free, and reserves them. Reservations are granted in the
    /// order of these calls.
    ///
    /// # Errors
    /// Returns [`TooLarge`] if it is more than the whole budget. Do not retry.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<Room, TooLarge> {
        if bytes <= SMALL {
            return Ok(Room { bytes: SMALL, _permit: None });
        }
        let too_large =
            || TooLarge { needs: ByteSize::mib(bytes.div_ceil(1 << 20)), max: ByteSize(self.max) };
        if bytes > self.max {
            return Err(too_large());
        }
        let units = u32::try_from(bytes / UNIT).map_err(|_| too_large())?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.free).acquire_many_owned(units).await.ok();
        Ok(Room { bytes, _permit: permit })
    }

    /// Like [`MemoryBudget::reserve`], but reserves the whole budget if that is less. For work that
    /// must not be refused.
    pub(crate) async fn reserve_at_most(&self, bytes: u64) -> Option<Room> {
        self.reserve(bytes.min(self.max)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn a_large_export_waits_for_room_and_a_small_one_does_not() {
        let budget = MemoryBudget::new(ByteSize::mib(16));
        let first = budget.reserve(10 * MIB).await;
        let waiting = timeout(Duration::from_secs(1), budget.reserve(10 * MIB));
        assert!(waiting.await.is_err(), "10 of 16 MiB are reserved");
        assert_eq!(budget.reserve(0).await.map(|room| room.bytes), Ok(SMALL));
        drop(first);
        assert_eq!(budget.reserve(16 * MIB).await.map(|room| room.bytes), Ok(16 * MIB));
    }

    #[test]
    fn a_small_container_leaves_half_of_its_memory_to_exports() {
        let limits = [None, Some(1 << 40), Some(100 * MIB), Some(MIB)];
        let expected = [128, 128, 50, 16].map(ByteSize::mib);
        assert_eq!(limits.map(default_limit), expected);
    }

    #[tokio::test]
    async fn an_export_over_the_whole_budget_is_refused_with_both_numbers() {
        let budget = MemoryBudget::new(ByteSize::mib(16));
        let error = budget.reserve(16 * MIB + 1).await.map(|_| ()).map_err(|it| it.to_string());
        let expected = "needs about 17MiB of memory, over the limit of 16MiB (service.max_memory)";
        assert_eq!(error, Err(expected.to_owned()));
    }
}
