//! What the script knows, and what the member may therefore show.
//!
//! The judge keeps the committed history: what a quorum of the script holds is committed for good. Beside that the
//! judge reads the member's log on its way to the disk, and knows which of it is durable.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::super::judge::judge;
use super::super::log::{LogEntry, LogReader};
use super::peer::Members;
use kevel::proto::etcdserverpb::InternalRaftRequest;
use kevel::proto::mvccpb::KeyValue;
use kevel::wal::SegmentName;

/// The state after one committed entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub revision: i64,
    pub pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub members: Members,
}

impl State {
    fn apply(&mut self, entry: &Entry) {
        if entry.entry_type() == EntryType::EntryConfChange {
            return self.members.apply(entry);
        }
        let request = InternalRaftRequest::decode(entry.data.clone()).expect("a request");
        if let Some(put) = request.put {
            self.revision += 1;
            self.pairs.insert(put.key.to_vec(), put.value.to_vec());
        }
    }
}

/// The member's log as it was handed to the disk.
#[derive(Default)]
struct Shadow {
    reader: LogReader,
    /// The log up to the last write that is durable.
    durable: Vec<LogEntry>,
    /// The entries of the writes since, in the order of writing.
    writes: Vec<(u64, Vec<LogEntry>)>,
}

fn put_entry(log: &mut Vec<LogEntry>, entry: &LogEntry) {
    judge!(
        entry.index >= 1 && entry.index <= log.len() as u64 + 1,
        "the log leaves a gap before entry {}",
        entry.index
    );
    log.truncate(entry.index as usize - 1);
    log.push(entry.clone());
}

fn is_same(ours: &LogEntry, theirs: &LogEntry) -> bool {
    (ours.index, ours.term, &ours.data) == (theirs.index, theirs.term, &theirs.data)
}

/// Everything that can be known from outside of the member.
pub struct Judge {
    member: u64,
    /// Entry `i` is at position `i - 1`.
    pub committed: Vec<Entry>,
    /// The last entry that another leader than the member has committed.
    pub committed_elsewhere: u64,
    /// The terms in which they were committed: a leader of an earlier term, elected late, may lack them.
    committed_in: Vec<u64>,
    /// By committed entries.
    states: Vec<State>,
    /// Requests by id that are committed.
    done: BTreeSet<u64>,
    leaders: BTreeMap<u64, u64>,
    /// The member's votes by term.
    votes: BTreeMap<u64, u64>,
    /// The highest term in any message of the member.
    promised_term: u64,
    /// The same, at the start of this life: no later message may have a lower term. Within a life messages that had to
    /// wait for the log may come after those of a later term.
    term_floor: u64,
    /// What a restart may not fall below: the last durable checkpoint.
    checkpoint: u64,
    /// Commit and applied index, as seen last in this life.
    seen: (u64, u64),
    shadow: Shadow,
}

impl Judge {
    pub fn new(member: u64, founding: &[Entry]) -> Self {
        let mut judge = Self {
            member,
            committed: vec![],
            committed_elsewhere: 0,
            committed_in: vec![],
            states: vec![State { revision: 1, ..State::default() }],
            done: BTreeSet::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            promised_term: 0,
            term_floor: 0,
            checkpoint: 0,
            seen: (0, 0),
            shadow: Shadow::default(),
        };
        judge.on_commit(founding);
        judge
    }

    /// The state after an entry.
    pub fn state(&self, applied: u64) -> &State {
        judge!(
            applied <= self.committed.len() as u64,
            "entry {applied} is applied, {} are committed",
            self.committed.len()
        );
        &self.states[applied as usize]
    }

    /// A quorum holds these entries: they are the history, from now on and for ever.
    pub fn on_commit(&mut self, log: &[Entry]) {
        for (known, entry) in self.committed.iter().zip(log) {
            judge!(
                (known.term, &known.data) == (entry.term, &entry.data),
                "entry {} was committed in term {}, and now another one of term {} is",
                known.index,
                known.term,
                entry.term
            );
        }
        let term = log.last().map_or(0, |last| last.term);
        self.committed_in.resize(self.committed.len().max(log.len()), term);
        for entry in log.iter().skip(self.committed.len()) {
            let mut state = self.states.last().expect("a first state").clone();
            if !entry.data.is_empty() {
                state.apply(entry);
            }
            if entry.entry_type() == EntryType::EntryNormal {
                self.done.extend(request_id(&entry.data));
            }
            self.states.push(state);
            self.committed.push(entry.clone());
        }
    }

