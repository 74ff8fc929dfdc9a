//! The writer's side of pages: makes them, copies them, gives them back, and publishes the result of each turn.
//!
//! The life of a page is the interval [born, freed) of generations in which it can be reached. Its id and memory are
//! used again when nothing looks into that interval:
//!
//! ```text
//!                 taken and given back in one turn ─────────────────────────────► free
//! free() ──commit─┤ born after the newest checkpoint ────────────► limbo ──pins──► free
//!                 └ a checkpoint, durable or under way, has it ─► held ──finish──► limbo
//! ```
//!
//! - *limbo*: a reader pinned before the page was freed may look at it; waits until the oldest pin is past that.
//! - *held*: the checkpoint that a restart would begin from has the page; waits until a later one is durable.
//!
//! So a page born and freed between two checkpoints never reaches the disk, and steady overwrites do not grow the file.
//! The exception are pages of a draft that takes much memory: they go to the file early ([`spill`](super::spill)).
//!
//! One pager per store, on the replica core. What it does depends on calls and pins alone, so a seed repeats it.
#![allow(unsafe_code)]

use super::checkpoint::Running;
use super::extents::{Extent, ExtentSet};
use super::file::PageFile;
use super::layout::{self, HEADER, Kind, PAGE_SIZE, Page, PageId, PageRef, RunRef};
use super::meta::{self, OpenError, Owner, State};
use super::node::{Node, Value};
use super::readers::{PinWatch, Pins};
use super::set::PageSet;
use super::spill::Spilling;
use super::table::{Birth, Frame, FrozenPages, PAGES_MAX, Table, View, verify};
use crate::error::RECOVERY;
use crate::stdx::sync::Arc;
use std::collections::VecDeque;
use std::sync::Arc as FileArc;

/// Page buffers kept for the next turns, as many as a checkpoint's worth: memory fresh from the system costs more
/// than what is done with it. Those that lie idle are given back by and by ([`Pager::tidy`]).
const POOL_PAGES_MAX: usize = 64 << 20 >> 12;

/// A pool of this many pages is kept even when idle.
const POOL_PAGES_IDLE: usize = 256;

/// Ids that one turn reclaims at least, if there are as many.
const RECLAIMED_PER_TURN: usize = 512;

/// Pages of a finished checkpoint whose memory one turn takes back at least.
const FINISHED_PAGES_PER_TURN: u64 = 512;

/// And so many for each page that the turn has made. With more than one, the memory of dirty and of finished pages
/// together does not grow while there are finished ones, however much each turn writes.
const FINISHED_PAGES_PER_BIRTH: u64 = 2;

/// Counts of pages.
pub(crate) struct Sizes {
    /// In use or free. The file is longer by what was allocated ahead.
    pub(crate) total: u64,
    pub(crate) free: u64,
    /// Reached from the published state, or taken by the turn under way.
    pub(crate) used: u64,
    /// Freed, and not free yet: a checkpoint or a reader may still want them.
    pub(crate) leaving: u64,
    /// In memory, and in no durable checkpoint.
    pub(crate) dirty: u64,
}

/// What waits for readers.
enum Limbo {
    /// An id, and the bytes it still leads to.
    Pages(Extent),
    /// Memory that no id leads to any more.
    Memory(Frame),
}

/// The pager.
pub(crate) struct Pager {
    pub(super) table: Arc<Table>,
    pub(super) pins: PinWatch,
    /// What readers see.
    pub(super) published: State,
    /// What the turn under way has made of it.
    pub(crate) draft: State,

    /// Pages in use or free: ids from here on were never given out.
    pub(super) page_count: u32,
    /// Ids that can be given out.
    pub(super) free: PageSet,
    /// What was born since the last checkpoint began, published, not freed again, and is in memory alone.
    dirty: ExtentSet,
    /// What was born since the last checkpoint began, not freed again, and is in the file: of published turns, and of
    /// the draft.
    pub(super) spilled: ExtentSet,
    /// All of the draft that is or was in `spilled`.
    pub(super) draft_spilled: Vec<Extent>,
    pub(super) spilling: Option<Spilling>,
    /// Freed since the last checkpoint began, but it has them.
    pub(super) held: Vec<Extent>,
    /// Ordered by the generation in which they were freed.
    limbo: VecDeque<(u64, Limbo)>,
    /// Pages in `held`, in `limbo`, and in what the running checkpoint releases.
    pub(super) leaving_pages: u64,
    /// Memory of finished checkpoints: likewise, and until their jobs are gone.
    finished: VecDeque<(u64, Arc<FrozenPages>)>,

