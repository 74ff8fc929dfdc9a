//! The directory of the log on a disk that keeps no promise it did not make.
//!
//! What is done to names and to contents can be seen at once, as in a page cache. A power cut keeps what was synced: a
//! content by its own sync, names by the directory's. Of the rest a power cut keeps any sectors, and any of the changes
//! of names. Those who work on the directory take their time: until one has been heard to be done ([`LogDisk::told`]),
//! a crash may come between any two of the things that it did.
#![forbid(unsafe_code)]

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::disk::{write_at, write_torn};
use super::plant::Plant;
use kevel::stdx::prng::Prng;
use kevel::wal::SegmentName;
use kevel::wal::folder::{Content, Folder, LogFile};
use kevel::wal::prepare::Sizes;

/// The sizes of prepared files, small enough for a simulation.
pub const SIZES: Sizes = Sizes { segment: 16 << 10, chunk: 4 << 10, synced: 8 << 10 };

/// Who works on the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A start.
    Start,
    /// The log's writer.
    Writer,
    /// The thread that prepares segments.
    Preparer,
}

/// What is done to the directory.
#[derive(Clone, Debug)]
enum Op {
    Create(LogFile, usize),
    Rename(LogFile, LogFile, usize),
    Remove(LogFile, usize),
    Write(usize, usize, Vec<u8>),
    SetLen(usize, usize),
    SyncContent(usize),
    SyncNames,
}

impl Op {
    fn is_of_names(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Rename(..) | Self::Remove(..))
    }

    fn content(&self) -> Option<usize> {
        if let Self::Write(content, ..) | Self::SetLen(content, _) = self { Some(*content) } else { None }
    }
}

struct Done {
    by: By,
    /// Whoever did it was heard to be done.
    told: bool,
    op: Op,
}

#[derive(Clone, Default)]
struct State {
    names: BTreeMap<LogFile, usize>,
    contents: BTreeMap<usize, Vec<u8>>,
}

impl State {
    fn perform(&mut self, op: &Op) {
        match op {
            Op::Create(file, content) => _ = self.names.insert(*file, *content),
            // What is lost before it takes nothing away from it: a name leads to a content.
            Op::Rename(from, to, content) => {
                self.unlink(from, *content);
                self.names.insert(*to, *content);
            }
            Op::Remove(file, content) => self.unlink(file, *content),
            Op::Write(content, at, bytes) => write_at(self.contents.entry(*content).or_default(), *at, bytes),
            Op::SetLen(content, len) => self.contents.entry(*content).or_default().resize(*len, 0),
            Op::SyncContent(_) | Op::SyncNames => {}
        }
    }

    fn unlink(&mut self, file: &LogFile, content: usize) {
        if self.names.get(file) == Some(&content) {
            self.names.remove(file);
        }
    }

    fn of(&self, content: usize) -> &[u8] {
        self.contents.get(&content).map_or(&[], Vec::as_slice)
    }
}

struct Inner {
    /// What everything but `done` has left on the disk.
    durable: State,
    /// What is to be seen.
    live: State,
    /// What was done and is not durable, in order.
    done: Vec<Done>,
    /// Who works now.
    by: By,
    contents: usize,
    /// Calls that need room and still find some; none while there is plenty.
    room: Option<u32>,
    plant: Option<Plant>,
}

/// The directory, for everybody who works on it.
#[derive(Clone)]
pub struct LogDisk(Rc<RefCell<Inner>>);

