//! Progress: the promise that everything up to a revision has been sent.
//!
//! A promise names the hub's revision, and outputs leave in order, so it follows every event it covers. It is given
//! only for watchers that are synced; where it cannot be given, the answer is silence, and the client asks again.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::encode::Fields;
use super::history::History;
use super::hub::{Hub, NO_WATCHER, StreamId};
use super::watcher::{Flags, State, Watcher};
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
            let Some(stream) = self.stream(id) else { continue };
            let mut watchers = stream.watchers.values().map(|&number| &self.watchers[number as usize]);
            if stream.room > 0
                && !stream.watchers.is_empty()
                && stream.unsynced == 0
                && watchers.all(|watcher| self.is_current(watcher))
            {
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
            let due = watcher.flags.has(Flags::QUIET) && self.is_current(watcher);
            if due && self.streams[id.slot()].room > 0 {
                let fields = Fields { watch_id: watcher.id, ..Fields::default() };
                self.respond(id.slot(), self.revision, fields, Bytes::new(), 0);
            }
            self.watchers[number as usize].flags.set(Flags::QUIET, true);
        }
    }

    /// True if the watcher has been sent everything up to the hub's revision, and its start is not after it.
    fn is_current(&self, watcher: &Watcher) -> bool {
        let first = watcher.next - i64::from(!watcher.flags.has(Flags::FUTURE));
        watcher.state == State::Synced && first <= self.revision
    }
}
