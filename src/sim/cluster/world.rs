//! The world: what happens when, from the foundation to the day on which all agree.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::Message;

use super::super::judge::judge;
use super::super::params::Params;
use super::super::plant::Plant;
use super::super::shrink::{Cuts, Part};
use super::super::trace::Trace;
use super::super::world::{TICK, Tally};
use super::clients::Client;
use super::judge::Judge;
use super::leases::{Leases, Origin, Question};
use super::network::Network;
use super::node::Node;
use super::transfer::Sender;
use super::watches::Watcher;
use kevel::error::Error;
use kevel::replica::Bounds;
use kevel::replica::arrival::Arrival;
use kevel::replica::bootstrap::Foundation;
use kevel::response::Response;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};

/// How long the members have to agree once nothing fails any more: some election timeouts, the time-out of a client
/// whose request was lost, and snapshots for whoever lags.
const AGREEMENT: Duration = Duration::from_secs(60);

/// What happens at an instant. What belongs to a process names the life of it, and is void when that has ended.
pub enum Event {
    /// A node's clock ticks.
    Tick(usize),
    /// A node takes what has arrived.
    Turn(usize, u64),
    /// Its session core takes what the replica has said.
    CoreTurn(usize, u64),
    /// The disk of a node is done with the oldest log write.
    Written(usize, u64),
    /// A checkpoint is durable.
    Checkpointed(usize, u64, u64),
    /// There is time for a slice of a compaction's hash.
    Digest(usize, u64),
    /// A message arrives.
    Arrive(Box<Message>),
    /// A client asks for something.
    Act(usize),
    /// A client waits no longer for what it asked for with this number.
    GiveUp(usize, u64),
    /// A watcher does something.
    Watch(usize),
    /// A watcher takes a response from its stream, the one with this number.
    Take(usize, u64),
    /// The transport says how much room a watcher's stream has.
    Room(usize, u64),
    /// Something fails.
    Fail,
    /// A process dies.
    Die(usize, u64),
    /// A process starts.
    Boot(usize),
    /// A member that was paused goes on.
    Resume(usize),
    /// The network is whole again.
    Heal,
    /// A member hears that the process of the member with this id has ended.
    Gone(usize, u64),
    /// A member hears that it was removed, from the one with this id.
    Dismiss(usize, u64),
    /// A question to the leader arrives, from a member whose client asks.
    AskLeader { to: usize, origin: Origin, question: Question },
    /// The answer arrives.
    LeaderSays { origin: Origin, result: Result<Response, Error> },
    /// There is time for a slice of a snapshot's file.
    MakeSnapshot(Sender),
    /// A snapshot arrives.
    SnapshotComes(Sender, Box<Message>, Vec<u8>),
    /// The receiver has made a store of it.
    SnapshotBuilt(usize, u64, Box<Arrival>),
    /// The store gets the store file's name, or has got it, and that is durable.
    PlaceSnapshot(usize, u64, bool),
    /// The sender hears whether its snapshot was taken.
    SnapshotSent(Sender, bool),
}

/// What kind of cluster it is.
pub struct Variety {
    /// An operator changes the members.
    pub changes: bool,
    /// Clients compact, and keep so many revisions at most.
    pub compacts: bool,
    pub kept: u64,
    /// Entries kept behind a checkpoint for members that lag, and segments.
    pub catchup_entries: u64,
    pub segments_kept: usize,
}

