//! The hub: streams, their watchers, what clients ask, and the order of its work.
//!
//! Work is done in slices: [`Hub::work`] does one, about as much as its budget says, and [`Hub::needs_work`] tells
//! whether there is more. Nothing that a client asks costs more than a few steps at once.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use slab::Slab;

use super::catch_up::Budget;
use super::encode::{Fields, Head, Identity, Output, cancel_reason};
use super::history::History;
use super::key_index::{KeyIndex, List};
use super::large::Large;
use super::live::Live;
use super::progress::Notice;
use super::scans::Scans;
use super::watcher::{Flags, NIL, State, Watcher};
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::stdx::time::{Duration, Instant};

/// What a response may exceed the largest request by before it is split for a client that asked for fragments.
pub const FRAGMENT_SLACK_BYTES: usize = 512 << 10;

/// The longest response that gRPC servers send.
pub const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// What reading past an event that nobody wants costs in bytes, besides its key.
pub(super) const PASSED_COST: usize = 64;
/// What one match costs in bytes.
pub(super) const MATCH_COST: usize = 16;
/// What looking for an event's previous value costs in bytes.
pub(super) const PREV_COST: usize = 256;

/// Watchers of a closed stream that are removed in one piece of work.
const REMOVED_MAX: usize = 1024;

/// What a watcher takes in memory besides its bounds, with its place in its stream and a group of its own.
pub(super) const WATCHER_BYTES: usize = 160;

/// The id in responses that concern no single watcher.
pub(super) const NO_WATCHER: i64 = -1;

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_TOO_MANY: &str = "mvcc: too many watchers";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Why a stream ends before its client wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A response would be longer than what is sent at most.
    TooLarge {
        /// Length of that response.
        bytes: u64,
    },
    /// A response was begun and cannot be completed: its revision was compacted meanwhile.
    Interrupted,
}

/// A watch stream. Never reused, so an output for a stream that was closed meanwhile finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Streams opened before this one. Wide enough never to come round.
    serial: u64,
    slot: u32,
}

impl StreamId {
    pub(super) fn slot(self) -> usize {
        self.slot as usize
    }
}

/// How much of a batch or revision is held in memory at once, for all watchers that want it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pairs of an event and a watcher that it is for.
    pub matches: usize,
    /// Bytes of encoded events.
    pub bytes: usize,
    /// Bytes of one piece of a response that is sent piece by piece.
    pub piece_bytes: usize,
}

impl Default for Limits {
    /// What is sorted in a millisecond, and what the largest requests put.
    fn default() -> Self {
        Self { matches: 1 << 16, bytes: 4 << 20, piece_bytes: 64 << 10 }
    }
}

/// What watchers may take in memory: their bounds, and [`WATCHER_BYTES`] each. Further watchers are refused.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// Bytes of the watchers of one stream.
    pub stream_bytes: usize,
    /// Bytes of all watchers.
    pub bytes: usize,
}

impl Default for Watched {
    /// A million watchers of short keys, a third of them on one stream.
    fn default() -> Self {
        Self { stream_bytes: 64 << 20, bytes: 192 << 20 }
    }
}

/// Settings of a hub, fixed when it is made.
#[derive(Clone, Copy, Debug)]
pub struct HubConfig {
    /// The ids that headers show.
    pub identity: Identity,
    /// The limit on requests, from which the size of fragments follows.
    pub max_request_bytes: usize,
    /// The longest response that is sent.
    pub response_bytes_max: usize,
    /// [`FRAGMENT_SLACK_BYTES`], or a simulation's.
    pub fragment_slack_bytes: usize,
    /// Secret of the key index's hash.
    pub seed: u64,
    /// What is held in memory at once.
    pub limits: Limits,
    /// What watchers may take.
    pub watched: Watched,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            identity: Identity::default(),
            max_request_bytes: 0,
            response_bytes_max: RESPONSE_BYTES_MAX,
            fragment_slack_bytes: FRAGMENT_SLACK_BYTES,
            seed: 0,
            limits: Limits::default(),
            watched: Watched::default(),
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
    /// Watchers that are not synced.
    pub slow_watchers: usize,
    /// Events handed out so far.
    pub events: u64,
    /// Batches that were missing from the lane so far.
    pub gaps: u64,
    /// Pairs of an event and a watcher found so far, whether they were then delivered or not.
    pub matches: u64,
}

