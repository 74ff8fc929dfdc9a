//! A number that one core counts up and every core may read.
//!
//! It is an atomic because of the readers, not because of other writers: adding is a plain load and store, with no
//! locked instruction and no cache line that two cores write.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, on the core that owns it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Reads, on any core.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
