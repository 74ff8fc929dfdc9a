//! Scans: reading the store by revision for all watchers that are behind at about the same place.
//!
//! A scan goes from the lowest `next` of its riders up to the hub's revision, one slice at a time; the driver
//! yields between slices. A watcher boards the nearest scan behind its `next`, ignores what comes before it, and
//! gets off when its stream has no room, or at the end, synced. There are only a few scans at a time, so watchers
//! that begin far apart do not wait for each other, and a thousand that begin together cost one reading.
//!
//! A slice may end inside a revision. What was found of that revision is kept until the rest is read, because a
//! watcher gets its events of one revision together. When that would be more than the limits allow, half of the
//! watchers that match are parked and the revision begins anew; a single watcher with too much is *large* and gets its
//! revision piece by piece ([`large`](super::large)).
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use super::delivery::{Delivered, Delivery, Mark, Match, Scratch};
use super::encode::Change;
use super::history::{History, PastEvent};
use super::hub::{Hub, MATCH_COST, PASSED_COST, PREV_COST};
use super::key_index::List;
use super::states::BOARDING_MAX;
use super::watcher::State;

/// How much one slice of work may do.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Main revisions with events that someone wants, in one response.
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

/// How a slice of a scan ended.
enum End {
    /// Everything up to the hub's revision was read.
    Arrived,
    /// The next revision to read.
    Between(i64),
    /// The revision that was not read to its end, and where to go on.
    Inside(i64, i64),
    /// One revision alone is too much for those who match.
    TooMuch(i64),
}

/// One slice of a scan while it is read.
struct Slice<'h> {
    hub: &'h mut Hub,
    scan: u8,
    budget: Budget,
    scratch: Scratch,
    /// The revision at hand, and where its events begin.
    current: i64,
    mark: Mark,
    /// Revisions that somebody wants.
    matched: usize,
    spent: usize,
    /// A stream has no room for more. Reading on would be done again.
    full: bool,
    end: End,
}

impl Hub {
    /// One slice of work for those who are behind.
    pub(super) fn scan_slice(&mut self, history: &dyn History, budget: Budget) {
        assert!(history.revision() >= self.revision, "a snapshot is not older than what was published");
        if self.board_waiting() {
            return; // some more board before the scans go on without them
        }
        let Some(number) = self.scans.next_turn() else { return };
        let scan = self.scans.scan(number);
        if scan.due.is_some() {
            self.hand_out(number, budget.bytes);
        } else if self.drop_compacted(number, history.compact_revision()) {
            self.read_slice(number, history, budget);
        }
        self.arrive(number);
    }

    /// Riders that have been sent everything are synced, some at a time. A scan without riders ends.
    fn arrive(&mut self, number: u8) {
        let arrived = self.revision + 1;
        let scan = self.scans.scan(number);
        if scan.due.is_none() && scan.at >= arrived {
            for _ in 0..BOARDING_MAX {
                let Some(&rider) = self.scans.scan(number).riders.first() else { break };
                self.become_synced(rider);
            }
        }
        self.scans.end_if_empty(number);
    }

    /// Watchers for which there was no scan board those that there are now. True if there are more of them.
    fn board_waiting(&mut self) -> bool {
        for _ in 0..BOARDING_MAX {
            let Some((scan, rider)) = self.scans.place_waiting() else { return false };
            self.board(rider, scan);
        }
        true
    }

    /// Hands out more of what a slice has found.
    fn hand_out(&mut self, number: u8, budget: usize) {
        let scan = self.scans.scan(number);
        let Some((from, revision)) = scan.due.take() else { return };
        let mut found = std::mem::take(&mut scan.found);
        let state = State::Riding(number);
        let delivery = Delivery { scratch: &found, state, revision, patient: false };
        let due = match self.deliver(delivery, from, budget) {
            Delivered::All => None,
            Delivered::UpTo(at) | Delivered::OutOfRoom(at) => Some((at, revision)),
        };
        if due.is_none() {
            found.clear();
        }
        let scan = self.scans.scan(number);
        (scan.due, scan.found) = (due, found);
    }

