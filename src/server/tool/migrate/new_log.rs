//! A log that is written in one go: a mark, what follows it, and the state.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use raft::eraftpb::{ConfState, Entry, HardState};

use super::super::Failed;
use super::super::restore::failed;
use super::staging::Staging;
use crate::btree::Applied;
use crate::wal::{Appender, Metadata, Recovered, SnapshotMark, Write};

/// Bytes of entries in one write, about.
const BATCH_BYTES: usize = 4 << 20;

/// Writes the log of a store that has the entries up to those of `applied`, from what other members may need on.
pub(super) fn write_log(
    staging: &Staging,
    recovered: &Recovered,
    applied: Applied,
    conf_state: ConfState,
) -> Result<(), Failed> {
    let state = state_behind(recovered.state, applied);
    let folder = staging.folder("wal")?;
    let (mark, entries) = beginning(recovered, applied);
    // Changes of members between the mark and here are in the log too, and do nothing the second time.
    let mark = SnapshotMark { conf_state: Some(conf_state), ..mark };
    let log = NewLog { metadata: recovered.metadata, mark, entries, state };
    log.write(&folder).map_err(|error| failed("write the log in", folder.display(), error))
}

/// Term, vote and commit index of a member whose store has `applied`.
fn state_behind(logged: HardState, applied: Applied) -> HardState {
    let commit = logged.commit.max(applied.index);
    match applied.term > logged.term {
        // A term that the log does not know is that of a snapshot, and nobody has this member's vote in it.
        true => HardState { term: applied.term, vote: 0, commit },
        false => HardState { commit, ..logged },
    }
}

/// Behind what a new log begins, and what is in it: all that was read, or what the store lacks where the term of the
/// entry before is not known.
fn beginning(recovered: &Recovered, applied: Applied) -> (SnapshotMark, &[Entry]) {
    let mark = |index, term| SnapshotMark { index, term, conf_state: None };
    match recovered.term_before {
        _ if recovered.after == 0 => (mark(0, 0), &recovered.entries),
        Some(term) => (mark(recovered.after, term), &recovered.entries),
        None => {
            let first = recovered.entries.partition_point(|entry| entry.index <= applied.index);
            (mark(applied.index, applied.term), &recovered.entries[first..])
        }
    }
}

/// What a log is to say.
struct NewLog<'e> {
    /// Whose it is.
    metadata: Metadata,
    /// The log begins behind this; at the first entry if the index is zero. Not above the commit index.
    mark: SnapshotMark,
    /// The entries behind the mark, without gaps.
    entries: &'e [Entry],
    /// Term, vote and commit index.
    state: HardState,
}

impl NewLog<'_> {
    /// Writes all of it into files of an empty folder.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn write(&self, folder: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_of_the_term_in_which_it_was_given() {
        let logged = HardState { term: 4, vote: 7, commit: 9 };
        let state = |index, term| state_behind(logged, Applied { index, term, ..Applied::default() });
        assert_eq!(state(8, 4), logged);
        assert_eq!(state(11, 3), HardState { commit: 11, ..logged });
        assert_eq!(state(11, 5), HardState { term: 5, vote: 0, commit: 11 });
    }
}
