//! Forgetting history: first logically, in one step; then physically, in slices.
//!
//! A compaction to C moves the compaction revision: from then on no request reads below it. What nobody can read
//! any more is found in tree `Garbage` in the order in which it died, so the sweep costs what died and nothing for
//! what lives, and stops after as many removals as it is allowed between two turns.
#![forbid(unsafe_code)]

use super::revision::Revision;
use super::schema::{KeyBuf, garbage_key, index_key, split_garbage_key, split_kv_value};
use crate::btree::{Applied, Cursor, Read, Tree, WriteTxn};
use crate::error::Error;
use crate::page::PageId;
use crate::wire::key_of;

/// Pages that a slice of the sweep may wait for: some milliseconds of a disk that is busy. Most of the pages were asked
/// for ahead.
const WAITS_MAX: usize = 4;

/// A value of this many bytes costs a slice of the sweep as much again as a removal does: the pages of a long value are
/// read from the disk, and their checksum is computed.
const BYTES_PER_REMOVAL: usize = 8 * 1024;

/// Moves the compaction revision.
pub fn mark(txn: &mut WriteTxn<'_>, revision: i64) -> Result<(), Error> {
    let applied = txn.applied();
    if revision <= applied.compact_revision {
        return Err(Error::Compacted);
    }
    if revision > applied.revision {
        return Err(Error::FutureRevision);
    }
    txn.set_applied(Applied { compact_revision: revision, ..applied });
    Ok(())
}

/// True if a sweep would find something to do that `pinned` does not hold back.
pub fn is_sweep_due(applied: Applied, pinned: Option<i64>) -> bool {
    applied.swept_revision < limit(applied, pinned)
}

fn limit(applied: Applied, pinned: Option<i64>) -> i64 {
    applied.compact_revision.min(pinned.unwrap_or(i64::MAX))
}

/// What a slice of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Revisions removed.
    pub removed: usize,
    /// Nothing is left that may go: `Applied::swept_revision` has reached what the pins allow.
    pub done: bool,
    /// Pages that the disk was asked for.
    pub reads: usize,
}

/// What a slice asks the disk for.
struct Reads<'t, 's> {
    txn: &'t WriteTxn<'s>,
    /// The page of each tree that was asked for last. Neighbours share pages, so the next key is likely to want it too.
    last: [Option<PageId>; Tree::ALL.len()],
    /// Pages asked for.
    count: usize,
}

impl Reads<'_, '_> {
    /// Asks for the place of a key. False if it is not in memory.
    fn is_there(&mut self, tree: Tree, key: &[u8]) -> bool {
        let page = self.txn.read_ahead(tree, key);
        if page.is_some() && page != self.last[tree as usize] {
            self.last[tree as usize] = page;
            self.count += 1;
        }
        page.is_none()
    }
}

/// Removes up to `budget` revisions, fewer where their values are long. They are those that neither the compaction
/// revision nor `pinned`, the lowest revision that some reader still reads at, lets anyone see.
///
/// # Errors
/// When `Garbage` has something that cannot be read, or that the other trees do not have. What was removed until then
/// has to be dropped with the transaction.
pub fn sweep(txn: &mut WriteTxn<'_>, pinned: Option<i64>, budget: usize) -> Result<Swept, Error> {
    let applied = txn.applied();
    let limit = limit(applied, pinned);
    if applied.swept_revision >= limit {
        return Ok(Swept { done: true, ..Swept::default() });
    }
    let is_large = txn.is_large();
    let mut dead = Vec::new();
    let mut cursor = txn.cursor(Tree::Garbage);
    cursor.seek(&[]);
    let mut reads = Reads { txn, last: Default::default(), count: 0 };
    let (mut cost, mut waits) = (0, 0);
    while cursor.valid() && cost < budget && waits < WAITS_MAX {
        let (due, revision) = split_garbage_key(cursor.key())?;
        if due > limit {
            break;
        }
        let mut waits_for = |tree, key: &[u8]| usize::from(is_large && !reads.is_there(tree, key));
        waits += waits_for(Tree::Kv, &revision.to_bytes());
        let (index, len) = indexed(txn, revision)?;
        waits += waits_for(Tree::Index, &index);
        // In a large store, to ask for the two pages takes as long as the removal does.
        cost += 1 + usize::from(is_large) + len / BYTES_PER_REMOVAL;
        dead.push((due, revision, index));
        cursor.next();
    }
    // The first entry that stays tells how far everything is gone.
    let next_due = if cursor.valid() { Some(split_garbage_key(cursor.key())?.0) } else { None };
    let done = next_due.is_none_or(|due| due > limit);
    if !done && is_large {
        read_slices_ahead(&mut reads, cursor, budget)?;
    }
    let reads = reads.count;
    for (due, revision, index) in &dead {
        remove(txn, *due, *revision, index)?;
    }
    let swept_revision = if done { limit } else { next_due.map_or(limit, |due| due.saturating_sub(1)) };
    let swept_revision = swept_revision.max(applied.swept_revision);
    txn.set_applied(Applied { swept_revision, ..applied });
    Ok(Swept { removed: dead.len(), done, reads })
}

