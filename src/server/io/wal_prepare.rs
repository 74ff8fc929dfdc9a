//! The thread that keeps the next log segment ready, and lets go of segments that nothing needs.
//!
//! There are two ways to a file that reads as zeros:
//!
//! - zeros written: then each write of the log is one to blocks that were written before, and spares the disk a journal
//!   commit, 35 to 40 % of its time. But each byte of the log is written twice. For the same price a segment that
//!   nobody needs becomes the next file.
//! - blocks allocated: then a write pays for the journal commit where it begins a new block.
//!
//! The log's writes so far decide ([`Fill`]): small ones are worth the zeros, large ones carry the commit easily.
//!
//! A file that was asked for is made until it succeeds. A full disk is no reason to give up: the file is made again and
//! again, at most [`RETRY_MAX`] apart, and the log waits for it when the present segment is full. The first failure is
//! logged at once, because the log may not need the file for another 64 MB. What a failed attempt has written is
//! deleted, so that the attempts of this thread do not take the last room from the store file.
//!
//! Deletions are not synced. A segment whose deletion a power cut has undone is one that recovery does not read, and
//! the next release deletes the segment again. The same holds of a segment that a power cut leaves under its name
//! although the thread has filled it with zeros for the next use.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::page_file::preallocate;
use super::wal_dir::WalDir;
use crate::wal::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName};

/// Bytes of one write of zeros.
pub(super) const ZEROS_BYTES: usize = 1 << 20;
/// Bytes of zeros between two syncs: a long one would hold up the log's own.
const ZEROS_SYNCED: u64 = 4 << 20;
/// Time before the second attempt; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Time between two attempts at most.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How the file of a segment comes to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are written.
    Zeros,
    /// Blocks are allocated, and zeros written where the filesystem cannot do that.
    Blocks,
}

/// Whether an error says that there is no room, which may change by itself.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the thread is asked for.
enum Order {
    /// Make one more file that reads as zeros.
    Prepare(Fill),
    /// These segments are not needed any more.
    Release(Vec<SegmentName>),
}

/// What the thread has to show: the file it made last, or why it has made none yet.
#[derive(Default)]
struct Slot {
    ready: Option<PathBuf>,
    /// Why the last attempt failed; none once an attempt succeeds.
    failed: Option<io::Error>,
}

/// A slot that the thread fills and the log's writer empties, once per segment.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Slot>>);

impl Shelf {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that read as zeros, one at a time.
pub struct Prepared {
    orders: mpsc::Sender<Order>,
    shelf: Shelf,
}

impl Prepared {
    /// Starts the thread that keeps one file ready, the first filled with zeros.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(dir: WalDir) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let shelf = Shelf::default();
        let worker = Worker { dir, shelf: shelf.clone(), number: 0, spare: None, wanted: None, failures: 0 };
        thread::Builder::new().name("wal-segments".into()).spawn(move || worker.run(&inbox))?;
        let prepared = Self { orders, shelf };
        prepared.order(Order::Prepare(Fill::Zeros));
        Ok(prepared)
    }

    /// The next file if it is ready; the one after it is begun, with `fill`. None as long as the thread is at work or
    /// waits for room on the disk.
    ///
    /// # Errors
    /// What the filesystem answered the last attempt, unless that is the lack of room.
    pub fn try_take(&self, fill: Fill) -> Option<io::Result<PathBuf>> {
        let mut slot = self.shelf.slot();
        if let Some(file) = slot.ready.take() {
            self.order(Order::Prepare(fill));
            return Some(Ok(file));
        }
        if slot.failed.as_ref().is_some_and(|error| !is_full(error)) {
            return slot.failed.take().map(Err);
        }
        None
    }

    /// Whether the thread waits for room on the disk.
    pub fn lacks_room(&self) -> bool {
        self.shelf.slot().failed.as_ref().is_some_and(is_full)
    }

    /// A way to the thread for segments that nothing needs any more.
    pub fn releaser(&self) -> Releaser {
        Releaser(self.orders.clone())
    }

    fn order(&self, order: Order) {
        // The thread runs as long as there is a sender.
        let _ = self.orders.send(order);
    }
}

/// Tells the thread which segments can go.
#[derive(Clone)]
pub struct Releaser(mpsc::Sender<Order>);

impl Releaser {
    /// Deletes them, or makes new ones of them, some time.
    pub fn release(&self, names: Vec<SegmentName>) {
        let _ = self.0.send(Order::Release(names));
    }
}

