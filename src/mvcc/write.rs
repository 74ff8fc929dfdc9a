//! Changing keys: one [`Writer`] is one write, that is one main revision.
//!
//! A put costs one seek in `Index` (what is there now), one append to `Kv`, one insert into `Index` and, if it
//! supersedes a live value, one append to `Garbage`. The stored bytes, the event's key and the event's encoding
//! are one allocation.
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};

use super::answer_room::AnswerRoom;
use super::attached::{FirstKeys, first_lease_keys};
use super::event::{Event, EventBatch};
use super::revision::Revision;
use super::schema::{IndexEntry, LIVE, TOMBSTONE, garbage_key, index_prefix, lease_key, push_index_tail};
use super::view::{Found, View};
use super::walk::{BYTES_PER_ENTRY, Interval, Position, Step, Walk};
use crate::btree::{Applied, Read, Tree, WriteTxn};
use crate::error::Error;
use crate::limits::{EVENTS_PUBLISHED_BYTES_MAX, EVENTS_PUBLISHED_MAX};
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::wire::{KeyValue, bytes_field_len, put_bytes_field, put_bytes_head, put_int_field, varint_len};

/// Keys that a deletion collects before it deletes them: the walk cannot read what is being written.
const DELETE_BATCH: usize = 1024;

/// What putting or deleting one key costs, in index entries walked over.
pub const CHANGE_COST: usize = 16;

/// How often the bytes of a pair are copied that is put: into one buffer, and from there into a page.
const PUT_COPIES: usize = 2;

/// How often the bytes of a key are copied that is deleted: when it is found, for the index, for tree `Kv` and the
/// event, and into a page of each of the two trees.
const DELETE_COPIES: usize = 5;

/// One write in progress. Its changes are in the transaction at once; [`Writer::finish`] makes them a revision.
pub struct Writer<'t, 's> {
    txn: &'t mut WriteTxn<'s>,
    written: Written,
}

/// What a write has come to so far. It outlives its [`Writer`] where the write is suspended.
#[derive(Debug)]
pub struct Written {
    /// The store's revision before.
    begin: i64,
    changes: i64,
    /// The changes, or none once there are more than `events_max`, or longer ones than [`EVENTS_PUBLISHED_BYTES_MAX`].
    events: Vec<Event>,
    events_max: usize,
    /// Bytes of all events, those too that were dropped.
    events_bytes: usize,
    /// Bytes that the changes have copied and that nobody was charged for.
    copied: usize,
    growth: Growth,
}

/// What a write adds to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Keys that live now and did not before, less those that do not live any more.
    pub keys: i64,
    /// Bytes of the keys and encoded pairs that it puts.
    pub put_bytes: u64,
}

/// A deletion of the keys of an interval, which may take several slices.
#[derive(Debug)]
pub struct Deletion {
    interval: Interval,
    /// Where the walk goes on: behind the last key deleted.
    position: Position,
    /// Keys deleted.
    keys: i64,
}

impl Deletion {
    /// What `request` asks for, not begun.
    pub fn new(request: &DeleteRangeRequest) -> Self {
        let interval = Interval::new(&request.key, &request.range_end);
        Self { position: interval.start(), interval, keys: 0 }
    }

    /// Keys deleted so far.
    pub fn keys(&self) -> i64 {
        self.keys
    }

    /// Passes over a key as if it had been deleted: a fault for the simulator, which has to find it.
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub fn skip_key(&mut self, txn: &WriteTxn<'_>) {
        let at = txn.applied().revision + 1;
        let view = View::at(txn, at);
        let mut walk = Walk::resume(&view, &self.interval, at, &self.position, usize::MAX);
        if let Ok(Step::Live(..)) = walk.next() {
            self.position = walk.position();
        }
    }
}

impl<'t, 's> Writer<'t, 's> {
    /// Starts the next write.
    pub fn begin(txn: &'t mut WriteTxn<'s>) -> Self {
        Self::begin_with(txn, EVENTS_PUBLISHED_MAX)
    }

    /// Starts the next write, which keeps its events unless there are more than `events_max`.
    pub fn begin_with(txn: &'t mut WriteTxn<'s>, events_max: usize) -> Self {
        let begin = txn.applied().revision;
        assert!(begin >= 1, "a store is initialized before it is written");
        let written = Written {
            begin,
            changes: 0,
            events: Vec::new(),
            events_max,
            events_bytes: 0,
            copied: 0,
            growth: Growth::default(),
        };
        Self { txn, written }
    }

