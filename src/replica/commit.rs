//! Committed entries become state: transactions of as many entries as a turn has time for, then replies and events.
//!
//! An entry that takes longer than a turn has a transaction of its own, which is suspended between turns ([`execute`]).
//! Until it is committed nobody sees any of it, no other entry is applied, no garbage is swept, and no checkpoint
//! begins or ends. Pages that take too much memory go to the file all the same ([`spill`](super::spill)).
//!
//! [`execute`]: super::execute
#![forbid(unsafe_code)]

use super::apply::Slice;
use super::execute::Draft;
use super::halt::damaged;
use super::port::Outputs;
use super::replica::{Replica, lowest};
use crate::limits::{
    APPLY_BESIDE_MIN, APPLY_BUDGET, APPLY_ENTRIES_MAX, AWAITED_BYTES_MAX, AWAITED_ENTRIES_MAX,
    CATCHUP_BYTES_MAX, EVENTS_PUBLISHED_MAX, TAIL_BYTES_MAX,
};
use crate::mvcc::compact;
use crate::stdx::time::Instant;

/// How much is applied in a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnSize {
    /// [`APPLY_BESIDE_MIN`], or a simulation's.
    pub(super) beside_min: usize,
    /// [`APPLY_ENTRIES_MAX`], or a simulation's.
    pub(super) entries_max: usize,
    /// [`APPLY_BUDGET`], or a simulation's.
    pub(super) budget: usize,
    /// [`EVENTS_PUBLISHED_MAX`], or a simulation's.
    pub(super) events_max: usize,
}

impl Default for TurnSize {
    fn default() -> Self {
        Self {
            beside_min: APPLY_BESIDE_MIN,
            entries_max: APPLY_ENTRIES_MAX,
            budget: APPLY_BUDGET,
            events_max: EVENTS_PUBLISHED_MAX,
        }
    }
}

/// What may still be applied in a turn.
pub(super) struct Turn {
    pub(super) slice: Slice,
    entries: usize,
    /// A slice of garbage may be removed.
    sweeps: bool,
}

impl Turn {
    fn has_room(&self) -> bool {
        self.slice.budget > 0 && self.entries > 0
    }
}

impl Replica {
    /// Applies what is committed, as far as a turn goes, and removes a slice of garbage.
    pub(super) fn apply_committed(&mut self, now: Instant, outputs: &mut Outputs) {
        let TurnSize { budget, events_max, entries_max, .. } = self.turn_size;
        let mut turn = Turn { slice: Slice { budget, events_max }, entries: entries_max, sweeps: true };
        while self.apply_draft(now, &mut turn, outputs) && turn.has_room() {}
    }

    /// One transaction of entries, committed or suspended. True if there is more to apply at once.
    fn apply_draft(&mut self, now: Instant, turn: &mut Turn, outputs: &mut Outputs) -> bool {
        if self.awaits_quiet() && self.executing.is_none() {
            return false;
        }
        let sweep = turn.sweeps && self.may_sweep(now);
        let is_idle = self.executing.is_none() && (self.committed.is_empty() || self.awaits_commit());
        if is_idle && !sweep {
            return false;
        }
        // At the end of a turn the next entry may have begun, and then no checkpoint can begin.
        self.checkpoint_if_due(now, outputs);
        if self.halted.is_halted() {
            self.abandon_entry();
            return false;
        }
        if self.waits_for_checkpoint() || !self.is_relieved(outputs) {
            return false;
        }
        // A compaction among these entries is not published yet: a reader may still pin below it.
        let published = self.store.applied().compact_revision;
        let mut draft = Draft::default();
        if !self.store.is_suspended() {
            self.store.write().suspend();
        }
        let mut made = 0;
        while turn.has_room()
            && !self.waits_for_checkpoint()
            && self.execute_next(now, &mut turn.slice, &mut draft)
        {
            turn.entries -= 1;
            self.heavy.made(self.store.draft_bytes().saturating_sub(made));
            made = self.store.draft_bytes();
        }
        if draft.is_spoilt {
            drop(self.store.resume());
            self.end_draft();
            return false;
        }
        if self.is_suspended() {
            self.tally.suspensions += 1;
            return false;
        }
        self.heavy.made(self.store.draft_bytes().saturating_sub(made));
        let mut txn = self.store.resume();
        self.tally.sweeps += u64::from(sweep);
        turn.sweeps &= !sweep;
        let swept = if sweep {
            let pinned = lowest(self.pins.lowest(), self.digests.pin());
            compact::sweep(&mut txn, lowest(pinned, Some(published)), self.sweep.slice)
        } else {
            Ok(compact::Swept::default())
        };
        let Ok(swept) = swept else {
            drop(txn);
            self.end_draft();
            self.halted.halt(damaged("what a compaction allows to go cannot be removed"));
            return false;
        };
        txn.commit();
        self.checkpoints.applied(now);
        self.end_draft();
        if draft.grown {
            self.raise_alarm_if_full();
        }
        if let Some(last) = draft.last {
            self.node.advance_apply_to(last);
            self.trim_tail();
        }
        outputs.append(&mut draft.told);
        self.sweep.on_slice(swept.reads);
        self.sweep.advance(swept.removed, self.store.applied(), outputs);
        !self.halted.is_halted() && (!self.committed.is_empty() || self.executing.is_some())
    }

    /// A member that has halted ends no entry: what the one under way has done is dropped once the disk has no part in
    /// it.
    fn abandon_entry(&mut self) {
        if self.is_suspended() && !self.spill.is_under_way() {
            drop(self.store.resume());
            self.executing = None;
            self.end_draft();
        }
    }

    /// The draft is committed, or dropped: what waited for its end goes on.
    fn end_draft(&mut self) {
        self.spill.end_draft();
        if let Some(generation) = self.marks.take_deferred() {
            self.on_checkpoint_synced(generation);
        }
    }

    /// Keeps in memory what a lagging member may need, within bounds.
    fn trim_tail(&mut self) {
        let applied = self.store.applied().index;
        let is_alone = self.state.cluster.members.len() < 2;
        let kept = if is_alone { 0 } else { self.settings.catchup_entries };
        let tail = self.node.mut_store();
        if tail.len() as u64 > 2 * kept + 1024 || tail.bytes() > TAIL_BYTES_MAX {
            let has_room = tail.bytes() <= AWAITED_BYTES_MAX && tail.len() <= AWAITED_ENTRIES_MAX;
            match self.transfers.awaited().filter(|_| has_room) {
                Some(index) => tail.compact(applied.saturating_sub(kept).min(index)),
                None => {
                    tail.compact(applied.saturating_sub(kept));
                    tail.shrink(applied, CATCHUP_BYTES_MAX);
                }
            }
        }
    }
}
