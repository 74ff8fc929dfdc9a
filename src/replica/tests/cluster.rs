//! Several members with disks and a network that are as fast as memory and lose nothing: members that come and go, and
//! leadership that is handed over.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::eraftpb::{ConfChange, ConfChangeType, Message, MessageType, Snapshot};

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
use crate::replica::port::{Input, Output, Outputs, Ticket};
use crate::replica::{Opening, Replica, Settings};
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::snapshot::{Gathering, SnapshotFile};
use crate::stdx::time::{Duration, Instant};
use crate::wal::fuzz::Files;

/// What a member said that its world does nothing about.
#[derive(Default)]
pub(super) struct Said {
    replies: BTreeMap<Ticket, Result<Response, Error>>,
    promotions: Vec<u64>,
    removed: bool,
}

pub(super) struct Cluster {
    cluster_id: u64,
    pub(super) members: BTreeMap<u64, (Replica, Said)>,
    /// The log of each member.
    pub(super) logs: BTreeMap<u64, Files>,
    now: Instant,
    tickets: u128,
}

fn settings(member_id: u64) -> Settings {
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

impl Cluster {
    /// So many founders, one of which leads.
    pub(super) fn new(founders: u64) -> Self {
        let name = |n| (format!("m{n}"), vec![format!("http://m{n}:2380")]);
        let foundation = Foundation::new((0..founders).map(name), "token");
        let mut cluster = Self {
            cluster_id: foundation.cluster_id,
            members: BTreeMap::new(),
            logs: BTreeMap::new(),
            now: Instant::default(),
            tickets: 0,
        };
        for founder in &foundation.founders {
            cluster.start(founder.id, Opening::Found(foundation.clone()));
        }
        cluster.until(|cluster| cluster.leader().is_some());
        cluster
    }

    pub(super) fn start(&mut self, id: u64, opening: Opening) {
        let replica = Replica::open(settings(id), Store::in_memory(), opening, Pins::new(1)).unwrap();
        self.members.insert(id, (replica, Said::default()));
    }

    pub(super) fn leader(&self) -> Option<u64> {
        self.members.iter().find(|(_, (replica, _))| replica.held_term().is_some()).map(|(&id, _)| id)
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
    fn turn(&mut self, id: u64) -> bool {
        let mut outputs = Outputs::new();
        let (replica, said) = self.members.get_mut(&id).expect("a member");
        let more = replica.drain(self.now, &mut outputs);
        let (mut acts, mut messages) = (more, Vec::new());
        for output in outputs {
            acts = true;
            match output {
                Output::AppendWal { ready, write } => {
                    self.logs.entry(id).or_default().write(&write);
                    replica.step(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
                }
                Output::Send { to, message } => messages.push((to, message)),
                Output::Reply { ticket, result } => _ = said.replies.insert(ticket, result),
                Output::AskPromotion { id, .. } => said.promotions.push(id),
                Output::Removed => said.removed = true,
                _ => {}
            }
        }
        for (to, message) in messages {
            if let Some((replica, _)) = self.members.get_mut(&to) {
                replica.step(Input::PeerMessage(message));
            }
        }
        acts
    }

    /// Time passes until `is_so`.
    pub(super) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..200 {
            self.settle();
            if is_so(self) {
                return;
            }
            self.now = self.now + TICK;
            self.members.values_mut().for_each(|(replica, _)| replica.step(Input::Tick));
        }
        panic!("it does not happen in twenty election timeouts");
    }

    /// So many ticks pass.
    pub(super) fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.settle();
            self.now = self.now + TICK;
            self.members.values_mut().for_each(|(replica, _)| replica.step(Input::Tick));
        }
        self.settle();
    }

    fn ask(&mut self, id: u64, question: impl FnOnce(Ticket) -> Input) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.members.get_mut(&id).expect("a member").0.step(question(ticket));
        ticket
    }

    pub(super) fn put(&mut self, id: u64) -> Ticket {
        let request = PutRequest { key: "key".into(), ..PutRequest::default() };
        let number = self.tickets as u64 + 1;
        let request_id = id << 48 | number;
        let entry = Entry::new(request_id, Request::Put(request)).encode();
        self.ask(id, |ticket| Input::Propose { ticket, id: request_id, entry })
    }

    pub(super) fn change(&mut self, id: u64, change: ConfChange) -> Result<usize, Error> {
        let ticket = self.ask(id, |ticket| Input::Configure { ticket, change: Box::new(change) });
        self.until(|cluster| cluster.reply(id, ticket).is_some());
        match self.reply(id, ticket).cloned().unwrap() {
            Ok(Response::Members { members }) => Ok(members.len()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    pub(super) fn reply(&self, id: u64, ticket: Ticket) -> Option<&Result<Response, Error>> {
        self.members[&id].1.replies.get(&ticket)
    }

    /// The state of one member as a snapshot that it has sent to another one.
    fn snapshot(&self, from: u64, to: u64) -> Box<Arrival> {
        let replica = &self.members[&from].0;
        let mut reader = replica.readers().register();
        let state = reader.snapshot();
        let mut gathering = Gathering::new(&state).unwrap();
        while !gathering.step(1000).unwrap() {}
        let mut file = SnapshotFile::new(gathering.finish());
        while file.count(&View::new(&state), 1000).unwrap().is_none() {}
        let (bytes, _) = file.write(&View::new(&state), usize::MAX, usize::MAX).unwrap();
        let snapshot = Snapshot { metadata: Some(file.metadata().clone()), ..Snapshot::default() };
        let message = Message {
            msg_type: MessageType::MsgSnapshot.into(),
            term: replica.gate().term(),
            snapshot: Some(snapshot),
            from,
            to,
            ..Message::default()
        };
        let owner = Owner { member_id: to, cluster_id: self.cluster_id };
        let recipient = Recipient { owner, lease_ttl_min: 2, secret: 1 };
        let into = Arc::new(MemoryFile::default());
        Box::new(Arrival::build(Box::new(message), &bytes[..], into, &recipient, || {}).unwrap())
    }

    fn join(&mut self, id: u64, kind: ConfChangeType) -> Result<usize, Error> {
        self.join_through(self.follower(), id, kind)
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

#[test]
fn a_leader_that_stops_hands_over_and_no_proposal_is_lost() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.ask(leader, |_| Input::Resign);
    assert!(cluster.members[&leader].0.is_handing_over());
    // One is proposed at the member that hands over, one is forwarded to it.
    let tickets = [(leader, cluster.put(leader)), (follower, cluster.put(follower))];
    // No tick: nobody waits for an election timeout.
    cluster.settle();
    assert!(cluster.leader().is_some_and(|next| next != leader));
    for (id, ticket) in tickets {
        assert!(matches!(cluster.reply(id, ticket), Some(Ok(Response::Put { .. }))), "through {id:x}");
    }
}

#[test]
fn leadership_goes_to_who_is_named_and_to_nobody_else() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let mut ask = |id, target| {
        let ticket = cluster.ask(id, |ticket| Input::MoveLeader { ticket, target });
        cluster.settle();
        cluster.reply(id, ticket).cloned()
    };
    assert_eq!(ask(follower, follower), Some(Err(Error::NotLeader)));
    assert_eq!(ask(leader, 7), Some(Err(Error::BadLeaderTransferee)));
    assert_eq!(ask(leader, leader), Some(Ok(Response::Done)));
    assert_eq!(ask(leader, follower), Some(Ok(Response::Done)));
    assert_eq!(cluster.leader(), Some(follower));
}

#[test]
fn leadership_that_nobody_takes_stays_and_who_asked_hears_of_it() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.members.remove(&follower);
    let ticket = cluster.ask(leader, |ticket| Input::MoveLeader { ticket, target: follower });
    let put = cluster.put(leader);
    cluster.until(|cluster| cluster.reply(leader, put).is_some());
    assert_eq!(cluster.reply(leader, ticket), Some(&Err(Error::LeaderTransferTimeout)));
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn a_member_that_joins_learns_everything_and_gets_its_vote_when_it_has() {
    let mut cluster = Cluster::new(2);
    (0..20).for_each(|_| _ = cluster.put(cluster.leader().unwrap()));
    assert_eq!(cluster.join(7, ConfChangeType::AddLearnerNode), Ok(3));
    let leader = cluster.leader().unwrap();
    let promote = |cluster: &mut Cluster, id| cluster.ask(id, |ticket| Input::Promote { ticket, id: 7 });
    let early = promote(&mut cluster, leader);
    cluster.turn(leader);
    assert_eq!(cluster.reply(leader, early), Some(&Err(Error::LearnerNotReady)));
    assert_eq!(cluster.join(8, ConfChangeType::AddLearnerNode), Err(Error::TooManyLearners));
    let all = cluster.members[&leader].0.applied();
    cluster.until(|cluster| cluster.members[&7].0.applied().index >= all.index);
    assert!(cluster.members[&7].0.is_learner() && cluster.members[&7].0.gate().is_learner());
    let follower = cluster.follower();
    promote(&mut cluster, follower);
    cluster.settle();
    assert_eq!(cluster.members[&follower].1.promotions, [7], "the leader has to be asked");
    let promoted = promote(&mut cluster, leader);
    cluster.until(|cluster| cluster.reply(leader, promoted).is_some());
    assert!(matches!(cluster.reply(leader, promoted), Some(Ok(Response::Members { .. }))));
    cluster.until(|cluster| !cluster.members[&7].0.is_learner());
    let again = promote(&mut cluster, leader);
    cluster.until(|cluster| cluster.reply(leader, again).is_some());
    assert_eq!(cluster.reply(leader, again), Some(&Err(Error::MemberNotLearner)));
}

#[test]
fn a_leader_that_is_removed_has_handed_over_before_and_hears_of_its_end() {
    for through_leader in [true, false] {
        let mut cluster = Cluster::new(3);
        let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
        let through = if through_leader { leader } else { follower };
        assert_eq!(cluster.change(through, removed(leader)), Ok(2));
        let ticket = cluster.put(follower);
        cluster.settle();
        assert!(matches!(cluster.reply(follower, ticket), Some(Ok(Response::Put { .. }))));
        cluster.until(|cluster| cluster.members[&leader].1.removed);
        assert!(cluster.leader().is_some_and(|next| next != leader));
        assert_eq!(cluster.change(follower, removed(leader)), Err(Error::MemberNotFound));
    }
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = Cluster::new(1);
    let only = cluster.leader().unwrap();
    assert_eq!(cluster.change(only, removed(only)), Err(Error::MemberNotEnoughStarted));
    let ticket = cluster.put(only);
    cluster.settle();
    assert!(matches!(cluster.reply(only, ticket), Some(Ok(_))));
}

/// Kills the leader: its process ends in the middle of whatever it did.
fn kill_leader(cluster: &mut Cluster) -> u64 {
    let leader = cluster.leader().unwrap();
    cluster.members.remove(&leader);
    leader
}

#[test]
fn a_leader_that_has_gone_is_followed_within_ticks_and_no_proposal_is_lost() {
    let mut cluster = Cluster::new(3);
    let leader = kill_leader(&mut cluster);
    let rest: Vec<u64> = cluster.members.keys().copied().collect();
    for &id in &rest {
        // Again and again, as attempts to connect fail.
        (0..3).for_each(|_| _ = cluster.ask(id, |_| Input::PeerGone(leader)));
    }
    let tickets = rest.iter().map(|&id| (id, cluster.put(id))).collect::<Vec<_>>();
    let began = cluster.now;
    cluster.until(|cluster| tickets.iter().all(|&(id, ticket)| cluster.reply(id, ticket).is_some()));
    assert_eq!(cluster.leader(), Some(rest[0]), "the first stands first");
    assert!(cluster.now.since(began) <= TICK * 3, "{:?}", cluster.now.since(began));
    for (id, ticket) in tickets {
        assert!(matches!(cluster.reply(id, ticket), Some(Ok(Response::Put { .. }))), "through {id:x}");
    }
}

#[test]
fn a_leader_that_others_hear_stays_whoever_takes_it_for_gone() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let term = cluster.members[&leader].0.held_term();
    cluster.ask(follower, |_| Input::PeerGone(leader));
    let ticket = cluster.put(follower);
    cluster.until(|cluster| cluster.reply(follower, ticket).is_some());
    for _ in 0..30 {
        cluster.now = cluster.now + TICK;
        cluster.members.values_mut().for_each(|(replica, _)| replica.step(Input::Tick));
        cluster.settle();
    }
    assert_eq!((cluster.leader(), cluster.members[&leader].0.held_term()), (Some(leader), term));
    assert!(matches!(cluster.reply(follower, ticket), Some(Ok(Response::Put { .. }))));
}

#[test]
fn a_second_stands_where_the_first_cannot_be_elected() {
    let mut cluster = Cluster::new(3);
    let leader = kill_leader(&mut cluster);
    let rest: Vec<u64> = cluster.members.keys().copied().collect();
    // The first does not hear that the leader has gone, and so hears it still, for a while.
    cluster.ask(rest[1], |_| Input::PeerGone(leader));
    cluster.until(|cluster| cluster.leader().is_some());
}

#[test]
fn whoever_reads_a_snapshot_that_was_taken_in_knows_how_much_is_committed() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let (mut replica, _) = cluster.members.remove(&follower).unwrap();
    cluster.put(leader);
    cluster.settle();
    let everything = cluster.members[&leader].0.applied().index;
    assert!(replica.applied().index < everything);
    replica.step(Input::Snapshot(cluster.snapshot(leader, follower)));
    let mut outputs = Outputs::new();
    replica.drain(cluster.now, &mut outputs);
    assert!(matches!(outputs[..], [Output::PlaceSnapshot]));
    replica.step(Input::SnapshotPlaced);
    // The log begins anew, and the turn ends so that this write can go first.
    replica.turn_size.beside_min = 0;
    assert!(replica.drain(cluster.now, &mut outputs), "the turn has not ended early");
    assert!(outputs.iter().any(|output| matches!(output, Output::Installed { .. })));
    let shown = (replica.gate().committed(), replica.gate().applied());
    assert_eq!((shown, replica.applied().index), ((everything, everything), everything));
}

