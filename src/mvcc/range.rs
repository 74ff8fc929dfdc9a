//! Answering a Range: first its exact length, from the index alone; then its bytes, slice by slice.
//!
//! A unary gRPC message states its length before its first byte, and a list may be a gigabyte long. So an answer is
//! *planned* by a walk over the index, which knows the length of every value without touching it, and then
//! *emitted*: values are copied from their pages into whatever slice the connection has room for. Which ones, the plan
//! has remembered as far as it may ([`remembered`](super::remembered)); behind that the index is walked again.
//! Both go in bounded legs and hold no snapshot between two: they read at a revision which the caller pins, so
//! that a compaction takes nothing away under them.
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};

use super::remembered::{PlanMemory, Remembered};
use super::revision::Revision;
use super::schema::IndexEntry;
use super::values::{BATCH, Values};
use super::view::View;
use super::walk::{Interval, Position, Step, Walk};
use crate::btree::Read;
use crate::error::Error;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::response::Header;
use crate::wire::{
    KeyValue, bytes_field_len, int_field_len, key_of, put_bytes_field, put_bytes_head, put_int_field,
};

/// Pairs that a sorted plan keeps beyond what the client wants to see.
const SURPLUS: u64 = 1024;

/// Index entries that one leg of an emission looks at.
const LEG: usize = 8192;

const WENT_AWAY: &str = "keys of a pinned revision went away between plan and emission";

/// Pairs that a leg of the emission gathers before it reads their values.
const GATHERED: usize = 4 * BATCH;

/// A Range being answered.
pub struct Range {
    interval: Interval,
    shape: Shape,
    filter: Filter,
    order: Order,
    /// Main revision that is read.
    at: i64,
    /// The store's revision when the request arrived: what the header says.
    revision: i64,
    /// Pairs to answer with, at most.
    limit: u64,
    /// Live keys to consider, in key order, at most.
    fetch: u64,
    /// Walk to the end of the interval even when nothing more is to be fetched.
    count_all: bool,

    /// Where the plan, then the emission goes on.
    position: Position,
    planned: bool,
    /// Live keys seen.
    total: u64,
    /// Those considered that passed the filter.
    matched: u64,
    /// Encoded length of the pairs to answer with, tags and lengths included.
    kvs_len: usize,
    /// Sorted: all pairs, in order of the answer.
    items: Vec<Item>,
    /// By key: the first pairs, in order of the answer.
    remembered: Remembered,
    /// All pairs so far are remembered.
    remembers_all: bool,
    /// Where the emission leaves the remembered pairs and walks.
    unremembered: Position,
    /// Behind the last pair of the answer, once `limit` is reached.
    behind: Position,

    /// Pairs to be written next, from `turn` on.
    batch: Vec<Revision>,
    turn: usize,
    /// Pairs written.
    emitted: u64,
    written: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Whole pairs.
    Full,
    /// Pairs without their values; `lease` survives only where etcd reads the values to sort by them.
    Keys { lease: bool },
    /// Nothing but the count.
    Count,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Key,
    By { target: SortTarget, descending: bool },
}

/// Inclusive bounds; zero is none.
#[derive(Clone, Copy)]
struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn is_none(&self) -> bool {
        self.min_mod == 0 && self.max_mod == 0 && self.min_create == 0 && self.max_create == 0
    }

    fn passes(&self, revision: Revision, entry: &IndexEntry) -> bool {
        (self.max_mod == 0 || revision.main <= self.max_mod)
            && (self.min_mod == 0 || revision.main >= self.min_mod)
            && (self.max_create == 0 || entry.create_revision <= self.max_create)
            && (self.min_create == 0 || entry.create_revision >= self.min_create)
    }
}

/// A pair of the answer.
#[derive(Clone, Copy)]
struct Item {
    /// Ascending in order of the answer.
    rank: (i64, i64),
    revision: Revision,
    /// Length of its encoding in the answer.
    len: usize,
}

