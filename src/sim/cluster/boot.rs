//! A member's process as a start makes it, on what the disk has.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::disk::StoreFile;
use super::super::judge::judge;
use super::super::log_disk::{By, SIZES};
use super::super::plant::Plant;
use super::super::segments::Preparer;
use super::super::world::TICK;
use super::node::{Beginning, Life};
use super::session::Core;
use super::transfer::Transfers;
use super::world::World;
use kevel::btree::{Applied, Store};
use kevel::cluster::reconfig::Rules;
use kevel::mvcc::pin::Pins;
use kevel::replica::{Opening, Replica, Settings, refusal, unapplied};
use kevel::snapshot::installed;
use kevel::wal::segment::{first_needed, reach_back};
use kevel::wal::{self, Recovered, SegmentName, WalError, folder, mend};

/// Request ids and tickets begin anew with each life of a process: the node's number, the life, and a count.
const NODE_SHIFT: u32 = 48;
const LIFE_SHIFT: u32 = 32;

/// Readers of a member beside its session core: snapshots that are sent.
const PIN_SLOTS: usize = 1 + Transfers::MAX;

impl World {
    /// The process starts on what the disk has, unless it runs or has no right to.
    pub(super) fn boot(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.life.is_some() || node.is_gone {
            return;
        }
        node.lives += 1;
        let (id, lives) = (node.id, node.lives);
        let file = node.disk.store_file();
        let mut store = Store::open(file.clone()).unwrap_or_else(|error| panic!("judge: {error}"));
        spoil_store(self.plant, &mut store);
        let Some(opening) = self.opening(number, &store, &file) else {
            self.trace.step(
                self.now,
                &[13, number as u64],
                format_args!("{number} is not a member any more"),
            );
            self.nodes[number].is_gone = true;
            return;
        };
        let first_id = (number as u64 + 1) << NODE_SHIFT | lives << LIFE_SHIFT;
        let settings = Settings {
            member_id: id,
            name: self.nodes[number].name.clone(),
            client_urls: vec![format!("http://{}:2379", self.nodes[number].name)],
            election_ticks: 10,
            tick: TICK,
            pre_vote: self.prng.chance(3, 4),
            catchup_entries: self.variety.catchup_entries,
            segments_kept: self.variety.segments_kept,
            lease_ttl_min: 2,
            quota_bytes: None,
            asks_versions: false,
            rules: Rules { learners_max: 2, ..Rules::default() },
            request_ids: (first_id, 2),
            seed: self.prng.next_u64(),
        };
        let disk = &self.nodes[number].disk;
        let mut preparer = Preparer::default();
        disk.folder(By::Start).told(By::Start);
        preparer.prepare(disk);
        let pins = Pins::new(PIN_SLOTS);
        let mut replica =
            Replica::open(settings, store, opening, pins.clone()).expect("a store that was checked");
        replica.set_bounds(&self.params.bounds);
        replica.send_snapshots();
        spoil(&mut replica, self.plant);
        let applied = replica.applied();
        let core = Core::new(self, id, &replica.readers(), applied.revision);
        self.nodes[number].life = Some(Life {
            number: lives,
            looker: replica.readers().register(),
            replica,
            core,
            writes: VecDeque::new(),
            preparer,
            hashed: 0,
            digest: None,
            transfers: Transfers::new(&pins),
            asked: BTreeMap::new(),
            next_id: first_id + 1,
            turn_due: false,
            cluster_changes: None,
            farewell: None,
            is_leaving: false,
        });
        let line = format_args!("{number} starts, life {lives}, {applied:?}");
        self.trace.step(self.now, &[6, number as u64, lives, applied.index], line);
        self.judge.on_start(number, applied);
        self.turn_soon(number);
    }

