//! Checkpoints: how the published state gets into the file.
//!
//! ```text
//! replica core    begin ─► job ─┐                                ┌─► finish: copies dropped, held pages released
//! checkpointer                  └─ pages ─ sync ─ meta ─ sync ───┘
//! ```
//!
//! The pages go to places that the checkpoint before has no use for, so until the meta page is written the file is
//! the old checkpoint, and the write of that one sector makes it the new one. The first sync keeps the disk from
//! doing the second before the first.
//!
//! A start syncs what it found: when only the process dies, a meta page can be in the page cache and not on the disk.
//! Then it writes a meta page of its own, with a generation that no process before can have reached: pages of a
//! checkpoint that was not finished lie about in the file, and a later page at the same place must not be taken for one
//! of them when the disk has lost its write.
//!
//! The world's errors come back from [`CheckpointJob::execute`]. Before the first sync was tried, the job can be
//! executed again as it is (a full disk, say, once there is room). After a sync has failed nobody knows what the
//! disk holds, also if a second one succeeds: the process has to end, and start again from what it finds.
#![forbid(unsafe_code)]

use super::extents::Extent;
use super::file::PageFile;
use super::layout::{self, HEADER, Kind, PAGE_SIZE, PageId, RunRef, run_pages};
use super::meta::{Meta, State};
use super::pager::Pager;
use super::set::PageSet;
use super::table::FrozenPages;
use crate::stdx::sync::{Arc, AtomicBool, Ordering};
use std::fmt;
use std::io;

/// Bytes written with one call.
const WRITE_BYTES_MAX: usize = 512 << 10;

/// A checkpoint that has begun and not been finished.
pub(super) struct Running {
    pub(super) generation: u64,
    frozen: Arc<FrozenPages>,
    meta: Meta,
    /// Freed before it began: the checkpoint before has them, this one has not.
    releasing: Vec<Extent>,
}

impl Running {
    /// How many pages it releases at its end.
    pub(super) fn releasing_pages(&self) -> u64 {
        self.releasing.iter().map(|extent| u64::from(extent.pages)).sum()
    }

    /// Pages that this checkpoint has taken out of the tree's reach: its own bitmap, and what it releases at its end.
    /// The bitmap of the checkpoint before is among the latter.
    pub(super) fn pages_apart(&self, mut tell: impl FnMut(PageId, u32)) {
        for extent in &self.releasing {
            tell(extent.id, extent.pages);
        }
        if let Some(run) = self.meta.free {
            tell(run.id, run.pages());
        }
    }
}

/// What has to be done to the file. Any thread may execute it; the writer goes on meanwhile.
pub struct CheckpointJob {
    frozen: Arc<FrozenPages>,
    /// Pages that the file has to have.
    page_count: u32,
    /// The state that the pages are of.
    state: State,
    end: End,
}

/// What follows the pages.
enum End {
    /// The bitmap of free pages, sealed, and the meta page.
    Checkpoint { free: (PageId, Vec<u8>), meta: Box<Meta> },
    /// Nothing: the pages are of a draft, and are durable with the next checkpoint. True once they are written.
    Spill(Arc<AtomicBool>),
}

/// What went wrong with a job.
#[derive(Debug)]
pub enum CheckpointError {
    /// Nothing is lost: execute the job again when there is hope. A spill has ended; its pages stay in memory.
    Write(io::Error),
    /// What the disk holds is unknown: end the process.
    Sync(io::Error),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => write!(f, "writing the store file: {error}"),
            Self::Sync(error) => write!(f, "syncing the store file: {error}"),
        }
    }
}

impl std::error::Error for CheckpointError {}

impl CheckpointJob {
    /// Writes pages of a draft that has come to `state`.
    pub(super) fn spill(
        frozen: Arc<FrozenPages>,
        page_count: u32,
        state: State,
        written: Arc<AtomicBool>,
    ) -> Self {
        Self { frozen, page_count, state, end: End::Spill(written) }
    }

    /// Whether the pages are of a draft: then nothing is durable when they are written, and a disk that refuses them is
    /// no error.
    pub fn is_spill(&self) -> bool {
        matches!(self.end, End::Spill(_))
    }

    /// What [`finish_checkpoint`](crate::btree::Store::finish_checkpoint) wants to hear when it is done.
    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// Raft index that the file will hold, everything up to it.
    pub fn applied_index(&self) -> u64 {
        self.state.applied.index
    }

    /// Bytes it writes.
    pub fn bytes(&self) -> u64 {
        let end = match &self.end {
            End::Checkpoint { free, .. } => PAGE_SIZE + free.1.len(),
            End::Spill(_) => 0,
        };
        self.frozen.pages() * PAGE_SIZE as u64 + end as u64
    }

    /// Writes everything into the file the store was opened on.
    pub fn execute(&self) -> Result<(), CheckpointError> {
        self.execute_on(&**self.frozen.file())
    }

