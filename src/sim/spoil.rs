//! Where planted bugs are switched on, if they take more than a line.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::client::Waiting;
use super::plant::Plant;
use super::world::World;
use kevel::btree::{Applied, Read, Store, Tree};
use kevel::mvcc::leaf_counts::LeafCounts;
use kevel::mvcc::{Event, EventBatch};
use kevel::proto::leasepb;
use kevel::replica::Replica;
use kevel::replica::port::{Output, Outputs};
use kevel::wal::segment::releasable;
use kevel::watch::Hub;

impl World {
    /// True now and then where this bug is planted. Other worlds draw no number for it.
    pub fn spoils(&mut self, plant: Plant, one_in: u64) -> bool {
        self.plant == Some(plant) && self.prng.chance(1, one_in)
    }

    /// The quota that the member is told.
    pub fn spoilt_quota(&self) -> Option<u64> {
        match self.plant {
            Some(Plant::QuotaIgnored) => None,
            Some(Plant::QuotaKept) => self.params.quota,
            _ => self.quota,
        }
    }

    /// Who has the slot of a ticket that nobody waits for any more.
    pub fn redeem_another(&mut self, core: usize) -> Option<(usize, Waiting)> {
        if self.plant != Some(Plant::TicketReused) {
            return None;
        }
        let core = &mut self.member().cores[core];
        core.issued.drain(..).find_map(|ticket| core.tickets.redeem(ticket))
    }

    /// Segments are deleted though nothing is durable yet.
    pub fn delete_early(&mut self, index: u64) {
        if self.plant == Some(Plant::DeletedEarly) {
            let names: Vec<_> = self.disk.log().iter().map(|(name, _)| *name).collect();
            let count = releasable(&names, index, 1, None);
            let member = self.member.as_mut().expect("a member that runs");
            member.preparer.release(&self.disk, &names[..count]);
        }
    }

    /// A snapshot is forgotten, now and then.
    pub fn keep_snapshot(&mut self) {
        if self.spoils(Plant::SnapshotKept, 100) {
            let reader = Box::leak(Box::new(self.member().replica.readers().register()));
            std::mem::forget(reader.snapshot());
        }
    }
}

/// Whether this build has the bugs that are planted within the product.
pub const HAS_FAULTS: bool = cfg!(any(debug_assertions, feature = "faults"));

/// What a planted bug does in the middle of an entry.
#[cfg(any(debug_assertions, feature = "faults"))]
pub fn spoil_midway(plant: Option<Plant>, replica: &mut Replica, outputs: &mut Outputs) {
    use kevel::replica::Fault;
    let fault = match plant {
        Some(Plant::KeySkipped) => Fault::KeySkipped,
        Some(Plant::AppliedMidway) => Fault::CountedApplied,
        Some(Plant::CheckpointMidway) => Fault::CheckpointBegun,
        _ => return,
    };
    replica.spoil(fault, outputs);
}

/// Nothing: see [`HAS_FAULTS`].
#[cfg(not(any(debug_assertions, feature = "faults")))]
pub fn spoil_midway(_: Option<Plant>, _: &mut Replica, _: &mut Outputs) {}

/// What a planted bug does to the counts of leaves that a core remembers.
#[cfg(any(debug_assertions, feature = "faults"))]
pub fn spoil_counts(plant: Option<Plant>, counts: &LeafCounts) {
    use kevel::mvcc::leaf_counts::Fault;
    match plant {
        Some(Plant::CountTooEarly) => counts.spoil(Fault::ForEveryRevision),
        Some(Plant::CountTwice) => counts.spoil(Fault::NeverContinued),
        _ => {}
    }
}

/// Nothing: see [`HAS_FAULTS`].
#[cfg(not(any(debug_assertions, feature = "faults")))]
pub fn spoil_counts(_: Option<Plant>, _: &LeafCounts) {}

