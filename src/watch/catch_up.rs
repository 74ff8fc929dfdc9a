//! Scans: reading the store by revision for all watchers that are behind at about the same place.
//!
//! A scan goes from the lowest `next` of its riders up to the hub's revision, one slice at a time; the driver
//! yields between slices. A watcher boards the nearest scan behind its `next`, ignores what comes before it, and
//! gets off when its stream has no room, or at the end, synced. There are only a few scans at a time, so watchers
//! that begin far apart do not wait for each other, and a thousand that begin together cost one reading.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use slab::Slab;

use super::encode::Change;
use super::history::History;
use super::hub::{Hub, Match};
use super::key_index::List;
use super::watcher::{Flags, State, Watcher};

/// Scans at a time.
const SCANS_MAX: usize = 4;

/// A watcher this near behind a scan's place boards it, although it has to wait for it.
const NEAR_REVISIONS: i64 = 4096;

/// What reading past an event that nobody wants costs, besides its key, and what one match costs.
const PASSED_BYTES: usize = 64;
const MATCH_BYTES: usize = 16;

/// How much one slice of catching up may do; a slice ends between two revisions.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Main revisions with events that someone wants.
    pub revisions: usize,
    /// Bytes encoded, and what the rest of the work is worth in bytes.
    pub bytes: usize,
}

impl Default for Budget {
    /// At most a thousand revisions in a response, as etcd has it, and about half a millisecond of work.
    fn default() -> Self {
        Self { revisions: 1000, bytes: 256 << 10 }
    }
}

/// One reading of the store.
#[derive(Debug)]
pub(super) struct Scan {
    /// The next revision to read. Only grows.
    at: i64,
    /// Those on board; may name watchers that got off or are gone.
    riders: Vec<u32>,
    /// How many are on board.
    aboard: usize,
}

/// All readings of a hub.
#[derive(Debug, Default)]
pub(super) struct Scans {
    slots: [Option<Scan>; SCANS_MAX],
    /// Watchers for which there was no scan; may name watchers that are gone.
    waiting: Vec<u32>,
    /// The slot whose turn it was last.
    turn: usize,
    /// Slices read so far.
    slices: u64,
}

impl Scans {
    /// A rider leaves its scan.
    pub(super) fn get_off(&mut self, scan: u8) {
        self.scan(scan).aboard -= 1;
    }

    fn scan(&mut self, scan: u8) -> &mut Scan {
        self.slots[usize::from(scan)].as_mut().expect("a rider's scan exists")
    }

    /// The scan for a watcher at `next`: one close behind it, else one of its own, else any behind it.
    fn place(&mut self, next: i64) -> Option<u8> {
        let place = |(slot, scan): (usize, &Option<Scan>)| scan.as_ref().map(|scan| (scan.at, slot));
        let nearest = self.slots.iter().enumerate().filter_map(place).filter(|&(at, _)| at <= next).max();
        if let Some((at, slot)) = nearest
            && next - at <= NEAR_REVISIONS
        {
            return Some(slot as u8);
        }
        if let Some(slot) = self.slots.iter().position(Option::is_none) {
            self.slots[slot] = Some(Scan { at: next, riders: Vec::new(), aboard: 0 });
            return Some(slot as u8);
        }
        nearest.map(|(_, slot)| slot as u8)
    }

    /// The slot whose turn it is.
    fn next_turn(&mut self) -> Option<u8> {
        let slots = (1..=SCANS_MAX).map(|step| (self.turn + step) % SCANS_MAX);
        let slot = { slots }.find(|&slot| self.slots[slot].is_some())?;
        self.turn = slot;
        Some(slot as u8)
    }

    /// Checks what must hold between calls.
    pub(super) fn check(&self, watchers: &Slab<Watcher>) {
        for (slot, scan) in self.slots.iter().enumerate() {
            let Some(scan) = scan else { continue };
            let rides = |w: &Watcher| w.state == State::Riding(slot as u8);
            let aboard = watchers.iter().filter(|(_, watcher)| rides(watcher)).count();
            assert_eq!(aboard, scan.aboard, "a scan counts its riders");
            let found = |number: usize| scan.riders.contains(&(number as u32));
            assert!(watchers.iter().all(|(number, w)| !rides(w) || found(number)), "a scan finds its riders");
        }
        let waits = |w: &Watcher| w.state == State::Waiting;
        let found = |number: usize| self.waiting.contains(&(number as u32));
        assert!(watchers.iter().all(|(number, w)| !waits(w) || found(number)), "nobody waits for ever");
        let scanning = self.slots.iter().any(Option::is_some);
        assert!(scanning || watchers.iter().all(|(_, w)| !waits(w)), "who waits, waits for a scan");
    }
}

impl Hub {
    /// True if there is something to read for somebody who can take it.
    pub fn needs_catch_up(&self) -> bool {
        self.scans.slots.iter().any(Option::is_some)
    }

    /// Reads one slice of the store for those who are behind.
    pub fn catch_up(&mut self, history: &dyn History, budget: Budget) {
        self.see(history);
        assert!(history.revision() >= self.revision, "a snapshot is not older than what was published");
        let Some(number) = self.scans.next_turn() else { return };
        let compacted = history.compact_revision();
        self.drop_compacted(number, compacted);
        let scan = self.scans.scan(number);
        scan.at = scan.at.max(compacted);
        let from = scan.at;
        let mut next = self.revision + 1;
        if scan.aboard > 0 && from < next {
            next = self.read_slice(number, from, history, budget);
        }
        let scan = self.scans.scan(number);
        scan.at = next;
        if scan.aboard == 0 || next > self.revision {
            self.finish(number);
        }
    }

