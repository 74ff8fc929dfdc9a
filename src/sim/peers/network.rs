//! Messages between the members, some lost and some doubled; and snapshots, which the script makes in the name of the
//! member.
#![forbid(unsafe_code)]

use raft::eraftpb::{Message, MessageType, Snapshot, SnapshotMetadata};

use super::super::judge::judge;
use super::super::plant::Plant;
use super::peer::Role;
use super::world::World;
use kevel::replica::port::Input;

impl World {
    pub(super) fn send(&mut self, message: Message) {
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

    pub(super) fn is_cut_off(&self, message: &Message) -> bool {
        self.alone > 0 && (message.from == self.member_id || message.to == self.member_id)
    }

    pub(super) fn deliver_some(&mut self) {
        let count = 1 + self.prng.below(4);
        (0..count).for_each(|_| self.deliver_one());
    }

    fn deliver_one(&mut self) {
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

    pub(super) fn deliver(&mut self, message: Message) {
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
        let answers = match message.msg_type() {
            MessageType::MsgSnapshot => {
                let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
                let reach = metadata.map_or(0, |metadata| metadata.index as usize);
                vec![self.peers[number].install(&message, &self.judge.committed[..reach])]
            }
            _ => self.peers[number].step(&message),
        };
        self.after_peer(number, answers);
    }

    /// Whom entries cannot bring up to date any more gets a snapshot, one at a time.
    pub(super) fn send_snapshots(&mut self) {
        let Some(life) = &self.life else { return };
        let mut laggards = life.replica.laggards();
        if self.plant == Some(Plant::LogTakenForGone) && life.replica.is_leader() {
            let applied = life.replica.applied().index;
            let behind = self.peers.iter().filter(|peer| peer.last() < applied);
            laggards.extend(behind.map(|peer| (peer.id, peer.last() + 1)));
        }
        for (to, next) in laggards {
            judge!(
                next <= life.replayed_from,
                "{to:x} is to get entry {next} with a snapshot, and the log has what follows {}",
                life.replayed_from
            );
        }
        let (term, applied) = (life.replica.gate().term(), life.replica.applied());
        for (to, _) in life.replica.laggards() {
            let on_its_way = |message: &Message| {
                message.to == to && message.term == term && message.msg_type() == MessageType::MsgSnapshot
            };
            if self.messages.iter().any(on_its_way) {
                continue;
            }
            let metadata =
                SnapshotMetadata { index: applied.index, term: applied.term, ..SnapshotMetadata::default() };
            let snapshot = Snapshot { metadata: Some(metadata), ..Snapshot::default() };
            let message = Message { from: self.member_id, to, term, ..Message::default() };
            let kind = MessageType::MsgSnapshot.into();
            self.send(Message { msg_type: kind, snapshot: Some(snapshot), ..message });
        }
    }

    /// What a peer has done may make it a leader, or an entry committed.
    pub(super) fn after_peer(&mut self, number: usize, answers: Vec<Message>) {
        let peer = &mut self.peers[number];
        if peer.role == Role::Leader {
            let log = &peer.log;
            self.judge.on_leader(peer.term, peer.id, |entry| {
                log.get(entry.index as usize - 1).is_some_and(|own| own.term == entry.term)
            });
        }
        if peer.advance() {
            self.judge.committed_elsewhere = self.judge.committed_elsewhere.max(peer.commit);
            self.judge.on_commit(&peer.log[..peer.commit as usize]);
        }
        answers.into_iter().for_each(|answer| self.send(answer));
    }

    /// A leader that is none any more, or does not know the newest commit, gets no quorum for a read.
    pub(super) fn answer_read(&mut self, number: usize, message: &Message) {
        let peer = &self.peers[number];
        let newest = self.judge.committed.len() as u64 == peer.commit;
        if let Some(answer) = peer.answer_read(message).filter(|_| newest) {
            self.send(answer);
        }
    }
}
