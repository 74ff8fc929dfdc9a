//! What clients ask about leases: what is left of one, which keys are attached to it, and which leases there are.
//!
//! The lessor knows when a lease ends, and is asked about one or a few hundred leases at a time, as it lives on the
//! replica core. What may be long stands in the published state and is gathered from there, on the session core.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::answer::{Answer, Outcome};
use super::decode::decode;
use super::gathered::{self, Gathered, Refused};
use super::long::PLAN_SLICE;
use crate::lease::StoredIds;
use crate::mvcc::attached::AttachedKeys;
use crate::proto::etcdserverpb::{LeaseLeasesRequest, LeaseTimeToLiveRequest};
use crate::replica::port::LeaseCall;
use crate::response::{self, Response};
use crate::server::grpc::Responder;
use crate::server::io::task;
use crate::server::session::Session;
use crate::server::session::gathering::Held;
use crate::stdx::time::Instant;

/// `Lease/LeaseTimeToLive`. A lease that is gone is no error: its time to live is -1. The lessor says what is left;
/// which keys are attached stands in the published state.
pub fn time_to_live(message: Bytes) -> Outcome {
    let request = decode::<LeaseTimeToLiveRequest>(message)?;
    let (id, keys) = (request.id, request.keys);
    Ok(Answer::later(move |session, reply| {
        session.lease(LeaseCall::TimeToLive { id }, move |session, result| match result {
            Err(status) => reply.fail(&status),
            Ok(response) => {
                let head = response::encode(&response, &session.header());
                match response {
                    Response::LeaseTimeToLive { ttl, .. } if keys && ttl >= 0 => {
                        answer_with_keys(session, id, head, reply);
                    }
                    _ => reply.send(Ok(head)),
                }
            }
        });
    }))
}

/// Answers with `head` and the keys of a lease: at once where they are few.
fn answer_with_keys(session: &Rc<Session>, id: i64, head: Bytes, reply: Responder) {
    let mut whole = BytesMut::from(&head[..]);
    let is_whole = session.view(|view| {
        let mut keys = AttachedKeys::new(view.read(), id);
        put_keys(&mut keys, |key| {
            response::put_lease_key(&mut whole, key);
            whole.len()
        })
    });
    if is_whole {
        return reply.send(Ok(whole.freeze()));
    }
    task::spawn(gathered::answer(session.clone(), reply, async move |session, reply, held| {
        let mut gathered = Gathered::default();
        gathered.put(|out| out.extend_from_slice(&head));
        let mut reader = session.reader();
        let state = reader.snapshot();
        let mut keys = AttachedKeys::new(&state, id);
        let is_done = gathered::in_slices(reply, || {
            let before = gathered.len();
            let is_done = put_keys(&mut keys, |key| {
                gathered.put(|out| response::put_lease_key(out, key));
                gathered.len() - before
            });
            gathered::hold(held, gathered.len(), gathered.len())?;
            Ok(is_done)
        });
        Ok(is_done.await?.then_some(gathered))
    }));
}

/// Hands the next keys to `put`, which says how many bytes they have come to, as many as one slice may have. True
/// when there are no more.
fn put_keys(keys: &mut AttachedKeys<'_>, mut put: impl FnMut(&[u8]) -> usize) -> bool {
    let (mut count, mut bytes) = (0, 0);
    while let Some(key) = keys.key() {
        if gathered::is_slice(count, bytes) {
            return false;
        }
        bytes = put(key);
        count += 1;
        keys.advance();
    }
    true
}

/// Leases whose expiries are asked for in one question to the lessor.
const ASKED: usize = 512;
/// So few leases are listed without waiting in line.
const FEW: usize = 64;

