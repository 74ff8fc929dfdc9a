//! What is owed once garbage is swept: replies to physical compactions, and one report of each compaction.
//!
//! What is left to sweep is in the store, and [`compact::sweep`](crate::mvcc::compact::sweep) removes it.
#![forbid(unsafe_code)]

use super::port::{Output, Outputs, Ticket};
use crate::btree::Applied;
use crate::limits::SWEEP_SLICE;
use crate::response::Response;

/// The part of a sweep that the store does not know.
#[derive(Debug)]
pub(super) struct Sweep {
    /// [`SWEEP_SLICE`], or a simulation's.
    pub(super) slice: usize,
    /// Replies, each with the revision that the sweep has to reach first. All of them are above the swept revision.
    waiting: Vec<(i64, Ticket, Response)>,
    /// Revisions removed since the last report.
    removed: u64,
    /// The compaction revision of the last report. Never above the store's; equal to it unless garbage is left.
    reported: i64,
}

impl Sweep {
    /// The sweep of a process that found a store with `applied`. A compaction whose garbage is still there is reported
    /// once the garbage is gone.
    pub(super) fn new(applied: Applied) -> Self {
        let is_swept = applied.swept_revision >= applied.compact_revision;
        let reported = if is_swept { applied.compact_revision } else { -1 };
        Self { slice: SWEEP_SLICE, waiting: Vec::new(), removed: 0, reported }
    }

    /// Keeps the reply to a compaction until everything up to `revision` is swept.
    pub(super) fn wait(&mut self, revision: i64, ticket: Ticket, response: Response) {
        self.waiting.push((revision, ticket, response));
    }

    /// Replies that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes note that `removed` more revisions are gone from the published state, which contains `applied` now.
    pub(super) fn advance(&mut self, removed: usize, applied: Applied, outputs: &mut Outputs) {
        self.removed += removed as u64;
        for (_, ticket, response) in self.waiting.extract_if(.., |waits| waits.0 <= applied.swept_revision) {
            outputs.push(Output::Reply { ticket, result: Ok(response) });
        }
        let is_swept = applied.swept_revision >= applied.compact_revision;
        if is_swept && self.reported < applied.compact_revision {
            self.reported = applied.compact_revision;
            let removed = std::mem::take(&mut self.removed);
            outputs.push(Output::Compacted { revision: applied.compact_revision, removed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(compact_revision: i64, swept_revision: i64) -> Applied {
        Applied { compact_revision, swept_revision, ..Applied::default() }
    }

    /// What a sweep tells, as text.
    fn told(sweep: &mut Sweep, removed: usize, applied: Applied) -> String {
        let mut outputs = Outputs::new();
        sweep.advance(removed, applied, &mut outputs);
        let said = |output: &Output| match output {
            Output::Reply { ticket, .. } => format!("reply {}", ticket.0),
            Output::Compacted { revision, removed } => format!("{removed} removed up to {revision}"),
            _ => "another".to_owned(),
        };
        outputs.iter().map(said).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_reply_waits_for_its_revision_and_a_compaction_is_reported_once() {
        let mut sweep = Sweep::new(at(-1, -1));
        sweep.wait(5, Ticket(1), Response::Done);
        sweep.wait(9, Ticket(2), Response::Done);
        assert_eq!(told(&mut sweep, 3, at(9, 4)), "");
        assert_eq!(told(&mut sweep, 2, at(9, 6)), "reply 1");
        assert_eq!(
            (told(&mut sweep, 1, at(9, 9)), sweep.waiting()),
            ("reply 2, 6 removed up to 9".into(), 0)
        );
        assert_eq!(told(&mut sweep, 0, at(9, 9)), "");
    }

    #[test]
    fn what_a_restart_finds_swept_is_not_reported_again() {
        assert_eq!(told(&mut Sweep::new(at(9, 9)), 0, at(9, 9)), "");
        assert_eq!(told(&mut Sweep::new(at(9, 4)), 2, at(9, 9)), "2 removed up to 9");
    }
}
