//! What session cores know of raft without asking: a few atomics, written by the replica core alone.
//!
//! The gate is open while this member is the leader, its only voter, and has committed an entry in its term. Then
//! every acknowledged write was applied here before it was acknowledged, nobody else can have acknowledged any, and
//! the newest published state is linearizable: ReadIndex would return at once (raft thesis 6.4, with a quorum of
//! one). A second voter closes it: the configuration takes effect here, under this member's leadership, before
//! any quorum without this member exists. Behind the removal of the last other voter it stays closed until what lay in
//! the log then is applied: the removed member may have had a part in committing it, and may have answered it already.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What a member is in raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "raft's own names")]
pub enum Role {
    Follower,
    Candidate,
    Leader,
    PreCandidate,
}

/// In the order of their numbers.
const ROLES: [Role; 4] = [Role::Follower, Role::Candidate, Role::Leader, Role::PreCandidate];

impl Role {
    /// The name that etcd shows.
    pub fn name(self) -> &'static str {
        match self {
            Role::Follower => "StateFollower",
            Role::Candidate => "StateCandidate",
            Role::Leader => "StateLeader",
            Role::PreCandidate => "StatePreCandidate",
        }
    }
}

/// Raft's state as other cores see it.
#[derive(Debug, Default)]
pub struct ReadGate {
    open: AtomicBool,
    published: AtomicBool,
    learner: AtomicBool,
    role: AtomicU8,
    term: AtomicU64,
    vote: AtomicU64,
    leader: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
}

impl ReadGate {
    /// Whether the newest published state may be read linearizably without a round.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether this member has published its name and URLs: from then on it serves.
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
    }

    /// Whether this member is a learner, by what it has applied.
    pub fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// What this member is.
    pub fn role(&self) -> Role {
        ROLES[usize::from(self.role.load(Ordering::Relaxed))]
    }

    /// The id that has this member's vote in the current term; 0 for none.
    pub fn vote(&self) -> u64 {
        self.vote.load(Ordering::Relaxed)
    }

    /// The leader's id; 0 for none.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    /// Index of the last committed entry.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    pub(super) fn set_learner(&self, learner: bool) {
        self.learner.store(learner, Ordering::Relaxed);
    }

    pub(super) fn set_published(&self) {
        self.published.store(true, Ordering::Release);
    }

    /// Shows what raft makes of this member, and whom it has voted for.
    pub fn set_vote(&self, role: Role, vote: u64) {
        self.role.store(role as u8, Ordering::Relaxed);
        self.vote.store(vote, Ordering::Relaxed);
    }

    /// Shows the term, who leads in it, and how far entries have come.
    pub fn set(&self, term: u64, leader: u64, committed: u64, applied: u64) {
        self.term.store(term, Ordering::Relaxed);
        self.leader.store(leader, Ordering::Relaxed);
        self.committed.store(committed, Ordering::Relaxed);
        self.applied.store(applied, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_comes_back_by_its_number() {
        let gate = ReadGate::default();
        assert_eq!((gate.role(), gate.vote()), (Role::Follower, 0));
        for role in ROLES {
            gate.set_vote(role, 7);
            assert_eq!((gate.role(), gate.vote()), (role, 7));
        }
    }
}
