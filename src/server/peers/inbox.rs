//! What has come from other members for the replica, and the answers of the leader for clients of this member.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll};

use super::outgoing::weight;
use crate::error::Error;
use crate::replica::port::{Input, Ticket};
use crate::response::Response;
use crate::server::io::task;
use crate::stdx::time::Duration;
use crate::stdx::waker::WakerCell;

/// Inputs that may wait for the replica, etcd's own figure for one member.
const INPUTS_MAX: usize = 4096;
/// Bytes of messages that may wait for the replica.
const BYTES_MAX: usize = 32 << 20;
/// Time between two looks for room.
const LOOK: Duration = Duration::from_millis(1);

/// The answer to a question that a client of this member has asked.
pub type Answered = (Ticket, Result<Response, Error>);

/// What waits for the replica loop.
#[derive(Default)]
pub struct Inbox {
    inputs: RefCell<VecDeque<Input>>,
    /// Of the messages among the inputs.
    bytes: Cell<usize>,
    /// As many as there are questions under way, at most.
    answers: RefCell<Vec<Answered>>,
    replica: WakerCell,
}

impl Inbox {
    /// Waits until there is room.
    pub async fn room(&self) {
        while self.inputs.borrow().len() >= INPUTS_MAX || self.bytes.get() >= BYTES_MAX {
            task::sleep(LOOK).await;
        }
    }

    /// Takes something for the replica, whether there is room or not.
    pub fn push(&self, input: Input) {
        self.bytes.set(self.bytes.get() + weight_of(&input));
        self.inputs.borrow_mut().push_back(input);
        self.replica.wake();
    }

    /// Takes an answer for a client.
    pub fn answer(&self, answered: Answered) {
        self.answers.borrow_mut().push(answered);
        self.replica.wake();
    }

    /// Moves what waits for the replica, up to `limit`.
    pub fn take(&self, limit: usize, into: &mut VecDeque<Input>) {
        let mut inputs = self.inputs.borrow_mut();
        while into.len() < limit
            && let Some(input) = inputs.pop_front()
        {
            self.bytes.set(self.bytes.get() - weight_of(&input));
            into.push_back(input);
        }
    }

    /// The answers that wait.
    pub fn take_answers(&self) -> Vec<Answered> {
        self.answers.take()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.inputs.borrow().is_empty() && self.answers.borrow().is_empty()
    }

    /// Ready while something waits.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_empty() {
            return Poll::Ready(());
        }
        self.replica.keep(cx.waker());
        Poll::Pending
    }
}

fn weight_of(input: &Input) -> usize {
    match input {
        Input::PeerMessage(message) | Input::Undelivered(message) => weight(message),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::waker::Wakes;

    #[test]
    fn what_comes_wakes_the_replica_and_is_taken_in_its_order() {
        let inbox = Inbox::default();
        let (waker, wakes) = Wakes::new();
        assert!(inbox.poll(&mut Context::from_waker(&waker)).is_pending());
        inbox.push(Input::PeerMessage(Box::default()));
        inbox.push(Input::PeerUnreachable(7));
        assert_eq!(wakes.count(), 1);
        assert!(inbox.poll(&mut Context::from_waker(&waker)).is_ready() && inbox.bytes.get() > 0);
        let mut taken = VecDeque::new();
        inbox.take(1, &mut taken);
        assert!(matches!(taken[0], Input::PeerMessage(_)) && !inbox.is_empty() && inbox.bytes.get() == 0);
        inbox.take(9, &mut taken);
        assert!(matches!(taken[1], Input::PeerUnreachable(7)) && inbox.is_empty());
    }
}
