//! Delivery: who gets which event of a batch or slice, and the responses made of that.
//!
//! Matches are pairs of a watcher and an event. They may be delivered in several slices, and watchers may be created,
//! cancelled and parked in between. A match counts only while its watcher still is in the state in which the watcher
//! was matched, and still waits for the event's revision: whoever was cancelled, moved or created since is not.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::encode::{Change, Fields, Head, Output, Part, Records};
use super::hub::{Fault, Hub, as_room};
use super::watcher::{Flags, State, Watcher};

/// Responses that etcd buffers for a stream before it merges those of several revisions.
const SINGLES_MAX: usize = 128;

/// What one response costs besides its body, in bytes.
pub(super) const RESPONSE_COST: usize = 128;

/// Responses that wait on a stream behind a large one. A driver that goes on reading such a stream loses it.
const HELD_MAX: usize = 1 << 16;

/// An event for a watcher: the watcher's number above the event's position, which sorts twice as fast as a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match(u64);

impl Match {
    pub(super) fn new(watcher: u32, position: u32) -> Self {
        Self(u64::from(watcher) << 32 | u64::from(position))
    }

    pub(super) fn watcher(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn position(self) -> u32 {
        self.0 as u32
    }
}

/// Events of one batch or of some revisions, and who gets which; kept for its allocations.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Who gets what, by watcher once sorted.
    pub(super) matches: Vec<Match>,
    /// Main revision by position.
    pub(super) revisions: Vec<i64>,
    plain: Records,
    with_prev: Records,
    /// How the event at the next position is wanted by those who have matched it so far.
    wanted: Wanted,
}

/// In which forms an event is wanted.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    plain: bool,
    with_prev: bool,
}

/// Where the events of one revision begin in a scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    matches: usize,
    events: usize,
    plain: usize,
    with_prev: usize,
}

impl Scratch {
    pub(super) fn clear(&mut self) {
        self.truncate(Mark::default());
        self.plain.shrink();
        self.with_prev.shrink();
        if self.matches.capacity() > 1 << 16 {
            (self.matches, self.revisions) = (Vec::new(), Vec::new());
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let (matches, events) = (self.matches.len(), self.revisions.len());
        Mark { matches, events, plain: self.plain.len(), with_prev: self.with_prev.len() }
    }

    /// Forgets the events from `mark` on, and who has matched the next one.
    pub(super) fn truncate(&mut self, mark: Mark) {
        self.wanted = Wanted::default();
        self.matches.truncate(mark.matches);
        self.revisions.truncate(mark.events);
        self.plain.truncate(mark.events, mark.plain);
        self.with_prev.truncate(mark.events, mark.with_prev);
    }

    /// Bytes encoded.
    pub(super) fn bytes(&self) -> usize {
        self.plain.len() + self.with_prev.len()
    }

    /// The position of the next event.
    pub(super) fn position(&self) -> u32 {
        self.revisions.len() as u32
    }

    /// A watcher matches the event at the next position.
    pub(super) fn add_match(&mut self, number: u32, watcher: &Watcher) {
        let prev = watcher.flags.has(Flags::PREV_KV);
        self.wanted.with_prev |= prev;
        self.wanted.plain |= !prev;
        self.matches.push(Match::new(number, self.position()));
    }

    /// Nobody gets the event at the next position: it is gone.
    pub(super) fn drop_matches(&mut self) {
        let position = self.position();
        while self.matches.pop_if(|found| found.position() == position).is_some() {}
        self.wanted = Wanted::default();
    }

    /// Adds the event at the next position, which everybody who is interested has matched. Nothing happens if nobody
    /// has.
    pub(super) fn add<'a>(&mut self, change: Change<'_>, prev: impl FnOnce() -> Option<&'a [u8]>) {
        let Wanted { plain, with_prev } = std::mem::take(&mut self.wanted);
        if !(plain || with_prev) {
            return;
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

    /// Nothing is added any more: what follows is delivery.
    pub(super) fn freeze(&mut self) {
        if self.revisions.len() > 1 {
            self.matches.sort_unstable();
        }
        self.plain.freeze();
        self.with_prev.freeze();
    }

    fn form(&self, flags: Flags) -> &Records {
        if flags.has(Flags::PREV_KV) { &self.with_prev } else { &self.plain }
    }

    fn revision_of(&self, found: Match) -> i64 {
        self.revisions[found.position() as usize]
    }
}

/// What is delivered: a frozen scratch, and on whose behalf.
#[derive(Clone, Copy)]
pub(super) struct Delivery<'a> {
    pub(super) scratch: &'a Scratch,
    /// The state in which the watchers were matched.
    pub(super) state: State,
    /// The revision of headers that cover several revisions.
    pub(super) revision: i64,
    /// Whether a stream that has just run out of room is asked once more before its watchers are parked.
    pub(super) patient: bool,
}

/// How a slice of delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    All,
    /// Matches from here on are left.
    UpTo(usize),
    /// Matches from here on are left, and a stream is to be asked for its room first.
    OutOfRoom(usize),
}

