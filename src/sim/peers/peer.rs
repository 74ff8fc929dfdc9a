//! A scripted peer: raft as its paper has it, in as few lines as possible, and none of the member's code.
//!
//! The peer has no clock. The world decides when the peer campaigns, takes a command and repeats its messages; the
//! peer itself only answers. A leader sends entries before its own disk has them, so a leader that crashes may lose
//! what the member has got from it: that is how entries come to be overwritten. What a follower has answered for is
//! synced.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};

/// A vote asked for with this context is granted also by those who have heard of a leader lately.
const FORCED: &[u8] = b"CampaignTransfer";

/// Entries in one message at most.
const ENTRIES_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

/// One of the other members.
pub struct Peer {
    pub id: u64,
    pub term: u64,
    pub role: Role,
    /// Entry `i` is at position `i - 1`.
    pub log: Vec<Entry>,
    pub commit: u64,
    /// Entries that a crash leaves.
    synced: u64,
    vote: u64,
    votes: BTreeSet<u64>,
    /// By member, the last entry that it is known to share with this leader.
    matched: BTreeMap<u64, u64>,
    /// By member, the entry before the first that the next message to it holds.
    before: BTreeMap<u64, u64>,
}

/// Who is a member after some entries, by etcd's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Members with the address that each has; true for those that vote.
    pub known: BTreeMap<u64, (String, bool)>,
    pub removed: BTreeSet<u64>,
}

/// A change of the members, as its entry says.
#[derive(Clone, Debug)]
pub struct Change {
    pub id: u64,
    pub url: String,
    pub kind: ConfChangeType,
    pub promotes: bool,
}

impl Change {
    pub fn encode(&self) -> Vec<u8> {
        let Self { id, url, kind, promotes } = self;
        let learns = *kind == ConfChangeType::AddLearnerNode;
        let context = format!(
            "{{\"id\":{id},\"peerURLs\":[\"{url}\"],\"isLearner\":{learns},\"isPromote\":{promotes}}}"
        );
        let change = ConfChange {
            change_type: (*kind).into(),
            node_id: *id,
            context: context.into(),
            ..Default::default()
        };
        change.encode_to_vec()
    }

    /// Of what a founder of the cluster or the script has written.
    fn decode(entry: &Entry) -> Self {
        let change = ConfChange::decode(entry.data.clone()).expect("the script writes what it can read");
        let context = String::from_utf8_lossy(&change.context).into_owned();
        let url = context.split("http://").nth(1).and_then(|rest| rest.split('"').next());
        let url = url.map_or(String::new(), |url| format!("http://{url}"));
        let promotes = context.contains("\"isPromote\":true");
        Self { id: change.node_id, url, kind: change.change_type(), promotes }
    }
}

impl Members {
    /// Takes an entry into account, if it takes effect.
    pub fn apply(&mut self, entry: &Entry) {
        if entry.entry_type() != EntryType::EntryConfChange {
            return;
        }
        let change = Change::decode(entry);
        let known = self.known.get(&change.id).cloned();
        if self.removed.contains(&change.id) {
            return;
        }
        if change.kind == ConfChangeType::RemoveNode {
            if known.is_some() {
                self.known.remove(&change.id);
                self.removed.insert(change.id);
            }
            return;
        }
        match (known, change.promotes) {
            (Some((url, false)), true) => _ = self.known.insert(change.id, (url, true)),
            (None, false) if change.kind == ConfChangeType::AddLearnerNode && self.has_learners() => {}
            (None, false) if !self.known.values().any(|(url, _)| *url == change.url) => {
                self.known.insert(change.id, (change.url, change.kind == ConfChangeType::AddNode));
            }
            _ => {}
        }
    }

    /// A cluster has one learner at most, unless it is told otherwise.
    fn has_learners(&self) -> bool {
        self.known.values().any(|(_, votes)| !votes)
    }

    pub fn voters(&self) -> BTreeSet<u64> {
        self.known.iter().filter(|(_, (_, votes))| *votes).map(|(&id, _)| id).collect()
    }
}

/// The members after these entries.
pub fn members(entries: &[Entry]) -> Members {
    let mut members = Members::default();
    entries.iter().for_each(|entry| members.apply(entry));
    members
}