    /// Writes everything into `file`.
    pub fn execute_on(&self, file: &dyn PageFile) -> Result<(), CheckpointError> {
        let written = self.write_pages(file);
        let meta = match &self.end {
            End::Checkpoint { meta, .. } => meta,
            End::Spill(is_written) => {
                is_written.store(written.is_ok(), Ordering::Release);
                return written.map_err(CheckpointError::Write);
            }
        };
        written.map_err(CheckpointError::Write)?;
        file.sync().map_err(CheckpointError::Sync)?;
        let slot = meta.slot();
        // A torn meta page is as unknown as a failed sync: the slot's old content is gone.
        file.write(slot.0, &meta.encode(slot)[..]).map_err(CheckpointError::Sync)?;
        file.sync().map_err(CheckpointError::Sync)?;
        // What lies behind is free in both meta pages. If it cannot be cut off now, the next checkpoint will.
        if file.pages() > self.page_count {
            let _ = file.resize(self.page_count);
        }
        Ok(())
    }

    fn write_pages(&self, file: &dyn PageFile) -> io::Result<()> {
        if file.pages() < self.page_count {
            file.resize(self.page_count)?;
        }
        let mut batch = Batch { file, first: 0, bytes: Vec::new() };
        for (id, bytes) in self.frozen.iter() {
            batch.add(id, bytes, true)?;
        }
        if let End::Checkpoint { free: (id, bitmap), .. } = &self.end {
            batch.add(*id, bitmap, false)?;
        }
        batch.flush()
    }
}

/// Neighbouring pages on their way to one write. Pages are sealed in this copy, since readers look at the originals.
struct Batch<'f> {
    file: &'f dyn PageFile,
    first: u32,
    bytes: Vec<u8>,
}