    /// Goes on with a write in the transaction that has its changes.
    pub fn resume(txn: &'t mut WriteTxn<'s>, written: Written) -> Self {
        Self { txn, written }
    }

    /// What [`Writer::resume`] needs; the transaction is to be suspended, or used on.
    pub fn pause(self) -> Written {
        self.written
    }

    /// The revision that this write's own reads see: it moves with the first change.
    pub fn revision(&self) -> i64 {
        self.written.begin + i64::from(self.written.changes > 0)
    }

    /// Changes so far.
    pub fn changes(&self) -> i64 {
        self.written.changes
    }

    /// What the changes so far add to the store.
    pub fn growth(&self) -> Growth {
        self.written.growth
    }

    /// What the bytes that were copied since the last call cost, in index entries walked over.
    pub fn copy_cost(&mut self) -> usize {
        std::mem::take(&mut self.written.copied) / BYTES_PER_ENTRY
    }

    /// The store as this write sees it now.
    pub fn view(&self) -> View<'_, WriteTxn<'s>> {
        View::at(&*self.txn, self.revision())
    }

    /// The next change's place.
    fn next(&self) -> Revision {
        Revision::new(self.written.begin + 1, self.written.changes)
    }

    /// What `key` holds now, its deletion too.
    fn newest(&self, key: &[u8]) -> Result<Option<Found>, Error> {
        match self.view().find_any(key, Revision::new(i64::MAX, i64::MAX))? {
            Some(found) if found.revision >= self.next() => Err(Error::Corrupt),
            found => Ok(found),
        }
    }

    /// Applies a put that [`check_put`](super::txn::check_put) has let pass. Returns the encoded pair that was
    /// there before, if asked for.
    ///
    /// # Errors
    /// When the store has a record that cannot be read, or lacks one. As of every method that writes: what was changed
    /// until then has to be dropped with the transaction.
    pub fn put(&mut self, request: &PutRequest) -> Result<Option<Bytes>, Error> {
        self.put_within(request, |_| true)
    }

