//! Proposals on their way: queued, in the log, waiting for their entry to be applied.
//!
//! ```text
//!   Propose ──▶ queued ── one append for all of them ──▶ in the log ── applied ──▶ Reply
//!      └── too many: Reply(TooManyRequests)   └── no leader, or a log write on its way: they stay queued
//! ```
//!
//! Changes of the members are queued apart, and go to raft one by one: a leader drops a change while another one is not
//! applied.
//!
//! An entry is matched with its proposal by the id in its header, not by its index: on a member that does not lead,
//! another entry may take that index.
//!
//! A leader that fails takes proposals with it, and nobody tells whose they were. What has surely not reached it comes
//! back ([`Input::Undelivered`](super::port::Input::Undelivered)) and goes to the next leader. Of everything else that
//! raft was handed in an earlier term than that of an applied entry, and that is not applied itself, hardly anything
//! comes any more: a leader of the past that hands on what it is sent does so at once. Its clients are told so after a
//! moment, and may ask again, long before their time is over. etcd lets them wait.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{ConfChange, Entry as LogEntry, EntryType};

use super::port::Ticket;
use crate::error::Error;
use crate::limits::{
    APPEND_BYTES_MAX, MEMBER_CHANGES_PENDING_MAX, PROPOSALS_PENDING_MAX, PROPOSALS_QUEUED_BYTES_MAX,
};
use crate::request::{Entry, Request};

/// Ids of requests are unique, so any spread of bits does, and it is the same in every run.
#[derive(Default)]
struct IdHash(u64);

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 ^ u64::from(byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Ticks between two looks for proposals whose time is over.
const EXPIRY_TICKS: u64 = 8;

/// Ticks from the first entry of a term that is applied until what raft was handed in earlier terms is given up.
const LOSS_TICKS: u64 = 5;

/// Somebody who waits for an entry to be applied.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    /// In which tick the proposal came.
    came: u64,
    /// In which term raft was handed it; 0 while it was not.
    term: u64,
}

/// All proposals of this member.
#[derive(Default)]
pub(super) struct Proposals {
    /// Not in raft yet, oldest first, with their ids.
    queued: VecDeque<(u64, LogEntry)>,
    /// Data of `queued`.
    queued_bytes: usize,
    /// Changes of the members that are not in raft yet, oldest first: [`MEMBER_CHANGES_PENDING_MAX`] at most.
    changes: VecDeque<ConfChange>,
    /// The id of the change that was handed to raft last.
    changing: u64,
    /// What the lessor of this member decided, each with the term in which it leads: two batches of revocations at
    /// most, and checkpoints.
    lessors: Vec<(u64, LogEntry)>,
    /// Not in raft any more, because the leader to whom it was sent was not reached. Goes to the next one with the next
    /// tick, oldest first.
    returned: Vec<(u64, LogEntry)>,
    /// Who waits, by the entry's id: exactly the clients' proposals that are not applied and whose time is not over.
    waiting: HashMap<u64, Waiting, BuildHasherDefault<IdHash>>,
    ticks: u64,
    /// The term of the last applied entry.
    applied_term: u64,
    /// The tick in which what raft was handed in earlier terms is given up.
    lost_at: Option<u64>,
    /// How long a proposal may take; its session core has given up by then.
    timeout_ticks: u64,
    /// Refused, to be told at the end of the turn.
    refused: Vec<(Ticket, Error)>,
    next_id: u64,
    id_step: u64,
    /// [`PROPOSALS_PENDING_MAX`], or a simulation's.
    pending_max: usize,
    /// [`APPEND_BYTES_MAX`], or a simulation's.
    append_bytes_max: usize,
}

impl Proposals {
    /// None yet. The replica's own get the ids `first`, `first + step`, ...
    pub fn new((first, step): (u64, u64), timeout_ticks: u64) -> Self {
        Self {
            next_id: first,
            id_step: step,
            timeout_ticks,
            pending_max: PROPOSALS_PENDING_MAX,
            append_bytes_max: APPEND_BYTES_MAX,
            ..Self::default()
        }
    }

    /// Other bounds than usual, for simulations.
    pub fn set_bounds(&mut self, pending_max: usize, append_bytes_max: usize) {
        (self.pending_max, self.append_bytes_max) = (pending_max, append_bytes_max);
    }

