//! Ordered byte maps in one store, with snapshots.
#![forbid(unsafe_code)]

mod cursor;
pub mod fuzz;
mod insert;
mod remove;
mod store;
#[cfg(test)]
mod tests;

pub use crate::page::{Applied, CheckpointError, CheckpointJob, OpenError, TREES};
pub use cursor::Cursor;
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
