//! etcd's API, one file per service: decode, check, ask the core, translate back. No raft in here, and no I/O.
//!
//! A handler is called on the session core with a whole message and answers through a [`Responder`]: at once when
//! the published state has the answer, else when the replica has replied (`Session::propose`).
//!
//! ```text
//!   kv, watch, lease, cluster, maintenance, health   the services
//!   decode     requests, read as leniently as etcd reads them
//!   quota      whether a request that grows the store is let through
//!   long       answers too long to assemble, written as the client takes them
//!   patience   how long a client that takes nothing may hold up a compaction
//! ```
#![forbid(unsafe_code)]

pub mod cluster;
pub mod decode;
pub mod health;
pub mod key_count;
pub mod kv;
pub mod lease;
mod long;
pub mod maintenance;
mod patience;
mod quota;
pub mod watch;

use std::rc::Rc;

use bytes::Bytes;

use super::grpc::{self, Call, Incoming, Method, Outgoing, Responder, Status};
use super::session::Session;

/// The API of one session core.
pub struct Api(pub Rc<Session>);

impl grpc::Api for Api {
    fn unary(&self, call: Call, message: Bytes, reply: Responder) {
        let session = &self.0;
        if let Err(status) = count_version(session, &call, false) {
            return reply.fail(&status);
        }
        match call.method {
            Method::Range => kv::range(session, message, reply),
            Method::Put => kv::put(session, &message, reply),
            Method::DeleteRange => kv::delete_range(session, &message, reply),
            Method::Txn => kv::txn(session, message, reply),
            Method::Compact => kv::compact(session, &message, reply),
            Method::LeaseGrant => lease::grant(session, message, reply),
            Method::LeaseRevoke => lease::revoke(session, message, reply),
            Method::LeaseTimeToLive => lease::time_to_live(session, message, reply),
            Method::LeaseLeases => lease::leases(session, message, reply),
            Method::MemberList => cluster::member_list(session, message, reply),
            Method::Alarm => maintenance::alarm(session, message, reply),
            Method::Status => maintenance::status(session, message, reply),
            Method::Defragment => maintenance::defragment(session, message, reply),
            Method::Hash => maintenance::hash(session, message, reply),
            Method::HashKv => maintenance::hash_kv(session, message, reply),
            Method::MoveLeader => maintenance::move_leader(session, message, reply),
            Method::HealthCheck => health::check(message, reply),
            Method::HealthList => health::list(message, reply),
            method => reply.fail(&Status::unimplemented(method)),
        }
    }

    fn stream(&self, call: Call, incoming: Incoming, outgoing: Outgoing) {
        let session = &self.0;
        if let Err(status) = count_version(session, &call, true) {
            return outgoing.finish(Err(status));
        }
        match call.method {
            Method::Watch => watch::serve(session, incoming, outgoing),
            Method::RangeStream => kv::range_stream(session, incoming, outgoing),
            Method::LeaseKeepAlive => lease::keep_alive(session, incoming, outgoing),
            Method::HealthWatch => health::watch(session, incoming, outgoing),
            method => outgoing.finish(Err(Status::unimplemented(method))),
        }
    }
}

/// Counts a call under the version that its client says it speaks.
///
/// # Errors
/// A version that is no text.
fn count_version(session: &Session, call: &Call, stream: bool) -> Result<(), Status> {
    let version = call.metadata.client_api_version()?;
    session.metrics.versions.count(Some(version), stream);
    Ok(())
}
