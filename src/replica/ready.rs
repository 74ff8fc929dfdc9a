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

use super::log_writes::LogWrite;
use super::port::{Output, Outputs};
use super::replica::{Founding, Replica};

impl Replica {
    /// Takes everything that raft wants done.
    pub(super) fn process_readies(&mut self, outputs: &mut Outputs) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let number = ready.number();
            self.writes.on_ready(number);
            assert!(ready.snapshot().is_empty(), "a snapshot of a peer does not get as far as raft");
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
        let buffer = self.writes.take_buffer();
        let state = self.node.raft.hard_state();
        let mark = self.marks.take_due();
        let before = self.log.length();
        let write = self.log.append(entries, Some(&state), mark.as_ref(), buffer);
        let before = if write.create { 0 } else { before };
        self.checkpoints.logged(self.log.length() - before, entries.len());
        let (mark, segment) = (mark.map(|mark| mark.index), write.segment);
        self.writes.begin(LogWrite { number, persisted, mark, segment });
        outputs.push(Output::AppendWal { ready: number, write });
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
        let behind = self.marks.is_due() || self.node.raft.raft_log.committed > self.log.state().commit;
        if self.writes.is_tidy_due() && behind && self.writes.is_idle() {
            self.write_log(self.writes.last_ready(), &[], Vec::new(), outputs);
        }
    }

    /// Nothing of this ready goes to the log: it is as durable as the one before it.
    fn hold_or_send(&mut self, number: u64, persisted: Vec<Message>, outputs: &mut Outputs) {
        if let Some(persisted) = self.writes.hold(persisted) {
            self.node.on_persist_ready(number);
            self.send(persisted, outputs);
        }
    }

    /// Whether term and vote are those that the log has.
    fn is_promised(&self, state: &HardState) -> bool {
        let logged = self.log.state();
        state.term == logged.term && state.vote == logged.vote
    }

    /// A log write is durable, and all before it.
    pub(super) fn on_wal_synced(&mut self, number: u64, buffer: Vec<u8>) {
        let (mark, durable) = self.writes.end(number, buffer);
        self.marks.on_logged(mark);
        if matches!(self.founding, Founding::Written) {
            self.founding = Founding::Done;
            return;
        }
        self.node.on_persist_ready(durable);
    }

    /// Messages that waited for the log.
    pub(super) fn send_persisted(&mut self, outputs: &mut Outputs) {
        let messages = self.writes.take_outbox();
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
