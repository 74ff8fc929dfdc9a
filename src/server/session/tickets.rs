//! What a session core waits for: one entry per request that went to the replica.
//!
//! A ticket is the core's number (16 bits), the entry's use count (16 bits, so that a late reply to an entry
//! given up on never answers its successor) and its slot (32 bits). Every entry waits equally long, or for ever, so
//! the oldest is always the next to expire and no heap is needed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use slab::Slab;

use crate::stdx::time::{Duration, Instant};

/// The requests of one core that are on their way.
pub struct Tickets<W> {
    core: u16,
    use_count: u16,
    waiting: Slab<(u64, W)>,
    deadlines: VecDeque<(Instant, u64)>,
    timeout: Duration,
}

impl<W> Tickets<W> {
    /// An empty table for a core; an entry expires `timeout` after it was made.
    pub fn new(core: u16, timeout: Duration) -> Self {
        Self { core, use_count: 0, waiting: Slab::new(), deadlines: VecDeque::new(), timeout }
    }

    /// Enters `what` and returns its ticket.
    pub fn issue(&mut self, now: Instant, what: W) -> u64 {
        let ticket = self.issue_for_ever(what);
        self.deadlines.push_back((now + self.timeout, ticket));
        ticket
    }

    /// Enters `what`, which never expires, and returns its ticket.
    pub fn issue_for_ever(&mut self, what: W) -> u64 {
        self.use_count = self.use_count.wrapping_add(1);
        let entry = self.waiting.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer than 2^32 requests wait");
        let ticket = u64::from(self.core) << 48 | u64::from(self.use_count) << 32 | u64::from(slot);
        entry.insert((ticket, what));
        ticket
    }

    /// Takes out what waited under `ticket`; nothing if it expired before.
    pub fn redeem(&mut self, ticket: u64) -> Option<W> {
        let slot = ticket as u32 as usize;
        if self.waiting.get(slot)?.0 != ticket {
            return None;
        }
        Some(self.waiting.remove(slot).1)
    }

    /// The next entry whose time is over, taken out.
    pub fn expire(&mut self, now: Instant) -> Option<W> {
        while let Some(&(deadline, ticket)) = self.deadlines.front() {
            let done = self.waiting.get(ticket as u32 as usize).is_none_or(|entry| entry.0 != ticket);
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
pub fn core_of(ticket: u64) -> usize {
    (ticket >> 48) as usize
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
        assert_eq!(first as u32, second as u32);
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
    fn redeemed_entries_do_not_hold_up_the_queue() {
        let mut tickets = Tickets::new(0, Duration::from_secs(1));
        let start = Instant::default();
        let early: Vec<u64> = (0..10).map(|n| tickets.issue(start, n)).collect();
        for ticket in &early[1..] {
            tickets.redeem(*ticket);
        }
        tickets.issue(start + Duration::from_secs(5), 99);
        assert_eq!(tickets.expire(start + Duration::from_secs(2)), Some(0));
        assert_eq!(tickets.expire(start + Duration::from_secs(2)), None);
        assert_eq!(tickets.len(), 1);
    }
}
