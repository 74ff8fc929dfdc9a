//! Checkpoints: begun when the policy says so, ended when the store file has all of one, and then told to the log,
//! which lets go of segments that neither a restart nor a member that lags needs.
#![forbid(unsafe_code)]

use super::port::{Output, Outputs};
use super::replica::Replica;
use crate::stdx::time::Instant;
use crate::wal::SnapshotMark;
use crate::wal::segment::releasable;

impl Replica {
    /// Begins a checkpoint if it is time.
    pub(super) fn checkpoint_if_due(&mut self, now: Instant, outputs: &mut Outputs) {
        if !self.marks.is_under_way()
            && !self.is_suspended()
            && (self.heavy.is_full() || self.checkpoints.is_due(now, &self.store.stats()))
        {
            self.begin_checkpoint(now, outputs);
        }
    }

    /// Begins a checkpoint. False if there is nothing for it to do.
    pub(super) fn begin_checkpoint(&mut self, now: Instant, outputs: &mut Outputs) -> bool {
        self.checkpoints.begin(now);
        self.heavy.begin_checkpoint();
        self.write_checkpoint(outputs)
    }

    /// Has the published state written. False if all of it is.
    pub(super) fn write_checkpoint(&mut self, outputs: &mut Outputs) -> bool {
        let job = self.store.begin_checkpoint();
        let begun = job.is_some();
        if let Some(job) = job {
            let applied = self.store.applied();
            assert_eq!(job.applied_index(), applied.index, "a checkpoint is of the published state");
            let mut conf_state = self.node.raft.prs().conf().to_conf_state();
            conf_state.voters.sort_unstable();
            conf_state.learners.sort_unstable();
            let mark =
                SnapshotMark { index: applied.index, term: applied.term, conf_state: Some(conf_state) };
            self.marks.begin(mark);
            outputs.push(Output::WriteCheckpoint(job));
        }
        begun
    }

    pub(super) fn on_checkpoint_synced(&mut self, generation: u64) {
        if self.end_spill() {
            return;
        }
        if self.is_suspended() {
            self.marks.defer(generation);
            return;
        }
        self.store.finish_checkpoint(generation);
        self.marks.end();
    }

    /// Lets go of log segments that neither a restart nor a lagging member needs.
    pub(super) fn release_log(&mut self, outputs: &mut Outputs) {
        if self.settings.segments_kept == 0 {
            return;
        }
        let needed = self.marks.logged().saturating_sub(self.settings.catchup_entries);
        let count =
            releasable(self.log.segments(), needed, self.settings.segments_kept, self.writes.segment());
        if count > 0 {
            let segments = self.log.segments()[..count].to_vec();
            self.log.release(count);
            outputs.push(Output::ReleaseWal { segments });
        }
    }

    /// Entries that a start would apply again if the process ended now, at most.
    pub fn unstored(&self) -> u64 {
        self.store.applied().index.saturating_sub(self.marks.stored())
    }

    /// For a member that stops: writes what is left. True once nothing is on its way; with nothing in `outputs`
    /// then, all is done.
    pub fn settle(&mut self, outputs: &mut Outputs) -> bool {
        if self.marks.is_under_way() || !self.writes.is_idle() || self.is_suspended() {
            return false;
        }
        if !self.settled {
            self.settled = true;
            self.write_checkpoint(outputs);
        }
        true
    }
}