/// The thread that does to segments what takes long.
struct Worker {
    dir: WalDir,
    shelf: Shelf,
    /// The next file is `<number>.tmp`, 0 or 1 in turn.
    number: u32,
    /// A released segment, kept to be filled with zeros again.
    spare: Option<PathBuf>,
    /// The file that was asked for and is not made yet.
    wanted: Option<Fill>,
    /// Attempts at that file that have failed.
    failures: u32,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            let order = match self.wanted {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => inbox.recv_timeout(self.pause()),
            };
            match order {
                Ok(Order::Prepare(fill)) => (self.wanted, self.failures) = (Some(fill), 0),
                // A segment that goes makes room for the file that is wanted.
                Ok(Order::Release(names)) => names.into_iter().for_each(|name| self.release(name)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some(fill) = self.wanted {
                self.attempt(fill);
            }
        }
    }

    /// Time until the next attempt.
    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
    }

    fn attempt(&mut self, fill: Fill) {
        match self.prepare(fill) {
            Ok(file) => {
                if self.failures > 0 {
                    tracing::info!(attempts = self.failures + 1, "prepared the next log segment");
                }
                self.wanted = None;
                *self.shelf.slot() = Slot { ready: Some(file), failed: None };
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == 1 {
                    tracing::warn!(
                        error = %error,
                        directory = %self.dir.path().display(),
                        "cannot prepare the next log segment, trying again until it succeeds; writes will wait for \
                         it when the present segment is full: free space on the disk"
                    );
                }
                self.shelf.slot().failed = Some(error);
            }
        }
    }

    fn release(&mut self, name: SegmentName) {
        self.dir.unlock(name);
        let path = self.dir.file(name);
        let gone = if self.spare.is_none() {
            let spare = self.dir.path().join("spare.tmp");
            fs::rename(&path, &spare).map(|()| self.spare = Some(spare))
        } else {
            fs::remove_file(&path)
        };
        if let Err(error) = gone {
            tracing::warn!(
                error = %error,
                path = %path.display(),
                "cannot delete a log segment that is not needed any more; it is deleted after the next start"
            );
        }
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<PathBuf> {
        let path = self.dir.path().join(format!("{}.tmp", self.number));
        match (fill, self.spare.take()) {
            (Fill::Zeros, Some(spare)) => fs::rename(spare, &path)?,
            (Fill::Blocks, Some(spare)) => fs::remove_file(spare)?,
            (_, None) => {}
        }
        if let Err(error) = self.fill(&path, fill) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.number ^= 1;
        Ok(path)
    }

    fn fill(&self, path: &Path, fill: Fill) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Blocks first also where zeros are written: a disk without room for a segment says so before any zero is.
        if preallocate(&file, 0, SEGMENT_BYTES)? && fill == Fill::Blocks {
            // Of a file without a written block a probe for direct I/O learns nothing: see `wal_file`.
            file.write_all_at(&[0; BLOCK_BYTES], 0)?;
        } else {
            self.zero(&file)?;
        }
        file.set_len(SEGMENT_BYTES)?;
        if self.dir.is_durable() { file.sync_all() } else { Ok(()) }
    }

    fn zero(&self, file: &File) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        while at < SEGMENT_BYTES {
            let length = ZEROS_BYTES.min((SEGMENT_BYTES - at) as usize);
            file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
            if self.dir.is_durable() && at.is_multiple_of(ZEROS_SYNCED) {
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wal_dir::tests::{name, scratch};
    use super::*;
    use std::time::Instant;

    fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(done) = attempt() {
                return done;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("not within a minute: {what}");
    }

    /// Waits until the thread has ended, and removes what it has left.
    fn clean(path: &Path, prepared: Prepared) {
        let shelf = prepared.shelf.clone();
        drop(prepared);
        until("the end of the thread", || (Arc::strong_count(&shelf.0) == 1).then_some(()));
        fs::remove_dir_all(path).unwrap();
    }

    fn take(prepared: &Prepared, fill: Fill) -> PathBuf {
        until("a file", || prepared.try_take(fill)).unwrap()
    }

    fn is_blank(file: &Path) -> bool {
        let content = fs::read(file).unwrap();
        content.len() as u64 == SEGMENT_BYTES && content.iter().all(|&b| b == 0)
    }

    #[test]
    fn a_released_segment_becomes_the_next_one_and_a_crash_leaves_no_temporary_file() {
        let path = scratch("wal-spare");
        let dir = WalDir::open(&path).unwrap();
        let prepared = Prepared::start(dir.clone()).unwrap();
        for sequence in 0..3 {
            dir.adopt(&take(&prepared, Fill::Zeros), name(sequence)).unwrap();
        }
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0), name(1)]);
        // One file was under way before the release, the one after it is made of the spare.
        take(&prepared, Fill::Zeros);
        let file = take(&prepared, Fill::Zeros);
        assert_eq!(dir.segments().unwrap(), [name(2)]);
        assert!(is_blank(&file));
        drop((prepared, dir));
        // The thread notices that nobody listens any more after its next file, and gives its locks back then.
        let dir = until("the locks", || WalDir::open(&path).ok());
        assert_eq!(dir.segments().unwrap(), [name(2)]);
        assert!(!file.exists());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn blocks_read_as_zeros_and_take_nothing_over() {
        let path = scratch("wal-blocks");
        let dir = WalDir::open(&path).unwrap();
        let prepared = Prepared::start(dir.clone()).unwrap();
        dir.adopt(&take(&prepared, Fill::Blocks), name(0)).unwrap();
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0)]);
        for _ in 0..2 {
            assert!(is_blank(&take(&prepared, Fill::Blocks)));
        }
        clean(&path, prepared);
    }

    /// A worker that is run by hand, in a directory where `0.tmp` is the device that is always full.
    fn on_a_full_disk(path: &Path) -> Worker {
        let dir = WalDir::open(path).unwrap();
        std::os::unix::fs::symlink("/dev/full", path.join("0.tmp")).unwrap();
        Worker { dir, shelf: Shelf::default(), number: 0, spare: None, wanted: None, failures: 0 }
    }

    #[test]
    fn a_full_disk_is_tried_again_until_there_is_room() {
        let path = scratch("wal-full");
        let mut worker = on_a_full_disk(&path);
        let (orders, inbox) = mpsc::channel();
        let prepared = Prepared { orders, shelf: worker.shelf.clone() };
        let error = worker.fill(&path.join("0.tmp"), Fill::Zeros).unwrap_err();
        assert!(is_full(&error), "{error}");
        worker.attempt(Fill::Zeros);
        assert!(prepared.lacks_room() && prepared.try_take(Fill::Zeros).is_none(), "the log waits");
        assert!(!path.join("0.tmp").is_symlink(), "what a failed attempt leaves takes no room");
        // With that there is room again, and no further order is needed.
        worker.wanted = Some(Fill::Zeros);
        thread::spawn(move || worker.run(&inbox));
        assert!(is_blank(&take(&prepared, Fill::Zeros)));
        assert!(!prepared.lacks_room());
        take(&prepared, Fill::Zeros);
        clean(&path, prepared);
    }

    #[test]
    fn what_is_released_while_the_disk_is_full_becomes_the_file_that_is_wanted() {
        let path = scratch("wal-full-release");
        let mut worker = on_a_full_disk(&path);
        worker.attempt(Fill::Zeros);
        assert_eq!(worker.failures, 1);
        fs::write(worker.dir.file(name(0)), vec![7; 100]).unwrap();
        worker.release(name(0));
        worker.attempt(Fill::Zeros);
        let file = worker.shelf.slot().ready.take().unwrap();
        assert!(is_blank(&file) && worker.spare.is_none());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn another_error_is_told_when_the_log_needs_the_file_and_not_before() {
        let path = scratch("wal-broken");
        let dir = WalDir::open(&path).unwrap();
        fs::create_dir(path.join("0.tmp")).unwrap();
        let prepared = Prepared::start(dir).unwrap();
        let error = until("an error", || prepared.try_take(Fill::Zeros)).unwrap_err();
        assert!(!is_full(&error), "{error}");
        fs::remove_dir(path.join("0.tmp")).unwrap();
        until("a file", || prepared.try_take(Fill::Zeros).and_then(Result::ok));
        clean(&path, prepared);
    }

    #[test]
    fn attempts_are_at_most_a_second_apart() {
        let path = scratch("wal-pause");
        let mut worker = on_a_full_disk(&path);
        let mut pauses = Vec::new();
        for failures in [1, 2, 3, 6, 7, u32::MAX] {
            worker.failures = failures;
            pauses.push(worker.pause().as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 1000, 1000, 1000]);
        fs::remove_dir_all(&path).unwrap();
    }
}
