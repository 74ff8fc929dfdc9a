//! Progress: the promise that everything up to a revision has been sent.
//!
//! A promise names the hub's revision, and outputs leave in order, so it follows every event it covers. It is given
//! only for watchers that are synced; where it cannot be given, the answer is silence, and the client asks again.
//!
//! A manual request costs no look at the stream's watchers: the stream counts those that are not synced, and lists
//! those whose beginning is still to come.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::encode::Fields;
use super::history::History;
use super::hub::{Hub, NO_WATCHER, StreamId};
use super::watcher::{Flags, State};
use crate::stdx::time::Instant;

impl Hub {
    /// A manual progress request. It is answered when everything that `history` contains has been published here.
    pub fn progress(&mut self, id: StreamId, history: &dyn History) {
        self.see(history);
        if self.stream(id).is_some() {
            self.promises.push_back((self.known, id));
            self.keep_promises();
        }
    }

    /// Answers the progress requests whose revision was reached.
    pub(super) fn keep_promises(&mut self) {
        while let Some(&(revision, id)) = self.promises.front()
            && revision <= self.revision
        {
            self.promises.pop_front();
            let reached = self.revision;
            let Some(stream) = self.stream_mut(id) else { continue };
            stream.forget_reached(reached);
            let is_current = stream.unsynced == 0 && stream.ahead.is_empty() && !stream.watchers.is_empty();
            if is_current && stream.room > 0 {
                let fields = Fields { watch_id: NO_WATCHER, ..Fields::default() };
                self.respond(id.slot(), self.revision, fields, Bytes::new(), 0);
            }
        }
    }

    /// When [`Hub::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Sends the progress notifications that are due.
    pub fn tick(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let stream = self.stream_mut(id).expect("a stream with a deadline is open");
            // Intervals that nobody ticked for are left out.
            stream.deadline = deadline + stream.interval;
            if stream.deadline <= now {
                stream.deadline = now + stream.interval;
            }
            self.deadlines.insert((self.streams[id.slot()].deadline, id));
            self.notify(id);
        }
    }

    /// The interval of a stream ended: whoever was sent nothing during it is told how far it is.
    fn notify(&mut self, id: StreamId) {
        let numbers: Vec<u32> = self.streams[id.slot()].watchers.values().copied().collect();
        for number in numbers {
            let watcher = &self.watchers[number as usize];
            if !watcher.flags.has(Flags::PROGRESS) {
                continue;
            }
            let due = watcher.flags.has(Flags::QUIET) && self.is_current(number);
            if due && self.streams[id.slot()].room > 0 {
                let fields = Fields { watch_id: watcher.id, ..Fields::default() };
                self.respond(id.slot(), self.revision, fields, Bytes::new(), 0);
            }
            self.watchers[number as usize].flags.set(Flags::QUIET, true);
        }
    }

    /// True if the watcher has been sent everything up to the hub's revision, and its start is not after it.
    pub(super) fn is_current(&self, number: u32) -> bool {
        let watcher = &self.watchers[number as usize];
        watcher.state == State::Synced && watcher.first() <= self.revision
    }
}
