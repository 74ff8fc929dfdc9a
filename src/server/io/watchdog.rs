//! Finds what keeps a core from its other clients.
//!
//! Nothing interrupts a task: that others get their turn rests on every loop making room by itself. So every task is
//! watched, and a turn that used [`LIMIT`] of CPU time is logged and counted. In tests it panics from [`PANIC`] on.
//!
//! Only CPU time counts, because a thread that lost its CPU is no fault of the task. Reading it costs a system call,
//! so it is read once in each tick of the kernel's coarse clock, and behind a turn that was long by that clock:
//!
//! ```text
//!   ticks      |           |           |           |
//!   turns      ... | turn | turn | a long turn        |
//!   CPU time        ^ read                            ^ read: what the turn used, or at most a tick more
//! ```
//!
//! The coarse clock costs a fifth of the exact one, which counts where a turn takes a microsecond.
//!
//! Unsafe: one clock_gettime.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use crate::stdx::time::{Duration, Instant};

/// CPU time that no turn should use; a turn that uses up to [`TICK`] less may be taken for one that does.
const LIMIT: Duration = Duration::from_millis(10);
/// CPU time that fails a test: builds of tests are slow, and so are their neighbours.
const PANIC: Duration = Duration::from_millis(100);
/// How far the coarse clock lags behind, on kernels with 250 ticks a second or more.
const TICK: Duration = Duration::from_millis(4);
/// Of many long turns of a core one is logged in so long a time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Long turns of the process.
static LONG_TURNS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CORE: Core = const {
        Core { sampled: Cell::new(0), used: Cell::new(0), logged: Cell::new(None) }
    };
}

/// What the watchdog of a core remembers.
struct Core {
    /// The tick in which the CPU time was read last, and what it was.
    sampled: Cell<u64>,
    used: Cell<u64>,
    logged: Cell<Option<Instant>>,
}

/// How many turns used too much CPU time since the process began.
pub fn long_turns() -> u64 {
    // A count that guards nothing but itself.
    LONG_TURNS.load(Ordering::Relaxed)
}

/// The same future, with every turn of it watched.
pub async fn watched<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let begun = begin();
        let polled = future.as_mut().poll(cx);
        end(begun);
        polled
    })
    .await
}

/// The tick in which a turn begins, in nanoseconds.
fn begin() -> u64 {
    let tick = nanos(libc::CLOCK_MONOTONIC_COARSE);
    CORE.with(|core| {
        if tick != core.sampled.get() {
            core.sampled.set(tick);
            core.used.set(nanos(libc::CLOCK_THREAD_CPUTIME_ID));
        }
    });
    tick
}

fn end(begun: u64) {
    let tick = nanos(libc::CLOCK_MONOTONIC_COARSE);
    let took = Duration::from_nanos(tick.saturating_sub(begun)) + TICK;
    if took >= LIMIT {
        CORE.with(|core| core.judge(tick, took));
    }
}

impl Core {
    /// Judges a turn that took so long at most, by the clock.
    fn judge(&self, tick: u64, took: Duration) {
        let used = nanos(libc::CLOCK_THREAD_CPUTIME_ID);
        let since = Duration::from_nanos(used.saturating_sub(self.used.replace(used))).min(took);
        self.sampled.set(tick);
        if since < LIMIT {
            return;
        }
        LONG_TURNS.fetch_add(1, Ordering::Relaxed);
        let (used_ms, took_ms) = (since.as_nanos() / 1_000_000, took.as_nanos() / 1_000_000);
        if cfg!(test) && since >= PANIC {
            panic!("a task used {used_ms} ms of CPU time in one turn");
        }
        let now = clock::now();
        if self.logged.get().is_none_or(|logged| now.since(logged) >= LOG_INTERVAL) {
            self.logged.set(Some(now));
            tracing::warn!(cpu_ms = used_ms, took_ms, "a task kept its core from other clients");
        }
    }
}

/// What a clock of the system says; nothing on a system without that clock, which finds no long turns.
fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses so much CPU time, however busy the machine is.
    fn work(time: Duration) {
        let used = || nanos(libc::CLOCK_THREAD_CPUTIME_ID);
        let end = used() + time.as_nanos() as u64;
        while used() < end {}
    }

    fn watch(turn: impl FnOnce()) -> bool {
        let before = CORE.with(|core| core.logged.replace(None));
        futures::executor::block_on(watched(async { turn() }));
        CORE.with(|core| core.logged.replace(before)).is_some()
    }

    #[test]
    fn a_turn_that_works_too_long_is_found_and_one_that_waits_is_not() {
        let before = long_turns();
        assert!(watch(|| work(LIMIT + Duration::from_millis(1))));
        assert!(long_turns() > before);
        assert!(!watch(|| std::thread::sleep(std::time::Duration::from_millis(30))));
        assert!(!watch(|| work(Duration::from_millis(2))));
    }

    #[test]
    #[should_panic(expected = "ms of CPU time in one turn")]
    fn a_test_fails_when_a_turn_works_far_too_long() {
        watch(|| work(PANIC + Duration::from_millis(1)));
    }
}
