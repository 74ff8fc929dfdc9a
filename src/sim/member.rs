//! The member as a process: opened from what is on the disk, and gone without a word.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::asked::Asked;
use super::judge::judge;
use super::log_disk::{By, SIZES};
use super::outlets::Outlets;
use super::plant::Plant;
use super::segments::Preparer;
use super::session::Core;
use super::spoil::spoil_store;
use super::world::{TICK, World};
use kevel::btree::Store;
use kevel::cluster::reconfig::Rules;
use kevel::mvcc::compact_hash::CompactionDigest;
use kevel::mvcc::leaf_counts::LeafCounts;
use kevel::mvcc::pin::Pins;
use kevel::mvcc::remembered::PlanMemory;
use kevel::page::CheckpointJob;
use kevel::replica::bootstrap::Foundation;
use kevel::replica::port::{Input, Outputs};
use kevel::replica::read_gate::ReadGate;
use kevel::replica::{Opening, Replica, Settings};
use kevel::session::{Tickets, Watches};
use kevel::wal::segment::first_needed;
use kevel::wal::{self, SegmentName, folder, mend};
use kevel::watch::encode::Identity;
use kevel::watch::hub::RESPONSE_BYTES_MAX;
use kevel::watch::{Budget, HubConfig};

/// Ids are numbered per life of the process, so that no two requests ever share one.
const LIFE_SHIFT: u32 = 32;

/// The running process.
pub struct Member {
    pub replica: Replica,
    pub asked: Asked,
    pub gate: Arc<ReadGate>,
    pub cores: Vec<Core>,
    /// Arrived at the replica and not taken.
    pub inbox: VecDeque<Input>,
    pub turn_due: bool,
    pub outputs: Outputs,
    /// The revision whose events were published last.
    pub published: i64,
    /// Log writes, the first on its way: number, entries and mark that are durable with it, and the write.
    pub writes: VecDeque<(u64, (u64, u64), Option<wal::Write>)>,
    /// The thread that prepares segments.
    pub preparer: Preparer,
    /// A checkpoint that waits for room on the disk.
    pub checkpoint: Option<CheckpointJob>,
    /// A compaction's hash that is being taken.
    pub digest: Option<Box<CompactionDigest>>,
    /// Keys that lived in the store when the process began.
    pub keys: i64,
    /// Compactions whose hash was taken in this life, with the hash.
    pub digested: BTreeMap<i64, u32>,
    ids: u64,
}

/// How a start ends.
pub enum Boot {
    Running(Box<Member>),
    Refused(String),
}

fn hub_config(world: &mut World, identity: Identity) -> HubConfig {
    HubConfig {
        identity,
        max_request_bytes: world.params.max_request_bytes,
        fragment_slack_bytes: world.params.fragment_slack_bytes,
        response_bytes_max: RESPONSE_BYTES_MAX,
        seed: world.prng.next_u64(),
        limits: world.params.hub_limits,
        ..HubConfig::default()
    }
}

/// What the process is started with. Its request ids begin at `first_id`.
fn settings(world: &mut World, member_id: u64, first_id: u64) -> Settings {
    Settings {
        member_id,
        name: "sim".into(),
        client_urls: vec!["http://localhost:2379".into()],
        election_ticks: 10,
        tick: TICK,
        pre_vote: true,
        catchup_entries: world.prng.below(20),
        segments_kept: world.prng.below(3) as usize,
        lease_ttl_min: super::model::MIN_TTL_SECONDS,
        quota_bytes: world.spoilt_quota(),
        asks_versions: false,
        rules: Rules::default(),
        request_ids: (first_id, 2),
        seed: world.prng.next_u64(),
    }
}

