//! Watchers: each watches at one member until it goes to another one, or the member ends, and goes on where it was.
//! What one is shown has to be a slice of the history, whichever members it has come from.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use prost::Message as _;

use super::super::judge::judge;
use super::super::plant::Plant;
use super::judge::Judge;
use super::world::{Event, World};
use kevel::btree::Read as _;
use kevel::mvcc::event::Event as Change;
use kevel::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kevel::proto::mvccpb::{self, KeyValue};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Duration;
use kevel::watch::{Fault, Output, Part, StreamId};

/// How long a watcher waits that meets nobody.
const MEETS_NOBODY: Duration = Duration::from_millis(200);

/// Where a watcher watches.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: usize,
    life: u64,
    stream: StreamId,
}

/// A client with one watch.
pub struct Watcher {
    request: WatchCreateRequest,
    /// Every change below this revision was shown, or is not asked for. 0 while it watches from now on.
    next: i64,
    place: Option<Place>,
    /// Its watch exists.
    is_created: bool,
    /// The streams that it has had; what is planned for an earlier one is void.
    streams: u64,
    /// On the way to it, with the bytes that they take in its stream.
    transit: VecDeque<(WatchResponse, usize)>,
    /// Events of fragments whose last part is to come.
    partial: Vec<mvccpb::Event>,
    window: usize,
    /// The last events that it was shown, for a planted bug.
    last: Option<WatchResponse>,
}

impl Watcher {
    /// One of some kinds of watchers.
    pub fn draw(prng: &mut Prng, window: usize) -> Self {
        let (key, range_end) = match prng.below(4) {
            0 => (b"k1".to_vec(), vec![]),
            1 => (b"k".to_vec(), b"k2".to_vec()),
            _ => (vec![0], vec![0]),
        };
        let request = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: prng.chance(1, 2),
            progress_notify: prng.chance(1, 2),
            fragment: prng.chance(1, 2),
            ..WatchCreateRequest::default()
        };
        Self {
            request,
            next: 0,
            place: None,
            is_created: false,
            streams: 0,
            transit: VecDeque::new(),
            partial: vec![],
            window,
            last: None,
        }
    }

    fn wants(&self, change: &Change) -> bool {
        let (key, end) = (&*self.request.key, &*self.request.range_end);
        match end {
            [] => change.key == key,
            [0] => *change.key >= *key,
            end => *change.key >= *key && *change.key < *end,
        }
    }

    /// What it has not been shown of the revisions up to `through`.
    fn missing<'j>(&self, judge: &'j Judge, through: i64) -> Vec<(i64, &'j Change)> {
        judge.changes(self.next, through).filter(|(_, change)| self.wants(change)).collect()
    }

    /// Whether nothing up to `through` is missing.
    pub fn has_all(&self, judge: &Judge, through: i64) -> bool {
        self.is_created && self.missing(judge, through).is_empty()
    }

    /// The stream ends.
    fn leave(&mut self) {
        self.streams += 1;
        (self.place, self.is_created) = (None, false);
        self.transit.clear();
        self.partial.clear();
    }

    /// The stream says something.
    fn on_response(&mut self, judge: &Judge, response: &WatchResponse) {
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        judge!(header <= judge.newest(), "a watch tells of revision {header}, and nobody has published it");
        if response.created {
            judge!(!response.canceled, "a watch is refused: {response:?}");
            self.is_created = true;
            if self.next == 0 {
                self.next = header + 1;
            }
        } else if response.canceled {
            let compacted = response.compact_revision;
            judge!(
                compacted <= judge.compacted() && self.next < compacted,
                "a watch at {} ends for compaction {compacted}",
                self.next
            );
            self.next = compacted;
            self.leave();
        } else if response.events.is_empty() {
            judge!(
                response.watch_id < 0 || header + 1 >= self.next,
                "a watch from {} on is told that it is at {header}",
                self.next
            );
            let missing = self.missing(judge, header);
            judge!(
                missing.is_empty() || !self.is_created,
                "progress to {header} is promised at {} before {missing:?}",
                self.next
            );
        } else {
            self.partial.extend(response.events.iter().cloned());
            if !response.fragment {
                let events = std::mem::take(&mut self.partial);
                self.on_events(judge, header, &events);
            }
        }
    }

    fn on_events(&mut self, judge: &Judge, header: i64, events: &[mvccpb::Event]) {
        let revision_of = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let last = events.last().map_or(0, revision_of);
        judge!(header >= last, "events of {last} under a header of {header}");
        let expected = self.missing(judge, last);
        let is_same = expected.len() == events.len()
            && events.iter().zip(&expected).all(|(event, (_, change))| is_of(event, change));
        judge!(
            is_same,
            "a watch from {} of {:?} is shown {events:?}, not {expected:?}",
            self.next,
            self.request
        );
        for (event, (revision, change)) in events.iter().zip(expected) {
            self.check_previous(judge, revision, event, change);
        }
        self.next = last + 1;
    }

    fn check_previous(&self, judge: &Judge, revision: i64, event: &mvccpb::Event, change: &Change) {
        let wanted = self.request.prev_kv && !change.create;
        let before = if wanted { judge.value(&change.key, revision - 1) } else { None };
        let shown = event.prev_kv.as_ref().map(|kv| &*kv.value);
        let may_lack = shown.is_none() && revision - 1 < judge.compacted();
        judge!(
            shown == before || may_lack,
            "the previous value of {:?} at {revision} is {before:?}, not {shown:?}",
            change.key
        );
    }
}

