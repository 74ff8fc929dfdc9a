//! The states of a watcher, and a function for each arrow between them; see the picture in the folder's page.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;
use slab::Slab;

use super::encode::Fields;
use super::hub::{Hub, StreamId};
use super::key_index::List;
use super::watcher::{Flags, State, Watcher};

/// Parked watchers of a stream that ride together at first. If the stream then has room left, twice as many follow.
const WAVE_MIN: usize = 64;

/// Watchers that board a scan or get off it in one piece of work.
pub(super) const BOARDING_MAX: usize = 512;

impl Hub {
    /// Takes a watcher out of the live path or its scan, before its state changes.
    pub(super) fn detach(&mut self, number: u32) {
        match self.watchers[number as usize].state {
            State::Synced => self.index.unlink(List::Synced, number, &mut self.watchers),
            State::Riding(scan) => {
                self.index.unlink(List::Riding, number, &mut self.watchers);
                self.scans.get_off(scan, number);
            }
            State::Waiting => self.scans.give_up(self.watchers[number as usize].next, number),
            State::Parked | State::Large | State::Compacted => {}
        }
    }

    /// A watcher of a wave no longer rides: the next of its stream may.
    pub(super) fn leave_wave(&mut self, number: u32) {
        let watcher = &mut self.watchers[number as usize];
        if !watcher.flags.has(Flags::WAVE) {
            return;
        }
        watcher.flags.set(Flags::WAVE, false);
        let stream = &mut self.streams[watcher.stream as usize];
        stream.wave_riders -= 1;
        let id = stream.id;
        self.make_ready(id);
    }

    /// Any state to parked: the watcher has been sent everything below `next`, and the rest has to wait.
    pub(super) fn park(&mut self, number: u32, next: i64) {
        self.detach(number);
        let live = self.watchers[number as usize].state == State::Synced;
        if live {
            self.count_unsynced(number);
        }
        let watcher = &mut self.watchers[number as usize];
        watcher.flags.set(Flags::LIVE, live || watcher.flags.has(Flags::LIVE));
        watcher.flags.set(Flags::FUTURE, false);
        watcher.state = State::Parked;
        watcher.next = next;
        let slot = watcher.stream as usize;
        let (stream, watchers) = (&mut self.streams[slot], &self.watchers);
        if stream.room <= 0 {
            (stream.choked, stream.wave) = (true, WAVE_MIN);
        }
        thin_out(&mut stream.parked, watchers, |w| w.state == State::Parked && w.stream as usize == slot);
        stream.parked.push_back(number);
        let id = stream.id;
        self.leave_wave(number);
        self.make_ready(id);
    }

    /// A slice had too much for too many watchers: fewer of this one's stream ride together from now on.
    pub(super) fn park_for_size(&mut self, number: u32, next: i64) {
        let stream = &mut self.streams[self.watchers[number as usize].stream as usize];
        (stream.choked, stream.wave) = (true, (stream.wave / 2).clamp(1, WAVE_MIN));
        self.park(number, next);
    }

    /// Notes a stream whose parked watchers may ride.
    pub(super) fn make_ready(&mut self, id: StreamId) {
        let Some(stream) = self.stream_mut(id) else { return };
        let may = stream.room > 0 && stream.large.is_none() && stream.wave_riders < stream.wave;
        if may && !stream.parked.is_empty() && !std::mem::replace(&mut stream.ready, true) {
            self.ready.push_back(id);
        }
    }

