//! What is owed once garbage is swept: replies to physical compactions, and one report of each compaction. It
//! also says how fast garbage is swept.
//!
//! What is left to sweep is in the store, and [`compact::sweep`](crate::mvcc::compact::sweep) removes it. In a store
//! that is larger than memory the sweep reads what it removes. A log write takes a hundred times longer beside more
//! reads than the disk can do, so the sweep reads a bounded number of pages each second, and rests when a log write has
//! taken long.
#![forbid(unsafe_code)]

use super::port::{Output, Outputs, Ticket};
use crate::btree::Applied;
use crate::limits::{
    SWEEP_READS_PER_SECOND, SWEEP_REST_FACTOR, SWEEP_REST_MAX, SWEEP_SLICE, SWEEP_SLOW_WRITE,
};
use crate::response::Response;
use crate::stdx::time::{Duration, Instant};

/// The part of a sweep that the store does not know.
#[derive(Debug)]
pub(super) struct Sweep {
    /// [`SWEEP_SLICE`], or a simulation's.
    pub(super) slice: usize,
    /// Replies, each with the revision that the sweep has to reach first. All of them are above the swept revision.
    waiting: Vec<(i64, Ticket, Response)>,
    /// Revisions removed since the last report.
    removed: u64,
    /// The compaction revision of the last report. Never above the store's; equal to it unless garbage is left.
    reported: i64,
    /// No slice begins before.
    rests_until: Instant,
    /// The longest log write that became durable since the last turn began, if any took long.
    slow_write: Duration,
    /// A slice has asked the disk for something since the last rest began. A slow write that follows may be its doing.
    has_read: bool,
}

impl Sweep {
    /// The sweep of a process that found a store with `applied`. A compaction whose garbage is still there is reported
    /// once the garbage is gone.
    pub(super) fn new(applied: Applied) -> Self {
        let is_swept = applied.swept_revision >= applied.compact_revision;
        let reported = if is_swept { applied.compact_revision } else { -1 };
        Self {
            slice: SWEEP_SLICE,
            waiting: Vec::new(),
            removed: 0,
            reported,
            rests_until: Instant::default(),
            slow_write: Duration::ZERO,
            has_read: false,
        }
    }

    /// A snapshot has taken the place of the store. Replies wait until its garbage is swept.
    pub(super) fn install(&mut self, applied: Applied) {
        let Self { slice, waiting, .. } = std::mem::replace(self, Self::new(applied));
        (self.slice, self.waiting) = (slice, waiting);
    }

    /// A log write took so long.
    pub(super) fn on_log_write(&mut self, took: Duration) {
        if took >= SWEEP_SLOW_WRITE {
            self.slow_write = self.slow_write.max(took);
        }
    }

