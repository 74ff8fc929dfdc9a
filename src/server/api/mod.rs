//! etcd's API, one file per service: decode, check, ask the core, translate back. No raft in here, and no I/O.
//!
//! A handler is called on the session core with a whole message and answers through a [`Responder`]: at once when
//! the published state has the answer, else when the replica has replied (`Session::propose`).
#![forbid(unsafe_code)]

pub mod kv;
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
        match call.method {
            Method::Range => kv::range(session, message, reply),
            Method::Put => kv::put(session, &message, reply),
            Method::DeleteRange => kv::delete_range(session, &message, reply),
            Method::Txn => kv::txn(session, message, reply),
            Method::Compact => kv::compact(session, &message, reply),
            method => reply.fail(&Status::unimplemented(method)),
        }
    }

    fn stream(&self, call: Call, incoming: Incoming, outgoing: Outgoing) {
        let session = &self.0;
        match call.method {
            Method::Watch => watch::serve(session, incoming, outgoing),
            Method::RangeStream => kv::range_stream(session, incoming, outgoing),
            method => outgoing.finish(Err(Status::unimplemented(method))),
        }
    }
}
