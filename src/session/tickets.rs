//! What a session core waits for: one entry for each request that went to the replica.
//!
//! ```text
//!   ticket:  0 (16 bits) | core (16 bits) | slot (32 bits) | issue (64 bits)
//! ```
//!
//! The issue counts the tickets of the core. It has 64 bits and starts at zero in each process, so no two tickets of a
//! process are equal: a late reply to an entry that was given up never answers the entry that took over the slot.
//! Every entry waits equally long, or for ever, so the oldest entry is always the next to expire and no heap is needed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use slab::Slab;

use crate::replica::port::Ticket;
use crate::stdx::time::{Duration, Instant};

/// Deadlines of redeemed entries that may stay queued, beside as many as there are entries, before they are dropped.
const STALE_MIN: usize = 1024;

/// The requests of one core that are on their way.
#[derive(Debug)]
pub struct Tickets<W> {
    core: u16,
    /// Tickets issued so far.
    issued: u64,
    waiting: Slab<(Ticket, W)>,
    /// Deadlines in the order of issue, which is their own order. Entries that were redeemed may still be named.
    deadlines: VecDeque<(Instant, Ticket)>,
    timeout: Duration,
}

impl<W> Tickets<W> {
    /// An empty table for a core; an entry expires `timeout` after it was made.
    pub fn new(core: u16, timeout: Duration) -> Self {
        Self { core, issued: 0, waiting: Slab::new(), deadlines: VecDeque::new(), timeout }
    }

    /// Enters `what` and returns its ticket.
    pub fn issue(&mut self, now: Instant, what: W) -> Ticket {
        let ticket = self.issue_for_ever(what);
        if self.deadlines.len() >= STALE_MIN + 2 * self.waiting.len() {
            let waiting = &self.waiting;
            self.deadlines.retain(|&(_, ticket)| holds(waiting, ticket));
        }
        self.deadlines.push_back((now + self.timeout, ticket));
        ticket
    }

    /// Enters `what`, which never expires, and returns its ticket.
    pub fn issue_for_ever(&mut self, what: W) -> Ticket {
        self.issued += 1;
        let entry = self.waiting.vacant_entry();
        // A slot fits into 32 bits, because 2^32 entries would take more memory than a machine has for them.
        let ticket =
            Ticket(u128::from(self.core) << 96 | (entry.key() as u128) << 64 | u128::from(self.issued));
        entry.insert((ticket, what));
        ticket
    }

    /// Takes out what waited under `ticket`; nothing if it expired before.
    pub fn redeem(&mut self, ticket: Ticket) -> Option<W> {
        holds(&self.waiting, ticket).then(|| self.waiting.remove(slot_of(ticket)).1)
    }

    /// Slots that entries may have, those included that are free.
    pub fn slots(&self) -> usize {
        self.waiting.capacity()
    }

    /// Gives back the slots behind the last entry, if most slots are free.
    pub fn shrink(&mut self) {
        if self.waiting.len() <= self.waiting.capacity() / 4 {
            self.waiting.shrink_to_fit();
        }
    }

    /// Takes out the entry in a slot if nobody waits for it any more.
    pub fn take_if(&mut self, slot: usize, is_over: impl FnOnce(&W) -> bool) -> Option<W> {
        let (_, what) = self.waiting.get(slot)?;
        is_over(what).then(|| self.waiting.remove(slot).1)
    }

    /// The next entry whose time is over, taken out.
    pub fn expire(&mut self, now: Instant) -> Option<W> {
        while let Some(&(deadline, ticket)) = self.deadlines.front() {
            let done = !holds(&self.waiting, ticket);
            if !done && deadline > now {
                return None;
            }
            self.deadlines.pop_front();
            if !done {
                return self.redeem(ticket);
            }
        }
        None
    }

