//! Raft's ordering rules, all of them.
//!
//! | in a ready | may leave | must wait for |
//! |---|---|---|
//! | messages of a leader | at once | a write under way that makes a promise |
//! | entries, term, vote | to the log, at once | the write before it (the log is one stream) |
//! | a change of members behind another, and what follows | to the log, in a write of its own | the write before it |
//! | commit index alone | with the next entries, or when the log is quiet | nothing: it is only a hint |
//! | commit index of a change of members | to the log, at once | the write before it |
//! | persisted messages (votes, append responses) | | the write of the same ready |
//! | a leader's messages to a member whose removal is applied | never | |
//! | committed entries | to apply | raft hands them out only when committed and persisted here |
//! | a committed change of members | to apply | the write that says that it is committed |
//! | read states | | apply to have reached their index |
//!
//! A start takes the members from what the log says to be committed. A leader proposes a change of the members when the
//! one before is committed, and raft is safe where two members differ by one change. By two they must not differ: then
//! two quorums may have nobody in common. A write says of the entries before it whether they are committed, so a second
//! change begins a write of its own, in which the state comes first: wherever a crash cuts the log, all changes in it
//! but the last are known to be committed.
//!
//! Two kinds of writes make a promise, and a leader says nothing before they are durable. A term with this member's
//! vote: among several voters it is durable before the member can win, but a member that is the only voter leads in the
//! step in which it campaigns. A learner that heard of such a term would have entries of it that a crash here undoes,
//! and the next entries would be of the same term. The other kind is a commit index that covers a change of the
//! members: a member that hears of its removal stops for good, and then those that are left need to know of it even
//! after a crash. So such a change is applied when the log says that it is committed, as etcd does with all entries.
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};

use super::log_writes::LogWrite;
use super::port::{Output, Outputs};
use super::replica::{Founding, Replica};

