//! Defragmenting: what may leave the store file leaves it now, instead of when a checkpoint is due.
//!
//! ```text
//!   asked ── garbage swept ──▶ checkpoint ── what it frees is left by readers ─┬─▶ nothing more to free: replies
//!                                  ▲                                           │
//!                                  └──────── the file can be cut shorter ◀─────┘
//! ```
//! Requests that come while a round is under way share the next one: what they saw freed may be newer than what the
//! round frees.
#![forbid(unsafe_code)]

use super::port::{Output, Outputs, Ticket};
use super::replica::Replica;
use crate::response::Response;
use crate::stdx::time::Instant;

/// Checkpoints of a round: the first frees pages, the next one moves its bitmap of free pages down, the third cuts
/// the end off. While others write, each may find something to do, so their number is bounded.
const CHECKPOINTS_MAX: u8 = 3;

/// Requests to defragment.
#[derive(Debug, Default)]
pub(super) struct Defragmentation {
    /// For the next round.
    waiting: Vec<Ticket>,
    /// The round under way.
    round: Option<Round>,
    /// More pages can be reclaimed now, which happens a part at a time.
    reclaims: bool,
}

impl Defragmentation {
    /// A request to defragment arrives; the next round answers it.
    pub fn ask(&mut self, ticket: Ticket) {
        self.waiting.push(ticket);
    }

    fn is_asked(&self) -> bool {
        self.round.is_some() || !self.waiting.is_empty()
    }

    /// Whether the next turn goes on without input.
    pub fn has_more(&self) -> bool {
        self.round.is_some() && self.reclaims
    }

    /// What the round wants now; begins one if somebody waits. `is_ready` says that no checkpoint is under way, that no
    /// garbage is left and that readers have left what is freed.
    fn advance(&mut self, is_ready: bool) -> Option<Advance> {
        if self.round.is_none() && !self.waiting.is_empty() {
            self.round = Some(Round { checkpoints: 0, tickets: std::mem::take(&mut self.waiting) });
        }
        let round = self.round.as_mut().filter(|_| is_ready)?;
        if round.checkpoints < CHECKPOINTS_MAX {
            round.checkpoints += 1;
            return Some(Advance::Checkpoint);
        }
        self.round.take().map(|round| Advance::Reply(round.tickets))
    }

    /// The checkpoint that the round wanted had nothing to do.
    fn exhaust(&mut self) {
        self.round.iter_mut().for_each(|round| round.checkpoints = CHECKPOINTS_MAX);
    }
}

/// A round under way.
#[derive(Debug)]
struct Round {
    /// So many were begun.
    checkpoints: u8,
    tickets: Vec<Ticket>,
}

/// What a round wants done.
#[derive(Debug, PartialEq, Eq)]
enum Advance {
    Checkpoint,
    Reply(Vec<Ticket>),
}

impl Replica {
    /// Whether no garbage is left that can go, nor a compaction whose hash keeps its garbage back.
    fn is_swept(&self) -> bool {
        self.digests.pin().is_none() && !self.is_sweep_due()
    }

    /// Takes the round under way as far as it goes now.
    pub(super) fn defragment(&mut self, now: Instant, outputs: &mut Outputs) {
        if !self.defragmentation.is_asked() {
            return;
        }
        self.defragmentation.reclaims = self.store.reclaim();
        loop {
            let is_ready = !self.marks.is_under_way()
                && !self.is_suspended()
                && self.is_swept()
                && !self.defragmentation.reclaims;
            match self.defragmentation.advance(is_ready) {
                None => return,
                Some(Advance::Checkpoint) => {
                    if !self.begin_checkpoint(now, outputs) {
                        self.defragmentation.exhaust();
                    }
                }
                Some(Advance::Reply(tickets)) => {
                    let done = |ticket| Output::Reply { ticket, result: Ok(Response::Done) };
                    outputs.extend(tickets.into_iter().map(done));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_when_nothing_is_left_and_late_askers_get_the_next() {
        let mut all = Defragmentation::default();
        assert_eq!(all.advance(true), None, "nobody asked");
        all.ask(Ticket(1));
        assert_eq!(all.advance(false), None, "a checkpoint is under way");
        assert_eq!(all.advance(true), Some(Advance::Checkpoint));
        all.ask(Ticket(2));
        assert_eq!(all.advance(true), Some(Advance::Checkpoint));
        all.exhaust();
        assert_eq!(all.advance(true), Some(Advance::Reply(vec![Ticket(1)])));
        for _ in 0..CHECKPOINTS_MAX {
            assert_eq!(all.advance(true), Some(Advance::Checkpoint));
        }
        assert_eq!(all.advance(true), Some(Advance::Reply(vec![Ticket(2)])), "others write meanwhile");
    }
}
