//! The live path: published batches, handed to synced watchers slice by slice.
//!
//! ```text
//!   queue ──▶ match ──────────▶ deliver ──▶ next batch
//!               │ too much at once             ▲
//!               └──────▶ park who matches ─────┤
//!   gap, full queue ──▶ fall back, everybody ──┘
//! ```
//!
//! A batch that matches more than a slice may hold is not delivered from memory: whoever it is for is parked at its
//! revision and reads it from the store, few at a time. The queue is bounded the same way: a batch that does not fit
//! is forgotten, which later shows as a gap, and everybody reads on from the store.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::catch_up::Budget;
use super::delivery::{Delivered, Delivery, RESPONSE_COST, Scratch};
use super::encode::Change;
use super::history::{EventBatch, History};
use super::hub::{Hub, MATCH_COST, PASSED_COST, PREV_COST};
use super::walk::Walk;
use super::watcher::{State, Watcher};

/// Batches that may wait, and events in them, before the store is the buffer.
const QUEUED_BATCHES_MAX: usize = 4096;
const QUEUED_EVENTS_MAX: usize = 1 << 16;

/// What is being done with the batch at hand.
#[derive(Debug)]
enum Step {
    /// The next event to match, or to match with further watchers.
    Match(usize),
    /// The next match to deliver.
    Deliver(usize),
    /// Watchers to park, and the event to look for further ones with.
    Park(Vec<u32>, usize),
    /// The number of the next watcher to fall back.
    FallBack(usize, i64),
}

/// What a slice may still do.
struct Left {
    /// What it has spent, of what it may, in bytes.
    spent: usize,
    budget: usize,
    /// Watchers that may be looked at.
    looks: usize,
}

impl Left {
    fn is_over(&self) -> bool {
        self.spent >= self.budget
    }

    fn end(&mut self) {
        self.spent = self.budget;
    }
}

/// Batches on their way to synced watchers.
#[derive(Debug, Default)]
pub(super) struct Live {
    queue: VecDeque<Arc<EventBatch>>,
    queued_events: usize,
    at_hand: Option<(Arc<EventBatch>, Step)>,
    scratch: Scratch,
    /// A stream has just run out of room and is to be asked for more.
    waits_for_room: bool,
    /// The batch at hand has waited for room once.
    has_waited: bool,
}

impl Live {
    /// Whether some watchers may lack events of the hub's revision.
    pub(super) fn is_busy(&self) -> bool {
        self.at_hand.is_some() || !self.queue.is_empty()
    }

    /// Whether a batch is handed out: some watchers have its events, and some do not.
    pub(super) fn is_handing_out(&self) -> bool {
        self.at_hand.is_some()
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }
}

impl Hub {
    /// The next batch from the lane. It is handed out by [`Hub::work`].
    pub fn on_publish(&mut self, batch: Arc<EventBatch>) {
        let live = &mut self.live;
        let fits = live.queue.len() < QUEUED_BATCHES_MAX
            && (live.queued_events + batch.events.len() <= QUEUED_EVENTS_MAX || live.queue.is_empty());
        if !fits {
            // Only the newest is kept: the gap before it says that batches are missing.
            live.queue.clear();
            live.queued_events = 0;
        }
        live.queued_events += batch.events.len();
        live.queue.push_back(batch);
    }

    /// Room was asked for where it had run out: delivery goes on.
    pub fn resume(&mut self) {
        self.live.waits_for_room = false;
    }

    /// One slice of handing out what was published.
    pub(super) fn live_slice(&mut self, history: &dyn History, budget: Budget) {
        let mut left = Left { spent: 0, budget: budget.bytes, looks: budget.looks.max(1) };
        while !left.is_over() && !self.live.waits_for_room {
            let Some((batch, step)) = self.live.at_hand.take().or_else(|| self.next_batch(history)) else {
                return;
            };
            let next = match step {
                Step::Match(event) => Some(self.match_events(&batch, event, history, &mut left)),
                Step::Deliver(at) => self.deliver_live(batch.revision, at, &mut left),
                Step::Park(found, event) => self.park_matching(&batch, found, event, &mut left),
                Step::FallBack(number, missing) => self.fall_back_all(number, missing, &mut left),
            };
            match next {
                Some(step) => self.live.at_hand = Some((batch, step)),
                None => self.keep_promises(),
            }
        }
    }

    /// The next batch that this hub does not know.
    fn next_batch(&mut self, history: &dyn History) -> Option<(Arc<EventBatch>, Step)> {
        loop {
            let batch = self.live.queue.pop_front()?;
            self.live.queued_events -= batch.events.len();
            assert!(
                history.revision() >= batch.revision,
                "a batch is published after the state it belongs to"
            );
            if batch.revision <= self.revision {
                // Part of the snapshot this hub started from.
                continue;
            }
            let expected = self.revision + 1;
            self.revision = batch.revision;
            self.live.has_waited = false;
            self.live.scratch.clear();
            // A batch has no events if there were too many to be handed around.
            if batch.revision == expected && !batch.events.is_empty() {
                return Some((batch, Step::Match(0)));
            }
            self.gaps += u64::from(batch.revision > expected);
            return Some((batch, Step::FallBack(0, expected)));
        }
    }