/// `Lease/LeaseLeases`: the soonest to expire first. The published state has the leases, the lessor their order.
pub fn leases(session: &Rc<Session>, message: Bytes) -> Outcome {
    decode::<LeaseLeasesRequest>(message)?;
    let first: Vec<i64> = session.view(|view| StoredIds::new(view.read()).take(FEW + 1).collect());
    Ok(Answer::later(move |session, reply| {
        if first.len() > FEW {
            return task::spawn(gathered::answer(session.clone(), reply, list));
        }
        session.lease(LeaseCall::Expiries { ids: first.clone() }, move |session, result| match result {
            Err(status) => reply.fail(&status),
            Ok(response) => {
                let mut leases: Vec<_> = by_expiry(first, &response).collect();
                leases.sort_unstable();
                let mut whole = BytesMut::new();
                session.header().put_field(response.revision(), &mut whole);
                leases.iter().for_each(|(_, id)| response::put_lease(&mut whole, *id));
                reply.send(Ok(whole.freeze()));
            }
        });
    }))
}

/// Leases with the instants at which they end, as the lessor's answer has them in the same order.
fn by_expiry(ids: Vec<i64>, answer: &Response) -> impl Iterator<Item = (Instant, i64)> {
    let expiries = match answer {
        Response::LeaseExpiries { expiries, .. } => &expiries[..],
        _ => &[],
    };
    let rest = std::iter::repeat(Instant::default());
    expiries.iter().copied().chain(rest).zip(ids)
}

/// Gathers the answer to a LeaseLeases in slices: the ids of one state, then when each of them ends.
async fn list(
    session: &Rc<Session>,
    reply: &Responder,
    held: &mut Held,
) -> Result<Option<Gathered>, Refused> {
    let Some(mut stored) = stored_leases(session, reply, held).await? else { return Ok(None) };
    let (mut leases, mut revision) = (BinaryHeap::new(), 0);
    while let Some(ids) = stored.pop() {
        let answer = session.ask_lessor(LeaseCall::Expiries { ids: ids.clone() }).await?;
        revision = answer.revision();
        leases.extend(by_expiry(ids, &answer).map(Reverse));
        hold_leases(held, stored.len() * ASKED, leases.len())?;
        if !reply.is_wanted() {
            return Ok(None);
        }
    }
    let mut gathered = Gathered::default();
    gathered.put(|out| session.header().put_field(revision, out));
    let listed = gathered::in_slices(reply, || {
        for _ in 0..PLAN_SLICE {
            let Some(Reverse((_, id))) = leases.pop() else { return Ok(true) };
            gathered.put(|out| response::put_lease(out, id));
        }
        let heap = leases.capacity() * size_of::<(Instant, i64)>();
        gathered::hold(held, gathered.len() + heap, gathered.len())?;
        Ok(false)
    });
    let is_whole = listed.await?;
    drop(leases);
    gathered::hold(held, gathered.len(), gathered.len())?;
    Ok(is_whole.then_some(gathered))
}

/// The ids of all leases in portions for the lessor. None when the client has gone.
async fn stored_leases(
    session: &Rc<Session>,
    reply: &Responder,
    held: &mut Held,
) -> Result<Option<Vec<Vec<i64>>>, Refused> {
    let mut reader = session.reader();
    let state = reader.snapshot();
    let (mut ids, mut portions) = (StoredIds::new(&state), Vec::new());
    let collected = gathered::in_slices(reply, || {
        let portion: Vec<i64> = ids.by_ref().take(ASKED).collect();
        let is_last = portion.len() < ASKED;
        portions.push(portion);
        hold_leases(held, portions.len() * ASKED, 0)?;
        Ok(is_last)
    });
    Ok(collected.await?.then_some(portions))
}

/// Counts what so many leases hold whose expiry is to be asked for, and so many with it.
fn hold_leases(held: &mut Held, asked: usize, known: usize) -> Result<(), Refused> {
    /// Bytes of a lease in the answer, or a little less.
    const IN_ANSWER: usize = 10;
    let bytes = asked * size_of::<i64>() + known * size_of::<(Instant, i64)>();
    gathered::hold(held, bytes, (asked + known) * IN_ANSWER)
}
