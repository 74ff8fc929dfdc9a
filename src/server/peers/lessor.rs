//! Questions about leases. The leader alone knows when they end, so other members ask it for their clients.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures::channel::oneshot;
use prost::Message as _;

use super::client::Ask;
use super::link::Link;
use super::pipeline::exchange;
use super::switchboard::Switchboard;
use crate::error::Error;
use crate::proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    ResponseHeader,
};
use crate::proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::replica::read_gate::Role;
use crate::response::Response;
use crate::server::http1::answer::Answer;
use crate::server::io::{clock, task};
use crate::session::Tickets;
use crate::stdx::time::Duration;

/// Where leases are renewed.
pub const RENEWALS: &str = "/leases";
/// Where it is asked what is left of a lease.
pub const QUESTIONS: &str = "/leases/internal";

const PROTOBUF: &str = "application/protobuf";
/// What is said of a lease that is not there.
const NOT_FOUND: &str = "requested lease not found";
/// What is said by a member that does not lead.
const NOT_PRIMARY: &str = "not a primary lessor";
/// What is said where entries that are committed are not applied in time.
const BEHIND: &str = "waiting for node to catch up its applied index has timed out";
/// How long a question waits for entries to be applied.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two attempts to reach the leader.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Questions of clients of this member that are under way.
const FORWARDED_MAX: usize = 1024;
/// Questions that are with the leader at a time. Each has a connection of its own, and the leader's peer port has
/// places for some hundred.
const ASKED_MAX: u64 = 32;

pub(super) type Answered = Result<Response, Error>;

/// Questions that are under way.
pub struct Questions {
    /// Of other members to this one.
    tickets: RefCell<Tickets<oneshot::Sender<Answered>>>,
    /// Of clients of this member to the leader.
    forwarded: Cell<usize>,
    /// The places of those that are with the leader.
    places: task::Semaphore,
}

impl Questions {
    /// None yet; `core` stands in the tickets.
    pub fn new(core: u16, timeout: Duration) -> Self {
        Self {
            tickets: RefCell::new(Tickets::new(core, timeout)),
            forwarded: Cell::new(0),
            places: task::Semaphore::new(ASKED_MAX),
        }
    }
}

impl Switchboard {
    /// The replica has answered the question of another member.
    pub fn on_reply(&self, ticket: Ticket, result: Answered) {
        let asker = self.questions.tickets.borrow_mut().redeem(ticket);
        if let Some(asker) = asker {
            // Whoever asked may have gone.
            let _ = asker.send(result);
        }
    }

    /// Asks the replica about a lease for another member.
    async fn ask(&self, call: LeaseCall) -> Answered {
        self.ask_replica(|ticket| Input::Lease { ticket, call }).await
    }

    /// Asks the replica for another member.
    pub(super) async fn ask_replica(&self, question: impl FnOnce(Ticket) -> Input) -> Answered {
        let (asker, answer) = oneshot::channel();
        let now = clock::now();
        let ticket = {
            let mut tickets = self.questions.tickets.borrow_mut();
            while tickets.expire(now).is_some() {}
            tickets.issue(now, asker)
        };
        self.inbox().push(question(ticket));
        let deadline = now + self.own().request_timeout;
        task::until(deadline, answer).await.and_then(Result::ok).unwrap_or(Err(Error::Timeout))
    }

    /// Asks the leader for a client of this member, whose `ticket` that is. `revision` is what the answer shows.
    pub fn forward(self: &Rc<Self>, ticket: Ticket, call: LeaseCall, revision: i64) {
        let (switchboard, again) = (self.clone(), Input::Lease { ticket, call: call.clone() });
        let answer = async move {
            switchboard
                .ask_leader(async |link| {
                    ask_at(&switchboard, link, &call, revision).await.ok().flatten().map(Ok)
                })
                .await
        };
        self.answer_later(ticket, again, answer);
    }

    /// Answers a client of this member when there is an answer. Where there is none because this member leads by then,
    /// its replica is asked `again`.
    pub(super) fn answer_later(
        self: &Rc<Self>,
        ticket: Ticket,
        again: Input,
        answer: impl Future<Output = Option<Answered>> + 'static,
    ) {
        let switchboard = self.clone();
        let under_way = self.questions.forwarded.get();
        if under_way >= FORWARDED_MAX {
            return self.inbox().answer((ticket, Err(Error::TooManyRequests)));
        }
        self.questions.forwarded.set(under_way + 1);
        task::spawn(async move {
            let result = answer.await;
            switchboard.questions.forwarded.set(switchboard.questions.forwarded.get() - 1);
            match result {
                Some(result) => switchboard.inbox().answer((ticket, result)),
                None => switchboard.inbox().push(again),
            }
        });
    }

    /// Asks whoever leads, until there is an answer or the time is over. None if this member leads by then.
    pub(super) async fn ask_leader(&self, ask: impl AsyncFn(&Link) -> Option<Answered>) -> Option<Answered> {
        let deadline = clock::now() + self.own().request_timeout;
        while clock::now() < deadline {
            if let Some(answered) = task::until(deadline, self.ask_once(&ask)).await.flatten() {
                return Some(answered);
            }
            if self.gate.role() == Role::Leader {
                return None;
            }
            task::sleep(BACK_OFF).await;
        }
        Some(Err(if self.gate.leader() == 0 { Error::NoLeader } else { Error::Timeout }))
    }

