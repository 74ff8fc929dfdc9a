//! The store file, mapped once for reading.
//!
//! The mapping covers more address space than the file has bytes, so it never moves while the file grows; what
//! lies beyond the file's end is not touched. Writing goes through pwrite: the mapping is read-only, so no stray
//! store can reach the file. A read error behind the mapping arrives as SIGBUS, which ends the process (`fault`).
//!
//! The kernel's read-ahead is turned off: around each page that is not in memory it reads as much as the device is set
//! to, up to 8 MB, and a put to a random key of a large store would wait for all of that. Instead, walks in key or
//! revision order ask for some pages around the next one ([`PageFile::read_ahead`]), and whoever reads a long value
//! asks for all of it. A lone read reads its page.
//!
//! The file grows by extents with blocks behind them, so a full disk is met where a checkpoint can still be tried
//! again, in `resize`, and hardly ever in a sync, where it could not. Filesystems that cannot preallocate get a hole.
//!
//! What a checkpoint writes goes to the disk a little at a time. Left to the sync at its end, tens of megabytes would
//! go at once, and the log's writes would wait behind them.
//!
//! Unsafe: mmap, munmap, madvise, mincore, fallocate, sync_file_range, sysconf, and the promise that a [`Mapping`] asks
//! for.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::{dir, memory_limit};
use crate::page::{Mapping, PAGE_SIZE, PAGES_MAX, PageFile};

/// The file grows and shrinks by multiples of an eighth of its size, but by no less than this, 64 KiB: the store of a
/// new member takes no more.
const EXTENT_PAGES: u32 = 16;
/// And by no more than this, 64 MiB: more would only be given back.
const EXTENT_PAGES_MAX: u32 = 16 << 10;
/// Pages that are cut off at a time, 16 MiB: whoever reads a page that is not in memory waits until a cut is made, some
/// milliseconds where all of what is cut off is in memory.
const CUT_PAGES: u32 = 4 << 10;
/// Bytes written from which on the disk is asked to take them.
const WRITEBACK_BYTES: usize = 1 << 20;
/// Places asked for that are remembered, and pages from one of them to the next.
const ASKED: usize = 16;
const ASKED_UNIT: u32 = 16;
/// The least address space that makes sense: 64 GiB.
const RESERVE_MIN: usize = 64 << 30;

/// A store file of this process alone.
pub struct MappedFile {
    file: File,
    /// Where it was opened.
    path: PathBuf,
    /// Where it lies now, if it was renamed.
    renamed: OnceLock<PathBuf>,
    base: NonNull<u8>,
    reserved: usize,
    pages: AtomicU32,
    /// False with `--unsafe-no-fsync`: a checkpoint counts as durable when the kernel has it.
    durable: bool,
    /// Pages of a file that is larger than memory: half of what the machine has, since others need some too.
    memory_pages: u32,
    /// The first of pages that were asked for not long ago, each at a place of its own: a walk that stays among them
    /// asks once, and others that go on meanwhile do so too.
    asked: [AtomicU32; ASKED],
    /// Bytes written that the disk was not asked to take yet.
    unasked: AtomicUsize,
    /// The disk has refused some of what it was asked to take, and the kernel will not say so again.
    refused: AtomicBool,
}

// SAFETY: the mapping is read-only memory without ties to a thread; the file is used through calls that take a
// position.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Opens the file, making an empty one if there is none, and locks it against other processes.
    ///
    /// # Errors
    /// When it is locked, or the system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::lock_and_map(
            path,
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?,
        )
    }

    /// Leaves it to the kernel when a checkpoint gets to the disk: a power cut may then cost the whole file.
    pub fn without_sync(self) -> Self {
        let mut file = self;
        file.durable = false;
        file
    }

    /// Gives the file another name, durably, and takes that name from whichever file has it. Messages about this file
    /// name it so from now on. Once in a file's life.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub fn rename(&self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        dir::sync(path.parent().unwrap_or(Path::new(".")))?;
        self.renamed.set(path.to_owned()).map_err(|_| io::Error::other("it was renamed before"))
    }

    /// Opens a file that must be there, to look at it: writing fails.
    ///
    /// # Errors
    /// When it is not there or locked, or the system refuses.
    pub fn open_existing(path: &Path) -> io::Result<Self> {
        Self::lock_and_map(path, File::open(path)?)
    }

    fn lock_and_map(path: &Path, file: File) -> io::Result<Self> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "another process uses this data directory, a member perhaps that runs already: stop it, or name \
                     another --data-dir",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let pages = u32::try_from(file.metadata()?.len() / PAGE_SIZE as u64)
            .ok()
            .filter(|&pages| pages <= PAGES_MAX)
            .ok_or_else(|| io::Error::other("the file is longer than any store"))?;
        let (base, reserved) = reserve(&file)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            renamed: OnceLock::new(),
            base,
            reserved,
            pages: AtomicU32::new(pages),
            durable: true,
            memory_pages: memory_pages() / 2,
            asked: [const { AtomicU32::new(u32::MAX) }; ASKED],
            unasked: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        })
    }
}

