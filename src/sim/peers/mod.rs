//! A cluster of three in which the script plays the other two.
//!
//! ```text
//!   Peer ◀──┐                      ┌──▶ Replica ──▶ AppendWal ──▶ Disk
//!     ▲     ├──▶ messages, some ───┤                                │
//!   Peer ◀──┘    lost or doubled   └──  a new process ◀─ crash ─────┘
//! ```
//!
//! The peers lead, hand out entries that the leader of a later term writes over, ask for votes, and change the members:
//! learners come, are promoted, go and try to come again, some with the address of another. The silent ones are never
//! so many that nobody could lead.
//! The member answers, leads at times, and dies between any two of its I/Os. The generator decides what happens next;
//! there is no queue of events. What is judged ([`judge`]):
//!
//! - what a quorum holds is never replaced, and nobody leads without it;
//! - a restart finds in the log what was durable, and nothing that was written over;
//! - the member applies what the script has committed, in that order, and no more; who is a member, with which address
//!   and with or without a vote, is what etcd's rules make of the log;
//! - a linearizable read sees what was committed before it was asked for;
//! - the member has one vote in a term, and neither term, commit nor applied index goes back;
//! - what the member says to be committed is held by a quorum; what it answers to clients is committed;
//! - once all is calm, the member catches up.
//!
//! `peer` is a scripted member, `boot` starts the real one from its disk. Absent: snapshots that are sent to a member.
#![forbid(unsafe_code)]

mod boot;
mod judge;
mod peer;

use prost::Message as _;
use raft::eraftpb::{ConfChangeType, Entry, EntryType, Message, MessageType};

use self::boot::Life;
use self::judge::{Judge, value_of};
use self::peer::{Change, Members, Peer, Role, quorum};
use super::disk::Disk;
use super::judge::judge;
use super::params::Params;
use super::plant::Plant;
use super::trace::Trace;
use super::world::{TICK, Tally};
use kevel::btree::{Read, Tree};
use kevel::mvcc::view::View;
use kevel::proto::etcdserverpb::PutRequest;
use kevel::proto::membershippb::Member;
use kevel::replica::bootstrap::Foundation;
use kevel::replica::port::{Input, Output, Outputs, Ticket};
use kevel::request::{self, Request};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

/// A learner that never answers.
const LEARNER: u64 = 0xABCD;

/// A second one.
const ANOTHER: u64 = 0xABCE;

/// Rounds in which a calm cluster has to agree.
const CALM_ROUNDS: u64 = 400;

