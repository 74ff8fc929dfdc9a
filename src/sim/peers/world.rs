//! The world: the cluster, the member's disk, and what the member's turns lead to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};

use super::super::disk::Disk;
use super::super::judge::judge;
use super::super::params::Params;
use super::super::plant::Plant;
use super::super::trace::Trace;
use super::super::world::{TICK, Tally};
use super::boot::Life;
use super::judge::Judge;
use super::peer::Peer;
use kevel::replica::bootstrap::Foundation;
use kevel::replica::port::{Input, Output, Outputs};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};

/// The members that join, if they do.
pub const JOINERS: [u64; 2] = [0xABCD, 0xABCE];

/// The scripted cluster.
pub struct World {
    pub trace: Trace,
    pub tally: Tally,
    pub(super) prng: Prng,
    pub(super) plant: Option<Plant>,
    pub(super) now: Instant,
    steps: u64,
    pub(super) crashes_left: u64,
    /// Times at which all is calm for a while.
    lulls_left: u64,
    /// Of ten messages, so many are lost.
    pub(super) loss: u64,
    /// Nothing goes to or from the member for so many steps.
    pub(super) alone: u64,
    pub(super) params: Params,
    pub(super) foundation: Foundation,
    pub(super) member_id: u64,
    pub(super) disk: Disk,
    pub(super) life: Option<Life>,
    pub(super) lives: u64,
    /// The other founders, then those who may join.
    pub(super) peers: Vec<Peer>,
    pub(super) messages: Vec<Message>,
    pub(super) judge: Judge,
    /// Commands so far, which makes every value another.
    pub(super) commands: u64,
    /// By peer, the last entry that was sent to it in this life, for a planted bug.
    sent: BTreeMap<u64, u64>,
}

impl World {
    pub fn new(seed: u64, plant: Option<Plant>, verbose: bool) -> Self {
        let mut prng = Prng::new(seed ^ 0x70EE_5000);
        let founder = |name: &str| (name.to_owned(), vec![format!("http://{name}:2380")]);
        let foundation = Foundation::new(["m", "a", "b"].map(founder), "simulation");
        let id_of = |name: &str| {
            foundation.founders.iter().find(|founder| founder.name == name).map_or(0, |founder| founder.id)
        };
        let founding = foundation.entries();
        let params = Params::draw(&mut prng.fork());
        let others = ["a", "b"].map(|name| Peer::founder(id_of(name), &founding));
        Self {
            trace: Trace::new(verbose),
            tally: Tally::default(),
            steps: 100 + prng.below(900),
            crashes_left: prng.below(7),
            lulls_left: prng.below(4),
            loss: prng.below(4),
            alone: 0,
            params,
            member_id: id_of("m"),
            disk: Disk::new(prng.fork(), plant),
            plant,
            now: Instant::default(),
            life: None,
            lives: 0,
            peers: others.into_iter().chain(JOINERS.map(Peer::joiner)).collect(),
            messages: vec![],
            judge: Judge::new(id_of("m"), &founding),
            commands: 0,
            sent: BTreeMap::new(),
            foundation,
            prng,
        }
    }

    /// From the foundation to the end.
    pub fn run(&mut self) {
        for _ in 0..self.steps {
            self.alone = self.alone.saturating_sub(1);
            self.step();
            if self.lulls_left > 0 && self.prng.chance(1, 150) {
                self.lulls_left -= 1;
                self.lull();
            }
        }
        self.calm_down();
    }

    fn step(&mut self) {
        match self.prng.below(100) {
            _ if self.life.is_none() => self.while_down(),
            0..22 => self.turn(),
            22..50 => self.deliver_some(),
            50..62 => self.work_on_log(),
            62..65 => self.work_on_checkpoint(),
            65..70 => {
                let ticks = 1 + self.prng.below(12);
                (0..ticks).for_each(|_| self.tick());
            }
            70..77 => self.command(),
            77..85 => self.repeat(),
            85..88 => self.campaign(),
            88..90 => self.propose(),
            90..93 => self.ask_read(),
            93..95 => self.change_members(),
            95 if self.prng.chance(1, 3) => self.rival(),
            95 => self.lose_leader(),
            96 => self.sync_or_crash_peer(),
            97..98 => self.alone = self.prng.below(60),
            _ => self.crash(),
        }
    }

    /// The others go on without the member.
    fn while_down(&mut self) {
        match self.prng.below(12) {
            0 => self.boot(),
            1 => self.command(),
            2 => self.campaign(),
            3..5 => self.repeat(),
            5 => self.sync_or_crash_peer(),
            6 => self.change_members(),
            _ => self.deliver_some(),
        }
    }

    pub(super) fn boot(&mut self) {
        self.trace.step(self.now, &[1], format_args!("boot"));
        self.sent.clear();
        self.life = Some(Life::boot(self));
    }

    pub(super) fn crash(&mut self) {
        if self.crashes_left == 0 {
            return;
        }
        self.crashes_left -= 1;
        self.tally.crashes += 1;
        let power = self.prng.chance(2, 3);
        self.trace.step(self.now, &[2, u64::from(power)], format_args!("crash, power lost: {power}"));
        self.life = None;
        self.disk.crash(power);
    }

