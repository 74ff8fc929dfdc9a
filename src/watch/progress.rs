//! Progress: the promise that everything up to a revision has been sent.
//!
//! A promise names the hub's revision, and outputs leave in order, so it follows every event it covers. It is given
//! only for watchers that are synced; where it cannot be given, the answer is silence, and the client asks again.
//!
//! A manual request costs no look at the stream's watchers: the stream counts those that are not synced, and lists
//! those whose start is still to come.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::encode::Fields;
use super::history::History;
use super::hub::{Hub, NO_WATCHER, StreamId};
use super::watcher::{Flags, State, Watcher};
use crate::stdx::time::Instant;

/// What looking at one watcher costs, in bytes.
const LOOK_COST: usize = 32;

/// Streams that are promised something in one piece of work.
const PROMISED_MAX: usize = 1024;

/// A stream whose watchers are being notified, and where to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notice {
    stream: StreamId,
    watch_id: i64,
}

impl Hub {
    /// A manual progress request. It is answered when everything that `history` contains has been published here. One
    /// answer is enough for all requests of a stream that wait for it.
    pub fn progress(&mut self, id: StreamId, history: &dyn History) {
        self.see(history);
        let known = self.known;
        let Some(stream) = self.stream_mut(id) else { return };
        if stream.promise.replace(known).is_none() {
            self.promises.push_back((known, id));
        }
        self.keep_promises();
    }

    /// Whether a progress request can be answered whose revision was reached.
    pub(super) fn owes_promises(&self) -> bool {
        !self.live.is_handing_out()
            && self.promises.front().is_some_and(|&(revision, _)| revision <= self.revision)
    }

    /// Answers progress requests whose revision was reached, some at a time.
    pub(super) fn keep_promises(&mut self) {
        for _ in 0..PROMISED_MAX {
            if !self.owes_promises() {
                return;
            }
            let Some((revision, id)) = self.promises.pop_front() else { return };
            let Some(stream) = self.stream_mut(id) else { continue };
            match stream.promise {
                // Asked for again, at a later revision.
                Some(later) if later > revision => self.promises.push_back((later, id)),
                _ => {
                    stream.promise = None;
                    self.promise(id);
                }
            }
        }
    }

    fn promise(&mut self, id: StreamId) {
        let revision = self.revision;
        let stream = &mut self.streams[id.slot()];
        stream.forget_reached(revision);
        let is_current = stream.unsynced == 0 && stream.ahead.is_empty() && !stream.watchers.is_empty();
        if is_current && stream.room > 0 {
            let fields = Fields { watch_id: NO_WATCHER, ..Fields::default() };
            self.respond(id.slot(), revision, fields, Bytes::new());
        }
    }

    /// When [`Hub::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Notes the progress notifications that are due. [`Hub::work`] sends them.
    pub fn tick(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(stream) = self.stream_mut(id) else { continue };
            // Intervals that nobody ticked for are left out.
            stream.deadline = deadline + stream.interval;
            if stream.deadline <= now {
                stream.deadline = now + stream.interval;
            }
            let notified = std::mem::replace(&mut stream.notifying, true);
            self.deadlines.insert((self.streams[id.slot()].deadline, id));
            if !notified {
                self.notices.push_back(Notice { stream: id, watch_id: i64::MIN });
            }
        }
    }

    /// The interval of a stream has ended: each watcher that was sent nothing during the interval is told how far the
    /// hub is. One call looks at some of the watchers.
    pub(super) fn notify_slice(&mut self, budget: usize) {
        let Some(Notice { stream: id, watch_id }) = self.notices.pop_front() else { return };
        let Some(stream) = self.stream(id) else { return };
        let looks = (budget / LOOK_COST).max(1);
        let numbers: Vec<(i64, u32)> =
            stream.watchers.range(watch_id..).take(looks).map(|(&id, &number)| (id, number)).collect();
        for &(_, number) in &numbers {
            self.notify(id, number);
        }
        match numbers.last() {
            Some(&(last, _)) if numbers.len() == looks && last < i64::MAX => {
                self.notices.push_front(Notice { stream: id, watch_id: last + 1 });
            }
            _ => self.streams[id.slot()].notifying = false,
        }
    }

    /// Sends all notifications that are due.
    #[cfg(test)]
    pub(super) fn notify_all(&mut self) {
        while !self.notices.is_empty() {
            self.notify_slice(usize::MAX);
        }
    }

    fn notify(&mut self, id: StreamId, number: u32) {
        let watcher = &self.watchers[number as usize];
        if !watcher.flags.has(Flags::PROGRESS) {
            return;
        }
        let due = watcher.flags.has(Flags::QUIET) && self.is_current(watcher);
        let stream = &self.streams[id.slot()];
        if due && stream.room > 0 && stream.large.is_none() {
            let fields = Fields { watch_id: watcher.id, ..Fields::default() };
            self.respond(id.slot(), self.revision, fields, Bytes::new());
        }
        if let Some(watcher) = self.watchers.get_mut(number as usize) {
            watcher.flags.set(Flags::QUIET, true);
        }
    }

    /// True if the watcher has been sent everything up to the hub's revision, and its start is not after it.
    fn is_current(&self, watcher: &Watcher) -> bool {
        watcher.state == State::Synced && watcher.first() <= self.revision
    }
}