    /// Generation of the newest durable checkpoint.
    pub(super) durable: u64,
    pub(super) sequence: u64,
    /// Where that checkpoint's bitmap of free pages is.
    pub(super) free_run: Option<RunRef>,
    /// Whose store it is, for the checkpoints to come.
    pub(crate) owner: Option<Owner>,
    pub(super) running: Option<Running>,
    /// Something was published that no checkpoint has.
    pub(super) changed: bool,

    /// Everything this turn has taken, given back or not, but for what was spilled.
    pub(super) fresh: Vec<Extent>,
    /// Pages in `fresh`.
    pub(super) fresh_pages: u64,
    /// What this turn has freed of earlier turns' pages, with the generation of birth.
    freed: Vec<(Extent, u64)>,
    /// Single pages that this turn took and gave back, to be taken again.
    spare: Vec<PageId>,
    pool: Vec<Frame>,
    /// The least there was in the pool since it was tidied.
    pool_low: usize,
}

impl Pager {
    /// Opens a store file, or makes an empty file one.
    pub(crate) fn open(file: FileArc<dyn PageFile>) -> Result<Self, OpenError> {
        let meta = match meta::read(&*file)? {
            Some(meta) => meta,
            None => meta::create(&*file)?,
        };
        let free = read_free(&*file, &meta)?;
        check_extent(&*file, &meta, &free)?;
        let meta = meta::begin_life(&*file, meta)?;
        let table = Arc::new(Table::new(file));
        let mut pager = Self {
            pins: PinWatch::new(Arc::new(Pins::default())),
            published: meta.state,
            draft: meta.state,
            page_count: meta.page_count,
            free,
            dirty: ExtentSet::default(),
            spilled: ExtentSet::default(),
            draft_spilled: Vec::new(),
            spilling: None,
            held: Vec::new(),
            limbo: VecDeque::new(),
            leaving_pages: 0,
            finished: VecDeque::new(),
            durable: meta.state.generation,
            sequence: meta.sequence,
            free_run: meta.free,
            owner: meta.owner,
            running: None,
            changed: false,
            fresh: Vec::new(),
            fresh_pages: 0,
            freed: Vec::new(),
            spare: Vec::new(),
            pool: Vec::new(),
            pool_low: 0,
            table,
        };
        pager.show(meta.state);
        Ok(pager)
    }

    pub(crate) fn reader_source(&self) -> (Arc<Table>, Arc<Pins>) {
        (self.table.clone(), self.pins.pins().clone())
    }

