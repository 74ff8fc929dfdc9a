//! One member: its disk, its clock, its process, and what a turn of the process leads to.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::super::disk::Disk;
use super::super::judge::judge;
use super::super::plant::Plant;
use super::super::segments::Preparer;
use super::super::world::TICK;
use super::clients::{Asked, kv_hash, store_hash};
use super::leases::{Origin, Question};
use super::session::Core;
use super::transfer::Transfers;
use super::world::{Event, World};
use kevel::btree::{Applied, Reader};
use kevel::error::Error;
use kevel::mvcc::compact_hash::CompactionDigest;
use kevel::replica::Replica;
use kevel::replica::bootstrap::Founder;
use kevel::replica::port::{Input, Output, Outputs};
use kevel::session::FromReplica;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};
use kevel::wal;

/// A member, whether its process runs or not.
pub struct Node {
    pub id: u64,
    pub(super) name: String,
    pub disk: Disk,
    pub life: Option<Life>,
    pub(super) lives: u64,
    /// The member does nothing and hears nothing, and messages to it wait.
    pub paused: bool,
    /// How long a tick of its clock takes, in percent.
    pace: u32,
    pub(super) beginning: Beginning,
    /// It is to be started once somebody says that it is a member.
    pub awaits_start: bool,
    /// It was removed, and has stopped.
    pub is_gone: bool,
}

/// How a member without a log begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    Founds,
    Joins,
}

/// A running process.
pub struct Life {
    /// Which life of the node it is.
    pub number: u64,
    pub replica: Replica,
    pub core: Core,
    /// How the judge looks at the store.
    pub looker: Reader,
    /// Log writes, the first on its way once it is taken. True where a planted bug has told of the end before its time.
    pub(super) writes: VecDeque<(u64, Option<wal::Write>, bool)>,
    pub(super) preparer: Preparer,
    /// The entry behind which the judge has looked at the store.
    pub(super) hashed: u64,
    /// The hash of a compaction that is being taken.
    pub(super) digest: Option<Box<CompactionDigest>>,
    pub(super) transfers: Transfers,
    /// What clients wait for, by ticket.
    pub asked: BTreeMap<u128, Asked>,
    /// The next request id, which is a ticket too.
    pub next_id: u64,
    pub(super) turn_due: bool,
    /// The replica's count when its cluster was looked at.
    pub(super) cluster_changes: Option<u64>,
    /// When a member that was removed stops.
    pub(super) farewell: Option<Instant>,
    /// The process stops once another member leads.
    pub(super) is_leaving: bool,
}

impl Node {
    /// A founder whose process does not run yet.
    pub fn founder(founder: &Founder, prng: Prng, plant: Option<Plant>) -> Self {
        Self::new(founder.id, founder.name.clone(), Beginning::Founds, prng, plant)
    }

    /// A member that joins once somebody says that it is one.
    pub fn joiner(id: u64, name: String, prng: Prng, plant: Option<Plant>) -> Self {
        Self::new(id, name, Beginning::Joins, prng, plant)
    }

    fn new(id: u64, name: String, beginning: Beginning, mut prng: Prng, plant: Option<Plant>) -> Self {
        Self {
            id,
            name,
            pace: [100, 100, 90, 115][prng.below(4) as usize],
            disk: Disk::new(prng, plant),
            life: None,
            lives: 0,
            paused: false,
            beginning,
            awaits_start: beginning == Beginning::Joins,
            is_gone: false,
        }
    }

    /// What the process has applied.
    pub fn applied(&self) -> Option<Applied> {
        self.life.as_ref().map(|life| life.replica.applied())
    }
}

impl World {
    /// The clock of a node ticks, whether anybody looks at it or not.
    pub(super) fn tick(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let next = TICK * node.pace / 100;
        self.plan(next, Event::Tick(number));
        let node = &mut self.nodes[number];
        let (Some(life), false) = (&mut node.life, node.paused) else { return };
        life.replica.step(Input::Tick);
        let term = life.replica.gate().term();
        let hub = life.core.watches.hub();
        hub.set_term(term);
        hub.tick(now);
        self.pump(number);
        self.turn_soon(number);
        self.dial(number);
    }

    /// Something has arrived for the process.
    pub(super) fn turn_soon(&mut self, number: usize) {
        let Some(life) = &mut self.nodes[number].life else { return };
        if !std::mem::replace(&mut life.turn_due, true) {
            let life = life.number;
            let late = self.some(self.params.lane_time + Duration::from_micros(10));
            self.plan(late, Event::Turn(number, life));
        }
    }

    /// The process of a node, if this life of it goes on.
    pub(super) fn life(&mut self, number: usize, life: u64) -> Option<&mut Life> {
        self.nodes[number].life.as_mut().filter(|running| running.number == life)
    }

