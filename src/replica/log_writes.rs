//! Writes to the log that are under way, and what waits for them to be durable.
//!
//! Readies that have nothing for the log are durable together with the write before them, so their messages wait for
//! that write too.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use raft::eraftpb::Message;

use crate::limits::APPEND_BYTES_MAX;
use crate::wal::segment::SegmentName;

/// Memory of writes that is kept to be used again.
const BUFFERS_MAX: usize = 2;

/// A write that is not durable.
pub(super) struct LogWrite {
    /// Raft's number of the ready that it is all or a part of; 0 for a new cluster's first entries.
    pub(super) number: u64,
    /// Messages that must not leave before.
    pub(super) persisted: Vec<Message>,
    /// The index of the mark in it.
    pub(super) mark: Option<u64>,
    /// Where it goes to.
    pub(super) segment: SegmentName,
    /// What the log says to be committed once this is durable.
    pub(super) commit: u64,
    /// It has a term, a vote, or a commit index of which nobody may hear before it is durable.
    pub(super) promise: bool,
}

/// All writes under way.
#[derive(Default)]
pub(super) struct LogWrites {
    /// Not durable, in the order in which they were begun, which is the order in which they become durable.
    unsynced: VecDeque<LogWrite>,
    /// Those of them that make a promise.
    promises: usize,
    /// What the log says durably to be committed.
    committed: u64,
    /// The number of raft's last ready. Not below that of any write.
    last_ready: u64,
    /// Messages whose write is durable, to be sent at the next turn.
    outbox: Vec<Message>,
    /// Memory for writes to come, empty or to be emptied.
    buffers: Vec<Vec<u8>>,
    /// A write was begun since the last tick.
    is_busy: bool,
    /// A whole tick has passed without a write: what was left out of the log can go there.
    is_tidy_due: bool,
}

impl LogWrites {
    /// None yet, to a log that says that everything up to `committed` is committed.
    pub(super) fn new(committed: u64) -> Self {
        Self { committed, ..Self::default() }
    }

    /// What the log says durably to be committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether a write under way makes a promise.
    pub(super) fn has_promise(&self) -> bool {
        self.promises > 0
    }

    /// Whether nothing is on its way to the log.
    pub(super) fn is_idle(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Whether a whole tick has passed without a write.
    pub(super) fn is_tidy_due(&self) -> bool {
        self.is_tidy_due
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.is_tidy_due |= !self.is_busy;
        self.is_busy = false;
    }

    /// Raft has a ready of this number.
    pub(super) fn on_ready(&mut self, number: u64) {
        self.last_ready = number;
    }

    /// The number of raft's last ready.
    pub(super) fn last_ready(&self) -> u64 {
        self.last_ready
    }

    /// Memory for the next write.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// A write is on its way.
    pub(super) fn begin(&mut self, write: LogWrite) {
        self.is_busy = true;
        self.is_tidy_due = false;
        self.promises += usize::from(write.promise);
        self.unsynced.push_back(write);
    }

    /// Has messages wait for the newest write; gives them back if none is under way.
    pub(super) fn hold(&mut self, persisted: Vec<Message>) -> Option<Vec<Message>> {
        match self.unsynced.back_mut() {
            Some(write) => {
                write.persisted.extend(persisted);
                None
            }
            None => Some(persisted),
        }
    }

    /// The oldest write, whose number is `number`, is durable. Its mark, and the number of the last ready that is
    /// durable with it.
    pub(super) fn end(&mut self, number: u64, buffer: Vec<u8>) -> (Option<u64>, u64) {
        let write = self.unsynced.pop_front().expect("only what was written becomes durable");
        assert_eq!(write.number, number, "log writes become durable in their order");
        self.promises -= usize::from(write.promise);
        self.committed = self.committed.max(write.commit);
        // Memory that a large request has made longer than a full batch is given back.
        if self.buffers.len() < BUFFERS_MAX && buffer.capacity() <= 2 * APPEND_BYTES_MAX {
            self.buffers.push(buffer);
        }
        self.outbox.extend(write.persisted);
        // Readies after this one that had nothing for the log are durable with it.
        (write.mark, self.unsynced.front().map_or(self.last_ready, |next| next.number - 1))
    }

    /// Messages whose write is durable.
    pub(super) fn take_outbox(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    /// The first segment that a write is on its way to.
    pub(super) fn segment(&self) -> Option<SegmentName> {
        self.unsynced.front().map(|write| write.segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64, mark: Option<u64>) -> LogWrite {
        let persisted = vec![Message { index: number, ..Message::default() }];
        let segment = SegmentName { sequence: number, index: 0 };
        LogWrite { number, persisted, mark, segment, commit: 10 * number, promise: number == 1 }
    }

    fn sent(writes: &mut LogWrites) -> Vec<u64> {
        writes.take_outbox().iter().map(|message| message.index).collect()
    }

    #[test]
    fn a_message_waits_for_its_write_or_for_the_one_before_its_ready() {
        let mut writes = LogWrites::default();
        let held = |index| vec![Message { index, ..Message::default() }];
        assert!(writes.hold(held(9)).is_some(), "nothing is under way");
        for (number, mark) in [(1, None), (3, Some(7))] {
            writes.on_ready(number);
            writes.begin(write(number, mark));
            writes.on_ready(number + 1);
            assert!(writes.hold(held(number + 1)).is_none());
        }
        assert_eq!(writes.segment().map(|segment| segment.sequence), Some(1));
        assert_eq!((writes.has_promise(), writes.committed()), (true, 0));
        assert_eq!(writes.end(1, Vec::new()), (None, 2));
        assert_eq!(sent(&mut writes), [1, 2]);
        assert_eq!((writes.has_promise(), writes.committed()), (false, 10));
        assert_eq!((writes.end(3, Vec::new()), writes.is_idle()), ((Some(7), 4), true));
        assert_eq!(sent(&mut writes), [3, 4]);
    }

    #[test]
    fn the_log_is_tidied_after_a_whole_tick_without_a_write() {
        let mut writes = LogWrites::default();
        writes.begin(write(1, None));
        writes.tick();
        assert!(!writes.is_tidy_due());
        writes.tick();
        assert!(writes.is_tidy_due());
        writes.begin(write(2, None));
        assert!(!writes.is_tidy_due());
    }

    #[test]
    fn memory_of_a_large_write_is_given_back() {
        let mut writes = LogWrites::default();
        for number in 0..4 {
            writes.begin(write(number, None));
        }
        writes.end(0, Vec::with_capacity(2 * APPEND_BYTES_MAX + 1));
        assert_eq!(writes.take_buffer().capacity(), 0);
        (1..4).for_each(|number| _ = writes.end(number, Vec::with_capacity(8)));
        assert_eq!(writes.buffers.len(), BUFFERS_MAX);
    }
}
