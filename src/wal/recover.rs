//! Reading a log back after a stop, clean or not.
#![forbid(unsafe_code)]

use std::fmt;

use raft::eraftpb::{Entry, HardState};

use super::record::{
    Frame, Kind, Metadata, Record, SnapshotMark, decode_entry, decode_state, has_two_lengths,
    has_zero_sector, is_sector_rest_zero, read_frame,
};
use super::segment::{BLOCK_BYTES, SegmentName};
use crate::error::RECOVERY;

/// What a log says.
#[derive(Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub metadata: Metadata,
    /// The last state written.
    pub state: HardState,
    /// The entry behind which `entries` begin: the one asked for, or a later one where the log begins anew.
    pub after: u64,
    /// The entries after that one, without gaps.
    pub entries: Vec<Entry>,
    /// The last entry written, or `after` when there is none after it.
    pub last_index: u64,
    /// The term of the entry `after`; none when the segments that were read do not have that entry.
    pub term_before: Option<u64>,
    /// The store has taken in a snapshot of the leader, and the log does not say so: before anything else is written,
    /// the log has to begin anew behind the snapshot.
    pub lacks_mark: bool,
    /// The newest snapshot mark at or below the commit index.
    pub mark: SnapshotMark,
    /// Where to go on writing.
    pub tail: Tail,
}

/// The end of the last segment.
#[derive(Debug)]
pub struct Tail {
    /// The last segment.
    pub segment: SegmentName,
    /// Where its last whole record ends. Everything after it must be zeroed before the log is written again.
    pub offset: u64,
    /// The bytes from the start of the block that contains `offset` up to `offset`.
    pub block: Vec<u8>,
    /// The chain's value there.
    pub crc: u32,
    /// True when a torn record follows, which counts as never written.
    pub torn: bool,
}

/// Why a log cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum WalError {
    /// There is no segment, or none that begins early enough.
    Missing {
        /// The entry that was looked for.
        index: u64,
    },
    /// Two neighbouring segments don't follow each other.
    SegmentGap {
        /// The first of the two.
        before: SegmentName,
        /// The second of the two.
        after: SegmentName,
    },
    /// An entry leaves out some index before it.
    EntryGap {
        /// The segment it is in.
        segment: SegmentName,
        /// The index expected.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// Bytes that nobody wrote.
    Damaged {
        /// The segment.
        segment: SegmentName,
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The commit index is beyond the last entry.
    CommitLost {
        /// The commit index.
        commit: u64,
        /// The last entry.
        last: u64,
    },
}

impl WalError {
    /// What is wrong, without what is to be done.
    pub fn what(&self) -> String {
        match self {
            Self::Missing { index } => format!(
                "the write-ahead log has no segment for entry {index}, the next one that the store needs: the store \
                 file was lost or is older than the log, or segments were"
            ),
            Self::SegmentGap { before, after } => {
                format!("the write-ahead log lacks the segments between {before} and {after}")
            }
            Self::EntryGap { segment, expected, found } => {
                format!("{segment} in the write-ahead log holds entry {found} where {expected} belongs")
            }
            Self::Damaged { segment, offset, what } => {
                format!("{segment} in the write-ahead log is damaged at offset {offset} ({what})")
            }
            Self::CommitLost { commit, last } => {
                format!("the write-ahead log ends at entry {last} though entry {commit} was committed")
            }
        }
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what();
        write!(f, "{what}; nothing was changed. Set this data directory aside; {RECOVERY}")
    }
}

impl std::error::Error for WalError {}

/// Whose log a segment is of; none where its head cannot be read.
pub fn metadata(segment: &[u8]) -> Option<Metadata> {
    let mut offset = 0;
    while let Frame::Record(record) = read_frame(segment, offset) {
        if record.kind == Kind::Metadata {
            return Metadata::decode(record.data);
        }
        offset = record.end;
    }
    None
}

/// Reads the segments of a log, oldest first, for the entries after `after`.
///
/// The first segment is one that [`first_needed`](super::segment::first_needed) chose; the last is the one to go on
/// writing to. Each is read to its end: a torn record at the end of the last one is dropped, and damage is refused.
pub fn recover(segments: &[(SegmentName, &[u8])], after: u64) -> Result<Recovered, WalError> {
    read(segments, after, None)
}

/// Reads a log for a store that has taken in the snapshot of a leader, `snapshot` being index and term of the last
/// entry in it, and has applied nothing since. The process may have ended before the log said so: then no entry of the
/// log counts.
///
/// # Errors
/// As [`recover`].
pub fn recover_behind(
    segments: &[(SegmentName, &[u8])],
    snapshot: (u64, u64),
) -> Result<Recovered, WalError> {
    read(segments, snapshot.0, Some(snapshot))
}

fn read(
    segments: &[(SegmentName, &[u8])],
    after: u64,
    snapshot: Option<(u64, u64)>,
) -> Result<Recovered, WalError> {
    let names: Vec<SegmentName> = segments.iter().map(|&(name, _)| name).collect();
    match names.first() {
        Some(first) if first.index <= after + 1 => {}
        _ => return Err(WalError::Missing { index: after + 1 }),
    }
    for pair in names.windows(2) {
        if pair[1].sequence != pair[0].sequence + 1 {
            return Err(WalError::SegmentGap { before: pair[0], after: pair[1] });
        }
    }

    let mut reader = Reader::new(after, names[0].index.saturating_sub(1));
    let mut offset = 0;
    let mut torn = false;
    for (i, &(name, bytes)) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        (offset, torn) = reader.segment(name, bytes, is_last)?;
    }

    let lacks_mark = snapshot.is_some_and(|(index, term)| reader.begin_anew(index, term));
    let (segment, bytes) = *segments.last().expect("at least one segment, as checked above");
    let after = reader.after;
    let last_index = reader.entries.last().map_or(after, |entry| entry.index);
    let commit = reader.state.commit;
    let marked = reader.marks.iter().map(|mark| mark.index).max().unwrap_or(0);
    let reach = reader.seen_index.max(marked);
    if commit.max(after) > reach {
        return Err(WalError::CommitLost { commit: commit.max(after), last: reach });
    }
    let block_start = offset / BLOCK_BYTES * BLOCK_BYTES;
    let metadata =
        reader.metadata.ok_or(WalError::Damaged { segment: names[0], offset: 0, what: "it is empty" })?;
    Ok(Recovered {
        metadata,
        mark: reader.marks.into_iter().rfind(|mark| mark.index <= commit).unwrap_or_default(),
        state: reader.state,
        entries: reader.entries,
        after,
        term_before: reader.term_before,
        lacks_mark,
        last_index,
        tail: Tail {
            segment,
            offset: offset as u64,
            block: bytes[block_start..offset].to_vec(),
            crc: reader.crc,
            torn,
        },
    })
}