/// What became of one response.
enum Outcome {
    Sent,
    Parked,
    /// The stream has had room so far.
    OutOfRoom,
}

impl Hub {
    /// Hands watchers their matching events from `from` on, or parks them.
    pub(super) fn deliver(&mut self, delivery: Delivery<'_>, from: usize, budget: usize) -> Delivered {
        let (mut at, mut spent) = (from, 0);
        let matches = &delivery.scratch.matches[from..];
        for run in matches.chunk_by(|a, b| a.watcher() == b.watcher()) {
            if spent >= budget {
                return Delivered::UpTo(at);
            }
            let due = self.due(delivery, run);
            if !due.is_empty() {
                let (now, rest) = due.split_at(self.first_response(delivery, due));
                match self.deliver_run(delivery, now, &mut spent) {
                    Outcome::OutOfRoom => return Delivered::OutOfRoom(at),
                    Outcome::Sent => self.deliver_rest(delivery, rest, &mut spent),
                    Outcome::Parked => {}
                }
            }
            at += run.len();
        }
        Delivered::All
    }

    /// Those of a watcher's matches that still count. A number may belong to another watcher by now, which then was
    /// matched only later.
    fn due<'m>(&self, delivery: Delivery<'_>, run: &'m [Match]) -> &'m [Match] {
        let watcher = self.watchers.get(run[0].watcher() as usize);
        let Some(watcher) = watcher.filter(|watcher| watcher.state == delivery.state) else { return &[] };
        &run[run.partition_point(|found| delivery.scratch.revision_of(*found) < watcher.next)..]
    }

    /// How many matches the first response has: those of one revision for a watcher that etcd would have buffered them
    /// for, else all.
    fn first_response(&self, delivery: Delivery<'_>, due: &[Match]) -> usize {
        let watcher = &self.watchers[due[0].watcher() as usize];
        let merges = || self.streams[watcher.stream as usize].plan.matches() > SINGLES_MAX;
        if !watcher.flags.has(Flags::LIVE) || merges() {
            return due.len();
        }
        let first = delivery.scratch.revision_of(due[0]);
        due.partition_point(|found| delivery.scratch.revision_of(*found) == first)
    }

