//! Revisions that an answer in progress still reads at.
//!
//! A long answer is written in slices and holds no page between two; what it holds is a revision. The sweep after
//! a compaction leaves alone whatever died above the lowest pinned revision.
//!
//! Pin and sweep may run on different cores. The reader stores its pin and then looks at the newest compaction
//! revision; the sweep's owner publishes the compaction revision and then looks at the pins. Both with a full
//! fence in between, so at least one sees the other (Dekker): a pin below the compaction revision is refused, any
//! other is honoured.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::stdx::sync::{AtomicI64, Ordering, fence};

const FREE: i64 = i64::MAX;

/// One slot per session core, shared with the sweep.
#[derive(Clone, Debug)]
pub struct Pins(Arc<[CachePadded<AtomicI64>]>);

/// One core's pins.
#[derive(Debug)]
pub struct PinSlot {
    pins: Pins,
    core: usize,
    held: BTreeMap<i64, usize>,
}

impl Pins {
    /// Slots for `cores` session cores, none pinned.
    pub fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| CachePadded::new(AtomicI64::new(FREE))).collect())
    }

    /// The slot of a core. Each is taken once.
    pub fn slot(&self, core: usize) -> PinSlot {
        assert!(core < self.0.len(), "every session core has a slot");
        PinSlot { pins: self.clone(), core, held: BTreeMap::new() }
    }

    /// The lowest pinned revision. To be asked after the compaction revision was published.
    pub fn lowest(&self) -> Option<i64> {
        fence(Ordering::SeqCst);
        let lowest = self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).min().unwrap_or(FREE);
        (lowest != FREE).then_some(lowest)
    }
}

impl PinSlot {
    /// Pins `revision`, unless `compact_revision`, asked after the pin is visible, has passed it. True if it
    /// holds.
    #[must_use]
    pub fn pin(&mut self, revision: i64, compact_revision: impl FnOnce() -> i64) -> bool {
        *self.held.entry(revision).or_default() += 1;
        self.store();
        fence(Ordering::SeqCst);
        if compact_revision() <= revision {
            return true;
        }
        self.unpin(revision);
        false
    }

    /// Gives a pin back.
    pub fn unpin(&mut self, revision: i64) {
        let count = self.held.get_mut(&revision).expect("only what was pinned is given back");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&revision);
        }
        self.store();
    }

    fn store(&self) {
        let lowest = self.held.first_key_value().map_or(FREE, |(revision, _)| *revision);
        self.pins.0[self.core].store(lowest, Ordering::Release);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_all_cores_counts_and_each_pin_is_given_back_once() {
        let pins = Pins::new(2);
        let (mut a, mut b) = (pins.slot(0), pins.slot(1));
        assert_eq!(pins.lowest(), None);
        assert!(a.pin(7, || -1) && a.pin(7, || 7) && b.pin(9, || 3));
        assert_eq!(pins.lowest(), Some(7));
        a.unpin(7);
        assert_eq!(pins.lowest(), Some(7));
        a.unpin(7);
        assert_eq!(pins.lowest(), Some(9));
        assert!(!a.pin(5, || 6), "compacted meanwhile");
        assert_eq!(pins.lowest(), Some(9));
    }
}
