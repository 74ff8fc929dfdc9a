//! Turning entries and states into block writes.
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, EntryType, HardState};

use super::record::{Kind, Metadata, SnapshotMark, encode_state, put_entry, put_record};
use super::recover::Recovered;
use super::segment::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName};

/// One write that the world must do, whole and in the order given.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// The segment to write to.
    pub segment: SegmentName,
    /// True when the segment doesn't exist: write to a temporary file that reads as zeros, make that durable, rename
    /// it to the segment's name and make the rename durable, all before the write counts as done.
    pub create: bool,
    /// Where in the file; a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// What; a multiple of [`BLOCK_BYTES`] long.
    pub bytes: Vec<u8>,
    /// True when something was written whose loss would break a promise, and in the last write to a segment: recovery
    /// takes only the end of the last segment for torn. Then the write, and all before it in that file, counts as done
    /// when durable.
    pub sync: bool,
}

/// The end of the log.
#[derive(Debug)]
pub struct Appender {
    metadata: Metadata,
    /// The segment being filled.
    segment: SegmentName,
    /// True until the first write has created `segment`.
    create: bool,
    /// Where the partly filled last block begins; a multiple of [`BLOCK_BYTES`].
    block_start: u64,
    /// The filled part of that block; shorter than [`BLOCK_BYTES`].
    block: Vec<u8>,
    /// The chain's value after the last record.
    crc: u32,
    /// The last state written; repeated at the head of each segment.
    state: HardState,
    /// The last entry written.
    last_index: u64,
    /// Segments in use, the one being filled last.
    segments: Vec<SegmentName>,
    /// A segment this long gets no further write.
    segment_bytes: u64,
}

