//! Bounds of a replica that a simulation changes.
#![forbid(unsafe_code)]

use super::replica::Replica;
use crate::stdx::time::Duration;

/// What a simulation makes smaller, to get there sooner.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// A log segment this long gets no further write.
    pub segment_bytes: u64,
    /// Log bytes after which a checkpoint is due.
    pub replay_bytes: u64,
    /// Quiet time after which one is due.
    pub checkpoint_idle: Duration,
    /// So many entries are applied beside a log write.
    pub apply_beside: usize,
    /// Expired leases revoked in one turn.
    pub expire: usize,
    /// Revisions removed between two turns.
    pub sweep: usize,
    /// Entries applied in one turn.
    pub apply: usize,
    /// Index entries that apply looks at in one turn.
    pub apply_budget: usize,
    /// Changes of one revision that are published with it.
    pub events: usize,
    /// Bytes of the pages that one entry has made, from which on they are written to the file. Also those of entries
    /// that make a 128th of that each, from which on a checkpoint is begun.
    pub draft_bytes: u64,
    /// Proposals that may wait for their entry to be applied.
    pub pending: usize,
    /// Bytes of entries in one append to the log.
    pub append_bytes: usize,
}

impl Replica {
    /// Other bounds than usual, at any time; for simulations that cannot write 64 MB, and that want to see rare turns
    /// often.
    pub fn set_bounds(&mut self, bounds: &Bounds) {
        self.log.set_segment_bytes(bounds.segment_bytes);
        self.checkpoints.replay_bytes_max = bounds.replay_bytes;
        self.checkpoints.idle = bounds.checkpoint_idle;
        self.turn_size.beside_min = bounds.apply_beside;
        self.leases.expire_max = bounds.expire;
        self.sweep.slice = bounds.sweep;
        self.turn_size.entries_max = bounds.apply;
        self.turn_size.budget = bounds.apply_budget;
        self.turn_size.events_max = bounds.events;
        self.spill.set_bound(bounds.draft_bytes);
        self.heavy.set_bounds(bounds.draft_bytes / 128, bounds.draft_bytes);
        self.proposals.set_bounds(bounds.pending, bounds.append_bytes);
    }
}