    /// One response for each revision.
    fn deliver_rest(&mut self, delivery: Delivery<'_>, rest: &[Match], spent: &mut usize) {
        let revision_of = |found: &Match| delivery.scratch.revision_of(*found);
        for part in rest.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
            if !self.watchers.contains(part[0].watcher() as usize)
                || !matches!(
                    self.deliver_run(Delivery { patient: false, ..delivery }, part, spent),
                    Outcome::Sent
                )
            {
                return;
            }
        }
    }

    /// One response to one watcher.
    fn deliver_run(&mut self, delivery: Delivery<'_>, run: &[Match], spent: &mut usize) -> Outcome {
        *spent += RESPONSE_COST;
        let number = run[0].watcher();
        let first = delivery.scratch.revision_of(run[0]);
        let watcher = &mut self.watchers[number as usize];
        let slot = watcher.stream as usize;
        let stream = &mut self.streams[slot];
        if stream.room <= 0 && delivery.patient && std::mem::take(&mut stream.had_room) {
            return Outcome::OutOfRoom;
        }
        if stream.room <= 0 || stream.large.is_some() {
            self.park(number, first);
            return Outcome::Parked;
        }
        watcher.flags.set(Flags::QUIET, false);
        let (watch_id, flags) = (watcher.id, watcher.flags);
        let single = flags.has(Flags::LIVE) && delivery.scratch.revision_of(run[run.len() - 1]) == first;
        let header = self.header(if single { first } else { delivery.revision });
        let form = delivery.scratch.form(flags);
        if flags.has(Flags::FRAGMENT) {
            self.send_fragments(slot, header, watch_id, form, run, spent);
        } else {
            let head = header.with(Fields { watch_id, ..Fields::default() });
            let body = form.body(run.iter().map(|m| m.position()));
            *spent += body.len() / 4;
            self.send(slot, head, body, run.len());
        }
        Outcome::Sent
    }

    /// The length from which on a response is split for a client that asked for fragments.
    pub(super) fn fragment_bytes(&self) -> usize {
        self.config.max_request_bytes + self.config.fragment_slack_bytes
    }

    /// Splits a large response between events, as the client asked.
    fn send_fragments(
        &mut self,
        slot: usize,
        header: Head,
        watch_id: i64,
        form: &Records,
        mut run: &[Match],
        spent: &mut usize,
    ) {
        let limit = self.fragment_bytes();
        let whole = header.clone().with(Fields { watch_id, ..Fields::default() });
        let part = header.with(Fields { watch_id, fragment: true, ..Fields::default() });
        let len: usize = run.iter().map(|m| form.len_of(m.position())).sum();
        *spent += len / 4;
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

    /// The header of a response. Many responses in a row have the same one.
    fn header(&mut self, revision: i64) -> Head {
        match &self.header {
            Some((of, header)) if *of == revision => header.clone(),
            _ => self.header.insert((revision, Head::header(self.config.identity, revision))).1.clone(),
        }
    }

    /// A response without events.
    pub(super) fn respond(&mut self, slot: usize, revision: i64, fields: Fields, body: Bytes) {
        let head = self.header(revision).with(fields);
        self.send(slot, head, body, 0);
    }

    /// A whole response. One that gRPC cannot carry ends its stream.
    fn send(&mut self, slot: usize, head: Head, body: Bytes, events: usize) {
        let Some(stream) = self.streams.get_mut(slot).filter(|stream| !stream.closed) else { return };
        let output = Output { stream: stream.id, part: Part::Whole, head, body, events: events as u32 };
        if output.len() > self.config.response_bytes_max {
            let (id, bytes) = (stream.id, output.len() as u64);
            return self.fail(id, Fault::TooLarge { bytes });
        }
        if !stream.is_sending_large() {
            return self.put(slot, output);
        }
        stream.held.push_back(output);
        if stream.held.len() > HELD_MAX {
            let id = stream.id;
            self.fail(id, Fault::Interrupted);
        }
    }

    /// Hands an output to the driver.
    pub(super) fn put(&mut self, slot: usize, output: Output) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        stream.room -= as_room(output.len());
        self.events_sent += u64::from(output.events);
        self.outputs.push_back(output);
    }

    /// Ends a stream that cannot go on.
    pub(super) fn fail(&mut self, id: super::StreamId, fault: Fault) {
        let Some(stream) = self.stream_mut(id) else { return };
        stream.held.clear();
        let (part, head) = (Part::End(fault), Head::empty());
        self.outputs.push_back(Output { stream: id, part, head, body: Bytes::new(), events: 0 });
        self.close(id);
    }
}
