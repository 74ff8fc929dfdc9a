//! A disk that keeps no promise it did not make.
//!
//! What is written can be read back at once, as from a page cache. What survives a crash is everything a sync
//! covered, and of the rest a random set of sectors: writes are torn and reordered. Bytes can rot. A failed write or
//! sync of the log ends the process, so it is a crash to which the disk adds its own.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Says that a sync is done and does nothing.
    pub lies: bool,
}

impl Disk {
    /// An empty disk.
    pub fn new(prng: Prng) -> Self {
        let store = Arc::new(StoreFile::default());
        Self { segments: BTreeMap::new(), in_flight: None, store, prng, lies: false }
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
        if write.sync && (write.create || !self.lies) {
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
    /// Writes that will fail from now on.
    fail_writes: bool,
}

/// The store file.
#[derive(Default)]
pub struct StoreFile {
    inner: Mutex<Inner>,
}

impl StoreFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint took its time and is done: what it synced is safe.
    pub fn settle(&self) {
        let inner = &mut *self.inner();
        let synced = inner.ops.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
        for op in inner.ops.drain(..synced) {
            perform(&mut inner.durable, &op, write_at);
        }
    }

    /// No room on the disk, or room again.
    pub fn set_full(&self, full: bool) {
        self.inner().fail_writes = full;
    }

    /// What the next process finds: the checkpoint under way stopped anywhere.
    fn crash(&self, power: bool, prng: &mut Prng) -> StoreFile {
        let inner = &mut *self.inner();
        let cut = prng.below(inner.ops.len() as u64 + 1) as usize;
        let synced = inner.ops[..cut].iter().rposition(|op| matches!(op, Op::Sync)).unwrap_or(0);
        let mut file = std::mem::take(&mut inner.durable);
        for (number, op) in inner.ops[..cut].iter().enumerate() {
            perform(&mut file, op, |file, at, bytes| match power && number >= synced {
                true => write_torn(file, at, bytes, prng),
                false => write_at(file, at, bytes),
            });
        }
        file.truncate(file.len() / PAGE_SIZE * PAGE_SIZE);
        let inner = Inner { live: file.clone(), durable: file, ..Inner::default() };
        StoreFile { inner: Mutex::new(inner) }
    }

    fn rot(&self, prng: &mut Prng) -> Option<String> {
        let inner = &mut *self.inner();
        if inner.durable.is_empty() {
            return None;
        }
        let byte = prng.below(inner.durable.len() as u64) as usize;
        let bit = 1 << prng.below(8);
        inner.durable[byte] ^= bit;
        if let Some(byte) = inner.live.get_mut(byte) {
            *byte ^= bit;
        }
        Some(format!("byte {} of page {}", byte % PAGE_SIZE, byte / PAGE_SIZE))
    }
}

fn perform(file: &mut Vec<u8>, op: &Op, write: impl FnOnce(&mut Vec<u8>, usize, &[u8])) {
    match op {
        Op::Write { first, bytes } => write(file, *first as usize * PAGE_SIZE, bytes),
        Op::Resize { pages } => file.resize(*pages as usize * PAGE_SIZE, 0),
        Op::Sync => {}
    }
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
        self.inner().ops.push(Op::Sync);
        Ok(())
    }
}
