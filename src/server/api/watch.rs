//! The Watch service: the requests of a stream's client, handed to the session core's hub.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::decode::decode_streamed;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::server::grpc::{Code, Incoming, Outgoing, Status};
use crate::server::io::{clock, task};
use crate::server::session::Session;
use crate::stdx::time::Duration;
use crate::watch::StreamId;

/// How long one stream's requests may keep other tasks of the core waiting.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);

enum Event {
    Message(Bytes),
    HalfClosed,
    Room(usize),
    Over(Status),
}

/// Serves one watch stream until its client goes. A half-close does not end it: etcd's JSON gateway half-closes a
/// stream behind its one request, and waits for events.
pub fn serve(session: &Rc<Session>, mut incoming: Incoming, outgoing: Outgoing) {
    let session = session.clone();
    let stream = session.watches.open(outgoing);
    session.arm_timers();
    task::spawn(async move {
        let mut half_closed = false;
        let mut turn_began = None;
        let status = loop {
            let now = clock::now();
            if now.since(*turn_began.get_or_insert(now)) > TURN_TIME_MAX {
                task::yield_now().await;
                turn_began = None;
            }
            let mut poll_event = |cx: &mut Context<'_>| {
                match stream.poll_outgoing(cx) {
                    Poll::Ready(Err(status)) => return Poll::Ready(Event::Over(status)),
                    Poll::Ready(Ok(room)) => return Poll::Ready(Event::Room(room)),
                    Poll::Pending => {}
                }
                // A stream without room is not read: what it asks for would pile up.
                if half_closed || stream.is_blocked() || stream.is_held(&session.watches) {
                    return Poll::Pending;
                }
                incoming.poll_next(cx).map(|message| match message {
                    Some(Ok(message)) => Event::Message(message),
                    Some(Err(status)) => Event::Over(status),
                    None => Event::HalfClosed,
                })
            };
            let event = poll_fn(|cx| {
                let event = poll_event(cx);
                if event.is_pending() {
                    // The others have their turn.
                    turn_began = None;
                }
                event
            });
            match event.await {
                Event::Message(message) => match decode_streamed(message) {
                    Ok(request) => on_request(&session, stream.id(), &request),
                    Err(status) => break status,
                },
                Event::HalfClosed => half_closed = true,
                Event::Room(room) => {
                    stream.unblock();
                    session.watches.with_hub(|hub| hub.on_window(stream.id(), room));
                }
                Event::Over(status) => break status,
            }
            if session.watches.pump() {
                session.wake_loop();
            }
        };
        // etcd's words for a client that takes its stream back.
        let status = if status.code == Code::Canceled {
            Status::new(Code::Canceled, "etcdserver: watch canceled")
        } else {
            status
        };
        session.watches.close(&stream, status);
    });
}

fn on_request(session: &Rc<Session>, id: StreamId, request: &WatchRequest) {
    let term = session.gate().term();
    session.watches.with_hub(|hub| {
        hub.set_term(term);
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                session.view(|view| hub.create(clock::now(), id, create, view));
            }
            Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(id, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => session.view(|view| hub.progress(id, view)),
            // A kind of request that a newer client knows.
            None => {}
        }
    });
}
