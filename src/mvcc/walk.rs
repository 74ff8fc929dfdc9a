//! Walking the live keys of an interval at a revision, in key order, in steps of bounded size.
#![forbid(unsafe_code)]

use std::cell::OnceCell;

use super::leaf_counts::LeafCounts;
use super::revision::Revision;
use super::schema::{
    IndexEntry, KeyBuf, index_prefix, past_index_prefix, push_index_tail, split_index_key,
    unescape_index_prefix, user_key_len,
};
use super::view::View;
use crate::btree::{Cursor, Leaf, LeafId, Read, Tree};
use crate::error::Error;

/// An interval of user keys, as requests name them.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    start: Vec<u8>,
    end: End,
}

#[derive(Clone, Debug, Default)]
enum End {
    /// Below this index key.
    Before(Vec<u8>),
    /// No end.
    #[default]
    Never,
}

impl Interval {
    /// The keys from `key` on: that one if `range_end` is empty, all if it is one zero byte, else those below it.
    pub fn new(key: &[u8], range_end: &[u8]) -> Self {
        let start = index_prefix(key).to_vec();
        let end = match range_end {
            [] => {
                let mut past = start.clone();
                past_index_prefix(&mut past);
                End::Before(past)
            }
            [0] => End::Never,
            _ => End::Before(index_prefix(range_end).to_vec()),
        };
        Self { start, end }
    }

    /// Where a walk over all of it starts.
    pub fn start(&self) -> Position {
        Position { seek: self.start.clone() }
    }

    /// Bytes that its bounds hold.
    pub fn held_bytes(&self) -> usize {
        let end = match &self.end {
            End::Before(end) => end.capacity(),
            End::Never => 0,
        };
        self.start.capacity() + end
    }

    fn admits(&self, index_key: &[u8]) -> bool {
        match &self.end {
            End::Before(end) => *index_key < end[..],
            End::Never => true,
        }
    }
}

/// Where a walk goes on: the first index key not yet looked at.
#[derive(Clone, Debug, Default)]
pub struct Position {
    seek: Vec<u8>,
}

impl Position {
    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.seek.capacity()
    }

    /// Behind everything that a key ever was.
    pub fn behind_key(key: &[u8]) -> Self {
        let mut seek = index_prefix(key).to_vec();
        past_index_prefix(&mut seek);
        Self { seek }
    }
}

/// Superseded revisions of one key that are stepped over before it pays to seek past the rest.
const STEPS_BEFORE_SEEK: usize = 8;

/// Bytes compared or copied in the time that looking at an index entry takes.
pub(super) const BYTES_PER_ENTRY: usize = 1024;

/// What passing a leaf that was counted before costs, in index entries looked at.
const KNOWN_LEAF_COST: usize = 8;

/// What a walk comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A live key; its name is [`Walk::key`].
    Live(Revision, IndexEntry),
    /// As many index entries looked at as were allowed; [`Walk::position`] says where to go on.
    Paused,
    /// Nothing left in the interval.
    End,
}

/// One leg of a walk, over one state of the store.
pub struct Walk<'a, 'w> {
    cursor: Cursor<'a>,
    interval: &'w Interval,
    at: i64,
    /// Index prefix of the key that the walk stands at; empty before the first.
    prefix: Vec<u8>,
    /// The newest revision of that key not above `at` has been seen.
    decided: bool,
    /// Entries of that key which were stepped over, one after the other.
    steps: usize,
    /// The leaf before the cursor, if it was passed as a whole: the walk stands at its last key, which is not read yet.
    passed: Option<Leaf<'a>>,
    /// [`Walk::boundary`], once somebody has asked.
    boundary: OnceCell<Option<LeafId>>,
    /// Index entries that may still be looked at.
    budget: usize,
}

impl<'a, 'w> Walk<'a, 'w> {
    /// Goes on at `position` with the keys that are live at main revision `at`, looking at no more than `budget`
    /// index entries.
    pub fn resume<R: Read>(
        view: &View<'a, R>,
        interval: &'w Interval,
        at: i64,
        position: &Position,
        budget: usize,
    ) -> Self {
        let mut cursor = view.read().cursor(Tree::Index);
        cursor.seek(&position.seek);
        Self {
            cursor,
            interval,
            at,
            prefix: Vec::new(),
            decided: false,
            steps: 0,
            passed: None,
            boundary: OnceCell::new(),
            budget,
        }
    }