    /// Where the log of a member comes from. None if the member was removed from its cluster.
    fn opening(&mut self, number: usize, store: &Store, file: &Arc<StoreFile>) -> Option<Opening> {
        let node = &mut self.nodes[number];
        let applied = store.applied();
        folder::clean(node.disk.folder(By::Start))
            .unwrap_or_else(|error| panic!("judge: the log cannot be cleaned: {error}"));
        let log = node.disk.newest_log();
        let names: Vec<SegmentName> = log.iter().map(|(name, _)| *name).collect();
        if names.is_empty() {
            judge!(applied.index == 0, "the log of {number} is gone, and the store holds {applied:?}");
            return Some(match node.beginning {
                Beginning::Founds => Opening::Found(self.foundation.clone()),
                Beginning::Joins => Opening::Join { cluster_id: self.foundation.cluster_id },
            });
        }
        let ignores = self.plant == Some(Plant::ClusterNoteIgnored);
        let snapshot = installed::read(&store.readers().register().snapshot()).filter(|_| !ignores);
        let after = match snapshot {
            Some((index, _)) => index,
            None => reach_back(&names, applied.index, self.variety.catchup_entries),
        };
        let mut recovered = recover(&log, &names, after, snapshot)
            .unwrap_or_else(|error| panic!("judge: {number} does not start: {error}"));
        if recovered.last_index < applied.index && after < applied.index {
            recovered = recover(&log, &names, applied.index, None)
                .unwrap_or_else(|error| panic!("judge: {number} does not start: {error}"));
        }
        judge_fit(number, applied, &recovered);
        if self.plant == Some(Plant::ClusterVoteForgotten) {
            recovered.state.vote = 0;
        }
        mend::mend_tail(node.disk.folder(By::Start), &recovered.tail, &SIZES)
            .unwrap_or_else(|error| panic!("judge: the log cannot be mended: {error}"));
        file.settle();
        let entries = unapplied(store, &recovered.entries);
        if let Some(why) = refusal(store, entries, recovered.state.commit) {
            panic!("judge: {number} does not start: {why}");
        }
        Some(Opening::Recover(Box::new(recovered), names))
    }
}

/// Reads the log behind the entry `after`, the last one in `snapshot` if the store is the snapshot of a leader.
fn recover(
    log: &[(SegmentName, Vec<u8>)],
    names: &[SegmentName],
    after: u64,
    snapshot: Option<(u64, u64)>,
) -> Result<Recovered, WalError> {
    let needed = &log[first_needed(names, after).unwrap_or(0)..];
    let segments: Vec<(SegmentName, &[u8])> =
        needed.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    match snapshot {
        Some(snapshot) => wal::recover_behind(&segments, snapshot),
        None => wal::recover(&segments, after),
    }
}

/// Store and log are of one history.
fn judge_fit(number: usize, applied: Applied, recovered: &Recovered) {
    let entry = recovered.entries.iter().find(|entry| entry.index == applied.index);
    let term = entry.map(|entry| entry.term).or(recovered.term_before);
    judge!(
        recovered.after <= applied.index && term.is_none_or(|term| term == applied.term),
        "the store of {number} holds {applied:?}, the log begins behind {} and has that entry of term {term:?}",
        recovered.after
    );
}

/// Planted bugs of the store: what a broken checkpoint or compaction would leave.
fn spoil_store(plant: Option<Plant>, store: &mut Store) {
    let applied = store.applied();
    let is_swept = applied.swept_revision == applied.compact_revision;
    let spoilt = match plant {
        Some(Plant::ClusterIndexAhead) if applied.index > 0 => {
            Applied { index: applied.index + 1, ..applied }
        }
        Some(Plant::ClusterRevisionLower) if !is_swept && applied.revision > applied.compact_revision => {
            Applied { revision: applied.revision - 1, ..applied }
        }
        _ => return,
    };
    let mut txn = store.write();
    txn.set_applied(spoilt);
    txn.commit();
}

/// Plants a bug within a member.
#[cfg(any(debug_assertions, feature = "faults"))]
fn spoil(replica: &mut Replica, plant: Option<Plant>) {
    use kevel::replica::LessorFault;
    match plant {
        Some(Plant::ClusterRenewedAlone) => replica.spoil_lessor(LessorFault::RenewsAlone),
        Some(Plant::ClusterRevokedLate) => replica.spoil_lessor(LessorFault::RevokesLate),
        _ => {}
    }
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
fn spoil(_: &mut Replica, _: Option<Plant>) {
    // Bugs within a member are absent from an ordinary build for release.
}
