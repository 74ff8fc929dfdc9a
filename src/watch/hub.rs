//! The hub: streams, their watchers, and what happens to them.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use slab::Slab;

use super::catch_up::{Scans, thin_out};
use super::encode::{Change, Fields, Frozen, Head, Identity, Output, Records, cancel_reason};
use super::history::{EventBatch, History};
use super::key_index::{KeyIndex, List};
use super::watcher::{Flags, NIL, State, Watcher};
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::stdx::time::{Duration, Instant};

/// What a response may exceed the largest request by before it is split for a client that asked for fragments.
pub const FRAGMENT_SLACK_BYTES: usize = 512 << 10;

/// The id in responses that concern no single watcher.
pub(super) const NO_WATCHER: i64 = -1;

/// The longest response that gRPC servers send.
pub const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// Responses that etcd buffers for a stream before it merges those of several revisions.
const SINGLES_MAX: usize = 128;

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// A watch stream. Never reused, so an output for a stream that was closed meanwhile finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    pub(super) fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

/// What a hub is told once.
#[derive(Clone, Copy, Debug)]
pub struct HubConfig {
    /// Who answers.
    pub identity: Identity,
    /// The limit on requests, from which the size of fragments follows.
    pub max_request_bytes: usize,
    /// The longest response that is sent. The events of one revision that are encoded at once take no more either.
    pub response_bytes_max: usize,
    /// [`FRAGMENT_SLACK_BYTES`], or a simulation's.
    pub fragment_slack_bytes: usize,
    /// Secret of the key index's hash.
    pub seed: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            identity: Identity::default(),
            max_request_bytes: 0,
            response_bytes_max: i32::MAX as usize,
            fragment_slack_bytes: FRAGMENT_SLACK_BYTES,
            seed: 0,
        }
    }
}

/// Counts, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Those that are not synced.
    pub slow_watchers: usize,
    /// Events handed out so far.
    pub events: u64,
    /// Batches that were missing from the lane so far.
    pub gaps: u64,
}

/// One stream of one client.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes that may be handed out before the transport has room again.
    pub(super) room: i64,
    /// Watchers by the ids the client knows.
    pub(super) watchers: BTreeMap<i64, u32>,
    /// Where the search for a free id goes on.
    next_id: i64,
    /// Watchers that wait for room. May name watchers that are gone or no longer parked.
    pub(super) parked: Vec<u32>,
    /// Watchers that are not synced.
    pub(super) unsynced: usize,
    /// Synced watchers that begin after the hub's revision, by where they begin. Those that the hub has reached since
    /// are removed when they are looked at.
    pub(super) ahead: BTreeSet<(i64, u32)>,
    /// Watchers that want progress notifications.
    pub(super) progress_watchers: usize,
    /// When the progress interval ends next, and its length.
    pub(super) deadline: Instant,
    pub(super) interval: Duration,
    /// What a slice of catching up has found for it so far.
    pub(super) plan: Plan,
}

/// Events that one slice of a scan has for one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    /// The slice that this is about; of an older one, nothing below counts.
    slice: u64,
    /// How many events, once for each of its watchers, and what they weigh in bytes.
    matches: usize,
    bytes: i64,
}

impl Stream {
    /// Removes the watchers from `ahead` whose beginning the hub has reached.
    pub(super) fn forget_reached(&mut self, revision: i64) {
        while self.ahead.first().is_some_and(|&(first, _)| first <= revision) {
            self.ahead.pop_first();
        }
    }

    /// Plans one more event of `bytes` in a slice. True if the stream has no room for more.
    pub(super) fn plan(&mut self, slice: u64, bytes: usize) -> bool {
        if self.plan.slice != slice {
            self.plan = Plan { slice, ..Plan::default() };
        }
        self.plan.matches += 1;
        self.plan.bytes += as_room(bytes);
        self.plan.bytes >= self.room
    }
}

/// The watch streams of one session core. See the folder's page.
#[derive(Debug)]
pub struct Hub {
    pub(super) config: HubConfig,
    /// Everything up to here has been published to this hub. Only grows.
    pub(super) revision: i64,
    /// The newest revision any snapshot shown here had; not below `revision`.
    pub(super) known: i64,
    pub(super) streams: Slab<Stream>,
    pub(super) watchers: Slab<Watcher>,
    pub(super) index: KeyIndex,
    pub(super) scans: Scans,
    /// Streams by the end of their progress interval.
    pub(super) deadlines: BTreeSet<(Instant, StreamId)>,
    /// Manual progress requests that wait for a revision to be published here, in order of that revision.
    pub(super) promises: VecDeque<(i64, StreamId)>,
    outputs: VecDeque<Output>,
    /// Streams that were closed because a response would be too long, and how long it would be.
    too_long: VecDeque<(StreamId, usize)>,
    pub(super) scratch: Scratch,
    opened: u32,
    unsynced: usize,
    events_sent: u64,
    gaps: u64,
}

