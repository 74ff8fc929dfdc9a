//! Ordered byte maps in one store, with snapshots: the seam between the store file and everything above.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// The maps of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tree {
    /// Revision to key-value pair.
    Kv,
    /// User key and revision to what an answer without values needs.
    Index,
    /// Superseding revision to superseded revision.
    Garbage,
    /// Leases by id.
    Lease,
    /// Attached keys by lease id and key.
    LeaseKey,
    /// Users, roles and the switch.
    Auth,
    /// Members by id.
    Member,
    /// Raised alarms.
    Alarm,
    /// Whatever else is one of a kind.
    Meta,
}

/// How many trees there are.
pub const TREES: usize = 9;

/// What the store contains, written in the same meta page as the roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Raft index of the last entry whose effects are in the trees.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Main revision of the last change; 1 when nothing was ever written.
    pub revision: i64,
    /// Last compaction's revision; -1 before the first.
    pub compact_revision: i64,
    /// All garbage superseded at or below this revision has been removed.
    pub swept_revision: i64,
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Default)]
struct State {
    trees: [Arc<Map>; TREES],
    applied: Applied,
}

/// Reading, the same inside a write transaction and on a published snapshot.
pub trait Read {
    /// The value under `key`.
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]>;
    /// A cursor that points nowhere yet.
    fn cursor(&self, tree: Tree) -> Cursor<'_>;
    /// What this state contains.
    fn applied(&self) -> Applied;
}

/// The store: one writer.
pub struct Store {
    published: Arc<RwLock<Arc<State>>>,
}

/// Sizes of a store, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Length of the store file.
    pub file_bytes: u64,
    /// Part of it that is free.
    pub free_bytes: u64,
    /// Memory held by pages that no checkpoint has written yet.
    pub dirty_bytes: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl Store {
    /// An empty store that lives in memory alone.
    pub fn in_memory() -> Self {
        Self { published: Arc::new(RwLock::new(Arc::new(State::default()))) }
    }

    /// Starts the turn's transaction.
    pub fn write(&mut self) -> WriteTxn<'_> {
        let state = State::clone(&self.published.read().unwrap());
        WriteTxn { store: self, state }
    }

    /// A handle from which each core registers its reader.
    pub fn readers(&self) -> Readers {
        Readers { published: self.published.clone() }
    }

    /// What the published state contains.
    pub fn applied(&self) -> Applied {
        self.published.read().unwrap().applied
    }

    /// Sizes, for status and metrics.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

/// A handle for registering readers on any core.
#[derive(Clone)]
pub struct Readers {
    published: Arc<RwLock<Arc<State>>>,
}

impl Readers {
    /// A reader for one core.
    pub fn register(&self) -> Reader {
        Reader { published: self.published.clone() }
    }
}

/// One core's way into published states.
pub struct Reader {
    published: Arc<RwLock<Arc<State>>>,
}

impl Reader {
    /// The newest published state, pinned until dropped. Not to be held across an await.
    pub fn snapshot(&mut self) -> Snapshot<'_> {
        Snapshot { state: self.published.read().unwrap().clone(), _reader: std::marker::PhantomData }
    }
}

/// A pinned published state.
pub struct Snapshot<'r> {
    state: Arc<State>,
    _reader: std::marker::PhantomData<&'r mut Reader>,
}

impl Read for Snapshot<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]> {
        self.state.trees[tree as usize].get(key).map(Vec::as_slice)
    }

    fn cursor(&self, tree: Tree) -> Cursor<'_> {
        Cursor { map: &self.state.trees[tree as usize], at: None }
    }

    fn applied(&self) -> Applied {
        self.state.applied
    }
}

/// The turn's transaction. Dropped without commit, it leaves no trace.
pub struct WriteTxn<'s> {
    store: &'s mut Store,
    state: State,
}

impl WriteTxn<'_> {
    /// Inserts or replaces.
    pub fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        Arc::make_mut(&mut self.state.trees[tree as usize]).insert(key.to_vec(), value.to_vec());
    }

    /// Removes; true if the key was there.
    pub fn delete(&mut self, tree: Tree, key: &[u8]) -> bool {
        Arc::make_mut(&mut self.state.trees[tree as usize]).remove(key).is_some()
    }

    /// Sets what the state will contain once committed.
    pub fn set_applied(&mut self, applied: Applied) {
        self.state.applied = applied;
    }

    /// Publishes roots and [`Applied`] to all readers at once.
    pub fn commit(self) {
        *self.store.published.write().unwrap() = Arc::new(self.state);
    }
}

impl Read for WriteTxn<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]> {
        self.state.trees[tree as usize].get(key).map(Vec::as_slice)
    }

    fn cursor(&self, tree: Tree) -> Cursor<'_> {
        Cursor { map: &self.state.trees[tree as usize], at: None }
    }

    fn applied(&self) -> Applied {
        self.state.applied
    }
}

/// A position in a tree.
pub struct Cursor<'a> {
    map: &'a Map,
    at: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Cursor<'a> {
    /// To the first key not below `key`.
    pub fn seek(&mut self, key: &[u8]) {
        self.at = pair(
            self.map.range::<[u8], _>((std::ops::Bound::Included(key), std::ops::Bound::Unbounded)).next(),
        );
    }

    /// To the last key.
    pub fn seek_last(&mut self) {
        self.at = pair(self.map.iter().next_back());
    }

    /// One key forward; past the last it points nowhere.
    pub fn next(&mut self) {
        if let Some((k, _)) = self.at {
            self.at = pair(
                self.map.range::<[u8], _>((std::ops::Bound::Excluded(k), std::ops::Bound::Unbounded)).next(),
            );
        }
    }

    /// One key back; before the first it points nowhere.
    pub fn prev(&mut self) {
        if let Some((k, _)) = self.at {
            self.at = pair(
                self.map
                    .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(k)))
                    .next_back(),
            );
        }
    }

    /// True when it points at a pair.
    pub fn valid(&self) -> bool {
        self.at.is_some()
    }

    /// The key it points at.
    pub fn key(&self) -> &[u8] {
        self.at.expect("a valid cursor").0
    }

    /// The value it points at; lives as long as the state, not the cursor.
    pub fn value(&self) -> &'a [u8] {
        self.at.expect("a valid cursor").1
    }
}

fn pair<'a>(entry: Option<(&'a Vec<u8>, &'a Vec<u8>)>) -> Option<(&'a [u8], &'a [u8])> {
    entry.map(|(k, v)| (k.as_slice(), v.as_slice()))
}
