//! Which endpoint leads.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kevel::proto::etcdserverpb::{StatusRequest, StatusResponse};
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;
use prost::Message;

use crate::calls::framed;
use crate::loader::{Done, Loader, Request, Source, Then};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Phase, World};
use crate::run::Bounds;
use crate::target::Target;

/// Asks each endpoint for its status.
///
/// # Errors
/// When an endpoint cannot be asked, or none leads.
pub fn find(world: &World) -> Result<Target, String> {
    for target in &world.targets {
        let answer: Arc<Mutex<Option<StatusResponse>>> = Arc::default();
        let source = Ask { answer: answer.clone() };
        let job = Job::driver(1, move |record, run| {
            Loader::new(source, Pace::new(Load::Closed, 0, 1, 0), 1, run, record)
        });
        let bounds = Bounds { total: Some(1), ..Bounds::default() };
        let phase = Phase { name: "status".into(), classes: vec!["status"], jobs: vec![job], bounds };
        world.with_targets(vec![target.clone()]).run(phase)?;
        let status = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(StatusResponse { header: Some(header), leader, .. }) = status
            && leader == header.member_id
        {
            return Ok(target.clone());
        }
    }
    Err("none of the endpoints leads".to_owned())
}

struct Ask {
    answer: Arc<Mutex<Option<StatusResponse>>>,
}

impl Source for Ask {
    fn next(&mut self, _client: usize, _intended: Instant) -> Option<Request> {
        Some(Request { method: Method::Status, message: framed(&StatusRequest {}) })
    }

    fn on_message(&mut self, _client: usize, message: &Bytes) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) =
            StatusResponse::decode(message.clone()).ok();
    }

    fn on_success(&mut self, _client: usize) -> Then {
        Then::Done(Done::default())
    }
}