    /// Whether a reader or a job has a way to the pages.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.table) > 1
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            total: u64::from(self.page_count),
            free: u64::from(self.free.len()),
            used: u64::from(self.page_count - self.free.len()) - self.leaving_pages,
            leaving: self.leaving_pages,
            dirty: self.dirty.pages() + self.running_pages(),
        }
    }

    pub(crate) fn published(&self) -> &State {
        &self.published
    }

    /// All pages that the writer can reach, its own included.
    #[inline]
    pub(crate) fn view(&self) -> View<'_> {
        // SAFETY: only the pager recycles pages, only `page_mut` gives way to change one; both need `&mut self`.
        unsafe { self.table.view() }
    }

    /// The generation that this turn will publish.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.published.generation + 1
    }

    /// True for a page of this turn, which may be changed in place.
    #[inline]
    pub(crate) fn is_fresh(&self, page: &Page) -> bool {
        layout::born(page) == self.generation()
            && (self.draft_spilled.is_empty() || !self.spilled.contains(layout::id(page)))
    }

    /// A page of this turn, to be changed.
    #[inline]
    pub(crate) fn page_mut(&mut self, id: PageId) -> &mut Page {
        let generation = self.generation();
        // SAFETY: `&mut self` is the writer and excludes every view it gave out; the assert keeps published pages from
        // being changed.
        let page = unsafe { self.table.page_mut(id) };
        assert!(layout::born(page) == generation, "page {} was published and may not change", id.0);
        page
    }

    #[inline]
    fn reference(&self, id: PageId) -> PageRef {
        PageRef { id, stamp: self.generation() as u16 }
    }

    /// A new page with nothing but a header.
    pub(crate) fn make(&mut self, kind: Kind) -> PageRef {
        let (id, mut frame) = self.take_page();
        layout::set_header(frame.bytes_mut(), id, self.generation(), kind);
        self.table.install(id, frame);
        self.reference(id)
    }

    /// A copy of a published page, which is freed.
    pub(crate) fn copy(&mut self, r: PageRef) -> PageRef {
        let (id, mut frame) = self.take_page();
        frame.bytes_mut().copy_from_slice(self.view().page(r));
        layout::set_identity(frame.bytes_mut(), id, self.generation());
        self.table.install(id, frame);
        self.free_page(r);
        self.reference(id)
    }

    /// A run with this content.
    pub(crate) fn make_run(&mut self, parts: &[&[u8]]) -> RunRef {
        let bytes = parts.iter().map(|p| p.len()).sum::<usize>();
        let run = RunRef { id: PageId::NONE, bytes: bytes as u32, born: self.generation() };
        assert_eq!(run.bytes as usize, bytes, "a run stays below 4 GB");
        let pages = run.pages();
        let (id, mut frame) = if pages == 1 {
            let (id, mut frame) = self.take_page();
            layout::set_run_content(frame.bytes_mut(), parts);
            (id, frame)
        } else {
            (self.take_ids(pages), Frame::with_content(pages, parts))
        };
        let run = RunRef { id, ..run };
        let page = frame.bytes_mut();
        layout::set_header(page, id, run.born, Kind::Run);
        layout::set_run_bytes(page, run.bytes);
        self.table.install(id, frame);
        run
    }

    fn take_page(&mut self) -> (PageId, Frame) {
        if let Some(id) = self.spare.pop() {
            return (id, self.table.take(id, 1).expect("a page of this turn is in memory"));
        }
        (self.take_ids(1), self.take_frame())
    }

    fn take_frame(&mut self) -> Frame {
        let frame = self.pool.pop();
        self.pool_low = self.pool_low.min(self.pool.len());
        frame.unwrap_or_else(|| Frame::new(1))
    }

    fn take_ids(&mut self, pages: u32) -> PageId {
        let found = if pages == 1 { self.free.pop_first() } else { self.free.take_run(pages) };
        let id = found.unwrap_or_else(|| {
            let id = PageId(self.page_count);
            self.page_count += pages;
            assert!(self.page_count <= PAGES_MAX, "the store file would grow beyond 1 TiB");
            id
        });
        self.fresh.push(Extent { id, pages });
        self.fresh_pages += u64::from(pages);
        id
    }

    /// Gives a node back.
    pub(crate) fn free_page(&mut self, r: PageRef) {
        let born = layout::born(self.view().page(r));
        if self.is_given_back_spilled(Extent { id: r.id, pages: 1 }, born) {
            return;
        }
        if born == self.generation() {
            layout::set_kind(self.page_mut(r.id), Kind::Free);
            self.spare.push(r.id);
        } else {
            self.freed.push((Extent { id: r.id, pages: 1 }, born));
        }
    }

    /// Gives a run back.
    pub(crate) fn free_run(&mut self, run: RunRef) {
        let extent = Extent { id: run.id, pages: run.pages() };
        if self.is_given_back_spilled(extent, run.born) {
            return;
        }
        if run.born != self.generation() {
            self.freed.push((extent, run.born));
            return;
        }
        // Its size is needed until the end of the turn, so it is told apart by having been born in no turn.
        layout::set_identity(self.page_mut(run.id), run.id, u64::MAX);
    }

    /// Gives back what this turn has taken and spilled. Its place is given out again once the turn is over. False if
    /// it is no such thing.
    fn is_given_back_spilled(&mut self, extent: Extent, born: u64) -> bool {
        !self.draft_spilled.is_empty() && born == self.generation() && self.spilled.remove(extent)
    }

    /// Publishes the turn.
    pub(crate) fn commit(&mut self) {
        let untouched = self.fresh.is_empty() && self.draft_spilled.is_empty() && self.freed.is_empty();
        if untouched && self.draft == self.published {
            return;
        }
        let generation = self.generation();
        self.spare.clear();
        let mut born_pages = 0;
        let mut fresh = std::mem::take(&mut self.fresh);
        for extent in fresh.drain(..) {
            born_pages += u64::from(extent.pages);
            let page = self.view_fresh(extent.id);
            if is_discarded(page) {
                self.recycle(extent);
            } else {
                self.dirty.insert(extent);
            }
        }
        self.fresh = fresh;
        self.fresh_pages = 0;
        self.settle_spilled(false);
        self.changed = true;
        let mut freed = std::mem::take(&mut self.freed);
        // The newest generation that a restart may begin from, now or when the checkpoint under way is done.
        let kept = self.running.as_ref().map_or(self.durable, |running| running.generation);
        for (extent, born) in freed.drain(..) {
            self.leaving_pages += u64::from(extent.pages);
            if born <= kept {
                self.held.push(extent);
                continue;
            }
            assert!(
                self.dirty.remove(extent) || self.spilled.remove(extent),
                "page {} is newer than the checkpoint, and neither dirty nor spilled",
                extent.id.0
            );
            self.limbo.push_back((generation, Limbo::Pages(extent)));
        }
        self.freed = freed;
        self.publish();
        self.reclaim_beside(born_pages);
    }

    /// Makes the draft what readers see from now on.
    pub(super) fn publish(&mut self) {
        self.draft.generation = self.generation();
        self.published = self.draft;
        self.show(self.published);
    }

    fn show(&mut self, state: State) {
        let mut frame = self.take_frame();
        layout::set_header(frame.bytes_mut(), PageId::NONE, state.generation, Kind::Meta);
        state.encode(frame.bytes_mut());
        if let Some(old) = self.table.publish(frame) {
            self.limbo.push_back((state.generation, Limbo::Memory(old)));
        }
        self.pins.publish(state.generation);
    }

    /// Takes back everything this turn has done.
    pub(crate) fn rollback(&mut self) {
        self.draft = self.published;
        self.freed.clear();
        self.spare.clear();
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.drain(..).for_each(|extent| self.recycle(extent));
        self.fresh = fresh;
        self.fresh_pages = 0;
        let spilled = !self.draft_spilled.is_empty();
        self.settle_spilled(true);
        if spilled {
            // What is written to the same places later has another birth.
            self.publish();
        }
    }

    pub(super) fn view_fresh(&self, id: PageId) -> &Page {
        self.view().page(self.reference(id))
    }

    /// Gives ids out again, and their memory if they had some.
    pub(super) fn recycle(&mut self, extent: Extent) {
        self.free.insert_run(extent.id, extent.pages);
        if let Some(frame) = self.table.take(extent.id, extent.pages) {
            self.keep(frame);
        }
    }

    fn keep(&mut self, frame: Frame) {
        if frame.pages() == 1 && self.pool.len() < POOL_PAGES_MAX {
            self.pool.push(frame);
        }
    }

    /// Moves what readers have left behind from limbo to where it is used again.
    pub(crate) fn reclaim(&mut self) {
        self.reclaim_beside(0);
    }

    /// [`Pager::reclaim`] in a turn that has made so many pages.
    fn reclaim_beside(&mut self, born_pages: u64) {
        let oldest = self.pins.oldest();
        // After a checkpoint there is much in limbo at once, most of which may wait for later turns.
        for _ in 0..self.limbo.len() / 8 + RECLAIMED_PER_TURN {
            if self.limbo.front().is_none_or(|(freed, _)| *freed > oldest) {
                break;
            }
            match self.limbo.pop_front() {
                Some((_, Limbo::Pages(extent))) => {
                    self.leaving_pages -= u64::from(extent.pages);
                    self.recycle(extent);
                }
                Some((_, Limbo::Memory(frame))) => self.keep(frame),
                None => unreachable!("the front was there"),
            }
        }
        let mut pages = FINISHED_PAGES_PER_TURN + FINISHED_PAGES_PER_BIRTH * born_pages;
        while pages > 0 && self.finished.front().is_some_and(|(freed, _)| *freed <= oldest) {
            pages = self.reclaim_finished(pages);
        }
    }

    /// Whether another call of [`Pager::reclaim`] would find ids or memory in limbo.
    pub(crate) fn may_reclaim(&mut self) -> bool {
        let oldest = self.pins.oldest();
        self.limbo.front().is_some_and(|(freed, _)| *freed <= oldest)
    }

    /// Takes over the memory of some pages of the first finished checkpoint. Returns how many of them may still be
    /// taken from the next one.
    pub(super) fn reclaim_finished(&mut self, mut pages: u64) -> u64 {
        let Some((freed, mut job)) = self.finished.pop_front() else { return 0 };
        // Whoever still holds the job may still read what it froze.
        let Some(frozen) = Arc::get_mut(&mut job) else {
            self.finished.push_front((freed, job));
            return 0;
        };
        while pages > 0 {
            let Some(frame) = frozen.next_frame() else { return pages };
            pages = pages.saturating_sub(u64::from(frame.pages()));
            self.keep(frame);
        }
        self.finished.push_front((freed, job));
        0
    }

    /// Pages of finished checkpoints that still have memory.
    #[cfg(test)]
    pub(super) fn finished_pages(&self) -> u64 {
        self.finished.iter().map(|(_, job)| job.left_pages()).sum()
    }

    /// What can be done when there is time, a bit at a time: what readers have left is reclaimed, and buffers that
    /// were not used since the last call go back to the system little by little.
    pub(crate) fn tidy(&mut self) {
        self.reclaim();
        let idle = self.pool_low.min(self.pool.len()).saturating_sub(POOL_PAGES_IDLE);
        self.pool.truncate(self.pool.len() - idle.div_ceil(256));
        self.pool_low = self.pool.len();
    }

    /// Freezes the dirty pages for a checkpoint. They count as clean from here on, because the checkpoint writes them.
    pub(super) fn freeze_dirty(&mut self) -> Arc<FrozenPages> {
        let extents = self.dirty.iter().map(|extent| (extent.id, extent.pages));
        // SAFETY: dirty pages are published and in memory. Those freed from now on are held until the checkpoint is
        // finished, so `recycle` does not take them out of the table before `drop_copies`.
        let frozen = Arc::new(unsafe { FrozenPages::freeze(&self.table, extents) });
        self.dirty.clear();
        // The checkpoint's sync makes them durable.
        self.spilled.clear();
        frozen
    }

    /// Freezes pages of the draft, which is suspended until the job that writes them was executed.
    pub(super) fn freeze_fresh(&self, extents: &[Extent]) -> Arc<FrozenPages> {
        let extents = extents.iter().map(|extent| (extent.id, extent.pages));
        // SAFETY: pages of the draft that were not given back are in memory. Nobody changes or recycles them while the
        // draft is suspended: `settle_spilled` asserts that it is not over before, and `drop_spilled` detaches them.
        Arc::new(unsafe { FrozenPages::freeze(&self.table, extents) })
    }

    /// Drops the memory of pages that were spilled. No reader knows them, so it can be taken back at once.
    pub(super) fn drop_spilled(&mut self, frozen: Arc<FrozenPages>) {
        frozen.detach();
        self.finished.push_front((0, frozen));
    }

    /// Whether some of that memory is still to be taken back.
    pub(super) fn has_spilled_memory(&self) -> bool {
        self.finished.front().is_some_and(|(freed, _)| *freed == 0)
    }

    /// Puts the ids that a finished checkpoint released into limbo; they are free once no reader is pinned at or before
    /// this generation.
    pub(super) fn release(&mut self, extents: Vec<Extent>) {
        let generation = self.published.generation;
        self.limbo.extend(extents.into_iter().map(|extent| (generation, Limbo::Pages(extent))));
    }

    /// Drops the memory of pages that a checkpoint has made durable: they are read from the file from now on.
    pub(super) fn drop_copies(&mut self, frozen: Arc<FrozenPages>) {
        frozen.detach();
        // A reader pinned at the present generation may have found such a copy already; one pinned at the next has not.
        self.finished.push_back((self.generation(), frozen));
    }

    /// Everything that cannot be reached in the published state, for the bitmap of a checkpoint.
    pub(super) fn unreachable(&self) -> PageSet {
        let mut set = self.free.clone();
        let limbo = self.limbo.iter().filter_map(|(_, limbo)| match limbo {
            Limbo::Pages(extent) => Some(extent),
            _ => None,
        });
        for extent in limbo.chain(&self.held) {
            set.insert_run(extent.id, extent.pages);
        }
        set
    }

    /// Asserts that each page is in exactly one place: reached from the published state, or one of the stations
    /// between being freed and being free. Between turns; walks everything.
    pub(crate) fn check_invariants(&self) {
        let mut seen = self.unreachable();
        match (&self.running, self.free_run) {
            (Some(running), _) => running.pages_apart(|id, pages| seen.insert_run(id, pages)),
            (None, Some(run)) => seen.insert_run(run.id, run.pages()),
            (None, None) => {}
        }
        let view = self.view();
        let mut nodes =
            self.published.roots.iter().copied().filter(|root| !root.is_none()).collect::<Vec<_>>();
        while let Some(r) = nodes.pop() {
            seen.insert(r.id);
            let node = Node::new(view.page(r));
            for at in 0..node.count() {
                let value = if node.is_leaf() { Some(node.value(at)) } else { None };
                let value_run =
                    value.and_then(|value| if let Value::Run(run) = value { Some(run) } else { None });
                node.key_run_at(at)
                    .into_iter()
                    .chain(value_run)
                    .for_each(|run| seen.insert_run(run.id, run.pages()));
            }
            if !node.is_leaf() {
                nodes.extend((0..=node.count()).map(|index| node.child(index)));
            }
        }
        assert_eq!(seen.len() + 2, self.page_count, "a page was lost");
        let limbo = self.limbo.iter().filter_map(|(_, limbo)| match limbo {
            Limbo::Pages(extent) => Some(u64::from(extent.pages)),
            Limbo::Memory(_) => None,
        });
        let held = self.held.iter().map(|extent| u64::from(extent.pages));
        let releasing = self.running.as_ref().map_or(0, Running::releasing_pages);
        assert_eq!(
            limbo.chain(held).sum::<u64>() + releasing,
            self.leaving_pages,
            "pages leave and are counted"
        );
        assert!(
            self.fresh.is_empty()
                && self.freed.is_empty()
                && self.spare.is_empty()
                && self.draft_spilled.is_empty(),
            "a turn left something"
        );
    }

    /// Ids for something that is no part of the published state, to be installed by nobody.
    pub(super) fn take_unpublished(&mut self, pages: u32) -> PageId {
        assert!(self.fresh.is_empty(), "between turns");
        let id = self.take_ids(pages);
        self.fresh.clear();
        self.fresh_pages = 0;
        id
    }
}