impl Batch<'_> {
    fn add(&mut self, id: PageId, bytes: &[u8], seal: bool) -> io::Result<()> {
        let end = self.first as usize + self.bytes.len() / PAGE_SIZE;
        if end != id.index() || self.bytes.len() + bytes.len() > WRITE_BYTES_MAX {
            self.flush()?;
            self.first = id.0;
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if seal {
            let page = &mut self.bytes[at..];
            assert_eq!(layout::id(page), id, "a page goes where it says it is");
            layout::seal(page);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            self.file.write(self.first, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Pager {
    /// Freezes the published state. None if one is under way, or nothing has changed since the last and the file would
    /// not become shorter either.
    pub(crate) fn begin_checkpoint(&mut self) -> Option<CheckpointJob> {
        self.reclaim();
        if self.running.is_some() || !(self.changed || self.shortens()) {
            return None;
        }
        self.page_count = self.free.trim_tail(self.page_count);
        // The bitmap has no place in the tree, so the one of the last checkpoint is freed here.
        if let Some(run) = self.free_run {
            self.held.push(Extent { id: run.id, pages: run.pages() });
            self.leaving_pages += u64::from(run.pages());
        }
        let (run, bytes) = self.make_free_list();
        let meta = Meta {
            state: self.published,
            sequence: self.sequence + 1,
            page_count: self.page_count,
            free: Some(run),
            owner: self.owner,
        };
        let frozen = self.freeze_dirty();
        self.changed = false;
        self.running = Some(Running {
            generation: meta.state.generation,
            frozen: frozen.clone(),
            meta,
            releasing: std::mem::take(&mut self.held),
        });
        let end = End::Checkpoint { free: (run.id, bytes), meta: Box::new(meta) };
        Some(CheckpointJob { frozen, page_count: meta.page_count, state: meta.state, end })
    }

    /// Whether a checkpoint of the state that is durable already makes the file shorter, or lets the one after it do
    /// so: the file's end is free, or is the last checkpoint's bitmap while there is room for one before it.
    fn shortens(&self) -> bool {
        let end = PageId(self.page_count - 1);
        let bitmap = self.free_run.filter(|run| run.id.0 + run.pages() == self.page_count);
        self.free.contains(end) || bitmap.is_some_and(|run| self.free.len() > 2 * run.pages())
    }

    /// The bitmap of pages that the published state does not reach, and its place.
    fn make_free_list(&mut self) -> (RunRef, Vec<u8>) {
        // Its own pages may lie at the end, and then count.
        let end_max = self.page_count + run_pages(PageSet::encoded_len(self.page_count)) + 1;
        let pages = run_pages(PageSet::encoded_len(end_max));
        let id = self.take_unpublished(pages);
        let bytes = PageSet::encoded_len(self.page_count);
        assert!(run_pages(bytes) <= pages);
        if run_pages(bytes) < pages {
            self.free.insert(PageId(id.0 + pages - 1));
        }
        let run = RunRef { id, bytes: bytes as u32, born: self.published.generation };
        let mut content = vec![0; run.pages() as usize * PAGE_SIZE];
        layout::set_header(&mut content, id, run.born, Kind::Run);
        layout::set_run_bytes(&mut content, run.bytes);
        self.unreachable().encode(self.page_count, &mut content[HEADER..HEADER + bytes]);
        layout::seal(&mut content);
        (run, content)
    }

    /// Hears that the job of this generation has been executed.
    pub(crate) fn finish_checkpoint(&mut self, generation: u64) {
        let running = self.running.take().expect("a checkpoint is under way");
        assert_eq!(running.generation, generation, "another checkpoint is under way");
        self.durable = generation;
        self.sequence = running.meta.sequence;
        self.free_run = running.meta.free;
        self.drop_copies(running.frozen);
        self.release(running.releasing);
        // A generation of its own, so that readers who may still look at the copies can be told from later ones.
        self.publish();
        self.reclaim();
    }

    /// Pages in memory that the checkpoint under way writes.
    pub(super) fn running_pages(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.frozen.pages())
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::check;
    use super::super::file::MemoryFile;
    use super::*;
    use crate::btree::{Read, Store, Tree};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc as FileArc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A disk that acknowledges writes behind the meta pages and loses them, while told to.
    #[derive(Default)]
    struct LosingFile {
        file: MemoryFile,
        loses: AtomicBool,
    }

    impl PageFile for LosingFile {
        fn name(&self) -> String {
            self.file.name()
        }

        fn pages(&self) -> u32 {
            self.file.pages()
        }

        fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
            self.file.read(first, into)
        }

        fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
            if first > 1 && self.loses.load(Ordering::Relaxed) {
                // The bitmap of free pages comes last, and is read at once when the store is opened.
                let kept = bytes.len() - PAGE_SIZE;
                let bitmap = first + (kept / PAGE_SIZE) as u32;
                return self.file.write(bitmap, &bytes[kept..]);
            }
            self.file.write(first, bytes)
        }

        fn resize(&self, pages: u32) -> io::Result<()> {
            self.file.resize(pages)
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put(store: &mut Store, value: &[u8]) {
        let mut txn = store.write();
        txn.put(Tree::Kv, b"key", value);
        txn.commit();
    }

    #[test]
    fn a_lost_write_is_found_where_an_interrupted_checkpoint_left_a_page() {
        let file = FileArc::new(LosingFile::default());
        let mut store = Store::open(file.clone()).unwrap();
        put(&mut store, b"before");
        let job = store.begin_checkpoint().unwrap();
        // The process ends before the meta page is written: the pages lie in the file, and nothing refers to them.
        job.write_pages(&*file).unwrap();
        drop((job, store));

        let mut store = Store::open(file.clone()).unwrap();
        put(&mut store, b"after");
        file.loses.store(true, Ordering::Relaxed);
        store.begin_checkpoint().unwrap().execute().unwrap();
        drop(store);

        let store = Store::open(file.clone()).unwrap();
        let read = || store.readers().register().snapshot().get(Tree::Kv, b"key").map(<[u8]>::to_vec);
        let said = catch_unwind(AssertUnwindSafe(read)).expect_err("an older page was served");
        let said = said.downcast_ref::<String>().unwrap();
        assert!(said.contains("is of generation") && said.contains("copy of the data directory"), "{said}");
    }

    #[test]
    fn pages_that_a_checkpoint_frees_or_a_reader_holds_are_free_in_the_file() {
        let file = FileArc::new(MemoryFile::default());
        let mut store = Store::open(file.clone()).unwrap();
        let mut reader = store.readers().register();
        for round in 0..3 {
            put(&mut store, &[round; 3 * PAGE_SIZE]);
            let snapshot = reader.snapshot();
            (10..14).for_each(|value| put(&mut store, &[value; 3 * PAGE_SIZE]));
            let job = store.begin_checkpoint().unwrap();
            job.execute().unwrap();
            let report = check(&*file, Tree::NAMES).unwrap();
            assert!(report.is_sound(), "round {round}: {report}");
            store.finish_checkpoint(job.generation());
            drop(snapshot);
        }
    }

    #[test]
    fn turns_that_write_much_take_back_the_memory_of_checkpoints_as_fast() {
        const TURN_PAGES: u64 = 2048;
        let mut pager = Pager::open(FileArc::new(MemoryFile::default())).unwrap();
        let mut pages = 0;
        for _ in 0..20 {
            // Each turn keeps what it wrote, as new keys do.
            (0..TURN_PAGES).for_each(|_| _ = pager.make(Kind::Leaf));
            pager.commit();
            let job = pager.begin_checkpoint().unwrap();
            job.execute().unwrap();
            pager.finish_checkpoint(job.generation());
            pages = pages.max(pager.finished_pages());
        }
        assert!(pages < 3 * TURN_PAGES, "{pages} pages have memory and need none");
    }

    #[test]
    fn a_full_disk_costs_nothing_but_another_attempt() {
        let file = FileArc::new(super::super::hostile::HostileFile::default());
        let mut store = Store::open(file.clone()).unwrap();
        put(&mut store, b"value");
        let job = store.begin_checkpoint().unwrap();
        for calls in 0..2 {
            file.fail_after(Some(calls));
            assert!(matches!(job.execute(), Err(CheckpointError::Write(_))), "after {calls} calls");
        }
        file.fail_after(None);
        job.execute().unwrap();
        store.finish_checkpoint(job.generation());
        assert!(store.begin_checkpoint().is_none(), "nothing has changed since");
    }
}
