//! Raft's ordering rules, all of them.
//!
//! | in a ready | may leave | must wait for |
//! |---|---|---|
//! | messages | at once | |
//! | entries, term, vote | to the log, at once | the write before it (the log is one stream) |
//! | commit index alone | with the next entries, or when the log is quiet | nothing: it is only a hint |
//! | persisted messages (votes, append responses) | | the write of the same ready |
//! | a leader's messages to a member whose removal is applied | never | |
//! | committed entries | to apply | raft hands them out only when committed and persisted here |
//! | read states | | apply to have reached their index |
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, HardState, Message, MessageType};

use super::port::{Output, Outputs};
use super::replica::{Founding, Replica};
use crate::limits::APPEND_BYTES_MAX;
use crate::wal::segment::SegmentName;

/// A log write that is not durable.
pub(super) struct Unsynced {
    /// Raft's number of the ready it came from; 0 for a new cluster's first entries.
    number: u64,
    /// Messages that must not leave before.
    persisted: Vec<Message>,
    /// The index of the mark in it.
    mark: Option<u64>,
    /// Where it goes to.
    segment: SegmentName,
}

impl Replica {
    /// Takes everything that raft wants done.
    pub(super) fn process_readies(&mut self, outputs: &mut Outputs) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let number = ready.number();
            self.last_ready = number;
            assert!(ready.snapshot().is_empty(), "nobody sends snapshots yet");
            self.send(ready.take_messages(), outputs);
            for state in ready.take_read_states() {
                self.reads.confirm(&state.request_ctx, state.index);
            }
            self.committed.extend(ready.take_committed_entries());
            let persisted = ready.take_persisted_messages();
            let entries = ready.take_entries();
            let state = ready.hs().cloned();
            let promise = state.as_ref().is_some_and(|state| !self.is_promised(state));
            if !entries.is_empty() || promise {
                self.node.mut_store().append(&entries);
                self.write_log(number, &entries, persisted, outputs);
                self.node.advance_append_async(ready);
            } else {
                self.node.advance_append_async(ready);
                self.hold_or_send(number, persisted, outputs);
            }
        }
    }

    /// One write: `entries`, the hard state, and a mark if one is due.
    fn write_log(&mut self, number: u64, entries: &[Entry], persisted: Vec<Message>, outputs: &mut Outputs) {
        let buffer = self.buffers.pop().unwrap_or_default();
        let state = self.node.raft.hard_state();
        let mark = self.unmarked.take();
        let before = self.log.length();
        let write = self.log.append(entries, Some(&state), mark.as_ref(), buffer);
        let before = if write.create { 0 } else { before };
        self.checkpoints.logged(self.log.length() - before, entries.len());
        self.log_is_quiet = false;
        self.tidy_due = false;
        self.unsynced.push_back(Unsynced {
            number,
            persisted,
            mark: mark.map(|mark| mark.index),
            segment: write.segment,
        });
        outputs.push(Output::AppendWal { ready: number, write });
    }

    /// The first segment that a write is on its way to.
    pub(super) fn writing(&self) -> Option<SegmentName> {
        self.unsynced.front().map(|write| write.segment)
    }

    /// The first entries are in raft's memory as if they had been read from the log; here they get there. False
    /// until they are durable.
    pub(super) fn found(&mut self, outputs: &mut Outputs) -> bool {
        match std::mem::replace(&mut self.founding, Founding::Written) {
            Founding::Due(entries) => {
                self.write_log(0, &entries, Vec::new(), outputs);
                false
            }
            Founding::Written => false,
            Founding::Done => {
                self.founding = Founding::Done;
                true
            }
        }
    }

    /// Writes what needs no write of its own while the log is busy: the commit index, a mark. Its readers are other
    /// programs; a restart does without.
    pub(super) fn tidy_log(&mut self, outputs: &mut Outputs) {
        let behind = self.unmarked.is_some() || self.node.raft.raft_log.committed > self.log.state().commit;
        if self.tidy_due && behind && self.unsynced.is_empty() {
            self.write_log(self.last_ready, &[], Vec::new(), outputs);
        }
    }

    /// Nothing of this ready goes to the log: it is as durable as the one before it.
    fn hold_or_send(&mut self, number: u64, persisted: Vec<Message>, outputs: &mut Outputs) {
        match self.unsynced.back_mut() {
            Some(write) => write.persisted.extend(persisted),
            None => {
                self.node.on_persist_ready(number);
                self.send(persisted, outputs);
            }
        }
    }

    /// Whether term and vote are those that the log has.
    fn is_promised(&self, state: &HardState) -> bool {
        let logged = self.log.state();
        state.term == logged.term && state.vote == logged.vote
    }

    /// A log write is durable, and all before it.
    pub(super) fn on_wal_synced(&mut self, number: u64, buffer: Vec<u8>) {
        let write = self.unsynced.pop_front().expect("only what was written becomes durable");
        assert_eq!(write.number, number, "log writes become durable in their order");
        // One that a large request has made longer than a full batch is given back.
        if self.buffers.len() < 2 && buffer.capacity() <= 2 * APPEND_BYTES_MAX {
            self.buffers.push(buffer);
        }
        self.marked = write.mark.unwrap_or(self.marked);
        self.outbox.extend(write.persisted);
        if matches!(self.founding, Founding::Written) {
            self.founding = Founding::Done;
            return;
        }
        // Readies after this one that had nothing for the log are durable with it.
        let durable = self.unsynced.front().map_or(self.last_ready, |next| next.number - 1);
        self.node.on_persist_ready(durable);
    }

    /// Messages that waited for the log.
    pub(super) fn send_persisted(&mut self, outputs: &mut Outputs) {
        let messages = std::mem::take(&mut self.outbox);
        self.send(messages, outputs);
    }

    /// What this member says as a leader does not go to one that was removed: it may have been said before the removal
    /// was applied. Answers go to everybody, because a leader that was removed still has its removal committed.
    fn send(&self, messages: Vec<Message>, outputs: &mut Outputs) {
        let removed = &self.state.cluster.removed;
        let is_stale = |message: &Message| removed.contains(&message.to) && is_of_a_leader(message);
        let messages = messages.into_iter().filter(|message| !is_stale(message));
        outputs.extend(messages.map(|message| Output::Send { to: message.to, message: Box::new(message) }));
    }
}

fn is_of_a_leader(message: &Message) -> bool {
    use MessageType::{MsgAppend, MsgHeartbeat, MsgSnapshot, MsgTimeoutNow};
    matches!(message.msg_type(), MsgAppend | MsgHeartbeat | MsgSnapshot | MsgTimeoutNow)
}
