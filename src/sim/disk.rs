//! A disk that keeps no promise it did not make.
//!
//! What is written can be read back at once, as from a page cache. What survives a crash is everything a sync
//! covered, and of the rest a random set of sectors: writes are torn and reordered. When only the process dies, the
//! page cache stays, and the next process finds what was written, synced or not. Bytes can rot. A failed write or sync
//! of the log ends the process, so it is a crash to which the disk adds its own. The directory of the log is in
//! [`log_disk`](super::log_disk).
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::judge::judge;
use super::log_disk::{By, LogDisk};
use super::plant::Plant;
use kevel::page::{PAGE_SIZE, PageFile};
use kevel::stdx::prng::Prng;
use kevel::wal::folder::{Content as _, Folder as _, LogFile, adopt};
use kevel::wal::{self, SegmentName};

/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Writes, and makes the file longer where it has to be.
pub fn write_at(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes each sector, or not.
pub fn write_torn(file: &mut Vec<u8>, at: usize, bytes: &[u8], prng: &mut Prng) {
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
    folder: LogDisk,
    /// The log write on its way, and the prepared file that it is the head of a segment for.
    in_flight: Option<(wal::Write, Option<LogFile>)>,
    store: Arc<StoreFile>,
    /// The file that a snapshot of the leader becomes a store in.
    next: Option<Arc<StoreFile>>,
    /// The store file before another one has got its name, as long as that is not durable.
    replaced: Option<Arc<StoreFile>>,
    prng: Prng,
    plant: Option<Plant>,
}

impl Disk {
    /// An empty disk.
    pub fn new(prng: Prng, plant: Option<Plant>) -> Self {
        let store = Arc::new(StoreFile { plant, inner: Mutex::default() });
        let folder = LogDisk::new(plant);
        Self { folder, in_flight: None, store, next: None, replaced: None, prng, plant }
    }

    /// The store file, as the process has it open.
    pub fn store_file(&self) -> Arc<StoreFile> {
        self.store.clone()
    }

    /// An empty file for the store of a snapshot. What an earlier one has left there is gone.
    pub fn begin_next(&mut self) -> Arc<StoreFile> {
        let next = Arc::new(StoreFile { plant: self.plant, inner: Mutex::default() });
        self.next = Some(next.clone());
        next
    }

    /// The store of a snapshot is whole, and durable.
    pub fn settle_next(&self) {
        if let Some(next) = &self.next {
            next.settle();
        }
    }

    /// The store of a snapshot is not wanted.
    pub fn remove_next(&mut self) {
        self.next = None;
    }

    /// The store of a snapshot gets the name of the store file, which is not durable yet.
    pub fn place_next(&mut self) {
        judge!(self.next.is_some(), "the store of a snapshot is gone before it is placed");
        if let Some(next) = self.next.take() {
            self.replaced = Some(std::mem::replace(&mut self.store, next));
        }
    }

    /// What the store file is called is durable.
    pub fn settle_name(&mut self) {
        self.replaced = None;
    }

    /// The directory of the log, for somebody who works on it.
    pub fn folder(&self, by: By) -> &LogDisk {
        self.folder.as_of(by)
    }

    /// A log write begins; where it creates a segment, in a prepared file.
    pub fn begin_write(&mut self, write: wal::Write, prepared: Option<LogFile>) {
        assert!(self.in_flight.is_none(), "one log write at a time");
        assert_eq!(
            prepared.is_some(),
            write.create,
            "a segment is created once, and before it is written to"
        );
        self.in_flight = Some((write, prepared));
    }

    /// The log write on its way is done, and durable if it asked for that.
    pub fn finish_write(&mut self) {
        let (write, prepared) = self.in_flight.take().expect("a log write is on its way");
        self.write(&write, prepared);
        self.folder.told(By::Writer);
    }

    fn write(&self, write: &wal::Write, prepared: Option<LogFile>) {
        let folder = self.folder(By::Writer);
        let done = folder.open(prepared.unwrap_or(LogFile::Segment(write.segment)), false).and_then(|file| {
            file.write_at(&write.bytes, write.offset)?;
            // A new segment gets its name when its head is durable.
            if write.create || write.sync && self.plant != Some(Plant::SkippedSync) {
                file.sync()?;
            }
            prepared.map_or(Ok(()), |prepared| adopt(folder, prepared, write.segment))
        });
        judge!(done.is_ok(), "a log write to {}: {done:?}", write.segment);
    }

    /// The segments as the process reads them.
    pub fn log(&self) -> Vec<(SegmentName, Vec<u8>)> {
        self.folder.segments()
    }

    /// The segments behind the last gap: those before it are left from a deletion that a power cut has taken back in
    /// part.
    pub fn newest_log(&self) -> Vec<(SegmentName, Vec<u8>)> {
        let log = self.log();
        let gap = log.windows(2).rposition(|pair| pair[1].0.sequence != pair[0].0.sequence + 1);
        log.into_iter().skip(gap.map_or(0, |gap| gap + 1)).collect()
    }

    /// The process is gone, and with `power` so is the page cache.
    pub fn crash(&mut self, power: bool) {
        match self.in_flight.take() {
            Some((write, Some(prepared))) => {
                self.folder.set_room(None);
                self.write(&write, Some(prepared));
            }
            Some((write, None)) => self.tear(&write),
            None => {}
        }
        self.folder.crash(power, &mut self.prng);
        // The next start removes what is left of a snapshot.
        self.next = None;
        if let Some(replaced) = self.replaced.take()
            && power
            && self.prng.chance(1, 2)
        {
            self.store = replaced;
        }
        self.store = Arc::new(self.store.crash(power, &mut self.prng));
    }

    /// Some sectors of a write have landed.
    fn tear(&mut self, write: &wal::Write) {
        let folder = self.folder.as_of(By::Writer);
        let Ok(file) = folder.open(LogFile::Segment(write.segment), false) else { return };
        let (at, end) = (write.offset as usize, write.offset as usize + write.bytes.len());
        let mut landed = vec![0; (file.length().unwrap_or(0) as usize).min(end).saturating_sub(at)];
        let _ = file.read_at(&mut landed, write.offset);
        write_torn(&mut landed, 0, &write.bytes, &mut self.prng);
        let _ = file.write_at(&landed, write.offset);
        folder.told(By::Writer);
    }

    /// Flips a bit somewhere in the log, and says where. None if there is nothing to spoil.
    pub fn rot_log(&mut self) -> Option<String> {
        self.folder.rot(&mut self.prng)
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
