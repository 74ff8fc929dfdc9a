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

/// The first keys of a lease, copied: for a write, which holds the tree that it changes.
pub struct FirstKeys {
    /// The keys.
    pub keys: Vec<Vec<u8>>,
    /// The lease has no others.
    pub is_all: bool,
}

/// The first `most` keys of a lease, and no more once they have `bytes_max` bytes.
pub fn first_lease_keys<R: Read>(read: &R, lease: i64, most: usize, bytes_max: usize) -> FirstKeys {
    let mut walk = AttachedKeys::new(read, lease);
    let (mut keys, mut bytes) = (Vec::new(), 0);
    while keys.len() < most
        && bytes < bytes_max
        && let Some(key) = walk.key()
    {
        bytes += key.len();
        keys.push(key.to_vec());
        walk.advance();
    }
    FirstKeys { keys, is_all: walk.key().is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::schema::lease_key;

    #[test]
    fn the_first_keys_are_bounded_by_number_and_by_bytes() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        for key in [&b"aaaa"[..], b"bbbb", b"cccc"] {
            txn.put(Tree::LeaseKey, &lease_key(7, key), &[]);
        }
        txn.put(Tree::LeaseKey, &lease_key(8, b"d"), &[]);
        let first = |most, bytes_max| {
            let FirstKeys { keys, is_all } = first_lease_keys(&txn, 7, most, bytes_max);
            (keys.len(), is_all)
        };
        assert_eq!([first(9, 99), first(3, 99), first(2, 99)], [(3, true), (3, true), (2, false)]);
        assert_eq!([first(9, 9), first(9, 8), first(9, 1)], [(3, true), (2, false), (1, false)]);
    }
}