struct Reader {
    /// The entry behind which entries are kept: the one asked for, or a later one behind which the log begins anew.
    after: u64,
    crc: u32,
    /// False until the first crc record: a chain may be picked up at any segment.
    chained: bool,
    metadata: Option<Metadata>,
    state: HardState,
    /// Entries `after + 1 ..`, without gaps.
    entries: Vec<Entry>,
    /// The term of the entry `after`, once it was met.
    term_before: Option<u64>,
    /// The index of the last entry met, asked for or not.
    seen_index: u64,
    marks: Vec<SnapshotMark>,
}

impl Reader {
    fn new(after: u64, seen_index: u64) -> Self {
        Self {
            after,
            crc: 0,
            chained: false,
            metadata: None,
            state: HardState::default(),
            entries: Vec::new(),
            term_before: None,
            seen_index,
            marks: Vec::new(),
        }
    }

    /// Reads one segment; answers where its last whole record ends and whether a torn one follows.
    fn segment(&mut self, name: SegmentName, bytes: &[u8], is_last: bool) -> Result<(usize, bool), WalError> {
        let mut offset = 0;
        loop {
            let damaged = |what| WalError::Damaged { segment: name, offset: offset as u64, what };
            let (what, end) = match read_frame(bytes, offset) {
                // Segments are filled with zeros before use, so nothing follows the end in its sector: a length that
                // reads as zero there has rotted.
                Frame::End if is_sector_rest_zero(bytes, offset) => return Ok((offset, false)),
                Frame::End => return Err(damaged("its length is zero")),
                Frame::Record(record) if self.link(&record) => {
                    self.record(name, offset, &record)?;
                    offset = record.end;
                    continue;
                }
                // Where both lengths stand in one sector, a torn write has both or neither.
                _ if has_two_lengths(bytes, offset) => return Err(damaged("its two lengths differ")),
                Frame::Record(record) => ("its checksum does not match", record.end),
                Frame::Garbled { end } => ("it is no record", end),
                Frame::Cut if is_last => return Ok((offset, true)),
                Frame::Cut => return Err(damaged("it runs past the end of the file")),
                Frame::BadLength => return Err(damaged("its length is impossible")),
            };
            // Only the last record of the log can be torn, and a torn one shows a sector that was never written.
            let start = offset + super::record::FRAME_BYTES;
            if !is_last || !has_zero_sector(bytes, start, end) {
                return Err(damaged(what));
            }
            if self.was_committed(bytes, offset) {
                return Err(damaged("a sector of zeros in an entry that was committed"));
            }
            return Ok((offset, true));
        }
    }

