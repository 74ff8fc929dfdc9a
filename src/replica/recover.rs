//! From what is on the disk to a running replica.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message;
use raft::eraftpb::{ConfChange, Entry as LogEntry, EntryType, HardState};
use raft::{Config, RawNode, ReadOnlyOption};

use super::apply::State;
use super::bootstrap::Foundation;
use super::commit::TurnSize;
use super::defragment::Defragmentation;
use super::digest::Digests;
use super::election::Timeouts;
use super::execute;
use super::force::Forced;
use super::halt::Halted;
use super::handover::Handover;
use super::heavy::Heavy;
use super::install::Installing;
use super::laggards::Transfers;
use super::leadership::Leadership;
use super::leases::Leases;
use super::log_writes::LogWrites;
use super::marks::Marks;
use super::messages::Complaints;
use super::policy::Policy;
use super::propose::Proposals;
use super::read_gate::ReadGate;
use super::read_index::Reads;
use super::replica::{Founding, Replica, Settings};
use super::spill::Spill;
use super::sweep::Sweep;
use super::tail::Tail;
use super::tally::Tally;
use crate::btree::{Applied, Store};
use crate::cluster::Cluster;
use crate::error::RECOVERY;
use crate::limits::{MESSAGE_BYTES_MAX, MESSAGES_INFLIGHT_MAX, PROPOSAL_TIMEOUT};
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::stdx::prng::Prng;
use crate::wal::{Appender, Metadata, Recovered, SegmentName, SnapshotMark};

/// Where the log comes from.
pub enum Opening {
    /// There is none: this cluster is founded.
    Found(Foundation),
    /// There is none: this member was added to a cluster that exists, and learns everything from its other members.
    Join {
        /// The cluster's id.
        cluster_id: u64,
    },
    /// This was read back, from these segments. Entries that the store has applied may be among it.
    Recover(Box<Recovered>, Vec<SegmentName>),
    /// This was read back, from these segments, and the member goes on alone.
    Force(Box<Forced>, Vec<SegmentName>),
}

/// What a replica begins with.
struct Beginning {
    log: Appender,
    /// The first entries of a new cluster, to be written to the log.
    founding: Founding,
    /// Entries behind those that the store has applied, and perhaps some before them.
    entries: Vec<LogEntry>,
    hard_state: HardState,
    /// The log says that the store file holds everything up to this index.
    marked: u64,
    /// The log does not know of the snapshot that the store is.
    lacks_mark: bool,
}

impl Opening {
    fn begin(self, member_id: u64) -> Beginning {
        match self {
            Opening::Found(foundation) => {
                let metadata = Metadata { node_id: member_id, cluster_id: foundation.cluster_id };
                let entries = foundation.entries();
                Beginning {
                    log: Appender::create(metadata),
                    founding: Founding::Due(entries.clone()),
                    hard_state: HardState { term: 1, vote: 0, commit: entries.len() as u64 },
                    entries,
                    marked: 0,
                    lacks_mark: false,
                }
            }
            Opening::Join { cluster_id } => Beginning {
                log: Appender::create(Metadata { node_id: member_id, cluster_id }),
                founding: Founding::Due(Vec::new()),
                entries: Vec::new(),
                hard_state: HardState::default(),
                marked: 0,
                lacks_mark: false,
            },
            Opening::Recover(recovered, segments) => Beginning {
                log: Appender::resume(&recovered, segments),
                founding: Founding::Done,
                hard_state: recovered.state,
                marked: recovered.mark.index,
                lacks_mark: recovered.lacks_mark,
                entries: recovered.entries,
            },
            Opening::Force(forced, segments) => {
                let (commit, is_news) = (forced.commit(), forced.is_news());
                let Forced { recovered, entries, .. } = *forced;
                Beginning {
                    log: Appender::resume(&recovered, segments),
                    founding: if is_news { Founding::Due(entries.clone()) } else { Founding::Done },
                    hard_state: HardState { commit, ..recovered.state },
                    marked: recovered.mark.index,
                    lacks_mark: false,
                    entries: [recovered.entries, entries].concat(),
                }
            }
        }
    }
}

