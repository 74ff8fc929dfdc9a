//! The directory of WAL segments on this machine's filesystem: the [`Folder`] in which `wal` does what it decides.
//!
//! Every segment in use is locked as etcd locks its own, so neither another member nor etcd's tools write to it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir;
use super::log_map::LogMap;
use super::ofd_lock;
use super::page_file::preallocate;
use crate::wal::folder::{self, Content, Folder, LogFile};
use crate::wal::prepare::Sizes;
use crate::wal::segment::first_needed;
use crate::wal::{SegmentName, Tail, mend};

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
        dir::create(path)?;
        let dir = Self { path: path.to_owned(), locks: Arc::default(), durable: true };
        for name in dir.segments()? {
            dir.lock(name)?;
        }
        folder::clean(&dir)?;
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
        folder::segments(self)
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

    /// Makes the last segment ready to be written on from where its last whole record ends: see [`mend`].
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn mend_tail(&self, tail: &Tail) -> io::Result<()> {
        if let Some(error) = mend::mend_tail(self, tail, &Sizes::default())? {
            let copy = self.place(LogFile::Torn(tail.segment));
            tracing::warn!(error = %error, path = %copy.display(), "cannot keep a copy of the torn end of the log");
        }
        Ok(())
    }

    /// Where the segments are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a segment is.
    pub fn file(&self, name: SegmentName) -> PathBuf {
        self.place(LogFile::Segment(name))
    }

    /// Where a file is.
    pub fn place(&self, file: LogFile) -> PathBuf {
        self.path.join(file.to_string())
    }

    /// Gives a prepared file its name, makes that durable and locks it. What was written to it before is its head.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn adopt(&self, prepared: LogFile, name: SegmentName) -> io::Result<()> {
        folder::adopt(self, prepared, name)?;
        self.lock(name)
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
                "another process uses {}, a member perhaps that runs already: stop it, or name another --data-dir \
                 or --wal-dir",
                path.display()
            ))),
            Err(error) => {
                tracing::warn!(error = %error, path = %path.display(), "this filesystem has no locks");
                Ok(())
            }
        }
    }

    /// Lets other processes have a segment that is not needed any more.
    pub(super) fn unlock(&self, name: SegmentName) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }
}

impl Folder for WalDir {
    type File = OpenFile;

    fn files(&self) -> io::Result<Vec<LogFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            files.extend(entry?.file_name().to_str().and_then(LogFile::parse));
        }
        Ok(files)
    }

    fn open(&self, file: LogFile, create: bool) -> io::Result<OpenFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        Ok(OpenFile { file: options.open(self.place(file))?, durable: self.durable })
    }

    fn rename(&self, from: LogFile, to: LogFile) -> io::Result<()> {
        fs::rename(self.place(from), self.place(to))
    }

    fn remove(&self, file: LogFile) -> io::Result<()> {
        fs::remove_file(self.place(file))
    }

    fn sync(&self) -> io::Result<()> {
        if self.durable { dir::sync(&self.path) } else { Ok(()) }
    }
}

/// An open file of the directory.
pub struct OpenFile {
    file: File,
    durable: bool,
}

impl Content for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<bool> {
        preallocate(&self.file, from, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if self.durable { self.file.sync_all() } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wal::SEGMENT_BYTES;
    use std::os::unix::fs::MetadataExt;

    const ZEROS_BYTES: usize = 1 << 20;

    pub fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kevel-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    pub fn name(sequence: u64) -> SegmentName {
        SegmentName { sequence, index: sequence }
    }

    /// A log whose last segment ends at byte 4100 with a torn record.
    fn torn(path: &Path, length: u64) -> (WalDir, Tail) {
        let dir = WalDir::open(path).unwrap();
        let mut content = vec![0; length as usize];
        content[..9_000].fill(7);
        fs::write(dir.file(name(0)), content).unwrap();
        (dir, Tail { segment: name(0), offset: 4100, block: vec![7; 4], crc: 0, torn: true })
    }

    fn ends_at(file: &Path, offset: usize) -> bool {
        let content = fs::read(file).unwrap();
        content[..offset].iter().all(|&b| b == 7) && content[offset..].iter().all(|&b| b == 0)
    }

    #[test]
    fn a_torn_tail_is_zeroed_and_kept_in_a_copy() {
        let path = scratch("wal-dir-torn");
        let (dir, tail) = torn(&path, SEGMENT_BYTES + 5000);
        dir.mend_tail(&tail).unwrap();
        assert!(ends_at(&dir.file(name(0)), 4100));
        assert!(fs::metadata(dir.file(name(0))).unwrap().len() >= SEGMENT_BYTES);
        let broken = fs::read(path.join(format!("{}.broken", name(0)))).unwrap();
        assert!(broken[..4100].iter().all(|&b| b == 0) && broken[4100..9_000].iter().all(|&b| b == 7));
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_short_segment_gets_its_full_length() {
        let path = scratch("wal-dir-short");
        let (dir, tail) = torn(&path, 9_000);
        dir.mend_tail(&Tail { torn: false, ..tail }).unwrap();
        assert!(ends_at(&dir.file(name(0)), 4100));
        assert_eq!(fs::metadata(dir.file(name(0))).unwrap().len(), SEGMENT_BYTES);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_torn_tail_is_mended_without_room_for_its_copy() {
        let path = scratch("wal-dir-no-room");
        let (dir, tail) = torn(&path, SEGMENT_BYTES);
        std::os::unix::fs::symlink("/dev/full", path.join(format!("{}.broken", name(0)))).unwrap();
        dir.mend_tail(&tail).unwrap();
        assert!(ends_at(&dir.file(name(0)), 4100));
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn mending_takes_no_blocks_that_the_segment_did_not_have() {
        let path = scratch("wal-dir-sparse");
        let (dir, tail) = torn(&path, 9_000);
        let file = OpenOptions::new().write(true).open(dir.file(name(0))).unwrap();
        file.set_len(SEGMENT_BYTES).unwrap();
        file.write_all_at(&[7; 9], 3 * ZEROS_BYTES as u64 - 4).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        dir.mend_tail(&tail).unwrap();
        assert!(ends_at(&dir.file(name(0)), 4100));
        assert!(file.metadata().unwrap().blocks() <= before);
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
