//! Grants, one after the other.
#![forbid(unsafe_code)]

use bytes::Bytes;
use kevel::proto::etcdserverpb::LeaseGrantRequest;
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;

use super::super::{Outcomes, Settings};
use super::LeaseArgs;
use crate::calls::framed;
use crate::loader::{Done, Request, Source, Then};
use crate::phase::{Phase, World};

pub fn run(args: &LeaseArgs, settings: &Settings, world: &World) -> Outcomes {
    let ttl = i64::from(args.ttl);
    let jobs =
        settings.jobs(settings.load(), settings.connections(1), move |_, _| Grants { message: message(ttl) });
    let phase = Phase { name: "lease grant".into(), classes: vec!["grant"], jobs, bounds: settings.bounds() };
    Ok(vec![world.run(phase)?])
}

/// A request for a lease whose number the server chooses.
pub fn message(ttl: i64) -> Bytes {
    framed(&LeaseGrantRequest { ttl, id: 0 })
}

struct Grants {
    message: Bytes,
}

impl Source for Grants {
    fn next(&mut self, _client: usize, _intended: Instant) -> Option<Request> {
        Some(Request { method: Method::LeaseGrant, message: self.message.clone() })
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, _client: usize) -> Then {
        Then::Done(Done { class: 0, keys: 0 })
    }
}
