//! Members that the log of a leader cannot bring up to date.
#![forbid(unsafe_code)]

use raft::Storage as _;

use super::replica::Replica;

impl Replica {
    /// Followers of this leader that lack an entry from before the beginning of its log in memory, and the first entry
    /// that each of them lacks, as far as the leader knows. They wait for a snapshot; those that are silent are left
    /// out.
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
