//! What a plan remembers for the emission: the revisions of an answer's pairs, in a few bytes each.
//!
//! A revision is stored as its distance from the one before it, so keys that were written in order take two bytes,
//! keys in any order four to eight. Nothing but memory bounds how long an answer may be, so what one remembers is
//! bounded, and beyond a few KB also what all answers of a core do; who has to forget walks the index again.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::revision::Revision;
use crate::error::Error;
use crate::wire::{put_varint, take_varint};

/// Bytes taken from the memory at a time.
const CHUNK: usize = 8 * 1024;

/// Bytes that one revision takes at most: two varints.
const REVISION_BYTES_MAX: usize = 20;

/// Bytes that one answer may remember.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Bytes that all answers of a core may keep of their plans together.
#[derive(Clone, Debug)]
pub struct PlanMemory(Arc<Pools>);

#[derive(Debug)]
struct Pools {
    /// Left for remembered revisions, beyond the first 8 KB of each answer.
    remembered: Pool,
    /// Left for pairs to be sorted.
    sorted: Pool,
}

/// Bytes that are left. Plans of one core alone use a pool, so that a change need not be one atomic step; it is an
/// atomic only because a replica, which may hold a plan, begins its life on another thread.
#[derive(Debug)]
struct Pool(AtomicUsize);

impl Pool {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl PlanMemory {
    /// Room for so many bytes of remembered revisions, and for all pairs that are to be sorted.
    pub fn new(remembered: usize) -> Self {
        Self::bounded(remembered, usize::MAX)
    }

    /// Room for so many bytes of remembered revisions, and of pairs to be sorted.
    pub fn bounded(remembered: usize, sorted: usize) -> Self {
        let pool = |bytes| Pool(AtomicUsize::new(bytes));
        Self(Arc::new(Pools { remembered: pool(remembered), sorted: pool(sorted) }))
    }

    /// What an answer that sorts takes its memory from; nothing yet.
    pub(super) fn for_sorting(&self) -> SortMemory {
        SortMemory { memory: self.clone(), held: 0 }
    }

    #[cfg(test)]
    pub(super) fn left_for_sorting(&self) -> usize {
        self.0.sorted.get()
    }

    fn take(&self) -> bool {
        let rest = self.0.remembered.get().checked_sub(CHUNK);
        if let Some(rest) = rest {
            self.0.remembered.set(rest);
        }
        rest.is_some()
    }

    fn give_back(&self) {
        self.0.remembered.set(self.0.remembered.get() + CHUNK);
    }
}

/// The memory that one answer has taken for pairs to be sorted; given back when dropped.
#[derive(Debug)]
pub(super) struct SortMemory {
    memory: PlanMemory,
    held: usize,
}

impl SortMemory {
    /// Holds so many bytes in all.
    ///
    /// # Errors
    /// When the core has no more for sorting.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Error> {
        let sorted = &self.memory.0.sorted;
        let rest = (sorted.get() + self.held).checked_sub(bytes).ok_or(Error::TooManyRequests)?;
        sorted.set(rest);
        self.held = bytes;
        Ok(())
    }

    /// Gives back what is held beyond so many bytes.
    pub(super) fn release_to(&mut self, bytes: usize) {
        let fewer = self.held.saturating_sub(bytes);
        self.memory.0.sorted.set(self.memory.0.sorted.get() + fewer);
        self.held -= fewer;
    }
}

impl Drop for SortMemory {
    fn drop(&mut self) {
        self.release_to(0);
    }
}

/// A queue of revisions.
#[derive(Debug)]
pub(super) struct Remembered {
    memory: PlanMemory,
    /// The first may have been read in part. All but one are paid for.
    chunks: VecDeque<Vec<u8>>,
    read: usize,
    last_in: Revision,
    last_out: Revision,
}

impl Remembered {
    /// An empty queue that takes what it needs beyond its first chunk from `memory`.
    pub(super) fn new(memory: PlanMemory) -> Self {
        Self {
            memory,
            chunks: VecDeque::new(),
            read: 0,
            last_in: Revision::default(),
            last_out: Revision::default(),
        }
    }

