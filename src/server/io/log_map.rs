//! Log segments, mapped for recovery to read: what lies behind the log's end is not even looked at, and nothing is
//! copied. A read error behind the mapping arrives as SIGBUS, see `fault`.
//!
//! Unsafe: mmap, munmap, and slices of what they map.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// A file's content, for reading. For files that nobody writes to meanwhile: segments are locked (`wal_dir`), and the
/// member writes to its log only after recovery.
pub struct LogMap {
    base: NonNull<u8>,
    length: usize,
}

impl LogMap {
    /// Maps all of `file`.
    ///
    /// # Errors
    /// What the system answers.
    pub fn new(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Self { base: NonNull::dangling(), length });
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made. That the advice is not taken costs time alone.
        unsafe { libc::madvise(base, length, libc::MADV_SEQUENTIAL) };
        Ok(Self { base: NonNull::new(base.cast()).expect("the kernel maps nothing at zero"), length })
    }
}

impl Deref for LogMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `base` and `length` are a readable mapping that lives as long as `self`, or `length` is zero; its
        // file is not written to, as promised above.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

impl Drop for LogMap {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: this mapping is ours alone, and every slice of it borrowed from `self`.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_map_shows_the_file() {
        let path = std::env::temp_dir().join(format!("kevel-log-map-{}", std::process::id()));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*LogMap::new(&file).unwrap(), b"");
        file.write_all(b"a log").unwrap();
        assert_eq!(&*LogMap::new(&file).unwrap(), b"a log");
    }
}