fn is_of(event: &mvccpb::Event, change: &Change) -> bool {
    let Some(kv) = &event.kv else { return false };
    let expected = KeyValue::decode(change.kv.clone()).expect("a pair");
    event.r#type == i32::from(change.delete)
        && (&kv.key, kv.mod_revision) == (&expected.key, expected.mod_revision)
        && (change.delete || *kv == expected)
}

impl World {
    /// A watcher does something: goes to a member, or leaves its own, or asks how far it is.
    pub(super) fn watch_on(&mut self, which: usize) {
        let pause = self.some(Duration::from_secs(2));
        self.plan(pause + MEETS_NOBODY, Event::Watch(which));
        let Some(place) = self.watchers[which].place.filter(|&place| self.is_there(place)) else {
            return self.open_watch(which);
        };
        match self.prng.below(6) {
            0 if !self.is_calm => {
                self.close(place.number, place.stream);
                self.watchers[which].leave();
            }
            1 | 2 => {
                self.watch(place.number, |watches, history, _| {
                    watches.hub().progress(place.stream, history);
                });
                self.pump(place.number);
            }
            _ => self.make_room(which, self.watchers[which].streams),
        }
    }

    fn is_there(&self, place: Place) -> bool {
        self.nodes[place.number].life.as_ref().is_some_and(|life| life.number == place.life)
    }

    /// A watcher goes to a member that runs.
    fn open_watch(&mut self, which: usize) {
        self.watchers[which].leave();
        let runs = |&number: &usize| self.nodes[number].life.is_some() && !self.nodes[number].paused;
        let running: Vec<usize> = (0..self.nodes.len()).filter(runs).collect();
        if running.is_empty() {
            return;
        }
        let number = running[self.prng.below(running.len() as u64) as usize];
        let life = self.nodes[number].life.as_ref().map_or(0, |life| life.number);
        let interval = Duration::from_millis(500 + self.prng.below(5_000));
        let watcher = &self.watchers[which];
        let (window, request) = (watcher.window, watcher.request.clone());
        // Now and then a revision that nobody has come to yet.
        let ahead = if watcher.next > 0 && self.prng.chance(1, 6) { self.prng.below(4) as i64 } else { 0 };
        let skipped = self.judge.changes(watcher.next, watcher.next + ahead - 1).next().is_some();
        let start_revision = watcher.next + if skipped { 0 } else { ahead };
        self.watchers[which].next = start_revision;
        // With a planted bug, the member takes what is in its future, or in its past, for what comes next.
        let start_revision = match self.plant {
            Some(Plant::ClusterFutureIgnored) => start_revision.min(self.shown_revision(number) + 1),
            Some(Plant::ClusterPastIgnored) if start_revision > 0 => {
                start_revision.max(self.shown_revision(number) + 1)
            }
            _ => start_revision,
        };
        let request = WatchCreateRequest { start_revision, ..request };
        let line = format_args!("watcher {which} goes to {number} from {start_revision} on");
        self.trace.step(self.now, &[14, which as u64, number as u64, start_revision as u64], line);
        let now = self.now;
        let stream = self.watch(number, |watches, history, _| {
            let stream = watches.hub().open(now, interval, window);
            watches.hub().create(now, stream, &request, history);
            stream
        });
        let core = &mut self.nodes[number].life.as_mut().expect("a member that runs").core;
        core.outlets.open(stream, window);
        self.watchers[which].place = Some(Place { number, life, stream });
        self.pump(number);
    }

    /// The revision that the store of a member is at.
    fn shown_revision(&mut self, number: usize) -> i64 {
        let life = self.nodes[number].life.as_mut().expect("a member that runs");
        life.core.reader.snapshot().applied().revision
    }

    /// Tells the hub how much room a watcher's stream has.
    pub(super) fn make_room(&mut self, which: usize, streams: u64) {
        let watcher = &self.watchers[which];
        let Some(place) = watcher.place.filter(|&place| watcher.streams == streams && self.is_there(place))
        else {
            return;
        };
        let capacity = if self.is_calm { watcher.window.max(1 << 16) } else { watcher.window };
        let core = &mut self.nodes[place.number].life.as_mut().expect("a member that runs").core;
        core.outlets.set_capacity(place.stream, capacity);
        let room = core.outlets.room(place.stream);
        core.watches.hub().on_window(place.stream, room);
        self.pump(place.number);
    }

