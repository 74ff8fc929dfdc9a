//! The deadlines of the calls of one connection.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Weak;

use super::stream::StreamState;
use crate::stdx::time::Instant;

/// Entries of calls that were answered may stay up to this, and to twice the calls that wait.
const STALE_MAX: usize = 64;

/// A call with a deadline.
pub(super) enum What {
    /// A unary one: its slot, and what tells it from those before.
    Unary { key: usize, stamp: u32 },
    /// A stream.
    Stream(Weak<StreamState>),
}

struct Due {
    at: Instant,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

/// The deadlines of one connection's calls. Most calls are answered long before theirs: the entries of those are thrown
/// out in bulk.
#[derive(Default)]
pub(super) struct Deadlines(BinaryHeap<Due>);

impl Deadlines {
    /// Adds a deadline, while `waiting` calls wait and `is_wanted` tells whether one does. True if it is the earliest.
    pub(super) fn push(
        &mut self,
        at: Instant,
        what: What,
        waiting: usize,
        is_wanted: impl Fn(&What) -> bool,
    ) -> bool {
        if self.0.len() > 2 * waiting + STALE_MAX {
            self.0.retain(|due| is_wanted(&due.what));
        }
        let is_earliest = self.next().is_none_or(|next| at < next);
        self.0.push(Due { at, what });
        is_earliest
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|due| due.at)
    }

    /// A call whose deadline has passed.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<What> {
        if self.next().is_none_or(|next| next > now) {
            return None;
        }
        self.0.pop().map(|due| due.what)
    }

    /// The connection is gone.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_earliest_comes_first_and_what_was_answered_goes() {
        let mut deadlines = Deadlines::default();
        let mut push = |nanos, is_wanted| {
            let what = What::Unary { key: nanos as usize, stamp: 0 };
            (deadlines.push(at(nanos), what, 0, |_| is_wanted), deadlines.0.len())
        };
        assert_eq!((push(9, true), push(5, true), push(7, true)), ((true, 1), (true, 2), (false, 3)));
        (0..200).for_each(|n| assert!(push(1000 + n, false).1 <= STALE_MAX + 1));
        let mut deadlines = Deadlines::default();
        for nanos in [9, 5, 7] {
            deadlines.push(at(nanos), What::Unary { key: nanos as usize, stamp: 0 }, 9, |_| true);
        }
        let mut keys = Vec::new();
        while let Some(What::Unary { key, .. }) = deadlines.pop_due(at(7)) {
            keys.push(key);
        }
        assert_eq!((keys, deadlines.next()), (vec![5, 7], Some(at(9))));
    }
}