/// One stream of one client.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes that may be handed out before the transport has room again.
    pub(super) room: i64,
    /// Watchers by the ids the client knows.
    pub(super) watchers: BTreeMap<i64, u32>,
    /// What they take in memory.
    watched_bytes: usize,
    /// Where the search for a free id goes on.
    next_id: i64,
    /// Watchers that wait, the longest first. May name watchers that are gone or no longer parked.
    pub(super) parked: VecDeque<u32>,
    /// How many of them may ride at a time, and how many do. As long as the stream takes all that they are sent, the
    /// next wave is twice as large; when it does not, small waves keep what is read from being thrown away.
    pub(super) wave: usize,
    pub(super) wave_riders: usize,
    /// A watcher was parked for want of room since the wave began.
    pub(super) choked: bool,
    /// The stream is on the hub's list of streams whose parked watchers may ride.
    pub(super) ready: bool,
    /// There was room when the driver told last, and nobody has waited for more since.
    pub(super) had_room: bool,
    /// Watchers that are not synced.
    pub(super) unsynced: usize,
    /// Synced watchers that begin after the hub's revision, by where they begin. Those that it has reached are
    /// removed when progress is asked for.
    pub(super) ahead: BTreeSet<(i64, u32)>,
    /// The revision at which a manual progress request is to be answered.
    pub(super) promise: Option<i64>,
    /// Watchers that want progress notifications.
    pub(super) progress_watchers: usize,
    /// When the progress interval ends next, and its length.
    pub(super) deadline: Instant,
    pub(super) interval: Duration,
    /// The stream's watchers are being notified.
    pub(super) notifying: bool,
    /// A revision that is sent piece by piece.
    pub(super) large: Option<Box<Large>>,
    /// The stream is on the hub's list of streams whose large revision can get on.
    pub(super) large_queued: bool,
    /// Responses that wait behind a large one.
    pub(super) held: VecDeque<Output>,
    /// The stream is gone, and its watchers are being removed.
    pub(super) closed: bool,
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

impl Plan {
    pub(super) fn matches(&self) -> usize {
        self.matches
    }
}