/// An event for a watcher: the watcher's number above the event's position, which sorts twice as fast as a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match(u64);

impl Match {
    pub(super) fn new(watcher: u32, position: u32) -> Self {
        Self(u64::from(watcher) << 32 | u64::from(position))
    }

    fn watcher(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn position(self) -> u32 {
        self.0 as u32
    }
}

/// Events of one batch or slice and who gets which; kept for its allocations.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Who gets what, by watcher once sorted.
    pub(super) matches: Vec<Match>,
    /// Main revision by position.
    pub(super) revisions: Vec<i64>,
    pub(super) plain: Records,
    pub(super) with_prev: Records,
}

impl Scratch {
    /// Forgets everything. No more than `bytes_max` are encoded in either form from now on.
    pub(super) fn clear(&mut self, bytes_max: usize) {
        self.matches.clear();
        self.revisions.clear();
        self.plain.clear(bytes_max);
        self.with_prev.clear(bytes_max);
    }

    /// Adds the event at the next position, matched by those pushed on `matches` since `matched`. Nothing happens
    /// if nobody matched.
    pub(super) fn add<'a>(
        &mut self,
        change: Change<'_>,
        matched: usize,
        watchers: &Slab<Watcher>,
        prev: impl FnOnce() -> Option<&'a [u8]>,
    ) {
        if self.matches.len() == matched {
            return;
        }
        let (mut plain, mut with_prev) = (false, false);
        for found in &self.matches[matched..] {
            let wants = watchers[found.watcher() as usize].flags.has(Flags::PREV_KV);
            with_prev |= wants;
            plain |= !wants;
        }
        if plain {
            self.plain.push(change, None)
        } else {
            self.plain.skip()
        }
        if with_prev {
            self.with_prev.push(change, prev())
        } else {
            self.with_prev.skip()
        }
        self.revisions.push(change.revision);
    }
}

/// Streams and requests.
impl Hub {
    /// A hub that starts after `revision`: the driver publishes every later batch to it.
    pub fn new(config: HubConfig, revision: i64) -> Self {
        Self {
            config,
            revision,
            known: revision,
            streams: Slab::new(),
            watchers: Slab::new(),
            index: KeyIndex::new(config.seed),
            scans: Scans::default(),
            deadlines: BTreeSet::new(),
            promises: VecDeque::new(),
            outputs: VecDeque::new(),
            too_long: VecDeque::new(),
            scratch: Scratch::default(),
            opened: 0,
            unsynced: 0,
            events_sent: 0,
            gaps: 0,
        }
    }