    /// The entries that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter().map(|(_, (_, what))| what)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The core that issued a ticket.
pub fn core_of(ticket: Ticket) -> usize {
    usize::from((ticket.0 >> 96) as u16)
}

fn slot_of(ticket: Ticket) -> usize {
    (ticket.0 >> 64) as u32 as usize
}

fn holds<W>(waiting: &Slab<(Ticket, W)>, ticket: Ticket) -> bool {
    waiting.get(slot_of(ticket)).is_some_and(|entry| entry.0 == ticket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reply_does_not_answer_the_slots_next_entry() {
        let mut tickets = Tickets::new(3, Duration::from_secs(7));
        let start = Instant::default();
        let first = tickets.issue(start, "first");
        assert_eq!(core_of(first), 3);
        assert_eq!(tickets.expire(start + Duration::from_secs(6)), None);
        assert_eq!(tickets.expire(start + Duration::from_secs(7)), Some("first"));
        let second = tickets.issue(start, "second");
        assert_eq!(slot_of(first), slot_of(second));
        assert_eq!(tickets.redeem(first), None);
        assert_eq!(tickets.redeem(second), Some("second"));
        assert_eq!(tickets.redeem(second), None);
        assert!(tickets.is_empty());
    }

    #[test]
    fn what_waits_for_ever_does_not_expire() {
        let mut tickets = Tickets::new(0, Duration::from_secs(1));
        let start = Instant::default();
        let patient = tickets.issue_for_ever("patient");
        tickets.issue(start, "other");
        assert_eq!(tickets.expire(start + Duration::from_secs(60)), Some("other"));
        assert_eq!(tickets.expire(start + Duration::from_secs(60)), None);
        assert_eq!((tickets.len(), tickets.redeem(patient)), (1, Some("patient")));
    }

    #[test]
    fn who_has_gone_is_taken_out_and_the_others_stay() {
        let mut tickets = Tickets::new(0, Duration::from_secs(1));
        let issued: Vec<Ticket> = (0..4).map(|n| tickets.issue(Instant::default(), n)).collect();
        let gone: Vec<i32> =
            (0..tickets.slots()).filter_map(|slot| tickets.take_if(slot, |n| n % 2 == 1)).collect();
        assert_eq!((gone, tickets.len()), (vec![1, 3], 2));
        assert_eq!((tickets.redeem(issued[1]), tickets.redeem(issued[2])), (None, Some(2)));
    }

    #[test]
    fn slots_that_are_free_are_given_back_and_entries_keep_theirs() {
        let mut tickets = Tickets::new(0, Duration::from_secs(1));
        let issued: Vec<Ticket> = (0..10_000).map(|n| tickets.issue(Instant::default(), n)).collect();
        issued[100..].iter().for_each(|ticket| _ = tickets.redeem(*ticket));
        tickets.shrink();
        assert_eq!((tickets.slots(), tickets.len()), (100, 100));
        assert_eq!((tickets.redeem(issued[99]), tickets.redeem(issued[100])), (Some(99), None));
        let next = tickets.issue(Instant::default(), 7);
        assert_eq!((tickets.redeem(next), tickets.len()), (Some(7), 99));
    }

    #[test]
    fn redeemed_entries_do_not_hold_up_the_queue() {
        let mut tickets = Tickets::new(0, Duration::from_secs(1));
        let start = Instant::default();
        let early: Vec<Ticket> = (0..10).map(|n| tickets.issue(start, n)).collect();
        for ticket in &early[1..] {
            tickets.redeem(*ticket);
        }
        tickets.issue(start + Duration::from_secs(5), 99);
        assert_eq!(tickets.expire(start + Duration::from_secs(2)), Some(0));
        assert_eq!(tickets.expire(start + Duration::from_secs(2)), None);
        assert_eq!(tickets.len(), 1);
    }

    #[test]
    fn a_slot_never_has_the_same_ticket_twice() {
        let mut tickets = Tickets::new(1, Duration::from_secs(1));
        let start = Instant::default();
        let late = tickets.issue(start, 0);
        assert_eq!(tickets.redeem(late), Some(0));
        for n in 1..=70_000 {
            let next = tickets.issue(start, n);
            assert_eq!(slot_of(next), slot_of(late), "the slot is used again");
            assert_eq!(tickets.redeem(late), None, "a late reply answered request {n}");
            assert_eq!(tickets.redeem(next), Some(n));
        }
    }

    #[test]
    fn deadlines_of_answered_requests_are_dropped() {
        let mut tickets = Tickets::new(1, Duration::from_secs(7));
        let start = Instant::default();
        for n in 0..100_000 {
            let ticket = tickets.issue(start, n);
            tickets.redeem(ticket);
        }
        assert!(tickets.deadlines.len() <= STALE_MIN + 2);
    }
}
