//! How many live keys the leaves of `Index` have, for answers that say how many there are.
//!
//! etcd counts every key of the interval, however few pairs were asked for. A published leaf never changes, so what a
//! core has counted in it once holds until the leaf is replaced, and the next count looks at its header and first key
//! and no more. A key's revisions may span leaves; whether the first key continues from the previous leaf is cached
//! with that leaf's id.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use super::schema::{is_tombstone, split_index_key};
use crate::btree::{Leaf, LeafId, PageId};
use crate::error::Error;

/// Leaves remembered, those of three million keys or so, in some 80 bytes each. What comes then begins anew.
const LEAVES_MAX: usize = 1 << 15;

/// What a core remembers of the leaves of one store, from the first count until the store is opened anew.
#[derive(Default)]
pub struct LeafCounts(RefCell<HashMap<PageId, LeafCount>>);

/// The live keys of a leaf, at its newest revision.
#[derive(Clone, Copy)]
pub(super) struct LeafCount {
    leaf: LeafId,
    /// The newest main revision in it: the count holds for reads at this one and later ones.
    pub(super) newest: i64,
    /// Keys whose first entry in the leaf is not a deletion.
    live: u32,
    /// The first key is one of them.
    is_first_live: bool,
    /// Whether the first key's newest entries are in the leaf before, if that is this one.
    follows: Option<(LeafId, bool)>,
}

impl LeafCount {
    fn of(leaf: &Leaf<'_>) -> Result<Self, Error> {
        let mut count = Self { leaf: leaf.id(), newest: 0, live: 0, is_first_live: false, follows: None };
        let (mut prefix, mut counted) = (Vec::new(), Ok(()));
        leaf.each(|key, value| {
            if counted.is_ok() {
                counted = count.add(key, value, &mut prefix);
            }
        });
        counted.map(|()| count)
    }

    /// Counts the next entry of the leaf. `prefix` is that of the entry before it.
    fn add(&mut self, key: &[u8], value: &[u8], prefix: &mut Vec<u8>) -> Result<(), Error> {
        let (of, revision) = split_index_key(key)?;
        self.newest = self.newest.max(revision.main);
        if of != *prefix {
            let is_live = !is_tombstone(value)?;
            self.is_first_live |= is_live && prefix.is_empty();
            self.live += u32::from(is_live);
            prefix.clear();
            prefix.extend_from_slice(of);
        }
        Ok(())
    }

    /// Live keys, if the newest entries of the first key are, or are not, in the leaf before.
    pub(super) fn live(&self, continues: bool) -> u64 {
        u64::from(self.live - u32::from(continues && self.is_first_live))
    }

    /// Whether its first key begins in the leaf `before`, if that is known.
    pub(super) fn continues(&self, before: LeafId) -> Option<bool> {
        self.follows.filter(|follows| follows.0 == before).map(|follows| follows.1)
    }
}

impl LeafCounts {
    /// Another store is counted from now on.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    /// What is known of a published leaf; true if it had to be counted first.
    ///
    /// # Errors
    /// When an entry in it cannot be read.
    pub(super) fn of(&self, leaf: &Leaf<'_>) -> Result<(LeafCount, bool), Error> {
        let known = self.0.borrow().get(&leaf.id().0).copied().filter(|known| known.leaf == leaf.id());
        if let Some(count) = known {
            return Ok((count, false));
        }
        let count = LeafCount::of(leaf)?;
        self.remember(count);
        Ok((count, true))
    }

    /// Remembers whether the leaf's first key begins in the leaf `before`.
    pub(super) fn note(&self, count: LeafCount, before: LeafId, continues: bool) {
        self.remember(LeafCount { follows: Some((before, continues)), ..count });
    }

    /// Commits a fault in everything that is remembered.
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub fn spoil(&self, fault: Fault) {
        for count in self.0.borrow_mut().values_mut() {
            match fault {
                Fault::ForEveryRevision => count.newest = 0,
                Fault::NeverContinued => count.follows = count.follows.map(|(before, _)| (before, false)),
            }
        }
    }

    fn remember(&self, count: LeafCount) {
        let mut counts = self.0.borrow_mut();
        if counts.len() == LEAVES_MAX && !counts.contains_key(&count.leaf.0) {
            counts.clear();
        }
        counts.insert(count.leaf.0, count);
    }
}

