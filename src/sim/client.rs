//! The clients: what they ask, what they are told, and what they make of it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;

use super::check_watch::Watched;
use super::judge::judge;
use super::member::Message;
use super::model::{Answer, Refusal};
use super::plant::Plant;
use super::workload::Ask;
use super::world::{Event, World};
use kevel::btree::Read;
use kevel::error::Error;
use kevel::mvcc::hash::HashKv;
use kevel::mvcc::{View, range};
use kevel::proto::etcdserverpb::*;
use kevel::replica::port::{Input, LeaseCall, Output, Ticket};
use kevel::request::{self, Header, Response};
use kevel::stdx::time::{Duration, Instant};
use kevel::watch::{Budget, StreamId};

/// Something that was asked and not answered yet.
#[derive(Debug)]
struct Waiting {
    ask: Ask,
    id: u64,
    asked: Instant,
    /// The highest index acknowledged when it was asked.
    floor: u64,
}

/// One client with its connection to one session core.
pub struct Client {
    core: usize,
    waiting: BTreeMap<u64, Waiting>,
    /// Ids of all requests it ever proposed.
    ids: Vec<u64>,
    /// The newest revision it saw.
    seen: i64,
    stream: Option<StreamId>,
    /// Responses on their way, and their length.
    transit: VecDeque<(WatchResponse, usize)>,
    transit_bytes: usize,
    /// Watches by id on the stream.
    watches: BTreeMap<i64, Watched>,
    /// Watches that were asked for, in order, with the revision that was acknowledged then.
    creating: VecDeque<(WatchCreateRequest, i64)>,
    /// Watches that a crash has interrupted.
    interrupted: Vec<Watched>,
    /// A manual progress request was answered.
    progressed: i64,
}

impl Client {
    /// A client of a session core.
    pub fn new(core: usize) -> Self {
        Self {
            core,
            waiting: BTreeMap::new(),
            ids: vec![],
            seen: 1,
            stream: None,
            transit: VecDeque::new(),
            transit_bytes: 0,
            watches: BTreeMap::new(),
            creating: VecDeque::new(),
            interrupted: vec![],
            progressed: 0,
        }
    }

    /// Whether it proposed this.
    pub fn asked(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// What it still waits for.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        let asks = self.waiting.values().map(|waiting| waiting.ask.to_string());
        asks.chain(self.creating.iter().map(|(request, _)| format!("{request:?}")))
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.creating.is_empty() && self.transit.is_empty()
    }

