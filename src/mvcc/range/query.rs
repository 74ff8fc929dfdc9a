//! What a Range asks for.
#![forbid(unsafe_code)]

use crate::mvcc::revision::Revision;
use crate::mvcc::schema::IndexEntry;
use crate::mvcc::walk::{Interval, Walk};
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::{bytes_field_len, int_field_len};

/// What of each pair is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Whole pairs.
    Full,
    /// Pairs without their values; `lease` survives only where etcd reads the values to sort by them.
    Keys { lease: bool },
    /// Nothing but the count.
    Count,
}

/// The order of the pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Key,
    By { target: SortTarget, descending: bool },
}

/// Inclusive bounds; zero is none.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    pub(super) fn of(request: &RangeRequest) -> Self {
        Self {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    fn is_none(&self) -> bool {
        self.min_mod == 0 && self.max_mod == 0 && self.min_create == 0 && self.max_create == 0
    }

    pub(super) fn passes(&self, revision: Revision, entry: &IndexEntry) -> bool {
        (self.max_mod == 0 || revision.main <= self.max_mod)
            && (self.min_mod == 0 || revision.main >= self.min_mod)
            && (self.max_create == 0 || entry.create_revision <= self.max_create)
            && (self.min_create == 0 || entry.create_revision >= self.min_create)
    }
}

/// A Range, read from its request.
pub(super) struct Query {
    pub(super) interval: Interval,
    pub(super) shape: Shape,
    pub(super) filter: Filter,
    pub(super) order: Order,
    /// Main revision that is read.
    pub(super) at: i64,
    /// The store's revision when the request arrived: what the header says.
    pub(super) revision: i64,
    /// Pairs to answer with, at most.
    pub(super) limit: u64,
    /// Live keys to consider, in key order, at most.
    pub(super) fetch: u64,
    /// Walk to the end of the interval even when nothing more is to be fetched.
    pub(super) count_all: bool,
}

/// True for the orderings that the index already has: etcd API guarantee, with its quirk that a target without an
/// order still cuts to the limit before it sorts.
pub fn is_default_ordering(request: &RangeRequest) -> bool {
    let none = request.sort_order == SortOrder::None as i32;
    let ascending = request.sort_order == SortOrder::Ascend as i32;
    none || (request.sort_target == SortTarget::Key as i32 && ascending)
}

impl Query {
    /// A request whose enums have been checked, over `interval`, read at the main revision `at` of a store whose
    /// revision is `revision`.
    pub(super) fn new(
        request: &RangeRequest,
        interval: Interval,
        at: i64,
        revision: i64,
        count_all: bool,
    ) -> Self {
        let filter = Filter::of(request);
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
        Self {
            interval,
            shape,
            filter,
            order: if shape == Shape::Count { Order::Key } else { order },
            at,
            revision,
            limit,
            fetch: if shape == Shape::Count { 0 } else { fetch },
            count_all: count_all || shape == Shape::Count,
        }
    }

    /// Length of the encoded pair that the walk has come upon, as the answer will have it.
    pub(super) fn item_len(&self, walk: &Walk<'_, '_>, revision: Revision, entry: &IndexEntry) -> usize {
        let Shape::Keys { lease } = self.shape else { return entry.kv_len };
        bytes_field_len(walk.key_len())
            + int_field_len(entry.create_revision)
            + int_field_len(revision.main)
            + int_field_len(entry.version)
            + if lease { int_field_len(entry.lease) } else { 0 }
    }
}
