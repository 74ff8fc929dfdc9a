//! etcd's API, one file per service: decode, check, ask the core, translate back. No raft in here, and no I/O.
//!
//! A call passes [`admit()`], which says who asks. Its handler gets the session, the caller and the whole message, on
//! the session core, and gives back an [`Outcome`]: the answer if the published state has it, else where the answer is
//! to come from. [`settle`] then does that; handlers of unary calls reply to nobody themselves.
//!
//! ```text
//!   admit      the door that every call passes        answer   what a handler gives back, and what becomes of it
//!   kv, txn, watch, lease, lease_info, cluster, maintenance, health   the services
//!   decode, decode_txn, wire_format   requests, read as leniently as etcd reads them
//!   quota      whether a request that grows the store is let through
//!   expected   how long the answer to a write will be
//!   read       reads of any length: answered at once if they are short, else planned and then written
//!   long       answers too long to assemble, written as the client takes them
//!   gathered   answers from trees without revisions, gathered first and then written
//!   patience   how long a client that takes nothing may hold up a compaction
//!   digest     HashKV, taken in slices
//!   snapshot   the store as a file of etcd
//!   tests      transcripts of all this, and the member in memory that they are played with
//! ```
#![forbid(unsafe_code)]

mod admit;
pub mod answer;
pub mod cluster;
pub mod decode;
mod decode_txn;
pub mod digest;
mod expected;
mod gathered;
pub mod health;
pub mod kv;
pub mod lease;
mod lease_info;
mod long;
pub mod maintenance;
mod patience;
mod quota;
mod read;
mod snapshot;
#[cfg(test)]
mod tests;
mod txn;
pub mod watch;
mod wire_format;

use std::rc::Rc;

use bytes::Bytes;

use self::admit::admit;
use self::answer::{Caller, Outcome, settle};
use self::expected::Looks;
use super::grpc::{self, Call, Incoming, Method, Outgoing, Responder, Status};
use super::session::Session;

/// The API of one session core.
pub struct Api {
    session: Rc<Session>,
    looks: Looks,
}

impl Api {
    /// Of a session. No client may know the seed.
    pub fn new(session: Rc<Session>, seed: u64) -> Self {
        Self { session, looks: Looks::new(seed) }
    }

    /// Has the handler of a unary call answer. `is_crowded` says whether unsent answers crowd the core.
    fn handle(&self, caller: Caller, method: Method, message: Bytes, is_crowded: bool) -> Outcome {
        let session = &self.session;
        match method {
            Method::Range => kv::range(session, caller, message),
            Method::Put => kv::put(session, &message),
            Method::DeleteRange => kv::delete_range(session, &message),
            Method::Txn => txn::txn(session, &self.looks, is_crowded, caller, &message),
            Method::Compact => kv::compact(&message),
            Method::LeaseGrant => lease::grant(session, &message),
            Method::LeaseRevoke => lease::revoke(&message),
            Method::LeaseTimeToLive => lease_info::time_to_live(message),
            Method::LeaseLeases => lease_info::leases(session, message),
            Method::MemberList => cluster::member_list(session, message),
            Method::MemberAdd => cluster::member_add(session, message),
            Method::MemberRemove => cluster::member_remove(session, message),
            Method::MemberUpdate => cluster::member_update(message),
            Method::MemberPromote => cluster::member_promote(message),
            Method::Alarm => maintenance::alarm(&message),
            Method::Status => maintenance::status(session, message),
            Method::Defragment => maintenance::defragment(message),
            Method::Hash => maintenance::hash(message),
            Method::HashKv => maintenance::hash_kv(session, message),
            Method::MoveLeader => maintenance::move_leader(message),
            Method::HealthCheck => health::check(message),
            Method::HealthList => health::list(message),
            method => Err(Status::unimplemented(method)),
        }
    }
}

impl grpc::Api for Api {
    fn unary(&self, call: Call, message: Bytes, reply: Responder) {
        let (admitted, bytes) = (admit(&self.session, &call, false), message.len());
        let is_crowded = reply.is_crowded();
        let outcome = admitted.and_then(|caller| self.handle(caller, call.method, message, is_crowded));
        settle(&self.session, outcome, bytes, reply);
    }

    fn gone(&self) {
        self.session.forget_gone();
    }

    fn stream(&self, call: Call, incoming: Incoming, outgoing: Outgoing) {
        let session = &self.session;
        if let Err(status) = admit(session, &call, true) {
            return outgoing.finish(Err(status));
        }
        match call.method {
            Method::Watch => watch::serve(session, call.metadata.requires_leader, incoming, outgoing),
            Method::RangeStream => kv::range_stream(session, incoming, outgoing),
            Method::Snapshot => snapshot::serve(session, incoming, outgoing),
            Method::LeaseKeepAlive => lease::keep_alive(session, incoming, outgoing),
            Method::HealthWatch => health::watch(session, incoming, outgoing),
            method => outgoing.finish(Err(Status::unimplemented(method))),
        }
    }
}
