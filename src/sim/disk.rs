//! A disk that keeps no promise it did not make.
//!
//! What is written can be read back at once, as from a page cache. What survives a crash is everything a sync
//! covered, and of the rest a random set of sectors: writes are torn and reordered. When only the process dies, the
//! page cache stays, and the next process finds what was written, synced or not. Bytes can rot. A failed write or sync
//! of the log ends the process, so it is a crash to which the disk adds its own.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plant::Plant;
use kevel::page::{PAGE_SIZE, PageFile};
use kevel::stdx::prng::Prng;
use kevel::wal::{self, SegmentName};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A log segment.
#[derive(Clone, Debug, Default)]
struct Segment {
    /// What a sync has made safe.
    durable: Vec<u8>,
    /// Written since, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Segment {
    fn live(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.unsynced.iter().for_each(|(at, write)| write_at(&mut bytes, *at, write));
        bytes
    }
}

fn write_at(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes each sector, or not.
fn write_torn(file: &mut Vec<u8>, at: usize, bytes: &[u8], prng: &mut Prng) {
    // Often all or nothing, so that the cases between are not the only ones.
    let keep = [0, 4, 8, 8][prng.below(4) as usize];
    for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        if prng.chance(keep, 8) {
            write_at(file, at + number * SECTOR_BYTES, sector);
        }
    }
}

/// The disk of one member.
pub struct Disk {
    segments: BTreeMap<SegmentName, Segment>,
    /// The log write on its way.
    in_flight: Option<wal::Write>,
    store: Arc<StoreFile>,
    prng: Prng,
    plant: Option<Plant>,
}

impl Disk {
    /// An empty disk.
    pub fn new(prng: Prng, plant: Option<Plant>) -> Self {
        let store = Arc::new(StoreFile { plant, inner: Mutex::default() });
        Self { segments: BTreeMap::new(), in_flight: None, store, prng, plant }
    }

    /// The store file, as the process has it open.
    pub fn store_file(&self) -> Arc<StoreFile> {
        self.store.clone()
    }

    /// A log write begins.
    pub fn begin_write(&mut self, write: wal::Write) {
        assert!(self.in_flight.is_none(), "one log write at a time");
        let exists = self.segments.contains_key(&write.segment);
        assert_eq!(exists, !write.create, "a segment is created once, and before it is written to");
        self.in_flight = Some(write);
    }

    /// The log write on its way is done, and durable if it asked for that.
    pub fn finish_write(&mut self) {
        let write = self.in_flight.take().expect("a log write is on its way");
        let segment = self.segments.entry(write.segment).or_default();
        segment.unsynced.push((write.offset as usize, write.bytes));
        // A new segment gets its name when its head is durable.
        if write.sync && (write.create || self.plant != Some(Plant::SkippedSync)) {
            segment.durable = segment.live();
            segment.unsynced.clear();
        }
    }

    /// Segments are deleted.
    pub fn release(&mut self, names: &[SegmentName]) {
        names.iter().for_each(|name| drop(self.segments.remove(name)));
    }

    /// The segments as the process reads them.
    pub fn log(&self) -> Vec<(SegmentName, Vec<u8>)> {
        self.segments.iter().map(|(&name, segment)| (name, segment.live())).collect()
    }

    /// Fills the last segment with zeros from `offset` on, durably, as a restart does before it writes again.
    pub fn zero_tail(&mut self, offset: u64) {
        let (_, segment) = self.segments.iter_mut().next_back().expect("a log with a tail");
        segment.durable = segment.live();
        segment.unsynced.clear();
        let offset = (offset as usize).min(segment.durable.len());
        segment.durable[offset..].fill(0);
    }

    /// The process is gone, and with `power` so is the page cache.
    pub fn crash(&mut self, power: bool) {
        if let Some(write) = self.in_flight.take() {
            if write.create {
                // The rename has reached the disk, or not.
                if self.prng.chance(1, 2) {
                    self.segments.insert(write.segment, Segment { durable: write.bytes, unsynced: vec![] });
                }
            } else {
                let segment = self.segments.get_mut(&write.segment).expect("a segment that was created");
                let mut landed = segment.live();
                write_torn(&mut landed, write.offset as usize, &write.bytes, &mut self.prng);
                segment.unsynced.push((0, landed));
            }
        }
        if power {
            for segment in self.segments.values_mut() {
                for (at, bytes) in std::mem::take(&mut segment.unsynced) {
                    write_torn(&mut segment.durable, at, &bytes, &mut self.prng);
                }
            }
        }
        self.store = Arc::new(self.store.crash(power, &mut self.prng));
    }

    /// Flips a bit somewhere in the log, and says where. None if there is nothing to spoil.
    pub fn rot_log(&mut self) -> Option<String> {
        let count = self.segments.len() as u64;
        let at = self.prng.below(count.max(1)) as usize;
        let (name, segment) = self.segments.iter_mut().nth(at)?;
        segment.durable = segment.live();
        segment.unsynced.clear();
        let used = segment.durable.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return None;
        }
        let byte = self.prng.below(used as u64) as usize;
        let before = segment.durable[byte];
        segment.durable[byte] ^= 1 << self.prng.below(8);
        Some(format!("byte {byte} of {name} was {before:x} and is {:x}, {used} used", segment.durable[byte]))
    }

    /// Flips a bit somewhere in the store file, and says where. None if there is nothing to spoil.
    pub fn rot_store(&mut self) -> Option<String> {
        self.store.rot(&mut self.prng)
    }
}