impl Variety {
    fn draw(prng: &mut Prng) -> Self {
        Self {
            changes: prng.chance(1, 2),
            compacts: prng.chance(2, 3),
            kept: [2, 10, 50][prng.below(3) as usize],
            catchup_entries: [0, 5, 30, 1 << 20][prng.below(4) as usize],
            segments_kept: prng.below(3) as usize,
        }
    }
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
    pub(super) variety: Variety,
    pub(super) foundation: Foundation,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) watchers: Vec<Watcher>,
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
    pub fn new(seed: u64, plant: Option<Plant>, verbose: bool, cuts: &Cuts) -> Self {
        let mut prng = Prng::new(seed ^ 0xC1_0573_7000);
        let size = [1, 2, 3, 3, 3, 3, 4, 5, 5, 7][prng.below(10) as usize];
        let name = |number: usize| format!("m{number}");
        let url = |number: usize| format!("http://m{number}:2380");
        let founders = (0..size).map(|number| (name(number), vec![url(number)]));
        let foundation = Foundation::new(founders, "simulation");
        let nodes =
            foundation.founders.iter().map(|founder| Node::founder(founder, prng.fork(), plant)).collect();
        let params = Params::draw(&mut prng.fork());
        let drawn = Variety::draw(&mut prng);
        let variety = Variety {
            changes: drawn.changes && cuts.keeps(Part::Changes),
            compacts: drawn.compacts && cuts.keeps(Part::Compactions),
            ..drawn
        };
        // The last of them is the operator.
        let clients = params.clients + 1 + usize::from(variety.changes);
        let clients = (0..clients).map(|_| Client::default()).collect();
        let mut watchers: Vec<_> =
            (0..prng.below(4)).map(|_| Watcher::draw(&mut prng, params.window)).collect();
        watchers.retain(|_| cuts.keeps(Part::Watchers));
        Self {
            trace: Trace::new(verbose),
            tally: Tally::default(),
            plant,
            now: Instant::default() + Duration::from_secs(1),
            events: BTreeMap::new(),
            planned: 0,
            requests_left: cuts.requests(params.requests),
            faults_left: cuts.faults(prng.below(16)),
            is_calm: false,
            params,
            variety,
            foundation,
            nodes,
            network: Network::draw(&mut prng),
            clients,
            watchers,
            judge: Judge::new(size),
            leases: Leases::default(),
            has_leases: prng.chance(1, 3) && cuts.keeps(Part::Leases),
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
        for number in 0..self.watchers.len() {
            let late = self.some(Duration::from_secs(3));
            self.plan(late, Event::Watch(number));
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
        let before = (self.judge.answered(), self.judge.newest());
        self.requests_left = u32::MAX;
        while !(self.requests_left == 0 && self.is_agreed() && self.leases.are_over()) {
            judge!(
                self.now.since(began) < AGREEMENT,
                "a calm cluster does not agree: {}",
                self.disagreement()
            );
            if self.judge.answered() > before.0 && self.judge.newest() > before.1 {
                // Then clients are quiet, so that everybody gets to the end.
                self.requests_left = 0;
            }
            self.happen();
        }
        self.compare();
        self.tally.seconds = self.now.as_nanos() / 1_000_000_000;
    }

    fn disagreement(&self) -> String {
        let (answered, newest) = (self.judge.answered(), self.judge.newest());
        let applied: Vec<_> = self.nodes.iter().map(|node| (node.id, node.is_gone, node.applied())).collect();
        let watchers: Vec<bool> =
            self.watchers.iter().map(|watcher| watcher.has_all(&self.judge, newest)).collect();
        format!(
            "{answered} of {newest}, members {:x?}, {applied:x?}, watchers {watchers:?}, {:?}",
            self.members(),
            self.leases
        )
    }

    /// The ids of the members, as whoever knows most has them.
    pub(super) fn members(&self) -> Vec<u64> {
        self.judge.cluster().map_or(vec![], |cluster| cluster.members.keys().copied().collect())
    }

    /// Whether every member has applied everything that any of them has, whoever was removed is gone, and every watcher
    /// was shown all of it.
    fn is_agreed(&self) -> bool {
        let members = self.members();
        let is_member = |node: &&Node| members.contains(&node.id);
        let Some(first) = self.nodes.iter().find(is_member).and_then(Node::applied) else { return false };
        first.revision >= self.judge.newest()
            && first.swept_revision == first.compact_revision
            && self.nodes.iter().filter(is_member).all(|node| node.applied() == Some(first))
            && self.are_removed_gone()
            && self.watchers.iter().all(|watcher| watcher.has_all(&self.judge, first.revision))
    }

    /// The bounds of a turn. Every change is published with its revision, so that the judge has it.
    pub(super) fn bounds(&mut self) -> Bounds {
        Bounds { events: usize::MAX, ..self.params.bounds(&mut self.prng) }
    }

    fn happen(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else {
            panic!("judge: nothing happens any more")
        };
        self.now = at;
        match event {
            Event::Tick(number) => self.tick(number),
            Event::Turn(number, life) => self.turn(number, life),
            Event::CoreTurn(number, life) => self.core_turn(number, life),
            Event::Written(number, life) => self.written(number, life),
            Event::Checkpointed(number, life, generation) => self.checkpointed(number, life, generation),
            Event::Digest(number, life) => self.digest(number, life),
            Event::Arrive(message) => self.arrive(message),
            Event::Act(number) => self.act(number),
            Event::GiveUp(number, request) => self.give_up(number, request),
            Event::Watch(which) => self.watch_on(which),
            Event::Take(which, streams) => self.take(which, streams),
            Event::Room(which, streams) => self.make_room(which, streams),
            Event::Fail => self.fail(),
            Event::Die(number, life) if self.life(number, life).is_some() => self.die(number),
            Event::Die(..) => {}
            Event::Boot(number) => self.boot(number),
            Event::Resume(number) => self.nodes[number].paused = false,
            Event::Heal => self.network.heal(),
            Event::Gone(number, id) => self.on_gone(number, id),
            Event::Dismiss(number, by) => self.dismiss(number, by),
            Event::AskLeader { to, origin, question } => self.on_leader_asked(to, origin, question),
            Event::LeaderSays { origin, result } => self.on_leader_says(origin, result),
            Event::MakeSnapshot(sender) => self.make_snapshot(sender),
            Event::SnapshotComes(sender, message, bytes) => self.on_snapshot_comes(sender, message, bytes),
            Event::SnapshotBuilt(number, life, arrival) => self.on_snapshot_built(number, life, arrival),
            Event::PlaceSnapshot(number, life, is_renamed) => self.place_snapshot(number, life, is_renamed),
            Event::SnapshotSent(sender, is_taken) => self.on_snapshot_sent(sender, is_taken),
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
