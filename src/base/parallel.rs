//! Computes blocks on several cores and returns them in order.
//!
//! ```text
//! block 0 1 2 3 … ─▶ one thread per core, every n-th block ─▶ consumed 0 1 2 3 …
//! ```
//!
//! No thread outlives the call, and each is at most two blocks ahead of the consumer.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::LazyLock;
use std::sync::mpsc::sync_channel;
use std::thread::{self, Builder};

/// One consumer: more workers would only buffer more output.
const MAX_THREADS: usize = 4;

static THREADS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS));

/// Makes `count` blocks and passes them to the consumer in order, until all are done or the
/// consumer stops.
pub(crate) fn in_order<T: Send>(
    count: usize,
    make: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) -> ControlFlow<()>,
) {
    let threads = (*THREADS).min(count);
    if threads < 2 {
        let _ = (0..count).try_for_each(|block| take(make(block)));
        return;
    }
    let make = &make;
    thread::scope(|scope| {
        let start = |first: usize| {
            let (sender, receiver) = sync_channel(1);
            let work = move || {
                let mut blocks = (first..count).step_by(threads);
                // The consumer has stopped.
                let _ = blocks.try_for_each(|block| sender.send(make(block)));
            };
            Builder::new().spawn_scoped(scope, work).ok().map(|thread| (receiver, thread))
        };
        let mut workers: Vec<_> = (0..threads).map(start).collect();
        for block in 0..count {
            let made = match &workers[block % threads] {
                Some((made, _)) => made.recv().ok(),
                // The thread could not be started.
                None => Some(make(block)),
            };
            let Some(made) = made else {
                let gone = workers.swap_remove(block % threads);
                if let Some(Err(panic)) = gone.map(|(_, thread)| thread.join()) {
                    resume_unwind(panic);
                }
                return;
            };
            if take(made).is_break() {
                return;
            }
        }
    });
}

/// Calls both functions, on two threads if that is `worth` it.
pub(crate) fn both<A: Send, B>(
    worth: bool,
    first: impl Fn() -> A + Sync,
    second: impl FnOnce() -> B,
) -> (A, B) {
    if !worth || *THREADS < 2 {
        return (first(), second());
    }
    thread::scope(|scope| {
        let other = Builder::new().spawn_scoped(scope, &first);
        let here = second();
        let there = match other {
            Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // The thread could not be started.
            Err(_) => first(),
        };
        (there, here)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn blocks_come_in_order_whatever_each_takes() {
        for count in [0, 1, 2, 3, 100] {
            let mut taken = Vec::new();
            let make = |block: usize| {
                // Some blocks take longer than others.
                let spin = (0..(block * 7919 % 13) * 1_000).fold(0_usize, usize::wrapping_add);
                (block, std::hint::black_box(spin))
            };
            in_order(count, make, |(block, _)| {
                taken.push(block);
                ControlFlow::Continue(())
            });
            assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn production_stops_when_the_consumer_stops() {
        let (made, mut taken) = (AtomicUsize::new(0), 0);
        in_order(
            10_000,
            |_| made.fetch_add(1, Ordering::Relaxed),
            |_| {
                taken += 1;
                if taken == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(taken, 3);
        assert!(made.into_inner() <= 3 + 3 * MAX_THREADS);
    }

    #[test]
    fn both_halves_run() {
        for worth in [false, true] {
            let mut text = String::new();
            let sum = both(worth, || 1 + 1, || text.push('x'));
            assert_eq!((sum, text.as_str()), ((2, ()), "x"));
        }
    }

    #[test]
    fn a_panic_is_passed_on() {
        let panics = || in_order(10, |block| assert!(block != 5), |()| ControlFlow::Continue(()));
        let panic = std::panic::catch_unwind(panics).expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"assertion failed: block != 5"));
        let panics = || both(true, || assert!(std::hint::black_box(1) == 2), || ());
        assert!(std::panic::catch_unwind(panics).is_err());
    }
}
