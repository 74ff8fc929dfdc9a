//! When a member that hears of no leader stands for election.
//!
//! raft draws its randomized timeout from a global source whenever its term or role changes, also twice between two
//! ticks and back to where it was. Nothing looks at it before the next tick, so it is overwritten before each with a
//! number that the seed decides: same seed, same elections.
//!
//! A leader whose process has ended need not be waited for. Where its members' connections were ended and new ones are
//! refused, each takes its election timeout for passed: it grants a vote at once, and stands for election when its own
//! turn has come, in the order of ids. Whoever is wrong about the leader gets no votes of those who still hear it, so
//! no more than the usual pre-vote comes of it. With `--pre-vote=false` it is a campaign, which unseats a leader that
//! the others still hear, once in a term. etcd waits for the timeout.
//!
//! ```text
//!   refused ── 2 ticks, in which all hear of it ──▶ the first stands ── 2 ticks ──▶ the second, if need be
//! ```
#![forbid(unsafe_code)]

use raft::{RawNode, StateRole, Storage};

use crate::stdx::prng::Prng;

/// Ticks until the first stands for election, and between two of them.
const STEP_TICKS: usize = 2;

/// Watches for changes of term and role.
pub struct Timeouts {
    prng: Prng,
    election_ticks: usize,
    last: Option<(u64, StateRole)>,
    drawn: usize,
    /// The term whose leader has gone.
    deserted: Option<u64>,
}

impl Timeouts {
    /// Timeouts of one to two times `election_ticks`.
    pub fn new(election_ticks: usize, prng: Prng) -> Self {
        Self { prng, election_ticks, last: None, drawn: election_ticks, deserted: None }
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

    /// The process of the leader has ended. Once in a term: who gets no votes then waits as always.
    pub fn on_leader_gone<S: Storage>(&mut self, node: &mut RawNode<S>) {
        let raft = &mut node.raft;
        let is_news = self.deserted != Some(raft.term);
        if raft.state != StateRole::Follower || !raft.promotable() || !is_news {
            return;
        }
        self.deserted = Some(raft.term);
        let (own, leader) = (raft.id, raft.leader_id);
        let before = raft.prs().conf().voters().ids().iter().filter(|&id| id != leader && id < own).count();
        self.last = Some((raft.term, raft.state));
        self.drawn = (self.election_ticks + STEP_TICKS * (before + 1)).min(2 * self.election_ticks - 1);
        raft.election_elapsed = raft.election_elapsed.max(self.election_ticks);
    }

    /// Whether the leader that raft follows has gone, and was not heard since.
    pub fn is_deserted<S: Storage>(&self, node: &RawNode<S>) -> bool {
        self.deserted == Some(node.raft.term)
            && node.raft.state == StateRole::Follower
            && node.raft.election_elapsed >= self.election_ticks
    }
}