    /// Clients that wait for their entry to be applied.
    pub fn pending(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a client's command.
    ///
    /// # Panics
    /// When its id is in use.
    pub fn queue(&mut self, ticket: Ticket, id: u64, entry: Bytes) {
        let too_long =
            self.queued_bytes + entry.len() > PROPOSALS_QUEUED_BYTES_MAX && !self.queued.is_empty();
        if too_long || self.waiting.len().max(self.queued.len()) >= self.pending_max {
            return self.refuse(ticket, Error::TooManyRequests);
        }
        let known = self.wait(ticket, id);
        assert!(known.is_none(), "request id {id:x} is used twice");
        self.push(id, entry);
    }

    fn wait(&mut self, ticket: Ticket, id: u64) -> Option<Waiting> {
        self.waiting.insert(id, Waiting { ticket, came: self.ticks, term: 0 })
    }

    /// Answers a proposal without the log.
    pub fn refuse(&mut self, ticket: Ticket, error: Error) {
        self.refused.push((ticket, error));
    }

    /// Takes something that no client waits for. Returns its request id.
    pub fn queue_own(&mut self, request: Request) -> u64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(self.id_step);
        self.push(id, Entry::new(id, request).encode());
        id
    }

    /// Takes a client's change of the members, and gives it an id.
    pub fn queue_change(&mut self, ticket: Ticket, change: ConfChange) {
        if self.changes.len() >= MEMBER_CHANGES_PENDING_MAX {
            return self.refuse(ticket, Error::TooManyRequests);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(self.id_step);
        self.wait(ticket, id);
        self.changes.push_back(ConfChange { id, ..change });
    }

    /// The change whose turn it is: none while the one before is not answered.
    pub fn next_change(&self) -> Option<&ConfChange> {
        if self.waiting.contains_key(&self.changing) { None } else { self.changes.front() }
    }

    /// The entry of that change, for raft in this term.
    pub fn take_change(&mut self, term: u64) -> Option<LogEntry> {
        let change = self.changes.pop_front()?;
        self.changing = change.id;
        self.hand_over(change.id, term);
        let entry_type = EntryType::EntryConfChange.into();
        Some(LogEntry { entry_type, data: change.encode_to_vec().into(), ..LogEntry::default() })
    }

    /// Takes a decision of the lessor of a leader in this term. It becomes an entry of this term, or none: raft hands
    /// on what a follower proposes, and another leader may have renewed the lease since. Returns its request id.
    pub fn queue_of_lessor(&mut self, term: u64, request: Request) -> u64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(self.id_step);
        let data = Entry::new(id, request).encode();
        self.lessors.push((term, LogEntry { data, ..LogEntry::default() }));
        id
    }

    fn push(&mut self, id: u64, data: Bytes) {
        self.queued_bytes += data.len();
        self.queued.push_back((id, LogEntry { data, ..LogEntry::default() }));
    }

