//! The store file, mapped once for reading.
//!
//! The mapping covers more address space than the file has bytes, so it never moves while the file grows; what
//! lies beyond the file's end is not touched. Writing goes through pwrite: the mapping is read-only, so no stray
//! store can reach the file. A read error behind the mapping arrives as SIGBUS, which ends the process.
//!
//! Unsafe: mmap, munmap, and the promise that a [`Mapping`] asks for.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::page::{Mapping, PAGE_SIZE, PAGES_MAX, PageFile};

/// The file grows and shrinks by multiples of this: 4 MiB.
const EXTENT_PAGES: u32 = 1024;
/// The least address space that makes sense: 64 GiB.
const RESERVE_MIN: usize = 64 << 30;

/// A store file of this process alone.
pub struct MappedFile {
    file: File,
    name: String,
    base: NonNull<u8>,
    reserved: usize,
    pages: AtomicU32,
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
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "another process uses this data directory: is a member running on it?",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let pages = u32::try_from(file.metadata()?.len() / PAGE_SIZE as u64)
            .ok()
            .filter(|&pages| pages <= PAGES_MAX)
            .ok_or_else(|| io::Error::other("the file is longer than any store"))?;
        let (base, reserved) = reserve(&file)?;
        Ok(Self { file, name: path.display().to_string(), base, reserved, pages: AtomicU32::new(pages) })
    }
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
            // SAFETY: the range was just mapped; advice changes nothing but read-ahead. Tree pages are read at
            // random, and a scan's neighbours are in the page cache by its own writes.
            unsafe { libc::madvise(base, length, libc::MADV_RANDOM) };
            let base = NonNull::new(base.cast()).expect("a mapping is not at address zero");
            return Ok((base, length));
        }
        let error = io::Error::last_os_error();
        length /= 2;
        if length < RESERVE_MIN {
            return Err(error);
        }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the range is the one mapped in `open`, and whoever was given a `Mapping` holds this file.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

impl PageFile for MappedFile {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pages(&self) -> u32 {
        self.pages.load(Ordering::Acquire)
    }

    fn mapping(&self) -> Option<Mapping> {
        // SAFETY: `base` and `reserved` describe a mapping of the file that lives as long as `self`; pages below
        // `pages()` are within the file, whose length only `resize` changes; the lock keeps other members away.
        Some(unsafe { Mapping::new(self.base, self.reserved) })
    }

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, u64::from(first) * PAGE_SIZE as u64)
    }

    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, u64::from(first) * PAGE_SIZE as u64)
    }

    fn resize(&self, pages: u32) -> io::Result<()> {
        let pages = pages.next_multiple_of(EXTENT_PAGES);
        if pages as usize * PAGE_SIZE > self.reserved {
            return Err(io::Error::other("the store file has outgrown its reserved address space"));
        }
        if pages != self.pages() {
            self.file.set_len(u64::from(pages) * PAGE_SIZE as u64)?;
            self.pages.store(pages, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let second = MappedFile::open(&path).err().map(|error| error.to_string());
        assert!(second.is_some_and(|error| error.contains("another process")));
        drop(file);
        std::fs::remove_file(&path).unwrap();
    }
}