impl LogDisk {
    pub fn new(plant: Option<Plant>) -> Self {
        let (durable, live, done) = (State::default(), State::default(), vec![]);
        Self(Rc::new(RefCell::new(Inner {
            durable,
            live,
            done,
            by: By::Start,
            contents: 0,
            room: None,
            plant,
        })))
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// What is done from now on is done by somebody else.
    pub fn as_of(&self, by: By) -> &Self {
        self.inner().by = by;
        self
    }

    /// Somebody is done: what was synced is safe.
    pub fn told(&self, by: By) {
        let inner = &mut *self.inner();
        inner.done.iter_mut().filter(|done| done.by == by).for_each(|done| done.told = true);
        inner.keep_synced();
    }

    /// Room for so many more calls that need some; for any number with none.
    pub fn set_room(&self, room: Option<u32>) {
        self.inner().room = room;
    }

    /// The segments as the process reads them.
    pub fn segments(&self) -> Vec<(SegmentName, Vec<u8>)> {
        let inner = self.inner();
        let segment = |(file, content): (&LogFile, &usize)| match file {
            LogFile::Segment(name) => Some((*name, inner.live.of(*content).to_vec())),
            _ => None,
        };
        inner.live.names.iter().filter_map(segment).collect()
    }

    /// Whether a file reads as zeros.
    pub fn is_blank(&self, file: LogFile) -> bool {
        let inner = self.inner();
        inner
            .live
            .names
            .get(&file)
            .is_some_and(|&content| inner.live.of(content).iter().all(|&byte| byte == 0))
    }

    /// The process is gone, and with `power` so is the page cache.
    pub fn crash(&self, power: bool, prng: &mut Prng) {
        let inner = &mut *self.inner();
        for by in [By::Start, By::Writer, By::Preparer] {
            let is_untold = |done: &&Done| done.by == by && !done.told;
            let mut kept = prng.below(inner.done.iter().filter(is_untold).count() as u64 + 1);
            inner.done.retain(|done| {
                let stays = !is_untold(&done) || kept > 0;
                kept -= u64::from(is_untold(&done) && kept > 0);
                stays
            });
        }
        inner.done.iter_mut().for_each(|done| done.told = true);
        inner.keep_synced();
        if power {
            inner.lose(prng);
        }
        inner.live = inner.durable.clone();
        inner.done.iter().for_each(|done| inner.live.perform(&done.op));
        inner.forget();
        (inner.by, inner.room) = (By::Start, None);
    }

    /// Makes everything durable, and flips a bit of one segment. Says where; none if there is nothing to spoil.
    pub fn rot(&self, prng: &mut Prng) -> Option<String> {
        let inner = &mut *self.inner();
        inner.done.clear();
        inner.durable = inner.live.clone();
        let is_segment = |file: &&LogFile| matches!(file, LogFile::Segment(_));
        let count = inner.live.names.keys().filter(is_segment).count() as u64;
        let at = prng.below(count.max(1)) as usize;
        let file = *inner.live.names.keys().filter(is_segment).nth(at)?;
        let content = inner.live.contents.get_mut(&inner.live.names[&file])?;
        let used = content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return None;
        }
        let byte = prng.below(used as u64) as usize;
        let before = content[byte];
        content[byte] ^= 1 << prng.below(8);
        let place = format!("byte {byte} of {file} was {before:x} and is {:x}, {used} used", content[byte]);
        inner.durable = inner.live.clone();
        Some(place)
    }
}

impl Inner {
    fn perform(&mut self, op: Op) {
        self.live.perform(&op);
        self.done.push(Done { by: self.by, told: false, op });
    }

    /// What a sync covers, of which somebody was told, is durable.
    fn keep_synced(&mut self) {
        let mut contents: BTreeMap<usize, usize> = BTreeMap::new();
        let mut names = 0;
        for (at, done) in self.done.iter().enumerate().filter(|(_, done)| done.told) {
            match done.op {
                Op::SyncContent(content) => _ = contents.insert(content, at),
                Op::SyncNames => names = at,
                _ => {}
            }
        }
        let mut rest = Vec::with_capacity(self.done.len());
        for (at, done) in std::mem::take(&mut self.done).into_iter().enumerate() {
            let synced = done.told
                && match &done.op {
                    Op::SyncContent(_) | Op::SyncNames => true,
                    op if op.is_of_names() => at < names,
                    op => {
                        op.content().and_then(|content| contents.get(&content)).is_some_and(|&sync| at < sync)
                    }
                };
            if synced { self.durable.perform(&done.op) } else { rest.push(done) }
        }
        self.done = rest;
    }

