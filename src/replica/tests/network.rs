//! Several members with disks and a network that are as fast as memory. A test says what the network loses, whose disk
//! stands still, and who loses its memory.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{ConfChange, ConfChangeType, Message, MessageType};

use super::world::TICK;
use crate::btree::Store;
use crate::cluster::member::MemberContext;
use crate::cluster::reconfig::Rules;
use crate::error::Error;
use crate::mvcc::View;
use crate::mvcc::pin::Pins;
use crate::page::{MemoryFile, Owner};
use crate::proto::etcdserverpb::PutRequest;
use crate::replica::arrival::{Arrival, Recipient};
use crate::replica::bootstrap::Foundation;
use crate::replica::configure::{added, removed};
use crate::replica::port::{Input, LeaseCall, Output, Outputs, Ticket};
use crate::replica::{Opening, Replica, Settings, refusal, unapplied};
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::snapshot::{Gathering, SnapshotFile};
use crate::stdx::time::{Duration, Instant};
use crate::wal::Write;
use crate::wal::fuzz::Files;

/// What a member said that its world does nothing about.
#[derive(Default)]
pub(super) struct Said {
    pub(super) replies: BTreeMap<Ticket, Result<Response, Error>>,
    /// Reads that may look.
    pub(super) reads: BTreeSet<Ticket>,
    pub(super) promotions: Vec<u64>,
    pub(super) removed: bool,
}

/// A member and its disk. The store file is never written: a start has everything from the log.
pub(super) struct Member {
    pub(super) replica: Replica,
    pub(super) said: Said,
    pub(super) files: Files,
    /// Writes to the log that are under way.
    writes: VecDeque<(u64, Write)>,
    /// No write ends any more.
    pub(super) is_stalled: bool,
}

pub(super) struct Cluster {
    cluster_id: u64,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) now: Instant,
    tickets: u128,
    /// Messages that never arrive.
    pub(super) loses: fn(&Message) -> bool,
    /// Why members stopped or dropped messages, in a test that expects it.
    pub(super) complaints: Option<Vec<String>>,
}

pub(super) fn settings(member_id: u64) -> Settings {
    Settings {
        member_id,
        name: format!("m{member_id}"),
        client_urls: vec![],
        election_ticks: 10,
        tick: TICK,
        pre_vote: true,
        catchup_entries: 1000,
        segments_kept: 0,
        lease_ttl_min: 2,
        quota_bytes: None,
        rules: Rules { learners_max: 1, is_strict: false },
        asks_versions: false,
        request_ids: (member_id << 48 | 1 << 32, 1),
        seed: member_id,
    }
}

fn open(id: u64, opening: Opening) -> Replica {
    let store = Store::open(Arc::new(MemoryFile::default())).unwrap();
    Replica::open(settings(id), store, opening, Pins::new(1)).unwrap()
}

impl Cluster {
    /// So many founders, one of which leads.
    pub(super) fn new(founders: u64) -> Self {
        let name = |n| (format!("m{n}"), vec![format!("http://m{n}:2380")]);
        let foundation = Foundation::new((0..founders).map(name), "token");
        let mut cluster = Self {
            cluster_id: foundation.cluster_id,
            members: BTreeMap::new(),
            now: Instant::default(),
            tickets: 0,
            loses: |_| false,
            complaints: None,
        };
        for founder in &foundation.founders {
            cluster.start(founder.id, Opening::Found(foundation.clone()));
        }
        cluster.until(|cluster| cluster.leader().is_some());
        cluster
    }

    /// Starts a member: a new one, or one that has a log by now.
    pub(super) fn start(&mut self, id: u64, opening: Opening) {
        let (replica, said, writes) = (open(id, opening), Said::default(), VecDeque::new());
        let files = self.members.remove(&id).map(|member| member.files).unwrap_or_default();
        self.members.insert(id, Member { replica, said, files, writes, is_stalled: false });
    }