    fn match_events(
        &mut self,
        batch: &EventBatch,
        from: usize,
        history: &dyn History,
        left: &mut Left,
    ) -> Step {
        let mut scratch = std::mem::take(&mut self.live.scratch);
        let mut step = Step::Deliver(0);
        for (at, event) in batch.events.iter().enumerate().skip(from) {
            if left.is_over() {
                step = Step::Match(at);
                break;
            }
            let matched = scratch.matches.len();
            let has_met_all = self.meet_synced(batch, at, left, |number, watcher| {
                scratch.add_match(number, watcher);
            });
            let matches = scratch.matches.len() - matched;
            self.matched += matches as u64;
            left.spent += PASSED_COST + matches * MATCH_COST;
            if has_met_all {
                let change =
                    Change { revision: batch.revision, delete: event.delete, key: &event.key, kv: &event.kv };
                let bytes = scratch.bytes();
                // The previous value is the one before this revision, not before this change. What is below the
                // compaction is nobody's, whether it was removed yet or not.
                scratch.add(change, || match event.prev {
                    _ if event.create || batch.revision - 1 < history.compact_revision() => None,
                    Some((main, sub)) if main < batch.revision => history.value_of(main, sub),
                    _ => history.value_at(&event.key, batch.revision - 1),
                });
                left.spent +=
                    (scratch.bytes() - bytes) / 2 + PREV_COST * usize::from(scratch.bytes() > bytes);
            }
            if scratch.matches.len() > self.config.limits.matches
                || scratch.bytes() > self.config.limits.bytes
            {
                self.index.give_up(Walk::Live);
                scratch.clear();
                step = Step::Park(Vec::new(), 0);
                break;
            }
            if !has_met_all {
                step = Step::Match(at);
                break;
            }
        }
        if let Step::Deliver(_) = step {
            left.spent += scratch.matches.len() * MATCH_COST;
            scratch.freeze();
        }
        self.live.scratch = scratch;
        step
    }

    /// Calls `each` with further synced watchers that want an event of the batch. True if these were the last; if not,
    /// the slice ends.
    fn meet_synced(
        &mut self,
        batch: &EventBatch,
        event: usize,
        left: &mut Left,
        mut each: impl FnMut(u32, &Watcher),
    ) -> bool {
        let event = &batch.events[event];
        let has_met_all =
            self.index.walk(Walk::Live, &event.key, &mut left.looks, &self.watchers, |number, watcher| {
                if watcher.next <= batch.revision && watcher.wants(event.delete) {
                    each(number, watcher);
                }
            });
        if !has_met_all {
            left.end();
        }
        has_met_all
    }

    fn deliver_live(&mut self, revision: i64, at: usize, left: &mut Left) -> Option<Step> {
        let scratch = std::mem::take(&mut self.live.scratch);
        let budget = left.budget.saturating_sub(left.spent).max(1);
        let patient = !self.live.has_waited;
        let delivery = Delivery { scratch: &scratch, state: State::Synced, revision, patient };
        let before = self.outputs.len();
        let delivered = self.deliver(delivery, at, budget);
        left.spent += (self.outputs.len() - before) * RESPONSE_COST;
        self.live.scratch = scratch;
        match delivered {
            Delivered::All => None,
            Delivered::UpTo(at) => {
                left.end();
                Some(Step::Deliver(at))
            }
            Delivered::OutOfRoom(at) => {
                (self.live.waits_for_room, self.live.has_waited) = (true, true);
                Some(Step::Deliver(at))
            }
        }
    }

    fn park_matching(
        &mut self,
        batch: &EventBatch,
        mut found: Vec<u32>,
        mut event: usize,
        left: &mut Left,
    ) -> Option<Step> {
        while !left.is_over() {
            left.spent += PASSED_COST;
            if let Some(number) = found.pop() {
                let watcher = self.watchers.get(number as usize);
                if watcher.is_some_and(|w| w.state == State::Synced && w.next <= batch.revision) {
                    self.park_for_size(number, batch.revision);
                }
                continue;
            }
            if event == batch.events.len() {
                return None;
            }
            event += usize::from(self.meet_synced(batch, event, left, |number, _| found.push(number)));
            left.spent += found.len() * MATCH_COST;
        }
        Some(Step::Park(found, event))
    }

    fn fall_back_all(&mut self, from: usize, missing: i64, left: &mut Left) -> Option<Step> {
        for number in from..self.watchers.capacity() {
            if left.is_over() {
                return Some(Step::FallBack(number, missing));
            }
            left.spent += MATCH_COST;
            let watcher = self.watchers.get(number);
            if watcher.is_some_and(|w| w.state == State::Synced && w.next <= self.revision) {
                left.spent += PASSED_COST;
                self.fall_back(number as u32, missing);
            }
        }
        None
    }
}