/// The scripted cluster.
pub struct World {
    pub trace: Trace,
    pub tally: Tally,
    prng: Prng,
    plant: Option<Plant>,
    now: Instant,
    steps: u64,
    crashes_left: u64,
    /// Of ten messages, so many are lost.
    loss: u64,
    /// Nothing goes to or from the member for so many steps.
    alone: u64,
    params: Params,
    foundation: Foundation,
    member_id: u64,
    disk: Disk,
    life: Option<Life>,
    lives: u64,
    peers: [Peer; 2],
    messages: Vec<Message>,
    judge: Judge,
    /// Commands so far, which makes every value another.
    commands: u64,
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
        Self {
            trace: Trace::new(verbose),
            tally: Tally::default(),
            steps: 100 + prng.below(900),
            crashes_left: prng.below(7),
            loss: prng.below(4),
            alone: 0,
            params,
            member_id: id_of("m"),
            disk: Disk::new(prng.fork(), plant),
            plant,
            now: Instant::default(),
            life: None,
            lives: 0,
            peers: ["a", "b"].map(|name| Peer::new(id_of(name), &founding)),
            messages: vec![],
            judge: Judge::new(id_of("m"), &founding),
            commands: 0,
            foundation,
            prng,
        }
    }

    /// From the foundation to the end.
    pub fn run(&mut self) {
        for _ in 0..self.steps {
            self.alone = self.alone.saturating_sub(1);
            self.step();
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
            77..86 => self.repeat(),
            86..89 => self.campaign(),
            89..91 => self.propose(),
            91 => self.ask_read(),
            92..96 => self.change_members(),
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

    fn boot(&mut self) {
        self.trace.step(self.now, &[1], format_args!("boot"));
        self.life = Some(Life::boot(self));
    }

    fn crash(&mut self) {
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

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("a member that runs")
    }

    fn tick(&mut self) {
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
    fn turn(&mut self) {
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
    }

    fn do_output(&mut self, output: Output, applied: u64) {
        match output {
            Output::AppendWal { ready, write } => {
                let line = format_args!("log write {ready}: {} at {}", write.segment, write.offset);
                self.trace.step(self.now, &[3, ready, write.offset], line);
                self.trace.bytes(&write.bytes);
                self.judge.on_write(ready, &write);
                let buffer = Vec::new();
                if self.plant == Some(Plant::AnswerBeforeLog) {
                    self.life().replica.step(Input::WalSynced { ready, buffer });
                }
                self.life().writes.push_back((ready, Some(write)));
            }
            Output::Send { message, .. } => {
                let term = self.life().replica.gate().term();
                self.judge.on_message(&message, applied, term);
                self.send(*message);
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
            Output::DigestCompaction(_) | Output::Publish(_) | Output::Compacted { .. } => {}
        }
    }

    fn send(&mut self, message: Message) {
        let kind = message.msg_type() as u64;
        let line = format_args!(
            "{:x} to {:x}: {:?}, term {}, {} entries after {} of term {}, commit {}, reject {}",
            message.from,
            message.to,
            message.msg_type(),
            message.term,
            message.entries.len(),
            message.index,
            message.log_term,
            message.commit,
            message.reject
        );
        self.trace.step(self.now, &[4, message.from, message.to, kind, message.term, message.index], line);
        self.messages.push(message);
    }

    fn is_cut_off(&self, message: &Message) -> bool {
        self.alone > 0 && (message.from == self.member_id || message.to == self.member_id)
    }

    fn deliver_some(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let reach = if self.prng.chance(1, 4) { self.messages.len() } else { 1 };
        let at = self.prng.below(reach as u64) as usize;
        let message = self.messages.remove(at);
        if self.prng.chance(self.loss, 10) || self.is_cut_off(&message) {
            return;
        }
        if self.prng.chance(1, 20) {
            self.messages.push(message.clone());
        }
        self.deliver(message);
    }

    fn deliver(&mut self, message: Message) {
        if message.to == self.member_id {
            if let Some(life) = &mut self.life {
                life.replica.step(Input::PeerMessage(Box::new(message)));
            }
            return;
        }
        let Some(number) = self.peers.iter().position(|peer| peer.id == message.to) else { return };
        if message.msg_type() == MessageType::MsgReadIndex {
            return self.answer_read(number, &message);
        }
        let answers = self.peers[number].step(&message);
        self.after_peer(number, answers);
    }

    /// What a peer has done may make it a leader, or an entry committed.
    fn after_peer(&mut self, number: usize, answers: Vec<Message>) {
        let peer = &mut self.peers[number];
        if peer.role == Role::Leader {
            let log = &peer.log;
            self.judge.on_leader(peer.term, peer.id, |entry| {
                log.get(entry.index as usize - 1).is_some_and(|own| own.term == entry.term)
            });
        }
        if peer.advance() {
            self.judge.on_commit(&peer.log[..peer.commit as usize]);
        }
        answers.into_iter().for_each(|answer| self.send(answer));
    }

    fn leader(&mut self) -> Option<usize> {
        let leads: Vec<usize> = (0..2).filter(|&number| self.peers[number].role == Role::Leader).collect();
        (!leads.is_empty()).then(|| leads[self.prng.below(leads.len() as u64) as usize])
    }

    fn put(&mut self) -> Request {
        self.commands += 1;
        let key = format!("k{}", self.prng.below(6)).into();
        let length = [0, 0, 40, 700][self.prng.below(4) as usize];
        let value = format!("{}{}", self.commands, "v".repeat(length)).into();
        Request::Put(PutRequest { key, value, ..PutRequest::default() })
    }

    /// A leader among the peers takes a command.
    fn command(&mut self) {
        let Some(number) = self.leader() else { return };
        let request = self.put();
        let data = request::Entry::new(self.commands, request).encode();
        self.peers[number].propose(EntryType::EntryNormal, data);
        self.after_peer(number, vec![]);
        self.repeat();
    }

    /// A leader among the peers sends something again.
    fn repeat(&mut self) {
        let Some(number) = self.leader() else { return };
        let peer = &self.peers[number];
        // The member more often than the other peer, which makes entries that only the member has.
        let to = if self.prng.chance(2, 3) { self.member_id } else { self.peers[1 - number].id };
        if !peer.voters().contains(&to) {
            return;
        }
        let message = if self.prng.chance(1, 4) { peer.heartbeat_to(to) } else { peer.append_to(to) };
        self.send(message);
    }

    fn campaign(&mut self) {
        let number = self.prng.below(2) as usize;
        let floor = if self.prng.chance(1, 2) { self.peers[1 - number].term } else { 0 };
        let forced = self.prng.chance(2, 3);
        self.campaign_of(number, floor, forced);
    }

    fn campaign_of(&mut self, number: usize, floor: u64, forced: bool) {
        let peer = &mut self.peers[number];
        if peer.voters().contains(&peer.id) {
            let asked = peer.campaign(floor, forced);
            self.after_peer(number, asked);
        }
    }

    fn sync_or_crash_peer(&mut self) {
        let number = self.prng.below(2) as usize;
        if self.prng.chance(2, 3) {
            self.peers[number].sync();
        } else {
            self.peers[number].crash();
        }
        self.after_peer(number, vec![]);
    }

    /// A client asks the member.
    fn propose(&mut self) {
        let request = self.put();
        let life = self.life();
        life.ids += 2;
        let id = life.ids;
        let entry = request::Entry::new(id, request).encode();
        life.replica.step(Input::Propose { ticket: Ticket(id.into()), id, entry });
        self.tally.requests += 1;
    }

    /// A leader among the peers adds or removes a learner, or removes the other peer.
    fn change_members(&mut self) {
        let Some(number) = self.leader() else { return };
        let other = self.peers[1 - number].id;
        let peer = &mut self.peers[number];
        let mut pending = peer.log[peer.commit as usize..].iter();
        let changes = pending.any(|entry| entry.entry_type() == EntryType::EntryConfChange);
        // A leader that was removed itself takes nobody with it: the member would be alone.
        if changes || !peer.voters().contains(&peer.id) {
            return;
        }
        let members = self.judge.state(peer.commit).members.clone();
        let id = [LEARNER, LEARNER, LEARNER, LEARNER, ANOTHER, ANOTHER, ANOTHER, other]
            [self.prng.below(8) as usize];
        // Who is a member goes in every second change, and a stranger is to go at times.
        let kind = match self.prng.below(8) {
            0 => ConfChangeType::RemoveNode,
            1..4 if members.known.contains_key(&id) => ConfChangeType::RemoveNode,
            1..5 => ConfChangeType::AddLearnerNode,
            _ => ConfChangeType::AddNode,
        };
        let promotes = kind == ConfChangeType::AddNode && self.prng.chance(3, 4);
        // Some come with the address of another member, or come again.
        let url = if self.prng.chance(1, 4) { "http://a:2380" } else { "http://c:2380" }.to_owned();
        let change = Change { id, url, kind, promotes };
        let mut after = members.clone();
        let data = change.encode();
        let entry = Entry {
            entry_type: EntryType::EntryConfChange.into(),
            data: data.clone().into(),
            ..Entry::default()
        };
        after.apply(&entry);
        // The silent ones may never be as many as those who speak.
        let speaks = |id: &u64| *id == self.member_id || self.peers.iter().any(|peer| peer.id == *id);
        let voters = after.voters();
        if voters.iter().filter(|id| speaks(id)).count() < quorum(voters.len()) {
            return;
        }
        self.peers[number].propose(EntryType::EntryConfChange, data.into());
        self.after_peer(number, vec![]);
    }

    /// A client asks the member to read what is newest.
    fn ask_read(&mut self) {
        let floor = self.judge.committed.len() as u64;
        let life = self.life();
        life.ids += 2;
        let ticket = Ticket(life.ids.into());
        life.reads.insert(ticket.0, floor);
        life.replica.step(Input::ReadIndex { ticket });
    }

    fn on_read_ready(&mut self, ticket: Ticket) {
        let life = self.life();
        let applied = life.replica.applied().index;
        let floor = life.reads.remove(&ticket.0);
        judge!(
            floor.is_some_and(|floor| applied >= floor),
            "a read may look at entry {applied}, and {floor:?} was committed before it was asked for"
        );
    }

    /// A leader that is none any more, or does not know the newest commit, gets no quorum for a read.
    fn answer_read(&mut self, number: usize, message: &Message) {
        let peer = &self.peers[number];
        let newest = self.judge.committed.len() as u64 == peer.commit;
        if let Some(answer) = peer.answer_read(message).filter(|_| newest) {
            self.send(answer);
        }
    }

    /// The log write whose turn it is begins, or comes to its end.
    fn work_on_log(&mut self) {
        let begun = self.life().writes.front_mut().map(|(_, write)| write.take());
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
                let (ready, _) = self.life().writes.pop_front().expect("a write that was begun");
                if self.plant != Some(Plant::AnswerBeforeLog) {
                    self.life().replica.step(Input::WalSynced { ready, buffer: Vec::new() });
                }
            }
        }
    }

    /// A checkpoint begins, is durable, or is told to be.
    fn work_on_checkpoint(&mut self) {
        if let Some(job) = self.life().checkpoint.take() {
            judge!(job.execute().is_ok(), "a checkpoint fails on a disk with room");
            self.life().checkpointed = Some((job.generation(), job.applied_index()));
        } else if let Some((generation, index)) = self.life().checkpointed.take() {
            self.disk.store_file().settle();
            self.judge.on_checkpoint(index);
            self.life().replica.step(Input::CheckpointSynced { generation });
        }
    }

    /// What the member shows is what the script has committed.
    fn look(&mut self) {
        let life = self.life.as_mut().expect("a member that runs");
        let snapshot = life.reader.snapshot();
        let applied = snapshot.applied();
        let gate = life.replica.gate();
        if gate.term() == 0 {
            return;
        }
        let logs = self.peers.each_ref().map(|peer| (peer.id, peer.log.as_slice()));
        self.judge.on_turn(gate.committed(), gate.applied(), &logs);
        let state = self.judge.state(applied.index);
        judge!(
            applied.revision == state.revision,
            "entry {} is applied, at revision {} and not {}",
            applied.index,
            applied.revision,
            state.revision
        );
        let view = View::new(&snapshot);
        for key in (0..6).map(|number| format!("k{number}").into_bytes()) {
            let shown = view.value_at(&key, applied.revision).map(value_of);
            judge!(
                shown.as_ref() == state.pairs.get(&key),
                "entry {} is applied, and {} is {shown:?}",
                applied.index,
                String::from_utf8_lossy(&key)
            );
        }
        judge!(
            members_of(&snapshot) == state.members,
            "entry {} is applied, and members are {:x?}, not {:x?}",
            applied.index,
            members_of(&snapshot),
            state.members
        );
        let numbers = [5, gate.term(), gate.committed(), applied.index];
        let line = format_args!("term {}, commit {}, applied {}", numbers[1], numbers[2], numbers[3]);
        self.trace.step(self.now, &numbers, line);
    }

    /// Nothing is lost any more: the cluster has to commit something new, and the member to apply it.
    fn calm_down(&mut self) {
        (self.crashes_left, self.alone) = (0, 0);
        if self.life.is_none() {
            self.boot();
        }
        let before = self.judge.committed.len() as u64;
        for round in 0..CALM_ROUNDS {
            let committed = self.judge.committed.len() as u64;
            if committed > before && self.life().replica.applied().index == committed {
                return;
            }
            self.calm_round(round);
        }
        judge!(
            false,
            "a calm cluster does not agree: {} are committed, {before} were",
            self.judge.committed.len()
        );
    }

    fn calm_round(&mut self, round: u64) {
        self.tick();
        self.turn();
        (0..8).for_each(|_| self.work_on_log());
        self.work_on_checkpoint();
        let voters = self.judge.state(self.judge.committed.len() as u64).members.voters();
        let stands = self.peers.each_ref().map(|peer| voters.contains(&peer.id));
        let number = (round / 60 % 2) as usize;
        if round % 60 == 30 && stands[number] && self.leader().is_none() {
            let floor = self.peers[0].term.max(self.peers[1].term);
            self.campaign_of(number, floor, true);
        }
        if round.is_multiple_of(60) {
            self.command();
        }
        for number in 0..2 {
            self.peers[number].sync();
            let peer = &self.peers[number];
            let leads = peer.role == Role::Leader;
            let to: Vec<u64> = peer.voters().into_iter().filter(|&id| leads && id != peer.id).collect();
            let again = to.into_iter().map(|to| peer.append_to(to)).collect();
            self.after_peer(number, again);
        }
        for message in std::mem::take(&mut self.messages) {
            self.deliver(message);
        }
    }
}

/// Who is a member, as the store says.
fn members_of(read: &impl Read) -> Members {
    let mut members = Members::default();
    let mut cursor = read.cursor(Tree::Member);
    cursor.seek(&[]);
    while cursor.valid() {
        let id = u64::from_be_bytes(cursor.key().try_into().expect("a member's key is its id"));
        if cursor.value().is_empty() {
            members.removed.insert(id);
        } else {
            let member = Member::decode(cursor.value()).expect("a stored member");
            let raft = member.raft_attributes.unwrap_or_default();
            let url = raft.peer_urls.first().cloned().unwrap_or_default();
            members.known.insert(id, (url, !raft.is_learner));
        }
        cursor.next();
    }
    members
}
