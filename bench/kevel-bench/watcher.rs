//! Watch streams of one connection: how late each event is.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kevel::proto::etcdserverpb::watch_request::RequestUnion;
use kevel::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kevel::server::grpc::{Code, Method, Status};
use kevel::stdx::time::{Duration, Instant};

use crate::calls::{Calls, Handler, Next, framed};
use crate::fields::{Fields, Value, header_revision};
use crate::record::{self, Shared};
use crate::run::Run;
use crate::template::Nonce;

/// A turn comes at least this often, to see that the phase is over.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// Fields of a WatchResponse, of an Event and of a KeyValue.
const CREATED: u64 = 3;
const CANCELED: u64 = 4;
const CANCEL_REASON: u64 = 6;
const EVENTS: u64 = 11;
pub const EVENT_KV: u64 = 2;
const KV_VALUE: u64 = 5;

/// What a connection watches: per stream, the watchers on it.
pub type Streams = Vec<Vec<WatchCreateRequest>>;

/// From an encoded event, when what it tells was meant to happen; None when the event is not of this run.
pub type Reading = Box<dyn Fn(&[u8]) -> Option<Instant>>;

/// Reads the stamp in the event's value.
pub fn stamps(nonce: Nonce) -> Reading {
    Box::new(move |event| nonce.read(Fields(Fields(event).bytes(EVENT_KV)).bytes(KV_VALUE)))
}

/// The handler. It listens until the drivers are done and what they caused has come.
pub struct Watcher {
    streams: Streams,
    class: usize,
    reading: Reading,
    run: Arc<Run>,
    record: Shared,
    created: usize,
    wanted: usize,
    /// The newest revision seen: a stream that begins anew begins behind it.
    revision: i64,
    /// Streams that ended and must be opened again.
    ended: Vec<usize>,
    /// Of this turn: the record is locked once per turn.
    delays: Vec<(Instant, u64)>,
    failures: Vec<Status>,
    events: u64,
}

impl Watcher {
    /// Watches `streams`; events count for `class`.
    pub fn new(streams: Streams, class: usize, reading: Reading, run: Arc<Run>, record: Shared) -> Self {
        let wanted = streams.iter().map(Vec::len).sum();
        Self {
            streams,
            class,
            reading,
            run,
            record,
            created: 0,
            wanted,
            revision: 0,
            ended: Vec::new(),
            delays: Vec::new(),
            failures: Vec::new(),
            events: 0,
        }
    }

    fn open(&mut self, stream: usize, calls: &mut Calls) {
        let mut messages = BytesMut::new();
        for create in &self.streams[stream] {
            let mut create = create.clone();
            if self.revision > 0 {
                create.start_revision = self.revision + 1;
            }
            messages.extend_from_slice(&framed(&WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            }));
        }
        if let Some(call) = calls.open(Method::Watch, stream as u64) {
            calls.write(call, messages.freeze());
        }
    }

    fn on_response(&mut self, response: &[u8]) {
        let (mut created, mut canceled) = (false, false);
        for (number, value) in Fields(response) {
            match (number, value) {
                (EVENTS, Value::Bytes(event)) => {
                    self.events += 1;
                    if let Some(intended) = (self.reading)(event) {
                        self.delays.push((intended, event.len() as u64));
                    }
                }
                (CREATED, Value::Varint(1)) => created = true,
                (CANCELED, Value::Varint(1)) => canceled = true,
                _ => {}
            }
        }
        if canceled {
            let reason = String::from_utf8_lossy(Fields(response).bytes(CANCEL_REASON)).into_owned();
            self.failures.push(Status::new(Code::Canceled, format!("watch canceled: {reason}")));
        } else if created {
            self.created += 1;
        }
        self.revision = self.revision.max(header_revision(response));
    }

    fn settle(&mut self, now: Instant) {
        if self.events > 0 {
            self.run.deliver_events(std::mem::take(&mut self.events));
        }
        if self.delays.is_empty() && self.failures.is_empty() {
            return;
        }
        let counted_from = self.run.counted_from();
        let mut record = record::lock(&self.record);
        for (intended, bytes) in self.delays.drain(..) {
            if counted_from.is_some_and(|from| intended >= from) {
                record.success(self.class, now.since(intended), 1, bytes);
                record.touch(now);
            }
        }
        self.failures.drain(..).for_each(|status| record.failure(&status));
    }
}

impl Handler for Watcher {
    fn on_connect(&mut self, _now: Instant, calls: &mut Calls) {
        self.created = 0;
        self.ended.clear();
        (0..self.streams.len()).for_each(|stream| self.open(stream, calls));
    }

    fn on_message(&mut self, now: Instant, _tag: u64, message: &Bytes, _calls: &mut Calls) {
        self.on_response(message);
        // A burst is written down before it grows beyond what a cache holds.
        if self.delays.len() >= 4096 {
            self.settle(now);
        }
    }

    fn on_end(&mut self, _now: Instant, tag: u64, result: Result<(), Status>, _calls: &mut Calls) {
        self.failures
            .push(result.err().unwrap_or_else(|| Status::new(Code::Unavailable, "the watch stream ended")));
        self.ended.push(tag as usize);
    }

    fn on_turn(&mut self, now: Instant, calls: &mut Calls) -> Next {
        self.settle(now);
        if self.run.is_heard(now) {
            return Next::Done;
        }
        while let Some(stream) = self.ended.pop() {
            self.open(stream, calls);
        }
        Next::At(now + LOOK_AFTER)
    }

    fn on_lost(&mut self, now: Instant) -> Next {
        self.settle(now);
        if self.run.is_heard(now) { Next::Done } else { Next::At(now) }
    }

    fn is_ready(&self) -> bool {
        self.created >= self.wanted
    }
}
