//! Write a random log, hurt it, read it: what comes back is what was written, or less, or a refusal.
//!
//! Three hurts: a crash during the last write (any subset of its sectors lands), a file cut short anywhere, a bit
//! flipped anywhere. After a crash everything that an earlier synced write held must be there, and the log must
//! take further writes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, HardState};

use super::record::{Metadata, SnapshotMark};
use super::recover::{Recovered, WalError, recover, recover_behind};
use super::segment::{SECTOR_BYTES, SegmentName, first_needed};
use super::{Appender, Write};
use crate::stdx::prng::Prng;

/// Segments in memory.
#[derive(Clone, Default)]
pub struct Files {
    files: BTreeMap<SegmentName, Vec<u8>>,
}

impl Files {
    /// Does a write in full.
    pub fn write(&mut self, write: &Write) {
        self.write_sectors(write, |_| true);
    }

    /// Does a write, but only those of its sectors that `lands` says.
    pub fn write_sectors(&mut self, write: &Write, mut lands: impl FnMut(usize) -> bool) {
        let file = self.files.entry(write.segment).or_default();
        let start = write.offset as usize;
        if file.len() < start + write.bytes.len() {
            file.resize(start + write.bytes.len(), 0);
        }
        for (i, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
            if lands(i) {
                file[start + i * SECTOR_BYTES..][..sector.len()].copy_from_slice(sector);
            }
        }
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<SegmentName> {
        self.files.keys().copied().collect()
    }

    /// Recovers, and zeroes what follows the tail, as the world must.
    pub fn recover(&mut self, after: u64) -> Result<Recovered, WalError> {
        self.read(after, |segments| recover(segments, after))
    }

    /// The same for a store that has taken in a snapshot.
    pub fn recover_behind(&mut self, snapshot: (u64, u64)) -> Result<Recovered, WalError> {
        self.read(snapshot.0, |segments| recover_behind(segments, snapshot))
    }

    fn read(
        &mut self,
        after: u64,
        recover: impl FnOnce(&[(SegmentName, &[u8])]) -> Result<Recovered, WalError>,
    ) -> Result<Recovered, WalError> {
        let names = self.names();
        let first = first_needed(&names, after).ok_or(WalError::Missing { index: after + 1 })?;
        let segments: Vec<_> =
            names[first..].iter().map(|name| (*name, self.files[name].as_slice())).collect();
        let recovered = recover(&segments)?;
        let tail = &recovered.tail;
        self.files.get_mut(&tail.segment).expect("the tail's segment")[tail.offset as usize..].fill(0);
        Ok(recovered)
    }

    /// The bytes of a segment.
    pub fn bytes_mut(&mut self, name: SegmentName) -> &mut Vec<u8> {
        self.files.get_mut(&name).expect("a segment of this name")
    }

    /// Deletes the first `count` segments.
    pub fn release(&mut self, count: usize) {
        for name in self.names().into_iter().take(count) {
            self.files.remove(&name);
        }
    }
}

/// The log as it should read.
#[derive(Clone, Default)]
struct Model {
    entries: Vec<Entry>,
    state: HardState,
    /// Every entry in the order of writing, also those that were replaced later.
    written: Vec<Entry>,
}

impl Model {
    fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }
}

const METADATA: Metadata = Metadata { node_id: 0x1234, cluster_id: 0x5678 };

/// One write with random content, known to the model.
fn random_write(appender: &mut Appender, model: &mut Model, prng: &mut Prng) -> Write {
    if prng.chance(1, 10) {
        model.state.term += 1;
        model.state.vote = prng.below(4);
        // A new leader may overwrite what was never committed.
        let keep = model.state.commit + prng.below(model.last_index() - model.state.commit + 1);
        model.entries.truncate(keep as usize);
    }
    let first = model.entries.len();
    for _ in 0..1 + prng.below(5) {
        let length = if prng.chance(1, 8) { prng.below(9000) } else { prng.below(200) } as usize;
        let fill = if prng.chance(1, 4) { 0 } else { prng.below(256) as u8 };
        model.entries.push(Entry {
            term: model.state.term,
            index: model.last_index() + 1,
            data: vec![fill; length].into(),
            ..Entry::default()
        });
    }
    model.written.extend_from_slice(&model.entries[first..]);
    let state = HardState {
        commit: model.state.commit + prng.below(first as u64 - model.state.commit + 1),
        ..model.state
    };
    model.state = state;
    let committed = (state.commit as usize).checked_sub(1).map(|at| &model.entries[at]);
    let mark = committed.map(|entry| SnapshotMark { index: entry.index, term: entry.term, conf_state: None });
    let mark = if prng.chance(1, 20) { mark } else { None };
    appender.append(&model.entries[first..], Some(&state), mark.as_ref(), Vec::new())
}

