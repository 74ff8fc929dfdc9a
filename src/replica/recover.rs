//! From what is on the disk to a running replica.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message;
use raft::eraftpb::{ConfChange, ConfState, Entry as LogEntry, EntryType, HardState};
use raft::{Config, RawNode, ReadOnlyOption};

use super::apply::State;
use super::bootstrap::Foundation;
use super::checkpoint::Policy;
use super::defragment::Defragmentation;
use super::digest::Digests;
use super::election::Timeouts;
use super::execute::{self, Halted};
use super::propose::Proposals;
use super::read_gate::ReadGate;
use super::read_index::Reads;
use super::replica::{Founding, Replica, Settings};
use super::spill::Spill;
use super::tail::Tail;
use super::tally::Tally;
use crate::btree::Store;
use crate::cluster::Cluster;
use crate::limits::{
    APPLY_BESIDE_MIN, APPLY_BUDGET, APPLY_ENTRIES_MAX, EVENTS_PUBLISHED_MAX, EXPIRE_MAX, MESSAGE_BYTES_MAX,
    MESSAGES_INFLIGHT_MAX, PROPOSAL_TIMEOUT, SWEEP_SLICE,
};
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::stdx::prng::Prng;
use crate::wal::{Appender, Metadata, Recovered, SegmentName};

/// What is wrong where a record of members, alarms or leases cannot be read.
const DAMAGED: &str = "the store has a record of a member, an alarm or a lease that cannot be read. Restore the data \
                       directory from a snapshot, or remove this member from the cluster and add it anew with an empty \
                       one";

/// Where the log comes from.
pub enum Opening {
    /// There is none: this cluster is founded.
    Found(Foundation),
    /// This was read back, from these segments.
    Recover(Box<Recovered>, Vec<SegmentName>),
}

impl Replica {
    /// A replica on its store and log. The first drain begins where the last one ended.
    ///
    /// # Errors
    /// When the store has a record that cannot be read: why, and what to do.
    ///
    /// # Panics
    /// When store and log do not belong together.
    pub fn open(settings: Settings, mut store: Store, opening: Opening, pins: Pins) -> Result<Self, String> {
        let mut founding = Founding::Done;
        let mut marked = 0;
        let (log, entries, hard_state) = match opening {
            Opening::Found(foundation) => {
                let mut txn = store.write();
                initialize(&mut txn);
                txn.commit();
                let metadata = Metadata { node_id: settings.member_id, cluster_id: foundation.cluster_id };
                let entries = foundation.entries();
                let commit = entries.len() as u64;
                founding = Founding::Due(entries.clone());
                (Appender::create(metadata), entries, HardState { term: 1, vote: 0, commit })
            }
            Opening::Recover(recovered, segments) => {
                let mut txn = store.write();
                initialize(&mut txn);
                txn.commit();
                let log = Appender::resume(&recovered, segments);
                marked = recovered.mark.index;
                (log, recovered.entries, recovered.state)
            }
        };
        // Apart from the generator of election timeouts, which must not shift.
        let mut secrets = Prng::new(!settings.seed);
        let secret = secrets.next_u64();
        let state = State::restore(&store.readers().register().snapshot(), settings.lease_ttl_min, secret)
            .map_err(|_| DAMAGED)?;
        let applied = store.applied();
        let hard_state = HardState { commit: hard_state.commit.max(applied.index), ..hard_state };
        let conf_state = conf_state(&state);
        let mut checkpoints = Policy::default();
        // Replayed entries count towards the next checkpoint, or a second crash replays them again.
        checkpoints.logged(entries.iter().map(|entry| entry.data.len() as u64).sum(), entries.len());
        let replayed = entries.last().map_or(applied.index, |last| last.index);
        let tail = Tail::new((applied.index, applied.term), entries, hard_state, conf_state);
        let config = raft_config(&settings, applied.index);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, tail, &logger).expect("the configuration is one that raft accepts");
        let mut prng = Prng::new(settings.seed);
        let reads = Reads::new(settings.member_id, secrets.next_u64());
        let tick = settings.tick.as_millis().max(1);
        let timeout = PROPOSAL_TIMEOUT.as_millis().div_ceil(tick) as u64 + 2 * settings.election_ticks as u64;
        let proposals = Proposals::new(settings.request_ids, timeout);
        let mut replica = Self {
            timeouts: Timeouts::new(settings.election_ticks, prng.fork()),
            settings,
            node,
            state,
            log,
            pins,
            gate: Arc::new(ReadGate::default()),
            reads,
            checkpoints,
            proposals,
            unsynced: VecDeque::new(),
            last_ready: 0,
            lease_calls: Vec::new(),
            clearing: BTreeSet::new(),
            committed: VecDeque::new(),
            executing: None,
            checkpoint_ended: None,
            halted: Halted::No,
            spill: Spill::default(),
            buffers: Vec::new(),
            outbox: Vec::new(),
            founding,
            hashes: CompactionHashes::default(),
            digests: Digests::new(replayed),
            sweeping: Vec::new(),
            swept: 0,
            swept_told: store.applied().swept_revision.max(store.applied().compact_revision),
            checkpointing: None,
            unmarked: None,
            marked,
            log_is_quiet: true,
            tidy_due: false,
            defragmentation: Defragmentation::default(),
            settled: false,
            revoking: 0,
            expire_max: EXPIRE_MAX,
            apply_beside_min: APPLY_BESIDE_MIN,
            sweep_slice: SWEEP_SLICE,
            apply_entries_max: APPLY_ENTRIES_MAX,
            apply_budget: APPLY_BUDGET,
            events_max: EVENTS_PUBLISHED_MAX,
            deferred: false,
            alarming: 0,
            tally: Tally::default(),
            introduced: 0,
            leading: 0,
            store,
        };
        if replica.is_sweep_due() {
            replica.swept_told = -1;
        }
        Ok(replica)
    }
}