/// True for the orderings that the index already has: etcd API guarantee, with its quirk that a target without an
/// order still cuts to the limit before it sorts.
pub fn is_default_ordering(request: &RangeRequest) -> bool {
    let none = request.sort_order == SortOrder::None as i32;
    let ascending = request.sort_order == SortOrder::Ascend as i32;
    none || (request.sort_target == SortTarget::Key as i32 && ascending)
}

impl Range {
    /// A Range as the client asked for it. Its enums have been checked.
    pub fn new<R: Read>(view: &View<'_, R>, request: &RangeRequest) -> Result<Self, Error> {
        let interval = Interval::new(&request.key, &request.range_end);
        let position = interval.start();
        Self::from(view, request, interval, position, true)
    }

    /// A Range over the part of `interval` from `position` on.
    pub(super) fn from<R: Read>(
        view: &View<'_, R>,
        request: &RangeRequest,
        interval: Interval,
        position: Position,
        count_all: bool,
    ) -> Result<Self, Error> {
        let at = view.resolve(request.revision)?;
        let filter = Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        };
        let target = request.sort_target();
        let order = match (request.sort_order(), target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => Order::Key,
            (order, target) => Order::By { target, descending: order == SortOrder::Descend },
        };
        let shape = match request {
            _ if request.count_only => Shape::Count,
            _ if request.keys_only => Shape::Keys { lease: target == SortTarget::Value },
            _ => Shape::Full,
        };
        let limit = if request.limit > 0 { request.limit as u64 } else { u64::MAX };
        let fetch = match limit {
            u64::MAX => u64::MAX,
            _ if is_default_ordering(request) && filter.is_none() => limit + 1,
            _ => u64::MAX,
        };
        Ok(Self {
            unremembered: position.clone(),
            interval,
            shape,
            filter,
            order: if shape == Shape::Count { Order::Key } else { order },
            at,
            revision: view.revision(),
            limit,
            fetch: if shape == Shape::Count { 0 } else { fetch },
            count_all: count_all || shape == Shape::Count,
            position,
            planned: false,
            total: 0,
            matched: 0,
            kvs_len: 0,
            items: Vec::new(),
            remembered: Remembered::new(PlanMemory::new(0)),
            remembers_all: true,
            behind: Position::default(),
            batch: Vec::new(),
            turn: 0,
            emitted: 0,
            written: 0,
        })
    }

    /// Lets the plan remember more than a few KB. To be called before it is begun.
    pub fn remember_in(&mut self, memory: &PlanMemory) {
        self.remembered = Remembered::new(memory.clone());
    }

    /// Main revision that is read: pin it before the first snapshot goes, unless the answer is complete by then.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// The header's revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Goes on with the plan, looking at up to `budget` index entries; true once it stands.
    ///
    /// Sorting by value is the exception: it needs all values at once, so it runs to its end in one call.
    pub fn plan<R: Read>(&mut self, view: &View<'_, R>, budget: usize) -> bool {
        if self.planned {
            return true;
        }
        if let Order::By { target: SortTarget::Value, descending } = self.order {
            self.plan_by_value(view, descending);
            self.note_behind(view);
            self.planned = true;
            return true;
        }
        // The walk borrows the interval while the plan grows.
        let interval = core::mem::take(&mut self.interval);
        let complete = self.walk_leg(view, &interval, budget);
        self.interval = interval;
        if !complete {
            return false;
        }
        if let Order::By { .. } = self.order {
            self.items.sort_unstable_by_key(|item| item.rank);
            self.items.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
            self.kvs_len = self.items.iter().map(|item| bytes_field_len(item.len)).sum();
            self.note_behind(view);
        }
        self.planned = true;
        true
    }

    /// etcd goes on behind the pair that it answered last, also where sorting put that one out of key order.
    fn note_behind<R: Read>(&mut self, view: &View<'_, R>) {
        if let Some(last) = self.items.last() {
            self.behind = Position::behind_key(key_of(view.kv(last.revision)));
        }
    }

    /// One leg of the walk; true if it was the last.
    fn walk_leg<R: Read>(&mut self, view: &View<'_, R>, interval: &Interval, budget: usize) -> bool {
        let mut walk = Walk::resume(view, interval, self.at, &self.position, budget);
        while self.count_all || self.total < self.fetch {
            if self.total >= self.fetch
                && let Some(live) = view.leaf_counts().and_then(|counts| walk.pass_leaf(counts))
            {
                self.total += live;
                continue;
            }
            match walk.step() {
                Some(Step::Live(revision, entry)) => self.consider(&walk, revision, &entry),
                Some(Step::Paused) => {
                    self.position = walk.position();
                    return false;
                }
                Some(Step::End) => break,
                None => {}
            }
        }
        true
    }

    /// Takes account of the next live key.
    fn consider(&mut self, walk: &Walk<'_, '_>, revision: Revision, entry: &IndexEntry) {
        let fetched = self.total < self.fetch;
        self.total += 1;
        if !fetched || !self.filter.passes(revision, entry) {
            return;
        }
        self.matched += 1;
        let len = self.item_len(walk, revision, entry);
        let Order::By { target, descending } = self.order else {
            if self.matched <= self.limit {
                self.kvs_len += bytes_field_len(len);
                if self.shape == Shape::Full && self.remembers_all && !self.remembered.push(revision) {
                    self.remembers_all = false;
                    self.unremembered = walk.position_before();
                }
                if self.matched == self.limit {
                    self.behind = walk.position();
                }
            }
            return;
        };
        let number = match target {
            SortTarget::Version => entry.version,
            SortTarget::Create => entry.create_revision,
            SortTarget::Mod => revision.main,
            SortTarget::Key | SortTarget::Value => self.matched as i64,
        };
        // Ties keep key order in both directions, which is what a stable sort of the walk would do.
        let rank = (if descending { !number } else { number }, self.matched as i64);
        self.items.push(Item { rank, revision, len });
        self.drop_surplus();
    }

    /// Keeps a sorted plan within a small multiple of what the client wants to see.
    fn drop_surplus(&mut self) {
        let keep = self.limit.saturating_add(SURPLUS);
        if self.items.len() as u64 >= keep.saturating_mul(2) {
            let keep = keep as usize;
            self.items.select_nth_unstable_by_key(keep, |item| item.rank);
            self.items.truncate(keep);
        }
    }

    /// Length of the encoded pair, as the answer will have it.
    fn item_len(&self, walk: &Walk<'_, '_>, revision: Revision, entry: &IndexEntry) -> usize {
        let Shape::Keys { lease } = self.shape else { return entry.kv_len };
        bytes_field_len(walk.key_len())
            + int_field_len(entry.create_revision)
            + int_field_len(revision.main)
            + int_field_len(entry.version)
            + if lease { int_field_len(entry.lease) } else { 0 }
    }

    fn plan_by_value<R: Read>(&mut self, view: &View<'_, R>, descending: bool) {
        let interval = self.interval.clone();
        let mut walk = Walk::resume(view, &interval, self.at, &self.position, usize::MAX);
        let mut values = Vec::new();
        while let Step::Live(revision, entry) = walk.next() {
            if self.total < self.fetch && self.filter.passes(revision, &entry) {
                let len = self.item_len(&walk, revision, &entry);
                values
                    .push((KeyValue::decode(view.kv(revision)).value, Item { rank: (0, 0), revision, len }));
            }
            self.total += 1;
        }
        self.matched = values.len() as u64;
        values.sort_by(|a, b| if descending { b.0.cmp(a.0) } else { a.0.cmp(b.0) });
        values.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        self.items = values.into_iter().map(|(_, item)| item).collect();
        self.kvs_len = self.items.iter().map(|item| bytes_field_len(item.len)).sum();
    }

    /// Live keys in the interval, whatever limit and filters say.
    pub fn count(&self) -> i64 {
        self.total as i64
    }

    /// True if the limit left something out.
    pub fn more(&self) -> bool {
        self.matched > self.limit
    }

    /// Pairs in the answer.
    pub fn kvs(&self) -> u64 {
        self.matched.min(self.limit)
    }

    /// Encoded length of those pairs.
    pub(super) fn kvs_len(&self) -> usize {
        self.kvs_len
    }

    /// Behind the last pair, if the limit was reached.
    pub(super) fn behind(&self) -> &Position {
        &self.behind
    }

    /// Exact length of the encoded RangeResponse.
    pub fn encoded_len(&self, header: &Header) -> usize {
        assert!(self.planned, "the length of an answer is known once it is planned");
        header.field_len(self.revision) + self.kvs_len + Self::tail_len(self.more(), self.count())
    }

    pub(super) fn tail_len(more: bool, count: i64) -> usize {
        int_field_len(i64::from(more)) + int_field_len(count)
    }

    pub(super) fn put_tail(out: &mut BytesMut, more: bool, count: i64) {
        put_int_field(out, 3, i64::from(more));
        put_int_field(out, 4, count);
    }

    /// Appends the next slice of the encoded RangeResponse: `bytes` more at most, but one pair whatever its length, and
    /// the header before the first and the tail behind the last. True once it is complete; all slices together have the
    /// length that was promised.
    pub fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> bool {
        let before = out.len();
        if self.written == 0 {
            header.put_field(self.revision, out);
        }
        let around = out.len() - before + Self::tail_len(self.more(), self.count());
        let complete = self.emit_kvs(view, out, bytes.saturating_sub(around));
        if complete {
            Self::put_tail(out, self.more(), self.count());
        }
        self.written += out.len() - before;
        assert!(
            !complete || self.written == self.encoded_len(header),
            "an answer of {} bytes was promised, {} were written",
            self.encoded_len(header),
            self.written
        );
        complete
    }

    /// Appends pairs as far as `bytes` go, but at least one; true once it has appended the last.
    pub(super) fn emit_kvs<R: Read>(&mut self, view: &View<'_, R>, out: &mut BytesMut, bytes: usize) -> bool {
        assert!(self.planned, "an answer is written once it is planned");
        let full = out.len().saturating_add(bytes);
        if self.order == Order::Key && self.shape != Shape::Full {
            let interval = core::mem::take(&mut self.interval);
            self.emit_keys(view, &interval, out, full);
            self.interval = interval;
        } else {
            self.emit_values(view, out, full);
        }
        self.emitted == self.kvs()
    }

    /// One leg of the emission of pairs that have to be read.
    fn emit_values<R: Read>(&mut self, view: &View<'_, R>, out: &mut BytesMut, full: usize) {
        let mut values = Values::new(view);
        let mut at_least_one = true;
        while self.emitted < self.kvs() {
            if self.turn == self.batch.len() {
                self.gather(view);
                if self.batch.is_empty() {
                    break;
                }
            }
            // No more than will fit, if all are as long as the average: what is looked up in vain costs time.
            let average = (self.kvs_len as u64 / self.kvs()).max(1);
            let fit =
                (full.saturating_sub(out.len()) as u64).div_ceil(average).clamp(1, BATCH as u64) as usize;
            let revisions = &self.batch[self.turn..];
            let revisions = &revisions[..revisions.len().min(fit)];
            let shape = self.shape;
            let taken = values.read(revisions, |kv| {
                let fits = |len| out.len() + bytes_field_len(len) <= full;
                match shape {
                    Shape::Keys { lease } => {
                        let decoded = KeyValue::decode(kv);
                        let len = decoded.head_len() + if lease { int_field_len(decoded.lease) } else { 0 };
                        if !at_least_one && !fits(len) {
                            return false;
                        }
                        put_bytes_head(out, 2, len);
                        put_without_value(out, kv, &decoded, lease);
                    }
                    _ => {
                        if !at_least_one && !fits(kv.len()) {
                            return false;
                        }
                        put_bytes_field(out, 2, kv);
                    }
                }
                at_least_one = false;
                true
            });
            self.turn += taken;
            self.emitted += taken as u64;
            if taken < revisions.len() || out.len() >= full {
                break;
            }
        }
    }

    /// Finds out which pairs come next.
    fn gather<R: Read>(&mut self, view: &View<'_, R>) {
        self.turn = 0;
        self.batch.clear();
        if self.order != Order::Key {
            let rest = self.items[self.emitted as usize..].iter().take(GATHERED);
            return self.batch.extend(rest.map(|item| item.revision));
        }
        self.batch.extend(std::iter::from_fn(|| self.remembered.pop()).take(GATHERED));
        if !self.batch.is_empty() {
            return;
        }
        let mut walk = Walk::resume(view, &self.interval, self.at, &self.unremembered, LEG);
        while self.batch.len() < GATHERED && self.emitted + (self.batch.len() as u64) < self.kvs() {
            match walk.next() {
                Step::Live(revision, entry) if self.filter.passes(revision, &entry) => {
                    self.batch.push(revision)
                }
                Step::Live(..) => {}
                Step::Paused => break,
                Step::End => panic!("{WENT_AWAY}"),
            }
        }
        self.unremembered = walk.position();
    }

    /// One leg of the emission of pairs that the index knows everything about.
    fn emit_keys<R: Read>(
        &mut self,
        view: &View<'_, R>,
        interval: &Interval,
        out: &mut BytesMut,
        full: usize,
    ) {
        let kvs = self.kvs();
        if self.emitted == kvs {
            return;
        }
        let mut walk = Walk::resume(view, interval, self.at, &self.unremembered, LEG);
        while self.emitted < kvs {
            match walk.next() {
                Step::Live(revision, entry) if self.filter.passes(revision, &entry) => {
                    let kv = KeyValue {
                        key: &walk.key(),
                        create_revision: entry.create_revision,
                        mod_revision: revision.main,
                        version: entry.version,
                        ..KeyValue::default()
                    };
                    put_bytes_head(out, 2, kv.encoded_len());
                    kv.encode(out);
                    self.emitted += 1;
                    if out.len() >= full {
                        break;
                    }
                }
                Step::Live(..) => {}
                Step::Paused => break,
                Step::End => panic!("{WENT_AWAY}"),
            }
        }
        if self.emitted < kvs {
            self.unremembered = walk.position();
        }
    }
}