    /// The page cache is gone.
    fn lose(&mut self, prng: &mut Prng) {
        // Often a journal has kept changes of names in order; nobody has promised that.
        let (in_order, mut goes_on, keep) = (prng.chance(1, 2), true, prng.below(9));
        for done in std::mem::take(&mut self.done) {
            match done.op {
                Op::Write(content, at, bytes) => {
                    write_torn(self.durable.contents.entry(content).or_default(), at, &bytes, prng);
                }
                op if op.is_of_names() => {
                    let stays = prng.chance(keep, 8) && (goes_on || !in_order);
                    goes_on = stays;
                    if stays {
                        self.durable.perform(&op);
                    }
                }
                op if prng.chance(keep, 8) => self.durable.perform(&op),
                _ => {}
            }
        }
    }

    /// Contents that no name leads to any more.
    fn forget(&mut self) {
        let names: Vec<usize> =
            self.live.names.values().chain(self.durable.names.values()).copied().collect();
        for state in [&mut self.live, &mut self.durable] {
            state.contents.retain(|content, _| names.contains(content));
        }
    }

    fn take_room(&mut self) -> io::Result<()> {
        match &mut self.room {
            // A start and the log's writer wait for room, or do without.
            _ if self.by != By::Preparer => Ok(()),
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(room) => {
                *room -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Folder for LogDisk {
    type File = LogContent;

    fn files(&self) -> io::Result<Vec<LogFile>> {
        Ok(self.inner().live.names.keys().copied().collect())
    }

    fn open(&self, file: LogFile, create: bool) -> io::Result<LogContent> {
        let inner = &mut *self.inner();
        let content = match inner.live.names.get(&file) {
            Some(&content) => content,
            None if create => {
                inner.take_room()?;
                inner.contents += 1;
                inner.perform(Op::Create(file, inner.contents));
                inner.contents
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(LogContent { disk: self.clone(), content })
    }

    fn rename(&self, from: LogFile, to: LogFile) -> io::Result<()> {
        let inner = &mut *self.inner();
        let content = *inner.live.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
        inner.perform(Op::Rename(from, to, content));
        Ok(())
    }

    fn remove(&self, file: LogFile) -> io::Result<()> {
        let inner = &mut *self.inner();
        let content = *inner.live.names.get(&file).ok_or(io::ErrorKind::NotFound)?;
        inner.perform(Op::Remove(file, content));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let inner = &mut *self.inner();
        let lies = match inner.plant {
            Some(Plant::NameNotSynced) => inner.by == By::Writer,
            Some(Plant::StartNamesUnsynced) => inner.by == By::Start,
            _ => false,
        };
        if !lies {
            inner.perform(Op::SyncNames);
        }
        Ok(())
    }
}

/// An open file.
pub struct LogContent {
    disk: LogDisk,
    content: usize,
}

impl Content for LogContent {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.inner().live.of(self.content).len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let (inner, at) = (self.disk.inner(), at as usize);
        let bytes = inner.live.of(self.content).get(at..at + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let inner = &mut *self.disk.inner();
        let at = at as usize;
        let length = inner.live.of(self.content).len();
        if length < at + bytes.len() {
            inner.take_room()?;
        } else if inner.plant == Some(Plant::RecycledUnzeroed) && inner.by == By::Preparer {
            return Ok(());
        }
        inner.perform(Op::Write(self.content, at, bytes.to_vec()));
        Ok(())
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<bool> {
        let inner = &mut *self.disk.inner();
        let end = (from + bytes) as usize;
        if inner.live.of(self.content).len() < end {
            inner.take_room()?;
            inner.perform(Op::SetLen(self.content, end));
        }
        Ok(true)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.inner().perform(Op::SetLen(self.content, bytes as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.inner().perform(Op::SyncContent(self.content));
        Ok(())
    }
}