/// How raft is to run in a member that has applied the entries up to `applied`.
fn raft_config(settings: &Settings, applied: u64) -> Config {
    Config {
        id: settings.member_id,
        election_tick: settings.election_ticks,
        heartbeat_tick: 1,
        applied,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
        check_quorum: true,
        pre_vote: settings.pre_vote,
        read_only_option: ReadOnlyOption::Safe,
        ..Config::default()
    }
}

/// Why this member cannot serve what was found, and what to do. `entries` follow what `store` has applied.
pub fn refusal(member_id: u64, store: &Store, entries: &[LogEntry]) -> Option<String> {
    let Ok(mut cluster) = Cluster::restore(&store.readers().register().snapshot()) else {
        return Some(DAMAGED.to_owned());
    };
    for entry in entries.iter().filter(|entry| entry.entry_type() == EntryType::EntryConfChange) {
        let change = ConfChange::decode(entry.data.clone()).unwrap_or_default();
        if let Ok(change) = cluster.judge(&change) {
            cluster.foresee(change);
        }
    }
    if cluster.removed.contains(&member_id) {
        return Some(format!(
            "member {member_id:x} was removed from its cluster for good: \
             start a new member with an empty data directory"
        ));
    }
    let others = cluster.members.keys().filter(|id| **id != member_id);
    let others: Vec<String> = others.map(|id| format!("{id:x}")).collect();
    if !others.is_empty() {
        return Some(format!(
            "the data directory is of a cluster with other members ({}), and clusters of more than one are not built \
             yet: start it with etcd, remove the others with `etcdctl member remove`, stop it, and start Kevel on it \
             again",
            others.join(", ")
        ));
    }
    entries.iter().find_map(execute::refuse)
}

fn conf_state(state: &State) -> ConfState {
    let mut conf_state = ConfState::default();
    for member in state.cluster.members.values() {
        let learner = member.raft_attributes.as_ref().is_some_and(|attributes| attributes.is_learner);
        if learner {
            conf_state.learners.push(member.id);
        } else {
            conf_state.voters.push(member.id);
        }
    }
    conf_state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::bootstrap::Foundation;

    fn founders(count: usize) -> Foundation {
        let member = |n| (format!("m{n}"), vec![format!("http://h{n}:2380")]);
        Foundation::new((0..count).map(member), "token")
    }

    #[test]
    fn a_log_of_several_members_is_refused_and_one_that_got_alone_again_is_not() {
        let store = Store::in_memory();
        let (alone, pair) = (founders(1), founders(2));
        let [first, second] = [0, 1].map(|at| pair.founders[at].id);
        assert_eq!(refusal(alone.founders[0].id, &store, &alone.entries()), None);
        let mut entries = pair.entries();
        let said = refusal(first, &store, &entries).unwrap();
        assert!(said.contains(&format!("{second:x}")) && said.contains("member remove"), "{said}");
        let remove = ConfChange { node_id: second, ..ConfChange::default() };
        let remove = ConfChange { change_type: raft::eraftpb::ConfChangeType::RemoveNode as i32, ..remove };
        let data = remove.encode_to_vec().into();
        let entry_type = EntryType::EntryConfChange as i32;
        entries.push(LogEntry { entry_type, data, index: 3, ..LogEntry::default() });
        assert_eq!(refusal(first, &store, &entries), None);
        assert!(refusal(second, &store, &entries).unwrap().contains("removed"));
    }

    #[test]
    fn a_log_with_an_entry_that_cannot_be_applied_is_refused() {
        let store = Store::in_memory();
        let alone = founders(1);
        let with = |entry_type, data: &'static [u8]| {
            let entry = LogEntry {
                entry_type: entry_type as i32,
                data: data.into(),
                index: 2,
                ..LogEntry::default()
            };
            let entries = [alone.entries(), vec![entry]].concat();
            refusal(alone.founders[0].id, &store, &entries)
        };
        // An AuthEnable, which is not built; bytes that end inside a field; nothing at all.
        for data in [&[0xc2, 0x3e, 0x00][..], &[0x22, 0x05, 0x00]] {
            let said = with(EntryType::EntryNormal, data).unwrap();
            assert!(
                said.contains("log entry 2 cannot be applied") && said.contains("start the member"),
                "{said}"
            );
        }
        assert_eq!(with(EntryType::EntryNormal, &[]), None, "an empty entry begins a term");
        assert!(with(EntryType::EntryConfChangeV2, &[]).unwrap().contains("several members"));
    }
}
