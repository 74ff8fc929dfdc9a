//! Election timeouts from our own generator.
//!
//! raft draws its randomized timeout from a global source whenever its term or role changes, also twice between two
//! ticks and back to where it was. Nothing looks at it before the next tick, so it is overwritten before each with a
//! number that the seed decides: same seed, same elections.
#![forbid(unsafe_code)]

use raft::{RawNode, StateRole, Storage};

use crate::stdx::prng::Prng;

/// Watches for changes of term and role.
pub struct Timeouts {
    prng: Prng,
    election_ticks: usize,
    last: Option<(u64, StateRole)>,
    drawn: usize,
}

impl Timeouts {
    /// Timeouts of one to two times `election_ticks`.
    pub fn new(election_ticks: usize, prng: Prng) -> Self {
        Self { prng, election_ticks, last: None, drawn: election_ticks }
    }

    /// To be called before every tick.
    pub fn draw<S: Storage>(&mut self, node: &mut RawNode<S>) {
        let now = (node.raft.term, node.raft.state);
        if self.last != Some(now) {
            self.last = Some(now);
            self.drawn = self.election_ticks + self.prng.below(self.election_ticks as u64) as usize;
        }
        node.raft.set_randomized_election_timeout(self.drawn);
    }
}
