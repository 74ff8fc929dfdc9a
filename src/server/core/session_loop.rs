//! The loop of a session core: replies and events come down the lane and go out to the clients.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::mesh::Receiver;
use crate::error::Error;
use crate::mvcc::event::EventBatch;
use crate::replica::port::Ticket;
use crate::response::Response;
use crate::server::io::{clock, task};
use crate::server::session::{Session, observer};
use crate::stdx::time::Duration;

/// Messages handled before other tasks of the core run.
const TURN_MESSAGES_MAX: usize = 1024;
/// How often timeouts and progress intervals are looked at ...
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// ... while no request waits and no watch is open: each look wakes a sleeping core, which costs a tenth of a
/// millisecond.
const HOUSEKEEPING_IDLE: Duration = Duration::from_secs(1);

/// What the replica tells a session core.
pub enum FromReplica {
    /// The response to a request.
    Reply(Ticket, Result<Response, Error>),
    /// A read may go on.
    ReadReady(Ticket),
    /// The events of one revision, for every core.
    Publish(Arc<EventBatch>),
}

/// Runs for as long as the executor does.
pub async fn run(session: Rc<Session>, lane: Receiver<FromReplica>) {
    let mut messages = Vec::with_capacity(TURN_MESSAGES_MAX);
    let mut term = 0;
    loop {
        lane.take(TURN_MESSAGES_MAX, &mut messages);
        let current = session.gate().term();
        if current != term {
            term = current;
            session.watches.set_term(term);
        }
        let now = clock::now();
        for message in messages.drain(..) {
            match message {
                FromReplica::Reply(ticket, result) => session.on_reply(now, ticket, result),
                FromReplica::ReadReady(ticket) => session.on_read_ready(ticket),
                FromReplica::Publish(batch) => {
                    session.view(|view| session.watches.publish(batch.as_ref(), view));
                }
            }
        }
        if session.watches.needs_catch_up() {
            session.view(|view| session.watches.catch_up(view));
        }
        let behind = session.watches.pump();
        if behind || !lane.is_empty() {
            task::yield_now().await;
            continue;
        }
        let mut ready = pin!(lane.ready());
        poll_fn(|cx| {
            if session.poll_called(cx).is_ready() {
                return Poll::Ready(());
            }
            ready.as_mut().poll(cx)
        })
        .await;
    }
}

/// Timeouts and progress notifications, for as long as the executor runs.
pub async fn keep_house(session: Rc<Session>) {
    loop {
        task::until(clock::now() + HOUSEKEEPING_IDLE, poll_fn(|cx| session.poll_stirred(cx))).await;
        task::sleep(HOUSEKEEPING).await;
        session.expire();
        observer::session(&session);
        session.watches.tick(clock::now());
        if session.watches.pump() {
            session.wake_loop();
        }
    }
}