    /// The process at the other end is gone. What was asked may have happened or not; watches go on later.
    pub fn disconnect(&mut self) {
        self.waiting.clear();
        self.creating.clear();
        self.transit.clear();
        self.transit_bytes = 0;
        self.stream = None;
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
        if self.clients[number].waiting.len() > 3 {
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
    fn reconnect(&mut self, number: usize) {
        if self.clients[number].stream.is_none() {
            let interval = Duration::from_millis(100 + self.prng.below(200));
            let (now, window, core) = (self.now, self.params.window, self.clients[number].core);
            let stream = self.member().cores[core].hub.open(now, interval, window);
            self.clients[number].stream = Some(stream);
        }
        for watched in std::mem::take(&mut self.clients[number].interrupted) {
            self.create_watch(number, watched.resume());
        }
    }

    fn ask(&mut self, number: usize, ask: Ask) {
        let core = self.clients[number].core;
        let ticket = Ticket((core as u64) << 56 | self.member().next_ticket());
        let floor = self.judge.acknowledged;
        let mut id = 0;
        match &ask {
            Ask::Write(entry) => {
                id = self.member().next_id();
                self.clients[number].ids.push(id);
                let header = Some(RequestHeader { id, ..RequestHeader::default() });
                let entry = InternalRaftRequest { header, ..(**entry).clone() };
                self.send(Input::Propose { ticket, id, entry: entry.encode_to_vec().into() });
            }
            Ask::Range(read) if read.serializable => return self.read(number, &ask, 0),
            Ask::Range(_) | Ask::Hash
                if self.member().gate.is_open() || self.plant == Some(Plant::StaleRead) =>
            {
                return self.read(number, &ask, floor);
            }
            Ask::Range(_) | Ask::Hash => self.send(Input::ReadIndex { ticket }),
            Ask::KeepAlive(lease) => {
                self.leases.on_renewing(*lease);
                self.send(Input::Lease { ticket, call: LeaseCall::KeepAlive { id: *lease } });
            }
            Ask::TimeToLive(lease) => {
                let call = LeaseCall::TimeToLive { id: *lease, keys: true };
                self.send(Input::Lease { ticket, call });
            }
            Ask::Watch(request) => return self.create_watch(number, (**request).clone()),
            Ask::CancelWatch => return self.cancel_watch(number),
            Ask::Progress => return self.ask_progress(number),
        }
        let waiting = Waiting { ask, id, asked: self.now, floor };
        self.clients[number].waiting.insert(ticket.0, waiting);
    }

    /// A message has come to a session core.
    pub fn on_message(&mut self, core: usize, message: Message) {
        self.trace.step(self.now, &[21, core as u64], format_args!("core {core} <- {message:?}"));
        match message {
            Message::Publish(batch) => {
                let core_state = &mut self.member().cores[core];
                let snapshot = core_state.reader.snapshot();
                core_state.hub.on_publish(&batch, &View::new(&snapshot));
                drop(snapshot);
                core_state.hub.check_invariants();
                self.pump(core);
            }
            Message::Reply(ticket, result) => {
                if let Some((number, waiting)) = self.answered(ticket) {
                    self.check_reply(number, &waiting, *result);
                }
            }
            Message::ReadReady(ticket) => {
                if let Some((number, waiting)) = self.answered(ticket) {
                    self.read(number, &waiting.ask, waiting.floor);
                }
            }
        }
    }

    fn answered(&mut self, ticket: Ticket) -> Option<(usize, Waiting)> {
        let mut clients = self.clients.iter_mut().enumerate();
        clients.find_map(|(number, client)| Some((number, client.waiting.remove(&ticket.0)?)))
    }

    fn check_reply(&mut self, number: usize, waiting: &Waiting, result: Result<Response, Error>) {
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

    fn saw(&mut self, number: usize, revision: i64) {
        let client = &mut self.clients[number];
        client.seen = client.seen.max(revision);
    }

    /// Reads from the newest snapshot, which must show everything up to `floor`.
    fn read(&mut self, number: usize, ask: &Ask, floor: u64) {
        self.tally.reads += 1;
        let core = self.clients[number].core;
        let member = self.member.as_mut().expect("a member that runs");
        let snapshot = member.cores[core].reader.snapshot();
        let state = self.judge.on_snapshot(snapshot.applied(), floor);
        let view = View::new(&snapshot);
        match ask {
            Ask::Range(request) => {
                let shown = range::answer(&view, &Header::default(), request).map_err(Error::message);
                let expected = self.judge.model.range(request, state.revision, state.compacted);
                let shown = shown.map(|bytes| RangeResponse::decode(bytes).expect("an encoded response"));
                judge!(shown == expected, "{request:?} is answered with {shown:?}, not {expected:?}");
            }
            Ask::Hash => {
                let mut legs = HashKv::new(&view, 0).expect("the newest revision has a hash");
                let shown = loop {
                    if let Some(hash) = legs.step(&view, 64) {
                        break hash.hash;
                    }
                };
                let expected = self.judge.model.hash_kv(state.revision, state.compacted);
                judge!(
                    expected.is_none_or(|expected| expected == shown),
                    "the hash at {state:?} is {expected:x?}, not {shown:x}"
                );
            }
            _ => unreachable!("only these read the store"),
        }
        drop(snapshot);
        self.saw(number, state.revision);
    }

    fn is_renewing(&self, lease: i64) -> bool {
        let mut waiting = self.clients.iter().flat_map(|client| client.waiting.values());
        waiting.any(|waiting| matches!(waiting.ask, Ask::KeepAlive(id) if id == lease))
    }

    fn check_lease(&mut self, waiting: &Waiting, result: Result<Response, Error>) {
        let (now, asked) = (self.now, waiting.asked);
        match (&waiting.ask, result) {
            (Ask::KeepAlive(id), Ok(Response::LeaseKeepAlive { ttl, .. })) if ttl > 0 => {
                let renewing = self.is_renewing(*id);
                self.leases.on_renewed(asked, now, *id, ttl, renewing);
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

/// Watching.
impl World {
    fn create_watch(&mut self, number: usize, request: WatchCreateRequest) {
        let core = self.clients[number].core;
        let Some(stream) = self.clients[number].stream else { return };
        // Until the member leads, its state may be older, as in etcd.
        let leads = self.leads_since.is_some();
        let acknowledged = if leads { self.judge.state(self.judge.acknowledged).revision } else { 0 };
        self.clients[number].creating.push_back((request.clone(), acknowledged));
        let now = self.now;
        let core_state = &mut self.member().cores[core];
        let snapshot = core_state.reader.snapshot();
        core_state.hub.create(now, stream, &request, &View::new(&snapshot));
        drop(snapshot);
        self.pump(core);
    }

    fn cancel_watch(&mut self, number: usize) {
        let client = &self.clients[number];
        let count = client.watches.len() as u64;
        let Some(stream) = client.stream.filter(|_| count > 0) else { return };
        let which = self.prng.below(count) as usize;
        let (&watch_id, core) =
            (self.clients[number].watches.keys().nth(which).expect("counted"), self.clients[number].core);
        self.member().cores[core].hub.cancel(stream, watch_id);
        self.pump(core);
    }

    fn ask_progress(&mut self, number: usize) {
        let core = self.clients[number].core;
        let Some(stream) = self.clients[number].stream else { return };
        let core_state = &mut self.member().cores[core];
        let snapshot = core_state.reader.snapshot();
        core_state.hub.progress(stream, &View::new(&snapshot));
        drop(snapshot);
        self.pump(core);
    }

    /// Puts what the hub says on its way to the clients.
    pub fn pump(&mut self, core: usize) {
        while let Some(output) = self.member().cores[core].hub.poll_output() {
            let bytes = [&*output.head, &output.body].concat();
            self.trace.bytes(&bytes);
            let response = WatchResponse::decode(bytes.as_slice()).expect("an encoded response");
            let Some(number) = self
                .clients
                .iter()
                .position(|client| client.core == core && client.stream == Some(output.stream))
            else {
                continue;
            };
            if self.spoil_watch(number, &response) {
                continue;
            }
            let client = &mut self.clients[number];
            client.transit_bytes += bytes.len();
            client.transit.push_back((response, bytes.len()));
            if client.transit.len() == 1 {
                let time = self.some(self.params.lane_time + Duration::from_millis(1));
                self.schedule(time, Event::Take(number));
            }
        }
        let member = self.member();
        if member.cores[core].hub.needs_catch_up()
            && !std::mem::replace(&mut member.cores[core].catching_up, true)
        {
            let time = self.some(Duration::from_millis(2));
            self.schedule(time, Event::CatchUp(core));
        }
    }

    /// Planted bugs of the watch path. True if the response is lost.
    fn spoil_watch(&mut self, number: usize, response: &WatchResponse) -> bool {
        let has_events = !response.events.is_empty();
        match self.plant {
            Some(Plant::LostOnCatchUp) => {
                let last = response.events.last().and_then(|event| event.kv.as_ref());
                let behind = last.is_some_and(|kv| {
                    response.header.as_ref().is_some_and(|header| header.revision > kv.mod_revision)
                });
                behind && self.prng.chance(1, 4)
            }
            Some(Plant::DoubledEvent) if has_events && self.prng.chance(1, 8) => {
                let len = response.encoded_len();
                self.clients[number].transit.push_back((response.clone(), len));
                self.clients[number].transit_bytes += len;
                if self.clients[number].transit.len() == 1 {
                    self.schedule(Duration::ZERO, Event::Take(number));
                }
                false
            }
            _ => false,
        }
    }

    /// A session core reads a slice for those who are behind.
    pub fn catch_up(&mut self, core: usize) {
        let budget = Budget { revisions: 1 + self.prng.below(8) as usize, bytes: 4_000 };
        let core_state = &mut self.member().cores[core];
        core_state.catching_up = false;
        let snapshot = core_state.reader.snapshot();
        core_state.hub.catch_up(&View::new(&snapshot), budget);
        drop(snapshot);
        core_state.hub.check_invariants();
        self.pump(core);
    }

    /// The client takes the oldest response from its stream.
    pub fn take(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let progress_first = self.plant == Some(Plant::ProgressOvertakes);
        let first = client
            .transit
            .iter()
            .position(|(r, _)| progress_first && r.events.is_empty() && !r.created && !r.canceled);
        let Some((response, len)) = client.transit.remove(first.unwrap_or(0)) else { return };
        client.transit_bytes -= len;
        if !client.transit.is_empty() {
            let time = self.some(self.params.lane_time + Duration::from_millis(1));
            self.schedule(time, Event::Take(number));
        }
        let time = self.some(Duration::from_millis(20));
        self.schedule(time, Event::Window(number));
        self.on_watch_response(number, &response);
    }

    pub fn on_window(&mut self, number: usize) {
        let client = &self.clients[number];
        let (core, stream) = (client.core, client.stream);
        let settling = self.requests_left == 0;
        let capacity = if settling { self.params.window.max(1 << 16) } else { self.params.window };
        let room = capacity.saturating_sub(client.transit_bytes);
        if let Some(stream) = stream {
            self.member().cores[core].hub.on_window(stream, room);
            self.pump(core);
        }
    }

    fn on_watch_response(&mut self, number: usize, response: &WatchResponse) {
        let line = format_args!(
            "client {number} watch {} at {:?}: {} events{}{}",
            response.watch_id,
            response.header.as_ref().map(|h| h.revision),
            response.events.len(),
            if response.created { ", created" } else { "" },
            if response.canceled { ", canceled" } else { "" },
        );
        self.trace.step(self.now, &[22, number as u64], line);
        let client = &mut self.clients[number];
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            let (request, acknowledged) = client.creating.pop_front().expect("a watch is being created");
            if response.canceled {
                let empty = request.range_end.len() > 1 && request.range_end <= request.key
                    || request.range_end.len() == 1
                        && *request.range_end != [0]
                        && request.range_end <= request.key;
                judge!(empty, "{request:?} is refused: {}", response.cancel_reason);
                return;
            }
            judge!(revision >= acknowledged, "a watch begins at {revision}, after {acknowledged} was seen");
            judge!(revision <= self.judge.durable_revision(), "a watch begins at {revision}");
            let watched = Watched::new(request, revision);
            let twin = client.watches.insert(response.watch_id, watched);
            judge!(twin.is_none(), "two watches with id {}", response.watch_id);
        } else if response.watch_id == -1 {
            self.tally.progress += 1;
            client.progressed = client.progressed.max(revision);
            for watched in client.watches.values_mut() {
                judge!(!watched.compacted, "progress is promised while a watch is compacted");
                watched.on_response(&self.judge, response);
            }
        } else {
            let Some(watched) = client.watches.get_mut(&response.watch_id) else {
                panic!("judge: a response to watch {}, which does not exist", response.watch_id)
            };
            self.tally.events += watched.on_response(&self.judge, response) as u64;
            self.tally.progress += u64::from(response.events.is_empty() && !response.canceled);
            if response.canceled && response.compact_revision == 0 {
                client.watches.remove(&response.watch_id);
            }
        }
        self.saw(number, revision);
    }
}

/// The end.
impl World {
    /// Whether nobody waits for anything.
    pub fn is_settled(&mut self) -> bool {
        let (last, revision) = (self.judge.last(), self.judge.durable_revision());
        let member = self.member();
        let behind =
            member.cores.iter().any(|core| core.hub.needs_catch_up() || core.hub.revision() != revision);
        let busy = !member.writes.is_empty() || !member.inbox.is_empty();
        let applied = member.replica.applied().index == last;
        let settled = !behind && !busy && applied && self.clients.iter().all(Client::is_settled);
        self.leads_since.is_some() && settled && self.judge.durable == last
    }

    /// With all said and done: every watch has everything, and the store is what the log says.
    pub fn conclude(&mut self) {
        let current = self.judge.durable_revision();
        for client in &self.clients {
            for watched in client.watches.values().filter(|watched| !watched.compacted) {
                let missing = watched.owed(&self.judge, current);
                judge!(missing.is_empty(), "{:?} never showed {missing:?}", watched.request);
            }
        }
        let everything = RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            ..RangeRequest::default()
        };
        let floor = self.judge.durable;
        self.read(0, &Ask::Range(Box::new(everything)), floor);
        self.read(0, &Ask::Hash, floor);
        self.check_progress(current);
        self.check_leases();
    }

    /// The lessor has the leases that the log says.
    fn check_leases(&mut self) {
        let ticket = Ticket(self.member().next_ticket());
        let (now, call) = (self.now, LeaseCall::Leases);
        let member = self.member();
        member.replica.step(Input::Lease { ticket, call });
        let mut outputs = vec![];
        member.replica.drain(now, &mut outputs);
        let answers = outputs.into_iter().filter_map(|output| match output {
            Output::Reply { result: Ok(Response::LeaseLeases { mut ids, .. }), .. } => {
                ids.sort_unstable();
                Some(ids)
            }
            _ => None,
        });
        let expected: Vec<i64> = self.judge.model.leases.keys().copied().collect();
        for shown in answers {
            judge!(shown == expected, "there are leases {shown:?}, not {expected:?}");
        }
    }

    /// Nothing is under way, so every stream whose watches have begun gets its promise at once.
    fn check_progress(&mut self, current: i64) {
        for number in 0..self.clients.len() {
            let mut watches = self.clients[number].watches.values();
            let due = watches.len() > 0
                && watches.all(|watched| !watched.compacted && watched.request.start_revision <= current);
            self.clients[number].progressed = 0;
            self.on_window(number);
            self.ask_progress(number);
            while let Some((response, _)) = self.clients[number].transit.pop_front() {
                self.on_watch_response(number, &response);
            }
            let promised = self.clients[number].progressed;
            judge!(!due || promised == current, "progress of client {number} is {promised}, not {current}");
        }
    }
}

/// A reply as the message that a client gets, headers reduced to the revision.
fn decode(expected: &Result<Answer, Refusal>, response: &Response) -> Option<(Answer, i64)> {
    let bytes = request::encode(response, &Header::default());
    let answer = match expected.as_ref().ok()? {
        Answer::Put(_) => Answer::Put(PutResponse::decode(bytes).ok()?),
        Answer::DeleteRange(_) => Answer::DeleteRange(DeleteRangeResponse::decode(bytes).ok()?),
        Answer::Txn(_) => Answer::Txn(TxnResponse::decode(bytes).ok()?),
        Answer::Compaction(_) => Answer::Compaction(CompactionResponse::decode(bytes).ok()?),
        Answer::LeaseGrant(_) => Answer::LeaseGrant(LeaseGrantResponse::decode(bytes).ok()?),
        Answer::LeaseRevoke(_) => Answer::LeaseRevoke(LeaseRevokeResponse::decode(bytes).ok()?),
        Answer::Nothing => return None,
    };
    Some((answer, response.revision()))
}
