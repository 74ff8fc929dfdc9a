//! The world: what happens when, from the foundation to the day on which all agree.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::Message;

use super::super::judge::judge;
use super::super::params::Params;
use super::super::plant::Plant;
use super::super::trace::Trace;
use super::super::world::{TICK, Tally};
use super::clients::Client;
use super::judge::Judge;
use super::leases::{Leases, Origin};
use super::network::Network;
use super::node::Node;
use kevel::error::Error;
use kevel::replica::bootstrap::Foundation;
use kevel::replica::port::LeaseCall;
use kevel::response::Response;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};

/// How long the members have to agree once nothing fails any more: some election timeouts, and the time-out of a client
/// whose request was lost.
const AGREEMENT: Duration = Duration::from_secs(30);

/// What happens at an instant.
pub enum Event {
    /// A node's clock ticks.
    Tick(usize),
    /// A node takes what has arrived, in a life of its process.
    Turn(usize, u64),
    /// The disk of a node is done with the oldest log write of a life.
    Written(usize, u64),
    /// A message arrives.
    Arrive(Box<Message>),
    /// A client asks for something.
    Act(usize),
    /// A client waits no longer for what it asked for with this number.
    GiveUp(usize, u64),
    /// Something fails.
    Fail,
    /// A process starts.
    Boot(usize),
    /// A member that was paused goes on.
    Resume(usize),
    /// The network is whole again.
    Heal,
    /// A question to a lessor arrives, from a member whose client asks.
    AskLessor { to: usize, origin: Origin, call: LeaseCall },
    /// The answer arrives.
    LessorSays { origin: Origin, result: Result<Response, Error> },
}

/// The cluster.
pub struct World {
    pub trace: Trace,
    pub tally: Tally,
    pub(super) prng: Prng,
    pub(super) plant: Option<Plant>,
    pub(super) now: Instant,
    /// What is to happen, by time and then in the order in which it was planned.
    events: BTreeMap<(Instant, u64), Event>,
    planned: u64,
    pub(super) params: Params,
    pub(super) foundation: Foundation,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) judge: Judge,
    pub(super) leases: Leases,
    /// Clients ask for leases, and members pause more often than otherwise.
    pub(super) has_leases: bool,
    /// Requests that clients still make.
    pub(super) requests_left: u32,
    pub(super) faults_left: u64,
    /// Nothing fails any more.
    pub(super) is_calm: bool,
}

impl World {
    /// A cluster that is about to be founded.
    pub fn new(seed: u64, plant: Option<Plant>, verbose: bool) -> Self {
        let mut prng = Prng::new(seed ^ 0xC1_0573_7000);
        let size = [1, 2, 3, 3, 3, 3, 4, 5, 5, 7][prng.below(10) as usize];
        let name = |number: usize| format!("m{number}");
        let url = |number: usize| format!("http://m{number}:2380");
        let founders = (0..size).map(|number| (name(number), vec![url(number)]));
        let foundation = Foundation::new(founders, "simulation");
        let nodes =
            foundation.founders.iter().map(|founder| Node::new(founder, prng.fork(), plant)).collect();
        let mut params = Params::draw(&mut prng.fork());
        // No checkpoint: nobody sends the snapshot that a log without its beginning asks for.
        params.bounds.replay_bytes = u64::MAX / 4;
        params.bounds.checkpoint_idle = Duration::from_secs(1 << 20);
        params.bounds.draft_bytes = 1 << 40;
        // Every change is published with its revision, so that the judge has it.
        params.bounds.events = usize::MAX;
        params.bounds.pending = params.bounds.pending.max(100);
        let clients = (0..params.clients + 1).map(|_| Client::default()).collect();
        Self {
            trace: Trace::new(verbose),
            tally: Tally::default(),
            plant,
            now: Instant::default() + Duration::from_secs(1),
            events: BTreeMap::new(),
            planned: 0,
            requests_left: params.requests,
            faults_left: prng.below(12),
            is_calm: false,
            params,
            foundation,
            nodes,
            network: Network::draw(&mut prng),
            clients,
            judge: Judge::new(size),
            leases: Leases::default(),
            has_leases: prng.chance(1, 3),
            prng,
        }
    }

    /// From the foundation to the end.
    pub fn run(&mut self) {
        for number in 0..self.nodes.len() {
            let late = self.some(Duration::from_secs(1));
            self.plan(late, Event::Boot(number));
            self.plan(TICK, Event::Tick(number));
        }
        for number in 0..self.clients.len() {
            let late = self.some(Duration::from_secs(3));
            self.plan(late, Event::Act(number));
        }
        let first = self.some(Duration::from_secs(5));
        self.plan(first, Event::Fail);
        while self.requests_left > 0 || self.faults_left > 0 {
            self.happen();
        }
        self.end();
    }

    /// Nothing fails any more: one more write has to reach everybody.
    fn end(&mut self) {
        self.trace.step(self.now, &[1], format_args!("all is calm"));
        self.is_calm = true;
        self.network.heal();
        for number in 0..self.nodes.len() {
            self.wake(number);
        }
        let began = self.now;
        let before = self.judge.answered();
        self.requests_left = u32::MAX;
        while !(self.judge.answered() > before && self.is_agreed() && self.leases.are_over()) {
            judge!(
                self.now.since(began) < AGREEMENT,
                "a calm cluster does not agree: {} of {:?}, {:?}",
                self.judge.answered(),
                self.leases,
                self.nodes.iter().map(Node::applied).collect::<Vec<_>>()
            );
            self.happen();
        }
        self.compare();
    }

    /// Whether every member has applied everything that any of them has.
    fn is_agreed(&self) -> bool {
        let first = self.nodes[0].applied();
        first.is_some_and(|first| first.revision >= self.judge.answered())
            && self.nodes.iter().all(|node| node.applied() == first)
    }

    fn happen(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else {
            panic!("judge: nothing happens any more")
        };
        self.now = at;
        match event {
            Event::Tick(number) => self.tick(number),
            Event::Turn(number, life) => self.turn(number, life),
            Event::Written(number, life) => self.written(number, life),
            Event::Arrive(message) => self.arrive(message),
            Event::Act(number) => self.act(number),
            Event::GiveUp(number, request) => self.give_up(number, request),
            Event::Fail => self.fail(),
            Event::Boot(number) => self.boot(number),
            Event::Resume(number) => self.nodes[number].paused = false,
            Event::Heal => self.network.heal(),
            Event::AskLessor { to, origin, call } => self.on_lessor_asked(to, origin, call),
            Event::LessorSays { origin, result } => self.on_lessor_says(origin, result),
        }
    }

    /// Has something happen after a while.
    pub(super) fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.events.insert((self.now + after, self.planned), event);
    }

    /// Some time up to this.
    pub(super) fn some(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.prng.below(most.as_nanos() as u64 + 1))
    }
}
