//! Where the bytes of a page are: memory of its own, or the mapped file.
//!
//! ```text
//! id ──► top[id / 4096] ──► chunk[id % 4096] ──► null                 nobody has read it since it was written
//!                                            ├─► frame              a page that no checkpoint has dropped yet
//!                                            └─► mapping + id * 4 K  verified, and read from the file ever after
//! ```
//!
//! The writer stores frames, and takes them away by storing null. A reader who finds null reads the file, verifies
//! the checksum and swaps null for what it found, so that each page is verified once. It cannot put back what the
//! writer has just taken away: the writer gives an id new bytes only when no reader can still hold the old meaning
//! of that id (`pager`), so a reader's swap is always about the present one.
//!
//! A page is verified when it is first loaded, and not again. The kernel may drop a mapped page and read it once more;
//! what has rotted on the disk in between is served. To sum a page up at each use would cost as much as all the rest of
//! a lookup; the checks of `HashKV` across members, and `page::check` on a copy of the file, are for that kind of rot.
//!
//! Lives on every core. This file owns the unsafety of pages: raw pointers become slices here and nowhere else.
#![allow(unsafe_code)]

use super::file::PageFile;
use super::layout::{self, HEADER, Kind, PAGE_SIZE, Page, PageId, PageRef, RunRef};
use super::mapping::Mapping;
use super::witness;
use crate::error::RECOVERY;
use crate::stdx::sync::{Arc, AtomicBool, AtomicPtr, Mutex, Ordering, PoisonError};
use std::alloc::{Layout, alloc, alloc_zeroed, handle_alloc_error};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc as FileArc;

const CHUNK: usize = if cfg!(feature = "loom") { 8 } else { 1 << 12 };
const CHUNKS: usize = if cfg!(feature = "loom") { 4 } else { 1 << 16 };

/// Pages of a block that a walk reads together, 64 KiB. It asks for the next block too when it comes to one, so that
/// the disk is ahead of it.
const READ_AHEAD_PAGES: u32 = 16;

/// Pages that a process can address: 1 TiB. The format could hold 16.
pub const PAGES_MAX: u32 = (CHUNK * CHUNKS) as u32;

/// Memory for a page or a run: aligned, initialised, owned.
pub(crate) struct Frame {
    ptr: NonNull<u8>,
    pages: u32,
}

// SAFETY: a frame is owned memory without ties to a thread.
unsafe impl Send for Frame {}

impl Frame {
    /// Zeroed memory of `pages` pages.
    pub(crate) fn new(pages: u32) -> Self {
        // SAFETY: the size is not zero: `layout` asserts it. The memory is of that layout.
        unsafe { Self::of(pages, alloc_zeroed(Self::layout(pages))) }
    }