    /// Parked to riding: as many watchers of a stream with room as belong to its wave.
    pub(super) fn board_wave(&mut self) {
        let Some(id) = self.ready.pop_front() else { return };
        let Some(stream) = self.stream_mut(id) else { return };
        stream.ready = false;
        if stream.wave_riders == 0 {
            let wave = if stream.choked { stream.wave } else { stream.wave.saturating_mul(2) };
            (stream.wave, stream.choked) = (wave, false);
        }
        for _ in 0..BOARDING_MAX {
            let stream = &mut self.streams[id.slot()];
            if stream.room <= 0 || stream.large.is_some() || stream.wave_riders >= stream.wave {
                return;
            }
            let Some(number) = stream.parked.pop_front() else { return };
            // The list may name a watcher that was cancelled, and whose number belongs to another by now.
            let Some(watcher) = self.watchers.get_mut(number as usize) else { continue };
            if watcher.state == State::Parked && watcher.stream as usize == id.slot() {
                watcher.flags.set(Flags::WAVE, true);
                stream.wave_riders += 1;
                self.ride(number);
            }
        }
        self.make_ready(id);
    }

    /// To riding: a watcher that is on no list boards a scan at its `next`, or waits for one.
    pub(super) fn ride(&mut self, number: u32) {
        let next = self.watchers[number as usize].next;
        if next > self.revision {
            return self.become_synced(number);
        }
        match self.scans.place(next) {
            Some(scan) => self.board(number, scan),
            None => {
                self.watchers[number as usize].state = State::Waiting;
                self.scans.wait(next, number);
            }
        }
    }

    /// To riding: a watcher that is on no list boards a scan.
    pub(super) fn board(&mut self, number: u32, scan: u8) {
        self.watchers[number as usize].state = State::Riding(scan);
        self.index.link(List::Riding, number, &mut self.watchers);
        self.scans.board(scan, number);
    }

    /// Riding to synced: everything that was published has been sent.
    pub(super) fn become_synced(&mut self, number: u32) {
        self.detach(number);
        let watcher = &mut self.watchers[number as usize];
        watcher.state = State::Synced;
        if watcher.next <= self.revision {
            watcher.next = self.revision + 1;
            watcher.flags.set(Flags::FUTURE, false);
        }
        self.leave_wave(number);
        self.count_synced(number);
        self.index.link(List::Synced, number, &mut self.watchers);
    }

    /// To compacted: the watcher's next revisions are gone. The client still has to cancel it.
    pub(super) fn tell_compacted(&mut self, number: u32, compact_revision: i64) {
        self.detach(number);
        let watcher = &mut self.watchers[number as usize];
        watcher.state = State::Compacted;
        let (slot, watch_id) = (watcher.stream as usize, watcher.id);
        self.leave_wave(number);
        let fields = Fields { watch_id, canceled: true, compact_revision, ..Fields::default() };
        self.respond(slot, 0, fields, Bytes::new());
    }

    /// Synced to riding: batches are missing, and the watcher reads on from the store.
    pub(super) fn fall_back(&mut self, number: u32, next: i64) {
        self.detach(number);
        let watcher = &mut self.watchers[number as usize];
        watcher.next = watcher.next.max(next);
        watcher.state = State::Waiting;
        self.count_unsynced(number);
        self.ride(number);
    }

    /// One unsynced watcher less.
    fn count_synced(&mut self, number: u32) {
        let slot = self.watchers[number as usize].stream as usize;
        self.streams[slot].unsynced -= 1;
        self.unsynced -= 1;
    }

    pub(super) fn count_unsynced(&mut self, number: u32) {
        let slot = self.watchers[number as usize].stream as usize;
        self.streams[slot].unsynced += 1;
        self.unsynced += 1;
    }
}

/// Keeps a list that is cleaned only when it is used from growing without end under watchers that come and go.
fn thin_out(list: &mut VecDeque<u32>, watchers: &Slab<Watcher>, belongs: impl Fn(&Watcher) -> bool) {
    if list.len() == list.capacity() && !list.is_empty() {
        let mut numbers: Vec<u32> = list.drain(..).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|&number| watchers.get(number as usize).is_some_and(&belongs));
        list.extend(numbers);
        if list.len() > list.capacity() / 2 {
            list.reserve(list.capacity());
        }
    }
}
