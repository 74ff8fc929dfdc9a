//! The file of a state, counted and then written, in slices.
#![forbid(unsafe_code)]

use bytes::Bytes;
use raft::eraftpb::Snapshot;

use super::buckets::Bucket;
use super::leases::Position;
use super::state::State;
use crate::bbolt::{Layout, WriteError, Writer};
use crate::btree::{Read, Tree};
use crate::error::Error;
use crate::mvcc::View;
use crate::mvcc::hash::{digest_cost, etcd_key};
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::split_kv_value;
use crate::wire::key_of;

/// What looking up whether a change is condemned costs, in small changes.
const LOOKUP_COST: usize = 4;

/// The file of one state.
pub struct SnapshotFile {
    state: State,
    stage: Stage,
    writer: Writer,
    is_counted: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    BeforeKey,
    /// Bucket `key`, from this change on, of which so many bytes were written.
    Key(Revision, usize),
    Leases(Position),
    AfterLease,
    Done,
}

/// How much of a slice is left.
struct Budget {
    /// Small changes to look at.
    changes: usize,
    /// Bytes to write.
    bytes: usize,
}

impl Budget {
    fn is_spent(&self, writer: &Writer) -> bool {
        self.changes == 0 || writer.written() >= self.bytes
    }

    fn spend(&mut self, changes: usize) {
        self.changes = self.changes.saturating_sub(changes);
    }
}

fn broken(_: WriteError) -> Error {
    Error::Corrupt
}

impl SnapshotFile {
    /// The file of a state, of which nothing is known yet.
    pub fn new(state: State) -> Self {
        Self { state, stage: Stage::BeforeKey, writer: Writer::counting(), is_counted: false }
    }

    /// What the raft message says that goes with the file.
    pub fn message(&self) -> &Snapshot {
        &self.state.message
    }

    /// Counts on for about `budget` small changes; where everything will lie, once that is known.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn count<R: Read>(&mut self, view: &View<'_, R>, budget: usize) -> Result<Option<Layout>, Error> {
        let budget = Budget { changes: budget.max(1), bytes: usize::MAX };
        if !self.step(view, budget)? {
            return Ok(None);
        }
        let layout = self.writer.finish().map_err(broken)?;
        (self.writer, self.stage, self.is_counted) = (Writer::new(layout), Stage::BeforeKey, true);
        Ok(Some(layout))
    }

    /// Writes on, about `bytes` bytes or as much as is found within `budget` small changes. With it goes whether these
    /// are the last.
    ///
    /// # Errors
    /// When a record cannot be read, or is not what was counted.
    ///
    /// # Panics
    /// When the file was not counted.
    pub fn write<R: Read>(
        &mut self,
        view: &View<'_, R>,
        bytes: usize,
        budget: usize,
    ) -> Result<(Bytes, bool), Error> {
        assert!(self.is_counted, "a file is counted before it is written");
        let is_last = self.step(view, Budget { changes: budget.max(1), bytes: bytes.max(1) })?;
        if is_last {
            self.writer.finish().map_err(broken)?;
        }
        Ok((self.writer.take(), is_last))
    }

    /// Goes on with either pass. True at its end.
    fn step<R: Read>(&mut self, view: &View<'_, R>, mut budget: Budget) -> Result<bool, Error> {
        while !budget.is_spent(&self.writer) {
            self.stage = match self.stage {
                Stage::BeforeKey => {
                    put_buckets(&mut self.writer, &self.state.before_key).map_err(broken)?;
                    self.writer.bucket(b"key").map_err(broken)?;
                    Stage::Key(Revision::default(), 0)
                }
                Stage::Key(from, written) => self.changes(view, from, written, &mut budget)?,
                Stage::Leases(place) => self.leases(place, &mut budget).map_err(broken)?,
                Stage::AfterLease => {
                    put_buckets(&mut self.writer, &self.state.after_lease).map_err(broken)?;
                    Stage::Done
                }
                Stage::Done => return Ok(true),
            };
        }
        Ok(matches!(self.stage, Stage::Done))
    }

    /// The changes from `from` on, `written` bytes of whose value are written already.
    fn changes<R: Read>(
        &mut self,
        view: &View<'_, R>,
        from: Revision,
        mut written: usize,
        budget: &mut Budget,
    ) -> Result<Stage, Error> {
        let mut cursor = view.read().cursor(Tree::Kv);
        cursor.seek(&from.to_bytes());
        loop {
            let found = if cursor.valid() { Some(Revision::from_bytes(cursor.key())?) } else { None };
            let Some(revision) = found.filter(|revision| revision.main <= self.state.revision) else {
                self.writer.bucket(b"lease").map_err(broken)?;
                return Ok(Stage::Leases(Position::default()));
            };
            if budget.is_spent(&self.writer) {
                return Ok(Stage::Key(revision, 0));
            }
            let (tombstone, kv) = split_kv_value(cursor.value())?;
            if written > 0 || self.counts(view, revision, tombstone, kv, budget)? {
                if written == 0 {
                    self.writer.pair(&etcd_key(revision, tombstone), kv.len()).map_err(broken)?;
                } else if revision != from {
                    // The change whose value is half written is not there any more.
                    return Err(Error::Corrupt);
                }
                let room = budget.bytes.saturating_sub(self.writer.written()).max(1);
                let rest = kv.get(written..).ok_or(Error::Corrupt)?;
                let part = if self.is_counted { &rest[..rest.len().min(room)] } else { rest };
                self.writer.value(part).map_err(broken)?;
                if part.len() < rest.len() {
                    return Ok(Stage::Key(revision, written + part.len()));
                }
            }
            budget.spend(digest_cost(kv.len()));
            written = 0;
            cursor.next();
        }
    }

    /// Whether a change is in the file: whether no compaction has condemned it.
    fn counts<R: Read>(
        &self,
        view: &View<'_, R>,
        revision: Revision,
        tombstone: bool,
        kv: &[u8],
        budget: &mut Budget,
    ) -> Result<bool, Error> {
        let Some(compacted) = self.state.condemned.filter(|&compacted| revision.main <= compacted) else {
            return Ok(true);
        };
        if tombstone {
            // A compaction to the very revision of a deletion still owes it to watchers.
            return Ok(revision.main == compacted);
        }
        budget.spend(LOOKUP_COST);
        let found = view.find(key_of(kv).ok_or(Error::Corrupt)?, compacted)?;
        Ok(found.is_some_and(|found| found.revision == revision))
    }

    fn leases(&mut self, mut place: Position, budget: &mut Budget) -> Result<Stage, WriteError> {
        while !budget.is_spent(&self.writer) {
            let Some((id, record, next)) = self.state.leases.at(place) else { return Ok(Stage::AfterLease) };
            self.writer.pair(id, record.len())?;
            self.writer.value(record)?;
            budget.spend(1);
            place = next;
        }
        Ok(Stage::Leases(place))
    }
}

fn put_buckets(writer: &mut Writer, buckets: &[Bucket]) -> Result<(), WriteError> {
    for bucket in buckets {
        writer.bucket(bucket.name.as_bytes())?;
        for (key, value) in &bucket.pairs {
            writer.pair(key, value.len())?;
            writer.value(value)?;
        }
    }
    Ok(())
}