/// Where `Index` has a revision that is stored, and how long its value in `Kv` is.
fn indexed(txn: &WriteTxn<'_>, revision: Revision) -> Result<(KeyBuf, usize), Error> {
    let value = txn.get(Tree::Kv, &revision.to_bytes()).ok_or(Error::Corrupt)?;
    let key = key_of(split_kv_value(value)?.1).ok_or(Error::Corrupt)?;
    Ok((index_key(key, revision), value.len()))
}

/// Asks the disk for what the next two slices will remove, the first of them beginning where `garbage` points: the
/// pairs that both need, and the places in `Index` of the first one, whose pairs are likely to be there by now and tell
/// where those places are.
fn read_slices_ahead(reads: &mut Reads<'_, '_>, mut garbage: Cursor<'_>, budget: usize) -> Result<(), Error> {
    let mut cost = 0;
    while garbage.valid() && cost < 2 * budget {
        let revision = split_garbage_key(garbage.key())?.1;
        let is_in_memory = reads.is_there(Tree::Kv, &revision.to_bytes());
        cost += 2;
        if is_in_memory && cost <= budget {
            let (index, len) = indexed(reads.txn, revision)?;
            cost += len / BYTES_PER_REMOVAL;
            reads.is_there(Tree::Index, &index);
        }
        garbage.next();
    }
    Ok(())
}

/// Garbage is in all three trees until it is swept.
fn remove(txn: &mut WriteTxn<'_>, due: i64, dead: Revision, index: &[u8]) -> Result<(), Error> {
    let is_removed = txn.delete(Tree::Kv, &dead.to_bytes())
        && txn.delete(Tree::Index, index)
        && txn.delete(Tree::Garbage, &garbage_key(due, dead));
    if is_removed { Ok(()) } else { Err(Error::Corrupt) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::write::{Writer, initialize};
    use crate::proto::etcdserverpb::PutRequest;

    /// What each slice of a sweep removes from a store with `count` superseded values of `len` bytes.
    fn slices(count: usize, len: usize) -> Vec<usize> {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        for _ in 0..=count {
            let mut writer = Writer::begin(&mut txn);
            let put = PutRequest { key: "k".into(), value: vec![7; len].into(), ..PutRequest::default() };
            writer.put(&put).unwrap();
            let revision = writer.finish().map_or(0, |batch| batch.revision);
            let applied = txn.applied();
            txn.set_applied(Applied { revision, ..applied });
        }
        let revision = txn.applied().revision;
        mark(&mut txn, revision).unwrap();
        let mut slices = Vec::new();
        loop {
            let swept = sweep(&mut txn, None, 10).unwrap();
            slices.push(swept.removed);
            if swept.done {
                return slices;
            }
        }
    }

    #[test]
    fn a_slice_of_the_sweep_removes_fewer_values_the_longer_they_are() {
        assert_eq!(slices(25, 100), [10, 10, 5]);
        assert_eq!(slices(5, 3 * BYTES_PER_REMOVAL), [3, 2]);
        assert_eq!(slices(3, 100 * BYTES_PER_REMOVAL), [1, 1, 1]);
    }
}