    /// A tick has passed. Now and then those are given up whose time is over: a proposal that a change of leaders lost
    /// would wait for ever, and one that is still queued must not run long after its client was told that it timed out.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(EXPIRY_TICKS) && !self.waiting.is_empty() {
            let (now, timeout) = (self.ticks, self.timeout_ticks);
            self.give_up(|waiting| waiting.came + timeout <= now, Error::Timeout);
        }
        if self.lost_at.is_some_and(|at| at <= self.ticks) {
            self.lost_at = None;
            let term = self.applied_term;
            self.give_up(|waiting| (1..term).contains(&waiting.term), Error::TimeoutDueToLeaderFail);
        }
        for (id, entry) in std::mem::take(&mut self.returned).into_iter().rev() {
            self.queued_bytes += entry.data.len();
            self.queued.push_front((id, entry));
        }
    }

    /// Answers with an error those that are so.
    fn give_up(&mut self, is_so: impl Fn(&Waiting) -> bool, error: Error) {
        let late = self.waiting.extract_if(|_, waiting| is_so(waiting));
        let late: BTreeMap<u64, Ticket> = late.map(|(id, waiting)| (id, waiting.ticket)).collect();
        if late.is_empty() {
            return;
        }
        self.queued.retain(|(id, _)| !late.contains_key(id));
        self.returned.retain(|(id, _)| !late.contains_key(id));
        self.changes.retain(|change| !late.contains_key(&change.id));
        self.queued_bytes = self.queued.iter().map(|(_, entry)| entry.data.len()).sum();
        self.refused.extend(late.into_values().map(|ticket| (ticket, error)));
    }

    /// An entry of this term was applied, and all before it.
    pub fn on_applied(&mut self, term: u64) {
        if term > self.applied_term {
            self.applied_term = term;
            self.lost_at = Some(self.ticks + LOSS_TICKS);
        }
    }

    /// These were sent to a leader, and have surely not reached it. What somebody still waits for goes to the next one.
    pub fn on_undelivered(&mut self, entries: Vec<LogEntry>) {
        for entry in entries {
            let Some(id) = Entry::id_of(entry.data.clone()) else { continue };
            if let Some(waiting) = self.waiting.get_mut(&id).filter(|waiting| waiting.term != 0) {
                waiting.term = 0;
                self.returned.push((id, LogEntry { data: entry.data, ..LogEntry::default() }));
            }
        }
    }

    /// Raft is handed a proposal in this term.
    fn hand_over(&mut self, id: u64, term: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.term = term;
        }
    }

    /// For raft in this term: what the lessor has decided in it, if this member leads, and the oldest of all others
    /// that raft was not handed: as many as one append takes.
    pub fn take_batch(&mut self, term: u64, leads: bool) -> Vec<LogEntry> {
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(self.lessors.len() + self.queued.len());
        let is_decided = |(decided, _): &(u64, LogEntry)| leads && *decided == term;
        batch.extend(self.lessors.drain(..).filter(is_decided).map(|(_, entry)| entry));
        while let Some((_, entry)) = self.queued.front()
            && (batch.is_empty() || bytes + entry.data.len() <= self.append_bytes_max)
            && let Some((id, entry)) = self.queued.pop_front()
        {
            bytes += entry.data.len();
            self.hand_over(id, term);
            batch.push(entry);
        }
        self.queued_bytes -= bytes;
        batch
    }

    /// Whether something is not in raft yet.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty() || !self.lessors.is_empty()
    }

    /// What is not in raft yet, encoded, oldest first.
    pub fn queued(&self) -> impl Iterator<Item = &Bytes> {
        let lessors = self.lessors.iter().map(|(_, entry)| &entry.data);
        lessors.chain(self.queued.iter().map(|(_, entry)| &entry.data))
    }

    /// Who waits for the entry with this id; from now on nobody.
    pub fn answer(&mut self, id: u64) -> Option<Ticket> {
        self.waiting.remove(&id).map(|waiting| waiting.ticket)
    }

    /// The refusals of this turn.
    pub fn take_refused(&mut self) -> Vec<(Ticket, Error)> {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_and_in_order() {
        let mut proposals = Proposals::new((1, 1), 20);
        for id in 0..3 {
            proposals.queue(Ticket(id.into()), id, vec![id as u8; APPEND_BYTES_MAX / 2].into());
        }
        let batches: Vec<Vec<u8>> = std::iter::repeat_with(|| proposals.take_batch(1, false))
            .take(2)
            .map(|batch| batch.iter().map(|entry| entry.data[0]).collect())
            .collect();
        assert_eq!(batches, [vec![0, 1], vec![2]]);
        assert_eq!((proposals.queued_bytes, proposals.has_queued()), (0, false));
        assert_eq!((proposals.answer(1), proposals.answer(1)), (Some(Ticket(1)), None));
    }

    #[test]
    fn what_is_lost_or_stuck_is_given_up() {
        let mut proposals = Proposals::new((1 << 32, 1), 16);
        let entry = || Bytes::from_static(b"entry");
        proposals.queue(Ticket(1), 1, entry());
        assert_eq!(proposals.take_batch(1, false).len(), 1, "in the log, where a change of leaders loses it");
        proposals.queue(Ticket(2), 2, entry());
        proposals.queue_own(Request::DowngradeVersionTest);
        (0..15).for_each(|_| proposals.tick());
        proposals.queue(Ticket(3), 3, entry());
        assert_eq!(proposals.take_refused(), []);
        proposals.tick();
        assert_eq!(proposals.take_refused(), [(Ticket(1), Error::Timeout), (Ticket(2), Error::Timeout)]);
        assert_eq!((proposals.answer(1), proposals.answer(3)), (None, Some(Ticket(3))));
        let left = proposals.take_batch(1, false);
        assert_eq!(left.len(), 2, "the second was not sent after all; the replica's own never times out");
        assert_eq!(proposals.queued_bytes, 0);
    }

    #[test]
    fn what_a_leader_of_the_past_has_taken_along_is_given_up_soon() {
        let mut proposals = Proposals::new((1 << 32, 1), 70);
        let entry = || Bytes::from_static(b"entry");
        for (id, term) in [(1, 3), (2, 4), (3, 5)] {
            proposals.queue(Ticket(id.into()), id, entry());
            proposals.take_batch(term, false);
        }
        proposals.queue(Ticket(4), 4, entry());
        proposals.on_applied(3);
        (0..LOSS_TICKS).for_each(|_| proposals.tick());
        assert_eq!(proposals.take_refused(), [], "what follows in the same term may come yet");
        assert_eq!(proposals.answer(1), Some(Ticket(1)));
        proposals.on_applied(5);
        (1..LOSS_TICKS).for_each(|_| proposals.tick());
        proposals.on_applied(5);
        assert_eq!(proposals.take_refused(), [], "the leader before may have handed it on");
        proposals.tick();
        assert_eq!(proposals.take_refused(), [(Ticket(2), Error::TimeoutDueToLeaderFail)]);
        (0..LOSS_TICKS).for_each(|_| proposals.tick());
        assert_eq!((proposals.take_refused(), proposals.pending()), (vec![], 2));
    }

    #[test]
    fn what_has_not_reached_a_leader_goes_to_the_next_one_in_its_order() {
        let mut proposals = Proposals::new((1 << 32, 1), 16);
        let entry = |id| Entry::new(id, Request::DowngradeVersionTest).encode();
        for id in 1..=4 {
            proposals.queue(Ticket(id.into()), id, entry(id));
        }
        let mut sent = proposals.take_batch(3, false);
        assert_eq!(sent.len(), 4);
        proposals.queue(Ticket(5), 5, entry(5));
        assert_eq!(proposals.answer(2), Some(Ticket(2)), "nobody waits for it any more");
        let of_others = [Entry::new(77, Request::DowngradeVersionTest).encode(), Bytes::from_static(&[0xff])];
        sent.extend(of_others.map(|data| LogEntry { data, ..LogEntry::default() }));
        let last = sent.remove(3);
        proposals.on_undelivered(sent.clone());
        proposals.on_undelivered(sent);
        assert_eq!(proposals.take_batch(4, false).len(), 1, "the others go on with the next tick");
        proposals.tick();
        let batch = proposals.take_batch(5, false);
        let ids: Vec<_> = batch.into_iter().map(|entry| Entry::id_of(entry.data)).collect();
        assert_eq!((ids, proposals.queued_bytes), (vec![Some(1), Some(3)], 0));
        proposals.on_undelivered(vec![last]);
        (1..16).for_each(|_| proposals.tick());
        let mut refused: Vec<u128> =
            proposals.take_refused().into_iter().map(|(ticket, _)| ticket.0).collect();
        refused.sort_unstable();
        assert_eq!((refused, proposals.has_queued()), (vec![1, 3, 4, 5], false));
    }

    #[test]
    fn changes_of_members_go_one_by_one_and_are_given_up_like_others() {
        let mut proposals = Proposals::new((7, 1), 16);
        for ticket in 0..=MEMBER_CHANGES_PENDING_MAX as u128 {
            proposals.queue_change(Ticket(ticket), ConfChange { node_id: 9, ..ConfChange::default() });
        }
        let last = Ticket(MEMBER_CHANGES_PENDING_MAX as u128);
        assert_eq!(proposals.take_refused(), [(last, Error::TooManyRequests)]);
        let entry = proposals.take_change(1).expect("the first");
        let change = ConfChange::decode(entry.data).unwrap();
        assert_eq!((change.id, change.node_id, entry.entry_type), (7, 9, EntryType::EntryConfChange as i32));
        assert_eq!(proposals.next_change(), None, "the first is not applied");
        assert_eq!(proposals.answer(7), Some(Ticket(0)));
        assert_eq!(proposals.next_change().map(|change| change.id), Some(8));
        (0..16).for_each(|_| proposals.tick());
        assert_eq!(proposals.take_refused().len(), MEMBER_CHANGES_PENDING_MAX - 1);
        assert_eq!(proposals.next_change(), None);
    }

    #[test]
    fn a_full_house_refuses() {
        let mut proposals = Proposals::new((1, 1), 20);
        for id in 0..=PROPOSALS_PENDING_MAX as u64 {
            proposals.queue(Ticket(id.into()), id, Bytes::new());
        }
        assert_eq!(
            proposals.take_refused(),
            [(Ticket(PROPOSALS_PENDING_MAX as u128), Error::TooManyRequests)]
        );
        let mut proposals = Proposals::new((1, 1), 20);
        for id in 0..3 {
            proposals.queue(Ticket(id.into()), id, vec![0; PROPOSALS_QUEUED_BYTES_MAX / 2].into());
        }
        assert_eq!(proposals.take_refused().len(), 1);
        // Whose client has gone waits for the log all the same.
        let mut proposals = Proposals::new((1, 1), 20);
        for id in 0..=PROPOSALS_PENDING_MAX as u64 {
            proposals.queue(Ticket(id.into()), id, Bytes::new());
            proposals.answer(id);
        }
        assert_eq!((proposals.queued.len(), proposals.take_refused().len()), (PROPOSALS_PENDING_MAX, 1));
    }
}
