//! From what is on the disk to a running replica.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{ConfState, HardState};
use raft::{Config, RawNode, ReadOnlyOption};

use super::apply::State;
use super::bootstrap::Foundation;
use super::checkpoint::Policy;
use super::defragment::Defragmentation;
use super::digest::Digests;
use super::election::Timeouts;
use super::propose::Proposals;
use super::read_gate::ReadGate;
use super::read_index::Reads;
use super::replica::{Founding, Replica, Settings};
use super::tail::Tail;
use super::tally::Tally;
use crate::btree::Store;
use crate::limits::{APPLY_BESIDE_MIN, EXPIRE_MAX, MESSAGE_BYTES_MAX, MESSAGES_INFLIGHT_MAX};
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::stdx::prng::Prng;
use crate::wal::{Appender, Metadata, Recovered, SegmentName};

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
    /// # Panics
    /// When store and log do not belong together.
    pub fn open(settings: Settings, mut store: Store, opening: Opening, pins: Pins) -> Self {
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
        let secret = Prng::new(!settings.seed).next_u64();
        let state = State::restore(&store.readers().register().snapshot(), settings.lease_ttl_min, secret);
        let applied = store.applied();
        let hard_state = HardState { commit: hard_state.commit.max(applied.index), ..hard_state };
        let conf_state = conf_state(&state);
        let mut checkpoints = Policy::default();
        // What is replayed now would be replayed again.
        checkpoints.logged(entries.iter().map(|entry| entry.data.len() as u64).sum(), entries.len());
        let replayed = entries.last().map_or(applied.index, |last| last.index);
        let tail = Tail::new((applied.index, applied.term), entries, hard_state, conf_state);
        let config = Config {
            id: settings.member_id,
            election_tick: settings.election_ticks,
            heartbeat_tick: 1,
            applied: applied.index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: settings.pre_vote,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, tail, &logger).expect("the configuration is one that raft accepts");
        let mut prng = Prng::new(settings.seed);
        let proposals = Proposals::new(settings.request_ids);
        let mut replica = Self {
            timeouts: Timeouts::new(settings.election_ticks, prng.fork()),
            settings,
            node,
            state,
            log,
            pins,
            gate: Arc::new(ReadGate::default()),
            reads: Reads::default(),
            checkpoints,
            proposals,
            unsynced: VecDeque::new(),
            last_ready: 0,
            lease_calls: Vec::new(),
            clearing: BTreeSet::new(),
            committed: VecDeque::new(),
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
        replica
    }
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
