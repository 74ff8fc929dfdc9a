//! The instant that a file shows.
#![forbid(unsafe_code)]

use raft::eraftpb::{Snapshot, SnapshotMetadata};

use super::buckets::{self, Bucket};
use super::leases::Leases;
use super::old_store;
use crate::btree::{Cursor, Read, Tree};
use crate::cluster::Cluster;
use crate::error::Error;

/// What a file needs to know of one state of the store. Changes are not in here: they are told by their revisions.
pub struct State {
    /// The buckets in front of `key`.
    pub(super) before_key: Vec<Bucket>,
    pub(super) leases: Leases,
    /// The buckets behind `lease`.
    pub(super) after_lease: Vec<Bucket>,
    /// What the raft message says that goes with the file.
    pub(super) message: Snapshot,
    /// Changes above it came later.
    pub(super) revision: i64,
    /// The compaction whose garbage may be there and does not count; none if all of it was gone.
    pub(super) condemned: Option<i64>,
}

/// Copies from one state, in slices. The caller has pinned a revision that is not above the state's compaction
/// revision, and keeps it pinned until the file is complete.
pub struct Gathering<'r> {
    state: State,
    leases: Cursor<'r>,
}

impl<'r> Gathering<'r> {
    /// Of the state that `read` shows.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn new<R: Read>(read: &'r R) -> Result<Self, Error> {
        let applied = read.applied();
        let is_swept = applied.swept_revision >= applied.compact_revision;
        let state = State {
            before_key: buckets::before_key(read)?,
            leases: Leases::default(),
            after_lease: buckets::after_lease(read, applied.compact_revision)?,
            message: message(read)?,
            revision: applied.revision,
            condemned: (!is_swept).then_some(applied.compact_revision),
        };
        let mut leases = read.cursor(Tree::Lease);
        leases.seek(&[]);
        Ok(Self { state, leases })
    }

    /// Copies `budget` leases. True when there are no more.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn step(&mut self, budget: usize) -> Result<bool, Error> {
        for _ in 0..budget {
            if !self.leases.valid() {
                return Ok(true);
            }
            let id = self.leases.key().try_into().map_err(|_| Error::Corrupt)?;
            self.state.leases.push(id, self.leases.value());
            self.leases.next();
        }
        Ok(!self.leases.valid())
    }

    /// Bytes that the copies take.
    pub fn held_bytes(&self) -> usize {
        self.state.leases.held_bytes()
    }

    /// What was copied.
    pub fn finish(self) -> State {
        self.state
    }
}

/// How far the log is applied in a state, and who belongs to the cluster in it.
fn message(read: &impl Read) -> Result<Snapshot, Error> {
    let (applied, cluster) = (read.applied(), Cluster::restore(read)?);
    let conf_state = Some(cluster.conf_state());
    let metadata = SnapshotMetadata { conf_state, index: applied.index, term: applied.term };
    Ok(Snapshot { metadata: Some(metadata), data: old_store::json(&cluster).into() })
}