impl Stream {
    /// Whether a part of a large revision was sent, and the rest is still to come.
    pub(super) fn is_sending_large(&self) -> bool {
        self.large.as_ref().is_some_and(|large| large.has_begun())
    }

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
    /// What they take in memory.
    watched_bytes: usize,
    pub(super) index: KeyIndex,
    pub(super) scans: Scans,
    /// Streams by the end of their progress interval.
    pub(super) deadlines: BTreeSet<(Instant, StreamId)>,
    /// Manual progress requests that wait for a revision to be published here, in order of that revision.
    pub(super) promises: VecDeque<(i64, StreamId)>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) outputs: VecDeque<Output>,
    /// The header that was made last, and for which revision.
    pub(super) header: Option<(i64, Head)>,
    pub(super) live: Live,
    /// Streams with parked watchers and room for them.
    pub(super) ready: VecDeque<StreamId>,
    /// Streams with a large revision that can get on.
    pub(super) large: VecDeque<StreamId>,
    /// Streams that are gone and still have watchers.
    closing: VecDeque<StreamId>,
    /// The compaction revision of the newest snapshot shown here.
    pub(super) compacted: i64,
    opened: u64,
    pub(super) unsynced: usize,
    pub(super) events_sent: u64,
    pub(super) gaps: u64,
    pub(super) matched: u64,
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
            watched_bytes: 0,
            index: KeyIndex::new(config.seed),
            scans: Scans::default(),
            deadlines: BTreeSet::new(),
            promises: VecDeque::new(),
            notices: VecDeque::new(),
            outputs: VecDeque::new(),
            header: None,
            live: Live::default(),
            ready: VecDeque::new(),
            large: VecDeque::new(),
            closing: VecDeque::new(),
            compacted: -1,
            opened: 0,
            unsynced: 0,
            events_sent: 0,
            gaps: 0,
            matched: 0,
        }
    }

    /// The revision up to which events were published here.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> HubStats {
        HubStats {
            streams: self.streams.len() - self.closing.len(),
            watchers: self.watchers.len(),
            slow_watchers: self.unsynced,
            events: self.events_sent,
            gaps: self.gaps,
            matches: self.matched,
        }
    }

    /// The term that headers carry from now on.
    pub fn set_term(&mut self, raft_term: u64) {
        self.config.identity.raft_term = raft_term;
        self.header = None;
    }

    /// The next response to write. Responses of one stream come in their order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A new stream, with room for `room` bytes. Its progress notifications come every `interval`, which the
    /// driver has drawn within the configured interval and 10 % more.
    pub fn open(&mut self, now: Instant, interval: Duration, room: usize) -> StreamId {
        let entry = self.streams.vacant_entry();
        // A slot takes more than a hundred bytes of memory, which bounds their number far below 2^32.
        let id = StreamId { serial: self.opened, slot: entry.key() as u32 };
        self.opened += 1;
        entry.insert(Stream {
            id,
            room: as_room(room),
            watchers: BTreeMap::new(),
            watched_bytes: 0,
            next_id: 0,
            parked: VecDeque::new(),
            wave: 1,
            wave_riders: 0,
            choked: false,
            ready: false,
            had_room: room > 0,
            unsynced: 0,
            ahead: BTreeSet::new(),
            promise: None,
            progress_watchers: 0,
            deadline: now + interval,
            interval,
            notifying: false,
            large: None,
            large_queued: false,
            held: VecDeque::new(),
            closed: false,
            plan: Plan::default(),
        });
        id
    }

    /// The stream is gone: the client reset it, or its connection ended. A half-close is no reason to call this.
    pub fn close(&mut self, id: StreamId) {
        let Some(stream) = self.stream_mut(id) else { return };
        (stream.closed, stream.room, stream.large) = (true, 0, None);
        let (deadline, armed) = (stream.deadline, stream.progress_watchers > 0);
        if armed {
            self.deadlines.remove(&(deadline, id));
        }
        self.closing.push_back(id);
        self.remove_closed();
    }

    /// Removes some watchers of a stream that is gone.
    fn remove_closed(&mut self) {
        let Some(&id) = self.closing.front() else { return };
        for _ in 0..REMOVED_MAX {
            let Some((_, number)) = self.streams[id.slot()].watchers.pop_first() else {
                self.closing.pop_front();
                self.streams.remove(id.slot());
                return;
            };
            self.remove_watcher(number);
        }
    }

    /// Whether there is work, for somebody who can take what comes of it.
    pub fn needs_work(&self) -> bool {
        self.live.is_busy()
            || self.scans.are_running()
            || !(self.ready.is_empty() && self.large.is_empty())
            || !(self.notices.is_empty() && self.closing.is_empty())
            || self.owes_promises()
    }

    /// True if a stream has just run out of room: the driver tells how much it has now, calls [`Hub::resume`], and
    /// what was published is handed out further.
    pub fn waits_for_room(&self) -> bool {
        self.live.waits_for_room()
    }

    /// Whether requests of the stream may be read: what they are answered with would pile up behind a large revision.
    pub fn takes_requests(&self, id: StreamId) -> bool {
        self.stream(id).is_none_or(|stream| !stream.is_sending_large())
    }

    /// Whether something published is still to be handed out.
    #[cfg(test)]
    pub(super) fn is_publishing(&self) -> bool {
        self.live.is_busy()
    }

    /// Whether an event was matched with some of its watchers and not with all.
    #[cfg(test)]
    pub(super) fn is_amid_an_event(&self) -> bool {
        self.index.is_amid_any()
    }

    /// Bytes of outputs that the driver has not taken.
    #[cfg(test)]
    pub(super) fn outputs_len(&self) -> usize {
        self.outputs.iter().map(Output::len).sum()
    }

    /// Hands out what was published, and nothing else.
    #[cfg(test)]
    pub(super) fn publish_slice(&mut self, history: &dyn History, budget: Budget) {
        self.see(history);
        self.live_slice(history, budget);
    }

    /// One slice of work: what was published goes first, then who is behind.
    pub fn work(&mut self, history: &dyn History, budget: Budget) {
        self.see(history);
        self.live_slice(history, budget);
        self.keep_promises();
        self.remove_closed();
        if !self.live.is_handing_out() {
            self.notify_slice(budget.bytes);
        }
        self.board_wave();
        self.large_slice(history, budget.bytes);
        self.scan_slice(history, budget);
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
            _ if !self.has_place(stream, key.len() + end.len()) => return self.refuse(id, REASON_TOO_MANY),
            0 => free_id(stream),
            taken if stream.watchers.contains_key(&taken) => return self.refuse(id, REASON_DUPLICATE_ID),
            given => given,
        };
        if request.watch_id == 0 {
            self.streams[id.slot()].next_id = watch_id.wrapping_add(1);
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
        self.respond(id.slot(), self.known, fields, cancel_reason(reason));
    }

    /// A cancel request. An id that the stream does not have gets no answer.
    pub fn cancel(&mut self, id: StreamId, watch_id: i64) {
        let Some(number) = self.stream_mut(id).and_then(|stream| stream.watchers.remove(&watch_id)) else {
            return;
        };
        self.remove_watcher(number);
        let fields = Fields { watch_id, canceled: true, ..Fields::default() };
        self.respond(id.slot(), self.known, fields, Bytes::new());
    }

    /// The transport has room for `room` bytes on this stream now.
    pub fn on_window(&mut self, id: StreamId, room: usize) {
        let Some(stream) = self.stream_mut(id) else { return };
        stream.room = as_room(room);
        stream.had_room |= room > 0;
        if room == 0 {
            return;
        }
        if stream.large.is_some() {
            self.wake_large(id);
        }
        self.make_ready(id);
    }

    /// Whether there is memory for a watcher of a stream whose bounds have so many bytes.
    fn has_place(&self, stream: &Stream, bounds: usize) -> bool {
        let (bytes, most) = (WATCHER_BYTES + bounds, self.config.watched);
        stream.watched_bytes + bytes <= most.stream_bytes && self.watched_bytes + bytes <= most.bytes
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
        let bytes = WATCHER_BYTES + self.index.bounds_len(watcher.group);
        self.watched_bytes += bytes;
        let first = watcher.first();
        // Each counts for `WATCHER_BYTES` of at most `Watched::bytes`, which bounds their number below 2^32.
        let number = self.watchers.insert(watcher) as u32;
        let revision = self.revision;
        let stream = &mut self.streams[id.slot()];
        stream.forget_reached(revision);
        if synced && first > revision {
            stream.ahead.insert((first, number));
        }
        stream.watchers.insert(watch_id, number);
        stream.watched_bytes += bytes;
        stream.progress_watchers += usize::from(request.progress_notify);
        // All of it before the answer, which may end the stream, and this watcher with it.
        if synced {
            self.index.link(List::Synced, number, &mut self.watchers);
        } else {
            self.count_unsynced(number);
        }
        let fields = Fields { watch_id, created: true, ..Fields::default() };
        self.respond(id.slot(), self.known, fields, Bytes::new());
        if synced || !self.watchers.contains(number as usize) {
            return;
        }
        if compacted {
            self.tell_compacted(number, compact_revision);
        } else if self.streams[id.slot()].room > 0 {
            self.ride(number);
        } else {
            self.watchers[number as usize].state = State::Parked;
            self.streams[id.slot()].parked.push_back(number);
        }
    }

    /// Forgets a watcher that its stream no longer lists.
    fn remove_watcher(&mut self, number: u32) {
        self.detach(number);
        self.leave_wave(number);
        let watcher = self.watchers.remove(number as usize);
        let bytes = WATCHER_BYTES + self.index.bounds_len(watcher.group);
        self.watched_bytes -= bytes;
        self.index.leave(watcher.group);
        let stream = &mut self.streams[watcher.stream as usize];
        stream.watched_bytes -= bytes;
        stream.ahead.remove(&(watcher.first(), number));
        let id = stream.id;
        match stream.large.take_if(|large| large.is_of(number)) {
            Some(mut large) if large.has_begun() => {
                large.forget_watcher();
                stream.large = Some(large);
            }
            Some(_) => self.make_ready(id),
            None => {}
        }
        let stream = &mut self.streams[watcher.stream as usize];
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

/// Lookups, and checks of what must hold.
impl Hub {
    /// Notes how new a snapshot is.
    pub(super) fn see(&mut self, history: &dyn History) {
        self.known = self.known.max(history.revision());
        self.compacted = self.compacted.max(history.compact_revision());
    }

    /// Commits a fault in the middle of an event.
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub fn spoil(&mut self, fault: super::WalkFault) {
        self.index.spoil(fault, &self.watchers);
    }

    pub(super) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.slot()).filter(|stream| stream.id == id && !stream.closed)
    }

    pub(super) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id.slot()).filter(|stream| stream.id == id && !stream.closed)
    }

    /// Checks what must hold between calls. For tests and the simulator: it looks at everything.
    pub fn check_invariants(&self) {
        assert!(self.known >= self.revision);
        for (slot, stream) in &self.streams {
            let states = || stream.watchers.values().map(|&n| &self.watchers[n as usize]);
            assert!(states().all(|w| w.stream as usize == slot), "a stream lists its own watchers");
            assert_eq!(states().filter(|w| w.state != State::Synced).count(), stream.unsynced);
            let parked = states().filter(|w| w.state == State::Parked).count();
            assert!(parked == 0 || stream.parked.len() >= parked, "every parked watcher is found again");
            let waves = states().filter(|w| w.flags.has(Flags::WAVE)).count();
            assert_eq!(waves, stream.wave_riders, "a stream counts its wave");
            if parked > 0 && stream.room > 0 && stream.large.is_none() && stream.wave_riders == 0 {
                assert!(stream.ready, "parked watchers of a stream with room are seen to");
            }
            if stream.closed {
                continue;
            }
            let armed = self.deadlines.contains(&(stream.deadline, stream.id));
            assert_eq!(armed, stream.progress_watchers > 0, "a stream is ticked for if someone wants it");
        }
        let listed: usize = self.streams.iter().map(|(_, stream)| stream.watchers.len()).sum();
        assert_eq!(listed, self.watchers.len(), "every watcher belongs to a stream");
        let weigh = |w: &Watcher| WATCHER_BYTES + self.index.bounds_len(w.group);
        let weights: usize = self.watchers.iter().map(|(_, w)| weigh(w)).sum();
        let counted: usize = self.streams.iter().map(|(_, stream)| stream.watched_bytes).sum();
        assert_eq!((weights, counted), (self.watched_bytes, weights), "what watchers take is counted");
        let unsynced = self.watchers.iter().filter(|(_, w)| w.state != State::Synced).count();
        assert_eq!(unsynced, self.unsynced);
        self.scans.check(&self.watchers);
        self.index.check(&self.watchers);
    }
}

/// The lowest id from `next_id` on that the client has not taken.
fn free_id(stream: &Stream) -> i64 {
    let mut id = stream.next_id;
    while stream.watchers.contains_key(&id) {
        id = id.wrapping_add(1);
    }
    id
}

pub(super) fn as_room(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
