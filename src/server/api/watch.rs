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
use crate::server::session::watches::Stream;
use crate::stdx::time::{Duration, Instant};
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
pub fn serve(session: &Rc<Session>, requires_leader: bool, incoming: Incoming, outgoing: Outgoing) {
    let stream = session.watches.open(outgoing, requires_leader);
    session.arm_timers();
    let session = session.clone();
    task::spawn(Serving { session, stream, incoming, is_half_closed: false, turn_began: None }.run());
}

/// A stream that is served.
struct Serving {
    session: Rc<Session>,
    stream: Rc<Stream>,
    incoming: Incoming,
    is_half_closed: bool,
    /// When other tasks of the core last had their turn, as far as this one looked at the clock since.
    turn_began: Option<Instant>,
}

impl Serving {
    async fn run(mut self) {
        let status = loop {
            self.give_way().await;
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Message(message) => match decode_streamed(message) {
                    Ok(request) => on_request(&self.session, self.stream.id(), &request),
                    Err(status) => break status,
                },
                Event::HalfClosed => self.is_half_closed = true,
                Event::Room(room) => {
                    self.stream.unblock();
                    self.session.watches.with_hub(|hub| hub.on_window(self.stream.id(), room));
                }
                Event::Over(status) => break status,
            }
            if self.session.watches.pump() {
                self.session.wake_loop();
            }
        };
        self.session.watches.close(&self.stream, in_etcds_words(status));
    }

    /// Lets other tasks of the core go on when this one has kept them waiting long enough.
    async fn give_way(&mut self) {
        let now = clock::now();
        if now.since(*self.turn_began.get_or_insert(now)) > TURN_TIME_MAX {
            task::yield_now().await;
            self.turn_began = None;
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = match self.stream.poll_outgoing(cx) {
            Poll::Ready(Err(status)) => Poll::Ready(Event::Over(status)),
            Poll::Ready(Ok(room)) => Poll::Ready(Event::Room(room)),
            Poll::Pending => self.poll_incoming(cx),
        };
        if event.is_pending() {
            // The others have their turn.
            self.turn_began = None;
        }
        event
    }

    /// A stream without room is not read: what it asks for would pile up.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.is_half_closed || self.stream.is_blocked() || self.stream.is_held(&self.session.watches) {
            return Poll::Pending;
        }
        self.incoming.poll_next(cx).map(|message| match message {
            Some(Ok(message)) => Event::Message(message),
            Some(Err(status)) => Event::Over(status),
            None => Event::HalfClosed,
        })
    }
}

/// What etcd says to a client that takes its stream back.
fn in_etcds_words(status: Status) -> Status {
    match status.code {
        Code::Canceled => Status::new(Code::Canceled, "etcdserver: watch canceled"),
        _ => status,
    }
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
