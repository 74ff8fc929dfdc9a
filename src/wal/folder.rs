//! The files of a log, and how a segment gets its name.
//!
//! A segment begins as a file that reads as zeros ([`prepare`](super::prepare)). The head of the segment is written
//! into that file and made durable; then the file is renamed and the names are made durable ([`adopt`]). So a segment
//! that has a name has its head, and a log write counts as done only where the segment is found again.
//!
//! What is done to names and not made durable may be lost in a power cut, in any order. Only the name of a segment that
//! is in use is waited for. A deletion that a power cut takes back costs nothing: recovery does not read a segment that
//! is not needed, and the next release deletes the segment again, also where it was filled with zeros meanwhile.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::segment::SegmentName;

/// A file in the directory of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFile {
    /// A segment.
    Segment(SegmentName),
    /// A file that is to become a segment: it reads as zeros, or is being made to.
    Next(u32),
    /// A segment that nothing needs, kept to be filled with zeros.
    Spare,
    /// A copy of the torn end of a segment, as evidence.
    Torn(SegmentName),
}

impl LogFile {
    /// Reads a file name; none for anything that is not a file of a log.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(name) = name.strip_suffix(".broken") {
            return SegmentName::parse(name).map(Self::Torn);
        }
        match name.strip_suffix(".tmp") {
            Some("spare") => Some(Self::Spare),
            Some(number) => number.parse().ok().map(Self::Next),
            None => SegmentName::parse(name).map(Self::Segment),
        }
    }

    /// Whether it is of no use to another process than the one that has made it.
    fn is_temporary(self) -> bool {
        matches!(self, Self::Next(_) | Self::Spare)
    }
}

impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "{name}"),
            Self::Next(number) => write!(f, "{number}.tmp"),
            Self::Spare => f.write_str("spare.tmp"),
            Self::Torn(name) => write!(f, "{name}.broken"),
        }
    }
}

/// The directory of a log: the server's, or a simulated one. Each call that changes something may fail for want of
/// room.
pub trait Folder {
    /// An open file of it.
    type File: Content;

    /// The files there are, in no particular order.
    ///
    /// # Errors
    /// What the filesystem answers; so it is with every call.
    fn files(&self) -> io::Result<Vec<LogFile>>;

    /// Opens a file for reading and writing; one that is not there is made if `create` says so.
    ///
    /// # Errors
    /// See [`Folder::files`].
    fn open(&self, file: LogFile, create: bool) -> io::Result<Self::File>;

    /// Gives a file another name. A file that had the name is gone.
    ///
    /// # Errors
    /// See [`Folder::files`].
    fn rename(&self, from: LogFile, to: LogFile) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// See [`Folder::files`].
    fn remove(&self, file: LogFile) -> io::Result<()>;

    /// Makes durable which files there are and what they are called.
    ///
    /// # Errors
    /// See [`Folder::files`].
    fn sync(&self) -> io::Result<()>;
}

/// What is in one file.
pub trait Content {
    /// Bytes in it.
    ///
    /// # Errors
    /// What the filesystem answers; so it is with every call.
    fn length(&self) -> io::Result<u64>;

    /// Reads as many bytes as `into` has room for.
    ///
    /// # Errors
    /// See [`Content::length`].
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all the bytes.
    ///
    /// # Errors
    /// See [`Content::length`].
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Finds blocks for `bytes` bytes from `from` on, which read as zeros where there were none. False where the
    /// filesystem cannot do that.
    ///
    /// # Errors
    /// See [`Content::length`].
    fn allocate(&self, from: u64, bytes: u64) -> io::Result<bool>;

    /// Cuts the file off, or makes it longer by bytes that read as zeros.
    ///
    /// # Errors
    /// See [`Content::length`].
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// See [`Content::length`].
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error says that there is no room, which may change by itself.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The segments there are, in order.
///
/// # Errors
/// What the filesystem answers.
pub fn segments(folder: &impl Folder) -> io::Result<Vec<SegmentName>> {
    let segment = |file| if let LogFile::Segment(name) = file { Some(name) } else { None };
    let mut names: Vec<SegmentName> = folder.files()?.into_iter().filter_map(segment).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes what the process before has left half made.
///
/// # Errors
/// What the filesystem answers.
pub fn clean(folder: &impl Folder) -> io::Result<()> {
    folder.files()?.into_iter().filter(|file| file.is_temporary()).try_for_each(|file| folder.remove(file))
}

/// Gives a prepared file, whose head is durable, the name of its segment, and makes that durable.
///
/// # Errors
/// What the filesystem answers.
pub fn adopt(folder: &impl Folder, prepared: LogFile, name: SegmentName) -> io::Result<()> {
    folder.rename(prepared, LogFile::Segment(name))?;
    folder.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_both_ways_and_strangers_are_left_alone() {
        let name = SegmentName { sequence: 10, index: 0x2f3a };
        for file in [LogFile::Segment(name), LogFile::Next(1), LogFile::Spare, LogFile::Torn(name)] {
            assert_eq!(LogFile::parse(&file.to_string()), Some(file));
        }
        for stranger in ["notes.txt", "x.tmp", "x.broken", "000000000000000a-0000000000002f3a.wal.tmp"] {
            assert_eq!(LogFile::parse(stranger), None, "{stranger}");
        }
    }
}