    /// Moves the chain on over `record`; false when it doesn't fit.
    fn link(&mut self, record: &Record<'_>) -> bool {
        if record.kind == Kind::Crc {
            let fits = !self.chained || record.crc == self.crc;
            if fits {
                self.crc = record.crc;
                self.chained = true;
            }
            return fits;
        }
        let next = crc32c::crc32c_append(self.crc, record.data);
        let fits = self.chained && next == record.crc;
        if fits {
            self.crc = next;
        }
        fits
    }

    fn record(&mut self, name: SegmentName, offset: usize, record: &Record<'_>) -> Result<(), WalError> {
        let damaged = |what| WalError::Damaged { segment: name, offset: offset as u64, what };
        match record.kind {
            Kind::Crc => {}
            Kind::Metadata => {
                let metadata = Metadata::decode(record.data).ok_or(damaged("its metadata cannot be read"))?;
                if *self.metadata.get_or_insert(metadata) != metadata {
                    return Err(damaged("it belongs to another member or cluster"));
                }
            }
            Kind::State => {
                let state = decode_state(record.data).ok_or(damaged("its state cannot be read"))?;
                if state.term < self.state.term || state.commit < self.state.commit {
                    return Err(damaged("its state goes back"));
                }
                self.state = state;
            }
            Kind::Snapshot => {
                let mark = SnapshotMark::decode(record.data).ok_or(damaged("its mark cannot be read"))?;
                self.begin_anew(mark.index, mark.term);
                self.marks.push(mark);
            }
            Kind::Entry => {
                let entry = decode_entry(record.data).ok_or(damaged("its entry cannot be read"))?;
                self.entry(name, entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, segment: SegmentName, entry: Entry) -> Result<(), WalError> {
        self.seen_index = entry.index;
        if entry.index <= self.after {
            if entry.index == self.after {
                self.term_before = Some(entry.term);
            }
            self.entries.clear();
            return Ok(());
        }
        let expected = self.after + 1 + self.entries.len() as u64;
        if entry.index > expected {
            return Err(WalError::EntryGap { segment, expected, found: entry.index });
        }
        self.entries.truncate((entry.index - self.after - 1) as usize);
        self.entries.push(entry);
        Ok(())
    }

    /// The store has everything up to the entry `index` of that term. Where the entries so far do not lead there, it is
    /// from a snapshot of the leader, and they count no more. True then.
    fn begin_anew(&mut self, index: u64, term: u64) -> bool {
        let known = match index.checked_sub(self.after) {
            None => None,
            Some(0) => self.term_before,
            Some(at) => self.entries.get(at as usize - 1).map(|entry| entry.term),
        };
        let leads_there = index <= self.seen_index && known.is_none_or(|known| known == term);
        if !leads_there {
            self.entries.clear();
            self.seen_index = index;
            if index >= self.after {
                (self.after, self.term_before) = (index, Some(term));
            }
        }
        !leads_there
    }

    /// True when what follows the broken record at `offset` still chains on to it and names a commit index that
    /// covers it. A write is followed by such a state only once it was durable, so the record was not torn: it has
    /// been damaged since.
    fn was_committed(&self, bytes: &[u8], offset: usize) -> bool {
        let Frame::Record(broken) = read_frame(bytes, offset) else { return false };
        let index = self.entries.last().map_or(self.after.max(self.seen_index), |entry| entry.index) + 1;
        let (mut at, mut crc) = (broken.end, broken.crc);
        while let Frame::Record(record) = read_frame(bytes, at) {
            let next = crc32c::crc32c_append(crc, record.data);
            if next != record.crc {
                return false;
            }
            let state = if record.kind == Kind::State { decode_state(record.data) } else { None };
            if state.is_some_and(|state| state.commit >= index) {
                return true;
            }
            (at, crc) = (record.end, next);
        }
        false
    }
}
