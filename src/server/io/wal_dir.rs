//! The directory of WAL segments, before the member runs and for the thread that prepares segments. Plain blocking
//! file calls: none of this happens on an executor.
//!
//! A segment begins as `N.tmp`, which reads as zeros. Its first write goes there too; then it is renamed and the
//! directory synced ([`WalDir::adopt`]), so a segment that has a name has its head. There are two ways to such a file:
//!
//! - zeros written: then each write of the log is one to blocks that were written before, and spares the disk a journal
//!   commit, 35 to 40 % of its time. But each byte of the log is written twice. For the same price a segment that nobody
//!   needs becomes the next `N.tmp`.
//! - blocks allocated: then a write pays for the journal commit where it begins a new block.
//!
//! The log's writes so far decide ([`Fill`]): small ones are worth the zeros, large ones carry the commit easily.
//!
//! Every segment in use is locked as etcd locks its own, so neither another member nor etcd's tools write to it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use super::log_map::LogMap;
use super::ofd_lock;
use super::page_file::preallocate;
use crate::wal::segment::first_needed;
use crate::wal::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName, Tail};

/// Bytes of one write of zeros.
const ZEROS_BYTES: usize = 1 << 20;
/// Bytes of zeros between two syncs: a long one would hold up the log's own.
const ZEROS_SYNCED: u64 = 4 << 20;

/// How the file of a segment comes to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are written.
    Zeros,
    /// Blocks are allocated, and zeros written where the filesystem cannot do that.
    Blocks,
}

/// A WAL directory.
#[derive(Clone, Debug)]
pub struct WalDir {
    path: PathBuf,
    /// A descriptor for each segment in use, open only for its lock.
    locks: Arc<Mutex<BTreeMap<SegmentName, File>>>,
    /// False with `--unsafe-no-fsync`: neither segments nor their names are synced.
    durable: bool,
}

impl WalDir {
    /// Opens the directory, making it if it is not there, locks its segments and removes what a crash left half made.
    ///
    /// # Errors
    /// When another process has it, or what the filesystem answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
        let dir = Self { path: path.to_owned(), locks: Arc::default(), durable: true };
        for name in dir.segments()? {
            dir.lock(name)?;
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(dir)
    }

    /// Leaves it to the kernel when anything gets to the disk.
    pub fn without_sync(self) -> Self {
        Self { durable: false, ..self }
    }

    /// Whether what is written has to be durable.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The segments there are, in order.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn segments(&self) -> io::Result<Vec<SegmentName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The content of the segments that may hold entries after `index`; all of them if none begins early enough,
    /// so that recovery can say what is missing.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn read_after(&self, names: &[SegmentName], index: u64) -> io::Result<Vec<(SegmentName, LogMap)>> {
        let first = first_needed(names, index).unwrap_or(0);
        names[first..].iter().map(|&name| Ok((name, LogMap::new(&File::open(self.file(name))?)?))).collect()
    }

    /// Makes the last segment ready to be written on from where its last whole record ends: everything behind it
    /// zero, at full length, durable. A torn record is kept in a copy, `<name>.broken`, as etcd keeps it.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn mend_tail(&self, tail: &Tail) -> io::Result<()> {
        let path = self.file(tail.segment);
        if tail.torn {
            fs::copy(&path, path.with_extension("wal.broken"))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut buffer = vec![0; ZEROS_BYTES];
        // The last write of a segment may have gone past its size.
        let end = file.metadata()?.len().max(SEGMENT_BYTES);
        let mut at = tail.offset;
        // Only what is not zero is written: most of a segment is, and stays as it is.
        while at < end {
            let length = ZEROS_BYTES.min((end - at) as usize);
            let read = file.read_at(&mut buffer[..length], at)?;
            if read < length || buffer[..read] != zeros[..read] {
                file.write_all_at(&zeros[..length], at)?;
            }
            at += length as u64;
        }
        file.sync_all()?;
        // The process before may have been killed before the segment's name was durable.
        self.sync()
    }

    /// Where a segment is.
    pub fn file(&self, name: SegmentName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Gives a prepared file its name, makes that durable and locks it. What was written to it before is its head.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn adopt(&self, prepared: &Path, name: SegmentName) -> io::Result<()> {
        fs::rename(prepared, self.file(name))?;
        self.sync()?;
        self.lock(name)
    }

    /// Starts the thread that keeps one file ready, the first filled with zeros.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn prepare_ahead(&self) -> io::Result<Prepared> {
        let (orders, inbox) = mpsc::channel();
        let (ready, files) = mpsc::channel();
        let worker = Worker { dir: self.clone(), ready, number: 0, spare: None };
        thread::Builder::new().name("wal-segments".into()).spawn(move || worker.run(&inbox))?;
        let prepared = Prepared { orders, files };
        prepared.order(Order::Prepare(Fill::Zeros));
        Ok(prepared)
    }

    fn lock(&self, name: SegmentName) -> io::Result<()> {
        let path = self.file(name);
        let file = OpenOptions::new().write(true).open(&path)?;
        match ofd_lock::try_lock(&file) {
            Ok(true) => {
                self.locks.lock().unwrap_or_else(PoisonError::into_inner).insert(name, file);
                Ok(())
            }
            Ok(false) => Err(io::Error::other(format!(
                "another process uses {}: is a member running on it?",
                path.display()
            ))),
            Err(error) => {
                tracing::warn!(error = %error, path = %path.display(), "this filesystem has no locks");
                Ok(())
            }
        }
    }

    fn unlock(&self, name: SegmentName) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    fn sync(&self) -> io::Result<()> {
        if !self.durable {
            return Ok(());
        }
        File::open(&self.path)?.sync_all()
    }
}