    /// A turn of the process, and everything it leads to, unless the process dies before.
    pub(super) fn turn(&mut self, number: usize, life: u64) {
        if self.nodes[number].paused && self.life(number, life).is_some() {
            return self.plan(TICK, Event::Turn(number, life));
        }
        let (now, bounds) = (self.now, self.bounds());
        let Some(running) = self.life(number, life) else { return };
        running.turn_due = false;
        running.replica.set_bounds(&bounds);
        let mut outputs = Outputs::default();
        let more = running.replica.drain(now, &mut outputs);
        self.look(number);
        if more {
            self.turn_soon(number);
        }
        let dies = !self.is_calm && self.faults_left > 0 && !outputs.is_empty() && self.prng.chance(1, 400);
        let dies_after = dies.then(|| self.prng.below(outputs.len() as u64) as usize);
        for (at, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(at) {
                self.faults_left -= 1;
                return self.die(number);
            }
            self.perform(number, life, output);
        }
        self.leave_if_done(number, life);
    }

    /// What a member shows of raft and of its store after a turn.
    fn look(&mut self, number: usize) {
        let looks = self.prng.chance(1, 60);
        let Some(life) = &mut self.nodes[number].life else { return };
        let (gate, applied) = (life.replica.gate(), life.replica.applied());
        let (term, committed) = (gate.term(), gate.committed());
        let leads = life.replica.is_leader().then_some(term);
        let changes = life.replica.cluster_changes();
        let cluster = (life.cluster_changes.replace(changes) != Some(changes) && applied.index > 0)
            .then(|| life.replica.cluster().clone());
        let is_new = std::mem::replace(&mut life.hashed, applied.index) != applied.index;
        let looks = looks || is_new && self.judge.knows_hash(applied.index);
        let hash = if looks { kv_hash(life, applied.index) } else { None };
        self.judge.on_turn(number, (term, committed, applied.index), leads, &applied);
        if let Some(hash) = hash {
            self.judge.on_hash(number, applied.index, hash);
        }
        if let Some(cluster) = cluster {
            self.on_cluster(number, applied.index, &cluster);
        }
        let numbers = [7, number as u64, term, committed, applied.index];
        let line = format_args!(
            "{number}: term {term}, commit {committed}, applied {}, leads: {}",
            applied.index,
            leads.is_some()
        );
        self.trace.step(self.now, &numbers, line);
    }

    /// Does one thing that a process says.
    fn perform(&mut self, number: usize, life: u64, output: Output) {
        match output {
            Output::AppendWal { ready, write } => self.append(number, life, ready, write),
            Output::ReleaseWal { segments } => {
                let node = &mut self.nodes[number];
                let Some(life) = &mut node.life else { return };
                life.preparer.release(&node.disk, &segments);
            }
            Output::WriteCheckpoint(job) => self.begin_checkpoint(number, life, &job),
            Output::DigestCompaction(job) => {
                let Some(running) = self.life(number, life) else { return };
                running.digest = Some(job);
                self.plan(Duration::from_millis(1), Event::Digest(number, life));
            }
            Output::Send { message, .. } => self.send(number, *message),
            Output::AskPromotion { ticket, id } => {
                self.ask_promotion(Origin { number, life, ticket }, ticket, id);
            }
            Output::AskLessor { leader, ticket, call, .. } => {
                let Some(running) = self.life(number, life) else { return };
                if running.asked.get(&ticket.0).is_some_and(Asked::is_for_peer) {
                    // Whoever asked takes this member for the leader, and it is not.
                    return self.on_reply(number, ticket, Err(Error::NoLeader));
                }
                self.ask_leader(leader, Origin { number, life, ticket }, Question::Lease(call));
            }
            Output::Reply { ticket, result } => {
                let Some(running) = self.life(number, life) else { return };
                if running.asked.get(&ticket.0).is_some_and(Asked::is_for_peer) {
                    return self.on_reply(number, ticket, result);
                }
                self.tell_core(number, FromReplica::Reply(ticket, result));
            }
            Output::ReadReady { ticket } => self.tell_core(number, FromReplica::ReadReady(ticket)),
            Output::Publish(batch) => {
                if self.judge.on_publish(number, &batch) {
                    self.leases.on_events(self.now, &batch.events);
                }
                self.tell_core(number, FromReplica::Publish(batch));
            }
            Output::Removed => self.on_removed(number),
            Output::SendSnapshot { to, message } => self.send_snapshot(number, to, message),
            Output::PlaceSnapshot => {
                let late = self.some(Duration::from_millis(30));
                self.plan(late, Event::PlaceSnapshot(number, life, false));
            }
            Output::RefuseSnapshot(_) => self.refuse_snapshot(number),
            Output::Installed { readers, revision, replaced } => {
                self.install_snapshot(number, readers, revision, *replaced);
            }
            Output::Halt { reason } => judge!(false, "{number} stops: {reason}"),
            Output::Unsound { from, why } => judge!(false, "{from:x} has sent {why}"),
            Output::Compacted { .. } => {}
        }
    }

    /// Everybody has applied the same entries: the stores have to be the same.
    pub(super) fn compare(&mut self) {
        let members = self.members();
        let nodes = self.nodes.iter_mut().filter(|node| members.contains(&node.id));
        let hashes: Vec<u32> = nodes.filter_map(|node| node.life.as_mut()).map(store_hash).collect();
        judge!(
            hashes.windows(2).all(|pair| pair[0] == pair[1]) && hashes.len() == members.len(),
            "stores that have applied the same hash to {hashes:x?}"
        );
    }
}
