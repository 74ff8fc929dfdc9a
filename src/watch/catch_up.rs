//! Scans: reading the store by revision for all watchers that are behind at about the same place.
//!
//! A scan goes from the lowest `next` of its riders up to the hub's revision, one slice at a time; the driver
//! yields between slices. A watcher boards the nearest scan behind its `next`, ignores what comes before it, and
//! gets off when its stream has no room, or at the end, synced. There are only a few scans at a time, so watchers
//! that begin far apart do not wait for each other, and a thousand that begin together cost one reading.
//!
//! A slice may end inside a revision, before an event or amid its watchers. What was found of that revision is kept
//! until the rest is read, because a watcher gets its events of one revision together. When that would be more than the
//! limits allow, half of the watchers found so far are parked and the revision begins anew; a single watcher with too
//! much is *large* and gets its revision piece by piece ([`large`](super::large)).
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use super::delivery::{Delivered, Delivery, Mark, Scratch};
use super::encode::Change;
use super::history::{History, PastEvent};
use super::hub::{Hub, MATCH_COST, PASSED_COST, PREV_COST};
use super::states::BOARDING_MAX;
use super::walk::Walk;
use super::watcher::State;

/// How much one slice of work may do.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Main revisions with events that someone wants, in one response.
    pub revisions: usize,
    /// Bytes encoded, and what the rest of the work is worth in bytes.
    pub bytes: usize,
    /// Watchers that are looked at to find those whom an event is for.
    pub looks: usize,
}

impl Default for Budget {
    /// At most a thousand revisions in a response, as etcd has it, and about half a millisecond of work.
    fn default() -> Self {
        Self { revisions: 1000, bytes: 256 << 10, looks: 1 << 14 }
    }
}

/// How a slice of a scan ended.
enum End {
    /// Everything up to the hub's revision was read.
    Arrived,
    /// The next revision to read.
    Between(i64),
    /// The revision that was not read to its end, and the event to go on with.
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
    /// The event that the last slice has matched with some of its watchers.
    amid: Option<(i64, i64)>,
    /// The revision at hand, and where its events begin.
    current: i64,
    mark: Mark,
    /// Revisions that somebody wants.
    matched: usize,
    spent: usize,
    /// Looks that are left.
    looks: usize,
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
        } else if !scan.leaving.is_empty() {
            self.spread(number);
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
        if self.scans.end_if_empty(number) {
            self.index.give_up(Walk::Scan(number));
        }
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
        let (inside, walk) = (scan.inside, Walk::Scan(number));
        let from = (scan.at, inside.unwrap_or(0));
        let scratch = std::mem::take(&mut scan.found);
        if inside.is_none() {
            // The revision is read from its beginning, also where a compaction has moved the scan on amid an event.
            self.index.give_up(walk);
        }
        let mut slice = Slice {
            amid: self.index.is_amid(walk).then_some(from),
            current: inside.map_or(0, |_| from.0),
            matched: usize::from(!scratch.revisions.is_empty()),
            hub: self,
            scan: number,
            budget,
            scratch,
            mark: Mark::default(),
            spent: 0,
            looks: budget.looks.max(1),
            full: false,
            end: End::Arrived,
        };
        history.events(from, to, &mut |event| slice.take(&event, history));
        slice.go_on_with(None);
        let Slice { mut scratch, mark, end, current, .. } = slice;
        let is_first = mark == Mark::default();
        let at = match end {
            End::Arrived => to + 1,
            End::Between(next) => next,
            // What was found stays with the scan, unless earlier revisions can be handed out first.
            End::Inside(revision, sub) if is_first => {
                return self.scans.scan(number).go_on(revision, Some(sub), scratch);
            }
            End::TooMuch(revision) if is_first => {
                self.begin_spreading(number, &scratch, revision);
                scratch.clear();
                let scan = self.scans.scan(number);
                scan.go_on(revision, None, scratch);
                scan.closed = true;
                return self.spread(number);
            }
            End::Inside(..) | End::TooMuch(_) => {
                scratch.truncate(mark);
                current
            }
        };
        scratch.freeze();
        let scan = self.scans.scan(number);
        scan.go_on(at, None, scratch);
        scan.due = Some((0, to));
        self.hand_out(number, budget.bytes);
    }

    /// One revision is too much for all who match: half of those found so far wait until the others have it. A watcher
    /// that is left alone with it gets it piece by piece.
    fn begin_spreading(&mut self, scan: u8, scratch: &Scratch, revision: i64) {
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
        let mut leaving = matching.split_off(matching.len() / 2);
        leaving.reverse();
        self.scans.scan(scan).leaving = leaving;
    }

    /// Parks riders for which the revision at hand is too much, some at a time.
    fn spread(&mut self, number: u8) {
        for _ in 0..BOARDING_MAX {
            let scan = self.scans.scan(number);
            let Some(rider) = scan.leaving.pop() else { return scan.leaving = Vec::new() };
            let at = scan.at;
            let watcher = self.watchers.get(rider as usize);
            if watcher.is_some_and(|w| w.state == State::Riding(number) && w.next <= at) {
                self.park_for_size(rider, at);
            }
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
        self.go_on_with(Some((event.revision, event.sub)));
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
        if self.meet_riders(event) {
            self.add(event, history);
            return ControlFlow::Continue(());
        }
        self.end = End::Inside(self.current, event.sub);
        ControlFlow::Break(())
    }

    /// The slice reads this event next, or none. An event whose matching was under way and that is not read again was
    /// superseded within its revision, to which a compaction has been since: nobody gets it.
    fn go_on_with(&mut self, event: Option<(i64, i64)>) {
        if let Some(amid) = self.amid.take()
            && Some(amid) != event
        {
            self.hub.index.give_up(Walk::Scan(self.scan));
            self.scratch.drop_matches();
        }
    }

    /// Matches the event with further riders. True if these were the last.
    fn meet_riders(&mut self, event: &PastEvent<'_>) -> bool {
        let Self { hub, scratch, full, looks, .. } = self;
        let Hub { index, watchers, streams, scans, .. } = &mut **hub;
        let (matched, riding) = (scratch.matches.len(), State::Riding(self.scan));
        let has_met_all = index.walk(Walk::Scan(self.scan), event.key, looks, watchers, |number, watcher| {
            if watcher.state == riding && watcher.next <= event.revision && watcher.wants(event.delete) {
                scratch.add_match(number, watcher);
                let bytes = MATCH_COST + event.kv.len();
                *full |= streams[watcher.stream as usize].plan(scans.slices, bytes);
            }
        });
        let matches = scratch.matches.len() - matched;
        hub.matched += matches as u64;
        self.spent += PASSED_COST + event.key.len() + matches * MATCH_COST;
        has_met_all
    }

    /// Adds an event that all who are interested have matched.
    fn add(&mut self, event: &PastEvent<'_>, history: &dyn History) {
        let scratch = &mut self.scratch;
        let (position, bytes) = (scratch.position(), scratch.bytes());
        let is_new = scratch.revisions.last() != Some(&event.revision);
        let change = Change { revision: event.revision, delete: event.delete, key: event.key, kv: event.kv };
        scratch.add(change, || match event.create {
            true => None,
            false => history.value_at(event.key, event.revision - 1),
        });
        if scratch.position() > position {
            self.matched += usize::from(is_new);
            self.spent += scratch.bytes() - bytes + PREV_COST;
        }
    }
}
