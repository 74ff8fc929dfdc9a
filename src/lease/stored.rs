//! The leases that one state of the store has.
#![forbid(unsafe_code)]

use crate::btree::{Cursor, Read, Tree};

/// The ids of all leases. Whoever walks in slices holds the state in between: the tree of leases has no revisions.
pub struct StoredIds<'r>(Cursor<'r>);

impl<'r> StoredIds<'r> {
    /// At the first lease.
    pub fn new<R: Read>(read: &'r R) -> Self {
        let mut cursor = read.cursor(Tree::Lease);
        cursor.seek(&[]);
        Self(cursor)
    }
}

impl Iterator for StoredIds<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        if !self.0.valid() {
            return None;
        }
        // Every key of this tree is an id. A key of another length, which only damage could leave, counts as id 0.
        let id = self.0.key().try_into().map_or(0, i64::from_be_bytes);
        self.0.next();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::lease::Lessor;
    use crate::stdx::time::Instant;

    #[test]
    fn the_stored_leases_are_those_that_were_granted_and_not_revoked() {
        let (mut store, mut lessor) = (Store::in_memory(), Lessor::new(1, 1));
        let mut txn = store.write();
        for id in [7, -7, i64::MAX, i64::MIN, 1] {
            lessor.grant(&mut txn, Instant::default(), id, 10).unwrap();
        }
        lessor.revoke(&mut txn, 7).unwrap();
        let mut ids: Vec<i64> = StoredIds::new(&txn).collect();
        ids.sort_unstable();
        assert_eq!(ids, [i64::MIN, -7, 1, i64::MAX]);
    }
}
