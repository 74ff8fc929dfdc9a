//! The loop of a session core: replies and events come down the lane and go out to the clients.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::error::Error;
use crate::replica::port::Ticket;
use crate::response::Response;
use crate::server::io::{clock, task};
use crate::server::mesh::{Outbox, Receiver};
use crate::server::session::turn::SessionTurn;
use crate::server::session::{Session, observer};
pub use crate::session::FromReplica;
use crate::session::turn;
use crate::stdx::time::Duration;

/// Messages that are taken from the lane and wait for their turn.
const TURN_MESSAGES_MAX: usize = 1024;
/// How often timeouts and progress intervals are looked at.
const TIMERS_INTERVAL: Duration = Duration::from_millis(50);
/// How often they are looked at while no request waits and no watch is open. Each look wakes a sleeping core, which
/// costs a tenth of a millisecond.
const TIMERS_INTERVAL_IDLE: Duration = Duration::from_secs(1);

/// Sends a reply down the lane to its session core; of an answer only the length where the lane carries too much.
pub fn reply(session: &mut Outbox<FromReplica>, ticket: Ticket, result: Result<Response, Error>) {
    let result = result.map(|response| match response.pairs_len() {
        len if session.carry(len) => response,
        len => Response::Overlong { revision: response.revision(), len },
    });
    session.push(FromReplica::Reply(ticket, result));
}

/// Runs for as long as the executor does.
pub async fn run(session: Rc<Session>, lane: Receiver<FromReplica>) {
    let mut inbox = VecDeque::with_capacity(TURN_MESSAGES_MAX);
    let mut term = 0;
    loop {
        lane.take(TURN_MESSAGES_MAX, &mut inbox);
        let current = session.gate().term();
        if current != term {
            term = current;
            session.watches.set_term(term);
        }
        if turn(&mut SessionTurn::new(&session, &lane), &mut inbox) || !lane.is_empty() {
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
pub async fn run_timers(session: Rc<Session>) {
    let mut led = clock::now();
    loop {
        task::until(clock::now() + TIMERS_INTERVAL_IDLE, poll_fn(|cx| session.poll_timers_armed(cx))).await;
        task::sleep(TIMERS_INTERVAL).await;
        session.expire();
        observer::session(&session);
        let now = clock::now();
        if session.gate().leader() != 0 || !session.watches.is_open() {
            led = now;
        } else if now.since(led) >= session.member.leaderless_max {
            // A stream costs much more to begin anew than a call, so it lives through an election.
            session.watches.close_leaderless();
            led = now;
        }
        if session.watches.tick(clock::now()) {
            session.wake_loop();
        }
    }
}