/// What a broken core would remember: for the simulator, which has to find it.
#[cfg(any(debug_assertions, feature = "faults"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A count holds for reads at every revision.
    ForEveryRevision,
    /// No key continues from the leaf before.
    NeverContinued,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::answer_room::AnswerRoom;
    use crate::mvcc::planned::{Planned, Progress};
    use crate::mvcc::range::Plan;
    use crate::mvcc::write::{Writer, initialize};
    use crate::mvcc::{View, compact};
    use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
    use crate::stdx::prng::Prng;
    use bytes::BytesMut;

    const KEYS: u64 = 3_000;

    /// Some keys are written so often that their revisions fill leaves; some are longer than a leaf has room for, or
    /// have to be escaped.
    fn random_key(prng: &mut Prng) -> Vec<u8> {
        let key = if prng.chance(1, 3) { prng.below(5) * (KEYS / 5) } else { prng.below(KEYS) };
        let mut name = format!("/registry/things/{key:05}").into_bytes();
        if prng.chance(1, 40) {
            name.push(0);
            name.resize([20, 3_000][prng.below(2) as usize], b'x');
        }
        name
    }

    fn change(store: &mut Store, prng: &mut Prng) {
        let mut txn = store.write();
        for _ in 0..prng.below(60) {
            let mut writer = Writer::begin(&mut txn);
            for _ in 0..1 + prng.below(3) {
                let key = random_key(prng).into();
                if prng.chance(1, 4) {
                    let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
                    writer.delete_range(&delete, &mut BytesMut::new(), &mut AnswerRoom::default()).unwrap();
                } else {
                    writer.put(&PutRequest { key, ..PutRequest::default() }).unwrap();
                }
            }
            writer.finish();
        }
        txn.commit();
    }

    fn random_request(prng: &mut Prng, oldest: i64, newest: i64) -> RangeRequest {
        let range_end = if prng.chance(1, 3) { b"\0".to_vec() } else { random_key(prng) };
        RangeRequest {
            key: random_key(prng).into(),
            range_end: range_end.into(),
            revision: if prng.chance(1, 2) {
                0
            } else {
                oldest + prng.below((newest - oldest + 1) as u64) as i64
            },
            limit: prng.below(40) as i64,
            count_only: prng.chance(1, 2),
            ..RangeRequest::default()
        }
    }

    #[test]
    fn a_count_by_leaves_is_the_count_by_keys() {
        let prng = &mut Prng::new(27);
        let counts = LeafCounts::default();
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        txn.commit();
        let mut shortened = 0;
        for round in 0..800 {
            change(&mut store, prng);
            let applied = store.applied();
            if round % 50 == 49 {
                let mut txn = store.write();
                compact::mark(&mut txn, applied.revision - 200).unwrap();
                compact::sweep(&mut txn, None, usize::MAX).unwrap();
                txn.commit();
            }
            let mut reader = store.readers().register();
            for _ in 0..16 {
                let oldest = store.applied().compact_revision.max(1);
                let request = random_request(prng, oldest, store.applied().revision);
                let snapshot = reader.snapshot();
                let view = View::new(&snapshot);
                let mut ours = Plan::new(&view, &request).unwrap();
                let theirs = Plan::new(&view, &request).unwrap().finish(&view).unwrap();
                drop(snapshot);
                let budget = [7, 300, 100_000][prng.below(3) as usize];
                let mut legs = 1;
                let ours = loop {
                    let snapshot = reader.snapshot();
                    match ours.step(&View::new(&snapshot).counting_with(&counts), budget).unwrap() {
                        Progress::Done(emission) => break emission,
                        Progress::Pending(plan) => ours = plan,
                    }
                    drop(snapshot);
                    legs += 1;
                    if prng.chance(1, 100) {
                        change(&mut store, prng);
                    }
                };
                assert_eq!((ours.count(), ours.kvs()), (theirs.count(), theirs.kvs()), "{request:?}");
                shortened += usize::from(budget == 300 && legs <= 3 && ours.count() > 1_000);
            }
        }
        assert!(shortened > 100, "only {shortened} counts were shortened");
    }
}
