//! Proposals on their way: queued, in the log, waiting for their entry to be applied.
//!
//! ```text
//!   Propose ──▶ queued ── one append for all of them ──▶ in the log ── applied ──▶ Reply
//!      └── too many: Reply(TooManyRequests)   └── no leader, or a log write on its way: they stay queued
//! ```
//!
//! An entry is matched with its proposal by the id in its header, not by its index: on a member that does not lead,
//! another entry may take that index.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use raft::eraftpb::Entry as LogEntry;

use super::port::Ticket;
use crate::error::Error;
use crate::limits::{APPEND_BYTES_MAX, PROPOSALS_PENDING_MAX, PROPOSALS_QUEUED_BYTES_MAX};
use crate::request::{Entry, Request};

/// Ids of requests are unique, so any spread of bits does, and it is the same in every run.
#[derive(Default)]
struct IdHash(u64);

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u64");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// All proposals of this member.
#[derive(Default)]
pub(super) struct Proposals {
    /// Not in raft yet, oldest first.
    queued: VecDeque<LogEntry>,
    /// Data of `queued`.
    queued_bytes: usize,
    /// Where replies go, by the entry's id: exactly the clients' proposals that are not applied.
    tickets: HashMap<u64, Ticket, BuildHasherDefault<IdHash>>,
    /// Refused, to be told at the end of the turn.
    refused: Vec<(Ticket, Error)>,
    next_id: u64,
    id_step: u64,
}

impl Proposals {
    /// None yet. The replica's own get the ids `first`, `first + step`, ...
    pub fn new((first, step): (u64, u64)) -> Self {
        Self { next_id: first, id_step: step, ..Self::default() }
    }

    /// Takes a client's command.
    ///
    /// # Panics
    /// When its id is in use.
    pub fn queue(&mut self, ticket: Ticket, id: u64, entry: Bytes) {
        let too_long =
            self.queued_bytes + entry.len() > PROPOSALS_QUEUED_BYTES_MAX && !self.queued.is_empty();
        if too_long || self.tickets.len() >= PROPOSALS_PENDING_MAX {
            return self.refuse(ticket, Error::TooManyRequests);
        }
        let known = self.tickets.insert(id, ticket);
        assert!(known.is_none(), "request id {id:x} is used twice");
        self.push(entry);
    }

    /// Answers a proposal without the log.
    pub fn refuse(&mut self, ticket: Ticket, error: Error) {
        self.refused.push((ticket, error));
    }

    /// Takes something that no client waits for.
    pub fn queue_own(&mut self, request: Request) {
        let id = self.next_id;
        self.next_id = id.wrapping_add(self.id_step);
        self.push(Entry::new(id, request).encode());
    }

    fn push(&mut self, data: Bytes) {
        self.queued_bytes += data.len();
        self.queued.push_back(LogEntry { data, ..LogEntry::default() });
    }

    /// The oldest that are not in raft, as many as one append takes.
    pub fn take_batch(&mut self) -> Vec<LogEntry> {
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(self.queued.len());
        while let Some(entry) = self.queued.front()
            && (batch.is_empty() || bytes + entry.data.len() <= APPEND_BYTES_MAX)
        {
            bytes += entry.data.len();
            batch.extend(self.queued.pop_front());
        }
        self.queued_bytes -= bytes;
        batch
    }

    /// Raft did not take a batch: it is the first again.
    pub fn put_back(&mut self, batch: Vec<LogEntry>) {
        for entry in batch.into_iter().rev() {
            self.queued_bytes += entry.data.len();
            self.queued.push_front(entry);
        }
    }

    /// Whether something is not in raft yet.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Who waits for the entry with this id; from now on nobody.
    pub fn answer(&mut self, id: u64) -> Option<Ticket> {
        self.tickets.remove(&id)
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
    fn a_batch_is_bounded_and_comes_back_in_order() {
        let mut proposals = Proposals::new((1, 1));
        for id in 0..3 {
            proposals.queue(Ticket(id.into()), id, vec![id as u8; APPEND_BYTES_MAX / 2].into());
        }
        let batch = proposals.take_batch();
        assert_eq!(batch.len(), 2);
        proposals.put_back(batch);
        let all: Vec<u8> =
            std::iter::repeat_with(|| proposals.take_batch()).take(2).flatten().map(|e| e.data[0]).collect();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!((proposals.queued_bytes, proposals.has_queued()), (0, false));
        assert_eq!((proposals.answer(1), proposals.answer(1)), (Some(Ticket(1)), None));
    }

    #[test]
    fn a_full_house_refuses() {
        let mut proposals = Proposals::new((1, 1));
        for id in 0..=PROPOSALS_PENDING_MAX as u64 {
            proposals.queue(Ticket(id.into()), id, Bytes::new());
        }
        assert_eq!(
            proposals.take_refused(),
            [(Ticket(PROPOSALS_PENDING_MAX as u128), Error::TooManyRequests)]
        );
        let mut proposals = Proposals::new((1, 1));
        for id in 0..3 {
            proposals.queue(Ticket(id.into()), id, vec![0; PROPOSALS_QUEUED_BYTES_MAX / 2].into());
        }
        assert_eq!(proposals.take_refused().len(), 1);
    }
}
