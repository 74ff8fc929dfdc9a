//! Writing the log: one write at a time, each durable when it returns.
//!
//! The segment being filled is open for direct I/O with O_DSYNC: one write is one device flush and no journal
//! commit. Where the filesystem refuses O_DIRECT (tmpfs, some network filesystems) a write is a buffered one and an
//! fdatasync; with `--unsafe-no-fsync` it is the buffered one alone, done when the kernel has it.
//!
//! A write for which the disk has no room waits and is done again, all of it at the same place: the last write of a
//! segment goes past the blocks that were allocated for it, and a filesystem that copies on writing needs room for
//! every write. Nothing was promised yet, and no sync has failed. A member that is told to stop gives such a write up
//! ([`Room`]): the next start finds the end of a log that a crash has cut. Any other failure ends the process: after a
//! failed fsync nobody knows what is on the disk, and the kernel would call the next one a success.
//!
//! A segment is opened only after it was prepared by `wal_prepare`. That also avoids a trap of glommio 0.9: it takes a
//! device for pollable, and then busy-polls every write, if the first block of the first file opened on it was never
//! written.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{BufferedFile, DmaFile, OpenOptions};

use super::wal_dir::WalDir;
use super::wal_prepare::Prepared;
use super::{clock, task};
use crate::stdx::time::{Duration, Instant};
use crate::wal::folder::is_full;
use crate::wal::prepare::Fill;
use crate::wal::{SegmentName, Write};

/// Mean bytes of a write from which on new segments get blocks and no zeros: the journal's 4 KiB per write are little
/// beside them, and so is its time.
const LARGE_WRITE: u64 = 32 << 10;

/// Time between two attempts of a write for which the disk has no room.
const ROOM_RETRY: Duration = Duration::from_millis(200);

/// Time between two lines of the log that say that a write waits for room.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What the log's writer and the replica's loop tell each other about room on the disk.
#[derive(Debug, Default)]
pub struct Room {
    lacking: Cell<bool>,
    given_up: Cell<bool>,
}

impl Room {
    /// Whether a write waits for room.
    pub fn is_lacking(&self) -> bool {
        self.lacking.get()
    }

    /// No write waits for room any more: the one that waits fails, and the later ones are not begun.
    pub fn give_up(&self) {
        self.given_up.set(true);
    }

    /// Whether writes were given up.
    pub fn is_given_up(&self) -> bool {
        self.given_up.get()
    }
}

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
    /// What else has to be durable before the first write counts as done; none for a log that was there before.
    founded: Option<OnFounded>,
    room: Rc<Room>,
}

/// Done once, when the first write of a new log is durable.
pub type OnFounded = Box<dyn FnOnce() -> Result<(), String> + Send>;

impl WalFile {
    /// A writer into `dir`, for which segments are made ready by `prepared`.
    pub fn new(dir: WalDir, prepared: Prepared, founded: Option<OnFounded>) -> Self {
        Self { dir, prepared, writes: (0, 0), current: None, founded, room: Rc::default() }
    }

    /// Whether a write waits for room on the disk, and a way to give it up.
    pub fn room(&self) -> Rc<Room> {
        self.room.clone()
    }

    /// Does one write. When it returns, the write is durable if it has to be. Gives the buffer back; none if the write
    /// was given up for lack of room.
    ///
    /// # Panics
    /// When the write fails for another reason than a full disk: see above.
    pub async fn write(&mut self, write: Write) -> Option<Vec<u8>> {
        match self.try_write(&write).await {
            Ok(()) => Some(write.bytes),
            Err(error) if self.room.is_given_up() && is_full(&error) => None,
            Err(error) => panic!(
                "writing {} bytes at {} of {} failed: {error}; the member stops so as not to lose what it \
                 acknowledges; free space on the disk or replace it, then start the member again",
                write.bytes.len(),
                write.offset,
                self.dir.file(write.segment).display()
            ),
        }
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
        let mut wait = Wait::new(&self.room);
        let prepared = loop {
            if let Some(file) = self.prepared.try_take(fill) {
                break file?;
            }
            if self.prepared.lacks_room() {
                wait.goes_on(&self.dir)?;
            }
            // At the very start, when segments fill faster than the disk can be zeroed, and when the disk is full.
            task::sleep(Duration::from_millis(1)).await;
        };
        drop(wait);
        let segment = self.open(&self.dir.place(prepared)).await?;
        self.write_to(&segment, write).await?;
        self.dir.adopt(prepared, write.segment)?;
        if let Some(founded) = self.founded.take() {
            founded().map_err(io::Error::other)?;
        }
        self.current = Some((write.segment, segment));
        Ok(())
    }

    async fn write_to(&self, segment: &Segment, write: &Write) -> io::Result<()> {
        let mut wait = Wait::new(&self.room);
        while !self.put(segment, write).await? {
            wait.goes_on(&self.dir)?;
            task::sleep(ROOM_RETRY).await;
        }
        drop(wait);
        match segment {
            Segment::Buffered(file) if self.dir.is_durable() && (write.sync || write.create) => {
                Ok(file.fdatasync().await?)
            }
            // A direct write is durable when it is done.
            _ => Ok(()),
        }
    }

    /// Writes the bytes; false when the disk has no room for all of them.
    async fn put(&self, segment: &Segment, write: &Write) -> io::Result<bool> {
        let written = match segment {
            Segment::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(write.bytes.len());
                buffer.as_bytes_mut().copy_from_slice(&write.bytes);
                file.write_at(buffer, write.offset).await
            }
            Segment::Buffered(file) => file.write_at(write.bytes.clone(), write.offset).await,
        };
        match written.map_err(io::Error::from) {
            Ok(written) => Ok(written == write.bytes.len()),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(error),
        }
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

/// A write that may have to wait for room on the disk: the log says so, again and again, and when it goes on.
struct Wait<'r> {
    room: &'r Room,
    /// When the next line is due; none as long as there was room.
    next: Option<Instant>,
}

