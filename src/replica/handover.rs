//! Leadership that is handed to another member: because a client asks for it, and because the leader stops or is
//! removed.
//!
//! Raft takes no proposal meanwhile. This member's own stay queued, and those that other members forward are kept, so
//! that the next leader gets all of them.
#![forbid(unsafe_code)]

use prost::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message};
use raft::{Progress, ProgressState, StateRole};

use super::port::{Output, Outputs, Ticket};
use super::replica::Replica;
use crate::cluster::membership::is_learner;
use crate::error::Error;
use crate::limits::{MEMBER_CHANGES_PENDING_MAX, PROPOSALS_HELD_BYTES_MAX, PROPOSALS_HELD_MAX};
use crate::response::Response;

/// What is on its way while leadership is handed over.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Clients that wait for leadership to have moved: to whom, and in which term it was asked for.
    waiting: Vec<(Ticket, u64, u64)>,
    /// The change for which leadership was handed over last, whatever came of it.
    begun_for: Option<u64>,
    /// Proposals of other members, and the bytes of their entries.
    held: Vec<Message>,
    held_bytes: usize,
    /// Ticks for which this member, which stops and has handed leadership over, goes on at most.
    leaving: usize,
}

impl Handover {
    /// A tick has passed. Once another member leads, one whole tick more is enough.
    fn tick(&mut self, is_over: bool) {
        let left = self.leaving.saturating_sub(1);
        self.leaving = if is_over { left.min(1) } else { left };
    }

    fn hold(&mut self, message: Message) {
        let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
        if self.held.len() < PROPOSALS_HELD_MAX && self.held_bytes + bytes <= PROPOSALS_HELD_BYTES_MAX {
            self.held_bytes += bytes;
            self.held.push(message);
        }
    }

    fn release(&mut self) -> Vec<Message> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }
}

impl Replica {
    /// A client wants this member to hand leadership to another one.
    pub(super) fn on_move_leader(&mut self, ticket: Ticket, target: u64) {
        if !self.is_leader() {
            return self.proposals.refuse(ticket, Error::NotLeader);
        }
        let is_voter = self.state.cluster.members.get(&target).is_some_and(|member| !is_learner(member));
        if !is_voter {
            return self.proposals.refuse(ticket, Error::BadLeaderTransferee);
        }
        if self.handover.waiting.len() >= MEMBER_CHANGES_PENDING_MAX {
            return self.proposals.refuse(ticket, Error::TooManyRequests);
        }
        self.node.transfer_leader(target);
        self.handover.waiting.push((ticket, target, self.node.raft.term));
    }

    /// Hands leadership over before this leader is removed by a change: once for each change. False if that was done
    /// before, or if there is nobody to hand it to.
    pub(super) fn resign_for(&mut self, change: u64) -> bool {
        let begins = self.handover.begun_for != Some(change) && self.resign();
        if begins {
            self.handover.begun_for = Some(change);
        }
        begins
    }

    /// Hands leadership to the voter that has most of the log: one that takes what it is sent and has answered lately,
    /// as far as raft knows, which forgets all answers once in an election timeout. One that was reported unreachable
    /// may have answered lately too, and comes last. False if there is nobody to hand it to.
    pub(super) fn resign(&mut self) -> bool {
        if !self.is_leader() {
            return false;
        }
        let raft = &self.node.raft;
        let voters = raft.prs().conf().voters();
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id && voters.contains(**id));
        let reachable = others.filter(|(_, progress)| match progress.state {
            ProgressState::Replicate => true,
            ProgressState::Probe => progress.recent_active,
            ProgressState::Snapshot => false,
        });
        let takes_all = |progress: &Progress| progress.state == ProgressState::Replicate;
        let rank = |progress: &Progress| (takes_all(progress), progress.recent_active, progress.matched);
        let best = reachable.map(|(&id, progress)| (rank(progress), std::cmp::Reverse(id))).max();
        if let Some((_, std::cmp::Reverse(id))) = best {
            self.node.transfer_leader(id);
        }
        best.is_some()
    }

    /// This member is about to stop. If it leads, another one is to lead, and this one goes on until others have heard
    /// of that: what they send to this one meanwhile is for the next leader.
    pub(super) fn on_resign(&mut self) {
        if self.resign() {
            self.handover.leaving = self.settings.election_ticks;
        }
    }

    /// A tick has passed.
    pub(super) fn tick_handover(&mut self) {
        let leader = self.node.raft.leader_id;
        let is_over = leader != 0 && leader != self.settings.member_id && self.handover.held.is_empty();
        self.handover.tick(is_over);
    }

    /// Whether a member that stops is still needed for handing leadership over.
    pub fn is_leaving(&self) -> bool {
        self.is_handing_over() || self.handover.leaving > 0
    }

    /// Whether leadership is on its way to another member.
    pub fn is_handing_over(&self) -> bool {
        self.is_leader() && self.node.raft.lead_transferee.is_some()
    }

    /// Whether raft would drop what another member proposes.
    fn drops_proposals(&self) -> bool {
        (self.is_leader() || self.handover.leaving > 0) && !self.has_proposee()
    }

    /// The id of the change by which an entry removes this member; none if it does not.
    fn own_removal(&self, entry: &Entry) -> Option<u64> {
        if entry.entry_type() != EntryType::EntryConfChange {
            return None;
        }
        let change = ConfChange::decode(entry.data.clone()).unwrap_or_default();
        let is_own = change.node_id == self.settings.member_id;
        (is_own && change.change_type() == ConfChangeType::RemoveNode).then_some(change.id)
    }

    /// This member has applied its own removal, which is the entry `index`. Raft keeps no progress of a leader that was
    /// removed, and would end the process if entries behind that one were committed: then it leads no longer.
    pub(super) fn leave(&mut self, index: u64) {
        if self.is_leader() && self.node.raft.raft_log.last_index() > index {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, 0);
        }
        self.resign();
    }

    /// A leader that was removed leads nobody for longer than it has to.
    pub(super) fn resign_if_removed(&mut self) {
        if self.is_removed() && self.is_leader() && !self.is_handing_over() {
            self.resign();
        }
    }

    /// Another member proposes something. What removes this leader is for the next one, so that no proposal meets a
    /// leader that belongs to nobody.
    pub(super) fn on_forwarded(&mut self, message: Message) {
        let removal = message.entries.iter().find_map(|entry| self.own_removal(entry));
        let ends_this_leader = self.is_leader() && removal.is_some_and(|change| self.resign_for(change));
        if ends_this_leader || self.drops_proposals() {
            return self.handover.hold(message);
        }
        let _ = self.node.step(message);
    }

    /// Tells those that wait what has become of leadership, and proposes what was kept for the next leader.
    pub(super) fn follow_handover(&mut self, outputs: &mut Outputs) {
        if !self.handover.held.is_empty() && self.has_proposee() {
            for message in self.handover.release() {
                let _ = self.node.step(message);
            }
        }
        let raft = &self.node.raft;
        let (leader, term, transferee) = (raft.leader_id, raft.term, raft.lead_transferee);
        let leads = raft.state == StateRole::Leader;
        self.handover.waiting.retain(|&(ticket, target, since)| {
            let result = match leader {
                leader if leader == target => Ok(Response::Done),
                _ if leads && transferee == Some(target) => return true,
                0 if term <= since + 1 => return true,
                _ => Err(Error::LeaderTransferTimeout),
            };
            outputs.push(Output::Reply { ticket, result });
            false
        });
    }
}
