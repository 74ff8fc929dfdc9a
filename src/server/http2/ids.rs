//! Which stream an id is.
//!
//! Ids only grow, so the open streams stand in the order of their ids, and a client cannot choose ids that are slow to
//! find. One that ends leaves a hole; holes at the front go at once, others when they are the most.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Open streams by id.
#[derive(Default)]
pub struct Ids {
    /// Ascending ids; `None` where a stream has ended.
    order: VecDeque<(u32, Option<u32>)>,
    open: usize,
}

impl Ids {
    /// A stream whose id is larger than all before.
    pub fn push(&mut self, id: u32, key: u32) {
        debug_assert!(self.order.back().is_none_or(|&(last, _)| last < id), "ids only grow");
        self.order.push_back((id, Some(key)));
        self.open += 1;
    }

    /// Where the stream is kept, if it is open.
    pub fn find(&self, id: u32) -> Option<u32> {
        self.order[self.place(id)?].1
    }

    /// The stream has ended.
    pub fn remove(&mut self, id: u32) {
        let Some(place) = self.place(id) else { return };
        if self.order[place].1.take().is_none() {
            return;
        }
        self.open -= 1;
        while self.order.front().is_some_and(|(_, key)| key.is_none()) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.open + 64 {
            self.order.retain(|(_, key)| key.is_some());
        }
    }

    /// Streams that are open.
    pub fn len(&self) -> usize {
        self.open
    }

    fn place(&self, id: u32) -> Option<usize> {
        match self.order.back() {
            Some(&(last, _)) if last == id => Some(self.order.len() - 1),
            _ => self.order.binary_search_by_key(&id, |&(id, _)| id).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stdx::prng::Prng;

    #[test]
    fn it_finds_what_a_map_finds() {
        let (mut ids, mut model, mut prng) = (Ids::default(), BTreeMap::new(), Prng::new(1));
        let mut next = 1;
        for _ in 0..20_000 {
            if prng.chance(1, 2) {
                next += 2 * (1 + prng.below(3) as u32);
                let key = prng.below(1000) as u32;
                ids.push(next, key);
                model.insert(next, key);
            } else {
                // The first one is long-lived.
                let id = 3 + prng.below(u64::from(next)) as u32;
                ids.remove(id);
                model.remove(&id);
            }
            let id = prng.below(u64::from(next) + 2) as u32;
            assert_eq!(ids.find(id), model.get(&id).copied());
            assert_eq!(ids.len(), model.len());
            assert!(ids.order.len() <= 2 * ids.open + 65);
        }
    }
}
