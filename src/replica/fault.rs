//! Faults in the middle of an entry, for the simulator: its judge has to notice each of them. A release build has none
//! of this but with the feature `faults`.
#![forbid(unsafe_code)]

use super::apply::Work;
use super::execute::Executing;
use super::port::Outputs;
use super::replica::Replica;
use crate::btree::{Applied, Read};

/// What a broken member would do while an entry is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A deletion goes on one key too far behind the last one that it deleted.
    KeySkipped,
    /// The entry counts as applied.
    CountedApplied,
    /// A checkpoint begins.
    CheckpointBegun,
}

impl Replica {
    /// Commits a fault, if an entry is suspended.
    pub fn spoil(&mut self, fault: Fault, outputs: &mut Outputs) {
        let Some(Executing { index, work: Some(Work::Delete(work)), .. }) = &mut self.executing else {
            return;
        };
        match fault {
            Fault::KeySkipped => {
                let txn = self.store.resume();
                work.skip_key(&txn);
                txn.suspend();
            }
            Fault::CountedApplied => {
                let mut txn = self.store.resume();
                let applied = txn.applied();
                txn.set_applied(Applied { index: *index, ..applied });
                txn.commit();
                self.store.write().suspend();
            }
            Fault::CheckpointBegun => _ = !self.marks.is_under_way() && self.write_checkpoint(outputs),
        }
    }
}
