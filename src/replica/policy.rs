//! When to write the store file: when a restart would replay too much log, when pages hold too much memory, or
//! when nothing else is going on. Never by a fast clock, which would write every random page again and again.
#![forbid(unsafe_code)]

use crate::btree::StoreStats;
use crate::limits::{
    CHECKPOINT_COST_FAIR, CHECKPOINT_FREES_FACTOR, CHECKPOINT_FREES_MIN, CHECKPOINT_IDLE,
    CHECKPOINT_IDLE_DEAR, DIRTY_BYTES_LIMIT, DIRTY_BYTES_LIMIT_LARGE, DIRTY_BYTES_MAX, DIRTY_BYTES_MAX_LARGE,
    LARGE_STORE_BYTES, REPLAY_BYTES_MAX, REPLAY_ENTRIES_MAX, REPLAY_FACTOR_MAX,
};
use crate::stdx::time::{Duration, Instant};

/// What has happened since the last checkpoint, and when that is enough.
///
/// A checkpoint writes whole every page that was changed since the one before; what it buys is a short replay and the
/// memory of those pages. Keys in order cost little more of pages than of log, and get their checkpoint early. A put
/// to a random key of many changes a leaf for itself, ten times its log, but the later the checkpoint is, the more puts
/// share a leaf: then it waits for a bound. With 1 000 000 keys and values of 256 bytes it writes 2 KB per put that
/// way, and 3 KB if it came after 64 MiB of pages.
///
/// The price is a replay of up to [`REPLAY_BYTES_MAX`] or [`REPLAY_ENTRIES_MAX`] instead of half of that, and up
/// to [`DIRTY_BYTES_MAX`] of memory, under such a load alone. With so many keys that hardly two puts between two
/// checkpoints share a leaf (some 10 million), each put still writes a page.
#[derive(Debug)]
pub struct Policy {
    log_bytes: u64,
    log_entries: u64,
    /// When the store changed last; none since the last checkpoint began.
    changed: Option<Instant>,
    /// When the last checkpoint began.
    begun: Instant,
    /// [`REPLAY_BYTES_MAX`], or a simulation's.
    pub(super) replay_bytes_max: u64,
    /// [`CHECKPOINT_IDLE`], or a simulation's.
    pub(super) idle: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            log_bytes: 0,
            log_entries: 0,
            changed: None,
            begun: Instant::default(),
            replay_bytes_max: REPLAY_BYTES_MAX,
            idle: CHECKPOINT_IDLE,
        }
    }
}

impl Policy {
    /// Records went to the log: so many bytes, padding not counted, and so many entries among them.
    pub fn logged(&mut self, bytes: u64, entries: usize) {
        self.log_bytes += bytes;
        self.log_entries += entries as u64;
    }

    /// The store changed.
    pub fn applied(&mut self, now: Instant) {
        self.changed = Some(now);
    }

    /// Whether to begin a checkpoint of a store of this size.
    pub fn is_due(&self, now: Instant, store: &StoreStats) -> bool {
        let dirty_bytes = store.dirty_bytes;
        let (early, idle) = if dirty_bytes <= self.log_bytes * CHECKPOINT_COST_FAIR {
            (self.replay_bytes_max / 2, self.idle)
        } else {
            (self.replay_bytes_max, self.idle * CHECKPOINT_IDLE_DEAR)
        };
        self.changed.is_some_and(|changed| now.since(changed) >= idle)
            || self.log_bytes >= early
            || self.log_entries >= REPLAY_ENTRIES_MAX
            || dirty_bytes >= dirty_max(store.total_bytes)
            || self.is_room_due(now, store)
    }

    /// Whether a checkpoint would free much more than it writes, however busy the store is.
    fn is_room_due(&self, now: Instant, store: &StoreStats) -> bool {
        store.leaving_bytes >= CHECKPOINT_FREES_MIN
            && store.leaving_bytes >= CHECKPOINT_FREES_FACTOR * store.dirty_bytes
            && now.since(self.begun) >= self.idle
    }

    /// A checkpoint has begun.
    pub fn begin(&mut self, now: Instant) {
        (self.log_bytes, self.log_entries, self.changed, self.begun) = (0, 0, None, now);
    }

    /// Whether a sweep has to wait for the checkpoint under way, so that proposals need not. Half of the memory between
    /// the bound at which a checkpoint is due and the one at which proposals wait is for them alone.
    pub fn is_crowded(&self, store: &StoreStats) -> bool {
        store.dirty_bytes >= u64::midpoint(dirty_max(store.total_bytes), dirty_limit(store.total_bytes))
    }

    /// Whether proposals have to wait: for memory, or because the checkpoint under way takes so long that a restart
    /// would replay too much.
    pub fn is_pressed(&self, store: &StoreStats) -> bool {
        store.dirty_bytes >= dirty_limit(store.total_bytes)
            || self.log_bytes > self.replay_bytes_max * REPLAY_FACTOR_MAX
    }
}

