//! What members and answers may show.
//!
//! Every write has a revision, so the history is one list, and an answer is right if it fits there: a write above
//! everything that had been answered before it was asked for, a read of a state no older than that.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use prost::Message as _;

use super::super::judge::judge;
use kevel::mvcc::event::{Event, EventBatch};
use kevel::proto::mvccpb::KeyValue;

/// The values of a key: since which revision, and none where it was deleted.
type Values = Vec<(i64, Option<Vec<u8>>)>;

/// Everything that is known from outside of the members.
pub struct Judge {
    /// The changes of each revision, as the first member told that published it.
    history: BTreeMap<i64, Vec<Event>>,
    values: BTreeMap<Vec<u8>, Values>,
    /// The highest revision that was answered to a client.
    answered: i64,
    /// Who leads which term.
    leaders: BTreeMap<u64, usize>,
    /// By member, term, commit and applied index of this life, and the revision that was published last.
    seen: Vec<((u64, u64, u64), i64)>,
}

impl Judge {
    /// A cluster of so many members of which nothing is known.
    pub fn new(members: usize) -> Self {
        Self {
            history: BTreeMap::new(),
            values: BTreeMap::new(),
            answered: 1,
            leaders: BTreeMap::new(),
            seen: vec![((0, 0, 0), 1); members],
        }
    }

    /// The highest revision that was answered to a client.
    pub fn answered(&self) -> i64 {
        self.answered
    }

    /// A process starts, and applies its log from the beginning.
    pub fn on_start(&mut self, member: usize) {
        self.seen[member] = ((0, 0, 0), 1);
    }

    /// What a member shows of raft.
    pub fn on_turn(&mut self, member: usize, now: (u64, u64, u64), leads: Option<u64>) {
        let before = std::mem::replace(&mut self.seen[member].0, now);
        let goes_on = now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2;
        judge!(goes_on, "term, commit and applied index of {member} were {before:?} and are {now:?}");
        judge!(now.2 <= now.1, "{member} has applied {}, and {} is committed", now.2, now.1);
        if let Some(term) = leads {
            let leader = *self.leaders.entry(term).or_insert(member);
            judge!(leader == member, "{leader} and {member} lead term {term}");
        }
    }

    /// A member publishes a revision. True if it is the first one that does.
    pub fn on_publish(&mut self, member: usize, batch: &EventBatch) -> bool {
        let published = &mut self.seen[member].1;
        judge!(
            batch.revision == *published + 1,
            "{member} publishes revision {} behind {published}",
            batch.revision
        );
        *published = batch.revision;
        if let Some(known) = self.history.get(&batch.revision) {
            judge!(
                *known == batch.events,
                "revision {} is {:?} on {member}, and {known:?} elsewhere",
                batch.revision,
                batch.events
            );
            return false;
        }
        for event in &batch.events {
            let kv = KeyValue::decode(event.kv.clone()).expect("a pair");
            let value = (!event.delete).then(|| kv.value.to_vec());
            self.values.entry(event.key.to_vec()).or_default().push((batch.revision, value));
        }
        self.history.insert(batch.revision, batch.events.clone()).is_none()
    }

    /// A write is answered.
    pub fn on_written(&mut self, revision: i64, floor: i64, key: &[u8], value: Option<&Vec<u8>>) {
        judge!(
            revision > floor,
            "a write got revision {revision}, and {floor} was answered before it was asked for"
        );
        let written = self.values.get(key).and_then(|values| values.iter().find(|(at, _)| *at == revision));
        judge!(
            written.is_some_and(|(_, written)| written.as_ref() == value),
            "revision {revision} is {written:?}, and {value:?} was answered"
        );
        self.answered = self.answered.max(revision);
    }

    /// A linearizable read is answered.
    pub fn on_read(&mut self, revision: i64, floor: i64, key: &[u8], shown: Option<&[u8]>) {
        judge!(
            revision >= floor,
            "a read sees revision {revision}, and {floor} was answered before it was asked for"
        );
        self.on_local_read(revision, key, shown);
        self.answered = self.answered.max(revision);
    }

    /// A serializable read is answered.
    pub fn on_local_read(&self, revision: i64, key: &[u8], shown: Option<&[u8]>) {
        let values = self.values.get(key).map_or(&[][..], Vec::as_slice);
        let at = values.partition_point(|(since, _)| *since <= revision);
        let expected = at.checked_sub(1).and_then(|at| values[at].1.as_deref());
        judge!(shown == expected, "at revision {revision} a read sees {shown:?}, not {expected:?}");
    }
}