    /// [`Writer::put`] that returns the pair before only if `admit` takes its length.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn put_within(
        &mut self,
        request: &PutRequest,
        admit: impl FnOnce(usize) -> bool,
    ) -> Result<Option<Bytes>, Error> {
        let live = self.newest(&request.key)?.filter(|found| !found.entry.tombstone);
        let prev_kv = match live {
            Some(found) if request.prev_kv && admit(found.entry.kv_len) => {
                Some(Bytes::copy_from_slice(self.view().stored(found.revision)?))
            }
            _ => None,
        };
        let lease = match live {
            Some(found) if request.ignore_lease => found.entry.lease,
            _ => request.lease,
        };
        let revision = self.next();
        let (stored, entry) = self.pair(request, live, lease)?;
        self.written.copied += PUT_COPIES * stored.len() + prev_kv.as_ref().map_or(0, Bytes::len);
        self.txn.put(Tree::Kv, &revision.to_bytes(), &stored);
        let mut index = index_prefix(&request.key);
        push_index_tail(&mut index, revision);
        self.txn.put(Tree::Index, &index, &entry.encode(revision.main));
        if let Some(found) = live {
            self.txn.put(Tree::Garbage, &garbage_key(revision.main, found.revision), &[]);
        }
        let old_lease = live.map_or(0, |found| found.entry.lease);
        if old_lease != lease {
            self.detach(old_lease, &request.key)?;
            self.attach(lease, &request.key);
        }
        self.written.growth.keys += i64::from(live.is_none());
        self.written.growth.put_bytes += (request.key.len() + stored.len() - 1) as u64;
        if self.keeps_event(stored.len()) {
            let key_at = 2 + varint_len(request.key.len() as u64);
            self.written.events.push(Event {
                sub: revision.sub,
                delete: false,
                create: entry.create_revision == revision.main,
                key: stored.slice(key_at..key_at + request.key.len()),
                kv: stored.slice(1..),
                prev: self.prev(&request.key, live)?,
            });
        }
        Ok(prev_kv)
    }

    /// What a put stores where `live` was before, with this lease: the value of tree `Kv`, and what the index says.
    fn pair(
        &self,
        request: &PutRequest,
        live: Option<Found>,
        lease: i64,
    ) -> Result<(Bytes, IndexEntry), Error> {
        let main = self.next().main;
        let version = live.map_or(Some(1), |found| found.entry.version.checked_add(1));
        let kv = KeyValue {
            key: &request.key,
            create_revision: live.map_or(main, |found| found.entry.create_revision),
            mod_revision: main,
            version: version.ok_or(Error::Corrupt)?,
            value: &request.value,
            lease,
        };
        match live {
            Some(found) if request.ignore_value => {
                let old = View::at(&*self.txn, self.written.begin).stored(found.revision)?;
                let old = KeyValue::decode(old).ok_or(Error::Corrupt)?;
                Ok(store(&KeyValue { value: old.value, ..kv }))
            }
            _ => Ok(store(&kv)),
        }
    }

    /// Counts a change. Whether its event of so many bytes is to be kept: of too many, or too long ones, none is.
    fn keeps_event(&mut self, bytes: usize) -> bool {
        let written = &mut self.written;
        written.changes += 1;
        written.events_bytes += bytes;
        let keeps = written.changes as usize <= written.events_max
            && written.events_bytes <= EVENTS_PUBLISHED_BYTES_MAX;
        if !keeps {
            written.events = Vec::new();
        }
        keeps
    }

    /// Deletes the live keys of an interval, in key order. What they held is appended to `prev_kvs`, as fields 3 of a
    /// DeleteRangeResponse, if that is asked for and as far as there is room. Returns how many there were.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        prev_kvs: &mut BytesMut,
        room: &mut AnswerRoom,
    ) -> Result<i64, Error> {
        if request.range_end.is_empty() {
            return self.delete_one(request, prev_kvs, room).map(i64::from);
        }
        let mut deletion = Deletion::new(request);
        while !self.delete_some(request, &mut deletion, prev_kvs, room, &mut { usize::MAX })? {}
        Ok(deletion.keys)
    }

    /// Deletes the one key that a request without an end names. False if it does not live.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn delete_one(
        &mut self,
        request: &DeleteRangeRequest,
        prev_kvs: &mut BytesMut,
        room: &mut AnswerRoom,
    ) -> Result<bool, Error> {
        let live = self.newest(&request.key)?.filter(|found| !found.entry.tombstone);
        if let Some(found) = live {
            self.keep_prev(request, found, prev_kvs, room)?;
            self.delete(&request.key, found)?;
        }
        Ok(live.is_some())
    }

    /// Goes on with a deletion as far as `budget` allows; true once it is done.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn delete_some(
        &mut self,
        request: &DeleteRangeRequest,
        deletion: &mut Deletion,
        prev_kvs: &mut BytesMut,
        room: &mut AnswerRoom,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        // One main revision holds all of it, so what this very deletion has deleted is not live at `at` any more, and
        // what it has not reached yet is.
        let at = self.written.begin + 1;
        let mut batch = Vec::new();
        let view = View::at(&*self.txn, at);
        // The walk looks at one entry at least, so that every slice gets on.
        let mut walk = Walk::resume(&view, &deletion.interval, at, &deletion.position, (*budget).max(1));
        let done = loop {
            match walk.next()? {
                Step::End => break true,
                Step::Paused => break false,
                Step::Live(revision, entry) => {
                    batch.push((walk.key().into_owned(), Found { revision, entry }));
                    let kept = if request.prev_kv { entry.kv_len } else { 0 };
                    let copied = DELETE_COPIES * walk.key_len() + kept;
                    if walk.spend(CHANGE_COST + copied / BYTES_PER_ENTRY) || batch.len() == DELETE_BATCH {
                        break false;
                    }
                }
            }
        };
        *budget = walk.budget().min(*budget);
        if !done {
            deletion.position = walk.position();
        }
        deletion.keys += batch.len() as i64;
        for (key, found) in batch {
            self.keep_prev(request, found, prev_kvs, room)?;
            self.delete(&key, found)?;
        }
        // The walk was charged.
        self.written.copied = 0;
        Ok(done)
    }

    fn keep_prev(
        &mut self,
        request: &DeleteRangeRequest,
        found: Found,
        prev_kvs: &mut BytesMut,
        room: &mut AnswerRoom,
    ) -> Result<(), Error> {
        if request.prev_kv && room.admit(bytes_field_len(found.entry.kv_len)) {
            self.written.copied += found.entry.kv_len;
            let kv = View::at(&*self.txn, self.written.begin + 1).stored(found.revision)?;
            put_bytes_field(prev_kvs, 3, kv);
        }
        Ok(())
    }

    /// Deletes the keys attached to a lease as far as `budget` allows; true once none is left. etcd API guarantee:
    /// they go in the order of keys. A key that is deleted is detached, so those that are left need no position.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn delete_attached(&mut self, lease: i64, budget: &mut usize) -> Result<bool, Error> {
        while *budget > 0 {
            let most = (*budget / CHANGE_COST).clamp(1, DELETE_BATCH);
            let bytes_max = budget.saturating_mul(BYTES_PER_ENTRY / DELETE_COPIES);
            let FirstKeys { keys, is_all } = first_lease_keys(&*self.txn, lease, most, bytes_max);
            for key in &keys {
                let found = self.newest(key)?.filter(|found| found.entry.lease == lease);
                self.delete(key, found.ok_or(Error::Corrupt)?)?;
            }
            *budget = budget.saturating_sub(CHANGE_COST * keys.len() + self.copy_cost());
            if is_all {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn delete(&mut self, key: &[u8], found: Found) -> Result<(), Error> {
        let revision = self.next();
        // What is stored has only the key; what watchers get has the revision too. One buffer is both.
        let stored_len = 1 + bytes_field_len(key.len());
        let mut buffer = BytesMut::with_capacity(stored_len + 1 + varint_len(revision.main as u64));
        buffer.put_u8(TOMBSTONE);
        put_bytes_field(&mut buffer, 1, key);
        put_int_field(&mut buffer, 3, revision.main);
        let buffer = buffer.freeze();

        self.written.copied += DELETE_COPIES * key.len();
        self.txn.put(Tree::Kv, &revision.to_bytes(), &buffer[..stored_len]);
        let mut index = index_prefix(key);
        push_index_tail(&mut index, revision);
        self.txn.put(Tree::Index, &index, &IndexEntry::tombstone().encode(revision.main));
        self.txn.put(Tree::Garbage, &garbage_key(revision.main, found.revision), &[]);
        self.txn.put(Tree::Garbage, &garbage_key(revision.main + 1, revision), &[]);
        self.detach(found.entry.lease, key)?;

        self.written.growth.keys -= 1;
        if self.keeps_event(buffer.len()) {
            self.written.events.push(Event {
                sub: revision.sub,
                delete: true,
                create: false,
                key: buffer.slice(stored_len - key.len()..stored_len),
                kv: buffer.slice(1..),
                prev: self.prev(key, Some(found))?,
            });
        }
        Ok(())
    }

    fn attach(&mut self, lease: i64, key: &[u8]) {
        if lease != 0 {
            self.txn.put(Tree::LeaseKey, &lease_key(lease, key), &[]);
        }
    }

    /// A key with a lease is attached to the lease, and is not any more.
    fn detach(&mut self, lease: i64, key: &[u8]) -> Result<(), Error> {
        let is_detached = lease == 0 || self.txn.delete(Tree::LeaseKey, &lease_key(lease, key));
        if is_detached { Ok(()) } else { Err(Error::Corrupt) }
    }

    /// What the key held before this write. Only where one write changes a key twice does it have to look.
    fn prev(&self, key: &[u8], live: Option<Found>) -> Result<Option<(i64, i64)>, Error> {
        let begin = self.written.begin;
        let before = match live {
            Some(found) if found.revision.main > begin => View::at(&*self.txn, begin).find(key, begin)?,
            live => live,
        };
        Ok(before.map(|found| (found.revision.main, found.revision.sub)))
    }

    /// Ends the write: if it changed anything, its revision is the store's.
    pub fn finish(self) -> Option<EventBatch> {
        let Written { begin, changes, events, .. } = self.written;
        if changes == 0 {
            return None;
        }
        let revision = begin + 1;
        let applied = self.txn.applied();
        self.txn.set_applied(Applied { revision, ..applied });
        Some(EventBatch { revision, compact_revision: applied.compact_revision, events })
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