/// Bytes of unwritten pages at which a store of this size gets a checkpoint.
fn dirty_max(total_bytes: u64) -> u64 {
    if total_bytes >= LARGE_STORE_BYTES { DIRTY_BYTES_MAX_LARGE } else { DIRTY_BYTES_MAX }
}

/// Bytes of unwritten pages at which proposals to a store of this size wait.
fn dirty_limit(total_bytes: u64) -> u64 {
    if total_bytes >= LARGE_STORE_BYTES { DIRTY_BYTES_LIMIT_LARGE } else { DIRTY_BYTES_LIMIT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Duration;

    fn dirty(dirty_bytes: u64) -> StoreStats {
        StoreStats { dirty_bytes, ..StoreStats::default() }
    }

    #[test]
    fn replay_memory_and_idleness_each_suffice() {
        let start = Instant::default();
        let mut policy = Policy::default();
        let clean = dirty(0);
        assert!(!policy.is_due(start + CHECKPOINT_IDLE, &clean), "nothing has changed");
        policy.applied(start);
        let almost = start + Duration::from_secs(4);
        assert!(!policy.is_due(almost, &clean) && policy.is_due(start + CHECKPOINT_IDLE, &clean));
        assert!(policy.is_due(start, &dirty(DIRTY_BYTES_MAX)));
        policy.begin(start);
        policy.logged(REPLAY_BYTES_MAX, 1);
        assert!(policy.is_due(start, &clean));
        policy.begin(start);
        policy.logged(1, REPLAY_ENTRIES_MAX as usize);
        assert!(policy.is_due(start, &clean));
    }

    #[test]
    fn proposals_wait_for_a_checkpoint_that_takes_long() {
        let mut policy = Policy::default();
        assert!(policy.is_pressed(&dirty(DIRTY_BYTES_LIMIT)) && !policy.is_pressed(&dirty(0)));
        policy.logged(REPLAY_FACTOR_MAX * REPLAY_BYTES_MAX, 1);
        assert!(!policy.is_pressed(&dirty(0)));
        policy.logged(1, 1);
        assert!(policy.is_pressed(&dirty(0)));
        policy.begin(Instant::default());
        assert!(!policy.is_pressed(&dirty(0)));
    }

    #[test]
    fn a_sweep_waits_before_proposals_do() {
        let policy = Policy::default();
        for total_bytes in [0, LARGE_STORE_BYTES] {
            let store = |dirty_bytes| StoreStats { dirty_bytes, total_bytes, ..StoreStats::default() };
            let is_due = |dirty_bytes| policy.is_due(Instant::default(), &store(dirty_bytes));
            let crowded = (0..600).map(|mib| mib << 20).find(|&bytes| policy.is_crowded(&store(bytes)));
            let crowded = crowded.expect("it waits at last");
            assert!(is_due(crowded) && !policy.is_pressed(&store(crowded + (20 << 20))), "{crowded}");
        }
    }

    #[test]
    fn a_large_store_keeps_less_in_memory() {
        assert_eq!(dirty_max(LARGE_STORE_BYTES - 1), DIRTY_BYTES_MAX);
        assert_eq!(dirty_max(LARGE_STORE_BYTES), DIRTY_BYTES_MAX_LARGE);
    }

    #[test]
    fn what_costs_much_waits_longer() {
        let start = Instant::default();
        let mut policy = Policy::default();
        policy.applied(start);
        policy.logged(REPLAY_BYTES_MAX / 2, 1);
        let fair = CHECKPOINT_COST_FAIR * REPLAY_BYTES_MAX / 2;
        assert!(policy.is_due(start, &dirty(fair)) && !policy.is_due(start, &dirty(fair + 1)));
        let late = start + CHECKPOINT_IDLE * CHECKPOINT_IDLE_DEAR;
        let idle = start + CHECKPOINT_IDLE;
        assert!(!policy.is_due(idle, &dirty(fair + 1)) && policy.is_due(late, &dirty(fair + 1)));
    }

    #[test]
    fn what_frees_much_does_not_wait_for_quiet() {
        let second = |n| Instant::default() + Duration::from_secs(n);
        let mut policy = Policy::default();
        policy.begin(second(10));
        let store =
            |dirty_bytes| StoreStats { dirty_bytes, leaving_bytes: 16 << 20, ..StoreStats::default() };
        for now in 11..20 {
            policy.applied(second(now));
            assert_eq!(policy.is_due(second(now), &store(4 << 20)), now >= 15, "at second {now}");
            assert!(!policy.is_due(second(now), &store(5 << 20)), "an overwritten page frees one page");
        }
    }
}
