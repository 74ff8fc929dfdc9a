//! `grpc.health.v1`: load balancers and etcd's own robustness tests ask it.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use futures::future::{Either, poll_fn, select};
use prost::Message;

use super::answer::{Answer, Outcome};
use super::decode::{decode, decode_streamed};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::server::grpc::{Code, Incoming, Outgoing, Status};
use crate::server::io::task;
use crate::server::session::Session;

/// The one service that has a status: the whole server.
const WHOLE: &str = "";

fn answer(status: ServingStatus) -> Bytes {
    HealthCheckResponse { status: status as i32 }.encode_to_vec().into()
}

/// `Health/Check`. Whoever is answered is served.
pub fn check(message: Bytes) -> Outcome {
    let request = decode::<HealthCheckRequest>(message)?;
    if request.service != WHOLE {
        return Err(Status::new(Code::NotFound, "unknown service"));
    }
    Ok(Answer::Now(answer(ServingStatus::Serving)))
}

/// `Health/List`: the one service.
pub fn list(message: Bytes) -> Outcome {
    // The request has no fields.
    decode::<()>(message)?;
    Ok(Answer::Now(statuses()))
}

/// A HealthListResponse: a map (field 1) of names (1) to answers (2). The name is written although it is empty, as
/// Go writes the keys of maps.
fn statuses() -> Bytes {
    const MAP_OR_NAME: u8 = 0x0a;
    const ANSWER: u8 = 0x12;
    let answer = answer(ServingStatus::Serving);
    let entry_len = u8::try_from(4 + answer.len()).expect("an answer is short");
    let mut message = vec![MAP_OR_NAME, entry_len, MAP_OR_NAME, 0, ANSWER, answer.len() as u8];
    message.extend_from_slice(&answer);
    message.into()
}

/// `Health/Watch`: the status now and whenever it changes, which it does when the member stops.
pub fn watch(session: &Rc<Session>, mut incoming: Incoming, mut outgoing: Outgoing) {
    let session = session.clone();
    task::spawn(async move {
        let known = match incoming.only().await.and_then(decode_streamed::<HealthCheckRequest>) {
            Ok(request) => request.service == WHOLE,
            Err(status) => return outgoing.finish(Err(status)),
        };
        let first = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        if let Err(status) = outgoing.send(answer(first)) {
            return outgoing.finish(Err(status));
        }
        let ended = {
            let gone = std::pin::pin!(poll_fn(|cx| outgoing.poll_gone(cx)));
            let closing = std::pin::pin!(session.streams.closed());
            match select(gone, closing).await {
                Either::Left((status, _)) => Some(status),
                Either::Right(_) => None,
            }
        };
        if let Some(status) = ended {
            return outgoing.finish(Err(status));
        }
        if known {
            // Gone or not, the stream ends.
            let _ = outgoing.send(answer(ServingStatus::NotServing));
        }
        outgoing.finish(Err(Status::stopped()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthListResponse {
        #[prost(btree_map = "string, message", tag = "1")]
        statuses: std::collections::BTreeMap<String, HealthCheckResponse>,
    }

    #[test]
    fn the_list_has_the_whole_server_and_nothing_else() {
        assert_eq!(statuses().as_ref(), [10, 6, 10, 0, 18, 2, 8, 1]);
        let read = HealthListResponse::decode(statuses()).unwrap();
        assert_eq!(read.statuses.len(), 1);
        assert_eq!(read.statuses[WHOLE].status(), ServingStatus::Serving);
    }
}
