//! Linearizable reads: one round of raft's ReadIndex for all reads that wait when it starts (raft thesis 6.4).
//!
//! ```text
//!   waiting ──(no round under way)──▶ round ──(leadership confirmed at index i)──▶ confirmed(i) ──(applied ≥ i)──▶ ready
//! ```
//! raft forgets a round silently while there is no leader or the leader has not committed in its term, so a round
//! without an answer is asked again.
#![forbid(unsafe_code)]

use crate::replica::port::Ticket;
use crate::stdx::time::{Duration, Instant};

/// How long to wait for an answer before asking again, as etcd does.
const RETRY: Duration = Duration::from_millis(500);

/// Reads on their way.
#[derive(Debug, Default)]
pub struct Reads {
    waiting: Vec<Ticket>,
    round: Option<Round>,
    confirmed: Vec<(u64, Vec<Ticket>)>,
    rounds: u64,
}

#[derive(Debug)]
struct Round {
    number: u64,
    asked: Instant,
    tickets: Vec<Ticket>,
}

impl Reads {
    /// A read arrives.
    pub fn wait(&mut self, ticket: Ticket) {
        self.waiting.push(ticket);
    }

    /// The context to ask raft with now, if there is something to ask.
    pub fn ask(&mut self, now: Instant) -> Option<Vec<u8>> {
        match &mut self.round {
            None if self.waiting.is_empty() => return None,
            None => {
                self.rounds += 1;
                let tickets = std::mem::take(&mut self.waiting);
                self.round = Some(Round { number: self.rounds, asked: now, tickets });
            }
            Some(round) if now.since(round.asked) >= RETRY => round.asked = now,
            Some(_) => return None,
        }
        Some(self.rounds.to_be_bytes().to_vec())
    }

    /// Leadership was confirmed for a round, at `index`.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.number.to_be_bytes() == context) {
            self.confirmed.push((index, round.tickets));
        }
    }

    /// The reads that may look, now that everything up to `applied` is published.
    pub fn ready(&mut self, applied: u64) -> Vec<Ticket> {
        let mut ready = Vec::new();
        self.confirmed.retain_mut(|(index, tickets)| {
            let done = *index <= applied;
            if done {
                ready.append(tickets);
            }
            !done
        });
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_serves_all_that_waited_and_late_answers_count_once() {
        let start = Instant::default();
        let mut reads = Reads::default();
        assert_eq!(reads.ask(start), None);
        reads.wait(Ticket(1));
        reads.wait(Ticket(2));
        let first = reads.ask(start).unwrap();
        reads.wait(Ticket(3));
        assert_eq!(reads.ask(start), None);
        assert_eq!(reads.ask(start + RETRY), Some(first.clone()));
        reads.confirm(&first, 10);
        reads.confirm(&first, 10);
        assert_eq!(reads.ready(9), []);
        assert_eq!(reads.ready(10), [Ticket(1), Ticket(2)]);
        let second = reads.ask(start).unwrap();
        reads.confirm(&second, 4);
        assert_eq!(reads.ready(10), [Ticket(3)]);
        assert_eq!(reads.ask(start), None, "nobody waits");
    }
}