impl Replica {
    /// A replica on its store and log. The first drain begins where the last one ended.
    ///
    /// # Errors
    /// When the store has a record that cannot be read, or when store and log do not belong together: why, and what to
    /// do.
    pub fn open(settings: Settings, mut store: Store, opening: Opening, pins: Pins) -> Result<Self, String> {
        let mut txn = store.write();
        initialize(&mut txn);
        txn.commit();
        let Beginning { log, mut founding, entries: mut kept, hard_state, marked, lacks_mark } =
            opening.begin(settings.member_id);
        let entries = kept.split_off(kept.len() - unapplied(&store, &kept).len());
        let applied = store.applied();
        let hard_state = HardState { commit: hard_state.commit.max(applied.index), ..hard_state };
        // A term that the log does not know is that of a snapshot, and nobody has this member's vote in it.
        let hard_state = match applied.term > hard_state.term {
            true => HardState { term: applied.term, vote: 0, ..hard_state },
            false => hard_state,
        };
        check_revisions(&applied)?;
        check_log(&applied, &entries, &hard_state)?;
        // Apart from the generator of election timeouts, which must not shift.
        let mut secrets = Prng::new(!settings.seed);
        let secret = secrets.next_u64();
        let state = State::restore(&store.readers().register().snapshot(), settings.lease_ttl_min, secret)
            .map_err(|_| damaged())?;
        if lacks_mark {
            let conf_state = Some(state.cluster.conf_state());
            founding =
                Founding::Behind(SnapshotMark { index: applied.index, term: applied.term, conf_state });
        }
        let mut checkpoints = Policy::default();
        // Replayed entries count towards the next checkpoint, or a second crash replays them again.
        checkpoints.logged(entries.iter().map(|entry| entry.data.len() as u64).sum(), entries.len());
        let writes = LogWrites::new(hard_state.commit);
        let replayed = entries.last().map_or(applied.index, |last| last.index);
        let (compacted, entries) = with_kept(&applied, kept, entries);
        let tail = Tail::new(compacted, entries, hard_state, state.cluster.conf_state());
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config(&settings, applied.index), tail, &logger)
            .map_err(|error| format!("raft does not take the flags of this member: {error}"))?;
        let tick = settings.tick.as_millis().max(1);
        let timeout = PROPOSAL_TIMEOUT.as_millis().div_ceil(tick) as u64 + 2 * settings.election_ticks as u64;
        // Who asks about a lease is told that nobody leads before the session core gives up.
        let patience = timeout.saturating_sub(3).max(1);
        let replica = Self {
            timeouts: Timeouts::new(settings.election_ticks, Prng::new(settings.seed).fork()),
            reads: Reads::new(settings.member_id, secrets.next_u64()),
            proposals: Proposals::new(settings.request_ids, timeout),
            leases: Leases::new(Reads::new(settings.member_id, secrets.next_u64()), patience),
            defragmentation: Defragmentation::default(),
            promotions: Vec::new(),
            handover: Handover::default(),
            cluster_changes: 0,
            founding,
            writes,
            committed: VecDeque::new(),
            executing: None,
            halted: Halted::No,
            turn_size: TurnSize::default(),
            deferred: false,
            spill: Spill::default(),
            heavy: Heavy::default(),
            checkpoints,
            marks: Marks::new(marked),
            settled: false,
            digests: Digests::new(replayed),
            sweep: Sweep::new(applied),
            pins,
            complaints: Complaints::default(),
            shared: 0,
            farewell_due: state.cluster.removed.contains(&settings.member_id),
            installing: Installing::default(),
            refused_arrivals: Vec::new(),
            transfers: Transfers::new(settings.tick),
            leadership: Leadership::default(),
            gate: Arc::new(ReadGate::default()),
            tally: Tally::default(),
            settings,
            node,
            log,
            store,
            state,
        };
        // The first turn may end before it shows what raft says.
        replica.show_gate();
        Ok(replica)
    }
}

