//! Entries that make many pages each, and that the store file has to keep up with.
//!
//! A transaction of two kilobytes that keeps stored values makes a hundred megabytes of pages, and the log takes
//! hundreds of such transactions at a time. So the pages of heavy entries are counted. From a bound on a checkpoint is
//! due, and no other entry begins before the checkpoint does, which in turn waits for the one under way. Entries that
//! make few pages each are bounded by what the log takes ([`policy`](super::policy)).
//!
//! A checkpoint for which the disk has no room is not waited for at once: it may take hours, and memory has to do
//! meanwhile. Nothing begins, and nothing is proposed, from [`REFUSED_FACTOR`] times the bound on.
#![forbid(unsafe_code)]

use super::replica::Replica;
use crate::limits::{HEAVY_BYTES_MAX, HEAVY_ENTRY_BYTES, REFUSED_FACTOR};

/// Pages that heavy entries have made.
#[derive(Debug)]
pub(super) struct Heavy {
    /// Bytes since the last checkpoint began.
    bytes: u64,
    /// [`HEAVY_ENTRY_BYTES`], or a simulation's.
    entry_bytes: u64,
    /// [`HEAVY_BYTES_MAX`], or a simulation's.
    bytes_max: u64,
}

impl Default for Heavy {
    fn default() -> Self {
        Self { bytes: 0, entry_bytes: HEAVY_ENTRY_BYTES, bytes_max: HEAVY_BYTES_MAX }
    }
}

impl Heavy {
    /// Other bounds than [`HEAVY_ENTRY_BYTES`] and [`HEAVY_BYTES_MAX`].
    pub(super) fn set_bounds(&mut self, entry_bytes: u64, bytes_max: u64) {
        (self.entry_bytes, self.bytes_max) = (entry_bytes, bytes_max);
    }

    /// An entry has made pages of so many bytes.
    pub(super) fn made(&mut self, bytes: u64) {
        if bytes > self.entry_bytes {
            self.bytes += bytes;
        }
    }

    /// A checkpoint has begun.
    pub(super) fn begin_checkpoint(&mut self) {
        self.bytes = 0;
    }

    /// Whether a checkpoint is due.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Whether there are so many that a checkpoint is waited for that the disk refuses.
    fn is_overfull(&self) -> bool {
        self.bytes > self.bytes_max * REFUSED_FACTOR
    }
}

impl Replica {
    /// Whether the next entry waits for a checkpoint to begin.
    pub(super) fn waits_for_checkpoint(&self) -> bool {
        !self.is_suspended()
            && if self.marks.is_refused() { self.heavy.is_overfull() } else { self.heavy.is_full() }
    }

    /// Whether what is proposed would wait until the disk has room.
    pub(super) fn waits_for_room(&self) -> bool {
        self.marks.is_refused() && (self.heavy.is_overfull() || self.waits_for_spill())
    }
}