    /// The revision up to which events were published here.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> HubStats {
        HubStats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            slow_watchers: self.unsynced,
            events: self.events_sent,
            gaps: self.gaps,
        }
    }

    /// The term that headers carry from now on.
    pub fn set_term(&mut self, raft_term: u64) {
        self.config.identity.raft_term = raft_term;
    }

    /// The next response to write. Responses of one stream come in their order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A stream that the hub has closed, because a response on it would be longer than can be sent, and the length.
    /// It comes behind the outputs of the stream.
    pub fn poll_too_long(&mut self) -> Option<(StreamId, usize)> {
        self.too_long.pop_front()
    }

    /// A new stream, with room for `room` bytes. Its progress notifications come every `interval`, which the
    /// driver has drawn within the configured interval and 10 % more.
    pub fn open(&mut self, now: Instant, interval: Duration, room: usize) -> StreamId {
        let entry = self.streams.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer streams than 2^32");
        let id = StreamId(u64::from(self.opened) << 32 | u64::from(slot));
        self.opened = self.opened.wrapping_add(1);
        entry.insert(Stream {
            id,
            room: as_room(room),
            watchers: BTreeMap::new(),
            next_id: 0,
            parked: Vec::new(),
            unsynced: 0,
            ahead: BTreeSet::new(),
            progress_watchers: 0,
            deadline: now + interval,
            interval,
            plan: Plan::default(),
        });
        id
    }

    /// The stream is gone: the client reset it, or its connection ended. A half-close is no reason to call this.
    pub fn close(&mut self, id: StreamId) {
        let Some(stream) = self.stream_mut(id) else { return };
        let watchers = std::mem::take(&mut stream.watchers);
        for number in watchers.into_values() {
            self.remove_watcher(number);
        }
        self.streams.remove(id.slot());
        self.promises.retain(|&(_, stream)| stream != id);
    }

    /// A create request. `start_revision` below zero is refused before permissions are looked at, so the driver
    /// checks permissions only if it is not.
    pub fn create(
        &mut self,
        now: Instant,
        id: StreamId,
        request: &WatchCreateRequest,
        history: &dyn History,
    ) {
        self.see(history);
        let Some(stream) = self.stream(id) else { return };
        // An empty key stands for the smallest there is.
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let end: &[u8] = &request.range_end;
        let watch_id = match request.watch_id {
            _ if request.start_revision < 0 => return self.refuse(id, REASON_COMPACTED),
            _ if end.len() > usize::from(end == [0]) && key >= end => {
                return self.refuse(id, REASON_EMPTY_RANGE);
            }
            0 => (stream.next_id..).find(|id| !stream.watchers.contains_key(id)).expect("a free id"),
            taken if stream.watchers.contains_key(&taken) => return self.refuse(id, REASON_DUPLICATE_ID),
            given => given,
        };
        if request.watch_id == 0 {
            self.streams[id.slot()].next_id = watch_id + 1;
        }
        if request.progress_notify {
            self.arm(now, id);
        }
        self.add_watcher(id, watch_id, key, end, request, history.compact_revision());
    }

    /// Answers a create request that the driver does not allow.
    pub fn refuse(&mut self, id: StreamId, reason: &str) {
        if self.stream(id).is_none() {
            return;
        }
        let fields = Fields { watch_id: NO_WATCHER, created: true, canceled: true, ..Fields::default() };
        self.respond(id.slot(), self.known, fields, cancel_reason(reason), 0);
    }

    /// A cancel request. An id that the stream does not have gets no answer.
    pub fn cancel(&mut self, id: StreamId, watch_id: i64) {
        let Some(number) = self.stream_mut(id).and_then(|stream| stream.watchers.remove(&watch_id)) else {
            return;
        };
        self.remove_watcher(number);
        let fields = Fields { watch_id, canceled: true, ..Fields::default() };
        self.respond(id.slot(), self.known, fields, Bytes::new(), 0);
    }

    /// The transport has room for `room` bytes on this stream now.
    pub fn on_window(&mut self, id: StreamId, room: usize) {
        let Some(stream) = self.stream_mut(id) else { return };
        stream.room = as_room(room);
        if stream.room > 0 && !stream.parked.is_empty() {
            let parked = std::mem::take(&mut stream.parked);
            self.unpark(id, &parked);
        }
    }

    fn add_watcher(
        &mut self,
        id: StreamId,
        watch_id: i64,
        key: &[u8],
        end: &[u8],
        request: &WatchCreateRequest,
        compact_revision: i64,
    ) {
        let start = request.start_revision;
        let future = start > self.known;
        let mut flags = Flags::default();
        flags.set(Flags::NO_PUT, request.filters.contains(&(FilterType::Noput as i32)));
        flags.set(Flags::NO_DELETE, request.filters.contains(&(FilterType::Nodelete as i32)));
        flags.set(Flags::PREV_KV, request.prev_kv);
        flags.set(Flags::FRAGMENT, request.fragment);
        flags.set(Flags::PROGRESS | Flags::QUIET, request.progress_notify);
        flags.set(Flags::FUTURE, future);
        let compacted = start != 0 && start < compact_revision;
        // A start between what was published here and the newest snapshot still comes by the lane.
        let synced = (start == 0 || start > self.revision) && !compacted;
        let watcher = Watcher {
            id: watch_id,
            next: if start == 0 { self.known + 1 } else { start },
            stream: id.slot() as u32,
            group: self.index.enter(key, end),
            before: NIL,
            after: NIL,
            state: if synced { State::Synced } else { State::Waiting },
            flags,
        };
        let first = watcher.first();
        let number = u32::try_from(self.watchers.insert(watcher)).expect("fewer watchers than 2^32");
        let revision = self.revision;
        let stream = &mut self.streams[id.slot()];
        stream.forget_reached(revision);
        if synced && first > revision {
            stream.ahead.insert((first, number));
        }
        stream.watchers.insert(watch_id, number);
        stream.progress_watchers += usize::from(request.progress_notify);
        let fields = Fields { watch_id, created: true, ..Fields::default() };
        self.respond(id.slot(), self.known, fields, Bytes::new(), 0);
        if synced {
            self.index.link(List::Synced, number, &mut self.watchers);
            return;
        }
        self.count_unsynced(number);
        if compacted {
            self.tell_compacted(number, compact_revision);
        } else if self.streams[id.slot()].room > 0 {
            self.ride(number);
        } else {
            self.watchers[number as usize].state = State::Parked;
            self.streams[id.slot()].parked.push(number);
        }
    }

    /// Forgets a watcher that its stream no longer lists.
    fn remove_watcher(&mut self, number: u32) {
        self.detach(number);
        let watcher = self.watchers.remove(number as usize);
        self.index.leave(watcher.group);
        let stream = &mut self.streams[watcher.stream as usize];
        stream.ahead.remove(&(watcher.first(), number));
        if watcher.state != State::Synced {
            stream.unsynced -= 1;
            self.unsynced -= 1;
        }
        if watcher.flags.has(Flags::PROGRESS) {
            stream.progress_watchers -= 1;
            if stream.progress_watchers == 0 {
                self.deadlines.remove(&(stream.deadline, stream.id));
            }
        }
    }

    /// Starts watching the clock for the stream's first watcher that wants progress notifications. The intervals
    /// count from when the stream was opened.
    fn arm(&mut self, now: Instant, id: StreamId) {
        let stream = &mut self.streams[id.slot()];
        if stream.progress_watchers > 0 {
            return;
        }
        if stream.deadline <= now {
            let interval = stream.interval.as_nanos().max(1) as u64;
            let missed = now.since(stream.deadline).as_nanos() as u64 / interval + 1;
            stream.deadline = Instant::from_nanos(stream.deadline.as_nanos() + missed * interval);
        }
        self.deadlines.insert((stream.deadline, id));
    }
}

