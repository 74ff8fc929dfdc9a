//! What the replica core tells the metrics: its turns, its outputs, its state.
#![forbid(unsafe_code)]

use super::{APPLIES, Core};
use crate::btree::StoreStats;
use crate::proto::etcdserverpb::AlarmType;
use crate::replica::Replica;
use crate::replica::tally::Tally;
use crate::server::io::clock;
use crate::server::log::lines;
use crate::stdx::time::{Duration, Instant};

/// What the replica core has counted, and when the compaction under way began.
#[derive(Default)]
pub struct Turns {
    seen: Tally,
    /// What the entry under way has taken in earlier turns.
    carried: Duration,
    compacting: Option<Instant>,
}

/// Shows the state of the replica after a turn: the quota is judged by it.
pub fn replica(core: &Core, replica: &Replica) {
    let gate = replica.gate();
    let (applied, store) = (replica.applied(), replica.store_stats());
    let has_leader = i64::from(gate.leader() != 0);
    if has_leader > core.has_leader.get() {
        core.leader_changes.inc();
    }
    core.has_leader.set(has_leader);
    core.is_leader.set(i64::from(replica.is_leader()));
    core.is_learner.set(i64::from(replica.is_learner()));
    core.proposals_committed.set(gate.committed() as i64);
    core.proposals_applied.set(applied.index as i64);
    core.revision.set(applied.revision);
    core.compact_revision.set(applied.compact_revision);
    core.store_bytes.set(store.total_bytes as i64);
    core.store_used_bytes.set(store.used_bytes as i64);
    for (kind, alarm) in [AlarmType::Nospace, AlarmType::Corrupt].into_iter().zip(&core.alarms) {
        let raised = i64::from(replica.alarms().is_raised(kind));
        if raised != alarm.raised.get() {
            match raised {
                0 => lines::alarm_disarmed(kind.as_str_name()),
                _ => lines::alarm_raised(kind.as_str_name()),
            }
            alarm.raised.set(raised);
            alarm.seen.set(1);
        }
    }
}

/// The replica's turn began then and took so long; `expected` is what an operator wants to hear of.
///
/// Entries are applied by the turn, so its time is shared out among them; one that takes several turns has the time of
/// all of them.
pub fn turn(
    core: &Core,
    turns: &mut Turns,
    tally: &Tally,
    began: Instant,
    took: Duration,
    expected: Duration,
) {
    let seen = &mut turns.seen;
    let swept = tally.sweeps > seen.sweeps;
    if swept {
        core.compaction_slice(took);
        turns.compacting.get_or_insert(began);
    }
    core.ranges.add(tally.ranges - seen.ranges);
    core.puts.add(tally.puts - seen.puts);
    core.deletes.add(tally.deletes - seen.deletes);
    core.txns.add(tally.txns - seen.txns);
    core.leases_revoked.add(tally.leases_revoked - seen.leases_revoked);
    core.leases_expired.add(tally.leases_expired - seen.leases_expired);
    core.keys.add(tally.growth.keys - seen.growth.keys);
    core.put_bytes.add((tally.growth.put_bytes - seen.growth.put_bytes) as i64);
    let fresh = |kind: usize, success: usize| tally.applied[kind][success] - seen.applied[kind][success];
    let all = || (0..APPLIES.len()).flat_map(|kind| [(kind, 0), (kind, 1)]);
    let entries: u64 = all().map(|(kind, success)| fresh(kind, success)).sum();
    let took = took + if entries > 0 { std::mem::take(&mut turns.carried) } else { Duration::ZERO };
    if entries == 0 && tally.suspensions > seen.suspensions {
        turns.carried += took;
    } else if entries > 0 {
        let each = took / u32::try_from(entries).unwrap_or(u32::MAX);
        for (kind, success) in all() {
            let count = fresh(kind, success);
            if count > 0 {
                core.apply(kind, success == 1, each, count);
            }
        }
    }
    if (entries > 0 || swept) && expected > Duration::ZERO && took > expected {
        core.applies_slow.inc();
        let kinds = (0..APPLIES.len()).map(|kind| (APPLIES[kind], fresh(kind, 0) + fresh(kind, 1)));
        let kinds = kinds.chain([("slice of a compaction", u64::from(swept))]);
        let kinds: Vec<_> = kinds.filter(|(_, count)| *count > 0).collect();
        lines::slow_turn(took, expected, &kinds);
    }
    seen.clone_from(tally);
}

/// A compaction has removed so many revisions and is done.
pub fn compacted(core: &Core, turns: &mut Turns, store: StoreStats, revision: i64, removed: u64) {
    let took = turns.compacting.take().map_or(Duration::ZERO, |began| clock::now().since(began));
    core.compacted_keys.add(removed);
    core.compacted(took, (clock::wall_nanos() / 1_000_000_000) as i64);
    lines::compacted(revision, took, removed, store.total_bytes, store.used_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_counts_what_is_new_and_shares_its_time_out() {
        let (core, mut turns, mut tally) = (Core::default(), Turns::default(), Tally::default());
        let began = clock::now();
        let mut count =
            |tally: &Tally| turn(&core, &mut turns, tally, began, Duration::from_millis(4), Duration::ZERO);
        (tally.puts, tally.txns) = (3, 1);
        tally.applied[0][1] = 4;
        count(&tally);
        assert_eq!((core.puts.get(), core.txns.get()), (3, 1));
        tally.puts = 5;
        count(&tally);
        assert_eq!((core.puts.get(), core.txns.get()), (5, 1), "what was counted is not counted again");
        let mut total = super::super::cell::Observed::default();
        core.apply_duration[0][1].add_to(&mut total);
        assert_eq!((total.count(), total.sum), (4, 4_000_000));
        assert_eq!(core.applies_slow.get(), 0, "nobody asked to hear of slow turns");
        tally.suspensions = 1;
        count(&tally);
        tally.applied[0][1] = 5;
        count(&tally);
        let mut total = super::super::cell::Observed::default();
        core.apply_duration[0][1].add_to(&mut total);
        assert_eq!((total.count(), total.sum), (5, 12_000_000), "an entry has the time of both its turns");
    }
}
