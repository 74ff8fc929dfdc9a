//! What the hub reads: published batches of events, and the store by revision.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use crate::btree::Read;
use crate::error::RECOVERY;
pub use crate::mvcc::{Event, EventBatch};
use crate::mvcc::{Revision, View};
use crate::wire::KeyValue;

/// One change read back from the store.
#[derive(Clone, Copy, Debug)]
pub struct PastEvent<'a> {
    /// Main revision.
    pub revision: i64,
    /// Sub revision.
    pub sub: i64,
    /// True for a deletion.
    pub delete: bool,
    /// True if the key did not exist at the revision before.
    pub create: bool,
    /// The key.
    pub key: &'a [u8],
    /// The encoded `KeyValue`; of no meaning for a deletion.
    pub kv: &'a [u8],
}

/// The store as a sequence of revisions; a view of one snapshot.
pub trait History {
    /// Main revision of the last change.
    fn revision(&self) -> i64;

    /// The compaction revision; -1 before the first compaction.
    fn compact_revision(&self) -> i64;

    /// Calls `each` with every event from main and sub revision `from` on through main revision `to`, in order, until
    /// it breaks. `from` is not below the compaction revision.
    fn events(&self, from: (i64, i64), to: i64, each: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>);

    /// The encoded `KeyValue` that `key` has at main revision `revision`; none if it does not exist there or that
    /// revision is below the compaction.
    fn value_at(&self, key: &[u8], revision: i64) -> Option<&[u8]>;

    /// The encoded `KeyValue` written at exactly this revision, if it is still stored.
    fn value_of(&self, main: i64, sub: i64) -> Option<&[u8]>;
}

impl<R: Read> History for View<'_, R> {
    fn revision(&self) -> i64 {
        View::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        View::compact_revision(self)
    }

    fn events(&self, from: (i64, i64), to: i64, each: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>) {
        let told = View::events_from(self, Revision::new(from.0.max(0), from.1), to, &mut |event| {
            let (revision, sub) = (event.revision.main, event.revision.sub);
            let create = !event.delete && whole(KeyValue::decode(event.kv)).create_revision == revision;
            each(PastEvent { revision, sub, delete: event.delete, create, key: event.key, kv: event.kv })
        });
        whole(told.ok());
    }

    fn value_at(&self, key: &[u8], revision: i64) -> Option<&[u8]> {
        whole(View::value_at(self, key, revision).ok())
    }

    fn value_of(&self, main: i64, sub: i64) -> Option<&[u8]> {
        whole(View::value_of(self, Revision::new(main, sub)).ok())
    }
}

/// What was read from the store. A watcher must not miss what cannot be read, so that ends the process.
fn whole<T>(read: Option<T>) -> T {
    let Some(read) = read else { panic!("the store has an event that cannot be read; {RECOVERY}") };
    read
}