/// Publishing.
impl Hub {
    /// The next batch from the lane; `history` has it already.
    pub fn on_publish(&mut self, batch: &EventBatch, history: &dyn History) {
        self.see(history);
        assert!(history.revision() >= batch.revision, "a batch is published after the state it belongs to");
        if batch.revision <= self.revision {
            // Part of the snapshot this hub started from.
            return;
        }
        if batch.revision > self.revision + 1 {
            self.gaps += 1;
            let missing = self.revision + 1;
            self.revision = batch.revision;
            self.fall_back(missing);
            self.keep_promises();
            return;
        }
        self.revision = batch.revision;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear(self.config.response_bytes_max);
        for event in &batch.events {
            let matched = scratch.matches.len();
            let position = scratch.revisions.len() as u32;
            self.index.stab(List::Synced, &event.key, &self.watchers, |number, watcher| {
                if watcher.next <= batch.revision && watcher.wants(event.delete) {
                    scratch.matches.push(Match::new(number, position));
                }
            });
            let change =
                Change { revision: batch.revision, delete: event.delete, key: &event.key, kv: &event.kv };
            // The previous value is the one before this revision, not before this change.
            scratch.add(change, matched, &self.watchers, || match event.prev {
                _ if event.create => None,
                Some((main, sub)) if main < batch.revision => history.value_of(main, sub),
                _ => history.value_at(&event.key, batch.revision - 1),
            });
        }
        self.deliver(&mut scratch, batch.revision);
        self.scratch = scratch;
        self.keep_promises();
    }

