//! Planning a Range: which pairs it answers with, and how long they are.
#![forbid(unsafe_code)]

use super::emission::{Emission, Source};
use super::query::{Order, Query, Shape};
use super::sort::{Item, Sorter};
use crate::btree::Read;
use crate::error::Error;
use crate::mvcc::planned::{Planned, Progress};
use crate::mvcc::remembered::{PlanMemory, Remembered};
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::IndexEntry;
use crate::mvcc::view::View;
use crate::mvcc::walk::{Interval, Position, Step, Walk};
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::wire::{bytes_field_len, key_of};

/// A Range whose length is not known yet.
pub struct Plan {
    query: Query,
    /// Where the walk goes on.
    position: Position,
    /// The walk has reached its end.
    walked: bool,
    /// Live keys seen.
    total: u64,
    /// Live keys considered that passed the filter.
    matched: u64,
    /// Encoded length of the pairs to answer with, tags and lengths included.
    kvs_len: usize,
    /// The pairs of an answer in another order than that of keys.
    sorter: Option<Box<Sorter>>,
    /// By key: the first pairs, in order of the answer.
    remembered: Remembered,
    /// All pairs so far are remembered.
    remembers_all: bool,
    /// Where the emission leaves the remembered pairs and walks.
    unremembered: Position,
    /// Behind the last pair of the answer, once `limit` is reached.
    behind: Position,
    /// By key: the answer ends before the pair that would make it longer than this.
    kvs_len_max: usize,
}

impl Plan {
    /// A Range as the client asked for it. Its enums have been checked.
    ///
    /// # Errors
    /// When the revision asked for is compacted, or still to come.
    pub fn new<R: Read>(view: &View<'_, R>, request: &RangeRequest) -> Result<Self, Error> {
        let at = view.resolve(request.revision)?;
        Ok(Self::at(request, at, view.revision()))
    }

    /// A checked Range that reads at the pinned main revision `at` and says that the store's revision is `revision`.
    pub(crate) fn at(request: &RangeRequest, at: i64, revision: i64) -> Self {
        let interval = Interval::new(&request.key, &request.range_end);
        let position = interval.start();
        Self::from(Query::new(request, interval, at, revision, true), position)
    }