/// Says what is wrong where a record of members, alarms or leases cannot be read.
fn damaged() -> String {
    format!("the store has a record of a member, an alarm or a lease that cannot be read; {RECOVERY}")
}

/// Says what is wrong where the store's revisions contradict each other.
pub(super) fn check_revisions(applied: &Applied) -> Result<(), String> {
    let &Applied { revision, compact_revision, swept_revision, .. } = applied;
    if revision < 1 || compact_revision > revision || swept_revision > compact_revision {
        return Err(format!(
            "the store says that it is at revision {revision}, compacted to {compact_revision} and swept to \
             {swept_revision}, which cannot be; {RECOVERY}"
        ));
    }
    Ok(())
}

/// Says what is wrong where the entries of the log do not continue the store.
fn check_log(applied: &Applied, entries: &[LogEntry], hard_state: &HardState) -> Result<(), String> {
    let indices = entries.iter().map(|entry| entry.index);
    let last = applied.index + entries.len() as u64;
    if !indices.eq(applied.index + 1..=last) || hard_state.commit > last {
        return Err(format!(
            "the store holds the entries up to {}, the log has {} behind them and says that all up to {} are \
             committed; {RECOVERY}",
            applied.index,
            entries.len(),
            hard_state.commit
        ));
    }
    Ok(())
}

/// The entries of a log behind those that the store has applied.
pub fn unapplied<'a>(store: &Store, entries: &'a [LogEntry]) -> &'a [LogEntry] {
    let applied = store.applied().index;
    &entries[entries.partition_point(|entry| entry.index <= applied)..]
}

