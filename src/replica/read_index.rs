//! Linearizable reads: one round of raft's ReadIndex for all reads that wait when it starts (raft thesis 6.4).
//! Questions to the lessor wait for such rounds too, in a queue of their own.
//!
//! ```text
//!   waiting ──(no round under way)──▶ round ──(confirmed at index i)──▶ confirmed(i) ──(applied ≥ i)──▶ ready
//! ```
//! raft forgets a round silently while there is no leader or the leader has not committed in its term, so a round
//! without an answer is asked again: now and then, and at once when another member leads or the leader can answer.
#![forbid(unsafe_code)]

use crate::limits::READS_PENDING_MAX;
use crate::replica::port::Ticket;
use crate::stdx::time::{Duration, Instant};

/// How long to wait for an answer before asking again, as etcd does.
const RETRY: Duration = Duration::from_millis(500);

/// Who leads, as far as a member knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The term.
    pub term: u64,
    /// The leader's id, or 0.
    pub id: u64,
    /// An entry of the term is known to be committed: before that a leader answers no round.
    pub has_committed: bool,
}

/// Reads on their way, each named by a `T`.
#[derive(Debug)]
pub struct Reads<T = Ticket> {
    waiting: Vec<T>,
    round: Option<Round<T>>,
    confirmed: Vec<(u64, Vec<T>)>,
    /// Reads in all three of them.
    len: usize,
    rounds: u64,
    /// Whose rounds these are: the member, and a number that no other start of the process has. An answer to another
    /// member's question, or to one from before a restart, confirms nothing here.
    origin: (u64, u64),
}

#[derive(Debug)]
struct Round<T> {
    number: u64,
    asked: Instant,
    /// Who was asked.
    leader: Leader,
    tickets: Vec<T>,
}

impl Leader {
    /// Whether this one may answer where the one who was asked before has not.
    fn is_news_to(self, asked: Self) -> bool {
        self.id != 0 && self != asked
    }
}

impl<T> Default for Reads<T> {
    fn default() -> Self {
        Self::new(0, 0)
    }
}

impl<T> Reads<T> {
    /// No reads yet, on the member of that id. `start` is a number that no other queue of this member has, in this
    /// start of the process or another one.
    pub fn new(member_id: u64, start: u64) -> Self {
        Self {
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
            len: 0,
            rounds: 0,
            origin: (member_id, start),
        }
    }

    /// A read arrives. False if too many wait, for a round or for what a round has confirmed to be applied.
    pub fn wait(&mut self, ticket: T) -> bool {
        let has_room = self.len < READS_PENDING_MAX;
        if has_room {
            self.waiting.push(ticket);
            self.len += 1;
        }
        has_room
    }

    /// What a round is called among all members and all their starts.
    fn context(&self, number: u64) -> Vec<u8> {
        [self.origin.0, self.origin.1, number].map(u64::to_be_bytes).concat()
    }

    /// Reads that are not ready.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no read waits for a round or its answer.
    pub fn awaits_no_round(&self) -> bool {
        self.round.is_none() && self.waiting.is_empty()
    }

    /// The context to ask raft with now, if there is something to ask.
    pub fn ask(&mut self, now: Instant, leader: Leader) -> Option<Vec<u8>> {
        match &mut self.round {
            None if self.waiting.is_empty() => return None,
            None => {
                self.rounds += 1;
                let tickets = std::mem::take(&mut self.waiting);
                self.round = Some(Round { number: self.rounds, asked: now, leader, tickets });
            }
            Some(round) if now.since(round.asked) >= RETRY || leader.is_news_to(round.leader) => {
                (round.asked, round.leader) = (now, leader);
            }
            Some(_) => return None,
        }
        Some(self.context(self.rounds))
    }

    /// Leadership was confirmed for a round, at `index`.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        let Some(round) = &self.round else { return };
        if self.context(round.number) == context
            && let Some(round) = self.round.take()
        {
            self.confirmed.push((index, round.tickets));
        }
    }

    /// The reads that may look, now that everything up to `applied` is published.
    pub fn ready(&mut self, applied: u64) -> Vec<T> {
        let mut ready = Vec::new();
        self.confirmed.retain_mut(|(index, tickets)| {
            let done = *index <= applied;
            if done {
                ready.append(tickets);
            }
            !done
        });
        self.len -= ready.len();
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Leader = Leader { term: 1, id: 1, has_committed: false };
    const NEXT: Leader = Leader { has_committed: true, ..LEADER };

    #[test]
    fn reads_are_refused_when_too_many_wait_for_apply_too() {
        let mut reads = Reads::<Ticket>::new(1, 1);
        let start = Instant::default();
        for _ in 0..READS_PENDING_MAX {
            assert!(reads.wait(Ticket(0)));
            let context = reads.ask(start, LEADER).unwrap();
            reads.confirm(&context, 8);
        }
        assert!(!reads.wait(Ticket(0)) && reads.ready(7).is_empty());
        assert_eq!(reads.ready(8).len(), READS_PENDING_MAX);
        assert!(reads.wait(Ticket(0)) && reads.len() == 1);
    }

    #[test]
    fn answers_of_another_member_or_from_before_a_restart_confirm_nothing() {
        let start = Instant::default();
        let context = |member, process| {
            let mut reads = Reads::<Ticket>::new(member, process);
            reads.wait(Ticket(1));
            (reads.ask(start, LEADER).unwrap(), reads)
        };
        let (own, mut reads) = context(7, 100);
        for (member, process) in [(8, 100), (7, 99)] {
            reads.confirm(&context(member, process).0, 3);
            assert_eq!(reads.ready(10), [], "asked by {member} in its life {process}");
        }
        reads.confirm(&own, 3);
        assert_eq!(reads.ready(10), [Ticket(1)]);
    }

    #[test]
    fn so_many_may_wait_and_no_more() {
        let mut reads = Reads::<Ticket>::default();
        assert!((0..READS_PENDING_MAX as u128).all(|ticket| reads.wait(Ticket(ticket))));
        assert!(!reads.wait(Ticket(0)));
    }

    #[test]
    fn a_round_serves_all_that_waited_and_late_answers_count_once() {
        let start = Instant::default();
        let mut reads = Reads::<Ticket>::default();
        assert_eq!(reads.ask(start, LEADER), None);
        reads.wait(Ticket(1));
        reads.wait(Ticket(2));
        let first = reads.ask(start, LEADER).unwrap();
        reads.wait(Ticket(3));
        assert_eq!(reads.ask(start, LEADER), None);
        assert_eq!(reads.ask(start + RETRY, LEADER), Some(first.clone()));
        assert_eq!(reads.ask(start + RETRY, Leader { id: 0, ..LEADER }), None, "nobody leads");
        assert_eq!(reads.ask(start + RETRY, NEXT), Some(first.clone()), "the leader can answer now");
        assert_eq!(reads.ask(start + RETRY, NEXT), None);
        reads.confirm(&first, 10);
        reads.confirm(&first, 10);
        assert_eq!(reads.ready(9), []);
        assert_eq!(reads.ready(10), [Ticket(1), Ticket(2)]);
        let second = reads.ask(start, LEADER).unwrap();
        reads.confirm(&second, 4);
        assert_eq!(reads.ready(10), [Ticket(3)]);
        assert_eq!(reads.ask(start, LEADER), None, "nobody waits");
    }
}