    /// The process of a member is killed and starts again: writes under way are lost.
    pub(super) fn restart(&mut self, id: u64) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member");
        let recovered = member.files.recover(0).map_err(|error| error.to_string())?;
        let store = Store::in_memory();
        if let Some(why) = refusal(&store, unapplied(&store, &recovered.entries), recovered.state.commit) {
            return Err(why);
        }
        let names = member.files.names();
        member.replica = open(id, Opening::Recover(Box::new(recovered), names));
        (member.said, member.writes) = (Said::default(), VecDeque::new());
        Ok(())
    }

    pub(super) fn leader(&self) -> Option<u64> {
        self.members.iter().find(|(_, member)| member.replica.held_term().is_some()).map(|(&id, _)| id)
    }

    pub(super) fn follower(&self) -> u64 {
        let leader = self.leader();
        *self.members.keys().find(|id| Some(**id) != leader).expect("a follower")
    }

    /// All that members have to do, until nobody has more.
    pub(super) fn settle(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for id in &ids {
                is_quiet &= !self.turn(*id);
            }
        }
    }

    /// A turn of one member. True if something came of it.
    pub(super) fn turn(&mut self, id: u64) -> bool {
        let mut outputs = Outputs::new();
        let member = self.members.get_mut(&id).expect("a member");
        let more = member.replica.drain(self.now, &mut outputs);
        let (mut acts, mut messages) = (more || !outputs.is_empty(), Vec::new());
        for output in outputs {
            match output {
                Output::AppendWal { ready, write } => member.writes.push_back((ready, write)),
                Output::Send { to, message } => messages.push((to, message)),
                Output::Reply { ticket, result } => _ = member.said.replies.insert(ticket, result),
                Output::ReadReady { ticket } => _ = member.said.reads.insert(ticket),
                Output::AskPromotion { id, .. } => member.said.promotions.push(id),
                Output::Removed => member.said.removed = true,
                Output::Halt { reason: why } | Output::Unsound { why, .. } => match &mut self.complaints {
                    Some(complaints) => complaints.push(why),
                    None => panic!("{id:x} says: {why}"),
                },
                _ => {}
            }
        }
        while !member.is_stalled
            && let Some((ready, write)) = member.writes.pop_front()
        {
            acts = true;
            member.files.write(&write);
            member.replica.step(Input::WalSynced { ready, buffer: write.bytes, took: Duration::ZERO });
        }
        for (to, message) in messages {
            if let Some(member) = self.members.get_mut(&to)
                && !(self.loses)(&message)
            {
                member.replica.step(Input::PeerMessage(message));
            }
        }
        acts
    }

    /// A message arrives from nowhere.
    pub(super) fn say(&mut self, id: u64, message: Message) {
        self.members.get_mut(&id).expect("a member").replica.step(Input::PeerMessage(Box::new(message)));
    }

    /// A tick passes for everybody.
    pub(super) fn tick(&mut self) {
        self.now = self.now + TICK;
        self.members.values_mut().for_each(|member| member.replica.step(Input::Tick));
    }

    /// So many ticks pass.
    pub(super) fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.settle();
            self.tick();
        }
        self.settle();
    }

    /// Time passes until `is_so`.
    pub(super) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..200 {
            self.settle();
            if is_so(self) {
                return;
            }
            self.tick();
        }
        panic!("it does not happen in twenty election timeouts");
    }

    pub(super) fn ask(&mut self, id: u64, question: impl FnOnce(Ticket) -> Input) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.members.get_mut(&id).expect("a member").replica.step(question(ticket));
        ticket
    }

    pub(super) fn put(&mut self, id: u64) -> Ticket {
        let request = PutRequest { key: "key".into(), ..PutRequest::default() };
        let number = self.tickets as u64 + 1;
        let request_id = id << 48 | number;
        let entry = Entry::new(request_id, Request::Put(request)).encode();
        self.ask(id, |ticket| Input::Propose { ticket, id: request_id, entry })
    }

    /// Renews a lease that nobody knows.
    pub(super) fn renew(&mut self, id: u64) -> Ticket {
        self.ask(id, |ticket| Input::Lease { ticket, call: LeaseCall::KeepAlive { id: 7 } })
    }

    pub(super) fn configure(&mut self, id: u64, change: ConfChange) -> Ticket {
        self.ask(id, |ticket| Input::Configure { ticket, change: Box::new(change) })
    }

    pub(super) fn change(&mut self, id: u64, change: ConfChange) -> Result<usize, Error> {
        let ticket = self.configure(id, change);
        self.until(|cluster| cluster.reply(id, ticket).is_some());
        match self.reply(id, ticket).cloned().unwrap() {
            Ok(Response::Members { members }) => Ok(members.len()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    /// A leader has its own removal decided, as if there were nobody to hand leadership to.
    pub(super) fn remove_itself(&mut self, leader: u64) {
        let replica = &mut self.members.get_mut(&leader).unwrap().replica;
        replica.node.propose_conf_change(Vec::new(), removed(leader)).unwrap();
        self.turn(leader);
    }

    pub(super) fn reply(&self, id: u64, ticket: Ticket) -> Option<&Result<Response, Error>> {
        self.members[&id].said.replies.get(&ticket)
    }

    /// The state of one member as a snapshot that it has sent to another one.
    pub(super) fn snapshot(&self, from: u64, to: u64) -> Box<Arrival> {
        let replica = &self.members[&from].replica;
        let mut reader = replica.readers().register();
        let state = reader.snapshot();
        let mut gathering = Gathering::new(&state).unwrap();
        while !gathering.step(1000).unwrap() {}
        let mut file = SnapshotFile::new(gathering.finish());
        while file.count(&View::new(&state), 1000).unwrap().is_none() {}
        let (bytes, _) = file.write(&View::new(&state), usize::MAX, usize::MAX).unwrap();
        let message = Message {
            msg_type: MessageType::MsgSnapshot.into(),
            term: replica.gate().term(),
            snapshot: Some(file.message().clone()),
            from,
            to,
            ..Message::default()
        };
        let owner = Owner { member_id: to, cluster_id: self.cluster_id };
        let recipient = Recipient { owner, lease_ttl_min: 2, secret: 1 };
        let into = Arc::new(MemoryFile::default());
        Box::new(Arrival::build(Box::new(message), &bytes[..], into, &recipient, || {}).unwrap())
    }

    pub(super) fn join(&mut self, id: u64, kind: ConfChangeType) -> Result<usize, Error> {
        let through = self.members.keys().copied().find(|id| Some(*id) != self.leader());
        self.join_through(through.or(self.leader()).expect("a member"), id, kind)
    }

    pub(super) fn join_through(
        &mut self,
        through: u64,
        id: u64,
        kind: ConfChangeType,
    ) -> Result<usize, Error> {
        let is_learner = kind == ConfChangeType::AddLearnerNode;
        let peer_urls = vec![format!("http://joiner{id}:2380")];
        let context = MemberContext { id, peer_urls, is_learner, ..MemberContext::default() };
        let members = self.change(through, added(kind, &context))?;
        let cluster_id = self.cluster_id;
        self.start(id, Opening::Join { cluster_id });
        Ok(members)
    }
}