impl Replica {
    /// Takes everything that raft wants done.
    pub(super) fn process_readies(&mut self, outputs: &mut Outputs) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let number = ready.number();
            self.writes.on_ready(number);
            let messages = ready.take_messages();
            for state in ready.take_read_states() {
                self.reads.confirm(&state.request_ctx, state.index);
                self.leases.confirm(&state.request_ctx, state.index);
            }
            let committed = ready.take_committed_entries();
            let ends_change = self.ends_change(&committed);
            self.committed.extend(committed);
            let mut persisted = ready.take_persisted_messages();
            let entries = ready.take_entries();
            let state = ready.hs().cloned();
            let promise = ends_change || state.as_ref().is_some_and(|state| !self.is_promised(state));
            if promise || self.writes.has_promise() {
                persisted.extend(messages);
            } else {
                self.send(messages, outputs);
            }
            if !ready.snapshot().is_empty() {
                // What raft says may be about entries behind the snapshot too.
                let (first, last) =
                    if entries.is_empty() { (persisted, vec![]) } else { (vec![], persisted) };
                self.log_snapshot(number, ready.snapshot(), first, outputs);
                if !entries.is_empty() {
                    self.node.mut_store().append(&entries);
                    self.write_ready((number, promise), &entries, last, outputs);
                }
                self.node.advance_append_async(ready);
            } else if !entries.is_empty() || promise {
                self.node.mut_store().append(&entries);
                self.write_ready((number, promise), &entries, persisted, outputs);
                self.node.advance_append_async(ready);
            } else {
                self.node.advance_append_async(ready);
                self.hold_or_send(number, persisted, outputs);
            }
        }
    }

    /// Whether a change of the members is among these committed entries of which the log does not say that it is
    /// committed.
    fn ends_change(&self, committed: &[Entry]) -> bool {
        let logged = self.log.state().commit;
        let is_change = |entry: &Entry| entry.entry_type() != EntryType::EntryNormal && entry.index > logged;
        committed.iter().any(is_change)
    }

    /// Whether the entry whose turn it is has to wait for the log: it changes the members, and nothing durable says
    /// that it is committed.
    pub(super) fn awaits_commit(&self) -> bool {
        self.executing.is_none()
            && self.committed.front().is_some_and(|entry| {
                entry.entry_type() != EntryType::EntryNormal && entry.index > self.writes.committed()
            })
    }

    /// The writes of a ready: one, but for changes of members behind the first. Whether the ready makes a promise
    /// stands beside its number.
    fn write_ready(
        &mut self,
        (number, promise): (u64, bool),
        entries: &[Entry],
        persisted: Vec<Message>,
        outputs: &mut Outputs,
    ) {
        let mut rest = entries;
        while let Some(at) = second_change(rest) {
            let (first, later) = rest.split_at(at);
            self.write_log((number, promise), first, Vec::new(), outputs);
            rest = later;
        }
        self.write_log((number, promise), rest, persisted, outputs);
    }

    /// One write: `entries`, the hard state, and a mark if one is due.
    fn write_log(
        &mut self,
        (number, promise): (u64, bool),
        entries: &[Entry],
        persisted: Vec<Message>,
        outputs: &mut Outputs,
    ) {
        let buffer = self.writes.take_buffer();
        let state = self.node.raft.hard_state();
        let mark = self.marks.take_due();
        let before = self.log.length();
        let mut write = self.log.append(entries, Some(&state), mark.as_ref(), buffer);
        write.sync |= promise;
        let before = if write.create { 0 } else { before };
        self.checkpoints.logged(self.log.length() - before, entries.len());
        let (mark, segment, commit) = (mark.map(|mark| mark.index), write.segment, self.log.state().commit);
        self.writes.begin(LogWrite { number, persisted, mark, segment, commit, promise });
        outputs.push(Output::AppendWal { ready: number, write });
    }

    /// The first entries are in raft's memory as if they had been read from the log; here they get there. False
    /// until they are durable.
    pub(super) fn found(&mut self, outputs: &mut Outputs) -> bool {
        match std::mem::replace(&mut self.founding, Founding::Written) {
            Founding::Due(entries) => {
                self.write_log((0, true), &entries, Vec::new(), outputs);
                false
            }
            Founding::Behind(mark) => {
                self.restart_log(0, &mark, Vec::new(), outputs);
                false
            }
            Founding::Written => false,
            Founding::Done => {
                self.founding = Founding::Done;
                true
            }
        }
    }

    /// Writes what needs no write of its own while the log is busy: the commit index, a mark. Its readers are other
    /// programs; a restart does without.
    pub(super) fn tidy_log(&mut self, outputs: &mut Outputs) {
        let behind = self.marks.is_due() || self.node.raft.raft_log.committed > self.log.state().commit;
        if self.writes.is_tidy_due() && behind && self.writes.is_idle() {
            self.write_log((self.writes.last_ready(), false), &[], Vec::new(), outputs);
        }
    }

    /// Nothing of this ready goes to the log: it is as durable as the one before it.
    fn hold_or_send(&mut self, number: u64, persisted: Vec<Message>, outputs: &mut Outputs) {
        if let Some(persisted) = self.writes.hold(persisted) {
            self.node.on_persist_ready(number);
            self.send(persisted, outputs);
        }
    }

    /// Whether term and vote are those that the log has.
    fn is_promised(&self, state: &HardState) -> bool {
        let logged = self.log.state();
        state.term == logged.term && state.vote == logged.vote
    }

    /// A log write is durable, and all before it.
    pub(super) fn on_wal_synced(&mut self, number: u64, buffer: Vec<u8>) {
        let (mark, durable) = self.writes.end(number, buffer);
        self.marks.on_logged(mark);
        if matches!(self.founding, Founding::Written) {
            self.founding = Founding::Done;
            return;
        }
        self.node.on_persist_ready(durable);
        self.end_install(durable);
    }

    /// Messages that waited for the log.
    pub(super) fn send_persisted(&mut self, outputs: &mut Outputs) {
        let messages = self.writes.take_outbox();
        self.send(messages, outputs);
    }

    /// What this member says as a leader does not go to one that was removed: it may have been said before the removal
    /// was applied. Answers go to everybody, because a leader that was removed still has its removal committed.
    fn send(&mut self, messages: Vec<Message>, outputs: &mut Outputs) {
        let removed = &self.state.cluster.removed;
        let is_stale = |message: &Message| removed.contains(&message.to) && is_of_a_leader(message);
        for message in messages.into_iter().filter(|message| !is_stale(message)) {
            let (to, message) = (message.to, Box::new(message));
            if message.msg_type() == MessageType::MsgSnapshot {
                self.transfers.begin(to, message.get_snapshot().get_metadata().index);
                outputs.push(Output::SendSnapshot { to, message });
            } else {
                outputs.push(Output::Send { to, message });
            }
        }
    }
}

fn is_of_a_leader(message: &Message) -> bool {
    use MessageType::{MsgAppend, MsgHeartbeat, MsgSnapshot, MsgTimeoutNow};
    matches!(message.msg_type(), MsgAppend | MsgHeartbeat | MsgSnapshot | MsgTimeoutNow)
}

