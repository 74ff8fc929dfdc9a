//! Changing keys: one [`Writer`] is one write, that is one main revision.
//!
//! A put costs one seek in `Index` (what is there now), one append to `Kv`, one insert into `Index` and, if it
//! supersedes a live value, one append to `Garbage`. The stored bytes, the event's key and the event's encoding
//! are one allocation.
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};

use super::answer_room::AnswerRoom;
use super::event::{Event, EventBatch};
use super::revision::Revision;
use super::schema::{IndexEntry, LIVE, TOMBSTONE, garbage_key, index_prefix, lease_key, push_index_tail};
use super::view::{Found, View};
use super::walk::{Interval, Step, Walk};
use crate::btree::{Applied, Read, Tree, WriteTxn};
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::wire::{KeyValue, bytes_field_len, put_bytes_field, put_bytes_head, put_int_field, varint_len};

/// Keys that a range deletion collects before it deletes them: the walk cannot read what is being written.
const DELETE_BATCH: usize = 1024;

/// One write in progress. Its changes are in the transaction at once; [`Writer::finish`] makes them a revision.
pub struct Writer<'t, 's> {
    txn: &'t mut WriteTxn<'s>,
    /// The store's revision before.
    begin: i64,
    events: Vec<Event>,
}

/// What a deletion found.
#[derive(Clone, Debug, Default)]
pub struct Deleted {
    /// Keys deleted.
    pub keys: i64,
    /// What they held, as encoded fields 3 of a DeleteRangeResponse, if asked for and if there was room.
    pub prev_kvs: BytesMut,
}

impl<'t, 's> Writer<'t, 's> {
    /// Starts the next write.
    pub fn begin(txn: &'t mut WriteTxn<'s>) -> Self {
        let begin = txn.applied().revision;
        assert!(begin >= 1, "a store is initialized before it is written");
        Self { txn, begin, events: Vec::new() }
    }