    /// Reads on, and hands out the revisions that are whole.
    fn read_slice(&mut self, number: u8, history: &dyn History, budget: Budget) {
        let to = self.revision;
        self.scans.slices += 1;
        let scan = self.scans.scan(number);
        if scan.riders.is_empty() || scan.at > to {
            return;
        }
        let (from, scratch) = ((scan.at, scan.sub), std::mem::take(&mut scan.found));
        let mut slice = Slice {
            current: if from.1 > 0 { from.0 } else { 0 },
            matched: usize::from(!scratch.revisions.is_empty()),
            hub: self,
            scan: number,
            budget,
            scratch,
            mark: Mark::default(),
            spent: 0,
            full: false,
            end: End::Arrived,
        };
        history.events(from, to, &mut |event| slice.take(&event, history));
        let Slice { mut scratch, mark, end, current, .. } = slice;
        let is_first = mark == Mark::default();
        let (at, sub) = match end {
            End::Arrived => (to + 1, 0),
            End::Between(next) => (next, 0),
            // What was found stays with the scan, unless earlier revisions can be handed out first.
            End::Inside(revision, sub) if is_first => {
                return self.scans.scan(number).go_on(revision, sub, scratch);
            }
            End::TooMuch(revision) if is_first => {
                self.spread(number, &scratch, revision);
                scratch.clear();
                let scan = self.scans.scan(number);
                scan.go_on(revision, 0, scratch);
                scan.closed = true;
                return;
            }
            End::Inside(..) | End::TooMuch(_) => {
                scratch.truncate(mark);
                (current, 0)
            }
        };
        scratch.freeze();
        let scan = self.scans.scan(number);
        scan.go_on(at, sub, scratch);
        scan.due = Some((0, to));
        self.hand_out(number, budget.bytes);
    }

    /// One revision is too much for all who match: half of them wait until the others have it. A watcher that is
    /// left alone with it gets it piece by piece.
    fn spread(&mut self, scan: u8, scratch: &Scratch, revision: i64) {
        let mut matching: Vec<u32> = scratch.matches.iter().map(|found| found.watcher()).collect();
        matching.sort_unstable();
        matching.dedup();
        matching.retain(|&number| {
            let watcher = self.watchers.get(number as usize);
            watcher.is_some_and(|w| w.state == State::Riding(scan) && w.next <= revision)
        });
        if let [alone] = matching[..] {
            return self.become_large(alone, revision);
        }
        for number in matching.split_off(matching.len() / 2) {
            self.park_for_size(number, revision);
        }
    }

    /// Ends the riders whose next revision is compacted, some at a time. True when there are no more of them, and the
    /// scan reads what is not compacted.
    fn drop_compacted(&mut self, number: u8, compact_revision: i64) -> bool {
        for _ in 0..BOARDING_MAX {
            let scan = self.scans.scan(number);
            let Some(rider) = scan.next_unchecked(compact_revision) else { return true };
            let at = scan.at;
            if self.watchers[rider as usize].next.max(at) < compact_revision {
                self.tell_compacted(rider, compact_revision);
            }
        }
        false
    }
}

impl Slice<'_> {
    /// Takes the next event, or ends the slice before it.
    fn take(&mut self, event: &PastEvent<'_>, history: &dyn History) -> ControlFlow<()> {
        if event.revision == self.current {
            let limits = self.hub.config.limits;
            if self.scratch.matches.len() > limits.matches || self.scratch.bytes() > limits.bytes {
                self.end = End::TooMuch(self.current);
                return ControlFlow::Break(());
            }
            // The first event of a slice is always taken, so that every slice gets on.
            if self.spent >= self.budget.bytes && self.spent > 0 {
                self.end = End::Inside(self.current, event.sub);
                return ControlFlow::Break(());
            }
        } else {
            let spent = self.spent.max(self.scratch.bytes());
            let done = self.full || spent >= self.budget.bytes;
            if self.matched >= self.budget.revisions || (self.current != 0 && done) {
                self.end = End::Between(event.revision);
                return ControlFlow::Break(());
            }
            (self.current, self.mark) = (event.revision, self.scratch.mark());
        }
        self.add(event, history);
        ControlFlow::Continue(())
    }

    fn add(&mut self, event: &PastEvent<'_>, history: &dyn History) {
        let Self { hub, scratch, full, .. } = self;
        let hub: &mut Hub = hub;
        let (matched, position, bytes) = (scratch.matches.len(), scratch.position(), scratch.bytes());
        let slice = hub.scans.slices;
        let (streams, riding) = (&mut hub.streams, State::Riding(self.scan));
        hub.index.stab(List::Riding, event.key, &hub.watchers, |number, watcher| {
            if watcher.state == riding && watcher.next <= event.revision && watcher.wants(event.delete) {
                scratch.matches.push(Match::new(number, position));
                *full |= streams[watcher.stream as usize].plan(slice, MATCH_COST + event.kv.len());
            }
        });
        hub.matched += (scratch.matches.len() - matched) as u64;
        self.spent += PASSED_COST + event.key.len();
        if scratch.matches.len() == matched {
            return;
        }
        self.matched += usize::from(scratch.revisions.last() != Some(&event.revision));
        let change = Change { revision: event.revision, delete: event.delete, key: event.key, kv: event.kv };
        scratch.add(change, matched, &hub.watchers, || match event.create {
            true => None,
            false => history.value_at(event.key, event.revision - 1),
        });
        self.spent += (scratch.matches.len() - matched) * MATCH_COST + scratch.bytes() - bytes + PREV_COST;
    }
}
