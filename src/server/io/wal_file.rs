//! Writing the log: one write at a time, each durable when it returns.
//!
//! The segment being filled is open for direct I/O with O_DSYNC: one write is one device flush and no journal
//! commit. Where the filesystem refuses O_DIRECT (tmpfs, some network filesystems) it is a buffered write and an
//! fdatasync; with `--unsafe-no-fsync` it is the write alone, done when the kernel has it. A write that fails ends the process: after a failed fsync nobody knows what is on the disk, and
//! the kernel would call the next one a success.
//!
//! A segment is opened only after it was prepared by `wal_dir`. That also avoids a trap of glommio 0.9: it takes a
//! device for pollable, and then busy-polls every write, if the first block of the first file opened on it was never
//! written.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{BufferedFile, DmaFile, OpenOptions};

use super::task;
use super::wal_dir::{Fill, Prepared, Releaser, WalDir};
use crate::stdx::time::Duration;
use crate::wal::{SegmentName, Write};

/// Mean bytes of a write from which on new segments get blocks and no zeros: the journal's 4 KiB per write are little
/// beside them, and so is its time.
const LARGE_WRITE: u64 = 32 << 10;

/// The segment being filled.
enum Segment {
    Direct(Rc<DmaFile>),
    Buffered(BufferedFile),
}

/// The log's writer, on the replica core.
pub struct WalFile {
    dir: WalDir,
    prepared: Prepared,
    /// Writes to the segment being filled, and their bytes.
    writes: (u64, u64),
    current: Option<(SegmentName, Segment)>,
}

impl WalFile {
    /// A writer into `dir`.
    ///
    /// # Errors
    /// When the thread that prepares segments cannot be started.
    pub fn new(dir: WalDir) -> io::Result<Self> {
        let prepared = dir.prepare_ahead()?;
        Ok(Self { dir, prepared, writes: (0, 0), current: None })
    }

    /// Does one write. When it returns, the write is durable if it has to be. Gives the buffer back.
    ///
    /// # Panics
    /// When the write fails or is short: see above.
    pub async fn write(&mut self, write: Write) -> Vec<u8> {
        let result = self.try_write(&write).await;
        if let Err(error) = result {
            panic!(
                "writing {} bytes at {} of {} failed: {error}; the member stops so as not to lose what it \
                 acknowledges; free space on the disk or replace it, then start the member again",
                write.bytes.len(),
                write.offset,
                self.dir.file(write.segment).display()
            );
        }
        write.bytes
    }

    /// Where to say which segments nothing needs any more.
    pub fn releaser(&self) -> Releaser {
        self.prepared.releaser()
    }

    async fn try_write(&mut self, write: &Write) -> io::Result<()> {
        self.writes = (self.writes.0 + 1, self.writes.1 + write.bytes.len() as u64);
        if write.create {
            return self.create(write).await;
        }
        if self.current.as_ref().is_none_or(|(name, _)| *name != write.segment) {
            let segment = self.open(&self.dir.file(write.segment)).await?;
            self.current = Some((write.segment, segment));
        }
        let (_, segment) = self.current.as_ref().expect("opened above");
        self.write_to(segment, write).await
    }

    /// A segment's first write: into the prepared file, which gets its name when the write is durable.
    async fn create(&mut self, write: &Write) -> io::Result<()> {
        let (count, bytes) = std::mem::take(&mut self.writes);
        let fill = if bytes >= count.max(1) * LARGE_WRITE { Fill::Blocks } else { Fill::Zeros };
        let prepared = loop {
            if let Some(file) = self.prepared.try_take(fill) {
                break file?;
            }
            // Only at the very start, and when segments fill faster than the disk can be zeroed.
            task::sleep(Duration::from_millis(1)).await;
        };
        let segment = self.open(&prepared).await?;
        self.write_to(&segment, write).await?;
        self.dir.adopt(&prepared, write.segment)?;
        self.current = Some((write.segment, segment));
        Ok(())
    }

    async fn write_to(&self, segment: &Segment, write: &Write) -> io::Result<()> {
        let written = match segment {
            Segment::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(write.bytes.len());
                buffer.as_bytes_mut().copy_from_slice(&write.bytes);
                file.write_at(buffer, write.offset).await?
            }
            Segment::Buffered(file) => {
                let written = file.write_at(write.bytes.clone(), write.offset).await?;
                if self.dir.is_durable() && (write.sync || write.create) {
                    file.fdatasync().await?;
                }
                written
            }
        };
        if written == write.bytes.len() { Ok(()) } else { Err(io::Error::other("the write was short")) }
    }

    async fn open(&self, path: &Path) -> io::Result<Segment> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if !self.dir.is_durable() {
            return Ok(Segment::Buffered(options.buffered_open(path).await?));
        }
        match options.clone().custom_flags(libc::O_DSYNC).dma_open(path).await {
            Ok(file) => Ok(Segment::Direct(Rc::new(file))),
            Err(error) => {
                tracing::warn!(error = %error, path = %path.display(), "no direct I/O here, using fdatasync");
                Ok(Segment::Buffered(options.buffered_open(path).await?))
            }
        }
    }
}