    /// The revision that this write's own reads see: it moves with the first change.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(!self.events.is_empty())
    }

    /// The store as this write sees it now.
    pub fn view(&self) -> View<'_, WriteTxn<'s>> {
        View::at(&*self.txn, self.revision())
    }

    /// The next change's place.
    fn next(&self) -> Revision {
        Revision::new(self.begin + 1, self.events.len() as i64)
    }

    /// What `key` holds now, its deletion too.
    fn newest(&self, key: &[u8]) -> Option<Found> {
        self.view().find_any(key, Revision::new(i64::MAX, i64::MAX))
    }

    /// Applies a put that [`check_put`](super::txn::check_put) has let pass. Returns the encoded pair that was
    /// there before, if asked for.
    pub fn put(&mut self, request: &PutRequest) -> Option<Bytes> {
        let newest = self.newest(&request.key);
        let live = newest.filter(|found| !found.entry.tombstone);
        let prev_kv = match live {
            Some(found) if request.prev_kv => Some(Bytes::copy_from_slice(self.view().kv(found.revision))),
            _ => None,
        };
        let lease = match live {
            Some(found) if request.ignore_lease => found.entry.lease,
            _ => request.lease,
        };
        let revision = self.next();
        let kv = KeyValue {
            key: &request.key,
            create_revision: live.map_or(revision.main, |found| found.entry.create_revision),
            mod_revision: revision.main,
            version: live.map_or(1, |found| found.entry.version + 1),
            value: &request.value,
            lease,
        };
        let (stored, entry) = match live {
            Some(found) if request.ignore_value => {
                let old = KeyValue::decode(View::at(&*self.txn, self.begin).kv(found.revision));
                store(&KeyValue { value: old.value, ..kv })
            }
            _ => store(&kv),
        };

        self.txn.put(Tree::Kv, &revision.to_bytes(), &stored);
        let mut index = index_prefix(&request.key);
        push_index_tail(&mut index, revision);
        self.txn.put(Tree::Index, &index, &entry.encode(revision.main));
        if let Some(found) = live {
            self.txn.put(Tree::Garbage, &garbage_key(revision.main, found.revision), &[]);
        }
        let old_lease = live.map_or(0, |found| found.entry.lease);
        if old_lease != lease {
            self.detach(old_lease, &request.key);
            if lease != 0 {
                self.txn.put(Tree::LeaseKey, &lease_key(lease, &request.key), &[]);
            }
        }

        let key_at = 2 + varint_len(request.key.len() as u64);
        self.events.push(Event {
            sub: revision.sub,
            delete: false,
            create: entry.create_revision == revision.main,
            key: stored.slice(key_at..key_at + request.key.len()),
            kv: stored.slice(1..),
            prev: self.prev(&request.key, live),
        });
        prev_kv
    }

    /// Deletes the live keys of an interval, in key order. What they held is kept as far as there is room.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest, room: &mut AnswerRoom) -> Deleted {
        let mut deleted = Deleted::default();
        if request.range_end.is_empty() {
            if let Some(found) = self.newest(&request.key).filter(|found| !found.entry.tombstone) {
                self.keep_prev(request, found, &mut deleted, room);
                self.delete(&request.key, found);
            }
            return deleted;
        }
        let interval = Interval::new(&request.key, &request.range_end);
        let mut position = interval.start();
        // One main revision holds all of it, so what this very loop deletes is not live at `at` any more, and what
        // it has not reached yet is.
        let at = self.begin + 1;
        loop {
            let mut batch = Vec::new();
            let view = View::at(&*self.txn, at);
            let mut walk = Walk::resume(&view, &interval, at, &position, usize::MAX);
            while batch.len() < DELETE_BATCH
                && let Step::Live(revision, entry) = walk.next()
            {
                batch.push((walk.key().into_owned(), Found { revision, entry }));
            }
            let last = batch.len() < DELETE_BATCH;
            if !last {
                position = walk.position();
            }
            for (key, found) in batch {
                self.keep_prev(request, found, &mut deleted, room);
                self.delete(&key, found);
            }
            if last {
                return deleted;
            }
        }
    }

    fn keep_prev(
        &self,
        request: &DeleteRangeRequest,
        found: Found,
        deleted: &mut Deleted,
        room: &mut AnswerRoom,
    ) {
        deleted.keys += 1;
        if request.prev_kv && room.admit(bytes_field_len(found.entry.kv_len)) {
            put_bytes_field(
                &mut deleted.prev_kvs,
                3,
                View::at(&*self.txn, self.begin + 1).kv(found.revision),
            );
        }
    }

    /// Deletes the given keys, which all are attached to one lease and therefore live; etcd API guarantee: sorted.
    pub fn delete_keys(&mut self, keys: &[Vec<u8>]) {
        for key in keys {
            let found = self.newest(key).filter(|found| !found.entry.tombstone);
            self.delete(key, found.expect("a key attached to a lease is live"));
        }
    }

    fn delete(&mut self, key: &[u8], found: Found) {
        let revision = self.next();
        // What is stored has only the key; what watchers get has the revision too. One buffer is both.
        let stored_len = 1 + bytes_field_len(key.len());
        let mut buffer = BytesMut::with_capacity(stored_len + 1 + varint_len(revision.main as u64));
        buffer.put_u8(TOMBSTONE);
        put_bytes_field(&mut buffer, 1, key);
        put_int_field(&mut buffer, 3, revision.main);
        let buffer = buffer.freeze();

        self.txn.put(Tree::Kv, &revision.to_bytes(), &buffer[..stored_len]);
        let mut index = index_prefix(key);
        push_index_tail(&mut index, revision);
        self.txn.put(Tree::Index, &index, &IndexEntry::tombstone().encode(revision.main));
        self.txn.put(Tree::Garbage, &garbage_key(revision.main, found.revision), &[]);
        self.txn.put(Tree::Garbage, &garbage_key(revision.main + 1, revision), &[]);
        self.detach(found.entry.lease, key);

        self.events.push(Event {
            sub: revision.sub,
            delete: true,
            create: false,
            key: buffer.slice(stored_len - key.len()..stored_len),
            kv: buffer.slice(1..),
            prev: self.prev(key, Some(found)),
        });
    }

    fn detach(&mut self, lease: i64, key: &[u8]) {
        if lease != 0 {
            let attached = self.txn.delete(Tree::LeaseKey, &lease_key(lease, key));
            assert!(attached, "a key with a lease is attached to it");
        }
    }

    /// What the key held before this write. Only where one write changes a key twice does it have to look.
    fn prev(&self, key: &[u8], live: Option<Found>) -> Option<(i64, i64)> {
        let mut revision = live?.revision;
        if revision.main > self.begin {
            revision = View::at(&*self.txn, self.begin).find(key, self.begin)?.revision;
        }
        Some((revision.main, revision.sub))
    }

    /// Ends the write: if it changed anything, its revision is the store's.
    pub fn finish(self) -> Option<EventBatch> {
        if self.events.is_empty() {
            return None;
        }
        let revision = self.begin + 1;
        let applied = self.txn.applied();
        self.txn.set_applied(Applied { revision, ..applied });
        Some(EventBatch { revision, compact_revision: applied.compact_revision, events: self.events })
    }
}

/// The value of tree `Kv` for a live pair, and what the index says about it.
fn store(kv: &KeyValue<'_>) -> (Bytes, IndexEntry) {
    let kv_len = kv.encoded_len();
    let mut stored = BytesMut::with_capacity(1 + kv_len);
    stored.put_u8(LIVE);
    kv.encode(&mut stored);
    assert_eq!(stored.len(), 1 + kv_len, "a pair is as long as it was measured");
    let entry = IndexEntry {
        tombstone: false,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
        kv_len,
    };
    (stored.freeze(), entry)
}

/// Makes an empty store one that revisions can be written to: etcd starts at revision 1, never compacted.
pub fn initialize(txn: &mut WriteTxn<'_>) {
    let applied = txn.applied();
    if applied.revision == 0 {
        txn.set_applied(Applied { revision: 1, compact_revision: -1, swept_revision: -1, ..applied });
    }
}

/// Appends fields 1 (header with nothing but a revision) and 2 of a PutResponse inside a transaction.
pub(super) fn put_response_len(revision: i64, prev_kv: Option<&Bytes>) -> usize {
    bytes_field_len(1 + varint_len(revision as u64)) + prev_kv.map_or(0, |kv| bytes_field_len(kv.len()))
}

/// Writes what [`put_response_len`] measured.
pub(super) fn put_put_response(out: &mut BytesMut, revision: i64, prev_kv: Option<&Bytes>) {
    put_bytes_head(out, 1, 1 + varint_len(revision as u64));
    put_int_field(out, 3, revision);
    if let Some(kv) = prev_kv {
        put_bytes_field(out, 2, kv);
    }
}
