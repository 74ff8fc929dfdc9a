//! Members that the log of a leader cannot bring up to date, and the snapshots that are on their way to them.
//!
//! Raft asks for a snapshot when a member lacks an entry from before the beginning of the log in memory. The world
//! sends the newest state, which takes a while, and the entries behind it are kept in memory meanwhile and for some
//! time after it, or the member would need another snapshot at once.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::{SnapshotStatus, Storage as _};

use super::replica::Replica;
use crate::limits::SNAPSHOTS_SENT_MAX;
use crate::stdx::time::Duration;

/// How long entries are kept for a member that has taken a snapshot, as etcd waits.
const KEPT: Duration = Duration::from_secs(30);

/// Snapshots on their way.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// The world can send snapshots.
    can_send: bool,
    /// [`KEPT`] in ticks.
    kept_ticks: u32,
    /// By member: the last entry that is surely in the snapshot, and how long what follows is kept, once it was sent.
    to: BTreeMap<u64, (u64, Option<u32>)>,
}

impl Transfers {
    /// None yet, of a member whose ticks take so long.
    pub(super) fn new(tick: Duration) -> Self {
        let kept_ticks = KEPT.as_nanos().div_ceil(tick.as_nanos().max(1));
        Self { kept_ticks: u32::try_from(kept_ticks).unwrap_or(u32::MAX), ..Self::default() }
    }

    /// A snapshot with the entries up to `index` goes to a member.
    pub(super) fn begin(&mut self, to: u64, index: u64) {
        self.to.insert(to, (index, None));
    }

    /// It was sent, or not.
    fn end(&mut self, to: u64, is_taken: bool) {
        match self.to.get_mut(&to) {
            Some((_, kept)) if is_taken => *kept = Some(self.kept_ticks),
            _ => _ = self.to.remove(&to),
        }
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.to.retain(|_, (_, kept)| match kept {
            Some(ticks) => {
                *ticks -= 1;
                *ticks > 0
            }
            None => true,
        });
    }

    /// The entries behind this one are needed by a member that a snapshot is for.
    pub(super) fn awaited(&self) -> Option<u64> {
        self.to.values().map(|(index, _)| *index).min()
    }

    fn may_begin(&self) -> bool {
        self.can_send && self.to.values().filter(|(_, kept)| kept.is_none()).count() < SNAPSHOTS_SENT_MAX
    }
}

impl Replica {
    /// The world sends snapshots from now on when it is asked to.
    pub fn send_snapshots(&mut self) {
        self.transfers.can_send = true;
    }

    /// Raft may ask for a snapshot of what is published, or not.
    pub(super) fn offer_snapshot(&mut self) {
        let applied = self.store.applied();
        let content = (applied.index, applied.term);
        let may_begin = self.transfers.may_begin();
        self.node.mut_store().offer(may_begin.then_some(content));
    }

    pub(super) fn on_snapshot_sent(&mut self, to: u64, is_taken: bool) {
        self.transfers.end(to, is_taken);
        let status = if is_taken { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to, status);
    }

    /// Followers of this leader that lack an entry from before the beginning of its log in memory, and the first entry
    /// that each of them lacks, as far as the leader knows. Those that are silent are left out.
    pub fn laggards(&self) -> Vec<(u64, u64)> {
        if !self.is_leader() {
            return Vec::new();
        }
        let first = self.node.store().first_index().unwrap_or(1);
        let others = self.node.raft.prs().iter().filter(|(id, _)| **id != self.settings.member_id);
        let behind = others.filter(|(_, progress)| progress.recent_active && progress.next_idx < first);
        let mut laggards: Vec<(u64, u64)> = behind.map(|(&id, progress)| (id, progress.next_idx)).collect();
        laggards.sort_unstable();
        laggards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_while_a_snapshot_is_sent_and_for_some_time_after_it() {
        for (tick, ticks) in [(10, 3_000), (100, 300), (500, 60)] {
            are_kept_for(Duration::from_millis(tick), ticks);
        }
    }

    fn are_kept_for(tick: Duration, ticks: u32) {
        let mut transfers = Transfers { can_send: true, ..Transfers::new(tick) };
        assert!(transfers.may_begin() && transfers.awaited().is_none());
        transfers.begin(7, 100);
        assert!(transfers.may_begin(), "one member does not keep another one waiting");
        transfers.begin(9, 120);
        assert!(!transfers.may_begin() && transfers.awaited() == Some(100));
        transfers.end(9, false);
        transfers.end(7, true);
        transfers.begin(8, 50);
        transfers.end(8, false);
        assert!(transfers.may_begin());
        (1..ticks).for_each(|_| transfers.tick());
        assert_eq!(transfers.awaited(), Some(100));
        transfers.tick();
        assert_eq!(transfers.awaited(), None);
    }
}