/// What the thread is asked for.
enum Order {
    /// Make one more file that reads as zeros.
    Prepare(Fill),
    /// These segments are not needed any more.
    Release(Vec<SegmentName>),
}

/// The thread that does to segments what takes long.
struct Worker {
    dir: WalDir,
    ready: mpsc::Sender<io::Result<PathBuf>>,
    /// The next file is `<number>.tmp`, 0 or 1 in turn.
    number: u32,
    /// A released segment, kept to be filled with zeros again.
    spare: Option<PathBuf>,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            match order {
                Order::Prepare(fill) => {
                    let file = self.prepare(fill);
                    let failed = file.is_err();
                    if self.ready.send(file).is_err() || failed {
                        return;
                    }
                }
                Order::Release(names) => {
                    if let Err(error) = names.iter().try_for_each(|&name| self.release(name)) {
                        tracing::warn!(error = %error, "cannot delete WAL segments that are not needed any more");
                    }
                }
            }
        }
    }

    fn release(&mut self, name: SegmentName) -> io::Result<()> {
        self.dir.unlock(name);
        let path = self.dir.file(name);
        if self.spare.is_none() {
            let spare = self.dir.path.join("spare.tmp");
            fs::rename(path, &spare)?;
            self.spare = Some(spare);
            return Ok(());
        }
        fs::remove_file(path)
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<PathBuf> {
        let path = self.dir.path.join(format!("{}.tmp", self.number));
        self.number ^= 1;
        let spare = self.spare.take();
        match (fill, spare) {
            (Fill::Zeros, Some(spare)) => fs::rename(spare, &path)?,
            (Fill::Blocks, Some(spare)) => fs::remove_file(spare)?,
            (_, None) => {}
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if fill == Fill::Blocks && preallocate(&file, 0, SEGMENT_BYTES)? {
            // Of a file without a written block a probe for direct I/O learns nothing: see `wal_file`.
            file.write_all_at(&[0; BLOCK_BYTES], 0)?;
        } else {
            self.zero(&file)?;
        }
        file.set_len(SEGMENT_BYTES)?;
        if self.dir.durable {
            file.sync_all()?;
        }
        Ok(path)
    }

    fn zero(&self, file: &File) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        while at < SEGMENT_BYTES {
            let length = ZEROS_BYTES.min((SEGMENT_BYTES - at) as usize);
            file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
            if self.dir.durable && at.is_multiple_of(ZEROS_SYNCED) {
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// Files that read as zeros, one at a time.
pub struct Prepared {
    orders: mpsc::Sender<Order>,
    files: mpsc::Receiver<io::Result<PathBuf>>,
}

impl Prepared {
    /// The next file if it is ready; the one after it is begun, with `fill`.
    ///
    /// # Errors
    /// What the filesystem answered the thread: full, or broken.
    pub fn try_take(&self, fill: Fill) -> Option<io::Result<PathBuf>> {
        let file = match self.files.try_recv() {
            Ok(file) => file,
            Err(mpsc::TryRecvError::Empty) => return None,
            Err(mpsc::TryRecvError::Disconnected) => {
                Err(io::Error::other("no further WAL segment could be prepared"))
            }
        };
        self.order(Order::Prepare(fill));
        Some(file)
    }

    /// A way to the thread for segments that nothing needs any more.
    pub fn releaser(&self) -> Releaser {
        Releaser(self.orders.clone())
    }

    fn order(&self, order: Order) {
        // A thread that has ended says why when the next file is taken.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kevel-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn name(sequence: u64) -> SegmentName {
        SegmentName { sequence, index: sequence }
    }

    fn take(prepared: &Prepared, fill: Fill) -> PathBuf {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(file) = prepared.try_take(fill) {
                return file.unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no file was prepared");
    }

    #[test]
    fn a_torn_tail_is_zeroed_and_kept_in_a_copy() {
        let path = scratch("wal-dir-torn");
        let dir = WalDir::open(&path).unwrap();
        fs::write(dir.file(name(0)), vec![7; SEGMENT_BYTES as usize + 5000]).unwrap();
        let tail = Tail { segment: name(0), offset: 4100, block: vec![7; 4], crc: 0, torn: true };
        dir.mend_tail(&tail).unwrap();
        let content = fs::read(dir.file(name(0))).unwrap();
        assert!(content.len() as u64 >= SEGMENT_BYTES);
        assert!(content[..4100].iter().all(|&b| b == 7) && content[4100..].iter().all(|&b| b == 0));
        assert_eq!(fs::read(path.join(format!("{}.broken", name(0)))).unwrap()[9_999], 7);
        fs::write(dir.file(name(0)), [7; 9]).unwrap();
        dir.mend_tail(&Tail { offset: 8, torn: false, ..tail }).unwrap();
        assert_eq!(fs::metadata(dir.file(name(0))).unwrap().len(), SEGMENT_BYTES, "full length again");
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_released_segment_becomes_the_next_one_and_a_crash_leaves_no_temporary_file() {
        let path = scratch("wal-dir-spare");
        let dir = WalDir::open(&path).unwrap();
        let prepared = dir.prepare_ahead().unwrap();
        for sequence in 0..3 {
            dir.adopt(&take(&prepared, Fill::Zeros), name(sequence)).unwrap();
        }
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0), name(1)]);
        // One file was under way before the release, the one after it is made of the spare.
        take(&prepared, Fill::Zeros);
        let file = take(&prepared, Fill::Zeros);
        assert_eq!(dir.segments().unwrap(), [name(2)]);
        let content = fs::read(&file).unwrap();
        assert!(content.len() as u64 == SEGMENT_BYTES && content.iter().all(|&b| b == 0));
        drop((prepared, dir));
        // The thread notices that nobody listens any more at its next file, and gives its locks back then.
        let deadline = Instant::now() + Duration::from_secs(30);
        let dir = loop {
            match WalDir::open(&path) {
                Ok(dir) => break dir,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(dir.segments().unwrap(), [name(2)]);
        assert!(!file.exists());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn blocks_read_as_zeros_and_take_nothing_over() {
        let path = scratch("wal-dir-blocks");
        let dir = WalDir::open(&path).unwrap();
        let prepared = dir.prepare_ahead().unwrap();
        dir.adopt(&take(&prepared, Fill::Blocks), name(0)).unwrap();
        fs::write(dir.file(name(0)), vec![7; 100]).unwrap();
        prepared.releaser().release(vec![name(0)]);
        for _ in 0..2 {
            let content = fs::read(take(&prepared, Fill::Blocks)).unwrap();
            assert!(content.len() as u64 == SEGMENT_BYTES && content.iter().all(|&b| b == 0));
        }
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_has_one_owner() {
        let path = scratch("wal-dir-lock");
        let dir = WalDir::open(&path).unwrap();
        fs::write(dir.file(name(0)), []).unwrap();
        let first = WalDir::open(&path).unwrap();
        assert!(WalDir::open(&path).unwrap_err().to_string().contains("another process"));
        drop(first);
        WalDir::open(&path).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }
}
