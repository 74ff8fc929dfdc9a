//! What the peers and the clients do next: they lead, ask for votes, change the members, and crash.
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChangeType, EntryType, Message};

use super::peer::{Change, Role};
use super::world::{JOINERS, World};
use kevel::proto::etcdserverpb::PutRequest;
use kevel::replica::port::{Input, Ticket};
use kevel::request::{self, Request};

/// Founders that the script plays: the first of the peers.
const FOUNDERS: u64 = 2;

impl World {
    pub(super) fn leader(&mut self) -> Option<usize> {
        let leads = |number: &usize| self.peers[*number].role == Role::Leader;
        let leads: Vec<usize> = (0..self.peers.len()).filter(leads).collect();
        (!leads.is_empty()).then(|| leads[self.prng.below(leads.len() as u64) as usize])
    }

    /// A peer, more often one that has founded the cluster than one that may join.
    fn somebody(&mut self) -> usize {
        let most = if self.prng.chance(2, 3) { FOUNDERS } else { self.peers.len() as u64 };
        self.prng.below(most) as usize
    }

    fn put(&mut self) -> Request {
        self.commands += 1;
        let key = format!("k{}", self.prng.below(6)).into();
        let length = [0, 0, 40, 700][self.prng.below(4) as usize];
        let value = format!("{}{}", self.commands, "v".repeat(length)).into();
        Request::Put(PutRequest { key, value, ..PutRequest::default() })
    }

    /// A leader among the peers takes a command.
    pub(super) fn command(&mut self) {
        let Some(number) = self.leader() else { return };
        let request = self.put();
        let data = request::Entry::new(self.commands, request).encode();
        self.peers[number].propose(EntryType::EntryNormal, data);
        self.after_peer(number, vec![]);
        self.repeat();
    }

    /// A leader among the peers sends something again.
    pub(super) fn repeat(&mut self) {
        let Some(number) = self.leader() else { return };
        // The member more often than another peer, which makes entries that only the member has.
        let other = self.somebody();
        let to = if self.prng.chance(1, 2) { self.member_id } else { self.peers[other].id };
        let peer = &self.peers[number];
        if to == peer.id || !peer.members().known.contains_key(&to) {
            return;
        }
        let message = if self.prng.chance(1, 4) { peer.heartbeat_to(to) } else { peer.append_to(to) };
        self.send(message);
    }

    pub(super) fn campaign(&mut self) {
        let (number, other) = (self.somebody(), self.somebody());
        // Some run for the very term for which another one runs.
        let floor = match self.prng.below(4) {
            0 | 1 => self.peers[other].term,
            2 => self.peers[other].term.saturating_sub(1),
            _ => 0,
        };
        let forced = self.prng.chance(2, 3);
        self.campaign_of(number, floor, forced);
    }

    pub(super) fn campaign_of(&mut self, number: usize, floor: u64, forced: bool) {
        let peer = &mut self.peers[number];
        if peer.voters().contains(&peer.id) {
            let asked = peer.campaign(floor, forced);
            self.after_peer(number, asked);
        }
    }

    pub(super) fn sync_or_crash_peer(&mut self) {
        let number = self.somebody();
        if self.prng.chance(2, 3) {
            self.peers[number].sync();
        } else {
            self.peers[number].crash();
        }
        self.after_peer(number, vec![]);
    }

    /// A leader hands entries to the member alone, and crashes before its own disk has them. Somebody else runs for the
    /// next term, whose entries are then written over these.
    pub(super) fn lose_leader(&mut self) {
        let Some(number) = self.leader() else { return };
        for _ in 0..1 + self.prng.below(3) {
            let data = request::Entry::new(self.commands + 1, self.put()).encode();
            self.peers[number].propose(EntryType::EntryNormal, data);
        }
        let append = self.peers[number].append_to(self.member_id);
        self.deliver(append);
        let floor = self.peers[number].term;
        self.peers[number].crash();
        let other = self.somebody();
        self.campaign_of(other, floor, true);
    }

    /// Two run for the same term, and the process may die between their questions. Often the member has heard of the
    /// term before, so that its vote is all that there is to log.
    pub(super) fn rival(&mut self) {
        let (first, second) = (self.somebody(), self.somebody());
        let stands = |number: usize| self.peers[number].voters().contains(&self.peers[number].id);
        if first == second || !stands(first) || !stands(second) {
            return;
        }
        let floor = self.peers.iter().map(|peer| peer.term).max().unwrap_or(0);
        for number in [first, second] {
            let asked = self.peers[number].campaign(floor, true);
            if number == first && self.prng.chance(3, 4) {
                let word = self.peers[first].word_to(self.member_id);
                self.hear(word);
            }
            let (own, others): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|question| question.to == self.member_id);
            self.after_peer(number, others);
            own.into_iter().for_each(|question| self.hear(question));
            if self.life.is_some() && self.prng.chance(1, 2) {
                self.crash();
            }
            if self.life.is_none() {
                self.boot();
            }
        }
    }

    /// The member takes a message, and what comes of it becomes durable or does not, unless the process dies meanwhile.
    fn hear(&mut self, message: Message) {
        self.deliver(message);
        let durable = self.prng.chance(2, 3);
        for _ in 0..2 {
            if self.life.is_some() {
                self.turn();
            }
            for _ in 0..4 {
                if durable && self.life.is_some() {
                    self.work_on_log();
                }
            }
        }
        if self.life.is_some() {
            self.turn();
        }
    }

    /// A client asks the member.
    pub(super) fn propose(&mut self) {
        let request = self.put();
        let life = self.life();
        life.ids += 2;
        let id = life.ids;
        let entry = request::Entry::new(id, request).encode();
        life.replica.step(Input::Propose { ticket: Ticket(id.into()), id, entry });
        self.tally.requests += 1;
    }

    /// A leader among the peers adds, promotes or removes somebody who may join, or removes a founder.
    pub(super) fn change_members(&mut self) {
        let Some(number) = self.leader() else { return };
        let peer = &self.peers[number];
        let mut pending = peer.log[peer.commit as usize..].iter();
        let changes = pending.any(|entry| entry.entry_type() == EntryType::EntryConfChange);
        // A leader that was removed itself takes nobody with it: the member would be alone.
        if changes || !peer.has_committed_in_term() || !peer.voters().contains(&peer.id) {
            return;
        }
        let (members, leader) = (peer.members(), peer.id);
        let id = match self.prng.below(8) {
            0..4 => JOINERS[0],
            4..7 => JOINERS[1],
            _ => self.peers[self.prng.below(FOUNDERS) as usize].id,
        };
        // Who is a member goes in every third change, and a stranger is to go at times.
        let kind = match self.prng.below(9) {
            0 => ConfChangeType::RemoveNode,
            1..3 if members.known.contains_key(&id) => ConfChangeType::RemoveNode,
            1..5 => ConfChangeType::AddLearnerNode,
            _ => ConfChangeType::AddNode,
        };
        if id == leader && kind == ConfChangeType::RemoveNode {
            return;
        }
        let promotes = kind == ConfChangeType::AddNode && self.prng.chance(3, 4);
        // Some come with the address of another member, or come again.
        let host = match self.prng.below(4) {
            0 => "a",
            1 if id == JOINERS[1] => "d",
            _ => "c",
        };
        let change = Change { id, url: format!("http://{host}:2380"), kind, promotes };
        self.peers[number].propose(EntryType::EntryConfChange, change.encode().into());
        self.after_peer(number, vec![]);
    }
}
