//! What the replica was asked: each request is answered once, unless its client has gone and the replica was told.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::judge::{Judge, judge};
use super::plant::Plant;
use kevel::replica::Replica;
use kevel::replica::port::{Input, Output, Ticket};

/// Requests that have come to the replica and wait for an answer.
#[derive(Default)]
pub struct Asked {
    /// By ticket, the ids of proposals; zero for questions that are not proposed.
    open: BTreeMap<Ticket, u64>,
    /// Proposals may have been refused since the last turn, and the refusal is not told.
    refused: bool,
}

impl Asked {
    /// The replica takes an input.
    pub fn step(&mut self, plant: Option<Plant>, replica: &mut Replica, judge: &Judge, input: Input) {
        let pending = replica.pending();
        match input {
            Input::Forget { id } => self.forget(plant, replica, judge, id),
            Input::Propose { ticket, id, .. } => {
                self.open.insert(ticket, id);
                replica.step(input);
                self.refused |= replica.pending() == pending;
            }
            Input::ReadIndex { ticket } | Input::Lease { ticket, .. } | Input::Defragment { ticket } => {
                self.open.insert(ticket, 0);
                replica.step(input);
            }
            _ => {
                replica.step(input);
                self.refused |= replica.pending() < pending;
            }
        }
    }

    /// Nobody waits for a proposal any more: if it waits, it alone is forgotten.
    fn forget(&mut self, plant: Option<Plant>, replica: &mut Replica, judge: &Judge, id: u64) {
        let ticket = self.open.iter().find(|(_, asked)| **asked == id).map(|(ticket, _)| *ticket);
        // An entry that is applied, or under way, has nobody left to be forgotten.
        let begun = judge.index_of(id).is_some_and(|index| index <= replica.applied().index + 1);
        let before = replica.pending();
        match plant {
            Some(Plant::ForgottenKept) => {}
            Some(Plant::AnotherForgotten) => {
                let another = self.open.values().rfind(|asked| **asked != 0).copied();
                replica.step(Input::Forget { id: another.unwrap_or(id) });
            }
            _ => replica.step(Input::Forget { id }),
        }
        let forgotten = before - replica.pending();
        let least = usize::from(ticket.is_some() && !begun && !self.refused);
        let most = usize::from(ticket.is_some());
        judge!(
            (least..=most).contains(&forgotten),
            "{forgotten} proposals are forgotten with {id:x}, of which {least} to {most} waited"
        );
        if let Some(ticket) = ticket.filter(|_| forgotten > 0) {
            self.open.remove(&ticket);
        }
    }

    /// A turn has ended. Only who waits is answered, and the replica knows how many wait.
    pub fn on_turn(&mut self, replica: &Replica, outputs: &[Output]) {
        for output in outputs {
            if let Output::Reply { ticket, .. } | Output::ReadReady { ticket } = output {
                let waited = self.open.remove(ticket).is_some();
                judge!(waited, "{:x} is answered, and nobody waits for it", ticket.0);
            }
        }
        // Before its first entries are durable a member answers nobody, also those whom it has refused.
        if replica.applied().index == 0 {
            return;
        }
        self.refused = false;
        let (waiting, open) = (replica.waiting(), self.open.len());
        judge!(waiting == open, "{open} requests wait, and the replica knows of {waiting}");
    }
}
