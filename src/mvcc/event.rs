//! Changes as watchers see them: pushed at apply, or read back from the store by revision.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use bytes::Bytes;

use super::revision::Revision;
use super::schema::split_kv_value;
use super::view::View;
use crate::btree::{Read, Tree};
use crate::error::Error;
use crate::wire::key_of;

/// All changes of one main revision, in sub-revision order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// The main revision of every event here.
    pub revision: i64,
    /// The store's compaction revision when the batch was applied; -1 before the first compaction.
    pub compact_revision: i64,
    /// The changes. None where there are more than [`EVENTS_PUBLISHED_MAX`](crate::limits::EVENTS_PUBLISHED_MAX):
    /// whoever wants them reads them from the store, as those do who fell behind.
    pub events: Vec<Event>,
}

/// One change of one key. Key and encoding share one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Sub revision.
    pub sub: i64,
    /// True for a deletion.
    pub delete: bool,
    /// True if the key was created in this main revision; what etcd calls a create event has no previous value.
    pub create: bool,
    /// The key.
    pub key: Bytes,
    /// The encoded `KeyValue` to send; for a deletion: key and mod revision.
    pub kv: Bytes,
    /// Main and sub revision of the value that the key had before this main revision.
    pub prev: Option<(i64, i64)>,
}

/// One change read back from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEvent<'a> {
    /// Where it stands.
    pub revision: Revision,
    /// True for a deletion.
    pub delete: bool,
    /// The key.
    pub key: &'a [u8],
    /// The encoded `KeyValue` as stored; for a deletion it holds the key alone.
    pub kv: &'a [u8],
}

impl<'a, R: Read> View<'a, R> {
    /// Calls `each` with every stored event of the main revisions `from..=to`, in order, until it breaks.
    ///
    /// Every change at or above the compaction revision is there, but those that a later change of the same key
    /// within the compaction revision itself superseded.
    ///
    /// # Errors
    /// When a stored event cannot be read; those before it were told.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(PastEvent<'a>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.events_from(Revision::new(from.max(0), 0), to, each)
    }

    /// [`View::events`] from a place inside a main revision on.
    ///
    /// # Errors
    /// As [`View::events`].
    pub fn events_from(
        &self,
        from: Revision,
        to: i64,
        each: &mut dyn FnMut(PastEvent<'a>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut cursor = self.read().cursor(Tree::Kv);
        cursor.seek(&from.to_bytes());
        while cursor.valid() {
            let revision = Revision::from_bytes(cursor.key())?;
            if revision.main > to {
                break;
            }
            let (delete, kv) = split_kv_value(cursor.value())?;
            let key = key_of(kv).ok_or(Error::Corrupt)?;
            if each(PastEvent { revision, delete, key, kv }).is_break() {
                break;
            }
            cursor.next();
        }
        Ok(())
    }

    /// The encoded `KeyValue` that `key` has at main revision `revision`; none if it does not exist there or that
    /// revision is compacted. Asked with the revision before an event's own, this is the event's `prev_kv`.
    ///
    /// # Errors
    /// When the index cannot be read, or leads to nothing.
    pub fn value_at(&self, key: &[u8], revision: i64) -> Result<Option<&'a [u8]>, Error> {
        if revision < self.compact_revision() {
            return Ok(None);
        }
        self.find(key, revision)?.map(|found| self.stored(found.revision)).transpose()
    }

    /// The encoded `KeyValue` put at exactly this revision, if it is still stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn value_of(&self, revision: Revision) -> Result<Option<&'a [u8]>, Error> {
        let Some(value) = self.read().get(Tree::Kv, &revision.to_bytes()) else { return Ok(None) };
        let (delete, kv) = split_kv_value(value)?;
        Ok((!delete).then_some(kv))
    }
}
