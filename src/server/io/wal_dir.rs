//! The directory of WAL segments: what is in it when a member starts, and how a segment gets its name.
//!
//! A segment begins as `N.tmp`, which reads as zeros and which `wal_prepare` makes. The segment's first write goes
//! there too; then the file is renamed and the directory synced ([`WalDir::adopt`]), so a segment that has a name has
//! its head.
//!
//! A start has to succeed on a full disk as well, because the room may depend on what the member does once it runs. So
//! the end of the log is mended in place ([`WalDir::mend_tail`]): zeros go only to blocks that hold something, and what
//! would be nice to have, a copy of the torn record and blocks behind the end of a short file, is left out where
//! there is no room for it.
//!
//! Every segment in use is locked as etcd locks its own, so neither another member nor etcd's tools write to it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir;
use super::log_map::LogMap;
use super::ofd_lock;
use super::page_file::preallocate;
use super::wal_prepare::{ZEROS_BYTES, is_full};
use crate::wal::segment::{SECTOR_BYTES, first_needed};
use crate::wal::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName, Tail};

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
    /// zero, at full length, durable. What was torn is kept in a copy, `<name>.broken`, at its place in the segment.
    ///
    /// A crash in between leaves a log that ends at the same place: a record without all of its sectors is torn, and
    /// once the sector with its head is zero there is none.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn mend_tail(&self, tail: &Tail) -> io::Result<()> {
        let path = self.file(tail.segment);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        // The last write of a segment may have gone past its size.
        let length = file.metadata()?.len();
        if tail.torn {
            keep_torn(&file, tail.offset, &path.with_extension("wal.broken"));
            let sector_end = (tail.offset + 1).next_multiple_of(SECTOR_BYTES as u64).min(length);
            file.write_all_at(&vec![0; (sector_end - tail.offset) as usize], tail.offset)?;
            file.sync_data()?;
        }
        each_written_block(&file, tail.offset, |at, block| {
            file.write_all_at(&[0; BLOCK_BYTES][..block.len()], at)
        })?;
        if length < SEGMENT_BYTES {
            match preallocate(&file, length, SEGMENT_BYTES - length) {
                Err(error) if !is_full(&error) => return Err(error),
                // Without blocks there is a hole, and the log's writes wait for room when they get there.
                _ => file.set_len(SEGMENT_BYTES)?,
            }
        }
        file.sync_all()?;
        // The process before may have been killed before the segment's name was durable.
        self.sync()
    }

    /// Where the segments are.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Lets other processes have a segment that is not needed any more.
    pub(super) fn unlock(&self, name: SegmentName) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    fn sync(&self) -> io::Result<()> {
        if self.durable { dir::sync(&self.path) } else { Ok(()) }
    }
}

/// Copies what lies in a segment from `from` on into a file of its own, as evidence. The log does not need the copy, so
/// a disk that has no room for it only costs the evidence.
fn keep_torn(segment: &File, from: u64, copy: &Path) {
    let kept = File::create(copy).and_then(|file| {
        each_written_block(segment, from, |at, block| file.write_all_at(block, at))?;
        file.sync_all()
    });
    if let Err(error) = kept {
        let _ = fs::remove_file(copy);
        tracing::warn!(error = %error, path = %copy.display(), "cannot keep a copy of the torn end of the log");
    }
}

/// Tells each block that holds anything but zeros from `from` on, the first and the last as far as they go. Only such a
/// block certainly has its place on the disk, so that writing to it needs no room.
fn each_written_block(
    file: &File,
    from: u64,
    mut tell: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut buffer = vec![0; ZEROS_BYTES];
    let mut at = from;
    while at < end {
        let chunk_end = (at + 1).next_multiple_of(ZEROS_BYTES as u64).min(end);
        let chunk = &mut buffer[..(chunk_end - at) as usize];
        file.read_exact_at(chunk, at)?;
        let mut rest = &*chunk;
        while !rest.is_empty() {
            let block_end = (at + 1).next_multiple_of(BLOCK_BYTES as u64).min(chunk_end);
            let (block, behind) = rest.split_at((block_end - at) as usize);
            if block.iter().any(|&b| b != 0) {
                tell(at, block)?;
            }
            (rest, at) = (behind, block_end);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

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
