//! The member of the scripted cluster: opened from what its disk kept, with the planted bugs of its start.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::super::judge::judge;
use super::super::log::LogEntry;
use super::super::log_disk::{By, SIZES};
use super::super::plant::Plant;
use super::super::segments::Preparer;
use super::super::world::TICK;
use super::world::World;
use kevel::btree::{Read, Reader, Store, Tree};
use kevel::cluster::reconfig::Rules;
use kevel::mvcc::pin::Pins;
use kevel::page::CheckpointJob;
use kevel::replica::{Opening, Replica, Settings};
use kevel::wal::segment::first_needed;
use kevel::wal::{self, Recovered, SegmentName, folder, mend};

/// Ids are numbered per life of the process, so that no two requests ever share one.
const LIFE_SHIFT: u32 = 32;

/// The running process.
pub struct Life {
    pub replica: Replica,
    /// The last entry that the store had at the start: the log in memory begins behind it.
    pub replayed_from: u64,
    pub reader: Reader,
    /// Log writes, the first on its way once it is taken. True where a planted bug has told the replica before its time
    /// that the write is durable.
    pub writes: VecDeque<(u64, Option<wal::Write>, bool)>,
    /// The thread that prepares segments; here it takes no time.
    pub preparer: Preparer,
    pub checkpoint: Option<CheckpointJob>,
    /// Generation and index of a checkpoint whose end is not told.
    pub checkpointed: Option<(u64, u64)>,
    /// Reads that wait, by ticket, with what was committed when they were asked for.
    pub reads: BTreeMap<u128, u64>,
    /// The last id of a client's request.
    pub ids: u64,
}

impl Life {
    /// Starts the process on the world's disk.
    pub fn boot(world: &mut World) -> Self {
        let file = world.disk.store_file();
        let mut store = Store::open(file.clone()).unwrap_or_else(|error| panic!("judge: {error}"));
        let applied = store.applied().index;
        folder::clean(world.disk.folder(By::Start))
            .unwrap_or_else(|error| panic!("judge: the log cannot be cleaned: {error}"));
        let log = world.disk.newest_log();
        let names: Vec<SegmentName> = log.iter().map(|(name, _)| *name).collect();
        let (own, overwritten) = world.judge.on_restart(&log);
        let opening = if names.is_empty() {
            judge!(applied == 0, "the log is gone, and the store holds entry {applied}");
            Opening::Found(world.foundation.clone())
        } else {
            let needed = &log[first_needed(&names, applied).unwrap_or(0)..];
            let segments: Vec<(SegmentName, &[u8])> =
                needed.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let mut recovered = wal::recover(&segments, applied)
                .unwrap_or_else(|error| panic!("judge: the member does not start: {error}"));
            spoil_log(world.plant, &mut recovered, &overwritten, applied);
            judge_entries(world.plant, &recovered, &own[applied as usize..]);
            judge_changes(recovered.state.commit.max(applied), &own);
            let line = format_args!("the log ends at {}, {:?}", recovered.last_index, recovered.tail.torn);
            world.trace.step(world.now, &[11, recovered.last_index, recovered.state.term], line);
            mend::mend_tail(world.disk.folder(By::Start), &recovered.tail, &SIZES)
                .unwrap_or_else(|error| panic!("judge: the log cannot be mended: {error}"));
            file.settle();
            Opening::Recover(Box::new(recovered), names)
        };
        if world.plant == Some(Plant::RemovedForgotten) {
            forget_removed(&mut store);
        }
        world.lives += 1;
        let first_id = world.lives << LIFE_SHIFT;
        let settings = Settings {
            member_id: world.member_id,
            name: "m".into(),
            client_urls: vec!["http://localhost:2379".into()],
            election_ticks: 10,
            tick: TICK,
            pre_vote: world.prng.chance(1, 2),
            catchup_entries: [0, 10, 1 << 20][world.prng.below(3) as usize],
            segments_kept: world.prng.below(3) as usize,
            lease_ttl_min: 2,
            quota_bytes: None,
            asks_versions: false,
            rules: Rules::default(),
            request_ids: (first_id, 2),
            seed: world.prng.next_u64(),
        };
        let mut preparer = Preparer::default();
        world.disk.folder(By::Start).told(By::Start);
        preparer.prepare(&world.disk);
        let mut replica =
            Replica::open(settings, store, opening, Pins::new(1)).expect("a store that was checked");
        replica.set_bounds(&world.params.bounds);
        Self {
            reader: replica.readers().register(),
            replayed_from: applied,
            replica,
            writes: VecDeque::new(),
            preparer,
            checkpoint: None,
            checkpointed: None,
            reads: BTreeMap::new(),
            ids: first_id + 1,
        }
    }
}

