//! What another member may say. Raft trusts its peers: a message that contradicts the rules of the protocol, which a
//! damaged or a foreign member may send, would end the process or the cluster. Such a message is dropped, as if it had
//! been lost, and the world is told once of whom it is.
//!
//! One kind stops the member: a leader tells no member of more commits than the member has acknowledged entries. Where
//! it does, this member has lost what it had acknowledged, and every vote that it gives could end what is committed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, RaftLog, StateRole, Storage};

use super::execute;
use super::install::Installing;
use super::port::{Output, Outputs};
use super::replica::Replica;
use crate::limits::UNAPPLIED_BYTES_MAX;

/// Terms that may have passed without this member: more than elections can use up in its life.
const TERMS_MAX: u64 = 1 << 32;
/// Complaints that are remembered.
const COMPLAINTS_MAX: usize = 64;

/// What was wrong with messages, each with its sender.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// At most [`COMPLAINTS_MAX`]: the world hears of no further one.
    known: BTreeSet<(u64, String)>,
    /// What the world has not been told.
    due: Vec<(u64, String)>,
}

impl Complaints {
    /// A message of this member cannot be taken.
    fn add(&mut self, from: u64, why: String) {
        if self.known.len() < COMPLAINTS_MAX && self.known.insert((from, why.clone())) {
            self.due.push((from, why));
        }
    }
}

/// Why no correct member can have sent this.
pub(super) fn flaw<S: Storage>(raft: &Raft<S>, message: &Message) -> Option<String> {
    // What a member forwards for its clients has no term, and all else has one.
    let is_forwarded = matches!(message.msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex);
    if (message.term == 0) != is_forwarded {
        return Some("a term where there is none, or none where there is one".to_owned());
    }
    if is_far(raft.term, message.term) {
        return Some("a term far beyond this member's".to_owned());
    }
    let log = &raft.raft_log;
    let of_leader = raft.state == StateRole::Leader && message.term == raft.term;
    let wrong = match message.msg_type() {
        MessageType::MsgHeartbeat if message.commit > log.last_index() => "a commit index beyond the log",
        MessageType::MsgAppend if !continues(raft, message) => "entries that do not continue the log",
        MessageType::MsgAppendResponse if of_leader && answers_more(log, message) => {
            "an answer about entries that were never sent"
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            "a round of reads without its context"
        }
        MessageType::MsgPropose if message.entries.is_empty() => "a proposal of nothing",
        // One entry that cannot be applied would stop every member that has it.
        MessageType::MsgPropose => return message.entries.iter().find_map(execute::flaw),
        // A leader hands leadership over by itself; nobody asks it to by a message.
        MessageType::MsgTransferLeader => "a wish to hand leadership over",
        // A snapshot comes with its file, as an input of its own.
        MessageType::MsgSnapshot => "a snapshot without its file",
        _ => return None,
    };
    Some(wrong.to_owned())
}

/// Whether a message of term `said` cannot be meant for a member in the term `own`.
pub(super) fn is_far(own: u64, said: u64) -> bool {
    said > own.saturating_add(TERMS_MAX)
}

/// Whether an answer names entries that the leader does not have, or asks for a snapshot, which no member of this
/// version or of etcd does by an answer.
fn answers_more<S: Storage>(log: &RaftLog<S>, message: &Message) -> bool {
    message.index.max(message.reject_hint) > log.last_index() || message.request_snapshot != 0
}

/// Whether entries follow each other, and an entry that may have been committed here. A leader of an earlier term may
/// lack what is committed here; raft takes nothing of it, and answers with the term that ends its leadership.
fn continues<S: Storage>(raft: &Raft<S>, message: &Message) -> bool {
    let log = &raft.raft_log;
    let mut before = message.index;
    let is_consecutive = message.entries.iter().all(|entry| {
        let follows = before.checked_add(1) == Some(entry.index);
        before = entry.index;
        follows
    });
    let committed = log.term(log.committed).unwrap_or(0);
    let may_lack = message.term < raft.term || message.index < log.committed;
    is_consecutive && (may_lack || message.log_term >= committed)
}

impl Replica {
    /// Another member says something. Raft refuses messages of strangers and of the past; nothing else is to be done
    /// about them.
    pub(super) fn on_message(&mut self, mut message: Message) {
        if let Some(why) = flaw(&self.node.raft, &message) {
            return self.complain(&message, why);
        }
        match message.msg_type() {
            MessageType::MsgPropose => return self.on_forwarded(message),
            MessageType::MsgReadIndex if self.leads_nobody() => return,
            MessageType::MsgTimeoutNow if self.bars_election() => return,
            MessageType::MsgRequestPreVote | MessageType::MsgRequestVote if self.yields_to(message.from) => {
                let log = &self.node.raft.raft_log;
                message.index = message.index.max(log.last_index());
                message.log_term = message.log_term.max(log.last_term());
            }
            // The leader takes them for lost, and sends them again.
            MessageType::MsgAppend if !message.entries.is_empty() && !self.has_room_for_entries() => return,
            _ => {}
        }
        let _ = self.node.step(message);
    }

    /// Whether this member was removed, and the one with this id is the only voter that is left. Then nothing was
    /// committed without that one, and it gets this member's vote whatever its log lacks: it may not know of the
    /// removal, so it cannot do without.
    fn yields_to(&self, id: u64) -> bool {
        let cluster = &self.state.cluster;
        cluster.removed.contains(&self.settings.member_id) && cluster.only_voter() == Some(id)
    }

    fn complain(&mut self, message: &Message, why: String) {
        let (commit, last) = (message.commit, self.node.raft.raft_log.last_index());
        let is_lost = message.msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.node.raft.term
            && !is_far(self.node.raft.term, message.term)
            && commit > last
            && self.state.cluster.members.contains_key(&message.from);
        if is_lost {
            // The first sentence and the question are etcd's.
            self.halted.halt(format!(
                "tocommit({commit}) is out of range [lastIndex({last})]. Was the raft log corrupted, truncated, or \
                 lost? Remove this member from the cluster, and add a new one with an empty data directory"
            ));
        }
        self.complaints.add(message.from, why);
    }

    /// Says of whom messages were dropped.
    pub(super) fn tell_complaints(&mut self, outputs: &mut Outputs) {
        let due = std::mem::take(&mut self.complaints.due);
        outputs.extend(due.into_iter().map(|(from, why)| Output::Unsound { from, why }));
    }

    /// Whether memory takes more entries than those that wait to be applied.
    fn has_room_for_entries(&self) -> bool {
        self.node.store().bytes() < UNAPPLIED_BYTES_MAX
    }

    /// Whether this member leads, and was removed. It knows of nothing that others commit, so no round of it confirms
    /// anything.
    pub(super) fn leads_nobody(&self) -> bool {
        self.is_leader() && !self.node.raft.promotable()
    }

    /// Whether raft must not begin an election now. While a snapshot is on its way to the log, the log lacks entries
    /// that raft looks at. The only voter wins in the step in which it campaigns, which raft allows where all of the
    /// log is durable: such a member campaigns at the end of a turn, when it may.
    pub(super) fn bars_election(&self) -> bool {
        !self.is_leader() && (matches!(self.installing, Installing::Logging { .. }) || self.is_sole_voter())
    }
}
