//! Changes of the members: an operator adds, promotes, moves and removes them, and has leadership move. Whoever is
//! added is started once somebody says that it is a member; whoever is removed has to stop by itself.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChange, ConfChangeType};
use raft_proto::CONF_CHANGE_UPDATE_NODE;

use super::super::plant::Plant;
use super::clients::What;
use super::leases::{Origin, Question};
use super::network::HELD;
use super::node::Node;
use super::world::{Event, World};
use kevel::cluster::Cluster;
use kevel::cluster::member::MemberContext;
use kevel::cluster::membership::is_learner;
use kevel::cluster::reconfig::Reach;
use kevel::error::Error;
use kevel::limits::FAREWELL;
use kevel::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use kevel::replica::bootstrap::member_id;
use kevel::replica::configure::{added, change, removed};
use kevel::replica::port::{Input, Ticket};
use kevel::request::{Entry, Request};
use kevel::stdx::time::Duration;

/// Members that a cluster has at most, and processes that there are at most in all of a world.
const MEMBERS_MAX: usize = 7;
const NODES_MAX: usize = 9;

/// How long an operator waits who has nothing to do.
const IDLE: Duration = Duration::from_millis(300);

/// What an operator wants.
enum Wish {
    Change(ConfChange),
    Promote(u64),
    MoveLeader(u64),
    /// The member says its name, as each does once it has found a leader.
    Publish,
}

impl World {
    /// The operator asks a member for something.
    pub(super) fn operate(&mut self, number: usize, at: usize) {
        let pause = self.some(Duration::from_secs(2));
        let wish = if self.is_calm { None } else { self.draw_wish(at) };
        let Some(wish) = wish else { return self.plan(IDLE + pause, Event::Act(number)) };
        let asked = self.begin(number, at, 0, What::Change);
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let ticket = life.ticket(asked);
        let (input, line) = match wish {
            Wish::Change(change) => {
                let line = format!("change {:x}, {:?}", change.node_id, change.change_type());
                (Input::Configure { ticket, change: Box::new(change) }, line)
            }
            Wish::Promote(id) => (Input::Promote { ticket, id }, format!("promote {id:x}")),
            Wish::MoveLeader(target) => (Input::MoveLeader { ticket, target }, format!("lead {target:x}")),
            Wish::Publish => {
                let (id, name) = (ticket.0 as u64, self.nodes[at].name.clone());
                let attributes = Attributes { client_urls: vec![format!("http://{name}:2379")], name };
                let member_attributes = Some(attributes);
                let fact = ClusterMemberAttrSetRequest { member_id: self.nodes[at].id, member_attributes };
                let entry = Entry::new(id, Request::ClusterMemberAttrSet(fact)).encode();
                (Input::Propose { ticket, id, entry }, "publish its name".to_owned())
            }
        };
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        life.replica.step(input);
        self.trace.step(self.now, &[20, at as u64], format_args!("{at} is to {line}"));
        self.turn_soon(at);
    }

    /// What an operator wants who sees the cluster as a member knows it, and asks for nothing that the member's rules
    /// forbid. Now and then nobody looks at the rules.
    fn draw_wish(&mut self, at: usize) -> Option<Wish> {
        let life = self.nodes[at].life.as_ref()?;
        let cluster = life.replica.cluster().clone();
        let member = |prng: &mut kevel::stdx::prng::Prng| {
            let nth = prng.below(cluster.members.len().max(1) as u64) as usize;
            cluster.members.keys().nth(nth).copied()
        };
        let learner = cluster.members.values().find(|member| is_learner(member)).map(|member| member.id);
        let own = cluster.members.get(&self.nodes[at].id);
        if own.is_some_and(|member| member.member_attributes.is_none()) {
            return Some(Wish::Publish);
        }
        let is_strict = self.prng.chance(3, 4);
        let reach = self.reach(at);
        match self.prng.below(10) {
            0..3 => {
                let has_room = cluster.members.len() < MEMBERS_MAX && self.nodes.len() < NODES_MAX;
                let as_learner = self.prng.chance(1, 2);
                let may = !is_strict || cluster.may_add(as_learner, &reach).is_ok();
                (has_room && may).then(|| Wish::Change(self.new_member(as_learner)))
            }
            3..5 => learner.map(Wish::Promote),
            5..7 => {
                let id = member(&mut self.prng)?;
                let may = !is_strict || cluster.may_remove(id, &reach).is_ok();
                (may && cluster.voters().count() > 1).then(|| Wish::Change(removed(id)))
            }
            7 => {
                let id = member(&mut self.prng)?;
                let urls = vec![format!("http://moved{}:2380", self.prng.below(100))];
                let context = MemberContext { id, peer_urls: urls, ..MemberContext::default() };
                Some(Wish::Change(change(CONF_CHANGE_UPDATE_NODE, &context)))
            }
            _ => member(&mut self.prng).map(Wish::MoveLeader),
        }
    }

