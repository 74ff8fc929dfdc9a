//! A log that is written in one go: a mark, what follows it, and the state.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use raft::eraftpb::{Entry, HardState};

use crate::wal::{Appender, Metadata, SnapshotMark, Write};

/// Bytes of entries in one write, about.
const BATCH_BYTES: usize = 4 << 20;

/// What a log is to say.
pub(super) struct NewLog<'e> {
    /// Whose it is.
    pub(super) metadata: Metadata,
    /// The log begins behind this; at the first entry if the index is zero. Not above the commit index.
    pub(super) mark: SnapshotMark,
    /// The entries behind the mark, without gaps.
    pub(super) entries: &'e [Entry],
    /// Term, vote and commit index.
    pub(super) state: HardState,
}

impl NewLog<'_> {
    /// Writes all of it into files of an empty folder.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut log = Appender::create(self.metadata);
        let mut files = Files { folder, open: None };
        if self.mark.index > 0 {
            // A state vouches for no entry that is not there yet.
            let commit = self.mark.index;
            let state = HardState { commit, ..self.state };
            files.write(&log.restart(&self.mark, &state, Vec::new()))?;
        }
        let mut rest = self.entries;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest));
            files.write(&log.append(batch, Some(&self.state), None, Vec::new()))?;
            rest = later;
        }
        if *log.state() != self.state {
            files.write(&log.append(&[], Some(&self.state), None, Vec::new()))?;
        }
        files.end()
    }
}

/// How many of the first entries go into one write.
fn batch_len(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        let fits = bytes < BATCH_BYTES;
        bytes += entry.data.len();
        fits
    });
    fit.count()
}

/// The segments, one of which is written to.
struct Files<'f> {
    folder: &'f Path,
    open: Option<File>,
}

impl Files<'_> {
    fn write(&mut self, write: &Write) -> io::Result<()> {
        if write.create {
            self.end()?;
            let path = self.folder.join(write.segment.to_string());
            self.open = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
        }
        let file = self.open.as_ref().ok_or_else(|| io::Error::other("a log without a segment"))?;
        file.write_all_at(&write.bytes, write.offset)
    }

    /// Makes the segment durable that was written to.
    fn end(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |file| file.sync_all())
    }
}
