//! The scans of a hub: where each one is, and who rides it.
//!
//! ```text
//!   reading:     at, inside ──▶         found: what there is of revision `at` so far, if a slice ended inside it
//!   spreading:   leaving ──▶            found: nothing; some riders get off, because `at` is too much for all
//!   handing out: due in found ──▶       found: whole revisions below `at`
//! ```
//!
//! A watcher boards a scan at or behind its `next`, where the scan has begun no revision yet. A watcher for which there
//! is no such scan, nor a free place for another, waits; the furthest behind boards first, so that the others find its
//! scan behind them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use slab::Slab;

use super::delivery::Scratch;
use super::watcher::{State, Watcher};

/// Scans at a time.
pub(super) const SCANS_MAX: usize = 4;

/// A watcher this near behind a scan's place boards it, although it has to wait for it.
const NEAR_REVISIONS: i64 = 4096;

/// One reading of the store.
#[derive(Debug)]
pub(super) struct Scan {
    /// The next revision to read, or the one that is being read. Only grows.
    pub(super) at: i64,
    /// The sub revision to go on with, if a slice ended inside revision `at`: before that event or amid its watchers.
    pub(super) inside: Option<i64>,
    /// Nobody boards at `at`: that revision is too much for those who were on board.
    pub(super) closed: bool,
    /// Riders that are to be parked at `at`. May name watchers that are gone or ride no longer.
    pub(super) leaving: Vec<u32>,
    /// What was found and not handed out; empty unless a slice ended inside `at` or something is due.
    pub(super) found: Scratch,
    /// What was found is being handed out: the next match, and the revision of headers.
    pub(super) due: Option<(usize, i64)>,
    /// Watchers that ride the scan.
    pub(super) riders: BTreeSet<u32>,
    /// The compaction that riders are compared with, and the first rider that was not compared yet.
    unchecked: (i64, u32),
}

impl Scan {
    fn new(at: i64) -> Self {
        Self {
            at,
            inside: None,
            closed: false,
            leaving: Vec::new(),
            found: Scratch::default(),
            due: None,
            riders: BTreeSet::new(),
            unchecked: (-1, 0),
        }
    }

    /// The first revision of which a watcher that boards now misses nothing.
    fn boarding_at(&self) -> i64 {
        self.at + i64::from(self.inside.is_some() || self.closed)
    }

    /// The slice has ended here.
    pub(super) fn go_on(&mut self, at: i64, inside: Option<i64>, found: Scratch) {
        self.closed &= at == self.at;
        (self.at, self.inside, self.found) = (at, inside, found);
    }

    /// A rider that was not yet compared with this compaction. After the last, the scan reads what is not compacted.
    pub(super) fn next_unchecked(&mut self, compact_revision: i64) -> Option<u32> {
        if self.at >= compact_revision {
            return None;
        }
        if self.unchecked.0 != compact_revision {
            self.unchecked = (compact_revision, 0);
        }
        let rider = self.riders.range(self.unchecked.1..).next().copied();
        if let Some(rider) = rider {
            self.unchecked.1 = rider + 1;
            return Some(rider);
        }
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.go_on(compact_revision, None, found);
        None
    }
}

/// All scans of a hub.
#[derive(Debug, Default)]
pub(super) struct Scans {
    slots: [Option<Scan>; SCANS_MAX],
    /// Watchers for which there was no scan, by their `next`.
    waiting: BTreeSet<(i64, u32)>,
    /// The slot whose turn it was last.
    turn: usize,
    /// Slices read so far.
    pub(super) slices: u64,
}

impl Scans {
    /// A rider leaves its scan.
    pub(super) fn get_off(&mut self, scan: u8, number: u32) {
        self.scan(scan).riders.remove(&number);
    }

    /// A rider boards a scan.
    pub(super) fn board(&mut self, scan: u8, number: u32) {
        let scan = self.scan(scan);
        scan.riders.insert(number);
        scan.unchecked.1 = scan.unchecked.1.min(number);
    }

    /// A watcher waits for a scan.
    pub(super) fn wait(&mut self, next: i64, number: u32) {
        self.waiting.insert((next, number));
    }

    /// A watcher waits no longer.
    pub(super) fn give_up(&mut self, next: i64, number: u32) {
        self.waiting.remove(&(next, number));
    }

    /// Whether a scan has something to read, or somebody waits for one.
    pub(super) fn are_running(&self) -> bool {
        !self.waiting.is_empty() || self.slots.iter().any(Option::is_some)
    }

    pub(super) fn scan(&mut self, scan: u8) -> &mut Scan {
        self.slots[usize::from(scan)].as_mut().expect("a rider's scan exists")
    }

    /// Ends a scan that nobody rides. True if it did.
    pub(super) fn end_if_empty(&mut self, scan: u8) -> bool {
        self.slots[usize::from(scan)].take_if(|scan| scan.riders.is_empty()).is_some()
    }

    /// The scan for a watcher at `next`: one close behind it, else one of its own, else any behind it.
    pub(super) fn place(&mut self, next: i64) -> Option<u8> {
        let place =
            |(slot, scan): (usize, &Option<Scan>)| scan.as_ref().map(|scan| (scan.boarding_at(), slot));
        let nearest = self.slots.iter().enumerate().filter_map(place).filter(|&(at, _)| at <= next).max();
        if let Some((at, slot)) = nearest
            && next - at <= NEAR_REVISIONS
        {
            return Some(slot as u8);
        }
        if let Some(slot) = self.slots.iter().position(Option::is_none) {
            self.slots[slot] = Some(Scan::new(next));
            return Some(slot as u8);
        }
        nearest.map(|(_, slot)| slot as u8)
    }

    /// A scan for the watcher that waits furthest behind, if there is one by now.
    pub(super) fn place_waiting(&mut self) -> Option<(u8, u32)> {
        let &(next, number) = self.waiting.first()?;
        let scan = self.place(next)?;
        self.waiting.pop_first();
        Some((scan, number))
    }

    /// The slot whose turn it is.
    pub(super) fn next_turn(&mut self) -> Option<u8> {
        let slots = (1..=SCANS_MAX).map(|step| (self.turn + step) % SCANS_MAX);
        let slot = { slots }.find(|&slot| self.slots[slot].is_some())?;
        self.turn = slot;
        Some(slot as u8)
    }

    /// Checks what must hold between calls.
    pub(super) fn check(&self, watchers: &Slab<Watcher>) {
        for (number, watcher) in watchers {
            let number = number as u32;
            let rides = |slot: u8| {
                self.slots[usize::from(slot)].as_ref().is_some_and(|scan| scan.riders.contains(&number))
            };
            match watcher.state {
                State::Riding(slot) => assert!(rides(slot), "a scan finds its riders"),
                State::Waiting => {
                    assert!(self.waiting.contains(&(watcher.next, number)), "waiting watchers are listed");
                }
                _ => {}
            }
        }
        let listed = |state: fn(&State) -> bool| watchers.iter().filter(|(_, w)| state(&w.state)).count();
        let aboard: usize = self.slots.iter().flatten().map(|scan| scan.riders.len()).sum();
        assert_eq!(aboard, listed(|state| matches!(state, State::Riding(_))), "riders are on board");
        assert_eq!(self.waiting.len(), listed(|state| *state == State::Waiting));
        for scan in self.slots.iter().flatten() {
            let is_empty = scan.found.position() == 0;
            assert!(is_empty || scan.inside.is_some() || scan.due.is_some(), "what was found is of use");
        }
    }
}
