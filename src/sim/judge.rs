//! The judge: what the log says must be the answer, the state, and nothing else.
//!
//! One voter's log is the order of everything. The judge reads each entry when it is handed to the disk, executes it
//! on the [`Model`], and then knows for every index what its answer and the state after it are. So each observation
//! is compared with exactly one expected value: replies with that of their own entry, reads with the state at the
//! index the snapshot claims. Real time enters by one number, the highest index acknowledged so far: whoever asks
//! later must see at least that.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::log::{LogEntry, LogReader};
use super::model::{Answer, Model, Refusal};
use kevel::btree::Applied;
use kevel::stdx::time::Instant;
use kevel::wal::SegmentName;

/// Fails the run. The text tells the judge's verdicts from the member's own panics.
macro_rules! judge {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            panic!("judge: {}", format_args!($($message)*));
        }
    };
}
pub(super) use judge;

/// The state after one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Main revision.
    pub revision: i64,
    /// Compaction revision.
    pub compacted: i64,
}

/// Everything that can be known from outside.
pub struct Judge {
    reader: LogReader,
    /// Entries by index; the first has index 1.
    pub history: Vec<LogEntry>,
    /// Expected answers by index.
    answers: Vec<Result<Answer, Refusal>>,
    /// States by index; the first is the one before any entry.
    states: Vec<State>,
    /// The state after the last entry.
    pub model: Model,
    ids: BTreeMap<u64, u64>,
    /// Requests that were refused, and that nobody may find in the log.
    pub refused: BTreeSet<u64>,
    /// When entries were first seen to be applied, by index.
    applied: Vec<Instant>,
    /// Entries up to here are on the disk for good.
    pub durable: u64,
    /// The log says for good that the store has the entries up to here.
    pub marked: u64,
    /// The segments of the log, in order; some of the first may be gone.
    segments: Vec<SegmentName>,
    /// Entries up to here were seen by somebody.
    pub acknowledged: u64,
}

impl Default for Judge {
    fn default() -> Self {
        let model = Model::default();
        let fresh = State { revision: model.revision, compacted: model.compacted };
        Self {
            reader: LogReader::default(),
            history: vec![],
            answers: vec![],
            states: vec![fresh],
            model,
            ids: BTreeMap::new(),
            refused: BTreeSet::new(),
            applied: vec![],
            durable: 0,
            marked: 0,
            segments: vec![],
            acknowledged: 0,
        }
    }
}

impl Judge {
    /// The last entry written or on its way.
    pub fn last(&self) -> u64 {
        self.history.len() as u64
    }

    /// A log write was handed to the disk. Returns the entries that are new.
    pub fn on_write(&mut self, write: &kevel::wal::Write) -> std::ops::Range<usize> {
        let before = self.history.len();
        self.segments.extend(write.create.then_some(write.segment));
        self.reader.write(write.create, write.offset as usize, &write.bytes);
        judge!(
            !write.create || write.segment.sequence == 0 || self.reader.has_state,
            "{} does not begin with the state of the member",
            write.segment
        );
        let known = self.last();
        let new = self.reader.entries.iter().rev().take_while(|entry| entry.index > known);
        let mut new: Vec<LogEntry> = new.cloned().collect();
        new.reverse();
        for entry in new {
            self.append(entry);
        }
        let last = self.reader.entries.last().map_or(0, |entry| entry.index);
        judge!(last >= known, "the log was cut at {last}, below {known}");
        before..self.history.len()
    }

    fn append(&mut self, entry: LogEntry) {
        judge!(entry.index == self.last() + 1, "entry {} follows {}", entry.index, self.last());
        self.model.index = entry.index;
        let answer = match &entry.request {
            Some(request) => {
                let id = request.header.as_ref().map_or(0, |header| header.id);
                judge!(
                    self.ids.insert(id, entry.index).is_none(),
                    "request {id:x} is in the log twice, the second time at {}",
                    entry.index
                );
                judge!(!self.refused.contains(&id), "request {id:x} was refused, and is in the log");
                self.model.apply(request)
            }
            None => Ok(Answer::Nothing),
        };
        self.answers.push(answer);
        self.states.push(State { revision: self.model.revision, compacted: self.model.compacted });
        self.history.push(entry);
    }

    /// The newest mark in the log, durable or on its way.
    pub fn mark(&self) -> u64 {
        self.reader.marked
    }

