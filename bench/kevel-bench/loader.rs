//! Drives unary calls and streams of answers over one connection: clients that are free, the pace, the bounds.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use kevel::server::grpc::{Code, Method, Status};
use kevel::stdx::time::{Duration, Instant};

use crate::calls::{Calls, Handler, Next};
use crate::pace::{Due, Pace};
use crate::record::{self, Shared};
use crate::run::{GRACE, Run};

/// A turn comes at least this often, to see that the phase is over.
const LOOK_AFTER: Duration = Duration::from_millis(50);
/// How often a handler looks for the start.
const START_LOOK_AFTER: Duration = Duration::from_millis(1);

/// A framed message and its method.
pub struct Request {
    pub method: Method,
    pub message: Bytes,
}

/// What an operation counts for once it succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The number of its class.
    pub class: usize,
    /// Keys in its answers.
    pub keys: u64,
}

/// What follows an answer.
pub enum Then {
    /// The operation is complete.
    Done(Done),
    /// It goes on with another request, such as the next page.
    Request(Request),
}

/// Makes the operations of one connection's clients. A client has at most one at a time.
pub trait Source {
    /// The first request of `client`'s next operation, meant to begin at `intended`. None when nothing is left.
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request>;
    /// A message came in answer to its request.
    fn on_message(&mut self, client: usize, message: &Bytes);
    /// Its request succeeded: all messages have come.
    fn on_success(&mut self, client: usize) -> Then;
    /// Its request failed, and with it the operation.
    fn on_failure(&mut self, _client: usize) {}
}

#[derive(Clone, Copy)]
struct Client {
    intended: Instant,
    bytes: u64,
    is_busy: bool,
}

/// How an operation ended: what it counts for and the bytes of its answers.
type Ended = Result<(Done, u64), Status>;

/// The handler.
pub struct Loader<S> {
    source: S,
    pace: Pace,
    run: Arc<Run>,
    record: Shared,
    clients: Vec<Client>,
    free: Vec<usize>,
    /// What ended in this turn: the record is locked once per turn.
    ended: Vec<(Instant, Ended)>,
    lags: Vec<Duration>,
    is_empty: bool,
    is_done: bool,
    over_since: Option<Instant>,
}

impl<S: Source> Loader<S> {
    /// A loader with `clients` clients.
    pub fn new(source: S, pace: Pace, clients: usize, run: Arc<Run>, record: Shared) -> Self {
        let idle = Client { intended: Instant::default(), bytes: 0, is_busy: false };
        Self {
            source,
            pace,
            run,
            record,
            clients: vec![idle; clients],
            free: (0..clients).rev().collect(),
            ended: Vec::new(),
            lags: Vec::new(),
            is_empty: false,
            is_done: false,
            over_since: None,
        }
    }

    fn begin(&mut self, start: Instant, now: Instant, calls: &mut Calls) -> Next {
        let look = now + LOOK_AFTER;
        while !self.is_empty && !self.free.is_empty() && calls.has_room() {
            let intended = match self.pace.due(start, now) {
                Due::At(at) => return Next::At(at.min(look)),
                Due::Since(intended) => intended,
            };
            if !self.run.take() {
                self.is_empty = true;
                break;
            }
            let client = self.free.pop().expect("not empty");
            let Some(request) = self.source.next(client, intended) else {
                self.free.push(client);
                self.is_empty = true;
                break;
            };
            self.pace.advance();
            if self.pace.is_open() {
                self.lags.push(now.since(intended));
            }
            self.clients[client] = Client { intended, bytes: 0, is_busy: true };
            calls.unary(request.method, request.message, client as u64);
        }
        Next::At(look)
    }

    fn end(&mut self, client: usize, result: Result<Done, Status>) {
        let state = &mut self.clients[client];
        state.is_busy = false;
        self.free.push(client);
        self.ended.push((state.intended, result.map(|done| (done, state.bytes))));
    }

    /// Writes down what ended in this turn.
    fn settle(&mut self, now: Instant) {
        if self.ended.is_empty() && self.lags.is_empty() {
            return;
        }
        let Some(counted_from) = self.run.counted_from() else { return };
        let mut record = record::lock(&self.record);
        for (intended, result) in self.ended.drain(..) {
            if intended < counted_from {
                continue;
            }
            match result {
                Ok((done, bytes)) => record.success(done.class, now.since(intended), done.keys, bytes),
                Err(status) => record.failure(&status),
            }
            record.touch(now);
        }
        for lag in self.lags.drain(..) {
            record.lag.saturating_record(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Nothing more begins. Waits for what is in flight, within reason.
    fn wind_up(&mut self, now: Instant) -> Next {
        let since = *self.over_since.get_or_insert(now);
        if self.free.len() < self.clients.len() && now < since + GRACE {
            return Next::At(now + LOOK_AFTER);
        }
        let hung: Vec<usize> =
            (0..self.clients.len()).filter(|&client| self.clients[client].is_busy).collect();
        for client in hung {
            self.end(client, Err(Status::new(Code::DeadlineExceeded, "no answer within 10 s of the end")));
        }
        self.settle(now);
        if !self.is_done {
            self.is_done = true;
            // A source that ran out had no more to send, whatever the pace planned.
            let unsent = if self.is_empty { 0 } else { self.run.unsent(&self.pace) };
            record::lock(&self.record).unsent += unsent;
            self.run.driver_done(now);
        }
        Next::Done
    }
}

impl<S: Source> Handler for Loader<S> {
    fn on_connect(&mut self, _now: Instant, _calls: &mut Calls) {}

    fn on_message(&mut self, _now: Instant, tag: u64, message: &Bytes, _calls: &mut Calls) {
        let client = tag as usize;
        self.clients[client].bytes += message.len() as u64;
        self.source.on_message(client, message);
    }

    fn on_end(&mut self, now: Instant, tag: u64, result: Result<(), Status>, calls: &mut Calls) {
        let client = tag as usize;
        if !self.clients[client].is_busy {
            return; // given up already
        }
        let result = match result {
            Ok(()) => match self.source.on_success(client) {
                Then::Done(done) => Ok(done),
                Then::Request(request) if self.over_since.is_none_or(|since| now < since + GRACE) => {
                    return calls.unary(request.method, request.message, tag);
                }
                Then::Request(_) => Err(Status::new(Code::Canceled, "the run was over")),
            },
            Err(status) => {
                self.source.on_failure(client);
                Err(status)
            }
        };
        self.end(client, result);
    }

    fn on_turn(&mut self, now: Instant, calls: &mut Calls) -> Next {
        let Some(start) = self.run.start() else { return Next::At(now + START_LOOK_AFTER) };
        self.settle(now);
        if self.is_empty || self.run.is_over(now) {
            // What was due before the end begins, though this turn comes a moment after it.
            if let Some(deadline) =
                self.run.deadline().filter(|_| self.pace.is_open() && !self.run.is_stopped())
            {
                let before = Instant::from_nanos(deadline.as_nanos() - 1);
                self.begin(start, before.min(now), calls);
            }
            return self.wind_up(now);
        }
        let next = self.begin(start, now, calls);
        if self.is_empty { self.wind_up(now) } else { next }
    }

    fn on_lost(&mut self, now: Instant) -> Next {
        if self.is_empty || self.run.is_over(now) { self.wind_up(now) } else { Next::At(now) }
    }
}
