//! The clients: what they ask, what they are told, and what they make of it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;

use super::check_watch::Watched;
use super::judge::judge;
use super::model::{Answer, Refusal};
use super::plant::Plant;
use super::workload::Ask;
use super::world::{Event, World};
use kevel::error::Error;
use kevel::proto::etcdserverpb::*;
use kevel::replica::port::{Input, LeaseCall};
use kevel::response::{self, Header, Response};
use kevel::stdx::time::{Duration, Instant};
use kevel::watch::StreamId;

/// Something that was asked and not answered yet.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub ask: Ask,
    pub id: u64,
    pub asked: Instant,
    /// The highest index acknowledged when it was asked.
    pub floor: u64,
    /// [`Client::visit`] of the client that asked.
    pub visit: u32,
}

/// One client with its connection to one session core.
pub struct Client {
    pub core: usize,
    /// How many clients have gone away before this one came in their place.
    pub visit: u32,
    /// Requests that wait for an answer.
    pub waiting: usize,
    /// Renewals that were given up, and may be done at any time.
    pub renewing: Vec<i64>,
    /// Ids of all requests it ever proposed.
    pub ids: Vec<u64>,
    /// The newest revision it saw.
    pub seen: i64,
    pub stream: Option<StreamId>,
    /// How often watches on it that see nothing are told how far they are.
    pub interval: Duration,
    /// When events were sent to a watch last.
    pub events_sent: BTreeMap<i64, Instant>,
    /// Responses on their way, and their length.
    pub transit: VecDeque<(WatchResponse, usize)>,
    /// Watches by id on the stream.
    pub watches: BTreeMap<i64, Watched>,
    /// Watches that were asked for, in order, with the revision that was acknowledged then.
    pub creating: VecDeque<(WatchCreateRequest, i64)>,
    /// Watches that a crash has interrupted.
    pub interrupted: Vec<Watched>,
    /// A manual progress request was answered.
    pub progressed: i64,
    /// The store's revisions when the client asked how far the stream is, above those that it was told.
    pub progress_known: VecDeque<i64>,
}

impl Client {
    /// A client of a session core.
    pub fn new(core: usize) -> Self {
        Self {
            core,
            visit: 0,
            waiting: 0,
            renewing: vec![],
            ids: vec![],
            seen: 1,
            stream: None,
            interval: Duration::ZERO,
            events_sent: BTreeMap::new(),
            transit: VecDeque::new(),
            watches: BTreeMap::new(),
            creating: VecDeque::new(),
            interrupted: vec![],
            progressed: 0,
            progress_known: VecDeque::new(),
        }
    }

    /// Whether it proposed this.
    pub fn asked(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Whether this is its watch stream.
    pub fn is_at(&self, core: usize, stream: StreamId) -> bool {
        self.core == core && self.stream == Some(stream)
    }

    /// A response is on its way to it. True if it is the only one.
    pub fn receive(&mut self, response: WatchResponse, len: usize) -> bool {
        self.transit.push_back((response, len));
        self.transit.len() == 1
    }

    /// Watches that it still waits for.
    pub fn creating(&self) -> impl Iterator<Item = String> {
        self.creating.iter().map(|(request, _)| format!("{request:?}"))
    }

    pub fn is_settled(&self) -> bool {
        self.waiting == 0 && self.creating.is_empty() && self.transit.is_empty()
    }

    /// The process at the other end is gone. What was asked may have happened or not; watches go on later.
    pub fn disconnect(&mut self) {
        self.waiting = 0;
        self.renewing.clear();
        self.lose_stream();
    }

    /// It goes away, and another comes in its place.
    pub fn leave(&mut self) {
        self.visit += 1;
        self.waiting = 0;
        self.lose_stream();
        self.interrupted.clear();
    }

    /// Its watch stream is gone.
    pub fn lose_stream(&mut self) {
        self.creating.clear();
        self.transit.clear();
        self.stream = None;
        self.progress_known.clear();
        self.events_sent.clear();
        self.interrupted.extend(std::mem::take(&mut self.watches).into_values().filter(|w| !w.compacted));
    }
}

impl World {
    /// A client makes its next request, and later another one.
    pub fn act(&mut self, number: usize) {
        let pause = self.some(self.params.pause);
        if self.requests_left == 0 {
            self.reconnect(number);
            return;
        }
        self.schedule(pause, Event::Client(number));
        self.may_leave(number);
        if self.clients[number].waiting > 3 {
            return;
        }
        self.reconnect(number);
        self.requests_left -= 1;
        self.tally.requests += 1;
        let ask = self.workload.next(self.clients[number].seen);
        self.trace.step(self.now, &[20, number as u64], format_args!("client {number} asks {ask}"));
        self.ask(number, ask);
    }