impl Drop for Pager {
    /// Readers may outlive the writer. What they may still look at goes when the last of them does.
    fn drop(&mut self) {
        let frames = self.limbo.drain(..).filter_map(|(_, limbo)| match limbo {
            Limbo::Memory(frame) => Some(frame),
            Limbo::Pages(_) => None,
        });
        self.table.bury(frames);
    }
}

/// Whether a page was given back in the turn that took it.
pub(super) fn is_discarded(page: &Page) -> bool {
    layout::kind(page) == Some(Kind::Free) || layout::born(page) == u64::MAX
}

/// The free pages of a checkpoint.
pub(super) fn read_free(file: &dyn PageFile, meta: &meta::Meta) -> Result<PageSet, OpenError> {
    let Some(run) = meta.free else { return Ok(PageSet::default()) };
    let refused = |what: &str| {
        OpenError::Refused(format!(
            "{}: the list of free pages at page {} {what}; {RECOVERY}",
            file.name(),
            run.id.0
        ))
    };
    if u64::from(run.id.0) + u64::from(run.pages()) > u64::from(file.pages()) {
        return Err(refused("lies beyond the end of the file, which was cut off"));
    }
    let mut bytes = vec![0; run.pages() as usize * PAGE_SIZE];
    file.read(run.id.0, &mut bytes)?;
    verify(run.id, Birth::Run(run), &bytes).map_err(|what| refused(&what))?;
    Ok(PageSet::decode(&bytes[HEADER..HEADER + run.bytes as usize]))
}

/// A file may be shorter than its meta page says only by free pages: the tail is cut off when they are.
fn check_extent(file: &dyn PageFile, meta: &meta::Meta, free: &PageSet) -> Result<(), OpenError> {
    match (file.pages()..meta.page_count).find(|&id| !free.contains(PageId(id))) {
        None => Ok(()),
        Some(id) => Err(OpenError::Refused(format!(
            "{}: page {id} is in use but lies beyond the end of the file, which was cut off; {RECOVERY}",
            file.name()
        ))),
    }
}
