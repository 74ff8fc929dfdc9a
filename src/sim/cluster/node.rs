//! One member: its disk, its clock, its process, and what a turn of the process leads to.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::super::disk::Disk;
use super::super::judge::judge;
use super::super::log_disk::{By, SIZES};
use super::super::plant::Plant;
use super::super::segments::Preparer;
use super::super::world::TICK;
use super::clients::{Asked, store_hash};
use super::leases::Origin;
use super::world::{Event, World};
use kevel::btree::{Applied, Reader, Store};
use kevel::cluster::reconfig::Rules;
use kevel::error::Error;
use kevel::mvcc::pin::Pins;
use kevel::replica::bootstrap::Founder;
use kevel::replica::port::{Input, Output, Outputs};
use kevel::replica::{Opening, Replica, Settings};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Duration;
use kevel::wal::segment::first_needed;
use kevel::wal::{self, SegmentName, folder, mend};

/// Request ids and tickets begin anew with each life of a process: the node's number, the life, and a count.
const NODE_SHIFT: u32 = 48;
const LIFE_SHIFT: u32 = 32;

/// A member, whether its process runs or not.
pub struct Node {
    pub id: u64,
    name: String,
    pub disk: Disk,
    pub life: Option<Life>,
    lives: u64,
    /// The member does nothing and hears nothing, and messages to it wait.
    pub paused: bool,
    /// How long a tick of its clock takes, in percent.
    pace: u32,
}

/// A running process.
pub struct Life {
    /// Which life of the node it is.
    pub number: u64,
    pub replica: Replica,
    pub reader: Reader,
    /// Log writes, the first on its way once it is taken.
    writes: VecDeque<(u64, Option<wal::Write>)>,
    preparer: Preparer,
    /// What clients wait for, by ticket.
    pub asked: BTreeMap<u128, Asked>,
    /// The next request id, which is a ticket too.
    pub next_id: u64,
    turn_due: bool,
}

impl Node {
    /// A member whose process does not run yet.
    pub fn new(founder: &Founder, mut prng: Prng, plant: Option<Plant>) -> Self {
        Self {
            id: founder.id,
            name: founder.name.clone(),
            pace: [100, 100, 90, 115][prng.below(4) as usize],
            disk: Disk::new(prng, plant),
            life: None,
            lives: 0,
            paused: false,
        }
    }

    /// What the process has applied.
    pub fn applied(&self) -> Option<Applied> {
        self.life.as_ref().map(|life| life.replica.applied())
    }
}

