//! The next segment, kept ready, and the segments that nothing needs any more.
//!
//! There are two ways to a file that reads as zeros:
//!
//! - zeros written: then each write of the log is one to blocks that were written before, and spares the disk a journal
//!   commit, 35 to 40 % of its time. But each byte of the log is written twice. For the same price a segment that
//!   nobody needs becomes the next file.
//! - blocks allocated: then a write pays for the journal commit where it begins a new block.
//!
//! ```text
//!   released segment ──▶ spare ──▶ next ──▶ zeros, durable ──▶ ready ──▶ head, durable ──▶ segment
//!          └──▶ gone, where there is a spare        ▲ new file                     adopt
//! ```
//!
//! A file that was asked for is made until it succeeds. A full disk is no reason to give up: the file is made again and
//! again, at most [`RETRY_MAX`] apart, and the log waits for it when the present segment is full. What a failed attempt
//! has written is deleted, so that the attempts do not take the last room from the store file.
//!
//! The server does all this on a thread, the simulator on its own clock.
#![forbid(unsafe_code)]

use std::io;

use super::folder::{Content, Folder, LogFile};
use super::segment::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName};
use crate::stdx::time::Duration;

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

/// How long a prepared file is, and in which pieces it is made.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of a prepared file.
    pub segment: u64,
    /// Bytes of one write of zeros.
    pub chunk: usize,
    /// Bytes of zeros between two syncs: a long one would hold up the log's own.
    pub synced: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { segment: SEGMENT_BYTES, chunk: 1 << 20, synced: 4 << 20 }
    }
}

/// What is to be done for the segments to come.
#[derive(Debug)]
pub struct Preparation {
    sizes: Sizes,
    /// The next file is `<number>.tmp`, 0 or 1 in turn: the one made before may still be waiting for its name.
    number: u32,
    /// There is a released segment, kept to be filled with zeros again.
    spare: bool,
    /// The file that was asked for and is not made yet.
    wanted: Option<Fill>,
    /// Attempts at that file that have failed.
    failures: u32,
}

impl Preparation {
    /// Nothing is asked for, in a folder without leftovers.
    pub fn new(sizes: Sizes) -> Self {
        Self { sizes, number: 0, spare: false, wanted: None, failures: 0 }
    }

    /// One more file is asked for.
    pub fn want(&mut self, fill: Fill) {
        (self.wanted, self.failures) = (Some(fill), 0);
    }

    /// Attempts that have failed, at the file that is wanted or was made last.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Time until the next attempt; none while nothing is wanted.
    pub fn pause(&self) -> Option<Duration> {
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX);
        self.wanted.map(|_| pause)
    }

    /// A segment is not needed any more: it goes, or is kept to become the next file.
    ///
    /// # Errors
    /// What the filesystem answers. Then the segment stays until the next start.
    pub fn release(&mut self, folder: &impl Folder, name: SegmentName) -> io::Result<()> {
        let segment = LogFile::Segment(name);
        if self.spare {
            return folder.remove(segment);
        }
        folder.rename(segment, LogFile::Spare)?;
        self.spare = true;
        Ok(())
    }

    /// Makes the file that is wanted; none if nothing is.
    ///
    /// # Errors
    /// What the filesystem answers. The file is still wanted then.
    pub fn attempt(&mut self, folder: &impl Folder) -> Option<io::Result<LogFile>> {
        let made = self.make(folder, self.wanted?);
        match &made {
            Ok(_) => self.wanted = None,
            Err(_) => self.failures = self.failures.saturating_add(1),
        }
        Some(made)
    }

    fn make(&mut self, folder: &impl Folder, fill: Fill) -> io::Result<LogFile> {
        let file = LogFile::Next(self.number);
        if std::mem::take(&mut self.spare) {
            match fill {
                Fill::Zeros => folder.rename(LogFile::Spare, file)?,
                Fill::Blocks => folder.remove(LogFile::Spare)?,
            }
        }
        if let Err(error) = self.fill(folder, file, fill) {
            let _ = folder.remove(file);
            return Err(error);
        }
        self.number ^= 1;
        Ok(file)
    }

    fn fill(&self, folder: &impl Folder, file: LogFile, fill: Fill) -> io::Result<()> {
        let file = folder.open(file, true)?;
        // Blocks first also where zeros are written: a disk without room for a segment says so before any zero is.
        if file.allocate(0, self.sizes.segment)? && fill == Fill::Blocks {
            // Of a file without a written block a probe for direct I/O learns nothing: see `server::io::wal_file`.
            file.write_at(&[0; BLOCK_BYTES], 0)?;
        } else {
            self.zero(&file)?;
        }
        file.set_len(self.sizes.segment)?;
        file.sync()
    }

    fn zero(&self, file: &impl Content) -> io::Result<()> {
        let zeros = vec![0; self.sizes.chunk];
        let mut at = 0;
        while at < self.sizes.segment {
            let length = zeros.len().min((self.sizes.segment - at) as usize);
            file.write_at(&zeros[..length], at)?;
            at += length as u64;
            if at.is_multiple_of(self.sizes.synced) {
                file.sync()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_at_most_a_second_apart() {
        let mut preparation = Preparation::new(Sizes::default());
        assert_eq!(preparation.pause(), None, "nothing is wanted");
        preparation.want(Fill::Zeros);
        let mut pauses = Vec::new();
        for failures in [1, 2, 3, 6, 7, u32::MAX] {
            preparation.failures = failures;
            pauses.push(preparation.pause().unwrap().as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 1000, 1000, 1000]);
    }
}
