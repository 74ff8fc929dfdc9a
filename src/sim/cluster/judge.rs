//! What members and answers may show.
//!
//! Every write has a revision, so the history is one list, and an answer is right if it fits there: a write above
//! everything that had been answered before it was asked for, a read of a state no older than that. What is known of
//! the members' own agreement is here too: who leads a term, who has voted for whom, what the store hashes to at an
//! index.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use prost::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::super::judge::judge;
use kevel::btree::Applied;
use kevel::cluster::Cluster;
use kevel::mvcc::event::{Event, EventBatch};
use kevel::mvcc::hash::KvHash;
use kevel::proto::mvccpb::KeyValue;

/// The values of a key: since which revision, and none where it was deleted.
type Values = Vec<(i64, Option<Vec<u8>>)>;

/// What a process has shown of itself.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Term, commit and applied index of this life.
    raft: (u64, u64, u64),
    /// The revision that was published last, and the revision up to which it is compacted.
    published: i64,
    compacted: i64,
    /// The highest term in which any life of it has promised something to another member.
    promised: u64,
}

/// Everything that is known from outside of the members.
pub struct Judge {
    /// The changes of each revision, as the first member told that published it.
    history: BTreeMap<i64, Vec<Event>>,
    values: BTreeMap<Vec<u8>, Values>,
    /// The highest revision that was answered to a client.
    answered: i64,
    /// The highest compaction revision that any member has shown.
    compacted: i64,
    /// Who leads which term.
    leaders: BTreeMap<u64, usize>,
    /// For whom a member has voted in a term, by member and term.
    votes: BTreeMap<(u64, u64), u64>,
    /// By member.
    seen: Vec<Seen>,
    /// What a store hashes to behind an entry, as the first member showed that was looked at there.
    hashes: BTreeMap<u64, KvHash>,
    /// The hashes of compactions, by their revision and the one before.
    digests: BTreeMap<(i64, i64), u32>,
    /// Who belongs to the cluster behind an entry.
    clusters: BTreeMap<u64, Cluster>,
}

impl Judge {
    /// A cluster of so many members of which nothing is known.
    pub fn new(members: usize) -> Self {
        Self {
            history: BTreeMap::new(),
            values: BTreeMap::new(),
            answered: 1,
            compacted: -1,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            seen: vec![Seen::default(); members],
            hashes: BTreeMap::new(),
            digests: BTreeMap::new(),
            clusters: BTreeMap::new(),
        }
    }

    /// There is another member.
    pub fn on_joiner(&mut self) {
        self.seen.push(Seen::default());
    }

    /// The highest revision that was answered to a client.
    pub fn answered(&self) -> i64 {
        self.answered
    }

    /// The highest revision that any member has published.
    pub fn newest(&self) -> i64 {
        self.history.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    /// The highest compaction revision that any member has shown.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The cluster as the member knows it that has applied most.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.clusters.last_key_value().map(|(_, cluster)| cluster)
    }

    /// The changes of the revisions `from` to `to`.
    pub fn changes(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, &Event)> {
        let to = to.max(from - 1);
        let range = self.history.range(from..to + 1);
        range.flat_map(|(&revision, events)| events.iter().map(move |event| (revision, event)))
    }

    /// The value of a key at a revision.
    pub fn value(&self, key: &[u8], revision: i64) -> Option<&[u8]> {
        let values = self.values.get(key).map_or(&[][..], Vec::as_slice);
        let at = values.partition_point(|(since, _)| *since <= revision);
        at.checked_sub(1).and_then(|at| values[at].1.as_deref())
    }

    /// A process starts on a store that has applied this.
    pub fn on_start(&mut self, member: usize, applied: Applied) {
        let Applied { revision, compact_revision, index, .. } = applied;
        judge!(
            revision <= self.newest() && compact_revision <= self.compacted,
            "{member} starts at revision {revision} and compaction {compact_revision}, which nobody has published"
        );
        let promised = self.seen[member].promised;
        let raft = (promised, index, index);
        self.seen[member] = Seen { raft, published: revision.max(1), compacted: compact_revision, promised };
    }

    /// A member says something to another one.
    pub fn on_message(&mut self, member: usize, message: &Message) {
        use MessageType::{MsgAppendResponse, MsgRequestVote, MsgRequestVoteResponse};
        let (candidate, promises) = match message.msg_type() {
            MsgRequestVote => (Some(message.from), true),
            MsgRequestVoteResponse => (Some(message.to).filter(|_| !message.reject), !message.reject),
            MsgAppendResponse => (None, !message.reject),
            _ => return,
        };
        if let Some(candidate) = candidate {
            let voted = *self.votes.entry((message.from, message.term)).or_insert(candidate);
            judge!(
                voted == candidate,
                "{:x} votes for {candidate:x} in term {}, and has voted for {voted:x}",
                message.from,
                message.term
            );
        }
        if promises {
            let promised = &mut self.seen[member].promised;
            *promised = message.term.max(*promised);
        }
    }