/// What a planted bug does to events that a hub has matched with some of their watchers.
#[cfg(any(debug_assertions, feature = "faults"))]
pub fn spoil_walks(plant: Option<Plant>, hub: &mut Hub) {
    use kevel::watch::WalkFault;
    match plant {
        Some(Plant::WatcherSkipped) => hub.spoil(WalkFault::Skips),
        Some(Plant::WatcherMetTwice) => hub.spoil(WalkFault::Repeats),
        _ => {}
    }
}

/// Nothing: see [`HAS_FAULTS`].
#[cfg(not(any(debug_assertions, feature = "faults")))]
pub fn spoil_walks(_: Option<Plant>, _: &mut Hub) {}

/// Planted bugs in the order of what a turn leads to.
pub fn spoil_order(plant: Option<Plant>, outputs: &mut Outputs) {
    let is_batch = |output: &Output| matches!(output, Output::Publish(_));
    match plant {
        Some(Plant::ReplyOvertakes) => outputs.sort_by_key(is_batch),
        Some(Plant::BatchesSwapped) => {
            let batches: Vec<usize> = (0..outputs.len()).filter(|&at| is_batch(&outputs[at])).collect();
            if let [first, second, ..] = batches[..] {
                outputs.swap(first, second);
            }
        }
        _ => {}
    }
}

/// A batch with nothing that anybody watches: no key is empty.
pub fn nothing_at(revision: i64, compact_revision: i64) -> Arc<EventBatch> {
    let event =
        Event { sub: 0, delete: true, create: false, key: Bytes::new(), kv: Bytes::new(), prev: None };
    Arc::new(EventBatch { revision, compact_revision, events: vec![event] })
}

fn records(read: &impl Read, tree: Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = read.cursor(tree);
    cursor.seek(&[]);
    let mut records = Vec::new();
    while cursor.valid() {
        records.push((cursor.key().to_vec(), cursor.value().to_vec()));
        cursor.next();
    }
    records
}

/// Planted bugs of the store: what a broken checkpoint, compaction or lease table would leave.
pub fn spoil_store(world: &mut World, store: &mut Store) {
    let applied = store.applied();
    if applied.index == 0 {
        return;
    }
    let mut txn = store.write();
    match world.plant {
        Some(Plant::AppliedBehind) => txn.set_applied(Applied { index: applied.index - 1, ..applied }),
        Some(Plant::AppliedAhead) => txn.set_applied(Applied { index: applied.index + 1, ..applied }),
        Some(Plant::CompactionEatsLive) => {
            let mut cursor = txn.cursor(Tree::Kv);
            cursor.seek(&[]);
            let first = cursor.valid().then(|| cursor.key().to_vec());
            drop(cursor);
            if let Some(key) = first {
                txn.delete(Tree::Kv, &key);
            }
        }
        Some(Plant::LeaseRevived) => {
            let records = records(&txn, Tree::Lease);
            records.iter().chain(&world.old_leases).for_each(|(key, value)| txn.put(Tree::Lease, key, value));
            world.old_leases = records;
        }
        Some(Plant::RemainingForgotten) => {
            for (key, value) in records(&txn, Tree::Lease) {
                let lease = leasepb::Lease::decode(value.as_slice()).expect("a stored lease");
                let lease = leasepb::Lease { remaining_ttl: 0, ..lease };
                txn.put(Tree::Lease, &key, &lease.encode_to_vec());
            }
        }
        Some(Plant::AlarmForgotten) => {
            for (key, _) in records(&txn, Tree::Alarm) {
                txn.delete(Tree::Alarm, &key);
            }
        }
        Some(Plant::AlarmRevived) => {
            let records = records(&txn, Tree::Alarm);
            records.iter().chain(&world.old_alarms).for_each(|(key, value)| txn.put(Tree::Alarm, key, value));
            world.old_alarms = records;
        }
        _ => return,
    }
    txn.commit();
}
