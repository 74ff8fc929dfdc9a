//! Who hears whom, and how late. Messages between two members may overtake each other: a member that is correct under
//! that is correct over streams, which keep the order.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use raft::eraftpb::{Message, MessageType};

use super::super::plant::Plant;
use super::world::{Event, World};
use kevel::proto::etcdserverpb::request_op;
use kevel::replica::port::Input;
use kevel::request::{Entry, Request};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Duration;

/// When a message is looked at again whose receiver is paused.
pub const HELD: Duration = Duration::from_millis(20);

/// The network.
pub struct Network {
    /// Of a hundred messages, so many are lost.
    loss: u64,
    /// Of a hundred messages, so many come twice.
    doubled: u64,
    /// How late a message is at most.
    delay: Duration,
    /// Who does not hear whom: sender and receiver.
    cut: BTreeSet<(u64, u64)>,
}

impl Network {
    /// One of some kinds of networks.
    pub fn draw(prng: &mut Prng) -> Self {
        let mut pick = |options: &[u64]| options[prng.below(options.len() as u64) as usize];
        Self {
            loss: pick(&[0, 0, 2, 20]),
            doubled: pick(&[0, 5]),
            delay: Duration::from_micros(pick(&[100, 2_000, 40_000, 300_000])),
            cut: BTreeSet::new(),
        }
    }

    /// From now on `to` does not hear `from`.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    /// Everybody hears everybody.
    pub fn heal(&mut self) {
        self.cut.clear();
    }
}

impl World {
    /// The number of the member with this id.
    pub(super) fn number_of(&self, id: u64) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// A message leaves.
    pub(super) fn send(&mut self, number: usize, message: Message) {
        self.judge.on_message(number, &message);
        self.forge(&message);
        let message = self.alter(message);
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
        let Some(late) = self.passage(message.from, message.to) else {
            return self.on_lost(number, message.to);
        };
        if self.prng.chance(self.network.doubled, 100) {
            let again = self.some(self.delay());
            self.plan(again, Event::Arrive(Box::new(message.clone())));
        }
        self.plan(late, Event::Arrive(Box::new(message)));
    }

    /// A message is lost. At times the sender knows, as where its queue is full.
    fn on_lost(&mut self, number: usize, to: u64) {
        if self.prng.chance(1, 4)
            && let Some(life) = &mut self.nodes[number].life
        {
            life.replica.step(Input::PeerUnreachable(to));
            self.turn_soon(number);
        }
    }

    /// How late something is that one member says to another, unless it is lost.
    pub(super) fn passage(&mut self, from: u64, to: u64) -> Option<Duration> {
        let lost = !self.is_calm && self.prng.chance(self.network.loss, 100);
        let late = self.some(self.delay());
        (!lost && self.hears(to, from)).then_some(late)
    }

    /// Whether a member hears another one, both given by their ids.
    pub(super) fn hears(&self, id: u64, from: u64) -> bool {
        !self.network.cut.contains(&(from, id))
    }

    /// How late a message is at most.
    fn delay(&self) -> Duration {
        if self.is_calm { self.network.delay.min(HELD) } else { self.network.delay }
    }

    /// A message is there. Whom the receiver knows to be removed is told so.
    pub(super) fn arrive(&mut self, message: Box<Message>) {
        let Some(number) = self.number_of(message.to) else { return };
        if self.nodes[number].paused {
            return self.plan(HELD, Event::Arrive(message));
        }
        let Some(life) = &mut self.nodes[number].life else { return };
        if life.replica.cluster().removed.contains(&message.from) {
            return self.refuse(message.to, message.from);
        }
        life.replica.step(Input::PeerMessage(message));
        self.turn_soon(number);
    }

    /// What a planted bug makes of a message: that somebody else has acknowledged the same entries.
    fn forge(&mut self, message: &Message) {
        let is_answer = message.msg_type() == MessageType::MsgAppendResponse && !message.reject;
        let Some(plant) = self.plant.filter(|_| is_answer) else { return };
        let Some(cluster) = self.judge.cluster() else { return };
        let voters = cluster.voters().map(|voter| voter.id);
        let others: Vec<u64> = voters.filter(|&id| id != message.from && id != message.to).collect();
        let is_voter = cluster.voters().any(|voter| voter.id == message.from);
        let forges = match plant {
            Plant::ClusterCommitEarly => is_voter,
            Plant::ClusterLearnerCounts => !is_voter && cluster.members.contains_key(&message.from),
            _ => false,
        };
        if forges && !others.is_empty() {
            let from = others[message.index as usize % others.len()];
            let forged = Message { from, ..message.clone() };
            self.plan(Duration::ZERO, Event::Arrive(Box::new(forged)));
        }
    }

    /// What a planted bug makes of entries on their way to a member: its transactions do not look at what they read.
    fn alter(&self, mut message: Message) -> Message {
        if self.plant == Some(Plant::ClusterTxnUnread) {
            for entry in &mut message.entries {
                let Ok(command) = Entry::decode(entry.data.clone()) else { continue };
                let Request::Txn(mut txn) = command.request else { continue };
                txn.success.retain(|op| !matches!(op.request, Some(request_op::Request::RequestRange(_))));
                entry.data = Entry::new(command.id, Request::Txn(txn)).encode();
            }
        }
        message
    }
}
