//! The Lease service. Grants and revocations go through the log; renewals and questions go to the leader's lessor.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, select};
use prost::Message;

use super::lenient::{decode, decode_kept};
use super::quota;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use crate::replica::apply::LEASE_COST;
use crate::replica::port::LeaseCall;
use crate::request::{self, Kind, Response};
use crate::server::grpc::{Incoming, Outgoing, Responder, Status};
use crate::server::io::task;
use crate::server::session::Session;

/// `Lease/LeaseGrant`. Who asks for id 0 gets one that nobody else has.
pub fn grant(session: &Rc<Session>, message: Bytes, reply: Responder) {
    let (mut request, message) = match decode_kept::<LeaseGrantRequest>(&message) {
        Ok(decoded) => decoded,
        Err(status) => return reply.fail(&status),
    };
    let message = match request.id {
        0 => {
            request.id = fresh_id(session);
            Bytes::from(request.encode_to_vec())
        }
        _ => message,
    };
    if let Some(reply) = quota::admit(session, LEASE_COST, reply) {
        session.propose(Kind::LeaseGrant, &message, reply);
    }
}

/// A request's id without its sign: positive, as lease ids are shown in hexadecimal everywhere.
fn fresh_id(session: &Session) -> i64 {
    loop {
        let id = (session.request_id() & i64::MAX as u64) as i64;
        if id != 0 {
            return id;
        }
    }
}

/// `Lease/LeaseRevoke`.
pub fn revoke(session: &Rc<Session>, message: Bytes, reply: Responder) {
    match decode_kept::<LeaseRevokeRequest>(&message) {
        Ok((_, message)) => session.propose(Kind::LeaseRevoke, &message, reply),
        Err(status) => reply.fail(&status),
    }
}

/// `Lease/LeaseTimeToLive`. A lease that is gone is no error: its time to live is -1.
pub fn time_to_live(session: &Rc<Session>, message: Bytes, reply: Responder) {
    match decode::<LeaseTimeToLiveRequest>(message) {
        Ok(request) => ask(session, LeaseCall::TimeToLive { id: request.id, keys: request.keys }, reply),
        Err(status) => reply.fail(&status),
    }
}

/// `Lease/LeaseLeases`.
pub fn leases(session: &Rc<Session>, message: Bytes, reply: Responder) {
    match decode::<LeaseLeasesRequest>(message) {
        Ok(_) => ask(session, LeaseCall::Leases, reply),
        Err(status) => reply.fail(&status),
    }
}

fn ask(session: &Rc<Session>, call: LeaseCall, reply: Responder) {
    session.lease(call, move |session, result| match result {
        Ok(response) => reply.send(Ok(request::encode(&response, &session.header()))),
        Err(status) => reply.fail(&status),
    });
}

/// `Lease/LeaseKeepAlive`: one answer per request, in their order, until the client has ended its side.
///
/// A lease that is gone is answered with TTL 0 and the stream goes on.
pub fn keep_alive(session: &Rc<Session>, mut incoming: Incoming, mut outgoing: Outgoing) {
    let session = session.clone();
    task::spawn(async move {
        let ended = {
            let serving = std::pin::pin!(renew_all(&session, &mut incoming, &mut outgoing));
            let closing = std::pin::pin!(session.streams.closed());
            match select(serving, closing).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(Status::stopped()),
            }
        };
        outgoing.finish(ended);
    });
}

async fn renew_all(
    session: &Rc<Session>,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<(), Status> {
    while let Some(message) = incoming.next().await {
        let request = decode::<LeaseKeepAliveRequest>(message?)?;
        let (tell, told) = oneshot::channel();
        session.lease(LeaseCall::KeepAlive { id: request.id }, move |session, result| {
            if matches!(result, Ok(Response::LeaseKeepAlive { ttl, .. }) if ttl > 0) {
                session.metrics.leases_renewed.inc();
            }
            let answer = result.map(|response| request::encode(&response, &session.header()));
            // The client may have gone meanwhile.
            let _ = tell.send(answer);
        });
        let answer = told.await.unwrap_or_else(|_| Err(Status::stopped()))?;
        outgoing.send(answer)?;
    }
    Ok(())
}