#[test]
fn a_start_shows_what_it_finds_before_its_first_turn() {
    let foundation = Foundation::new([("m".to_owned(), vec!["http://m:2380".to_owned()])], "token");
    let id = foundation.founders[0].id;
    let opening = Opening::Found(foundation);
    let replica = Replica::open(settings(id), Store::in_memory(), opening, Pins::new(1)).unwrap();
    assert_eq!((replica.gate().term(), replica.gate().committed()), (1, 1));
}

#[test]
fn a_leader_that_is_removed_with_more_on_its_way_leads_no_longer() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader().unwrap();
    let others: Vec<u64> = cluster.members.keys().copied().filter(|id| *id != leader).collect();
    // As if there had been nobody to hand leadership to.
    let replica = &mut cluster.members.get_mut(&leader).unwrap().0;
    replica.node.propose_conf_change(Vec::new(), removed(leader)).unwrap();
    cluster.turn(leader);
    for &id in others.iter().chain(&others) {
        cluster.turn(id);
    }
    // The removal is committed, and this is on its way to the log when it is applied.
    cluster.put(leader);
    cluster.settle();
    assert!(cluster.members[&leader].1.removed && !cluster.members[&leader].0.is_leader());
    cluster.until(|cluster| cluster.leader().is_some_and(|next| next != leader));
}
