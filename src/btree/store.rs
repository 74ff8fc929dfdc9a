//! The store and its handles: one writer, a reader per core, snapshots.
#![forbid(unsafe_code)]

use super::cursor::{self, Cursor};
use super::finder::Finder;
use super::{Read, Tree, insert, remove};
use crate::limits::LARGE_STORE_BYTES;
use crate::page::pager::Pager;
use crate::page::readers::{PageReader, Pinned, Pins};
use crate::page::table::{Table, View};
use crate::page::{
    Applied, CheckpointJob, MemoryFile, OpenError, Owner, PAGE_SIZE, PageFile, PageId, PageRef, TREES,
};
use crate::stdx::sync::Arc;
use std::fmt;
use std::sync::Arc as FileArc;

/// The store: one writer. Lives on the replica core.
pub struct Store {
    pager: Pager,
    /// The last leaf of each tree, if it is the draft's already: where appended keys go without a descent.
    edges: [PageRef; TREES],
    /// A draft is kept that no transaction holds at present.
    suspended: bool,
}

/// Sizes of a store, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Pages in use or free, as etcd counts its database. The file on the disk is longer by what was allocated ahead.
    pub total_bytes: u64,
    /// Part of it that was used and is free again.
    pub free_bytes: u64,
    /// Part of it that holds what the published state has.
    pub used_bytes: u64,
    /// Part of it that was freed and is not free yet: the last checkpoint has it, or a reader may look at it.
    pub leaving_bytes: u64,
    /// Memory held by pages that no checkpoint has made durable yet.
    pub dirty_bytes: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl Store {
    /// An empty store on a file in memory.
    pub fn in_memory() -> Self {
        Self::open(FileArc::new(MemoryFile::default())).expect("a file in memory never fails")
    }

    /// Opens a store file; an empty one becomes a store without content.
    pub fn open(file: FileArc<dyn PageFile>) -> Result<Self, OpenError> {
        Ok(Self { pager: Pager::open(file)?, edges: [PageRef::NONE; TREES], suspended: false })
    }

    /// Starts a transaction.
    ///
    /// # Panics
    /// While one is suspended.
    pub fn write(&mut self) -> WriteTxn<'_> {
        assert!(!self.suspended, "a suspended transaction is resumed before another begins");
        // One that was forgotten, neither committed nor dropped, counts as dropped.
        self.pager.rollback();
        self.edges = [PageRef::NONE; TREES];
        WriteTxn { store: self, ended: false }
    }

    /// Goes on with the transaction that was suspended.
    ///
    /// # Panics
    /// When none is suspended.
    pub fn resume(&mut self) -> WriteTxn<'_> {
        assert!(std::mem::take(&mut self.suspended), "only what was suspended can be resumed");
        self.pager.reclaim_spilled();
        WriteTxn { store: self, ended: false }
    }

    /// Whether a transaction waits to be resumed. No checkpoint may begin or be finished meanwhile.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// A handle from which each core registers its reader.
    pub fn readers(&self) -> Readers {
        let (table, pins) = self.pager.reader_source();
        Readers { table, pins }
    }

    /// What the published state contains.
    pub fn applied(&self) -> Applied {
        self.pager.published().applied
    }

    /// Whose log the store follows; none until that log exists.
    pub fn owner(&self) -> Option<Owner> {
        self.pager.owner
    }

    /// Whose store it is from the next checkpoint on. [`claim`](crate::page::claim) writes the same into the file at
    /// once.
    pub fn set_owner(&mut self, owner: Owner) {
        self.pager.owner = Some(owner);
    }

    /// Sizes, for status and metrics.
    pub fn stats(&self) -> StoreStats {
        let sizes = self.pager.sizes();
        StoreStats {
            total_bytes: sizes.total * PAGE_SIZE as u64,
            free_bytes: sizes.free * PAGE_SIZE as u64,
            used_bytes: sizes.used * PAGE_SIZE as u64,
            leaving_bytes: sizes.leaving * PAGE_SIZE as u64,
            dirty_bytes: sizes.dirty * PAGE_SIZE as u64,
        }
    }

    /// Whether anybody else has a way into the store, a reader or a job.
    pub fn is_shared(&self) -> bool {
        self.pager.is_shared()
    }

    /// Takes back a part of what readers have left. True if more could be taken back now.
    pub fn reclaim(&mut self) -> bool {
        self.pager.reclaim();
        self.pager.may_reclaim()
    }

    /// To be called now and then, also when nothing is written: gives memory back that is no longer used.
    pub fn tidy(&mut self) {
        self.pager.tidy();
    }

    /// Asserts that no page is lost or in two places. Walks the whole store: for tests and the simulator.
    pub fn check_invariants(&self) {
        self.pager.check_invariants();
    }

    /// Begins to make the published state durable. None while one is under way, or when there is nothing to do.
    ///
    /// # Panics
    /// While a transaction is suspended: a checkpoint takes pages that are nobody's, and the draft has taken some.
    pub fn begin_checkpoint(&mut self) -> Option<CheckpointJob> {
        assert!(!self.suspended, "a checkpoint begins while a transaction is suspended");
        self.pager.begin_checkpoint()
    }

    /// Bytes of the pages that the transaction under way has made, and that have no place in the file.
    pub fn draft_bytes(&self) -> u64 {
        self.pager.draft_pages() * PAGE_SIZE as u64
    }

    /// Begins to write the pages of the suspended transaction to their places in the file. None when it has none in
    /// memory. It may not be resumed before [`Store::finish_spill`].
    ///
    /// # Panics
    /// While no transaction is suspended.
    pub fn begin_spill(&mut self) -> Option<CheckpointJob> {
        assert!(self.suspended, "only what is suspended can be spilled");
        // The last leaves may not be changed in place any more.
        self.edges = [PageRef::NONE; TREES];
        self.pager.begin_spill()
    }

    /// To be called when the job of the spill has been executed. False if the disk has taken nothing.
    pub fn finish_spill(&mut self) -> bool {
        self.pager.finish_spill()
    }

    /// To be called when the job of this generation has been executed.
    ///
    /// # Panics
    /// While a transaction is suspended: the end of a checkpoint is published, and would publish the draft.
    pub fn finish_checkpoint(&mut self, generation: u64) {
        assert!(!self.suspended, "a checkpoint ends while a transaction is suspended");
        self.pager.finish_checkpoint(generation);
    }
}

