//! What another member may say. Raft trusts its peers: a message that contradicts the rules of the protocol, which a
//! damaged or a foreign member may send, would end the process. Such a message is dropped, as if it had been lost.
#![forbid(unsafe_code)]

use raft::eraftpb::{Message, MessageType};
use raft::{RaftLog, Storage};

/// Whether a correct member can have sent this to one whose log is `log`.
pub(super) fn is_sound<S: Storage>(log: &RaftLog<S>, message: &Message) -> bool {
    // What a member forwards for its clients has no term, and all else has one.
    let is_forwarded = matches!(message.msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex);
    if (message.term == 0) != is_forwarded {
        return false;
    }
    match message.msg_type() {
        // A leader tells a member of no more commits than the member has acknowledged entries.
        MessageType::MsgHeartbeat => message.commit <= log.last_index(),
        MessageType::MsgAppend => continues(log, message),
        // The context of the round is in an entry.
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.entries.len() == 1,
        // A proposal proposes something.
        MessageType::MsgPropose => !message.entries.is_empty(),
        // A leader hands leadership over by itself; nobody asks it to by a message.
        MessageType::MsgTransferLeader => false,
        // No member of this version sends one, or can take one in.
        MessageType::MsgSnapshot => false,
        _ => true,
    }
}

/// Whether entries follow each other, and an entry that may have been committed here.
fn continues<S: Storage>(log: &RaftLog<S>, message: &Message) -> bool {
    let mut before = message.index;
    let is_consecutive = message.entries.iter().all(|entry| {
        let follows = before.checked_add(1) == Some(entry.index);
        before = entry.index;
        follows
    });
    let committed = log.term(log.committed).unwrap_or(0);
    is_consecutive && (message.index < log.committed || message.log_term >= committed)
}