/// Plants a bug within a member.
#[cfg(any(debug_assertions, feature = "faults"))]
fn spoil(replica: &mut Replica, plant: Option<Plant>) {
    use kevel::replica::LessorFault;
    if plant == Some(Plant::ClusterRenewedAlone) {
        replica.spoil_lessor(LessorFault::RenewsAlone);
    }
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
fn spoil(_: &mut Replica, _: Option<Plant>) {
    // Bugs within a member are absent from an ordinary build for release.
}

impl World {
    /// The process starts on what the disk has, unless it runs.
    pub(super) fn boot(&mut self, number: usize) {
        if self.nodes[number].life.is_some() {
            return;
        }
        let node = &mut self.nodes[number];
        let file = node.disk.store_file();
        let store = Store::open(file.clone()).unwrap_or_else(|error| panic!("judge: {error}"));
        let applied = store.applied().index;
        folder::clean(node.disk.folder(By::Start))
            .unwrap_or_else(|error| panic!("judge: the log cannot be cleaned: {error}"));
        let log = node.disk.newest_log();
        let names: Vec<SegmentName> = log.iter().map(|(name, _)| *name).collect();
        let opening = if names.is_empty() {
            Opening::Found(self.foundation.clone())
        } else {
            let needed = &log[first_needed(&names, applied).unwrap_or(0)..];
            let segments: Vec<(SegmentName, &[u8])> =
                needed.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let mut recovered = wal::recover(&segments, applied)
                .unwrap_or_else(|error| panic!("judge: a member does not start: {error}"));
            if self.plant == Some(Plant::ClusterVoteForgotten) {
                recovered.state.vote = 0;
            }
            mend::mend_tail(node.disk.folder(By::Start), &recovered.tail, &SIZES)
                .unwrap_or_else(|error| panic!("judge: the log cannot be mended: {error}"));
            file.settle();
            Opening::Recover(Box::new(recovered), names)
        };
        node.lives += 1;
        let first_id = (number as u64 + 1) << NODE_SHIFT | node.lives << LIFE_SHIFT;
        let settings = Settings {
            member_id: node.id,
            name: node.name.clone(),
            client_urls: vec![format!("http://{}:2379", node.name)],
            election_ticks: 10,
            tick: TICK,
            pre_vote: self.prng.chance(3, 4),
            catchup_entries: 1 << 20,
            segments_kept: 0,
            lease_ttl_min: 2,
            quota_bytes: None,
            asks_versions: false,
            rules: Rules::default(),
            request_ids: (first_id, 2),
            seed: self.prng.next_u64(),
        };
        let mut preparer = Preparer::default();
        node.disk.folder(By::Start).told(By::Start);
        preparer.prepare(&node.disk);
        let mut replica =
            Replica::open(settings, store, opening, Pins::new(1)).expect("a store that was checked");
        replica.set_bounds(&self.params.bounds);
        spoil(&mut replica, self.plant);
        let reader = replica.readers().register();
        let lives = node.lives;
        node.life = Some(Life {
            number: lives,
            replica,
            reader,
            writes: VecDeque::new(),
            preparer,
            asked: BTreeMap::new(),
            next_id: first_id + 1,
            turn_due: false,
        });
        self.trace.step(self.now, &[6, number as u64, lives], format_args!("{number} starts, life {lives}"));
        self.judge.on_start(number);
        self.turn_soon(number);
    }

    /// The clock of a node ticks, whether anybody looks at it or not.
    pub(super) fn tick(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let next = TICK * node.pace / 100;
        if let (Some(life), false) = (&mut node.life, node.paused) {
            life.replica.step(Input::Tick);
            self.turn_soon(number);
        }
        self.plan(next, Event::Tick(number));
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
    fn life(&mut self, number: usize, life: u64) -> Option<&mut Life> {
        self.nodes[number].life.as_mut().filter(|running| running.number == life)
    }

    /// A turn of the process, and everything it leads to, unless the process dies before.
    pub(super) fn turn(&mut self, number: usize, life: u64) {
        if self.nodes[number].paused && self.life(number, life).is_some() {
            return self.plan(TICK, Event::Turn(number, life));
        }
        let (now, bounds) = (self.now, self.params.bounds(&mut self.prng));
        let bounds = kevel::replica::Bounds {
            replay_bytes: self.params.bounds.replay_bytes,
            checkpoint_idle: self.params.bounds.checkpoint_idle,
            pending: self.params.bounds.pending,
            events: self.params.bounds.events,
            ..bounds
        };
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
    }

    /// What a member shows of raft after a turn.
    fn look(&mut self, number: usize) {
        let Some(life) = &self.nodes[number].life else { return };
        let (gate, applied) = (life.replica.gate(), life.replica.applied());
        let leads = life.replica.is_leader().then(|| gate.term());
        self.judge.on_turn(number, (gate.term(), gate.committed(), applied.index), leads);
        let numbers = [7, number as u64, gate.term(), gate.committed(), applied.index];
        let line = format_args!(
            "{number}: term {}, commit {}, applied {}, leads: {}",
            gate.term(),
            gate.committed(),
            applied.index,
            leads.is_some()
        );
        self.trace.step(self.now, &numbers, line);
    }

    /// Does one thing that a process says.
    fn perform(&mut self, number: usize, life: u64, output: Output) {
        match output {
            Output::AppendWal { ready, write } => {
                self.trace.bytes(&write.bytes);
                let early = self.plant == Some(Plant::ClusterAnswerEarly);
                let Some(running) = self.life(number, life) else { return };
                if early {
                    running.replica.step(Input::WalSynced {
                        ready,
                        buffer: Vec::new(),
                        took: Duration::ZERO,
                    });
                }
                running.writes.push_back((ready, Some(write)));
                self.write_next(number);
            }
            Output::Send { message, .. } => self.send(*message),
            // Nobody asks for a promotion here.
            Output::AskPromotion { ticket, .. } => self.on_reply(number, ticket, Err(Error::NoLeader)),
            Output::AskLessor { leader, ticket, call, .. } => {
                let Some(running) = self.life(number, life) else { return };
                if running.asked.get(&ticket.0).is_some_and(Asked::is_for_peer) {
                    // Whoever asked takes this member for the leader, and it is not.
                    return self.on_reply(number, ticket, Err(Error::NoLeader));
                }
                self.ask_lessor(leader, Origin { number, life, ticket }, call);
            }
            Output::Reply { ticket, result } => self.on_reply(number, ticket, result),
            Output::ReadReady { ticket } => self.on_read_ready(number, ticket),
            Output::Publish(batch) => {
                if self.judge.on_publish(number, &batch) {
                    self.leases.on_events(self.now, &batch.events);
                }
            }
            Output::WriteCheckpoint(_) => judge!(false, "a checkpoint is begun in a world without any"),
            Output::Halt { reason } => judge!(false, "a member stops: {reason}"),
            Output::Unsound { from, why } => judge!(false, "{from:x} has sent {why}"),
            Output::Removed => judge!(false, "a member was removed"),
            Output::ReleaseWal { .. } => judge!(false, "a log without a checkpoint is released"),
            Output::SendSnapshot { to, .. } => judge!(false, "a snapshot to {to:x} was never offered"),
            Output::PlaceSnapshot | Output::RefuseSnapshot(_) | Output::Installed { .. } => {
                judge!(false, "nobody has sent a snapshot")
            }
            Output::DigestCompaction(_) | Output::Compacted { .. } => {}
        }
    }

    /// Begins the log write whose turn it is, if none is on its way.
    fn write_next(&mut self, number: usize) {
        let time = self.some(self.params.write_time);
        let node = &mut self.nodes[number];
        let Some(life) = &mut node.life else { return };
        let Some(write) = life.writes.front_mut().and_then(|(_, write)| write.take()) else { return };
        let prepared = if write.create { life.preparer.take(&node.disk, &mut self.prng) } else { None };
        life.preparer.prepare(&node.disk);
        node.disk.begin_write(write, prepared);
        let life = life.number;
        self.plan(time, Event::Written(number, life));
    }

    /// The disk is done with a log write.
    pub(super) fn written(&mut self, number: usize, life: u64) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(TICK, Event::Written(number, life));
        }
        let node = &mut self.nodes[number];
        node.disk.finish_write();
        let Some(running) = &mut node.life else { return };
        let (ready, _) = running.writes.pop_front().expect("a write that was begun");
        if self.plant != Some(Plant::ClusterAnswerEarly) {
            running.replica.step(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
        }
        self.write_next(number);
        self.turn_soon(number);
    }

    /// Everybody has applied the same entries: the stores have to be the same.
    pub(super) fn compare(&mut self) {
        let hashes: Vec<u32> =
            self.nodes.iter_mut().filter_map(|node| node.life.as_mut()).map(store_hash).collect();
        judge!(
            hashes.windows(2).all(|pair| pair[0] == pair[1]) && hashes.len() == self.nodes.len(),
            "stores that have applied the same hash to {hashes:x?}"
        );
    }
}