    /// Hands each watcher its matching events, or parks it.
    pub(super) fn deliver(&mut self, scratch: &mut Scratch, header_revision: i64) {
        if scratch.revisions.len() > 1 {
            scratch.matches.sort_unstable();
        }
        if scratch.matches.is_empty() {
            return;
        }
        let header = Head::header(self.config.identity, header_revision);
        let forms = [scratch.plain.freeze(), scratch.with_prev.freeze()];
        let revisions = &scratch.revisions;
        let revision_of = |found: &Match| revisions[found.position() as usize];
        for run in scratch.matches.chunk_by(|a, b| a.watcher() == b.watcher()) {
            // A stream that was closed on the way has taken its watchers with it.
            let Some(watcher) = self.watchers.get(run[0].watcher() as usize) else { continue };
            let merges = || self.streams[watcher.stream as usize].plan.matches > SINGLES_MAX;
            if !watcher.flags.has(Flags::LIVE) || merges() {
                self.deliver_run(&header, &forms, revisions, run);
                continue;
            }
            for part in run.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
                let header = Head::header(self.config.identity, revision_of(&part[0]));
                if !self.deliver_run(&header, &forms, revisions, part) {
                    break;
                }
            }
        }
    }

    /// One response to one watcher. False if it was parked instead, or its stream was closed.
    fn deliver_run(
        &mut self,
        header: &Head,
        forms: &[Frozen<'_>; 2],
        revisions: &[i64],
        run: &[Match],
    ) -> bool {
        let number = run[0].watcher();
        let Some(watcher) = self.watchers.get_mut(number as usize) else { return false };
        let slot = watcher.stream as usize;
        if self.streams[slot].room <= 0 {
            self.park(number, revisions[run[0].position() as usize]);
            return false;
        }
        watcher.flags.set(Flags::QUIET, false);
        let (watch_id, flags) = (watcher.id, watcher.flags);
        let form = &forms[usize::from(flags.has(Flags::PREV_KV))];
        if !form.holds(run[run.len() - 1].position()) {
            self.close_too_long(slot, form.len());
            return false;
        }
        if flags.has(Flags::FRAGMENT) {
            self.send_fragments(slot, header, watch_id, form, run);
        } else {
            let head = header.with(Fields { watch_id, ..Fields::default() });
            self.send(slot, head, form.body(run.iter().map(|m| m.position())), run.len());
        }
        true
    }

    /// Splits a large response between events, as the client asked.
    fn send_fragments(
        &mut self,
        slot: usize,
        header: &Head,
        watch_id: i64,
        form: &Frozen<'_>,
        mut run: &[Match],
    ) {
        let limit = self.config.max_request_bytes + self.config.fragment_slack_bytes;
        let whole = header.with(Fields { watch_id, ..Fields::default() });
        let part = header.with(Fields { watch_id, fragment: true, ..Fields::default() });
        let len: usize = run.iter().map(|m| form.len_of(m.position())).sum();
        if whole.len() + len < limit || run.len() < 2 {
            return self.send(slot, whole, form.body(run.iter().map(|m| m.position())), run.len());
        }
        while !run.is_empty() {
            // Every part has one event, and more as long as it stays below the limit.
            let mut bytes = part.len() + form.len_of(run[0].position());
            let fits = run[1..].iter().take_while(|m| {
                bytes += form.len_of(m.position());
                bytes < limit
            });
            let (now, later) = run.split_at(1 + fits.count());
            let head = if later.is_empty() { &whole } else { &part };
            self.send(slot, head.clone(), form.body(now.iter().map(|m| m.position())), now.len());
            run = later;
        }
    }

    pub(super) fn respond(&mut self, slot: usize, revision: i64, fields: Fields, body: Bytes, events: usize) {
        let head = Head::header(self.config.identity, revision).with(fields);
        self.send(slot, head, body, events);
    }

    fn send(&mut self, slot: usize, head: Head, body: Bytes, events: usize) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        let output = Output { stream: stream.id, head, body, events: events as u32 };
        if output.len() > self.config.response_bytes_max {
            return self.close_too_long(slot, output.len());
        }
        stream.room -= as_room(output.len());
        self.events_sent += events as u64;
        self.outputs.push_back(output);
    }
}

/// Changes of state.
impl Hub {
    /// Ends a stream on which a response of so many bytes would have to be sent.
    fn close_too_long(&mut self, slot: usize, bytes: usize) {
        let Some(stream) = self.streams.get(slot) else { return };
        let id = stream.id;
        self.too_long.push_back((id, bytes));
        self.close(id);
    }

    /// Takes a watcher out of the live path or its scan, before its state changes.
    pub(super) fn detach(&mut self, number: u32) {
        match self.watchers[number as usize].state {
            State::Synced => self.index.unlink(List::Synced, number, &mut self.watchers),
            State::Riding(scan) => {
                self.index.unlink(List::Riding, number, &mut self.watchers);
                self.scans.get_off(scan);
            }
            State::Waiting | State::Parked | State::Compacted => {}
        }
    }