    pub(super) fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("a member that runs")
    }

    pub(super) fn tick(&mut self) {
        self.now = self.now + TICK;
        self.life().replica.step(Input::Tick);
        if self.prng.chance(1, 2) {
            self.turn();
        }
        if self.life.is_none() {
            self.boot();
        }
    }

    /// A turn of the member, and everything it leads to, unless the process dies before.
    pub(super) fn turn(&mut self) {
        let now = self.now;
        let mut outputs = Outputs::default();
        // The messages of a turn are made before its entries are applied.
        let applied = self.life().replica.applied().index;
        let bounds = self.params.bounds(&mut self.prng);
        self.life().replica.set_bounds(&bounds);
        self.life().replica.drain(now, &mut outputs);
        self.look();
        let dies = self.crashes_left > 0 && !outputs.is_empty() && self.prng.chance(1, 40);
        let dies_after = dies.then(|| self.prng.below(outputs.len() as u64) as usize);
        for (number, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(number) {
                return self.crash();
            }
            self.do_output(output, applied);
        }
        self.send_snapshots();
    }

    fn do_output(&mut self, output: Output, applied: u64) {
        match output {
            Output::AppendWal { ready, write } => {
                let line = format_args!("log write {ready}: {} at {}", write.segment, write.offset);
                self.trace.step(self.now, &[3, ready, write.offset], line);
                self.trace.bytes(&write.bytes);
                let votes = self.judge.on_write(ready, &write);
                let early = match self.plant {
                    Some(Plant::AnswerBeforeLog) => true,
                    Some(Plant::VoteUnlogged) => votes && self.life().writes.is_empty(),
                    _ => false,
                };
                if early {
                    self.life().replica.step(Input::WalSynced {
                        ready,
                        buffer: Vec::new(),
                        took: Duration::ZERO,
                    });
                }
                self.life().writes.push_back((ready, Some(write), early));
            }
            Output::Send { message, .. } => {
                let term = self.life().replica.gate().term();
                self.judge.on_message(&message, applied, term);
                if !self.is_forgotten(&message) {
                    self.send(*message);
                }
            }
            Output::Reply { ticket, result } => {
                self.tally.replies += 1;
                if result.is_ok() {
                    self.judge.on_reply(ticket.0 as u64);
                }
            }
            Output::ReadReady { ticket } => self.on_read_ready(ticket),
            Output::WriteCheckpoint(job) => {
                self.tally.checkpoints += 1;
                self.life().checkpoint = Some(job);
            }
            Output::ReleaseWal { segments } => {
                let life = self.life.as_mut().expect("a member that runs");
                life.preparer.release(&self.disk, &segments);
            }
            Output::Halt { reason } => judge!(false, "the member stops: {reason}"),
            Output::AskLessor { .. } | Output::AskPromotion { .. } => self.tally.replies += 1,
            Output::SendSnapshot { to, .. } => judge!(false, "a snapshot to {to:x} was never offered"),
            Output::PlaceSnapshot | Output::RefuseSnapshot(_) | Output::Installed { .. } => {
                judge!(false, "nobody has sent a snapshot")
            }
            Output::Removed
            | Output::DigestCompaction(_)
            | Output::Publish(_)
            | Output::Compacted { .. }
            | Output::Unsound { .. } => {}
        }
    }

    /// A planted bug: no entry is sent twice to anybody.
    fn is_forgotten(&mut self, message: &Message) -> bool {
        let Some(last) = message.entries.last().map(|entry| entry.index) else { return false };
        if self.plant != Some(Plant::LaggardForgotten) || message.msg_type() != MessageType::MsgAppend {
            return false;
        }
        let sent = self.sent.entry(message.to).or_default();
        let again = last <= *sent;
        *sent = last.max(*sent);
        again
    }

    /// The log write whose turn it is begins, or comes to its end.
    pub(super) fn work_on_log(&mut self) {
        let begun = self.life().writes.front_mut().map(|(_, write, _)| write.take());
        match begun {
            None => {}
            Some(Some(write)) => {
                let preparer = &mut self.life.as_mut().expect("a member that runs").preparer;
                let prepared = if write.create { preparer.take(&self.disk, &mut self.prng) } else { None };
                preparer.prepare(&self.disk);
                self.disk.begin_write(write, prepared);
            }
            Some(None) => {
                self.disk.finish_write();
                self.judge.on_durable();
                let (ready, _, told) = self.life().writes.pop_front().expect("a write that was begun");
                if !told {
                    self.life().replica.step(Input::WalSynced {
                        ready,
                        buffer: Vec::new(),
                        took: Duration::ZERO,
                    });
                }
            }
        }
    }

    /// A checkpoint begins, is durable, or is told to be.
    pub(super) fn work_on_checkpoint(&mut self) {
        if let Some(job) = self.life().checkpoint.take() {
            judge!(job.execute().is_ok(), "a checkpoint fails on a disk with room");
            // Pages of an entry that is not complete make nothing durable.
            let index = if job.is_spill() { 0 } else { job.applied_index() };
            self.life().checkpointed = Some((job.generation(), index));
        } else if let Some((generation, index)) = self.life().checkpointed.take() {
            self.disk.store_file().settle();
            self.judge.on_checkpoint(index);
            self.life().replica.step(Input::CheckpointSynced { generation });
        }
    }
}
