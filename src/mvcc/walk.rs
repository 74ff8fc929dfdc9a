//! Walking the live keys of an interval at a revision, in key order, in steps of bounded size.
#![forbid(unsafe_code)]

use super::revision::Revision;
use super::schema::{
    IndexEntry, KeyBuf, index_prefix, past_index_prefix, push_index_tail, split_index_key,
    unescape_index_prefix, user_key_len,
};
use super::view::View;
use crate::btree::{Cursor, Read, Tree};

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
    /// Behind everything that a key ever was.
    pub fn behind_key(key: &[u8]) -> Self {
        let mut seek = index_prefix(key).to_vec();
        past_index_prefix(&mut seek);
        Self { seek }
    }
}

/// Superseded revisions of one key that are stepped over before it pays to seek past the rest.
const STEPS_BEFORE_SEEK: usize = 8;

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
        Self { cursor, interval, at, prefix: Vec::new(), decided: false, budget }
    }

    /// The next live key.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Step {
        let mut steps = 0;
        loop {
            if !self.cursor.valid() || !self.interval.admits(self.cursor.key()) {
                return Step::End;
            }
            let (prefix, revision) = split_index_key(self.cursor.key());
            if prefix != self.prefix {
                self.prefix.clear();
                self.prefix.extend_from_slice(prefix);
                self.decided = false;
                steps = 0;
            }
            if self.budget == 0 {
                return Step::Paused;
            }
            self.budget -= 1;
            if self.decided || revision.main > self.at {
                steps += 1;
                if steps > STEPS_BEFORE_SEEK {
                    let past = self.past();
                    self.cursor.seek(&past.seek);
                    steps = 0;
                } else {
                    self.cursor.next();
                }
                continue;
            }
            self.decided = true;
            let entry = IndexEntry::decode(self.cursor.value(), revision.main);
            self.cursor.next();
            if !entry.tombstone {
                return Step::Live(revision, entry);
            }
        }
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

    /// Its length.
    pub fn key_len(&self) -> usize {
        user_key_len(&self.prefix)
    }

    /// Where another leg comes upon the last [`Step::Live`] again.
    pub fn position_before(&self) -> Position {
        Position { seek: self.prefix.clone() }
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