    /// Whom a member reaches.
    fn reach(&self, at: usize) -> Reach {
        let own = self.nodes[at].id;
        let runs = |node: &&Node| node.id != own && node.life.is_some() && !node.paused;
        let others = self.nodes.iter().filter(runs).filter(|node| self.hears(own, node.id));
        let others: BTreeMap<u64, Duration> = others.map(|node| (node.id, Duration::from_secs(10))).collect();
        Reach { own, others }
    }

    /// The change by which another member is added, which will run on a disk of its own.
    fn new_member(&mut self, is_learner: bool) -> ConfChange {
        let number = self.nodes.len();
        let urls = vec![format!("http://m{number}:2380")];
        let id = member_id(&urls, &number.to_string());
        self.nodes.push(Node::joiner(id, format!("m{number}"), self.prng.fork(), self.plant));
        self.judge.on_joiner();
        self.plan(HELD, Event::Tick(number));
        let kind = if is_learner { ConfChangeType::AddLearnerNode } else { ConfChangeType::AddNode };
        let context = MemberContext { id, peer_urls: urls, is_learner, ..MemberContext::default() };
        added(kind, &context)
    }

    /// A member knows another cluster than before: whoever joins it is started.
    pub(super) fn on_cluster(&mut self, number: usize, index: u64, cluster: &Cluster) {
        self.judge.on_cluster(number, index, cluster);
        for other in 0..self.nodes.len() {
            let node = &mut self.nodes[other];
            if node.awaits_start && cluster.members.contains_key(&node.id) {
                node.awaits_start = false;
                let late = self.some(Duration::from_secs(2));
                self.plan(late, Event::Boot(other));
            }
        }
    }

    /// A member that was removed stops when others have had time to hear of it.
    pub(super) fn on_removed(&mut self, number: usize) {
        let now = self.now;
        let Some(life) = &mut self.nodes[number].life else { return };
        let farewell = match self.plant {
            Some(Plant::ClusterFarewellShort) => FAREWELL,
            _ => life.replica.farewell(),
        };
        life.farewell = Some(now + farewell);
        let line = format_args!("{number} was removed, and stays for {farewell:?}");
        self.trace.step(now, &[21, number as u64], line);
    }

    /// A member tells another one, both by their ids, that it was removed, if that can be heard.
    pub(super) fn refuse(&mut self, by: u64, whom: u64) {
        if let (Some(number), Some(late)) = (self.number_of(whom), self.passage(by, whom)) {
            self.plan(late, Event::Dismiss(number, by));
        }
    }

    /// A member hears from another one that it was removed for good.
    pub(super) fn dismiss(&mut self, number: usize, by: u64) {
        if self.nodes[number].paused {
            return self.plan(HELD, Event::Dismiss(number, by));
        }
        let node = &self.nodes[number];
        if node.life.as_ref().is_some_and(|life| life.replica.cluster().releases(node.id, by)) {
            self.stop_for_good(number);
        }
    }

    /// The tick of a member that runs: its farewell may be over, and it dials another member.
    pub(super) fn dial(&mut self, number: usize) {
        let node = &self.nodes[number];
        let Some(life) = &node.life else { return };
        if life.farewell.is_some_and(|farewell| farewell <= self.now) {
            return self.stop_for_good(number);
        }
        let id = node.id;
        let other = self.prng.below(self.nodes.len() as u64) as usize;
        let node = &self.nodes[other];
        let Some(life) = node.life.as_ref().filter(|_| !node.paused) else { return };
        if life.replica.cluster().removed.contains(&id) && self.hears(node.id, id) {
            self.refuse(self.nodes[other].id, id);
        }
    }

    /// The process of a member that was removed ends.
    fn stop_for_good(&mut self, number: usize) {
        self.nodes[number].is_gone = true;
        self.trace.step(self.now, &[22, number as u64], format_args!("{number} stops for good"));
        self.end_process(number, false);
    }

    /// Whether everybody who was removed has stopped.
    pub(super) fn are_removed_gone(&self) -> bool {
        let Some(cluster) = self.judge.cluster() else { return false };
        self.nodes.iter().all(|node| node.life.is_none() || !cluster.removed.contains(&node.id))
    }

    /// A member asks the leader about the promotion of a learner.
    pub(super) fn ask_promotion(&mut self, origin: Origin, ticket: Ticket, id: u64) {
        let Some(life) = &mut self.nodes[origin.number].life else { return };
        let leader = life.replica.gate().leader();
        let is_for_peer = life.asked.get(&ticket.0).is_some_and(super::clients::Asked::is_for_peer);
        if is_for_peer || leader == 0 {
            return self.on_reply(origin.number, ticket, Err(Error::NotLeader));
        }
        self.ask_leader(leader, origin, Question::Promote(id));
    }
}