    /// Memory of `pages` pages that holds `parts` behind room for a header, and zeros around them.
    pub(crate) fn with_content(pages: u32, parts: &[&[u8]]) -> Self {
        let size = pages as usize * PAGE_SIZE;
        let content: usize = parts.iter().map(|part| part.len()).sum();
        assert!(HEADER + content <= size, "the content fits");
        // SAFETY: as in `new`; the bytes are written below, before anybody reads them.
        let frame = unsafe { Self::of(pages, alloc(Self::layout(pages))) };
        let (ptr, mut at) = (frame.ptr, HEADER);
        // SAFETY: all of it lies within the `size` bytes that were just allocated, by the assertion above, and every
        // one of them is written: the header, each part, the rest.
        unsafe {
            ptr.write_bytes(0, HEADER);
            for part in parts {
                ptr.add(at).copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len());
                at += part.len();
            }
            ptr.add(at).write_bytes(0, size - at);
        }
        frame
    }

    /// # Safety
    /// `memory` was just allocated by the layout of `pages` pages, or is null.
    unsafe fn of(pages: u32, memory: *mut u8) -> Self {
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(Self::layout(pages)) };
        // SAFETY: within what was allocated, which is longer.
        let ptr = unsafe { memory.add(witness::FRONT) };
        // SAFETY: just allocated.
        unsafe { witness::made(ptr.as_ptr()) };
        Self { ptr, pages }
    }

    fn layout(pages: u32) -> Layout {
        assert!(pages > 0);
        Layout::from_size_align(witness::FRONT + pages as usize * PAGE_SIZE, PAGE_SIZE)
            .expect("a size below the address space")
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: made in `of`.
        unsafe { witness::read(self.ptr.as_ptr()) };
        // SAFETY: the frame owns these bytes, and all of them were written when it was made.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.pages as usize * PAGE_SIZE) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: made in `of`.
        unsafe { witness::written(self.ptr.as_ptr()) };
        // SAFETY: as above, and `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.pages as usize * PAGE_SIZE) }
    }

    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    fn into_raw(self) -> *mut u8 {
        let ptr = self.ptr.as_ptr();
        std::mem::forget(self);
        ptr
    }

    /// # Safety
    /// `ptr` came from `into_raw` of a frame with so many pages, and nobody else turns it into a frame again.
    unsafe fn from_raw(ptr: *mut u8, pages: u32) -> Self {
        Self { ptr: NonNull::new(ptr).expect("a frame's pointer"), pages }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` or `with_content` with the same layout.
        unsafe { witness::ended(self.ptr.as_ptr(), Self::layout(self.pages)) };
    }
}

type Chunk = [AtomicPtr<u8>; CHUNK];

#[cfg(not(feature = "loom"))]
fn no_chunks() -> Box<[AtomicPtr<Chunk>]> {
    // SAFETY: an `AtomicPtr` of all zeros is null.
    unsafe { Box::<[AtomicPtr<Chunk>]>::new_zeroed_slice(CHUNKS).assume_init() }
}

#[cfg(not(feature = "loom"))]
fn empty_chunk() -> Box<Chunk> {
    // SAFETY: as in `no_chunks`.
    unsafe { Box::<Chunk>::new_zeroed().assume_init() }
}

#[cfg(feature = "loom")]
fn no_chunks() -> Box<[AtomicPtr<Chunk>]> {
    (0..CHUNKS).map(|_| AtomicPtr::default()).collect()
}

#[cfg(feature = "loom")]
fn empty_chunk() -> Box<Chunk> {
    Box::new(std::array::from_fn(|_| AtomicPtr::default()))
}

/// The table of one store.
pub(crate) struct Table {
    top: Box<[AtomicPtr<Chunk>]>,
    file: FileArc<dyn PageFile>,
    mapping: Option<Mapping>,
    /// Frames that readers may still look at after the pager was dropped; freed together with the table.
    graveyard: Mutex<Vec<Frame>>,
}

impl Table {
    pub(crate) fn new(file: FileArc<dyn PageFile>) -> Self {
        Self { top: no_chunks(), mapping: file.mapping(), file, graveyard: Mutex::new(Vec::new()) }
    }

    pub(crate) fn file(&self) -> &FileArc<dyn PageFile> {
        &self.file
    }

    fn entry(&self, id: PageId) -> &AtomicPtr<u8> {
        assert!(id.0 < PAGES_MAX, "page {} is beyond 1 TiB", id.0);
        let chunk = self.top[id.index() / CHUNK].load(Ordering::Acquire);
        let chunk = if chunk.is_null() { self.make_chunk(id) } else { chunk };
        // SAFETY: a chunk, once there, lives as long as the table.
        unsafe { &(*chunk)[id.index() % CHUNK] }
    }

    #[cold]
    fn make_chunk(&self, id: PageId) -> *mut Chunk {
        let chunk = Box::into_raw(empty_chunk());
        let slot = &self.top[id.index() / CHUNK];
        match slot.compare_exchange(null_mut(), chunk, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => chunk,
            Err(theirs) => {
                // SAFETY: made above and never shown to anybody.
                drop(unsafe { Box::from_raw(chunk) });
                theirs
            }
        }
    }

    /// Gives `id` its bytes. Writer only.
    pub(crate) fn install(&self, id: PageId, frame: Frame) {
        assert_eq!(layout::page_span(frame.bytes()), frame.pages, "a frame's header must tell its size");
        let old = self.entry(id).swap(frame.into_raw(), Ordering::AcqRel);
        assert!(old.is_null(), "page {} got new bytes while its old ones could be seen", id.0);
    }

    /// Takes the bytes of a page or run away; the frame if they were in memory. Writer only.
    ///
    /// The frame is unreachable for whoever comes later; who came earlier may still read it, so the caller keeps it
    /// until the pins say otherwise.
    pub(crate) fn take(&self, id: PageId, pages: u32) -> Option<Frame> {
        let ptr = self.entry(id).swap(null_mut(), Ordering::AcqRel);
        // SAFETY: the swap took it out of the table; the caller knows the size by which it was installed.
        self.is_memory(ptr).then(|| unsafe { Frame::from_raw(ptr, pages) })
    }

    /// Publishes the page that says what the newest state is; the one before is handed back. Writer only.
    pub(crate) fn publish(&self, frame: Frame) -> Option<Frame> {
        assert_eq!(frame.pages, 1);
        let ptr = self.entry(PageId::NONE).swap(frame.into_raw(), Ordering::AcqRel);
        // SAFETY: the swap took it out of the table, and only single pages are ever put there.
        self.is_memory(ptr).then(|| unsafe { Frame::from_raw(ptr, 1) })
    }

    /// Keeps frames that readers may still look at until the last of them is gone, and the table with them.
    pub(crate) fn bury(&self, frames: impl IntoIterator<Item = Frame>) {
        self.graveyard.lock().unwrap_or_else(PoisonError::into_inner).extend(frames);
    }

    /// Somebody reads what the table leads to.
    #[inline]
    pub(super) fn witness(&self, ptr: *const u8) {
        if cfg!(feature = "loom") && self.is_memory(ptr.cast_mut()) {
            // SAFETY: memory in the table is a frame.
            unsafe { witness::read(ptr) };
        }
    }

    fn is_memory(&self, ptr: *mut u8) -> bool {
        !ptr.is_null() && !self.mapping.is_some_and(|m| m.contains(ptr))
    }

    /// Makes a frame of a pointer that is in the table no more, or never was.
    ///
    /// # Safety
    /// The caller is the only one who has the pointer.
    unsafe fn owned(&self, ptr: *mut u8) -> Option<Frame> {
        self.is_memory(ptr).then(|| {
            // SAFETY: memory in the table is a frame.
            unsafe { witness::read(ptr) };
            // SAFETY: a frame has at least one page, initialised; its header tells its size, as `install` asserted.
            let pages = layout::page_span(unsafe { std::slice::from_raw_parts(ptr, PAGE_SIZE) });
            // SAFETY: by the contract nobody else has it.
            unsafe { Frame::from_raw(ptr, pages) }
        })
    }

    /// The bytes of a page that this turn made.
    ///
    /// # Safety
    /// Writer only; the page was born in the turn that is not published yet, so no reader knows it; the borrow that
    /// yields the result excludes every other reference into the page.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn page_mut(&self, id: PageId) -> &mut Page {
        let ptr = self.entry(id).load(Ordering::Relaxed);
        assert!(
            !ptr.is_null() && !self.mapping.is_some_and(|m| m.contains(ptr)),
            "page {} is not ours",
            id.0
        );
        // SAFETY: the table leads to a frame, as asserted.
        unsafe { witness::written(ptr) };
        // SAFETY: a frame of at least one page; exclusive by contract.
        unsafe { &mut *ptr.cast::<Page>() }
    }

    /// # Safety
    /// As long as the view lives, no page it is used to reach may be taken away and reused or written to: a pin or
    /// being the writer sees to that.
    pub(crate) unsafe fn view(&self) -> View<'_> {
        View { table: self }
    }

    #[cold]
    fn load(&self, id: PageId, birth: Birth) -> *mut u8 {
        let entry = self.entry(id);
        let loaded = match self.mapping {
            Some(mapping) => self.load_mapped(&mapping, id, birth),
            None => self.load_copy(id, birth).into_raw(),
        };
        match entry.compare_exchange(null_mut(), loaded, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => loaded,
            Err(theirs) => {
                // SAFETY: made by this call, and the exchange did not take it.
                drop(unsafe { self.owned(loaded) });
                theirs
            }
        }
    }

    #[cold]
    fn read_block_ahead(&self, id: PageId) {
        let pages = self.file.pages();
        if self.mapping.is_some() && id.0 < pages {
            let first = id.0 / READ_AHEAD_PAGES * READ_AHEAD_PAGES;
            self.file.read_ahead(first, (2 * READ_AHEAD_PAGES).min(pages - first));
        }
    }

    /// How much is read, and summed up, is what the reference says. What a damaged page says of itself counts for
    /// nothing before it is verified.
    fn load_mapped(&self, mapping: &Mapping, id: PageId, birth: Birth) -> *mut u8 {
        let span = birth.pages();
        self.demand(id, span);
        if span > 1 {
            self.file.read_ahead(id.0, span);
        }
        let ptr = mapping.page(id);
        // SAFETY: below `pages()`, as `demand` has seen, the mapping is readable; nobody writes to a page that can
        // still be reached.
        let bytes = unsafe { std::slice::from_raw_parts(ptr, span as usize * PAGE_SIZE) };
        self.verify(id, birth, bytes);
        ptr
    }

    fn load_copy(&self, id: PageId, birth: Birth) -> Frame {
        let span = birth.pages();
        self.demand(id, span);
        let mut frame = Frame::new(span);
        self.read(id, frame.bytes_mut());
        self.verify(id, birth, frame.bytes());
        frame
    }

    fn read(&self, id: PageId, into: &mut [u8]) {
        if let Err(error) = self.file.read(id.0, into) {
            panic!("{}", self.broken(id, &format!("cannot be read: {error}")));
        }
    }

    fn demand(&self, id: PageId, span: u32) {
        let end = id.0.checked_add(span);
        if end.is_none_or(|end| end > self.file.pages()) {
            panic!("{}", self.broken(id, "lies beyond the end of the file"));
        }
    }

    fn verify(&self, id: PageId, birth: Birth, bytes: &[u8]) {
        if let Err(what) = verify(id, birth, bytes) {
            panic!("{}", self.broken(id, &what));
        }
    }

    fn broken(&self, id: PageId, what: &str) -> String {
        format!(
            "page {} of {} {what}: the disk does not hold what was written, and it is not served; {RECOVERY}",
            id.0,
            self.file.name()
        )
    }
}

/// What a reference knows of the birth of what it refers to.
#[derive(Clone, Copy)]
pub(crate) enum Birth {
    Stamp(u16),
    Run(RunRef),
}

impl Birth {
    /// Pages of what the reference is about.
    fn pages(self) -> u32 {
        match self {
            Self::Stamp(_) => 1,
            Self::Run(run) => run.pages(),
        }
    }
}

/// Says why bytes from the file are not the page that a reference asks for.
pub(crate) fn verify(id: PageId, birth: Birth, bytes: &[u8]) -> Result<(), String> {
    let (stored, computed) = (layout::stored_checksum(bytes), layout::checksum(bytes));
    if stored != computed {
        return Err(format!("fails its checksum (stored {stored:08x}, computed {computed:08x})"));
    }
    if layout::id(bytes) != id {
        return Err(format!("says that it is page {}", layout::id(bytes).0));
    }
    let born = layout::born(bytes);
    match birth {
        Birth::Stamp(stamp) if born as u16 == stamp => Ok(()),
        Birth::Run(run) if born == run.born && layout::run_bytes(bytes) == run.bytes => Ok(()),
        _ => Err(format!("is of generation {born}, not the one that was written last")),
    }?;
    match (birth, layout::kind(bytes)) {
        (Birth::Stamp(_), Some(Kind::Leaf | Kind::Branch)) | (Birth::Run(_), Some(Kind::Run)) => Ok(()),
        (_, kind) => Err(format!("is of kind {kind:?}, which it cannot be")),
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for slot in &self.top {
            let chunk = slot.load(Ordering::Acquire);
            if chunk.is_null() {
                continue;
            }
            // SAFETY: made by `Box::into_raw` in `make_chunk`; whoever drops the table is its last user.
            let chunk = unsafe { Box::from_raw(chunk) };
            for entry in chunk.iter() {
                // SAFETY: the table is going, and with it the only other place that has the pointer.
                drop(unsafe { self.owned(entry.load(Ordering::Acquire)) });
            }
        }
    }
}

/// Asks for memory that will soon be read, and does not wait for it.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect that a program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// The pages that one pinned state, or the writer, can reach.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    table: &'a Table,
}

impl<'a> View<'a> {
    /// The node behind `r`.
    #[inline]
    pub(crate) fn page(self, r: PageRef) -> &'a Page {
        let ptr = self.pointer(r.id, || Birth::Stamp(r.stamp));
        // SAFETY: what the table leads to is at least a page; it stays as it is by the contract of `Table::view`.
        unsafe { &*ptr.cast::<Page>() }
    }

    /// The content of a run.
    #[inline]
    pub(crate) fn run(self, r: RunRef) -> &'a [u8] {
        let ptr = self.pointer(r.id, || Birth::Run(r));
        if r.pages() > 1 && self.table.file.is_larger_than_memory() {
            self.table.file.read_ahead(r.id.0, r.pages());
        }
        // SAFETY: as above.
        let first = unsafe { &*ptr.cast::<Page>() };
        let is_meant = layout::kind(first) == Some(Kind::Run) && layout::run_bytes(first) == r.bytes;
        assert!(is_meant, "{}", self.table.broken(r.id, "is not the run that a reference is about"));
        // SAFETY: as above; the memory behind `ptr` is as long as the run's own header says: `install` and `verify` saw
        // to that, and the reference says the same.
        unsafe { std::slice::from_raw_parts(ptr.add(HEADER), r.bytes as usize) }
    }

    /// Pages of the file.
    pub(crate) fn pages(self) -> u32 {
        self.table.file.pages()
    }

    /// The node behind `r` if it is in memory; if not, the file is asked for it, and nobody waits.
    pub(crate) fn page_or_read_ahead(self, r: PageRef) -> Option<&'a Page> {
        if self.is_in_memory(r.id) {
            return Some(self.page(r));
        }
        if self.table.mapping.is_some() && r.id.0 < self.pages() {
            self.table.file.read_ahead(r.id.0, 1);
        }
        None
    }

    /// Whether the page can be read without waiting for the disk. One that was read before can, unless memory is so
    /// scarce that it may be gone again.
    fn is_in_memory(self, id: PageId) -> bool {
        let page = self.table.entry(id).load(Ordering::Relaxed);
        let file = &self.table.file;
        if self.table.is_memory(page) || (!page.is_null() && !file.is_larger_than_memory()) {
            return true;
        }
        self.table.mapping.is_some() && id.0 < self.pages() && file.is_in_memory(id.0)
    }

    /// The node behind `r`, to which a walk goes that will go on to its neighbours in the file.
    #[inline]
    pub(crate) fn walk_to(self, r: PageRef) -> &'a Page {
        if self.table.entry(r.id).load(Ordering::Relaxed).is_null() || self.table.file.is_larger_than_memory()
        {
            self.table.read_block_ahead(r.id);
        }
        self.page(r)
    }

    /// The state published last. Readers call it pinned.
    pub(crate) fn published(self) -> &'a Page {
        let ptr = self.table.entry(PageId::NONE).load(Ordering::Acquire);
        assert!(!ptr.is_null(), "a store is born with a published state");
        self.table.witness(ptr);
        // SAFETY: as in `page`.
        unsafe { &*ptr.cast::<Page>() }
    }

    #[inline]
    fn pointer(self, id: PageId, birth: impl FnOnce() -> Birth) -> *mut u8 {
        let ptr = self.table.entry(id).load(Ordering::Acquire);
        let ptr = if ptr.is_null() { self.table.load(id, birth()) } else { ptr };
        self.table.witness(ptr);
        ptr
    }
}

/// Pages as they were when a checkpoint began. Nobody changes them or reuses their memory while this lives.
pub(crate) struct FrozenPages {
    table: Arc<Table>,
    list: Vec<Frozen>,
    pages: u64,
    /// The table has let go of the frames: they are owned here.
    detached: AtomicBool,
}

struct Frozen {
    id: PageId,
    pages: u32,
    ptr: *mut u8,
}

// SAFETY: the pointers lead to immutable memory that lives as long as this (see `freeze` and `detach`).
unsafe impl Send for FrozenPages {}
// SAFETY: as above.
unsafe impl Sync for FrozenPages {}

impl FrozenPages {
    /// # Safety
    /// Writer only. Each id has a frame of so many pages, born in a published turn, or in one that is suspended as long
    /// as this lives attached. The caller takes none of them out of the table but by `detach`.
    pub(crate) unsafe fn freeze(table: &Arc<Table>, extents: impl Iterator<Item = (PageId, u32)>) -> Self {
        let mut total = 0;
        let list = extents
            .map(|(id, pages)| {
                let ptr = table.entry(id).load(Ordering::Relaxed);
                assert!(table.is_memory(ptr), "a dirty page is in memory");
                total += u64::from(pages);
                Frozen { id, pages, ptr }
            })
            .collect();
        Self { table: table.clone(), list, pages: total, detached: AtomicBool::new(false) }
    }

    /// The pages and runs, by ascending id, not sealed yet.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PageId, &[u8])> {
        self.list.iter().map(|frozen| {
            // SAFETY: only frames are frozen.
            unsafe { witness::read(frozen.ptr) };
            // SAFETY: by the contract of `freeze` the frame is in the table, or else it is owned here; it is as large
            // as it was said to be, and nobody writes to a published page.
            (frozen.id, unsafe { std::slice::from_raw_parts(frozen.ptr, frozen.pages as usize * PAGE_SIZE) })
        })
    }

    /// Pages in all, runs counted whole.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    pub(crate) fn file(&self) -> &FileArc<dyn PageFile> {
        self.table.file()
    }

    /// Takes all frames out of the table, so that the pages are read from the file from now on. Writer only, once.
    pub(crate) fn detach(&self) {
        assert!(!self.detached.swap(true, Ordering::AcqRel), "a checkpoint is finished once");
        for frozen in &self.list {
            let ptr = self.table.entry(frozen.id).swap(null_mut(), Ordering::AcqRel);
            assert_eq!(ptr, frozen.ptr, "page {} changed its place during a checkpoint", frozen.id.0);
        }
    }

    /// Pages whose frames were not taken yet.
    #[cfg(test)]
    pub(crate) fn left_pages(&self) -> u64 {
        self.list.iter().map(|frozen| u64::from(frozen.pages)).sum()
    }

    /// The next frame that nobody else will look at: the caller is the last who has these pages, and no reader is left
    /// who found them in the table.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        assert!(self.detached.load(Ordering::Relaxed), "the table still has the pages");
        let frozen = self.list.pop()?;
        // SAFETY: detached, so this list alone has the pointer, and it is off the list now.
        Some(unsafe { Frame::from_raw(frozen.ptr, frozen.pages) })
    }
}

impl Drop for FrozenPages {
    fn drop(&mut self) {
        if self.detached.load(Ordering::Relaxed) {
            let table = self.table.clone();
            table.bury(std::iter::from_fn(|| self.next_frame()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::MemoryFile;
    use super::*;

    fn run(pages: u32, bytes: u32) -> (Frame, RunRef) {
        let run = RunRef { id: PageId(2), bytes, born: 5 };
        let content = vec![7; bytes as usize];
        let mut frame = Frame::with_content(pages, &[&content[..1], &content[1..]]);
        layout::set_header(frame.bytes_mut(), run.id, run.born, Kind::Run);
        layout::set_run_bytes(frame.bytes_mut(), bytes);
        (frame, run)
    }

    #[test]
    fn a_run_is_its_content_and_zeros() {
        let (frame, run) = run(2, 5_000);
        let (content, rest) = frame.bytes()[HEADER..].split_at(5_000);
        assert!(content.iter().all(|&b| b == 7) && rest.iter().all(|&b| b == 0));
        assert_eq!(rest.len(), 2 * PAGE_SIZE - HEADER - 5_000);
        let table = Table::new(FileArc::new(MemoryFile::default()));
        table.install(run.id, frame);
        // SAFETY: nobody takes the run away or writes to it.
        assert_eq!(unsafe { table.view() }.run(run), [7; 5_000]);
    }

    #[test]
    #[should_panic(
        expected = "is not the run that a reference is about: the disk does not hold what was written"
    )]
    fn a_reference_to_more_than_there_is_reads_nothing_behind_it() {
        let (frame, run) = run(1, 100);
        let table = Table::new(FileArc::new(MemoryFile::default()));
        table.install(run.id, frame);
        // SAFETY: as above.
        unsafe { table.view() }.run(RunRef { bytes: 1 << 30, ..run });
    }

    #[test]
    fn a_rotten_length_is_not_followed() {
        let (mut frame, run) = run(1, 100);
        layout::seal(frame.bytes_mut());
        layout::set_run_bytes(frame.bytes_mut(), u32::MAX - HEADER as u32);
        let file = [[0; 2 * PAGE_SIZE].as_slice(), frame.bytes()].concat();
        let table = Table::new(FileArc::new(MemoryFile::new(file)));
        // SAFETY: as above.
        let view = unsafe { table.view() };
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| view.run(run).len()));
        let said = read.expect_err("it was served");
        assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("fails its checksum")));
    }
}