/// What was read is what stood in the log after some entry was written.
fn assert_prefix(recovered: &Recovered, model: &Model) {
    assert_eq!(recovered.metadata, METADATA);
    let read = &recovered.entries;
    let mut log: Vec<&Entry> = Vec::new();
    let known = read.is_empty()
        || model.written.iter().any(|entry| {
            log.truncate(entry.index as usize - 1);
            log.push(entry);
            log.len() == read.len() && Some(entry) == read.last() && log.iter().copied().eq(read)
        });
    assert!(known, "the log never read like this");
}

/// Runs one world.
///
/// # Panics
/// When a law is broken.
pub fn run(seed: u64) {
    let prng = &mut Prng::new(seed);
    let mut files = Files::default();
    let mut appender = Appender::create(METADATA);
    appender.set_segment_bytes(30_000);
    let mut model = Model { state: HardState { term: 1, ..HardState::default() }, ..Model::default() };

    for _ in 0..1 + prng.below(60) {
        files.write(&random_write(&mut appender, &mut model, prng));
    }
    let read = files.clone().recover(0).expect("a whole log");
    assert_eq!((&read.entries, &read.state), (&model.entries, &model.state));

    flip_a_bit(files.clone(), &model, prng);
    cut_short(files.clone(), &model, prng);
    crash_and_go_on(files, appender, model, prng);
}

fn flip_a_bit(mut files: Files, model: &Model, prng: &mut Prng) {
    let names = files.names();
    let name = names[prng.below(names.len() as u64) as usize];
    let bytes = files.bytes_mut(name);
    let at = prng.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << prng.below(8);
    if let Ok(read) = files.recover(0) {
        assert_prefix(&read, model);
    }
}

fn cut_short(mut files: Files, model: &Model, prng: &mut Prng) {
    let last = *files.names().last().expect("a segment");
    let length = files.bytes_mut(last).len() as u64;
    files.bytes_mut(last).truncate(prng.below(length) as usize);
    match files.recover(0) {
        Ok(read) => assert_prefix(&read, model),
        // The commit index of an earlier segment may cover what was cut off; the first segment may have lost its head.
        Err(WalError::CommitLost { .. } | WalError::Damaged { offset: 0, .. }) => {}
        Err(error) => panic!("a log cut short: {error}"),
    }
}

fn crash_and_go_on(mut files: Files, mut appender: Appender, mut model: Model, prng: &mut Prng) {
    for _ in 0..3 {
        let durable = model.clone();
        let write = random_write(&mut appender, &mut model, prng);
        let mut lands = prng.fork();
        let odds = prng.below(11);
        // A segment appears under its name only when its first write is durable.
        if write.create {
            if prng.chance(1, 2) {
                files.write(&write);
            }
        } else {
            files.write_sectors(&write, |_| lands.chance(odds, 10));
        }
        let read = files.recover(0).expect("a crash during a write is no damage");
        // Entries that the write was to replace may be gone or still there; all others of earlier writes are there.
        let replaced = write_began_at(&durable, &model);
        assert!(read.entries.len() >= replaced, "durable entries are lost");
        for (i, entry) in read.entries.iter().enumerate() {
            let known = durable.entries.get(i) == Some(entry) || model.entries.get(i) == Some(entry);
            assert!(known, "entry {} reads differently from what was written", entry.index);
        }
        assert!(read.state.commit >= durable.state.commit.min(read.last_index), "the state went back");
        model.entries = read.entries.clone();
        model.state = HardState { term: model.state.term, ..read.state };
        let names = files.names();
        appender = Appender::resume(&read, names);
        appender.set_segment_bytes(30_000);
        files.write(&random_write(&mut appender, &mut model, prng));
        let read = files.clone().recover(0).expect("a log that went on");
        assert_eq!((&read.entries, &read.state), (&model.entries, &model.state));
    }
}

/// How many leading entries two versions of the log have in common.
fn write_began_at(before: &Model, after: &Model) -> usize {
    before.entries.iter().zip(&after.entries).take_while(|(a, b)| a == b).count()
}
