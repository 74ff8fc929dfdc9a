//! Who votes: what raft goes by, compared with the list of members of the same database.
//!
//! etcd until 3.5.25 may have the two differ. Its list of members lacks the promotion of a learner, or has members that
//! were removed, and etcd itself does not mind, because raft goes by another record. Kevel keeps one list, so it would
//! elect a leader from the wrong voters, whose log may lack what was acknowledged.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use prost::Message;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, EntryType};
use serde::Deserialize;

use super::database::Reached;
use crate::wal::Recovered;

/// How etcd stores who votes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

/// What a database says of the voters; none if it names none.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(json: &[u8]) -> Result<Option<ConfState>, String> {
    let stored: Stored = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let Stored { voters, learners, voters_outgoing, learners_next, auto_leave } = stored;
    let told = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
    Ok((!told.voters.is_empty()).then_some(told))
}

/// Who votes by the log, for a database that does not say so: what a mark in the log says, or nobody where the log
/// begins with its first entry, and the changes behind that. None if the log does not reach back that far.
pub(super) fn of_log(recovered: &Recovered, reached: Reached) -> Option<ConfState> {
    let mark = &recovered.mark;
    let (known, begin) = match &mark.conf_state {
        Some(told) if (recovered.after..=reached.index).contains(&mark.index) => (mark.index, told.clone()),
        _ if recovered.after == 0 => (0, ConfState::default()),
        _ => return None,
    };
    let mut voters: BTreeSet<u64> = begin.voters.into_iter().collect();
    let mut learners: BTreeSet<u64> = begin.learners.into_iter().collect();
    for entry in recovered.entries.iter().filter(|entry| (known + 1..=reached.index).contains(&entry.index)) {
        match entry.entry_type() {
            EntryType::EntryNormal => continue,
            EntryType::EntryConfChangeV2 => return None,
            EntryType::EntryConfChange => {}
        }
        let change = ConfChange::decode(entry.data.clone()).ok()?;
        let id = change.node_id;
        let kinds = [ConfChangeType::AddNode, ConfChangeType::AddLearnerNode, ConfChangeType::RemoveNode];
        // A change of addresses is no change of votes.
        let Some(kind) = kinds.into_iter().find(|&kind| kind as i32 == change.change_type) else { continue };
        voters.remove(&id);
        learners.remove(&id);
        match kind {
            ConfChangeType::AddNode => _ = voters.insert(id),
            ConfChangeType::AddLearnerNode => _ = learners.insert(id),
            ConfChangeType::RemoveNode => {}
        }
    }
    let told = ConfState {
        voters: voters.into_iter().collect(),
        learners: learners.into_iter().collect(),
        ..ConfState::default()
    };
    (!told.voters.is_empty()).then_some(told)
}

/// Compares what raft goes by with the list of members.
///
/// # Errors
/// How they differ, and what to do.
pub(super) fn check(told: Option<ConfState>, listed: &ConfState) -> Result<(), String> {
    let Some(mut told) = told else {
        return Err("the database does not say who votes (confState in the bucket meta), and the log does not reach \
                    back far enough to tell. Have etcd write it: while etcd runs, give one of its members the peer \
                    URLs that it has already (`etcdctl member update ID --peer-urls=URLS`). Then stop etcd, and \
                    migrate again"
            .to_owned());
    };
    told.voters.sort_unstable();
    told.learners.sort_unstable();
    if told == *listed {
        return Ok(());
    }
    Err(format!(
        "the database contradicts itself: raft goes by {} (confState in the bucket meta), and the bucket members has \
         {}. etcd before 3.5.26 leaves learners that were promoted, and members that were removed, in that bucket as \
         they were. Bring etcd to 3.5.26 or later, start and stop every member once, compare `etcdctl member list` of \
         each, and migrate again",
        shown(&told),
        shown(listed)
    ))
}