    /// Opens a watch stream and goes on with what a crash interrupted.
    pub fn reconnect(&mut self, number: usize) {
        if self.clients[number].stream.is_none() {
            let interval = Duration::from_millis(100 + self.prng.below(200));
            let (now, window, core) = (self.now, self.params.window, self.clients[number].core);
            let core_state = &mut self.member().cores[core];
            let stream = core_state.watches.hub().open(now, interval, window);
            core_state.outlets.open(stream, window);
            self.clients[number].stream = Some(stream);
            self.clients[number].interval = interval;
        }
        for watched in std::mem::take(&mut self.clients[number].interrupted) {
            self.create_watch(number, watched.resume());
        }
    }

    pub fn ask(&mut self, number: usize, ask: Ask) {
        let floor = self.judge.acknowledged;
        let needs_round = !(self.member().gate.is_open() || self.plant == Some(Plant::StaleRead));
        match &ask {
            Ask::Range(request) if request.serializable && !self.is_watched && self.prng.chance(1, 8) => {
                self.read_beside(number, request);
            }
            _ if ask.is_serializable() => self.read(number, &ask, 0),
            _ if ask.is_read() && !needs_round => self.read(number, &ask, floor),
            Ask::Watch(request) => self.create_watch(number, (**request).clone()),
            Ask::CancelWatch => self.cancel_watch(number),
            Ask::Progress => self.ask_progress(number),
            _ => self.ask_replica(number, ask, floor),
        }
    }

    /// What only the replica can answer.
    fn ask_replica(&mut self, number: usize, ask: Ask, floor: u64) {
        let (now, core) = (self.now, self.clients[number].core);
        let id = if matches!(ask, Ask::Write(_)) { self.member().next_id() } else { 0 };
        let visit = self.clients[number].visit;
        let waiting = Waiting { ask: ask.clone(), id, asked: now, floor, visit };
        let ticket = self.member().cores[core].tickets.issue(now, (number, waiting));
        if self.plant == Some(Plant::TicketReused) {
            self.member().cores[core].issued.push(ticket);
        }
        self.clients[number].waiting += 1;
        let input = match ask {
            Ask::Write(entry) => {
                self.clients[number].ids.push(id);
                let header = Some(RequestHeader { id, ..RequestHeader::default() });
                let entry = InternalRaftRequest { header, ..*entry };
                Input::Propose { ticket, id, entry: entry.encode_to_vec().into() }
            }
            Ask::KeepAlive(lease) => {
                self.leases.on_renewing(lease);
                Input::Lease { ticket, call: LeaseCall::KeepAlive { id: lease } }
            }
            Ask::TimeToLive(lease) => Input::Lease { ticket, call: LeaseCall::TimeToLive { id: lease } },
            _ => Input::ReadIndex { ticket },
        };
        self.submit(core, ticket, input);
    }

    /// Nobody waits in vain for what was done long ago.
    pub fn check_timeout(&self, waiting: &Waiting) {
        // A physical compaction is answered when the sweep is done.
        let physical = |entry: &InternalRaftRequest| entry.compaction.as_ref().is_some_and(|c| c.physical);
        if matches!(&waiting.ask, Ask::Write(entry) if physical(entry)) {
            return;
        }
        let most = self.params.lane_time * 20 + Duration::from_millis(100);
        if let Some(applied) = self.judge.applied_at(waiting.id) {
            let late = self.now.since(applied + most);
            judge!(late.is_zero(), "{} is done, and nobody was told for {late:?}", waiting.ask);
        }
    }

    /// Nothing came of a request in time, or it was refused.
    pub fn give_up(&mut self, number: usize, waiting: &Waiting, error: Error) {
        self.tally.given_up += 1;
        if let (Ask::KeepAlive(lease), Error::Timeout) = (&waiting.ask, error) {
            // The renewal may still be done, at any time.
            self.clients[number].renewing.push(*lease);
        }
        if !waiting.ask.is_read() {
            self.check_reply(number, waiting, Err(error));
        }
    }

