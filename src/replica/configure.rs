//! Changes of the members, from a client's request to the entry that raft is asked for.
//!
//! ```text
//!   Configure ──────────────────────────────▶ queued ─┬─▶ one entry ──▶ applied: Reply with the members that there are
//!   Promote ──▶ leader: caught up? ──▶ queued         └─▶ the leader's own removal: leadership is handed over first
//!          └──▶ other: AskPromotion of the leader
//! ```
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChange, ConfChangeType, Message, MessageType};

use super::port::{Output, Outputs, Ticket};
use super::replica::Replica;
use crate::cluster::member::MemberContext;
use crate::error::Error;
use crate::limits::{FAREWELL, LAST_FAREWELL};
use crate::response::Response;
use crate::stdx::time::Duration;

/// A learner has caught up when it has so many percent of the leader's log, etcd's own figure.
const CAUGHT_UP_PERCENT: u128 = 90;

impl Replica {
    /// A client wants a learner to get its vote. Whether the learner has caught up is known to the leader alone.
    pub(super) fn on_promote(&mut self, ticket: Ticket, id: u64) {
        if !self.is_leader() {
            return self.promotions.push((ticket, id));
        }
        if let Err(error) = self.may_promote(id) {
            return self.proposals.refuse(ticket, error);
        }
        let context = MemberContext { id, is_promote: true, ..MemberContext::default() };
        self.proposals.queue_change(ticket, added(ConfChangeType::AddNode, &context));
    }

    /// Has the leader asked about promotions.
    pub(super) fn forward_promotions(&mut self, outputs: &mut Outputs) {
        let asked = std::mem::take(&mut self.promotions);
        outputs.extend(asked.into_iter().map(|(ticket, id)| Output::AskPromotion { ticket, id }));
    }

    fn may_promote(&self, id: u64) -> Result<(), Error> {
        let progress = self.node.raft.prs().get(id).ok_or(Error::MemberNotFound)?;
        let own = self.node.raft.raft_log.last_index();
        if u128::from(progress.matched) * 100 < u128::from(own) * CAUGHT_UP_PERCENT {
            return Err(Error::LearnerNotReady);
        }
        if self.settings.rules.is_strict { self.state.cluster.may_promote() } else { Ok(()) }
    }

    /// Hands raft the change whose turn it is. A leader lets the one before be applied first.
    pub(super) fn propose_change(&mut self) {
        let Some(change) = self.proposals.next_change() else { return };
        if !self.log_takes_more() || (self.is_leader() && self.node.raft.has_pending_conf()) {
            return;
        }
        let is_own_end = change.node_id == self.settings.member_id
            && change.change_type == ConfChangeType::RemoveNode as i32;
        let (id, is_leader) = (change.id, self.is_leader());
        if is_own_end && is_leader && self.resign_for(id) {
            // Whoever leads next removes this member: then no proposal meets a leader that belongs to nobody.
            return;
        }
        let mut message = Message { from: self.settings.member_id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries.extend(self.proposals.take_change(self.node.raft.term));
        let _ = self.node.raft.step(message);
    }

    /// How long this member, which was removed, goes on at most, unless it hears that another one knows of that. The
    /// only voter that is left may need this member's vote, and what it has acknowledged, to learn of the removal.
    pub fn farewell(&self) -> Duration {
        if self.state.cluster.only_voter().is_some() { LAST_FAREWELL } else { FAREWELL }
    }

    /// What a client is told whose change was applied.
    pub(super) fn members(&self) -> Response {
        Response::Members { members: self.state.cluster.members.values().cloned().collect() }
    }
}

/// The change by which a member is added, or gets its vote.
pub fn added(kind: ConfChangeType, context: &MemberContext) -> ConfChange {
    change(kind as i32, context)
}

/// A change of a kind whose context says what the member is.
pub fn change(kind: i32, context: &MemberContext) -> ConfChange {
    // A struct of numbers, texts and flags has a JSON form; an empty context would be rejected when it is applied.
    let json = serde_json::to_vec(context).unwrap_or_default();
    ConfChange { change_type: kind, node_id: context.id, context: json.into(), ..ConfChange::default() }
}

/// The change by which a member is removed.
pub fn removed(id: u64) -> ConfChange {
    ConfChange { change_type: ConfChangeType::RemoveNode as i32, node_id: id, ..ConfChange::default() }
}