/// How many of so many are a quorum.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl Peer {
    /// A peer whose log begins with the entries of the foundation, which are committed.
    pub fn founder(id: u64, founding: &[Entry]) -> Self {
        Self {
            id,
            term: 1,
            role: Role::Follower,
            log: founding.to_vec(),
            commit: founding.len() as u64,
            synced: founding.len() as u64,
            vote: 0,
            votes: BTreeSet::new(),
            matched: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    /// A peer that knows nothing, and waits for a leader.
    pub fn joiner(id: u64) -> Self {
        Self { term: 0, ..Self::founder(id, &[]) }
    }

    pub fn last(&self) -> u64 {
        self.log.len() as u64
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        match index {
            0 => Some(0),
            _ => self.log.get(index as usize - 1).map(|entry| entry.term),
        }
    }

    fn last_term(&self) -> u64 {
        self.log.last().map_or(0, |entry| entry.term)
    }

    /// Who is a member, as far as this peer knows.
    pub fn members(&self) -> Members {
        members(&self.log[..self.commit as usize])
    }

    /// Those who vote, as far as this peer knows.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.members().voters()
    }

    /// The other members, also those that only learn.
    pub fn others(&self) -> Vec<u64> {
        self.members().known.into_keys().filter(|&id| id != self.id).collect()
    }

    /// Whether something of its own term is committed: before that a leader changes no members.
    pub fn has_committed_in_term(&self) -> bool {
        self.term_at(self.commit) == Some(self.term)
    }

    fn message(&self, to: u64, kind: MessageType) -> Message {
        Message { msg_type: kind.into(), to, from: self.id, term: self.term, ..Message::default() }
    }

    fn follow(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.vote) = (term, 0);
        }
        self.role = Role::Follower;
        self.votes.clear();
    }

    /// Asks for the votes of a term above `floor`.
    pub fn campaign(&mut self, floor: u64, forced: bool) -> Vec<Message> {
        self.follow(self.term.max(floor) + 1);
        self.sync();
        self.role = Role::Candidate;
        self.vote = self.id;
        self.votes.insert(self.id);
        let context = if forced { FORCED } else { &[] };
        let ask = |to| Message {
            index: self.last(),
            log_term: self.last_term(),
            context: context.into(),
            ..self.message(to, MessageType::MsgRequestVote)
        };
        self.voters().into_iter().filter(|&id| id != self.id).map(ask).collect()
    }

    /// A message that says no more than which term this peer is in.
    pub fn word_to(&self, to: u64) -> Message {
        self.message(to, MessageType::MsgHeartbeatResponse)
    }

    /// Adds a command to the log of a leader.
    pub fn propose(&mut self, entry_type: EntryType, data: bytes::Bytes) {
        let entry = Entry {
            entry_type: entry_type.into(),
            term: self.term,
            index: self.last() + 1,
            data,
            ..Entry::default()
        };
        self.log.push(entry);
    }

    /// The disk of the peer has everything.
    pub fn sync(&mut self) {
        self.synced = self.last();
        self.matched.insert(self.id, self.last());
    }

    /// The peer stops and starts again with what its disk has.
    pub fn crash(&mut self) {
        self.log.truncate(self.synced as usize);
        // The others may have made a quorum without the disk of this leader.
        self.commit = self.commit.min(self.synced);
        self.follow(self.term);
    }

    /// The next entries for somebody, perhaps none.
    pub fn append_to(&self, to: u64) -> Message {
        let before = self.before.get(&to).copied().unwrap_or(self.last()).min(self.last());
        let rest = &self.log[before as usize..];
        Message {
            index: before,
            log_term: self.term_at(before).expect("an entry of the log"),
            entries: rest[..rest.len().min(ENTRIES_MAX)].to_vec(),
            commit: self.commit,
            ..self.message(to, MessageType::MsgAppend)
        }
    }

    pub fn heartbeat_to(&self, to: u64) -> Message {
        let shared = self.matched.get(&to).copied().unwrap_or(0);
        Message { commit: self.commit.min(shared), ..self.message(to, MessageType::MsgHeartbeat) }
    }

    /// Takes a message and answers.
    pub fn step(&mut self, message: &Message) -> Vec<Message> {
        use MessageType as Kind;
        match message.msg_type() {
            Kind::MsgPropose => return self.on_propose(message),
            Kind::MsgReadIndex => return vec![],
            Kind::MsgRequestPreVote => return vec![self.on_pre_vote(message)],
            Kind::MsgRequestPreVoteResponse => return vec![],
            _ => {}
        }
        if message.term > self.term {
            self.follow(message.term);
        }
        match message.msg_type() {
            Kind::MsgAppend | Kind::MsgHeartbeat if message.term < self.term => {
                vec![self.message(message.from, Kind::MsgAppendResponse)]
            }
            Kind::MsgRequestVote => vec![self.on_vote(message)],
            _ if message.term < self.term => vec![],
            Kind::MsgRequestVoteResponse => self.on_vote_response(message),
            Kind::MsgAppend => vec![self.on_append(message)],
            Kind::MsgHeartbeat => {
                self.role = Role::Follower;
                self.commit = self.commit.max(message.commit.min(self.last()));
                let context = message.context.clone();
                vec![Message { context, ..self.message(message.from, Kind::MsgHeartbeatResponse) }]
            }
            Kind::MsgAppendResponse => self.on_append_response(message),
            _ => vec![],
        }
    }

    /// Answers a read of a follower. To be called only where this peer leads, and nothing newer is committed elsewhere.
    pub fn answer_read(&self, message: &Message) -> Option<Message> {
        let answer = self.message(message.from, MessageType::MsgReadIndexResp);
        let answer = Message { index: self.commit, entries: message.entries.clone(), ..answer };
        (self.role == Role::Leader && self.has_committed_in_term()).then_some(answer)
    }

    fn on_propose(&mut self, message: &Message) -> Vec<Message> {
        if self.role == Role::Leader {
            message.entries.iter().for_each(|entry| self.propose(entry.entry_type(), entry.data.clone()));
        }
        vec![]
    }

    fn is_up_to_date(&self, message: &Message) -> bool {
        (message.log_term, message.index) >= (self.last_term(), self.last())
    }

    fn on_pre_vote(&self, message: &Message) -> Message {
        let granted = message.term > self.term && self.is_up_to_date(message);
        let term = if granted { message.term } else { self.term };
        let answer = self.message(message.from, MessageType::MsgRequestPreVoteResponse);
        Message { term, reject: !granted, ..answer }
    }

    fn on_vote(&mut self, message: &Message) -> Message {
        let granted = message.term == self.term
            && (self.vote == 0 || self.vote == message.from)
            && self.is_up_to_date(message);
        if granted {
            self.vote = message.from;
        }
        Message { reject: !granted, ..self.message(message.from, MessageType::MsgRequestVoteResponse) }
    }

    fn on_vote_response(&mut self, message: &Message) -> Vec<Message> {
        if self.role != Role::Candidate || message.reject {
            return vec![];
        }
        self.votes.insert(message.from);
        let voters = self.voters();
        if self.votes.intersection(&voters).count() < quorum(voters.len()) {
            return vec![];
        }
        self.role = Role::Leader;
        self.matched = BTreeMap::from([(self.id, self.last())]);
        self.before = self.others().into_iter().map(|id| (id, self.last())).collect();
        self.propose(EntryType::EntryNormal, bytes::Bytes::new());
        self.others().into_iter().map(|to| self.append_to(to)).collect()
    }

    fn on_append(&mut self, message: &Message) -> Message {
        self.role = Role::Follower;
        let answer = self.message(message.from, MessageType::MsgAppendResponse);
        if self.term_at(message.index) != Some(message.log_term) {
            let hint = message.index.min(self.last()).max(self.commit);
            let log_term = self.term_at(hint).unwrap_or(0);
            return Message { reject: true, index: message.index, reject_hint: hint, log_term, ..answer };
        }
        for entry in &message.entries {
            if self.term_at(entry.index) != Some(entry.term) {
                self.log.truncate(entry.index as usize - 1);
                self.log.push(entry.clone());
            }
        }
        self.sync();
        let reach = message.index + message.entries.len() as u64;
        self.commit = self.commit.max(message.commit.min(reach));
        Message { index: reach, commit: self.commit, ..answer }
    }

    /// Takes the state after these entries, which are committed, in the place of the entries.
    pub fn install(&mut self, message: &Message, entries: &[Entry]) -> Message {
        if message.term >= self.term {
            self.follow(message.term);
            let reach = entries.len() as u64;
            if self.commit < reach {
                if self.term_at(reach) != entries.last().map(|last| last.term) {
                    self.log = entries.to_vec();
                }
                self.commit = reach;
                self.sync();
            }
        }
        let answer = self.message(message.from, MessageType::MsgAppendResponse);
        Message { index: self.commit, commit: self.commit, ..answer }
    }

    fn on_append_response(&mut self, message: &Message) -> Vec<Message> {
        if self.role != Role::Leader {
            return vec![];
        }
        if message.reject {
            let below = message.reject_hint.min(message.index.saturating_sub(1));
            let floor = self.matched.get(&message.from).copied().unwrap_or(0);
            self.before.insert(message.from, below.max(floor));
            return vec![self.append_to(message.from)];
        }
        let matched = self.matched.entry(message.from).or_default();
        *matched = message.index.max(*matched);
        let matched = *matched;
        self.before.insert(message.from, matched);
        if matched < self.last() { vec![self.append_to(message.from)] } else { vec![] }
    }

    /// Moves the commit index of a leader on. True if it has moved.
    pub fn advance(&mut self) -> bool {
        let before = self.commit;
        while self.role == Role::Leader {
            // A change of the voters counts from the entry after it on.
            let voters = self.voters();
            let holders = |index| {
                voters.iter().filter(|id| self.matched.get(id).is_some_and(|&last| last >= index)).count()
            };
            let own = (self.commit + 1..=self.last()).find(|&index| self.term_at(index) == Some(self.term));
            let Some(reach) = own.filter(|&index| holders(index) >= quorum(voters.len())) else { break };
            self.commit = reach;
        }
        self.commit > before
    }
}
