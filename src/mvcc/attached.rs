//! The keys that are attached to a lease, as one state of the store has them.
#![forbid(unsafe_code)]

use crate::btree::{Cursor, Read, Tree};

/// A walk over the keys of one lease, in their order. Whoever walks in slices holds the state in between: the tree of
/// these keys has no revisions.
pub struct AttachedKeys<'r> {
    cursor: Cursor<'r>,
    /// What the lease's records begin with.
    lease: [u8; 8],
}

impl<'r> AttachedKeys<'r> {
    /// At the first key of `lease`.
    pub fn new<R: Read>(read: &'r R, lease: i64) -> Self {
        let lease = lease.to_be_bytes();
        let mut cursor = read.cursor(Tree::LeaseKey);
        cursor.seek(&lease);
        Self { cursor, lease }
    }

    /// The key that the walk is at; none at the end.
    pub fn key(&self) -> Option<&[u8]> {
        if self.cursor.valid() { self.cursor.key().strip_prefix(&self.lease) } else { None }
    }

    /// To the next key.
    pub fn advance(&mut self) {
        self.cursor.next();
    }
}

/// The first keys of a lease, `most` of them if there are as many, copied: for a write, which holds the tree that it
/// changes.
pub fn first_lease_keys<R: Read>(read: &R, lease: i64, most: usize) -> Vec<Vec<u8>> {
    let mut walk = AttachedKeys::new(read, lease);
    let mut keys = Vec::new();
    while keys.len() < most
        && let Some(key) = walk.key()
    {
        keys.push(key.to_vec());
        walk.advance();
    }
    keys
}