/// Where the second change of members among these entries is.
fn second_change(entries: &[Entry]) -> Option<usize> {
    let changes = |(_, entry): &(usize, &Entry)| entry.entry_type() != EntryType::EntryNormal;
    entries.iter().enumerate().filter(changes).nth(1).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use raft::eraftpb::{ConfChange, ConfChangeType};

    use super::*;
    use crate::btree::Store;
    use crate::cluster::reconfig::Rules;
    use crate::mvcc::pin::Pins;
    use crate::replica::bootstrap::Foundation;
    use crate::replica::port::Input;
    use crate::replica::{Opening, Settings};
    use crate::stdx::time::{Duration, Instant};
    use crate::wal::Write;
    use crate::wal::fuzz::Files;

    const FOUNDERS: [&str; 3] = ["a", "b", "c"];

    /// A follower whose founding is in the log, the log, and the ids of the founders: its own first.
    fn follower() -> (Replica, Files, [u64; 3]) {
        let founder = |name: &str| (name.to_owned(), vec![format!("http://{name}:2380")]);
        let foundation = Foundation::new(FOUNDERS.map(founder), "token");
        let ids = [0, 1, 2].map(|at| foundation.founders[at].id);
        let settings = Settings {
            member_id: ids[0],
            name: FOUNDERS[0].into(),
            client_urls: vec![],
            election_ticks: 10,
            tick: Duration::from_millis(100),
            pre_vote: true,
            catchup_entries: 0,
            segments_kept: 0,
            lease_ttl_min: 2,
            quota_bytes: None,
            asks_versions: false,
            rules: Rules::default(),
            request_ids: (1 << 32, 1),
            seed: 1,
        };
        let opening = Opening::Found(foundation);
        let mut replica = Replica::open(settings, Store::in_memory(), opening, Pins::new(1)).unwrap();
        let mut files = Files::default();
        for (ready, write) in turn(&mut replica).0 {
            files.write(&write);
            replica.step(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
        }
        turn(&mut replica);
        (replica, files, ids)
    }

    /// What goes to the log in a turn, and how many messages leave.
    fn turn(replica: &mut Replica) -> (Vec<(u64, Write)>, usize) {
        let (mut outputs, mut writes, mut messages) = (Outputs::new(), Vec::new(), 0);
        replica.drain(Instant::default(), &mut outputs);
        for output in outputs {
            match output {
                Output::AppendWal { ready, write } => writes.push((ready, write)),
                Output::Send { .. } => messages += 1,
                _ => {}
            }
        }
        (writes, messages)
    }

    /// An entry of term 2: none, or one by which somebody joins.
    fn entry(index: u64, joiner: Option<u64>) -> Entry {
        let entry = Entry { index, term: 2, ..Entry::default() };
        let Some(node_id) = joiner else { return entry };
        let change_type = ConfChangeType::AddNode.into();
        let context =
            format!("{{\"id\":{node_id},\"peerURLs\":[\"http://{}{node_id}:2380\"]}}", "j".repeat(600));
        let context = context.into();
        let change = ConfChange { change_type, node_id, context, ..ConfChange::default() };
        let entry_type = EntryType::EntryConfChange.into();
        Entry { entry_type, data: change.encode_to_vec().into(), ..entry }
    }

    #[test]
    fn a_start_is_at_most_one_change_of_members_behind_its_log() {
        // How many of the last write's first sectors land.
        (0..16).for_each(a_log_of_changes);
    }

    fn a_log_of_changes(landing: usize) {
        let (mut replica, mut files, ids) = follower();
        let founding = ids.len() as u64;
        let joiners = [None, Some(0x71), None, Some(0x72), Some(0x73), None];
        let entries: Vec<Entry> =
            (founding + 1..).zip(joiners).map(|(index, joiner)| entry(index, joiner)).collect();
        let last = founding + joiners.len() as u64;
        let append = Message {
            msg_type: MessageType::MsgAppend.into(),
            from: ids[1],
            to: ids[0],
            term: 2,
            index: founding,
            log_term: 1,
            commit: last,
            entries,
            ..Message::default()
        };
        replica.step(Input::PeerMessage(Box::new(append)));
        let (mut writes, messages) = turn(&mut replica);
        assert_eq!(messages, 0, "the leader is answered before the log has its entries");
        let last_part = writes.len() - 1;
        let mut number = 0;
        while number < writes.len() {
            let (ready, write) = &writes[number];
            let mut torn = files.clone();
            torn.write_sectors(write, |sector| sector < landing);
            files.write(write);
            for mut files in [torn, files.clone()] {
                let read = files.recover(0).unwrap();
                let is_unsure = |entry: &&Entry| {
                    entry.entry_type() != EntryType::EntryNormal && entry.index > read.state.commit
                };
                let unsure: Vec<u64> =
                    read.entries.iter().filter(is_unsure).map(|entry| entry.index).collect();
                assert!(unsure.len() <= 1, "for all a start knows, changes {unsure:?} are not committed");
            }
            replica.step(Input::WalSynced { ready: *ready, buffer: Vec::new(), took: Duration::ZERO });
            let (more, messages) = turn(&mut replica);
            assert_eq!(messages, usize::from(number == last_part), "after write {number}");
            writes.extend(more);
            number += 1;
        }
        assert!(
            writes.len() > last_part + 1,
            "that the last change is committed is written before it is applied"
        );
        assert_eq!(files.recover(0).unwrap().last_index, last);
        assert_eq!(replica.applied().index, last);
    }
}
