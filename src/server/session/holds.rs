//! What a task holds on to of the store while it writes a long answer.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::Session;
use crate::btree::{Reader, Snapshot};

/// A reader of a task's own.
pub struct OwnReader {
    pub(super) session: Rc<Session>,
    pub(super) reader: Reader,
}

impl OwnReader {
    /// The newest published state, which stays while this is looked at.
    pub fn snapshot(&mut self) -> Snapshot<'_> {
        self.reader.snapshot()
    }
}

impl Drop for OwnReader {
    fn drop(&mut self) {
        self.session.metrics.store_readers.add(-1);
    }
}

/// A pinned revision.
pub struct Pin {
    pub(super) session: Rc<Session>,
    pub(super) revision: i64,
}

impl Pin {
    /// Whether the revision is gone all the same: another store has taken the place of the one that it was pinned in.
    pub fn is_lost(&self) -> bool {
        self.revision < self.session.lost_below.get()
    }

    /// What it keeps readable.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.session.pins.borrow_mut().unpin(self.revision);
        self.session.metrics.store_readers.add(-1);
    }
}
