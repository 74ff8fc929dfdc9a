//! What the hub reads: published batches of events, and the store by revision.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use bytes::Bytes;

/// All changes of one main revision, in sub-revision order.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    /// The main revision of every event here.
    pub revision: i64,
    /// The store's compaction revision when the batch was applied; -1 before the first compaction.
    pub compact_revision: i64,
    /// The changes; never empty.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// Sub revision.
    pub sub: i64,
    /// True for a deletion.
    pub delete: bool,
    /// True if the key did not exist at the revision before.
    pub create: bool,
    /// The key.
    pub key: Bytes,
    /// The encoded `KeyValue` to send; for a deletion: key and mod revision.
    pub kv: Bytes,
    /// Revision of the value that this change replaced, in an earlier main revision.
    pub prev: Option<(i64, i64)>,
}

/// One change read back from the store.
#[derive(Clone, Copy, Debug)]
pub struct PastEvent<'a> {
    /// Main revision.
    pub revision: i64,
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

    /// Calls `each` with every event of the main revisions `from..=to`, in order, until it breaks.
    /// `from` is not below the compaction revision.
    fn events(&self, from: i64, to: i64, each: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>);

    /// The encoded `KeyValue` that `key` has at main revision `revision`; none if it does not exist there or that
    /// revision is below the compaction.
    fn value_at(&self, key: &[u8], revision: i64) -> Option<&[u8]>;

    /// The encoded `KeyValue` written at exactly this revision, if it is still stored.
    fn value_of(&self, main: i64, sub: i64) -> Option<&[u8]>;
}
