//! Raft's ordering rules, all of them.
//!
//! | in a ready | may leave | must wait for |
//! |---|---|---|
//! | messages | at once | |
//! | entries, term, vote | to the log, at once | the write before it (the log is one stream) |
//! | commit index alone | with the next entries, or when idle | nothing: it is only a hint |
//! | persisted messages (votes, append responses) | | the write of the same ready |
//! | committed entries | to apply | raft hands them out only when committed and persisted here |
//! | read states | | apply to have reached their index |
#![forbid(unsafe_code)]

use raft::eraftpb::{HardState, Message};

use super::port::{Output, Outputs};
use super::replica::Replica;

impl Replica {
    /// Takes everything that raft wants done.
    pub(super) fn process_readies(&mut self, outputs: &mut Outputs) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let number = ready.number();
            self.last_ready = number;
            assert!(ready.snapshot().is_empty(), "nobody sends snapshots yet");
            send(ready.take_messages(), outputs);
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
                let buffer = self.buffers.pop().unwrap_or_default();
                let state = self.hard_state();
                let write = self.log.append(&entries, Some(&state), None, buffer);
                self.checkpoints.logged(write.bytes.len() as u64);
                self.unsynced.push_back((number, persisted));
                outputs.push(Output::AppendWal { ready: number, write });
                self.node.advance_append_async(ready);
            } else {
                self.node.advance_append_async(ready);
                self.hold_or_send(number, persisted, outputs);
            }
        }
    }

    /// The first entries are in raft's memory as if they had been read from the log; here they get there.
    pub(super) fn found(&mut self, outputs: &mut Outputs) {
        let Some(entries) = self.founding.take() else { return };
        let state = self.hard_state();
        let write = self.log.append(&entries, Some(&state), None, Vec::new());
        self.unsynced.push_back((0, Vec::new()));
        outputs.push(Output::AppendWal { ready: 0, write });
    }

    /// Nothing of this ready goes to the log: it is as durable as the one before it.
    fn hold_or_send(&mut self, number: u64, persisted: Vec<Message>, outputs: &mut Outputs) {
        match self.unsynced.back_mut() {
            Some((_, waiting)) => waiting.extend(persisted),
            None => {
                self.node.on_persist_ready(number);
                send(persisted, outputs);
            }
        }
    }

    /// Whether term and vote are those that the log has.
    fn is_promised(&self, state: &HardState) -> bool {
        let logged = self.log.state();
        state.term == logged.term && state.vote == logged.vote
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.node.raft.hard_state()
    }

    /// A log write is durable, and all before it.
    pub(super) fn on_wal_synced(&mut self, number: u64, buffer: Vec<u8>) {
        let (first, persisted) = self.unsynced.pop_front().expect("only what was written becomes durable");
        assert_eq!(first, number, "log writes become durable in their order");
        if self.buffers.len() < 2 {
            self.buffers.push(buffer);
        }
        // Readies after this one that had nothing for the log are durable with it.
        let durable = self.unsynced.front().map_or(self.last_ready, |(next, _)| next - 1);
        if durable > 0 {
            self.node.on_persist_ready(durable);
        }
        self.outbox.extend(persisted);
    }

    /// Messages that waited for the log.
    pub(super) fn send_persisted(&mut self, outputs: &mut Outputs) {
        send(std::mem::take(&mut self.outbox), outputs);
    }
}

fn send(messages: Vec<Message>, outputs: &mut Outputs) {
    outputs.extend(
        messages.into_iter().map(|message| Output::Send { to: message.to, message: Box::new(message) }),
    );
}