/// Recovery reads what the judge has read. With a plant the member itself has to show what is wrong.
fn judge_entries(plant: Option<Plant>, recovered: &Recovered, own: &[LogEntry]) {
    let read = recovered.entries.iter().map(|entry| (entry.index, entry.term, &entry.data));
    let written = own.iter().map(|entry| (entry.index, entry.term, &entry.data));
    judge!(
        plant.is_some() || read.eq(written),
        "recovery has read {} entries that are not those of the log",
        recovered.entries.len()
    );
}

/// A change of members is proposed when the one before is committed, so a start knows that of all changes but the last.
/// Else its quorums might have nobody in common with those of the others.
fn judge_changes(commit: u64, own: &[LogEntry]) {
    let changes = own.iter().filter(|entry| entry.changes_members && entry.index > commit);
    let unsure: Vec<u64> = changes.map(|entry| entry.index).collect();
    judge!(
        unsure.len() <= 1,
        "a start takes {commit} for committed, and entries {unsure:?} change the members"
    );
}

/// Planted bugs of recovery: what it would hand on if it cut wrongly, or forgot promises.
fn spoil_log(plant: Option<Plant>, recovered: &mut Recovered, overwritten: &[LogEntry], applied: u64) {
    let revived = |entry: &LogEntry| raft::eraftpb::Entry {
        index: entry.index,
        term: entry.term,
        data: entry.data.clone(),
        ..Default::default()
    };
    let entries = &mut recovered.entries;
    // The last cut was made before this entry.
    let cut = overwritten.last().and_then(|last| {
        let begins =
            overwritten.iter().rev().zip((0..=last.index).rev()).take_while(|(e, at)| e.index == *at);
        let cut = begins.last()?.1;
        (cut > applied && cut <= recovered.last_index).then_some(cut)
    });
    match (plant, cut) {
        (Some(Plant::OverwrittenKept), Some(_)) => {
            for old in overwritten.iter().filter(|old| old.index > applied) {
                if old.index == recovered.last_index + 1 {
                    entries.push(revived(old));
                    recovered.last_index = old.index;
                }
            }
        }
        (Some(Plant::CutTooFew), Some(cut)) => {
            let at = (cut - applied - 1) as usize;
            if let Some(old) = overwritten.iter().rfind(|old| old.index == cut) {
                entries[at] = revived(old);
            }
        }
        (Some(Plant::CutTooMany), Some(_)) => {
            entries.pop();
            recovered.last_index -= 1;
        }
        (Some(Plant::HardStateLost), _) => {
            let term = entries.last().map_or(1, |entry| entry.term);
            recovered.state.term = recovered.state.term.min(term);
            recovered.state.vote = 0;
        }
        (Some(Plant::VoteForgotten), _) => recovered.state.vote = 0,
        (Some(Plant::CommitForgotten), _) => recovered.state.commit = 0,
        _ => {}
    }
}

/// A planted bug of the store: it keeps who is a member, and not who was one.
fn forget_removed(store: &mut Store) {
    let mut txn = store.write();
    let mut cursor = txn.cursor(Tree::Member);
    cursor.seek(&[]);
    let mut removed = Vec::new();
    while cursor.valid() {
        if cursor.value().is_empty() {
            removed.push(cursor.key().to_vec());
        }
        cursor.next();
    }
    drop(cursor);
    removed.iter().for_each(|key| _ = txn.delete(Tree::Member, key));
    txn.commit();
}