    /// The next live key.
    ///
    /// # Errors
    /// When an index entry cannot be read.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Step, Error> {
        loop {
            if let Some(step) = self.step()? {
                return Ok(step);
            }
        }
    }

    /// Looks at the next index entry; none if there is nothing to say about it.
    ///
    /// # Errors
    /// When the entry cannot be read.
    #[inline]
    pub fn step(&mut self) -> Result<Option<Step>, Error> {
        if let Some(leaf) = self.passed.take() {
            self.stand_behind(leaf)?;
        }
        if !self.cursor.valid() || !self.interval.admits(self.cursor.key()) {
            return Ok(Some(Step::End));
        }
        let (prefix, revision) = split_index_key(self.cursor.key())?;
        if prefix != self.prefix {
            self.prefix.clear();
            self.prefix.extend_from_slice(prefix);
            self.decided = false;
            self.steps = 0;
        }
        if self.budget == 0 {
            return Ok(Some(Step::Paused));
        }
        self.budget = self.budget.saturating_sub(1 + prefix.len() / BYTES_PER_ENTRY);
        if self.decided || revision.main > self.at {
            self.steps += 1;
            if self.steps > STEPS_BEFORE_SEEK {
                let past = self.past();
                self.cursor.seek(&past.seek);
                self.steps = 0;
            } else {
                self.cursor.next();
            }
            return Ok(None);
        }
        self.decided = true;
        self.steps = 0;
        let entry = IndexEntry::decode(self.cursor.value(), revision.main)?;
        self.cursor.next();
        Ok((!entry.tombstone).then_some(Step::Live(revision, entry)))
    }

    /// Passes the leaf ahead and tells how many live keys begin in it, without looking at them if that is known. None
    /// if the walk is not at the beginning of a leaf, or may or must not pass all of it.
    ///
    /// # Errors
    /// When an entry of the leaf, or of the one before, cannot be read.
    pub fn pass_leaf(&mut self, counts: &LeafCounts) -> Result<Option<u64>, Error> {
        if self.budget == 0 || !self.cursor.begins_leaf() || !self.interval.admits(self.cursor.key()) {
            return Ok(None);
        }
        let leaf = self.cursor.leaf();
        if self.boundary() == Some(leaf.id()) {
            return Ok(None);
        }
        let (count, is_new) = counts.of(&leaf)?;
        if count.newest > self.at {
            return Ok(None);
        }
        let before = self.passed.map(|passed| passed.id());
        let continues = match before.and_then(|before| count.continues(before)) {
            Some(continues) => continues,
            None => {
                let continues = self.continues()?;
                if let Some(before) = before {
                    counts.note(count, before, continues);
                }
                continues
            }
        };
        self.budget = self.budget.saturating_sub(if is_new { leaf.count() } else { KNOWN_LEAF_COST });
        self.passed = Some(leaf);
        self.cursor.next_leaf();
        Ok(Some(count.live(continues)))
    }

    /// Whether the key that the walk stands at has entries in the leaf ahead.
    fn continues(&mut self) -> Result<bool, Error> {
        if let Some(leaf) = self.passed.take() {
            self.stand_behind(leaf)?;
        }
        Ok(self.decided && split_index_key(self.cursor.key())?.0 == self.prefix)
    }

    /// The first leaf that does not lie in the interval as a whole; none if all leaves ahead do.
    fn boundary(&self) -> Option<LeafId> {
        *self.boundary.get_or_init(|| {
            let End::Before(end) = &self.interval.end else { return None };
            let mut boundary = self.cursor.another();
            boundary.seek(end);
            boundary.valid().then(|| boundary.leaf().id())
        })
    }

    /// The walk has passed this leaf, nothing in which is above `at`.
    fn stand_behind(&mut self, leaf: Leaf<'_>) -> Result<(), Error> {
        leaf.last_key(&mut self.prefix);
        let len = split_index_key(&self.prefix)?.0.len();
        self.prefix.truncate(len);
        self.decided = true;
        self.steps = 0;
        Ok(())
    }

    /// Behind the revisions of the current key that are of no more interest.
    fn past(&self) -> Position {
        let mut seek = Vec::with_capacity(self.prefix.len() + 12);
        seek.extend_from_slice(&self.prefix);
        if self.decided {
            past_index_prefix(&mut seek);
        } else {
            let mut tail = KeyBuf::default();
            push_index_tail(&mut tail, Revision::new(self.at, i64::MAX));
            seek.extend_from_slice(&tail);
        }
        Position { seek }
    }

    /// The user key of the last [`Step::Live`].
    pub fn key(&self) -> std::borrow::Cow<'_, [u8]> {
        unescape_index_prefix(&self.prefix)
    }

    /// Length of [`Walk::key`].
    pub fn key_len(&self) -> usize {
        user_key_len(&self.prefix)
    }

    /// Where another leg comes upon the last [`Step::Live`] again.
    pub fn position_before(&self) -> Position {
        Position { seek: self.prefix.clone() }
    }

    /// Takes other work of this leg, in index entries, off the budget; true if that used it up.
    pub fn spend(&mut self, entries: usize) -> bool {
        self.budget = self.budget.saturating_sub(entries);
        self.budget == 0
    }

    /// Index entries that may still be looked at.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Where another leg goes on: behind the last [`Step::Live`], or where it paused.
    pub fn position(&self) -> Position {
        assert!(!self.prefix.is_empty(), "a leg that has not started has no position of its own");
        self.past()
    }
}