    /// Carries a response, or a part of one, to its watcher.
    pub(super) fn carry_one(&mut self, number: usize, output: &Output) {
        let life = self.nodes[number].life.as_ref().map_or(0, |life| life.number);
        let is_at = |place: &Place| (place.number, place.life, place.stream) == (number, life, output.stream);
        let found = self.watchers.iter().position(|watcher| watcher.place.as_ref().is_some_and(is_at));
        let Some(which) = found else { return };
        if let Part::End(fault) = output.part {
            judge!(fault == Fault::Interrupted, "no response of this world is too large");
            self.close(number, output.stream);
            return self.watchers[which].leave();
        }
        let bytes = [&*output.head, &output.body].concat();
        self.trace.bytes(&bytes);
        let core = &mut self.nodes[number].life.as_mut().expect("a member that runs").core;
        let Some(outlet) = core.outlets.get(output.stream) else { return };
        let (whole, len) = match output.part {
            Part::Whole => {
                let len = bytes.len();
                (Some(bytes), len)
            }
            // What has come of a response takes no room, and the watcher sees it when it is whole.
            part => {
                outlet.take(bytes.len());
                let whole = match part {
                    Part::First { total } => {
                        outlet.begin(bytes, total);
                        None
                    }
                    _ => outlet.go_on(&bytes).map(|(whole, _)| whole),
                };
                (whole, 0)
            }
        };
        let Some(bytes) = whole else {
            let (late, streams) = (self.some(Duration::from_millis(20)), self.watchers[which].streams);
            return self.plan(late, Event::Room(which, streams));
        };
        let response = WatchResponse::decode(&*bytes).expect("an encoded response");
        self.deliver(which, response, len);
    }

    fn deliver(&mut self, which: usize, response: WatchResponse, len: usize) {
        let late = self.some(Duration::from_millis(5));
        let watcher = &mut self.watchers[which];
        watcher.transit.push_back((response, len));
        let streams = watcher.streams;
        self.plan(late, Event::Take(which, streams));
    }

    /// A watcher takes the oldest response from its stream.
    pub(super) fn take(&mut self, which: usize, streams: u64) {
        let watcher = &self.watchers[which];
        let Some(place) = watcher.place.filter(|&place| watcher.streams == streams && self.is_there(place))
        else {
            return;
        };
        let Some((mut response, len)) = self.next_of(which) else { return };
        let core = &mut self.nodes[place.number].life.as_mut().expect("a member that runs").core;
        core.outlets.take(place.stream, len);
        let late = self.some(Duration::from_millis(20));
        self.plan(late, Event::Room(which, streams));
        let line = format_args!(
            "watcher {which} is told at {:?}: {} events{}{}",
            response.header.as_ref().map(|header| header.revision),
            response.events.len(),
            if response.created { ", created" } else { "" },
            if response.canceled { ", canceled" } else { "" },
        );
        self.trace.step(self.now, &[15, which as u64], line);
        self.tally.events += response.events.len() as u64;
        self.tally.progress += u64::from(response.events.is_empty() && !response.created);
        self.spoil_response(which, &mut response);
        self.watchers[which].on_response(&self.judge, &response);
        if self.watchers[which].place.is_none() {
            self.close(place.number, place.stream);
        }
    }

    /// The client of a stream is gone.
    fn close(&mut self, number: usize, stream: StreamId) {
        let core = &mut self.nodes[number].life.as_mut().expect("a member that runs").core;
        core.watches.hub().close(stream);
        core.outlets.close(stream);
    }

    /// The response that a watcher takes next. With a planted bug, progress comes before events.
    fn next_of(&mut self, which: usize) -> Option<(WatchResponse, usize)> {
        let transit = &mut self.watchers[which].transit;
        let is_progress = |(response, _): &(WatchResponse, usize)| {
            response.events.is_empty() && !response.created && !response.canceled
        };
        let first = match self.plant {
            Some(Plant::ClusterProgressEarly) => transit.iter().position(is_progress),
            _ => None,
        };
        transit.remove(first.unwrap_or(0))
    }

    /// Planted bugs of the streams.
    fn spoil_response(&mut self, which: usize, response: &mut WatchResponse) {
        let revision_of = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        let newest = response.events.last().map_or(0, revision_of);
        match self.plant {
            Some(Plant::ClusterStarved) if newest > 0 && newest < header => response.events.clear(),
            Some(Plant::ClusterEventTwice) => {
                let pair = response
                    .events
                    .windows(2)
                    .position(|pair| revision_of(&pair[0]) == revision_of(&pair[1]));
                if let Some(first) = pair {
                    response.events.insert(first, response.events[first].clone());
                }
            }
            Some(Plant::ClusterTombstoneLost) => {
                let compacted = self.judge.compacted();
                response.events.retain(|event| event.r#type == 0 || revision_of(event) != compacted);
            }
            Some(Plant::ClusterInstallRepeats) if newest > 0 => {
                self.watchers[which].last = Some(response.clone());
            }
            _ => {}
        }
    }

    /// A planted bug: the watchers of a member that has installed a snapshot are shown their last events again.
    pub(super) fn repeat_events(&mut self, number: usize) {
        for which in 0..self.watchers.len() {
            let watcher = &self.watchers[which];
            let is_here = watcher.is_created && watcher.place.is_some_and(|place| place.number == number);
            if let Some(last) = watcher.last.clone().filter(|_| is_here) {
                self.deliver(which, last, 0);
            }
        }
    }
}