    /// A turn begins: behind a slow write the sweep rests for many times as long as the write took. There is a slice
    /// between two rests, so a disk that is always slow gets on with the sweep.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.rests_until = self.rests_until.max(now);
        let slow_write = std::mem::take(&mut self.slow_write);
        if self.has_read && !slow_write.is_zero() {
            self.has_read = false;
            self.rests_until = self.rests_until.max(now + SWEEP_REST_MAX.min(slow_write * SWEEP_REST_FACTOR));
        }
    }

    /// A slice has asked the disk for so many pages in this turn.
    pub(super) fn on_slice(&mut self, pages: usize) {
        self.has_read |= pages > 0;
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        self.rests_until = self.rests_until + Duration::from_secs(1) * pages / SWEEP_READS_PER_SECOND;
    }

    /// Whether no slice may begin yet.
    pub(super) fn rests(&self, now: Instant) -> bool {
        now < self.rests_until
    }

    /// When the next slice may begin.
    pub(super) fn rests_until(&self) -> Instant {
        self.rests_until
    }

    /// Keeps the reply to a compaction until everything up to `revision` is swept.
    pub(super) fn wait(&mut self, revision: i64, ticket: Ticket, response: Response) {
        self.waiting.push((revision, ticket, response));
    }

    /// Replies that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes note that `removed` more revisions are gone from the published state, which contains `applied` now.
    pub(super) fn advance(&mut self, removed: usize, applied: Applied, outputs: &mut Outputs) {
        self.removed += removed as u64;
        for (_, ticket, response) in self.waiting.extract_if(.., |waits| waits.0 <= applied.swept_revision) {
            outputs.push(Output::Reply { ticket, result: Ok(response) });
        }
        let is_swept = applied.swept_revision >= applied.compact_revision;
        if is_swept && self.reported < applied.compact_revision {
            self.reported = applied.compact_revision;
            let removed = std::mem::take(&mut self.removed);
            outputs.push(Output::Compacted { revision: applied.compact_revision, removed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(compact_revision: i64, swept_revision: i64) -> Applied {
        Applied { compact_revision, swept_revision, ..Applied::default() }
    }

    /// What a sweep tells, as text.
    fn told(sweep: &mut Sweep, removed: usize, applied: Applied) -> String {
        let mut outputs = Outputs::new();
        sweep.advance(removed, applied, &mut outputs);
        let said = |output: &Output| match output {
            Output::Reply { ticket, .. } => format!("reply {}", ticket.0),
            Output::Compacted { revision, removed } => format!("{removed} removed up to {revision}"),
            _ => "another".to_owned(),
        };
        outputs.iter().map(said).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_reply_waits_for_its_revision_and_a_compaction_is_reported_once() {
        let mut sweep = Sweep::new(at(-1, -1));
        sweep.wait(5, Ticket(1), Response::Done);
        sweep.wait(9, Ticket(2), Response::Done);
        assert_eq!(told(&mut sweep, 3, at(9, 4)), "");
        assert_eq!(told(&mut sweep, 2, at(9, 6)), "reply 1");
        assert_eq!(
            (told(&mut sweep, 1, at(9, 9)), sweep.waiting()),
            ("reply 2, 6 removed up to 9".into(), 0)
        );
        assert_eq!(told(&mut sweep, 0, at(9, 9)), "");
    }

    #[test]
    fn it_reads_so_many_pages_each_second() {
        let mut sweep = Sweep::new(at(9, 4));
        let (start, mut slices) = (Instant::default() + Duration::from_secs(5), 0);
        for now in (0..1000).map(|millisecond| start + Duration::from_millis(millisecond)) {
            sweep.begin_turn(now);
            if !sweep.rests(now) {
                sweep.on_slice(30);
                slices += 1;
            }
        }
        assert_eq!(slices * 30, SWEEP_READS_PER_SECOND);
    }

    #[test]
    fn it_rests_behind_a_slow_log_write() {
        let mut sweep = Sweep::new(at(9, 4));
        let now = Instant::default() + Duration::from_secs(5);
        let mut rests_for = |took, pages| {
            sweep.on_slice(pages);
            sweep.on_log_write(took);
            sweep.begin_turn(now);
            sweep.rests_until().since(now)
        };
        assert_eq!(rests_for(SWEEP_SLOW_WRITE, 0), Duration::ZERO, "nothing was read");
        let reads = Duration::from_secs(1) / SWEEP_READS_PER_SECOND;
        assert!(rests_for(SWEEP_SLOW_WRITE / 2, 1) <= reads, "the write was not slow");
        assert_eq!(rests_for(SWEEP_SLOW_WRITE, 0), SWEEP_SLOW_WRITE * SWEEP_REST_FACTOR);
        assert_eq!(rests_for(Duration::from_secs(60), 1), SWEEP_REST_MAX);
    }

    #[test]
    fn a_disk_that_is_always_slow_gets_on_with_it() {
        let mut sweep = Sweep::new(at(9, 4));
        let mut slices = 0;
        for now in (0..10_000)
            .step_by(30)
            .map(|milliseconds| Instant::default() + Duration::from_millis(milliseconds))
        {
            sweep.on_log_write(SWEEP_SLOW_WRITE);
            sweep.begin_turn(now);
            if !sweep.rests(now) {
                sweep.on_slice(1);
                slices += 1;
            }
        }
        assert!(slices >= 40, "{slices} in ten seconds");
    }

    #[test]
    fn what_a_restart_finds_swept_is_not_reported_again() {
        assert_eq!(told(&mut Sweep::new(at(9, 9)), 0, at(9, 9)), "");
        assert_eq!(told(&mut Sweep::new(at(9, 4)), 2, at(9, 9)), "2 removed up to 9");
    }
}