/// What stays in memory: `entries`, and in front of them those that were `kept` for members that lag, with index and
/// term of the entry before all of them.
fn with_kept(applied: &Applied, kept: Vec<LogEntry>, entries: Vec<LogEntry>) -> ((u64, u64), Vec<LogEntry>) {
    let (first, last) = match (kept.first(), kept.last()) {
        (Some(first), Some(last)) => (first, last),
        _ => return ((applied.index, applied.term), entries),
    };
    let length = kept.len() as u64;
    let fits =
        (last.index, last.term) == (applied.index, applied.term) && first.index + length - 1 == last.index;
    if !fits {
        return ((applied.index, applied.term), entries);
    }
    // Of the first only index and term are needed.
    let before = (first.index, first.term);
    (before, kept.into_iter().skip(1).chain(entries).collect())
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

/// Why this member cannot serve what was found, and what to do. `entries` follow what `store` has applied, and those up
/// to `commit` are known to be committed: the others may be replaced by what another member has. A member that was
/// removed is not refused: others that have not heard of that yet may need its vote to elect a leader.
pub fn refusal(store: &Store, entries: &[LogEntry], commit: u64) -> Option<String> {
    let entries = &entries[..entries.partition_point(|entry| entry.index <= commit)];
    match cluster_behind(store, entries) {
        Ok(_) => entries.iter().find_map(execute::refuse),
        Err(why) => Some(why),
    }
}

/// What is said of a member that was removed by what `store` has applied, or by these entries, which follow it.
pub fn removal(member_id: u64, store: &Store, entries: &[LogEntry]) -> Option<String> {
    let cluster = cluster_behind(store, entries).ok()?;
    cluster.removed.contains(&member_id).then(|| removed(member_id))
}

/// The cluster when these entries, which follow what `store` has applied, are applied too.
///
/// # Errors
/// When the store has a record that cannot be read.
pub(super) fn cluster_behind(store: &Store, entries: &[LogEntry]) -> Result<Cluster, String> {
    let restored = Cluster::restore(&store.readers().register().snapshot());
    let mut cluster = restored.map_err(|_| damaged())?;
    for entry in entries.iter().filter(|entry| entry.entry_type() == EntryType::EntryConfChange) {
        let change = ConfChange::decode(entry.data.clone()).unwrap_or_default();
        // A log that has been applied elsewhere is not refused for what a flag says now.
        if let Ok(change) = cluster.judge(&change, usize::MAX) {
            cluster.foresee(change);
        }
    }
    Ok(cluster)
}

/// What is said of a member that its cluster has removed.
pub(super) fn removed(member_id: u64) -> String {
    format!(
        "member {member_id:x} was removed from its cluster for good: start a new member with an empty data directory"
    )
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
    fn a_member_that_was_removed_is_not_refused_and_goes_on_alone_no_more() {
        let store = Store::in_memory();
        let pair = founders(2);
        let [first, second] = [0, 1].map(|at| pair.founders[at].id);
        let mut entries = pair.entries();
        let removed = |id: u64, entries: &[LogEntry]| removal(id, &store, entries).is_some();
        assert!(!removed(first, &entries) && !removed(second, &entries));
        let remove = ConfChange { node_id: second, ..ConfChange::default() };
        let remove = ConfChange { change_type: raft::eraftpb::ConfChangeType::RemoveNode as i32, ..remove };
        let data = remove.encode_to_vec().into();
        let entry_type = EntryType::EntryConfChange as i32;
        entries.push(LogEntry { entry_type, data, index: 3, ..LogEntry::default() });
        assert!(!removed(first, &entries) && removed(second, &entries));
        assert_eq!(refusal(&store, &entries, 3), None);
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
            let refused = |commit| refusal(&store, &entries, commit);
            assert_eq!(refused(1), None, "it may never be committed");
            refused(2)
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

    #[test]
    fn a_store_whose_revisions_contradict_each_other_is_refused() {
        let check = |revision, compact_revision, swept_revision| {
            check_revisions(&Applied { revision, compact_revision, swept_revision, ..Applied::default() })
        };
        assert_eq!((check(1, -1, -1), check(9, 9, 9), check(9, 7, -1)), (Ok(()), Ok(()), Ok(())));
        for said in [check(0, -1, -1), check(-4, -1, -1), check(5, 6, 5), check(5, 3, 4)] {
            assert!(said.unwrap_err().contains("copy of the data directory"));
        }
    }

    #[test]
    fn entries_of_the_past_are_kept_where_they_lead_to_the_present() {
        let entry = |index, term| LogEntry { index, term, ..LogEntry::default() };
        let applied = Applied { index: 7, term: 3, ..Applied::default() };
        let kept = |kept: Vec<LogEntry>| {
            let (before, entries) = with_kept(&applied, kept, vec![entry(8, 3)]);
            (before, entries.iter().map(|entry| entry.index).collect::<Vec<_>>())
        };
        assert_eq!(kept(vec![]), ((7, 3), vec![8]));
        assert_eq!(kept(vec![entry(7, 3)]), ((7, 3), vec![8]));
        assert_eq!(kept(vec![entry(5, 2), entry(6, 3), entry(7, 3)]), ((5, 2), vec![6, 7, 8]));
        for wrong in [vec![entry(6, 3)], vec![entry(7, 2)], vec![entry(5, 3), entry(7, 3)]] {
            assert_eq!(kept(wrong), ((7, 3), vec![8]));
        }
    }

    #[test]
    fn a_log_that_does_not_continue_the_store_is_refused() {
        let applied = Applied { index: 3, ..Applied::default() };
        let said = |indices: &[u64], commit| {
            let entry = |&index| LogEntry { index, ..LogEntry::default() };
            let entries: Vec<_> = indices.iter().map(entry).collect();
            check_log(&applied, &entries, &HardState { commit, ..HardState::default() })
        };
        assert_eq!((said(&[4, 5], 5), said(&[], 3)), (Ok(()), Ok(())));
        for (indices, commit) in [(&[5][..], 3), (&[3], 3), (&[4, 6], 3), (&[4], 5)] {
            let said = said(indices, commit).unwrap_err();
            assert!(said.contains("up to 3") && said.contains("a copy of the data directory"), "{said}");
        }
    }
}