    /// Appends, if there is room; always to an empty queue.
    pub(super) fn push(&mut self, revision: Revision) -> bool {
        let last = self.last_in;
        let Some(chunk) = self.chunk() else { return false };
        put_varint(chunk, zigzag(revision.main.wrapping_sub(last.main)));
        let sub = if revision.main == last.main { last.sub } else { 0 };
        put_varint(chunk, zigzag(revision.sub.wrapping_sub(sub)));
        self.last_in = revision;
        true
    }

    /// A chunk with room for a revision.
    fn chunk(&mut self) -> Option<&mut Vec<u8>> {
        if self.chunks.back().is_none_or(|chunk| chunk.len() + REVISION_BYTES_MAX > CHUNK) {
            let chunks = self.chunks.len();
            if chunks > 0 && (chunks * CHUNK >= ANSWER_BYTES_MAX || !self.memory.take()) {
                return None;
            }
            // Most answers are short.
            self.chunks.push_back(Vec::with_capacity(if chunks == 0 { 0 } else { CHUNK }));
        }
        self.chunks.back_mut()
    }

    /// Bytes that it holds without having taken them from the memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.chunks.front().map_or(0, Vec::capacity)
    }

    /// Takes the first one.
    pub(super) fn pop(&mut self) -> Option<Revision> {
        let mut rest = self.chunks.front()?.get(self.read..).filter(|rest| !rest.is_empty())?;
        let before = rest.len();
        let main = self.last_out.main.wrapping_add(unzigzag(take_varint(&mut rest)?));
        let sub = if main == self.last_out.main { self.last_out.sub } else { 0 };
        self.last_out = Revision { main, sub: sub.wrapping_add(unzigzag(take_varint(&mut rest)?)) };
        self.read += before - rest.len();
        if rest.is_empty() {
            self.drop_front();
        }
        Some(self.last_out)
    }

    /// Lets go of the first chunk, which has been read.
    fn drop_front(&mut self) {
        self.read = 0;
        if self.chunks.len() > 1 {
            self.chunks.pop_front();
            self.memory.give_back();
        } else if let Some(chunk) = self.chunks.front_mut() {
            chunk.clear();
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        for _ in 1..self.chunks.len() {
            self.memory.give_back();
        }
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn any(prng: &mut Prng) -> Revision {
        match prng.below(3) {
            0 => Revision::new(prng.below(4) as i64, prng.below(300) as i64),
            1 => Revision::new((prng.next_u64() >> 1) as i64, (prng.next_u64() >> 1) as i64),
            _ => Revision::new(1_000_000 + prng.below(100_000) as i64, 0),
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_memory_is_given_back() {
        const BYTES: usize = 20 * CHUNK;
        let memory = PlanMemory::new(BYTES);
        for seed in 0..20 {
            let mut prng = Prng::new(seed);
            let mut queue = Remembered::new(memory.clone());
            let mut expected = VecDeque::new();
            for _ in 0..200 {
                for _ in 0..prng.below(600) {
                    let revision = any(&mut prng);
                    if queue.push(revision) {
                        expected.push_back(revision);
                    } else {
                        assert!(expected.len() * REVISION_BYTES_MAX > BYTES, "full too early");
                    }
                }
                for _ in 0..prng.below(600) {
                    assert_eq!(queue.pop(), expected.pop_front());
                }
            }
        }
        assert_eq!(memory.0.remembered.get(), BYTES);
    }

    #[test]
    fn an_answer_remembers_something_without_memory_and_not_everything_with_much() {
        let pushed = |memory: &PlanMemory| {
            let mut queue = Remembered::new(memory.clone());
            (0..).take_while(|&n| queue.push(Revision::new(2, n))).count()
        };
        assert!((CHUNK / 4..=CHUNK).contains(&pushed(&PlanMemory::new(0))));
        assert!((CHUNK / 2..=2 * CHUNK).contains(&pushed(&PlanMemory::new(2 * CHUNK - 1))));
        let bounded = pushed(&PlanMemory::new(usize::MAX / 2));
        assert!((ANSWER_BYTES_MAX / 4..=ANSWER_BYTES_MAX).contains(&bounded));
    }
}