    /// Compares a reply with the one expected answer.
    pub fn check_reply(&mut self, number: usize, waiting: &Waiting, result: Result<Response, Error>) {
        self.tally.replies += 1;
        if matches!(waiting.ask, Ask::KeepAlive(_) | Ask::TimeToLive(_)) {
            return self.check_lease(waiting, result);
        }
        if let Err(error) = &result
            && matches!(error, Error::Timeout | Error::TooManyRequests)
        {
            // Nobody knows what became of it.
            return;
        }
        let now = self.now;
        if let (Ask::Write(entry), Ok(_)) = (&waiting.ask, &result)
            && let Some(compaction) = entry.compaction.as_ref().filter(|compaction| compaction.physical)
        {
            let swept = self.member().replica.applied().swept_revision;
            judge!(swept >= compaction.revision, "{compaction:?} is answered, and {swept} is swept");
        }
        let expected = self.judge.on_reply(waiting.id, waiting.floor).clone();
        if let (Ok(Answer::LeaseGrant(grant)), Ok(_)) = (&expected, &result) {
            let renewing = self.is_renewing(grant.id);
            self.leases.on_grant_seen(now, grant.id, waiting.id, renewing);
        }
        let shown = result.map(|response| decode(&expected, &response)).map_err(Error::message);
        let seen = match &shown {
            Ok(Some((_, revision))) => *revision,
            _ => 0,
        };
        let shown = shown.map(|shown| shown.map(|(answer, _)| answer));
        judge!(
            shown == expected.clone().map(Some),
            "{} is answered with {shown:?}, not {expected:?}",
            waiting.ask
        );
        self.saw(number, seen);
    }

    pub fn saw(&mut self, number: usize, revision: i64) {
        let client = &mut self.clients[number];
        client.seen = client.seen.max(revision);
    }

    fn is_renewing(&self, lease: i64) -> bool {
        let given_up = self.clients.iter().any(|client| client.renewing.contains(&lease));
        let cores = self.member.iter().flat_map(|member| &member.cores);
        let mut waiting = cores.flat_map(|core| core.tickets.iter());
        given_up || waiting.any(|(_, waiting)| matches!(waiting.ask, Ask::KeepAlive(id) if id == lease))
    }

    fn check_lease(&mut self, waiting: &Waiting, result: Result<Response, Error>) {
        let (now, asked) = (self.now, waiting.asked);
        match (&waiting.ask, result) {
            (Ask::KeepAlive(id), Ok(Response::LeaseKeepAlive { ttl, .. })) if ttl > 0 => {
                let renewing = self.is_renewing(*id);
                self.leases.on_renewed(asked, now, (*id, ttl), renewing, &self.judge);
            }
            (Ask::KeepAlive(id), Ok(Response::LeaseKeepAlive { .. }) | Err(_)) => {
                let renewing = self.is_renewing(*id);
                self.leases.on_not_renewed(now, *id, renewing);
            }
            (Ask::TimeToLive(id), Ok(Response::LeaseTimeToLive { ttl, granted_ttl, .. })) => {
                if ttl >= 0 {
                    self.leases.on_time_to_live(asked, now, *id, granted_ttl, ttl);
                }
            }
            (Ask::TimeToLive(_), Err(_)) => {}
            (ask, result) => judge!(false, "{ask:?} is answered with {result:?}"),
        }
    }
}

/// A reply as the message that a client gets, headers reduced to the revision.
fn decode(expected: &Result<Answer, Refusal>, response: &Response) -> Option<(Answer, i64)> {
    let bytes = response::encode(response, &Header::default());
    let answer = match expected.as_ref().ok()? {
        Answer::Put(_) => Answer::Put(PutResponse::decode(bytes).ok()?),
        Answer::DeleteRange(_) => Answer::DeleteRange(DeleteRangeResponse::decode(bytes).ok()?),
        Answer::Txn(_) => Answer::Txn(TxnResponse::decode(bytes).ok()?),
        Answer::Compaction(_) => Answer::Compaction(CompactionResponse::decode(bytes).ok()?),
        Answer::LeaseGrant(_) => Answer::LeaseGrant(LeaseGrantResponse::decode(bytes).ok()?),
        Answer::LeaseRevoke(_) => Answer::LeaseRevoke(LeaseRevokeResponse::decode(bytes).ok()?),
        Answer::LeaseCheckpoint(_) => Answer::LeaseCheckpoint(LeaseCheckpointResponse::decode(bytes).ok()?),
        Answer::Alarm(_) => Answer::Alarm(AlarmResponse::decode(bytes).ok()?),
        Answer::Nothing => return None,
    };
    Some((answer, response.revision()))
}
