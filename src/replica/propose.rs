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
    /// Where replies go, by the entry's id, and in which tick the proposal came: exactly the clients' proposals that
    /// are not applied and whose time is not over.
    tickets: HashMap<u64, (Ticket, u64), BuildHasherDefault<IdHash>>,
    ticks: u64,
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
        self.tickets.len()
    }

    /// Takes a client's command.
    ///
    /// # Panics
    /// When its id is in use.
    pub fn queue(&mut self, ticket: Ticket, id: u64, entry: Bytes) {
        let too_long =
            self.queued_bytes + entry.len() > PROPOSALS_QUEUED_BYTES_MAX && !self.queued.is_empty();
        if too_long || self.tickets.len().max(self.queued.len()) >= self.pending_max {
            return self.refuse(ticket, Error::TooManyRequests);
        }
        let known = self.tickets.insert(id, (ticket, self.ticks));
        assert!(known.is_none(), "request id {id:x} is used twice");
        self.push(id, entry);
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
        self.tickets.insert(id, (ticket, self.ticks));
        self.changes.push_back(ConfChange { id, ..change });
    }

    /// The change whose turn it is: none while the one before is not answered.
    pub fn next_change(&self) -> Option<&ConfChange> {
        if self.tickets.contains_key(&self.changing) { None } else { self.changes.front() }
    }

    /// The entry of that change.
    pub fn take_change(&mut self) -> Option<LogEntry> {
        let change = self.changes.pop_front()?;
        self.changing = change.id;
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
        if self.ticks.is_multiple_of(EXPIRY_TICKS) && !self.tickets.is_empty() {
            self.expire();
        }
    }

    fn expire(&mut self) {
        let (now, timeout) = (self.ticks, self.timeout_ticks);
        let late = self.tickets.extract_if(|_, (_, came)| *came + timeout <= now);
        let late: BTreeMap<u64, Ticket> = late.map(|(id, (ticket, _))| (id, ticket)).collect();
        if late.is_empty() {
            return;
        }
        self.queued.retain(|(id, _)| !late.contains_key(id));
        self.changes.retain(|change| !late.contains_key(&change.id));
        self.queued_bytes = self.queued.iter().map(|(_, entry)| entry.data.len()).sum();
        self.refused.extend(late.into_values().map(|ticket| (ticket, Error::Timeout)));
    }

    /// What the lessor has decided in the term `led`, and the oldest of all others that are not in raft: as many as one
    /// append takes.
    pub fn take_batch(&mut self, led: Option<u64>) -> Vec<LogEntry> {
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(self.lessors.len() + self.queued.len());
        batch.extend(self.lessors.drain(..).filter(|(term, _)| led == Some(*term)).map(|(_, entry)| entry));
        while let Some((_, entry)) = self.queued.front()
            && (batch.is_empty() || bytes + entry.data.len() <= self.append_bytes_max)
        {
            bytes += entry.data.len();
            batch.extend(self.queued.pop_front().map(|(_, entry)| entry));
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
        self.tickets.remove(&id).map(|(ticket, _)| ticket)
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
        let batches: Vec<Vec<u8>> = std::iter::repeat_with(|| proposals.take_batch(None))
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
        assert_eq!(proposals.take_batch(None).len(), 1, "in the log, where a change of leaders loses it");
        proposals.queue(Ticket(2), 2, entry());
        proposals.queue_own(Request::DowngradeVersionTest);
        (0..15).for_each(|_| proposals.tick());
        proposals.queue(Ticket(3), 3, entry());
        assert_eq!(proposals.take_refused(), []);
        proposals.tick();
        assert_eq!(proposals.take_refused(), [(Ticket(1), Error::Timeout), (Ticket(2), Error::Timeout)]);
        assert_eq!((proposals.answer(1), proposals.answer(3)), (None, Some(Ticket(3))));
        let left = proposals.take_batch(None);
        assert_eq!(left.len(), 2, "the second was not sent after all; the replica's own never times out");
        assert_eq!(proposals.queued_bytes, 0);
    }

    #[test]
    fn changes_of_members_go_one_by_one_and_are_given_up_like_others() {
        let mut proposals = Proposals::new((7, 1), 16);
        for ticket in 0..=MEMBER_CHANGES_PENDING_MAX as u128 {
            proposals.queue_change(Ticket(ticket), ConfChange { node_id: 9, ..ConfChange::default() });
        }
        let last = Ticket(MEMBER_CHANGES_PENDING_MAX as u128);
        assert_eq!(proposals.take_refused(), [(last, Error::TooManyRequests)]);
        let entry = proposals.take_change().expect("the first");
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