    /// Somebody leads a term, with this log.
    pub fn on_leader(&mut self, term: u64, id: u64, holds: impl Fn(&Entry) -> bool) {
        if let Some(&other) = self.leaders.get(&term) {
            judge!(other == id, "term {term} has the leaders {other:x} and {id:x}");
            return;
        }
        self.leaders.insert(term, id);
        let known = self.committed.iter().zip(&self.committed_in).filter(|(_, committed)| **committed < term);
        let lost = known.map(|(entry, _)| entry).find(|entry| !holds(entry));
        judge!(
            lost.is_none(),
            "{id:x} leads term {term} without entry {}, which is committed",
            lost.map_or(0, |entry| entry.index)
        );
    }

    /// A message leaves the member, which had applied so much when it was made, and is in `term` by now.
    pub fn on_message(&mut self, message: &Message, applied: u64, term: u64) {
        use MessageType as Kind;
        let kind = message.msg_type();
        judge!(
            !self.state(applied).members.removed.contains(&message.to) || !is_of_a_leader(kind),
            "a message goes to {:x}, which was removed",
            message.to
        );
        let asks = matches!(kind, Kind::MsgRequestVote | Kind::MsgRequestPreVote);
        let has_voted = |state: &State| state.members.known.get(&message.to).is_some_and(|(_, votes)| *votes);
        judge!(
            !asks || self.states.iter().rev().any(has_voted),
            "{:x} is asked for a vote that it never had",
            message.to
        );
        match kind {
            // The term of a question before a campaign is nobody's yet, and what is only handed on has none.
            Kind::MsgPropose | Kind::MsgReadIndex | Kind::MsgReadIndexResp | Kind::MsgRequestPreVote => {
                return;
            }
            Kind::MsgRequestPreVoteResponse if !message.reject => return,
            Kind::MsgRequestVote => self.on_member_vote(message.term, self.member),
            Kind::MsgRequestVoteResponse if !message.reject => self.on_member_vote(message.term, message.to),
            // Who led for a part of a turn has lost its log to a later leader before anything of it was written.
            Kind::MsgAppend | Kind::MsgHeartbeat if message.term < term => {
                self.on_leader(message.term, self.member, |_| true);
            }
            Kind::MsgAppend | Kind::MsgHeartbeat => self.on_member_leads(message),
            _ => {}
        }
        judge!(
            message.term >= self.term_floor,
            "the member goes back from term {} to {}",
            self.term_floor,
            message.term
        );
        self.promised_term = self.promised_term.max(message.term);
    }

    fn on_member_vote(&mut self, term: u64, candidate: u64) {
        let first = *self.votes.entry(term).or_insert(candidate);
        judge!(first == candidate, "the member votes for {first:x} and {candidate:x} in term {term}");
    }

    fn on_member_leads(&mut self, message: &Message) {
        let log = self.written();
        let known: BTreeMap<u64, u64> = log.iter().map(|entry| (entry.index, entry.term)).collect();
        self.on_leader(message.term, self.member, |entry| known.get(&entry.index) == Some(&entry.term));
        for entry in &message.entries {
            let own = log.get(entry.index as usize - 1);
            judge!(
                own.is_none_or(|own| own.term == entry.term && own.data == entry.data),
                "the member sends entry {} of term {}, and its log has one of term {} there",
                entry.index,
                entry.term,
                own.map_or(0, |own| own.term)
            );
        }
    }

    /// A request of a client is answered.
    pub fn on_reply(&self, id: u64) {
        judge!(self.done.contains(&id), "request {id:x} is answered and not committed");
    }

    /// What the member shows after a turn. `log_of` gives the log of each peer.
    pub fn on_turn(&mut self, commit: u64, applied: u64, peers: &[(u64, &[Entry])]) {
        // One after the other: who has a vote on an entry may follow from the one before it.
        for reach in self.committed.len() as u64 + 1..=commit {
            self.on_member_commit(reach, applied, peers);
        }
        judge!(applied <= commit, "entry {applied} is applied, the commit index is {commit}");
        judge!(
            commit >= self.seen.0 && applied >= self.seen.1,
            "commit and applied go back from {:?} to {:?}",
            self.seen,
            (commit, applied)
        );
        self.seen = (commit, applied);
    }

    /// The member leads and says that an entry is committed: enough others have to hold it.
    fn on_member_commit(&mut self, commit: u64, applied: u64, peers: &[(u64, &[Entry])]) {
        let log = self.written();
        judge!(commit <= log.len() as u64, "entry {commit} is committed, and the log ends at {}", log.len());
        let last = &log[commit as usize - 1];
        let holds =
            |entries: &[Entry]| entries.get(commit as usize - 1).is_some_and(|entry| entry.term == last.term);
        let durable = self.shadow.durable.get(commit as usize - 1).is_some_and(|own| is_same(own, last));
        // A change of the voters counts for a member from when it is applied there, and each of those applied in a turn
        // is followed by a count.
        let is_held = (self.seen.1..=applied.min(self.committed.len() as u64)).any(|applied| {
            let voters = self.states[applied as usize].members.voters();
            let others = peers.iter().filter(|(id, log)| voters.contains(id) && holds(log)).count();
            others + usize::from(durable) > voters.len() / 2
        });
        judge!(is_held, "the member takes entry {commit} for committed, and no quorum holds it");
        let typed = |own: &LogEntry| {
            peers.iter().find_map(|(_, log)| {
                log.get(own.index as usize - 1).filter(|entry| entry.term == own.term).cloned()
            })
        };
        let entries: Option<Vec<Entry>> = log[..commit as usize].iter().map(typed).collect();
        let Some(entries) = entries else { panic!("judge: entries up to {commit} are held by nobody else") };
        self.on_commit(&entries);
    }