    /// Segments may be deleted when the log says for good that the store has all that is in them.
    pub fn on_release(&self, released: &[SegmentName]) {
        let next = self.segments.iter().find(|name| Some(*name) > released.last());
        judge!(
            next.is_some_and(|next| next.index <= self.marked + 1),
            "{released:?} may go before {next:?}, and the mark is at {}",
            self.marked
        );
    }

    /// The expected answer to the entry at this position of the history.
    pub fn answer(&self, at: usize) -> &Result<Answer, Refusal> {
        &self.answers[at]
    }

    /// What is on the disk after a crash: all that was acknowledged, unaltered. The rest of what was on its way is
    /// there up to some entry, and that decides what happened.
    pub fn on_restart(&mut self, segments: &[(SegmentName, Vec<u8>)], names: &[SegmentName]) {
        let reader = LogReader::read(segments);
        // A segment says in its name which entry it begins with.
        let before = segments.first().map_or(0, |(name, _)| name.index.saturating_sub(1));
        let last = reader.entries.last().map_or(before, |entry| entry.index);
        judge!(last >= self.durable, "entry {} was durable, and the log ends at {last}", self.durable);
        judge!(
            last >= self.acknowledged,
            "entry {} was acknowledged, the log ends at {last}",
            self.acknowledged
        );
        judge!(last <= self.last(), "the log holds entry {last}, and {} were written", self.last());
        for entry in &reader.entries {
            let written = &self.history[entry.index as usize - 1];
            judge!(
                written.data == entry.data && written.term == entry.term,
                "entry {} is not what was written",
                entry.index
            );
        }
        self.marked = reader.marked;
        self.segments = names.to_vec();
        self.reader = reader;
        self.durable = last;
        if last < self.last() {
            let history: Vec<LogEntry> = self.history.drain(..).take(last as usize).collect();
            (self.model, self.answers) = (Model::default(), vec![]);
            self.states.truncate(1);
            self.ids.clear();
            self.applied.truncate(last as usize);
            history.into_iter().for_each(|entry| self.append(entry));
        }
    }

    /// Entries up to `index` are applied now.
    pub fn on_applied(&mut self, now: Instant, index: u64) {
        self.applied.resize(self.applied.len().max(index as usize), now);
    }

    /// The entry of a request, if it is in the log.
    pub fn index_of(&self, id: u64) -> Option<u64> {
        self.ids.get(&id).copied()
    }

    /// When the entry of a request was applied, if it is.
    pub fn applied_at(&self, id: u64) -> Option<Instant> {
        self.when_applied(self.index_of(id)?)
    }

    /// When an entry was applied, if it is.
    pub fn when_applied(&self, index: u64) -> Option<Instant> {
        self.applied.get((index as usize).checked_sub(1)?).copied()
    }

    /// The state after an entry.
    pub fn state(&self, index: u64) -> State {
        self.states[index as usize]
    }

    /// The newest revision that can have been seen.
    pub fn durable_revision(&self) -> i64 {
        self.state(self.durable).revision
    }

    /// A snapshot says what it contains. `floor` is what was acknowledged before the read began.
    pub fn on_snapshot(&mut self, applied: Applied, floor: u64) -> State {
        judge!(
            applied.index <= self.durable,
            "entry {} is visible, {} are durable",
            applied.index,
            self.durable
        );
        judge!(
            applied.index >= floor,
            "a read shows entry {}, after {floor} was acknowledged",
            applied.index
        );
        let state = self.state(applied.index);
        let shown = State { revision: applied.revision, compacted: applied.compact_revision };
        judge!(shown == state, "the state after entry {} is {state:?}, shown is {shown:?}", applied.index);
        self.acknowledged = self.acknowledged.max(applied.index);
        state
    }

    /// The expected answer to a request that was answered, which must be durable, and after `floor`.
    pub fn on_reply(&mut self, id: u64, floor: u64) -> &Result<Answer, Refusal> {
        let Some(&index) = self.ids.get(&id) else {
            panic!("judge: a reply to {id:x}, which is not in the log")
        };
        judge!(index <= self.durable, "entry {index} is acknowledged, {} are durable", self.durable);
        judge!(index > floor, "entry {index} was asked for after {floor} was acknowledged");
        self.acknowledged = self.acknowledged.max(index);
        &self.answers[index as usize - 1]
    }
}