impl<'r> Wait<'r> {
    fn new(room: &'r Room) -> Self {
        Self { room, next: None }
    }

    /// There is no room yet.
    ///
    /// # Errors
    /// When the member does not wait for room any more.
    fn goes_on(&mut self, dir: &WalDir) -> io::Result<()> {
        if self.room.is_given_up() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let now = clock::now();
        if self.next.is_none_or(|next| next <= now) {
            self.room.lacking.set(true);
            self.next = Some(now + TELL_AGAIN);
            tracing::error!(
                directory = %dir.path().display(),
                "the disk of the log is full: writes wait until there is room"
            );
        }
        Ok(())
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.room.lacking.set(false);
        if self.next.is_some() && !self.room.is_given_up() {
            tracing::info!("the disk of the log has room again: writes go on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use raft::eraftpb::{Entry, HardState};

    use super::super::clock;
    use super::super::wal_dir::tests::{name, scratch};
    use super::*;
    use crate::wal::{Appender, Metadata, recover};

    fn on_an_executor(test: impl Future<Output = ()>) {
        glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(8).make().unwrap().run(test);
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { term: 1, index, data: vec![index as u8; bytes].into(), ..Entry::default() }
    }

    /// Writes a log of three segments into `dir` and reads it back.
    fn write_and_read(path: &Path, dir: &WalDir) {
        on_an_executor(async {
            let mut file = WalFile::new(dir.clone(), Prepared::start(dir.clone()).unwrap(), None);
            let mut log = Appender::create(Metadata { node_id: 7, cluster_id: 9 });
            log.set_segment_bytes(20_000);
            let mut buffer = Vec::new();
            for index in 1..=12 {
                let state = HardState { term: 1, vote: 7, commit: index - 1 };
                let write = log.append(&[entry(index, 5_000)], Some(&state), None, buffer);
                buffer = file.write(write).await.expect("a disk with room");
            }
        });
        let names = dir.segments().unwrap();
        assert_eq!(names.len(), 3);
        let content = dir.read_after(&names, 0).unwrap();
        let segments: Vec<_> = content.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
        let read = recover(&segments, 0).unwrap();
        assert_eq!((read.last_index, read.state.commit, read.tail.torn), (12, 11, false));
        assert!(read.entries.iter().all(|e| *e == entry(e.index, 5_000)));
        let _ = fs::remove_dir_all(path);
    }

    #[test]
    fn a_log_is_written_by_segments_and_read_back() {
        let path = scratch("wal-file");
        write_and_read(&path, &WalDir::open(&path).unwrap());
    }

    #[test]
    fn a_log_that_need_not_be_durable_is_the_same() {
        let path = scratch("wal-file-buffered");
        write_and_read(&path, &WalDir::open(&path).unwrap().without_sync());
    }

    fn file_in(path: &Path) -> WalFile {
        let dir = WalDir::open(path).unwrap();
        WalFile::new(dir.clone(), Prepared::start(dir).unwrap(), None)
    }

    #[test]
    fn a_write_waits_for_room_and_is_done_again_as_a_whole() {
        let path = scratch("wal-file-full");
        on_an_executor(async {
            let mut file = file_in(&path);
            let write =
                Write { segment: name(0), create: false, offset: 0, bytes: vec![7; 4096], sync: true };
            let full = OpenOptions::new().write(true).buffered_open("/dev/full").await.unwrap();
            let full = Segment::Buffered(full);
            assert!(!file.put(&full, &write).await.unwrap());
            let soon = clock::now() + ROOM_RETRY * 3;
            let waits = async {
                assert!(task::until(soon, file.write_to(&full, &write)).await.is_none(), "it waits");
            };
            let looks = async {
                task::sleep(ROOM_RETRY).await;
                assert!(file.room.is_lacking());
            };
            futures::join!(waits, looks);
            assert!(!file.room.is_lacking(), "nothing waits");

            file.write(Write { create: true, ..write }).await.unwrap();
            assert_eq!(
                fs::read(path.join(name(0).to_string())).unwrap()[..4097],
                [&[7; 4096][..], &[0]].concat()
            );
        });
        let _ = fs::remove_dir_all(&path);
    }

    #[test]
    fn a_write_that_waits_for_room_is_given_up_when_the_member_stops() {
        let path = scratch("wal-file-given-up");
        on_an_executor(async {
            let mut file = file_in(&path);
            let write =
                Write { segment: name(0), create: false, offset: 0, bytes: vec![7; 4096], sync: true };
            let full = OpenOptions::new().write(true).buffered_open("/dev/full").await.unwrap();
            file.current = Some((name(0), Segment::Buffered(full)));
            let room = file.room();
            let stops = async {
                while !room.is_lacking() {
                    task::sleep(Duration::from_millis(1)).await;
                }
                room.give_up();
            };
            let soon = clock::now() + Duration::from_secs(10);
            let (written, ()) =
                task::until(soon, async { futures::join!(file.write(write), stops) }).await.expect("an end");
            assert_eq!(written, None);
        });
        let _ = fs::remove_dir_all(&path);
    }

    #[test]
    #[should_panic(expected = "the member stops so as not to lose what it acknowledges")]
    fn a_write_that_fails_otherwise_ends_the_member_with_what_to_do() {
        let path = scratch("wal-file-broken");
        on_an_executor(async {
            let mut file = file_in(&path);
            fs::remove_dir_all(&path).unwrap();
            let write =
                Write { segment: name(0), create: false, offset: 0, bytes: vec![7; 4096], sync: true };
            file.write(write).await;
        });
    }
}