    /// The member's log, with what is on its way.
    fn written(&self) -> Vec<LogEntry> {
        let mut log = self.shadow.durable.clone();
        for entry in self.shadow.writes.iter().flat_map(|(_, entries)| entries) {
            put_entry(&mut log, entry);
        }
        log
    }

    /// A log write is handed to the disk. True if it holds a vote in a term that the log knew before, and no entry.
    pub fn on_write(&mut self, ready: u64, write: &kevel::wal::Write) -> bool {
        let (term, vote, _) = self.shadow.reader.state;
        let entries = self.shadow.reader.write(write.create, write.offset as usize, &write.bytes);
        let state = self.shadow.reader.state;
        let votes = entries.is_empty() && state.0 == term && state.1 != vote;
        self.shadow.writes.push((ready, entries));
        self.judge_mark();
        // No entry of the log may take the place of one that is committed.
        for (own, known) in self.written().iter().zip(&self.committed[..self.seen.0 as usize]) {
            judge!(
                (own.term, &own.data) == (known.term, &known.data),
                "entry {} is written over, and it is committed",
                own.index
            );
        }
        votes
    }

    /// A mark says who was a member when the store got so far: etcd starts with them.
    fn judge_mark(&self) {
        let reader = &self.shadow.reader;
        let known = &self.state(reader.marked).members.known;
        let of = |votes: bool| known.iter().filter(move |(_, member)| member.1 == votes).map(|(&id, _)| id);
        let members: (Vec<u64>, Vec<u64>) = (of(true).collect(), of(false).collect());
        judge!(
            reader.marked == 0 || reader.marked_members == members,
            "the mark at {} has the members {:x?}, not {members:x?}",
            reader.marked,
            reader.marked_members
        );
    }

    /// The oldest log write is durable.
    pub fn on_durable(&mut self) {
        let (_, entries) = self.shadow.writes.remove(0);
        entries.iter().for_each(|entry| put_entry(&mut self.shadow.durable, entry));
    }

    pub fn on_checkpoint(&mut self, index: u64) {
        self.checkpoint = self.checkpoint.max(index);
    }

    /// The log after a crash is the durable one, with none, some or all of the entries that were on their way, in the
    /// order of writing. Returns it, and the entries in its files whose place was taken by others.
    pub fn on_restart(&mut self, segments: &[(SegmentName, Vec<u8>)]) -> (Vec<LogEntry>, Vec<LogEntry>) {
        let reader = LogReader::read(segments);
        let mut log = std::mem::take(&mut self.shadow.durable);
        let later: Vec<LogEntry> =
            std::mem::take(&mut self.shadow.writes).into_iter().flat_map(|(_, entries)| entries).collect();
        let mut later = later.iter();
        let found = &reader.entries;
        let named = segments.first().map_or(1, |(name, _)| name.index.max(1));
        let first = found.first().map_or(named, |entry| entry.index) as usize - 1;
        let agrees = |log: &[LogEntry]| {
            log.get(first..).is_some_and(|rest| {
                rest.len() == found.len() && rest.iter().zip(found).all(|(a, b)| is_same(a, b))
            })
        };
        while !agrees(&log) {
            let Some(entry) = later.next() else {
                let ends = found.last().map_or(0, |entry| entry.index);
                panic!("judge: the log never was what the disk holds, up to entry {ends}");
            };
            put_entry(&mut log, entry);
        }
        self.shadow.durable = log.clone();
        let overwritten = reader.overwritten.clone();
        self.shadow.reader = reader;
        self.seen = (self.checkpoint, self.checkpoint);
        self.term_floor = self.promised_term;
        (log, overwritten)
    }
}

fn is_of_a_leader(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat)
}

fn request_id(data: &[u8]) -> Option<u64> {
    InternalRaftRequest::decode(data).ok()?.header.map(|header| header.id)
}

/// The value in an encoded pair.
pub fn value_of(pair: &[u8]) -> Vec<u8> {
    KeyValue::decode(pair).expect("a pair").value.to_vec()
}