impl Member {
    /// Starts the process on the world's disk.
    pub fn boot(world: &mut World) -> Boot {
        let file = world.disk.store_file();
        let mut store = match Store::open(file.clone()) {
            Ok(store) => store,
            Err(error) => return Boot::Refused(error.to_string()),
        };
        spoil_store(world, &mut store);
        let applied = store.applied().index;
        if let Err(error) = folder::clean(world.disk.folder(By::Start)) {
            return Boot::Refused(error.to_string());
        }
        let log = world.disk.log();
        let names: Vec<SegmentName> = log.iter().map(|(name, _)| *name).collect();
        let foundation =
            Foundation::new([("sim".to_owned(), vec!["http://localhost:2380".to_owned()])], "simulation");
        let member_id = foundation.founders[0].id;
        world.workload.member_id = member_id;
        let cluster_id = foundation.cluster_id;
        let opening = if names.is_empty() {
            if applied > 0 {
                return Boot::Refused(format!("the log is gone, and the store holds entry {applied}"));
            }
            world.judge.on_restart(&[], &[]);
            Opening::Found(foundation)
        } else {
            let needed = &log[first_needed(&names, applied).unwrap_or(0)..];
            let segments: Vec<(SegmentName, &[u8])> =
                needed.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let mut recovered = match wal::recover(&segments, applied) {
                Ok(recovered) => recovered,
                Err(error) => return Boot::Refused(error.to_string()),
            };
            world.judge.on_restart(needed, &names);
            if world.plant == Some(Plant::LastRecordDropped) {
                recovered.entries.pop();
            }
            let last = recovered.entries.last().map_or(applied, |last| last.index);
            judge!(last == world.judge.last(), "recovery ends at {last}, the log at {}", world.judge.last());
            let line = format_args!("the log ends at {last}, {:?}", recovered.tail);
            world.trace.step(world.now, &[11, last], line);
            if world.plant != Some(Plant::TailNotZeroed)
                && let Err(error) = mend::mend_tail(world.disk.folder(By::Start), &recovered.tail, &SIZES)
            {
                return Boot::Refused(error.to_string());
            }
            file.settle();
            Opening::Recover(Box::new(recovered), names)
        };
        let cores = world.params.cores;
        let life = world.tally.crashes;
        let first_id = (life + 1) << LIFE_SHIFT;
        let settings = settings(world, member_id, first_id);
        let pins = Pins::new(cores);
        let mut replica =
            Replica::open(settings, store, opening, pins.clone()).expect("a store that was checked");
        replica.set_bounds(&world.params.bounds);
        let revision = replica.applied().revision;
        let config = hub_config(world, Identity { cluster_id, member_id, raft_term: 0 });
        let plan_bytes = world.params.plan_bytes;
        let readers = replica.readers();
        let revisions = 1 + world.prng.below(8) as usize;
        let (bytes, looks) = (world.params.hub_slice_bytes, world.params.hub_slice_looks);
        let budget = Budget { revisions, bytes, looks };
        let timeout = world.params.request_timeout;
        let cores = (0..cores)
            .map(|number| Core {
                reader: readers.register(),
                watches: Watches::new(config, revision, budget),
                tickets: Tickets::new(number as u16, timeout),
                outlets: Outlets::default(),
                inbox: VecDeque::new(),
                turn_due: false,
                issued: vec![],
                pins: pins.slot(number),
                plan_memory: PlanMemory::new(plan_bytes),
                counts: LeafCounts::default(),
            })
            .collect();
        let keys = world.judge.model.pairs(&[0], &[0], revision).len() as i64;
        world.fullness.on_boot(member_id, world.judge.last());
        Boot::Running(Box::new(Self {
            gate: replica.gate().clone(),
            replica,
            asked: Asked::default(),
            cores,
            inbox: VecDeque::new(),
            turn_due: false,
            outputs: Outputs::default(),
            published: revision,
            writes: VecDeque::new(),
            preparer: Preparer::default(),
            checkpoint: None,
            digest: None,
            keys,
            digested: BTreeMap::new(),
            ids: first_id + 1,
        }))
    }

    /// An id that no other request ever has.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 2;
        self.ids
    }
}