enum Op {
    Write { first: u32, bytes: Vec<u8> },
    Resize { pages: u32 },
    Sync,
}

#[derive(Default)]
struct Inner {
    /// What reads see.
    live: Vec<u8>,
    /// What everything but `ops` has left on the disk.
    durable: Vec<u8>,
    /// What was done since, in order.
    ops: Vec<Op>,
    /// The first of `ops` that is still under way. Those before it are in the page cache.
    under_way: usize,
    /// Writes that will fail from now on.
    fail_writes: bool,
}

/// The store file.
pub struct StoreFile {
    plant: Option<Plant>,
    inner: Mutex<Inner>,
}

impl StoreFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint, or a start, took its time and is done: what it synced is safe.
    pub fn settle(&self) {
        let inner = &mut *self.inner();
        let synced = synced(&inner.ops);
        for op in inner.ops.drain(..synced) {
            op.perform(&mut inner.durable);
        }
        inner.under_way = inner.ops.len();
    }

    /// No room on the disk, or room again.
    pub fn set_full(&self, full: bool) {
        self.inner().fail_writes = full;
    }

    /// What the next process finds: the checkpoint under way stopped anywhere.
    fn crash(&self, power: bool, prng: &mut Prng) -> StoreFile {
        let inner = &mut *self.inner();
        let rest = inner.ops.len() - inner.under_way;
        inner.ops.truncate(inner.under_way + prng.below(rest as u64 + 1) as usize);
        let synced = synced(&inner.ops);
        let mut durable = std::mem::take(&mut inner.durable);
        inner.ops.drain(..synced).for_each(|op| op.perform(&mut durable));
        let mut ops = std::mem::take(&mut inner.ops);
        if power {
            // The journal keeps changes of length in order, and may have lost the last of them.
            let mut resizes = true;
            for op in ops.drain(..) {
                match op {
                    Op::Write { first, bytes } => {
                        let length = durable.len();
                        write_torn(&mut durable, first as usize * PAGE_SIZE, &bytes, prng);
                        // Behind a length that was lost there is nothing.
                        durable.truncate(length);
                    }
                    Op::Resize { .. } => {
                        resizes &= prng.chance(7, 8);
                        if resizes {
                            op.perform(&mut durable);
                        }
                    }
                    Op::Sync => {}
                }
            }
        }
        let mut live = durable.clone();
        ops.iter().for_each(|op| op.perform(&mut live));
        let inner = Inner { live, durable, under_way: ops.len(), ops, fail_writes: false };
        StoreFile { plant: self.plant, inner: Mutex::new(inner) }
    }

    fn rot(&self, prng: &mut Prng) -> Option<String> {
        let inner = &mut *self.inner();
        if inner.live.is_empty() {
            return None;
        }
        let byte = prng.below(inner.live.len() as u64) as usize;
        inner.live[byte] ^= 1 << prng.below(8);
        Some(format!("byte {} of page {}", byte % PAGE_SIZE, byte / PAGE_SIZE))
    }
}

impl Op {
    fn perform(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { first, bytes } => write_at(file, *first as usize * PAGE_SIZE, bytes),
            Self::Resize { pages } => file.resize(*pages as usize * PAGE_SIZE, 0),
            Self::Sync => {}
        }
    }

    fn is_meta(&self) -> bool {
        matches!(self, Self::Write { first: 0 | 1, .. })
    }
}

/// How many of the first of `ops` a sync has made safe.
fn synced(ops: &[Op]) -> usize {
    ops.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1)
}

impl PageFile for StoreFile {
    fn name(&self) -> String {
        "the simulated store file".into()
    }

    fn pages(&self) -> u32 {
        (self.inner().live.len() / PAGE_SIZE) as u32
    }

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        let at = first as usize * PAGE_SIZE;
        let inner = self.inner();
        into.copy_from_slice(inner.live.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
        let inner = &mut *self.inner();
        if inner.fail_writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let at = first as usize * PAGE_SIZE;
        inner.live.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        inner.ops.push(Op::Write { first, bytes: bytes.to_vec() });
        Ok(())
    }

    fn resize(&self, pages: u32) -> io::Result<()> {
        let inner = &mut *self.inner();
        if inner.fail_writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.live.resize(pages as usize * PAGE_SIZE, 0);
        inner.ops.push(Op::Resize { pages });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let ops = &mut self.inner().ops;
        let lies = match self.plant {
            Some(Plant::SkippedStoreSync) => true,
            Some(Plant::MetaBeforePages) => ops.last().is_some_and(|op| !op.is_meta()),
            _ => false,
        };
        if !lies {
            ops.push(Op::Sync);
        }
        Ok(())
    }
}