/// Waits until the disk has what it was asked to take before, and asks it to take what was written since. Durable is
/// only what a sync has seen. That a filesystem cannot do this is no error.
fn write_back(file: &File) -> io::Result<()> {
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes numbers alone.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR | libc::EINVAL | libc::ENOSYS | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

/// Where a file ends that has room for `pages`.
fn extent_end(pages: u32) -> u32 {
    let extent = (pages / 8).next_power_of_two().clamp(EXTENT_PAGES, EXTENT_PAGES_MAX);
    pages.next_multiple_of(extent)
}

/// Asks for blocks behind `length` bytes from `from` on, which read as zeros. False where a filesystem cannot do this.
///
/// # Errors
/// When the disk has no room for them, or what else the filesystem answers.
pub fn preallocate(file: &File, from: u64, length: u64) -> io::Result<bool> {
    let [from, length] = [from, length].map(|bytes| libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX));
    loop {
        // SAFETY: the call takes numbers alone.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, from, length) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Pages of memory that the machine has, or that the group of this process may take.
fn memory_pages() -> u32 {
    // SAFETY: the calls take numbers alone.
    let [pages, size] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    let bytes = u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0);
    let bytes = memory_limit::of_this_process().map_or(bytes, |limit| bytes.min(limit));
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

/// Maps as much as the system grants, from all that can be addressed downwards.
fn reserve(file: &File) -> io::Result<(NonNull<u8>, usize)> {
    let mut length = PAGES_MAX as usize * PAGE_SIZE;
    loop {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base != libc::MAP_FAILED {
            // SAFETY: the range was just mapped, and advice changes none of its bytes. A kernel that does not take the
            // advice reads more than is needed.
            unsafe { libc::madvise(base, length, libc::MADV_RANDOM) };
            let base = NonNull::new(base.cast()).expect("a mapping is not at address zero");
            return Ok((base, length));
        }
        let error = io::Error::last_os_error();
        length /= 2;
        if length < RESERVE_MIN {
            return Err(lacks_addresses(&error));
        }
    }
}

/// The store is mapped as a whole, and grows within what was reserved for it.
fn lacks_addresses(error: &io::Error) -> io::Error {
    io::Error::other(format!(
        "{error}: the store needs {} GiB of address space at least (not of memory): raise the limit of virtual memory, \
         `ulimit -v unlimited` or LimitAS=infinity of systemd",
        RESERVE_MIN >> 30
    ))
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `reserve` mapped, and whoever was given a `Mapping` holds this file.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

impl PageFile for MappedFile {
    fn name(&self) -> String {
        self.renamed.get().unwrap_or(&self.path).display().to_string()
    }

    fn pages(&self) -> u32 {
        self.pages.load(Ordering::Acquire)
    }

    fn mapping(&self) -> Option<Mapping> {
        // SAFETY: `base` and `reserved` describe a mapping of the file that lives as long as `self`; pages below
        // `pages()` are within the file, whose length only `resize` changes; the lock keeps other members away.
        Some(unsafe { Mapping::new(self.base, self.reserved) })
    }

    fn read_ahead(&self, first: u32, pages: u32) {
        // Relaxed: what another core makes of this costs a call too many.
        let asked = &self.asked[(first / ASKED_UNIT) as usize % ASKED];
        if asked.swap(first, Ordering::Relaxed) == first {
            return;
        }
        let end = first.saturating_add(pages).min(self.pages());
        let [at, length] = [first, end.saturating_sub(first)].map(|page| page as usize * PAGE_SIZE);
        // SAFETY: the range lies within the mapping, because the file does, and advice changes none of its bytes.
        unsafe { libc::madvise(self.base.as_ptr().add(at).cast(), length, libc::MADV_WILLNEED) };
    }

    fn is_larger_than_memory(&self) -> bool {
        self.pages.load(Ordering::Relaxed) > self.memory_pages
    }

    fn is_in_memory(&self, page: u32) -> bool {
        let mut resident = 0_u8;
        // SAFETY: the page lies within the mapping, because the file does; the call writes one byte for it.
        let result = unsafe {
            let at = self.base.as_ptr().add(page as usize * PAGE_SIZE);
            libc::mincore(at.cast(), PAGE_SIZE, &raw mut resident)
        };
        // What the system does not tell counts as being there: whoever reads the page waits for it then.
        result != 0 || resident & 1 == 1
    }

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, u64::from(first) * PAGE_SIZE as u64)
    }

    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, u64::from(first) * PAGE_SIZE as u64)?;
        let unasked = self.unasked.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if self.durable && unasked >= WRITEBACK_BYTES {
            self.unasked.store(0, Ordering::Relaxed);
            if write_back(&self.file).is_err() {
                // The write itself has succeeded. It is the sync that must fail.
                self.refused.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    fn resize(&self, pages: u32) -> io::Result<()> {
        let now = self.pages();
        let pages = extent_end(pages);
        if pages as usize * PAGE_SIZE > self.reserved {
            return Err(io::Error::other("the store file has outgrown its reserved address space"));
        }
        // What a rounded-up length has too much is not worth a journal entry.
        if pages < now && now - pages < EXTENT_PAGES_MAX && pages > now / 2 {
            return Ok(());
        }
        if pages > now {
            let [from, to] = [now, pages].map(|page| u64::from(page) * PAGE_SIZE as u64);
            preallocate(&self.file, from, to - from)?;
        }
        let mut now = now;
        while pages != now {
            now = pages.max(now.saturating_sub(CUT_PAGES));
            self.file.set_len(u64::from(now) * PAGE_SIZE as u64)?;
            self.pages.store(now, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if !self.durable {
            return Ok(());
        }
        if self.refused.load(Ordering::Acquire) {
            return Err(io::Error::other("the disk has refused a part of what was written"));
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_virtual_memory_is_named() {
        let said = lacks_addresses(&io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(
            said.contains("Cannot allocate memory") && said.contains("64 GiB of address space"),
            "{said}"
        );
        assert!(said.contains("ulimit -v"), "{said}");
    }

    #[test]
    fn what_is_written_shows_in_the_mapping_and_a_second_process_is_refused() {
        let path = std::env::temp_dir().join(format!("kevel-page-file-{}", std::process::id()));
        let file = MappedFile::open(&path).unwrap();
        file.resize(3).unwrap();
        assert_eq!(file.pages(), EXTENT_PAGES);
        file.write(2, &[7; PAGE_SIZE]).unwrap();
        // SAFETY: page 2 lies within the file.
        let byte = unsafe { *file.base.as_ptr().add(2 * PAGE_SIZE + 9) };
        assert_eq!(byte, 7);
        let other = path.with_extension("renamed");
        assert_eq!(file.name(), path.display().to_string());
        file.rename(&other).unwrap();
        assert!(file.name() == other.display().to_string() && !path.exists(), "{}", file.name());
        std::fs::rename(other, &path).unwrap();
        let second = MappedFile::open(&path).err().map(|error| error.to_string());
        assert!(second.is_some_and(|error| error.contains("another process")));
        drop(file);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_asked_for_comes_to_memory_and_no_more() {
        let path = std::env::temp_dir().join(format!("kevel-page-ahead-{}", std::process::id()));
        let file = MappedFile::open(&path).unwrap();
        const PAGES: u32 = 4096;
        file.resize(PAGES).unwrap();
        file.write(0, &vec![7; PAGES as usize * PAGE_SIZE]).unwrap();
        file.sync().unwrap();
        // SAFETY: the call takes numbers alone.
        unsafe { libc::posix_fadvise(file.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let is_resident = |page: u32| file.is_in_memory(page);
        if (0..PAGES).any(is_resident) {
            return; // a filesystem in memory, which has nothing to read ahead
        }
        file.read_ahead(1024, 16);
        file.read_ahead(PAGES - 1, 16);
        // SAFETY: page 2048 lies within the file.
        assert_eq!(unsafe { *file.base.as_ptr().add(2048 * PAGE_SIZE) }, 7);
        let asked = (0..16).map(|page| 1024 + page).chain([2048, PAGES - 1]).collect::<Vec<_>>();
        // Nobody waited for the disk.
        while !asked.iter().all(|&page| is_resident(page)) {
            std::thread::yield_now();
        }
        assert_eq!((0..PAGES).filter(|&page| is_resident(page)).collect::<Vec<_>>(), asked);
        drop(file);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn it_grows_by_extents_and_keeps_slack() {
        let path = std::env::temp_dir().join(format!("kevel-page-extent-{}", std::process::id()));
        let file = MappedFile::open(&path).unwrap();
        for (asked, got) in [(2, 16), (17, 32), (1025, 1152), (9_000, 10_240), (8_500, 10_240), (3, 16)] {
            file.resize(asked).unwrap();
            assert_eq!(file.pages(), got, "asked for {asked}");
        }
        assert!(MappedFile::open_existing(&path).is_err(), "locked");
        drop(file);
        // A child that another test has just forked holds the lock too, until it runs its own program.
        let again =
            std::iter::from_fn(|| Some(MappedFile::open_existing(&path))).take(100_000).find_map(Result::ok);
        assert!(again.expect("the lock is gone").write(0, &[0; PAGE_SIZE]).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