    /// Moves a synced or riding watcher off: it waits for room and has been sent everything below `next`.
    fn park(&mut self, number: u32, next: i64) {
        self.detach(number);
        let live = self.watchers[number as usize].state == State::Synced;
        if live {
            self.count_unsynced(number);
        }
        let watcher = &mut self.watchers[number as usize];
        watcher.flags.set(Flags::LIVE, live || watcher.flags.has(Flags::LIVE));
        let stream = &mut self.streams[watcher.stream as usize];
        watcher.state = State::Parked;
        watcher.next = next;
        watcher.flags.set(Flags::FUTURE, false);
        let slot = watcher.stream;
        thin_out(&mut stream.parked, &self.watchers, |w| w.state == State::Parked && w.stream == slot);
        stream.parked.push(number);
    }

    /// Ends a watcher whose next revisions are compacted. The client still has to cancel it.
    pub(super) fn tell_compacted(&mut self, number: u32, compact_revision: i64) {
        self.detach(number);
        let watcher = &mut self.watchers[number as usize];
        watcher.state = State::Compacted;
        let (slot, watch_id) = (watcher.stream as usize, watcher.id);
        let fields = Fields { watch_id, canceled: true, compact_revision, ..Fields::default() };
        self.respond(slot, 0, fields, Bytes::new(), 0);
    }

    /// One unsynced watcher less.
    pub(super) fn count_synced(&mut self, number: u32) {
        let slot = self.watchers[number as usize].stream as usize;
        self.streams[slot].unsynced -= 1;
        self.unsynced -= 1;
    }

    fn count_unsynced(&mut self, number: u32) {
        let slot = self.watchers[number as usize].stream as usize;
        self.streams[slot].unsynced += 1;
        self.unsynced += 1;
    }

    fn unpark(&mut self, id: StreamId, parked: &[u32]) {
        for &number in parked {
            // The list may name a watcher that was cancelled, and whose number belongs to another by now.
            let still = self
                .watchers
                .get(number as usize)
                .is_some_and(|w| w.state == State::Parked && w.stream as usize == id.slot());
            if still {
                self.ride(number);
            }
        }
    }

    /// Batches are missing: everyone reads on from the store.
    fn fall_back(&mut self, next: i64) {
        let synced: Vec<u32> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.state == State::Synced)
            .map(|(number, _)| number as u32)
            .collect();
        for number in synced {
            self.detach(number);
            let watcher = &mut self.watchers[number as usize];
            watcher.next = watcher.next.max(next);
            watcher.state = State::Waiting;
            self.count_unsynced(number);
            self.ride(number);
        }
    }

    /// Notes how new a snapshot is.
    pub(super) fn see(&mut self, history: &dyn History) {
        self.known = self.known.max(history.revision());
    }

    pub(super) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.slot()).filter(|stream| stream.id == id)
    }

    pub(super) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id.slot()).filter(|stream| stream.id == id)
    }

    /// Checks what must hold between calls. For tests and the simulator: it looks at everything.
    pub fn check_invariants(&self) {
        assert!(self.known >= self.revision);
        for (slot, stream) in &self.streams {
            let states = || stream.watchers.values().map(|&n| &self.watchers[n as usize]);
            assert!(states().all(|w| w.stream as usize == slot), "a stream lists its own watchers");
            assert_eq!(states().filter(|w| w.state != State::Synced).count(), stream.unsynced);
            let parked = states().filter(|w| w.state == State::Parked).count();
            let is_ahead = |n| self.watchers[n as usize].state == State::Synced && !self.is_current(n);
            let ahead = stream.watchers.values().copied().filter(|&n| is_ahead(n));
            let listed = stream.ahead.iter().filter(|&&(first, _)| first > self.revision);
            assert!(
                ahead.collect::<BTreeSet<_>>() == listed.map(|&(_, n)| n).collect(),
                "a stream knows who is ahead"
            );
            assert!(parked == 0 || stream.parked.len() >= parked, "every parked watcher is found again");
            let armed = self.deadlines.contains(&(stream.deadline, stream.id));
            assert_eq!(armed, stream.progress_watchers > 0, "a stream is ticked for if someone wants it");
        }
        let listed: usize = self.streams.iter().map(|(_, stream)| stream.watchers.len()).sum();
        assert_eq!(listed, self.watchers.len(), "every watcher belongs to a stream");
        let unsynced = self.watchers.iter().filter(|(_, w)| w.state != State::Synced).count();
        assert_eq!(unsynced, self.unsynced);
        self.scans.check(&self.watchers);
    }
}

fn as_room(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
