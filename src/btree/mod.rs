//! Ordered byte maps in one store: what the layers above know of the store file.
//!
//! Nine trees share one file and one state. One writer, on the replica core, changes them turn by turn; readers on
//! every core look at whole states, the newest whenever they ask:
//!
//! ```text
//! replica core   store.write() ─ put, delete, get ─ set_applied ─ commit ──┐ all trees and Applied at once
//! session cores  reader.snapshot() ◄── pinned while it lives, no lock ─────┘
//!                snapshot.get(tree, key), snapshot.cursor(tree): slices of the pages themselves
//! ```
//!
//! A tree is a B+tree of `page`'s nodes. What is not in the textbook:
//! - keys are stored without what all keys of a page begin with, and branches have the shortest keys that separate
//!   their children;
//! - at the right edge pages are left full and a new one is begun, and a turn that appends keeps the last leaf at
//!   hand: revisions, which only grow, cost little more than copying them;
//! - a value above half a page is a run of its own, contiguous, so that every value is one slice;
//! - deleting merges small neighbours and lets go of empty pages; it does not keep pages half full for its own sake.
//!
//! Laws: a leaf in a tree has at least one pair, all leaves are equally deep, keys of a page lie between the keys that
//! lead to it. [`page::check`](crate::page::check) proves them on a file, and `fuzz` plays the whole against a
//! `BTreeMap` on a disk that crashes.
//!
//! A snapshot holds back the reuse of every page freed after it: it is for one slice of work, never across an await.
//! Start with `store`, then `cursor`, `insert`, `remove`; `finder` looks up keys that come in order.
#![forbid(unsafe_code)]

mod cursor;
mod finder;
pub mod fuzz;
mod insert;
mod leaf;
mod remove;
mod store;
#[cfg(test)]
mod tests;

pub use crate::page::{Applied, CheckpointError, CheckpointJob, OpenError, PageId, TREES};
pub use cursor::Cursor;
pub use finder::{Finder, prefetch};
pub use leaf::{Leaf, LeafId};
pub use store::{Reader, Readers, Snapshot, Store, StoreStats, WriteTxn};

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

impl Tree {
    /// Every tree, in the order of their roots in the meta page.
    pub const ALL: [Tree; TREES] = [
        Tree::Kv,
        Tree::Index,
        Tree::Garbage,
        Tree::Lease,
        Tree::LeaseKey,
        Tree::Auth,
        Tree::Member,
        Tree::Alarm,
        Tree::Meta,
    ];

    /// What reports call them, in the same order.
    pub const NAMES: [&str; TREES] =
        ["Kv", "Index", "Garbage", "Lease", "LeaseKey", "Auth", "Member", "Alarm", "Meta"];
}

/// Reading, the same inside a write transaction and on a published snapshot.
pub trait Read {
    /// The value under `key`.
    fn get(&self, tree: Tree, key: &[u8]) -> Option<&[u8]>;
    /// A cursor that points nowhere yet.
    fn cursor(&self, tree: Tree) -> Cursor<'_>;
    /// A finder of many keys.
    fn finder(&self, tree: Tree) -> Finder<'_>;
    /// What this state contains.
    fn applied(&self) -> Applied;
}