    /// What a member shows of raft, and of its store.
    pub fn on_turn(&mut self, member: usize, now: (u64, u64, u64), leads: Option<u64>, applied: &Applied) {
        let seen = &mut self.seen[member];
        let before = std::mem::replace(&mut seen.raft, now);
        let goes_on = now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2;
        judge!(goes_on, "term, commit and applied index of {member} were {before:?} and are {now:?}");
        judge!(now.2 <= now.1, "{member} has applied {}, and {} is committed", now.2, now.1);
        let compacted = std::mem::replace(&mut seen.compacted, applied.compact_revision);
        judge!(
            compacted <= applied.compact_revision && applied.swept_revision <= applied.compact_revision,
            "{member} was compacted to {compacted}, and is at {applied:?}"
        );
        self.compacted = self.compacted.max(applied.compact_revision);
        if let Some(term) = leads {
            let leader = *self.leaders.entry(term).or_insert(member);
            judge!(leader == member, "{leader} and {member} lead term {term}");
        }
    }

    /// Who belongs to the cluster, as a member knows it behind an entry.
    pub fn on_cluster(&mut self, member: usize, index: u64, cluster: &Cluster) {
        let known = self.clusters.entry(index).or_insert_with(|| cluster.clone());
        judge!(known == cluster, "{member} has {cluster:?} behind entry {index}, and another one {known:?}");
    }

    /// Whether it is known what a store hashes to behind an entry.
    pub fn knows_hash(&self, index: u64) -> bool {
        self.hashes.contains_key(&index)
    }

    /// The store of a member hashes to this behind an entry.
    pub fn on_hash(&mut self, member: usize, index: u64, hash: KvHash) {
        let known = *self.hashes.entry(index).or_insert(hash);
        judge!(
            known == hash,
            "the store of {member} has {hash:?} behind entry {index}, another one {known:?}"
        );
    }

    /// A member has taken the hash of a compaction.
    pub fn on_digest(&mut self, member: usize, hash: KvHash) {
        let span = (hash.hash_revision, hash.compact_revision);
        let known = *self.digests.entry(span).or_insert(hash.hash);
        judge!(
            known == hash.hash,
            "compaction {span:?} hashes to {:x} on {member}, to {known:x} elsewhere",
            hash.hash
        );
    }

    /// A member publishes a revision. True if it is the first one that does.
    pub fn on_publish(&mut self, member: usize, batch: &EventBatch) -> bool {
        let published = &mut self.seen[member].published;
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

    /// A snapshot takes the place of a member's store.
    pub fn on_install(&mut self, member: usize, revision: i64) {
        let before = std::mem::replace(&mut self.seen[member].published, revision);
        judge!(
            before <= revision && revision <= self.newest(),
            "{member} installs a snapshot at revision {revision}, it was at {before} and others are at {}",
            self.newest()
        );
    }

    /// The keys that were ever written.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.values.keys().map(Vec::as_slice)
    }

    /// A write is answered: some keys have other values since, or none.
    pub fn on_written(&mut self, revision: i64, floor: i64, changes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        judge!(
            revision > floor,
            "a write got revision {revision}, and {floor} was answered before it was asked for"
        );
        let shown = self.history.get(&revision).map_or(&[][..], Vec::as_slice);
        judge!(
            shown.len() == changes.len(),
            "revision {revision} is {shown:?}, and {changes:?} was answered"
        );
        for (key, value) in changes {
            let written =
                self.values.get(key).and_then(|values| values.iter().find(|(at, _)| *at == revision));
            judge!(
                written.is_some_and(|(_, written)| written == value),
                "revision {revision} is {written:?}, and {value:?} was answered"
            );
        }
        self.answered = self.answered.max(revision);
    }

    /// A deletion of many keys is answered.
    pub fn on_deleted(&mut self, revision: i64, floor: i64, deleted: i64) {
        judge!(revision > floor, "a deletion got revision {revision}, and {floor} was answered before it");
        let shown = self.history.get(&revision).map_or(&[][..], Vec::as_slice);
        judge!(
            shown.len() as i64 == deleted && shown.iter().all(|event| event.delete),
            "revision {revision} is {shown:?}, and a deletion of {deleted} keys was answered"
        );
        self.answered = self.answered.max(revision);
    }

    /// Somebody is told of a revision by an answer that is not older than what was answered before it was asked for.
    pub fn on_told(&mut self, revision: i64, floor: i64) {
        judge!(
            revision >= floor && revision <= self.newest(),
            "an answer tells of revision {revision}, and {floor} was answered before it was asked for"
        );
        self.answered = self.answered.max(revision);
    }

    /// A read is answered: at `revision`, of a store that was at `current`.
    pub fn on_read(&self, revision: i64, current: i64, key: &[u8], shown: Option<&[u8]>) {
        judge!(current <= self.newest(), "a read sees revision {current}, which nobody has published");
        let expected = self.value(key, revision);
        judge!(shown == expected, "at revision {revision} a read sees {shown:?}, not {expected:?}");
    }
}