    /// Asks whoever leads, when a place is free. None if there is no answer.
    async fn ask_once(&self, ask: &impl AsyncFn(&Link) -> Option<Answered>) -> Option<Answered> {
        let _place = self.questions.places.acquire_permit(1).await.ok()?;
        let leader = self.link(self.gate.leader())?;
        ask(&leader).await
    }

    /// Waits until this member has applied what is committed now.
    async fn has_applied(&self) -> bool {
        let (committed, deadline) = (self.gate.committed(), clock::now() + APPLY_TIMEOUT);
        while self.gate.applied() < committed {
            if clock::now() >= deadline {
                return false;
            }
            task::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    /// Why a question cannot be answered here and now; none if it can.
    async fn unable(&self) -> Option<Answer> {
        if self.gate.role() != Role::Leader {
            return Some(Answer::error(400, NOT_PRIMARY));
        }
        (!self.has_applied().await).then(|| Answer::error(408, BEHIND))
    }
}

/// Asks one member. None if that member does not know either.
async fn ask_at(
    switchboard: &Switchboard,
    link: &Link,
    call: &LeaseCall,
    revision: i64,
) -> io::Result<Option<Response>> {
    let (path, id, content) = match *call {
        LeaseCall::KeepAlive { id } => (RENEWALS, id, LeaseKeepAliveRequest { id }.encode_to_vec()),
        LeaseCall::TimeToLive { id } => {
            let question = Some(LeaseTimeToLiveRequest { id, keys: false });
            let request = LeaseInternalRequest { lease_time_to_live_request: question };
            (QUESTIONS, id, request.encode_to_vec())
        }
        LeaseCall::Expiries { .. } => return Ok(None),
    };
    let ask = Ask { method: "POST", path, to: None, content: Some((PROTOBUF, &content)) };
    let (status, body) = exchange(switchboard, link, &ask).await?;
    let is_gone = status == 404 && body.starts_with(NOT_FOUND.as_bytes());
    Ok(match (path, status) {
        (RENEWALS, _) if is_gone => Some(Response::LeaseKeepAlive { revision, id, ttl: 0 }),
        (_, _) if is_gone => Some(Response::LeaseTimeToLive { revision, id, ttl: -1, granted_ttl: 0 }),
        (RENEWALS, 200) => {
            let renewed = LeaseKeepAliveResponse::decode(&*body).ok();
            renewed.map(|renewed| Response::LeaseKeepAlive { revision, id, ttl: renewed.ttl })
        }
        (_, 200) => {
            let response = LeaseInternalResponse::decode(&*body).ok();
            let told = response.and_then(|response| response.lease_time_to_live_response);
            told.map(|told| {
                let (ttl, granted_ttl) = (told.ttl, told.granted_ttl);
                Response::LeaseTimeToLive { revision, id, ttl, granted_ttl }
            })
        }
        _ => None,
    })
}

/// Renews a lease for another member.
pub async fn renew(switchboard: &Switchboard, body: Bytes) -> Answer {
    let Ok(LeaseKeepAliveRequest { id }) = LeaseKeepAliveRequest::decode(body) else { return unreadable() };
    if let Some(unable) = switchboard.unable().await {
        return unable;
    }
    match switchboard.ask(LeaseCall::KeepAlive { id }).await {
        Ok(Response::LeaseKeepAlive { ttl, .. }) if ttl > 0 => {
            let response = LeaseKeepAliveResponse { header: None, id, ttl };
            Answer::new(200, PROTOBUF, response.encode_to_vec())
        }
        Ok(_) => Answer::error(404, NOT_FOUND),
        Err(error) => refused(error),
    }
}

/// Tells another member what is left of a lease.
pub async fn time_to_live(switchboard: &Switchboard, body: Bytes) -> Answer {
    let request = LeaseInternalRequest::decode(body).ok();
    let request = request.and_then(|request| request.lease_time_to_live_request);
    let Some(LeaseTimeToLiveRequest { id, .. }) = request else { return unreadable() };
    if let Some(unable) = switchboard.unable().await {
        return unable;
    }
    match switchboard.ask(LeaseCall::TimeToLive { id }).await {
        Ok(Response::LeaseTimeToLive { ttl, granted_ttl, .. }) if ttl >= 0 => {
            let header = Some(ResponseHeader::default());
            let told = LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys: Vec::new() };
            let response = LeaseInternalResponse { lease_time_to_live_response: Some(told) };
            Answer::new(200, PROTOBUF, response.encode_to_vec())
        }
        Ok(_) => Answer::error(404, NOT_FOUND),
        Err(error) => refused(error),
    }
}

fn unreadable() -> Answer {
    Answer::error(400, "error unmarshalling request")
}

/// What another member is told for which the replica has no answer.
fn refused(error: Error) -> Answer {
    match error {
        Error::NoLeader => Answer::error(400, NOT_PRIMARY),
        error => Answer::error(500, error.message()),
    }
}