    /// A Range of which only the pairs count: it ends where they end, and keys behind its limit are not counted.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn of_pairs<R: Read>(view: &View<'_, R>, request: &RangeRequest) -> Result<Self, Error> {
        let interval = Interval::new(&request.key, &request.range_end);
        let position = interval.start();
        Self::part(view, request, interval, position, usize::MAX, false)
    }

    /// A Range over the part of `interval` from `position` on, which ends before its pairs take more than `bytes` bytes
    /// (but with one pair at least), and does not count what lies behind its end unless `count_all`.
    pub(crate) fn part<R: Read>(
        view: &View<'_, R>,
        request: &RangeRequest,
        interval: Interval,
        position: Position,
        bytes: usize,
        count_all: bool,
    ) -> Result<Self, Error> {
        let at = view.resolve(request.revision)?;
        let query = Query::new(request, interval, at, view.revision(), count_all);
        Ok(Self { kvs_len_max: bytes, ..Self::from(query, position) })
    }

    fn from(query: Query, position: Position) -> Self {
        let memory = PlanMemory::new(0);
        Self {
            unremembered: position.clone(),
            sorter: Sorter::of(&query, &memory),
            query,
            position,
            walked: false,
            total: 0,
            matched: 0,
            kvs_len: 0,
            remembered: Remembered::new(memory),
            remembers_all: true,
            behind: Position::default(),
            kvs_len_max: usize::MAX,
        }
    }

    /// Lets the plan remember more than a few KB, and bounds what it sorts. To be called before the first step.
    pub fn remember_in(&mut self, memory: &PlanMemory) {
        self.remembered = Remembered::new(memory.clone());
        self.sorter = Sorter::of(&self.query, memory);
    }

    /// The header's revision.
    pub fn revision(&self) -> i64 {
        self.query.revision
    }

    /// Plans to the end in one leg.
    ///
    /// # Errors
    /// As [`Planned::step`].
    pub fn finish<R: Read>(self, view: &View<'_, R>) -> Result<Emission, Error> {
        self.finish_in_legs(view, usize::MAX)
    }

    /// Plans to the end in one state of the store, in legs of `budget`.
    ///
    /// # Errors
    /// As [`Planned::step`].
    pub fn finish_in_legs<R: Read>(mut self, view: &View<'_, R>, budget: usize) -> Result<Emission, Error> {
        loop {
            match self.step(view, budget)? {
                Progress::Pending(plan) => self = plan,
                Progress::Done(emission) => return Ok(emission),
            }
        }
    }

    /// [`Planned::step`] for one of several plans that share a budget.
    pub(crate) fn step_within<R: Read>(
        mut self,
        view: &View<'_, R>,
        budget: &mut usize,
    ) -> Result<Progress<Self>, Error> {
        view.check_kept(self.query.at)?;
        // The walk borrows the interval while the plan grows.
        let interval = core::mem::take(&mut self.query.interval);
        let planned = self.proceed(view, &interval, budget);
        self.query.interval = interval;
        if planned? { Ok(Progress::Done(self.into_emission(view)?)) } else { Ok(Progress::Pending(self)) }
    }

    /// Walks, and sorts where that is needed, until the plan stands or the budget is used up.
    fn proceed<R: Read>(
        &mut self,
        view: &View<'_, R>,
        interval: &Interval,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        loop {
            if let Some(sorter) = &mut self.sorter
                && !sorter.merge(view, self.walked, budget)?
            {
                return Ok(false);
            }
            if self.walked {
                return Ok(true);
            }
            self.walked = self.walk_leg(view, interval, budget)?;
            if !self.walked && *budget == 0 {
                return Ok(false);
            }
        }
    }

    /// One leg of the walk; true if it was the last. A leg ends early when sorted pairs have to be merged.
    fn walk_leg<R: Read>(
        &mut self,
        view: &View<'_, R>,
        interval: &Interval,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let mut walk = Walk::resume(view, interval, self.query.at, &self.position, *budget);
        let complete = loop {
            if !self.query.count_all && self.total >= self.query.fetch {
                break true;
            }
            if self.total >= self.query.fetch
                && let Some(counts) = view.leaf_counts()
                && let Some(live) = walk.pass_leaf(counts)?
            {
                self.total += live;
                continue;
            }
            let pauses = match walk.step()? {
                Some(Step::Live(revision, entry)) => self.consider(view, &walk, revision, &entry)?,
                Some(Step::Paused) => true,
                Some(Step::End) => break true,
                None => false,
            };
            if pauses {
                self.position = walk.position();
                break false;
            }
        };
        *budget = walk.budget();
        Ok(complete)
    }

    /// Takes account of the next live key. True if the sorted pairs have to be merged before the next one.
    fn consider<R: Read>(
        &mut self,
        view: &View<'_, R>,
        walk: &Walk<'_, '_>,
        revision: Revision,
        entry: &IndexEntry,
    ) -> Result<bool, Error> {
        let fetched = self.total < self.query.fetch;
        self.total += 1;
        if !fetched || !self.query.filter.passes(revision, entry) {
            return Ok(false);
        }
        self.matched += 1;
        let len = self.query.item_len(walk, revision, entry);
        let (Order::By { target, descending }, Some(sorter)) = (self.query.order, &mut self.sorter) else {
            self.consider_by_key(walk, revision, bytes_field_len(len));
            return Ok(false);
        };
        let number = match target {
            SortTarget::Version => entry.version,
            SortTarget::Create => entry.create_revision,
            SortTarget::Mod => revision.main,
            SortTarget::Key => self.matched as i64,
            SortTarget::Value => 0,
        };
        // Ties keep key order in both directions, which is what a stable sort of the walk would do.
        let number = if descending { !number } else { number };
        let item = Item { number, place: self.matched, revision, len };
        sorter.push(view, item, entry.kv_len)
    }

    fn consider_by_key(&mut self, walk: &Walk<'_, '_>, revision: Revision, field_len: usize) {
        if self.matched > self.query.limit {
            return;
        }
        if self.matched > 1 && self.kvs_len + field_len > self.kvs_len_max {
            self.query.limit = self.matched - 1;
            self.query.fetch = self.total;
            self.behind = walk.position_before();
            return;
        }
        self.kvs_len += field_len;
        if self.query.shape == Shape::Full && self.remembers_all && !self.remembered.push(revision) {
            self.remembers_all = false;
            self.unremembered = walk.position_before();
        }
        if self.matched == self.query.limit {
            self.behind = walk.position();
        }
    }

    fn into_emission<R: Read>(mut self, view: &View<'_, R>) -> Result<Emission, Error> {
        let (mut kvs_len, mut behind) = (self.kvs_len, self.behind);
        let walks = self.sorter.is_none() && (self.query.shape != Shape::Full || !self.remembers_all);
        if !walks {
            // Bounds may be long, and the answer may wait for its client.
            self.query.interval = Interval::default();
        }
        let source = match self.sorter {
            None => {
                let unremembered = walks.then_some(self.unremembered);
                Source::ByKey { remembered: self.remembered, unremembered }
            }
            Some(sorter) => {
                let sorted = sorter.into_sorted();
                kvs_len = sorted.kvs_len;
                // etcd goes on behind the pair that it answered last, also where sorting put that one out of key order.
                if let Some(last) = sorted.last_pair() {
                    let key = key_of(view.stored(last.revision)?).ok_or(Error::Corrupt)?;
                    behind = Position::behind_key(key);
                }
                Source::Sorted(sorted)
            }
        };
        Ok(Emission::new(self.query, self.total, self.matched, kvs_len, source, behind))
    }
}

impl Planned for Plan {
    type Answer = Emission;

    fn pin(&self) -> i64 {
        self.query.at
    }

    fn step<R: Read>(self, view: &View<'_, R>, mut budget: usize) -> Result<Progress<Self>, Error> {
        self.step_within(view, &mut budget)
    }
}
