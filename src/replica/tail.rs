//! The end of the raft log in memory: what raft reads back, and what a follower may still need.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// The last entries of the log. Everything before `compacted` is in the store alone.
#[derive(Debug, Default)]
pub struct Tail {
    /// Index and term of the entry before the first that is kept.
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The state raft starts with.
    hard_state: HardState,
    conf_state: ConfState,
    /// What raft is told of the store's content, while that can be sent.
    offered: Option<(u64, u64)>,
}

impl Tail {
    /// The tail of a recovered log: `entries` follow the one that `compacted` names.
    pub fn new(
        compacted: (u64, u64),
        entries: Vec<Entry>,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> Self {
        let mut tail = Self { compacted, hard_state, conf_state, ..Self::default() };
        tail.append(&entries);
        tail
    }

    /// Adds entries; those with an index already there replace it and all after it.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let end = self.compacted.0 + 1 + self.entries.len() as u64;
        assert!(self.compacted.0 < first.index && first.index <= end, "entry {} leaves a gap", first.index);
        while self.compacted.0 + self.entries.len() as u64 >= first.index {
            let dropped = self.entries.pop_back().expect("counted above");
            self.bytes -= dropped.data.len();
        }
        self.bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Begins anew behind the snapshot whose last entry has this index and term.
    pub fn restart(&mut self, compacted: (u64, u64), conf_state: ConfState) {
        *self = Self {
            compacted,
            conf_state,
            hard_state: std::mem::take(&mut self.hard_state),
            ..Self::default()
        };
    }

    /// The members are these now.
    pub fn set_members(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The content of the store, up to the entry of this index and term, can be sent to members far behind; or it
    /// cannot.
    pub fn offer(&mut self, content: Option<(u64, u64)>) {
        self.offered = content;
    }

    /// Forgets entries up to `index`.
    pub fn compact(&mut self, index: u64) {
        while let Some(first) = self.entries.front()
            && first.index <= index
        {
            self.compacted = (first.index, first.term);
            self.bytes -= first.data.len();
            self.entries.pop_front();
        }
    }

    /// Forgets the oldest entries up to `index`, as long as more than `bytes_max` is held.
    pub fn shrink(&mut self, index: u64, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(first) = self.entries.front().map(|first| first.index)
            && first <= index
        {
            self.compact(first);
        }
    }

    /// Bytes of data held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries behind the one with this index. Not below what [`Tail::compact`] was told.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let known = index.saturating_sub(self.compacted.0) as usize;
        self.entries.range(known.min(self.entries.len())..)
    }

    fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state, self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entry {high} is asked for, {} is the last", self.last());
        let first = (low - self.compacted.0 - 1) as usize;
        let count = (high - low) as usize;
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::with_capacity(count.min(1024));
        for entry in self.entries.iter().skip(first).take(count) {
            size += entry.data.len() as u64;
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.compacted.0 - 1) as usize);
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Members far behind need the store's content. What is sent is the newest when the sending begins, so this is
    /// about the least of it.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let unavailable = Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        let (index, term) = self.offered.filter(|(index, _)| *index > 0).ok_or(unavailable)?;
        let metadata = SnapshotMetadata { index, term, conf_state: Some(self.conf_state.clone()) };
        Ok(Snapshot { metadata: Some(metadata), ..Snapshot::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Entry::default() }
    }

    #[test]
    fn a_later_term_replaces_and_the_front_goes() {
        let mut tail =
            Tail::new((4, 1), vec![entry(5, 1), entry(6, 1)], HardState::default(), ConfState::default());
        tail.append(&[entry(6, 2), entry(7, 2)]);
        assert_eq!(
            (tail.last_index(), tail.term(6), tail.term(5), tail.term(4)),
            (Ok(7), Ok(2), Ok(1), Ok(1))
        );
        tail.compact(6);
        assert_eq!((tail.first_index(), tail.term(6), tail.bytes(), tail.len()), (Ok(7), Ok(2), 10, 1));
        assert_eq!(tail.term(5), Err(Error::Store(StorageError::Compacted)));
        let context = GetEntriesContext::empty(false);
        assert_eq!(tail.entries(7, 8, None, context).unwrap(), [entry(7, 2)]);
    }

    #[test]
    fn few_large_entries_are_too_many() {
        let entries = (1..=10).map(|index| entry(index, 1)).collect();
        let mut tail = Tail::new((0, 0), entries, HardState::default(), ConfState::default());
        tail.shrink(10, 35);
        assert_eq!((tail.first_index(), tail.bytes()), (Ok(8), 30));
        tail.shrink(8, 0);
        assert_eq!(tail.first_index(), Ok(9), "what is not applied stays");
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn a_gap_is_a_broken_law() {
        Tail::default().append(&[entry(2, 1)]);
    }
}