/// Appends an encoded `KeyValue`, which is also there decoded, without its value, and without its lease unless that is
/// wanted.
fn put_without_value(out: &mut BytesMut, kv: &[u8], decoded: &KeyValue<'_>, lease: bool) {
    out.put_slice(&kv[..decoded.head_len()]);
    if lease {
        put_int_field(out, 6, decoded.lease);
    }
}

/// A whole RangeResponse at once: for one key, and for answers known to be small.
pub fn answer<R: Read>(view: &View<'_, R>, header: &Header, request: &RangeRequest) -> Result<Bytes, Error> {
    if request.range_end.is_empty() {
        return answer_one(view, header, request);
    }
    let mut range = Range::new(view, request)?;
    while !range.plan(view, usize::MAX) {}
    let mut out = BytesMut::with_capacity(range.encoded_len(header));
    while !range.emit(view, header, &mut out, usize::MAX) {}
    Ok(out.freeze())
}

/// A Range of one key: neither order nor limit matter, and nothing is allocated but the answer.
fn answer_one<R: Read>(view: &View<'_, R>, header: &Header, request: &RangeRequest) -> Result<Bytes, Error> {
    let at = view.resolve(request.revision)?;
    let filter = Filter {
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
    };
    let found = view.find(&request.key, at);
    let count = i64::from(found.is_some());
    let shown = found.filter(|found| !request.count_only && filter.passes(found.revision, &found.entry));
    let fixed = header.field_len(view.revision()) + Range::tail_len(false, count);
    let Some(found) = shown else {
        let mut out = BytesMut::with_capacity(fixed);
        header.put_field(view.revision(), &mut out);
        Range::put_tail(&mut out, false, count);
        return Ok(out.freeze());
    };
    let lease = request.sort_target() == SortTarget::Value;
    let keys_only = KeyValue {
        key: &request.key,
        create_revision: found.entry.create_revision,
        mod_revision: found.revision.main,
        version: found.entry.version,
        value: &[],
        lease: if lease { found.entry.lease } else { 0 },
    };
    let len = if request.keys_only { keys_only.encoded_len() } else { found.entry.kv_len };
    let mut out = BytesMut::with_capacity(fixed + bytes_field_len(len));
    header.put_field(view.revision(), &mut out);
    put_bytes_head(&mut out, 2, len);
    if request.keys_only {
        keys_only.encode(&mut out);
    } else {
        let kv = view.kv(found.revision);
        assert_eq!(kv.len(), len, "the index knows the length of every value");
        out.put_slice(kv);
    }
    Range::put_tail(&mut out, false, count);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::write::{Writer, initialize};
    use crate::proto::etcdserverpb::PutRequest;
    use crate::stdx::prng::Prng;

    /// Pairs, in no order, some put twice: more than an answer remembers without being given memory.
    const PAIRS: u64 = 9_000;

    fn fill(store: &mut Store, prng: &mut Prng) {
        let mut txn = store.write();
        initialize(&mut txn);
        for _ in 0..PAIRS {
            let mut writer = Writer::begin(&mut txn);
            for _ in 0..1 + prng.below(3) {
                let key = format!("{:05}", prng.below(2 * PAIRS));
                let len = if prng.chance(1, 500) { 3_000 } else { prng.below(40) as usize };
                let value = vec![prng.next_u64() as u8; len];
                writer.put(&PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() });
            }
            writer.finish();
        }
        txn.commit();
    }

    /// The answer's encoded pairs one by one, from the index and a lookup for each.
    fn expected(view: &View<'_, impl Read>, request: &RangeRequest) -> Vec<Vec<u8>> {
        let interval = Interval::new(&request.key, &request.range_end);
        let mut walk = Walk::resume(view, &interval, view.revision(), &interval.start(), usize::MAX);
        let mut pairs = Vec::new();
        while let Step::Live(revision, _) = walk.next() {
            if revision.main >= request.min_mod_revision {
                let mut pair = Vec::new();
                put_bytes_field(&mut pair, 2, view.kv(revision));
                pairs.push(pair);
            }
        }
        pairs
    }

    #[test]
    fn slices_are_the_same_whatever_the_plan_remembers_and_none_is_longer_than_asked_for() {
        let prng = &mut Prng::new(9);
        let mut store = Store::in_memory();
        fill(&mut store, prng);
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let header = Header::default();
        for round in 0..12 {
            let request = RangeRequest {
                key: b"00100"[..].into(),
                range_end: b"\0"[..].into(),
                min_mod_revision: if round % 2 == 0 { 0 } else { PAIRS as i64 / 3 },
                ..RangeRequest::default()
            };
            let pairs = expected(&view, &request);
            let longest = pairs.iter().map(Vec::len).max().unwrap();
            let mut range = Range::new(&view, &request).unwrap();
            range.remember_in(&PlanMemory::new([0, 20_000, 1 << 20][round % 3]));
            while !range.plan(&view, 500) {}
            assert_eq!((range.kvs(), range.remembers_all), (pairs.len() as u64, round % 3 == 2));
            let mut out = BytesMut::new();
            loop {
                let bytes = longest + prng.below([100, 100_000][round % 2]) as usize;
                let before = out.len();
                let complete = range.emit(&view, &header, &mut out, bytes);
                assert!(out.len() - before <= bytes.max(longest + 100), "a slice is too long");
                if complete {
                    break;
                }
            }
            let mut whole = BytesMut::new();
            header.put_field(range.revision(), &mut whole);
            pairs.iter().for_each(|pair| whole.extend_from_slice(pair));
            Range::put_tail(&mut whole, false, range.count());
            assert!(out == whole, "another answer, of {} bytes instead of {}", out.len(), whole.len());
        }
    }
}