fn shown(state: &ConfState) -> String {
    let ids = |ids: &[u64]| match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>().join(" "),
    };
    let joint =
        if state.voters_outgoing.is_empty() { "" } else { ", amid a change of several members at once" };
    format!("the voters {} and the learners {}{joint}", ids(&state.voters), ids(&state.learners))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{Metadata, SegmentName, SnapshotMark, Tail};
    use raft::eraftpb::{Entry, HardState};

    fn state(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
    }

    #[test]
    fn what_etcd_writes_is_read() {
        let read = |json: &str| read(json.as_bytes()).map_err(|_| ());
        assert_eq!(read(r#"{"voters":[3,1],"auto_leave":false}"#), Ok(Some(state(&[3, 1], &[]))));
        assert_eq!(read(r#"{"voters":[1],"learners":[2]}"#), Ok(Some(state(&[1], &[2]))));
        assert_eq!((read(r#"{"auto_leave":false}"#), read("{}"), read("x")), (Ok(None), Ok(None), Err(())));
    }

    #[test]
    fn lists_that_differ_are_refused() {
        let said = |told: Option<ConfState>| check(told, &state(&[1, 4], &[9])).unwrap_err();
        assert_eq!(check(Some(state(&[4, 1], &[9])), &state(&[1, 4], &[9])), Ok(()));
        let promoted = said(Some(state(&[1, 4, 9], &[])));
        assert!(promoted.contains("voters 1 4 9 and the learners none"), "{promoted}");
        assert!(
            promoted.contains("voters 1 4 and the learners 9") && promoted.contains("3.5.26"),
            "{promoted}"
        );
        said(Some(state(&[1], &[9])));
        said(Some(ConfState { voters_outgoing: vec![1], ..state(&[1, 4], &[9]) }));
        assert!(said(None).contains("etcdctl member update"));
    }

    #[test]
    fn a_log_tells_who_votes_where_it_reaches_back_to_a_mark_or_to_its_first_entry() {
        let change = |index, kind: ConfChangeType, node_id| {
            let change = ConfChange { change_type: kind as i32, node_id, ..ConfChange::default() };
            let entry_type = EntryType::EntryConfChange as i32;
            Entry { index, entry_type, data: change.encode_to_vec().into(), ..Entry::default() }
        };
        let log = |after, mark: SnapshotMark, entries| Recovered {
            metadata: Metadata { node_id: 1, cluster_id: 1 },
            state: HardState::default(),
            after,
            entries,
            last_index: 20,
            term_before: None,
            lacks_mark: false,
            mark,
            tail: Tail {
                segment: SegmentName { sequence: 0, index: 0 },
                offset: 0,
                block: vec![],
                crc: 0,
                torn: false,
            },
        };
        let mark = |index, conf_state| SnapshotMark { index, term: 1, conf_state };
        let entries = vec![
            change(11, ConfChangeType::AddLearnerNode, 5),
            change(12, ConfChangeType::RemoveNode, 2),
            change(13, ConfChangeType::AddNode, 5),
            change(19, ConfChangeType::RemoveNode, 1),
        ];
        let known = mark(10, Some(state(&[1, 2], &[])));
        let told = |log: &Recovered, index| of_log(log, Reached { index, term: 1 });
        let marked = log(10, known.clone(), entries.clone());
        assert_eq!(told(&marked, 11), Some(state(&[1, 2], &[5])));
        assert_eq!(told(&marked, 15), Some(state(&[1, 5], &[])));
        assert_eq!(told(&marked, 9), None, "the mark is of what the database lacks");
        assert_eq!(told(&log(12, known, entries[2..].to_vec()), 15), None, "changes are missing");
        assert_eq!(told(&log(10, mark(10, None), entries.clone()), 15), None, "etcd 3.4 has made the mark");
        assert_eq!(told(&log(0, mark(0, None), entries), 15), Some(state(&[5], &[])));
    }
}
