//! How long a client that is slow to take an answer may hold up a compaction.
//!
//! A long answer pins the revision that it reads, and what a compaction would remove above the lowest pin stays in the
//! store. Without a compaction that costs nothing, and the client may take its time. From when on one waits, the answer
//! must get on:
//!
//! ```text
//!   compaction seen            5 s, and 1 s more for every 256 KB taken since
//!   |-----------------------------------------------------------------------|
//!                       last bytes taken          5 s
//!                       |-----------------------------|      whichever ends first
//! ```
//!
//! Then the answer is broken off, and its pin goes.
#![forbid(unsafe_code)]

use crate::stdx::time::{Duration, Instant};

/// How long a client may take nothing while a compaction waits.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Bytes that a client has to take per second, on an average since a compaction began to wait.
const RATE_MIN: u64 = 256 * 1024;

/// How often a waiting answer looks for a compaction, and a waiting proposal whether its client is still there.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of one answer's progress.
#[derive(Debug)]
pub struct Patience {
    /// When the client last took something.
    progress: Instant,
    /// When a compaction was first seen to wait.
    held_up: Option<Instant>,
    /// Bytes taken since then.
    taken: u64,
}

impl Patience {
    /// An answer that begins now.
    pub fn new(now: Instant) -> Self {
        Self { progress: now, held_up: None, taken: 0 }
    }

    /// The client has taken `bytes` bytes.
    pub fn on_progress(&mut self, now: Instant, bytes: usize) {
        self.progress = now;
        self.taken += if self.held_up.is_some() { bytes as u64 } else { 0 };
    }

    /// Whether the answer is to be broken off, given whether a compaction `waits` for it.
    pub fn is_over(&mut self, now: Instant, waits: bool) -> bool {
        if !waits {
            return false;
        }
        let since = *self.held_up.get_or_insert(now);
        let stalled = now.since(self.progress.max(since)) >= STALL_MAX;
        stalled || now.since(since) >= STALL_MAX + Duration::from_millis(self.taken * 1000 / RATE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn without_a_compaction_a_client_may_take_its_time() {
        let mut patience = Patience::new(at(0));
        assert!(!patience.is_over(at(1_000_000), false));
        assert!(!patience.is_over(at(1_000_000), true), "the compaction has only just come");
        assert!(!patience.is_over(at(1_004_999), true));
        assert!(patience.is_over(at(1_005_000), true));
    }

    #[test]
    fn a_client_that_takes_enough_goes_on_and_one_that_takes_drops_does_not() {
        let over = |bytes_per_second: usize| {
            let mut patience = Patience::new(at(0));
            assert!(!patience.is_over(at(0), true));
            (1..=600).find(|&second| {
                patience.on_progress(at(second * 1000), bytes_per_second);
                patience.is_over(at(second * 1000), true)
            })
        };
        assert_eq!(over(RATE_MIN as usize), None);
        assert_eq!(over(RATE_MIN as usize / 2), Some(10));
        assert_eq!(over(0), Some(5));
    }

    #[test]
    fn what_was_taken_fast_does_not_buy_a_long_stall() {
        let mut patience = Patience::new(at(0));
        assert!(!patience.is_over(at(0), true));
        patience.on_progress(at(1000), 1 << 30);
        assert!(!patience.is_over(at(5_999), true));
        assert!(patience.is_over(at(6_000), true));
    }
}