impl Appender {
    /// Begins a log.
    pub fn create(metadata: Metadata) -> Self {
        let segment = SegmentName { sequence: 0, index: 0 };
        Self {
            metadata,
            segment,
            create: true,
            block_start: 0,
            block: Vec::new(),
            crc: 0,
            state: HardState::default(),
            last_index: 0,
            segments: vec![segment],
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// Goes on where a recovered log ends. The world has zeroed the rest of the last segment. `segments` are all
    /// that exist, also those that recovery had no need to read.
    pub fn resume(recovered: &Recovered, segments: Vec<SegmentName>) -> Self {
        assert_eq!(segments.last(), Some(&recovered.tail.segment), "the tail is in the last segment");
        let tail = &recovered.tail;
        let filled = tail.block.len() as u64;
        assert!(tail.block.len() < BLOCK_BYTES, "the filled part of a block is shorter than a block");
        Self {
            metadata: recovered.metadata,
            segment: tail.segment,
            create: false,
            block_start: tail.offset - filled,
            block: tail.block.clone(),
            crc: tail.crc,
            state: recovered.state,
            last_index: recovered.last_index,
            segments,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// Begins new segments sooner or later than usual; for tests and simulations that cannot fill 64 MB.
    pub fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// The write that adds `entries`, then `state`, then `mark`. `buffer` lends its memory to [`Write::bytes`].
    ///
    /// The commit index is written only as far as earlier writes reach: a state never vouches for entries that go
    /// to disk together with it (unless they create a segment, which happens whole or not at all), so that recovery
    /// can tell a torn entry from a damaged one. The rest follows with the next write ([`state`](Self::state) tells
    /// what has been written). Whoever needs an entry to be known as committed puts what depends on it into a write of
    /// its own.
    ///
    /// # Panics
    /// When `state` goes back in term or commit, or there is nothing to write.
    pub fn append(
        &mut self,
        entries: &[Entry],
        state: Option<&HardState>,
        mark: Option<&SnapshotMark>,
        buffer: Vec<u8>,
    ) -> Write {
        let mut out = self.begin(buffer);
        let durable = match entries {
            // A segment is created whole or not at all.
            [.., last] if self.create => last.index,
            [first, ..] => self.last_index.min(first.index - 1),
            [] => self.last_index,
        };
        let mut sync = self.create || mark.is_some() || !entries.is_empty();
        // Of a torn write with a change of the members, nothing can be read without the state: it tells whether the
        // change before is committed.
        let changes = |entry: &Entry| entry.entry_type() != EntryType::EntryNormal;
        let state_first = !self.create && entries.iter().any(changes);
        let (early, late) = if state_first { (&[][..], entries) } else { (entries, &[][..]) };
        self.put_entries(&mut out, early);
        if let Some(state) = state {
            sync |= state.term != self.state.term || state.vote != self.state.vote;
            self.put_state(&mut out, state, durable);
        }
        self.put_entries(&mut out, late);
        if let Some(mark) = mark {
            put_record(&mut out, &mut self.crc, Kind::Snapshot, &mark.encode());
        }
        self.finish(out, sync)
    }

    /// The write that begins the log anew behind a snapshot of the leader, which the store has taken in: no entry
    /// before it counts any more, and the next one is the one behind `mark`. The store is durable, so `state` may say
    /// that all of it is committed.
    ///
    /// # Panics
    /// When `state` goes back in term or commit.
    pub fn restart(&mut self, mark: &SnapshotMark, state: &HardState, buffer: Vec<u8>) -> Write {
        let mut out = self.begin(buffer);
        put_record(&mut out, &mut self.crc, Kind::Snapshot, &mark.encode());
        self.last_index = mark.index;
        self.put_state(&mut out, state, mark.index);
        self.finish(out, true)
    }

    /// What a write begins with: the part of the last block that is filled, or the head of a segment.
    fn begin(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        let mut out = buffer;
        out.clear();
        if self.is_full() {
            self.cut();
        }
        out.extend_from_slice(&self.block);
        if self.length() == 0 {
            self.put_head(&mut out);
        }
        out
    }

    /// The state, whose commit index is written as far as `durable`.
    fn put_state(&mut self, out: &mut Vec<u8>, state: &HardState, durable: u64) {
        assert!(state.term >= self.state.term, "a term goes back from {} to {}", self.state.term, state.term);
        assert!(state.commit >= self.state.commit, "the commit index goes back to {}", state.commit);
        let commit = state.commit.min(durable).max(self.state.commit);
        let state = HardState { commit, ..*state };
        if state != self.state {
            put_record(out, &mut self.crc, Kind::State, &encode_state(&state));
            self.state = state;
        }
    }

    fn put_entries(&mut self, out: &mut Vec<u8>, entries: &[Entry]) {
        for entry in entries {
            put_entry(out, &mut self.crc, entry);
            self.last_index = entry.index;
        }
    }

    /// Bytes written to the current segment.
    pub fn length(&self) -> u64 {
        self.block_start + self.block.len() as u64
    }

    /// Whether the next write begins a segment.
    fn is_full(&self) -> bool {
        self.length() >= self.segment_bytes
    }

    /// Segments in use, in order; the last is being filled.
    pub fn segments(&self) -> &[SegmentName] {
        &self.segments
    }

    /// Forgets the first `count` segments, which the world is told to delete.
    pub fn release(&mut self, count: usize) {
        assert!(count < self.segments.len(), "the segment being filled cannot be released");
        self.segments.drain(..count);
    }

    /// The state that a restart would find.
    pub fn state(&self) -> &HardState {
        &self.state
    }

    fn cut(&mut self) {
        self.segment = SegmentName { sequence: self.segment.sequence + 1, index: self.last_index + 1 };
        self.segments.push(self.segment);
        self.create = true;
        self.block_start = 0;
        self.block.clear();
    }

    /// The records that begin a segment: they make it readable on its own.
    fn put_head(&mut self, out: &mut Vec<u8>) {
        put_record(out, &mut self.crc, Kind::Crc, &[]);
        put_record(out, &mut self.crc, Kind::Metadata, &self.metadata.encode());
        if self.segment.sequence == 0 {
            put_record(out, &mut self.crc, Kind::Snapshot, &SnapshotMark::default().encode());
        }
        if self.state != HardState::default() {
            put_record(out, &mut self.crc, Kind::State, &encode_state(&self.state));
        }
    }

    fn finish(&mut self, mut bytes: Vec<u8>, sync: bool) -> Write {
        let offset = self.block_start;
        assert!(bytes.len() > self.block.len(), "a write of nothing");
        let filled = bytes.len() % BLOCK_BYTES;
        let whole = bytes.len() - filled;
        self.block_start += whole as u64;
        self.block.clear();
        self.block.extend_from_slice(&bytes[whole..]);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let sync = sync || self.is_full();
        let create = std::mem::take(&mut self.create);
        Write { segment: self.segment, create, offset, bytes, sync }
    }
}
