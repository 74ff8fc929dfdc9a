//! The thread that keeps the next log segment ready, and lets go of segments that nothing needs.
//!
//! What is done to which file, and in which order, is decided in `wal` ([`Preparation`]); the thread does it, waits
//! between two attempts, and tells. The log's writes so far decide which kind of file is asked for: see
//! [`wal_file`](super::wal_file). The first failure is logged at once, because the log may not need the file for
//! another 64 MB.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::wal_dir::WalDir;
use crate::wal::SegmentName;
use crate::wal::folder::{LogFile, is_full};
use crate::wal::prepare::{Fill, Preparation, Sizes};

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
    ready: Option<LogFile>,
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
        let preparation = Preparation::new(Sizes::default());
        let worker = Worker { dir, shelf: shelf.clone(), preparation };
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
    pub fn try_take(&self, fill: Fill) -> Option<io::Result<LogFile>> {
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
    preparation: Preparation,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            let order = match self.preparation.pause() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => inbox.recv_timeout(pause),
            };
            match order {
                Ok(Order::Prepare(fill)) => self.preparation.want(fill),
                // A segment that goes makes room for the file that is wanted.
                Ok(Order::Release(names)) => names.into_iter().for_each(|name| self.release(name)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.attempt();
        }
    }

    fn attempt(&mut self) {
        match self.preparation.attempt(&self.dir) {
            None => {}
            Some(Ok(file)) => {
                if self.preparation.failures() > 0 {
                    let attempts = self.preparation.failures() + 1;
                    tracing::info!(attempts, "prepared the next log segment");
                }
                *self.shelf.slot() = Slot { ready: Some(file), failed: None };
            }
            Some(Err(error)) => {
                if self.preparation.failures() == 1 {
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
        if let Err(error) = self.preparation.release(&self.dir, name) {
            tracing::warn!(
                error = %error,
                path = %self.dir.file(name).display(),
                "cannot delete a log segment that is not needed any more; it is deleted after the next start"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wal_dir::tests::{name, scratch};
    use super::*;
    use crate::wal::SEGMENT_BYTES;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

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

    fn take(prepared: &Prepared, fill: Fill) -> LogFile {
        until("a file", || prepared.try_take(fill)).unwrap()
    }

    fn is_blank(file: PathBuf) -> bool {
        let content = fs::read(file).unwrap();
        content.len() as u64 == SEGMENT_BYTES && content.iter().all(|&b| b == 0)
    }

    #[test]
    fn a_released_segment_becomes_the_next_one_and_a_crash_leaves_no_temporary_file() {
        let path = scratch("wal-spare");
        let dir = WalDir::open(&path).unwrap();
        let prepared = Prepared::start(dir.clone()).unwrap();
        for sequence in 0..3 {
            dir.adopt(take(&prepared, Fill::Zeros), name(sequence)).unwrap();
        }
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0), name(1)]);
        // One file was under way before the release, the one after it is made of the spare.
        take(&prepared, Fill::Zeros);
        let file = dir.place(take(&prepared, Fill::Zeros));
        assert_eq!(dir.segments().unwrap(), [name(2)]);
        assert!(is_blank(file.clone()));
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
        dir.adopt(take(&prepared, Fill::Blocks), name(0)).unwrap();
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0)]);
        for _ in 0..2 {
            assert!(is_blank(dir.place(take(&prepared, Fill::Blocks))));
        }
        clean(&path, prepared);
    }

    /// A worker that is run by hand, in a directory where `0.tmp` is the device that is always full.
    fn on_a_full_disk(path: &Path) -> Worker {
        let dir = WalDir::open(path).unwrap();
        std::os::unix::fs::symlink("/dev/full", path.join("0.tmp")).unwrap();
        let mut preparation = Preparation::new(Sizes::default());
        preparation.want(Fill::Zeros);
        Worker { dir, shelf: Shelf::default(), preparation }
    }

    #[test]
    fn a_full_disk_is_tried_again_until_there_is_room() {
        let path = scratch("wal-full");
        let mut worker = on_a_full_disk(&path);
        let (orders, inbox) = mpsc::channel();
        let prepared = Prepared { orders, shelf: worker.shelf.clone() };
        worker.attempt();
        assert!(prepared.lacks_room() && prepared.try_take(Fill::Zeros).is_none(), "the log waits");
        assert!(!path.join("0.tmp").is_symlink(), "what a failed attempt leaves takes no room");
        // With that there is room again, and no further order is needed.
        let dir = worker.dir.clone();
        thread::spawn(move || worker.run(&inbox));
        assert!(is_blank(dir.place(take(&prepared, Fill::Zeros))));
        assert!(!prepared.lacks_room());
        take(&prepared, Fill::Zeros);
        clean(&path, prepared);
    }

    #[test]
    fn what_is_released_while_the_disk_is_full_becomes_the_file_that_is_wanted() {
        let path = scratch("wal-full-release");
        let mut worker = on_a_full_disk(&path);
        worker.attempt();
        assert_eq!(worker.preparation.failures(), 1);
        fs::write(worker.dir.file(name(0)), vec![7; 100]).unwrap();
        worker.release(name(0));
        worker.attempt();
        let file = worker.shelf.slot().ready.take().unwrap();
        assert!(is_blank(worker.dir.place(file)));
        assert_eq!(worker.dir.segments().unwrap(), []);
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
}
