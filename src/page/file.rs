//! The store file as pages see it. `server/io/page_file.rs` maps a real one, the simulator has its own, and
//! [`MemoryFile`] is the one of tests.
#![forbid(unsafe_code)]

use super::layout::PAGE_SIZE;
use super::mapping::Mapping;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file of pages.
///
/// Reads come from any core while writes are under way, but never of the pages being written: the store sees to that.
pub trait PageFile: Send + Sync {
    /// How messages call the file.
    fn name(&self) -> String;

    /// Whole pages in the file.
    fn pages(&self) -> u32;

    /// The file's bytes in memory, if it has them there. Without a mapping, pages are read one by one and kept.
    fn mapping(&self) -> Option<Mapping> {
        None
    }

    /// Asks for pages within the file that will soon be read through the mapping, and does not wait for them.
    fn read_ahead(&self, _first: u32, _pages: u32) {}

    /// Whether the mapped pages hardly fit into memory: then one that was read is not certain to be there still.
    fn is_larger_than_memory(&self) -> bool {
        false
    }

    /// Whether a page within the file can be read through the mapping without waiting for the disk, as far as the
    /// system tells.
    fn is_in_memory(&self, _page: u32) -> bool {
        true
    }

    /// Fills `into` from page `first` on. Reading past the end is an error.
    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()>;

    /// Writes whole pages from page `first` on, within the file. All of them, or an error; durable only after
    /// [`sync`](Self::sync).
    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file at least this long, or shortens it to about this; either may be rounded up.
    fn resize(&self, pages: u32) -> io::Result<()>;

    /// Makes everything written durable. After a failure nothing is known of what was written.
    fn sync(&self) -> io::Result<()>;
}

/// A file in memory.
#[derive(Default)]
pub struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryFile {
    /// A file with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes) }
    }

    /// The bytes, to look at or to spoil.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageFile for MemoryFile {
    fn name(&self) -> String {
        "a file in memory".into()
    }

    fn pages(&self) -> u32 {
        (self.bytes().len() / PAGE_SIZE) as u32
    }

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        let at = first as usize * PAGE_SIZE;
        let bytes = self.bytes();
        let from = bytes.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
        let at = first as usize * PAGE_SIZE;
        let mut file = self.bytes();
        file.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        Ok(())
    }

    fn resize(&self, pages: u32) -> io::Result<()> {
        self.bytes().resize(pages as usize * PAGE_SIZE, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