/// A handle for registering readers on any core.
#[derive(Clone)]
pub struct Readers {
    table: Arc<Table>,
    pins: Arc<Pins>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readers")
    }
}

impl Readers {
    /// A reader for one core.
    pub fn register(&self) -> Reader {
        Reader { pages: PageReader::new(self.table.clone(), &self.pins) }
    }
}

/// One core's way into published states.
pub struct Reader {
    pages: PageReader,
}

impl Reader {
    /// The newest published state, pinned until dropped. Not to be held across an await.
    pub fn snapshot(&mut self) -> Snapshot<'_> {
        Snapshot { pinned: self.pages.pin() }
    }
}

/// A pinned published state.
pub struct Snapshot<'r> {
    pinned: Pinned<'r>,
}

impl Snapshot<'_> {
    /// Whether most places of the store are likely not to be in memory.
    pub fn is_large(&self) -> bool {
        is_large(self.pinned.view())
    }

    /// Asks the disk for the page that has `key` if any has, and waits for nothing: for a key that will be looked up
    /// later, on a core that should not wait for the disk. The page that the disk reads; none if it has nothing to do.
    pub fn read_ahead(&self, tree: Tree, key: &[u8]) -> Option<PageId> {
        cursor::read_ahead(self.pinned.view(), self.pinned.state().roots[tree as usize], key)
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]> {
        cursor::get(self.pinned.view(), self.pinned.state().roots[tree as usize], key)
    }

    fn cursor(&self, tree: Tree) -> Cursor<'_> {
        Cursor::new(self.pinned.view(), self.pinned.state().roots[tree as usize])
    }

    fn finder(&self, tree: Tree) -> Finder<'_> {
        Finder::new(self.pinned.view(), self.pinned.state().roots[tree as usize])
    }

    fn applied(&self) -> Applied {
        self.pinned.state().applied
    }
}

fn is_large(view: View<'_>) -> bool {
    u64::from(view.pages()) * PAGE_SIZE as u64 >= LARGE_STORE_BYTES
}

/// A transaction. Dropped without commit, it leaves no trace; suspended, it can be resumed in a later turn, and until
/// then nobody sees it.
pub struct WriteTxn<'s> {
    store: &'s mut Store,
    /// Committed or suspended.
    ended: bool,
}

impl WriteTxn<'_> {
    /// Inserts or replaces.
    pub fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        let Store { pager, edges, .. } = &mut *self.store;
        let edge = &mut edges[tree as usize];
        if !edge.is_none() && insert::append(pager, *edge, key, value) {
            return;
        }
        let last = insert::put(pager, tree, key, value);
        if !last.is_none() {
            *edge = last;
        }
    }

    /// Removes; true if the key was there.
    pub fn delete(&mut self, tree: Tree, key: &[u8]) -> bool {
        let removed = remove::delete(&mut self.store.pager, tree, key);
        if removed {
            self.store.edges[tree as usize] = PageRef::NONE;
        }
        removed
    }

    /// [`Snapshot::is_large`].
    pub fn is_large(&self) -> bool {
        is_large(self.store.pager.view())
    }

    /// [`Snapshot::read_ahead`] in what this transaction has made.
    pub fn read_ahead(&self, tree: Tree, key: &[u8]) -> Option<PageId> {
        cursor::read_ahead(self.store.pager.view(), self.store.pager.draft.roots[tree as usize], key)
    }

    /// Sets what the state will contain once committed.
    pub fn set_applied(&mut self, applied: Applied) {
        self.store.pager.draft.applied = applied;
    }

    /// Publishes roots and [`Applied`] to all readers at once.
    pub fn commit(mut self) {
        self.store.pager.commit();
        self.ended = true;
    }

    /// Keeps the draft for [`Store::resume`].
    pub fn suspend(mut self) {
        self.store.suspended = true;
        self.ended = true;
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.store.pager.rollback();
        }
    }
}

impl Read for WriteTxn<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]> {
        cursor::get(self.store.pager.view(), self.store.pager.draft.roots[tree as usize], key)
    }

    fn cursor(&self, tree: Tree) -> Cursor<'_> {
        Cursor::new(self.store.pager.view(), self.store.pager.draft.roots[tree as usize])
    }

    fn finder(&self, tree: Tree) -> Finder<'_> {
        Finder::new(self.store.pager.view(), self.store.pager.draft.roots[tree as usize])
    }

    fn applied(&self) -> Applied {
        self.store.pager.draft.applied
    }
}