    /// Hands out the events from `from` on, and returns the revision to go on from.
    fn read_slice(&mut self, scan: u8, from: i64, history: &dyn History, budget: Budget) -> i64 {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear(self.config.response_bytes_max);
        let mut next = self.revision + 1;
        let (mut current, mut passed, mut matched_revisions) = (0, 0, 0);
        // Reading on for a stream that is full would be done again: what it has no room for is thrown away.
        let mut full = false;
        self.scans.slices += 1;
        let slice = self.scans.slices;
        history.events(from, self.revision, &mut |event| {
            if event.revision != current {
                let spent = passed
                    + scratch.plain.len()
                    + scratch.with_prev.len()
                    + scratch.matches.len() * MATCH_BYTES;
                if matched_revisions >= budget.revisions || (current != 0 && (full || spent >= budget.bytes))
                {
                    next = event.revision;
                    return ControlFlow::Break(());
                }
                current = event.revision;
            }
            let matched = scratch.matches.len();
            let position = scratch.revisions.len() as u32;
            self.index.stab(List::Riding, event.key, &self.watchers, |number, watcher| {
                let aboard = watcher.state == State::Riding(scan);
                if aboard && watcher.next <= event.revision && watcher.wants(event.delete) {
                    scratch.matches.push(Match::new(number, position));
                    full |= self.streams[watcher.stream as usize].plan(slice, MATCH_BYTES + event.kv.len());
                }
            });
            if scratch.matches.len() == matched {
                passed += PASSED_BYTES + event.key.len();
                return ControlFlow::Continue(());
            }
            matched_revisions += usize::from(scratch.revisions.last() != Some(&event.revision));
            let change =
                Change { revision: event.revision, delete: event.delete, key: event.key, kv: event.kv };
            scratch.add(change, matched, &self.watchers, || match event.create {
                true => None,
                false => history.value_at(event.key, event.revision - 1),
            });
            ControlFlow::Continue(())
        });
        self.deliver(&mut scratch, self.revision);
        self.scratch = scratch;
        next
    }

    /// Lets a watcher that is on no list board a scan, at its `next`.
    pub(super) fn ride(&mut self, number: u32) {
        let next = self.watchers[number as usize].next;
        if next > self.revision {
            return self.become_synced(number);
        }
        match self.scans.place(next) {
            Some(scan) => self.board(number, scan),
            None => {
                self.watchers[number as usize].state = State::Waiting;
                let watchers = &self.watchers;
                thin_out(&mut self.scans.waiting, watchers, |w| w.state == State::Waiting);
                self.scans.waiting.push(number);
            }
        }
    }

    fn board(&mut self, number: u32, scan: u8) {
        self.watchers[number as usize].state = State::Riding(scan);
        self.index.link(List::Riding, number, &mut self.watchers);
        let entered = self.scans.scan(scan);
        thin_out(&mut entered.riders, &self.watchers, |w| w.state == State::Riding(scan));
        entered.riders.push(number);
        entered.aboard += 1;
    }

    /// Ends the riders whose next revision is compacted.
    fn drop_compacted(&mut self, scan: u8, compact_revision: i64) {
        let at = self.scans.scan(scan).at;
        if at >= compact_revision {
            return;
        }
        let riders = self.scans.scan(scan).riders.clone();
        for number in riders {
            let late = self
                .watchers
                .get(number as usize)
                .is_some_and(|w| w.state == State::Riding(scan) && w.next.max(at) < compact_revision);
            if late {
                self.tell_compacted(number, compact_revision);
            }
        }
    }

    /// The scan has arrived: its riders are synced, and those who waited for a scan start one.
    fn finish(&mut self, scan: u8) {
        for number in std::mem::take(&mut self.scans.scan(scan).riders) {
            if self.watchers.get(number as usize).is_some_and(|w| w.state == State::Riding(scan)) {
                self.become_synced(number);
            }
        }
        assert!(self.scans.scan(scan).aboard == 0, "every rider is on its scan's list");
        self.scans.slots[usize::from(scan)] = None;
        let mut waiting = std::mem::take(&mut self.scans.waiting);
        waiting
            .retain(|&number| self.watchers.get(number as usize).is_some_and(|w| w.state == State::Waiting));
        // The furthest behind first: the others find its scan behind them.
        waiting.sort_unstable_by_key(|&number| (self.watchers[number as usize].next, number));
        waiting.dedup();
        for number in waiting {
            self.ride(number);
        }
    }

    /// A rider has been sent everything that was published.
    pub(super) fn become_synced(&mut self, number: u32) {
        self.detach(number);
        let watcher = &mut self.watchers[number as usize];
        watcher.state = State::Synced;
        if watcher.next <= self.revision {
            watcher.next = self.revision + 1;
            watcher.flags.set(Flags::FUTURE, false);
        }
        self.count_synced(number);
        self.index.link(List::Synced, number, &mut self.watchers);
    }
}

/// Keeps a list that is cleaned only when it is used from growing without end under watchers that come and go.
pub(super) fn thin_out(list: &mut Vec<u32>, watchers: &Slab<Watcher>, belongs: impl Fn(&Watcher) -> bool) {
    if list.len() == list.capacity() && !list.is_empty() {
        list.sort_unstable();
        list.dedup();
        list.retain(|&number| watchers.get(number as usize).is_some_and(&belongs));
        if list.len() > list.capacity() / 2 {
            list.reserve(list.capacity());
        }
    }
}
