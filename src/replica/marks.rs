//! How far checkpoints have come, and what the log says of them.
//!
//! ```text
//!   begin ──▶ is written ──▶ durable ──┬──────────────▶ ended ──▶ its mark waits ──▶ in the log
//!                                      └─▶ deferred ──▶
//!                                          while an entry is suspended
//! ```
//!
//! Only a mark that is durable in the log lets segments go: a restart begins at the last one.
#![forbid(unsafe_code)]

use crate::wal::SnapshotMark;

/// The checkpoint under way, and the marks of those that have ended.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// What the checkpoint under way will have made durable; none if none is under way.
    under_way: Option<SnapshotMark>,
    /// The generation of the checkpoint under way, which is durable. The store is told once no entry is suspended.
    deferred: Option<u64>,
    /// The disk has no room for the checkpoint under way, which is tried again and again.
    refused: bool,
    /// The store file holds everything up to this mark, but the log does not say so. Its index is above `logged`.
    waiting: Option<SnapshotMark>,
    /// The log says that the store file holds everything up to this index. Never goes back.
    logged: u64,
    /// The store file holds everything up to this index, as far as this process knows. Never goes back.
    stored: u64,
}

impl Marks {
    /// The marks of a process that found one at `logged` in the log.
    pub(super) fn new(logged: u64) -> Self {
        Self { logged, stored: logged, ..Self::default() }
    }

    /// A checkpoint begins that will make everything up to `mark` durable.
    pub(super) fn begin(&mut self, mark: SnapshotMark) {
        self.under_way = Some(mark);
    }

    /// Whether a checkpoint has begun and not ended. No other may begin meanwhile.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether pages of a checkpoint are being written to the store file.
    pub(super) fn is_being_written(&self) -> bool {
        self.under_way.is_some() && self.deferred.is_none()
    }

    /// The disk has no room for the checkpoint under way.
    pub(super) fn refuse(&mut self) {
        self.refused = self.is_being_written();
    }

    /// Whether the disk had no room when the checkpoint under way was tried last.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// The checkpoint under way is durable, but the store cannot be told before the suspended entry is done.
    pub(super) fn defer(&mut self, generation: u64) {
        self.deferred = Some(generation);
        self.refused = false;
    }

    /// The generation of the checkpoint that was deferred. The store can be told now.
    pub(super) fn take_deferred(&mut self) -> Option<u64> {
        self.deferred.take()
    }

    /// The checkpoint under way has ended. One that wrote nothing but a sweep has no new mark.
    pub(super) fn end(&mut self) {
        self.refused = false;
        self.stored = self.under_way.as_ref().map_or(self.stored, |mark| mark.index);
        let new = self.under_way.take().filter(|mark| mark.index > self.logged);
        self.waiting = new.or(self.waiting.take());
    }

    /// The store is a snapshot of the leader with everything up to `index`. No checkpoint is under way.
    pub(super) fn install(&mut self, index: u64) {
        (self.stored, self.waiting) = (index, None);
    }

    /// Whether a mark waits for the log.
    pub(super) fn is_due(&self) -> bool {
        self.waiting.is_some()
    }

    /// The mark for the next write to the log, if one waits.
    pub(super) fn take_due(&mut self) -> Option<SnapshotMark> {
        self.waiting.take()
    }

    /// A write to the log is durable, with a mark at `index` if it had one.
    pub(super) fn on_logged(&mut self, index: Option<u64>) {
        self.logged = index.unwrap_or(self.logged).max(self.logged);
    }

    /// The store file holds everything up to this index.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// A restart needs no entry up to this index.
    pub(super) fn logged(&self) -> u64 {
        self.logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(index: u64) -> SnapshotMark {
        SnapshotMark { index, term: 1, conf_state: None }
    }

    #[test]
    fn a_mark_counts_once_the_log_has_it() {
        let mut marks = Marks::new(3);
        marks.begin(mark(7));
        assert!(marks.is_being_written() && !marks.is_due());
        marks.defer(1);
        assert!(marks.is_under_way() && !marks.is_being_written());
        assert_eq!((marks.take_deferred(), marks.take_deferred()), (Some(1), None));
        marks.end();
        assert_eq!((marks.is_due(), marks.logged(), marks.stored()), (true, 3, 7));
        assert_eq!(marks.take_due().map(|mark| mark.index), Some(7));
        marks.on_logged(None);
        assert_eq!(marks.logged(), 3);
        marks.on_logged(Some(7));
        assert_eq!(marks.logged(), 7);
    }

    #[test]
    fn a_checkpoint_is_refused_until_it_is_durable() {
        let mut marks = Marks::new(3);
        marks.refuse();
        assert!(!marks.is_refused(), "there is none to refuse");
        let ends: [fn(&mut Marks); 2] = [Marks::end, |marks| marks.defer(1)];
        for end in ends {
            marks.begin(mark(7));
            assert!(!marks.is_refused());
            marks.refuse();
            assert!(marks.is_refused() && marks.is_being_written());
            end(&mut marks);
            assert!(!marks.is_refused());
        }
    }

    #[test]
    fn a_checkpoint_without_new_entries_has_no_mark_and_takes_none_away() {
        let mut marks = Marks::new(7);
        marks.begin(mark(7));
        marks.end();
        assert!(!marks.is_due() && !marks.is_under_way());
        for index in [9, 7] {
            marks.begin(mark(index));
            marks.end();
        }
        assert_eq!(marks.take_due().map(|mark| mark.index), Some(9));
    }
}
