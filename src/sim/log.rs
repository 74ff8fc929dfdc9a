//! Reading the log without the code that writes it.
//!
//! The simulator looks at every log write on its way to the disk and at what a crash left of it. Frames are parsed
//! as the format's description has them; checksums are computed here. Anything odd is simply the end.
#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::Message;

use kevel::proto::etcdserverpb::InternalRaftRequest;
use kevel::wal::SegmentName;

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Raft index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// The command; none for entries that raft makes for itself.
    pub request: Option<InternalRaftRequest>,
    /// It changes the members.
    pub changes_members: bool,
    /// The payload as written.
    pub data: Bytes,
}

const TYPE_ENTRY: u64 = 2;
const TYPE_STATE: u64 = 3;
const TYPE_CRC: u64 = 4;
const TYPE_MARK: u64 = 5;

/// A protobuf message in pieces: field number, then a varint or bytes.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, u64, &[u8])>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => out.push((key >> 3, varint(&mut bytes)?, &[][..])),
            2 => {
                let len = varint(&mut bytes)? as usize;
                let (now, later) = bytes.split_at_checked(len)?;
                out.push((key >> 3, 0, now));
                bytes = later;
            }
            _ => return None,
        }
    }
    Some(out)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, later) = bytes.split_first()?;
        *bytes = later;
        value |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// What a log says so far.
#[derive(Clone, Debug, Default)]
pub struct LogReader {
    /// The entries, without gaps. One whose index was there already has replaced that one and those after it.
    pub entries: Vec<LogEntry>,
    /// Those that were replaced, in the order of their replacement.
    pub overwritten: Vec<LogEntry>,
    /// The newest entry that a mark says to be in the store for good.
    pub marked: u64,
    /// Who votes and who learns, as that mark says.
    pub marked_members: (Vec<u64>, Vec<u64>),
    /// The segment being read says what term it is, and so on.
    pub has_state: bool,
    /// Term, vote and commit index, as they were written last.
    pub state: (u64, u64, u64),
    /// The segment being read, as far as it was written.
    image: Vec<u8>,
    /// Where the next record begins.
    at: usize,
    /// The chain's value there.
    crc: u32,
    segments: usize,
}

impl LogReader {
    /// Reads segments, oldest first, up to the first byte that makes no sense.
    pub fn read(segments: &[(SegmentName, Vec<u8>)]) -> Self {
        let mut reader = Self::default();
        for (_, bytes) in segments {
            reader.write(true, 0, bytes);
        }
        reader
    }

    /// Takes note of a write. Returns the entries in it, in the order of writing.
    pub fn write(&mut self, create: bool, offset: usize, bytes: &[u8]) -> Vec<LogEntry> {
        let mut written = vec![];
        if create {
            self.image.clear();
            self.at = 0;
            self.has_state = false;
            self.segments += 1;
        }
        if self.image.len() < offset + bytes.len() {
            self.image.resize(offset + bytes.len(), 0);
        }
        self.image[offset..offset + bytes.len()].copy_from_slice(bytes);
        let image = std::mem::take(&mut self.image);
        while let Some(behind) = frame(&image, self.at).and_then(|(record, behind)| {
            written.extend(self.record(record)?);
            Some(behind)
        }) {
            self.at = behind;
        }
        self.image = image;
        written
    }

    /// Takes note of a record, and returns the entry in it. None if the record does not belong there.
    fn record(&mut self, record: &[u8]) -> Option<Option<LogEntry>> {
        let fields = fields(record)?;
        let number_of = |field| fields.iter().find(|f| f.0 == field).map_or(0, |f| f.1);
        let data = fields.iter().find(|f| f.0 == 3).map_or(&[][..], |f| f.2);
        let stated = number_of(2) as u32;
        if number_of(1) == TYPE_CRC {
            // The chain of a log whose beginning was released starts anywhere.
            if self.segments > 1 && self.crc != stated {
                return None;
            }
            self.crc = stated;
            return Some(None);
        }
        let crc = crc32c::crc32c_append(self.crc, data);
        if crc != stated {
            return None;
        }
        self.crc = crc;
        if number_of(1) == TYPE_ENTRY {
            let entry = entry(data)?;
            let kept = self.entries.partition_point(|before| before.index < entry.index);
            self.overwritten.extend(self.entries.drain(kept..));
            self.entries.push(entry.clone());
            return Some(Some(entry));
        }
        if number_of(1) == TYPE_STATE {
            let fields = self::fields(data)?;
            let number_of = |field| fields.iter().find(|f| f.0 == field).map_or(0, |f| f.1);
            self.state = (number_of(1), number_of(2), number_of(3));
            self.has_state = true;
        }
        if number_of(1) == TYPE_MARK {
            let fields = self::fields(data)?;
            let index = fields.iter().find(|field| field.0 == 1).map_or(0, |field| field.1);
            let members =
                self::fields(fields.iter().find(|field| field.0 == 3).map_or(&[], |field| field.2))?;
            if index >= self.marked {
                let all =
                    |kind| members.iter().filter(|field| field.0 == kind).map(|field| field.1).collect();
                (self.marked, self.marked_members) = (index, (all(1), all(2)));
            }
        }
        Some(None)
    }
}

/// The record at `at`, and what is behind it.
fn frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
    let len = (head & 0x00FF_FFFF_FFFF_FFFF) as usize;
    if len == 0 {
        return None;
    }
    let pad = if head >> 63 == 1 { (head >> 56 & 7) as usize } else { 0 };
    let record = bytes.get(at + 8..(at + 8).checked_add(len)?)?;
    Some((record, at + 8 + len + pad))
}

fn entry(data: &[u8]) -> Option<LogEntry> {
    let fields = fields(data)?;
    let number_of = |field| fields.iter().find(|f| f.0 == field).map_or(0, |f| f.1);
    let data = fields.iter().find(|f| f.0 == 4).map_or(&[][..], |f| f.2);
    let changes_members = number_of(1) != 0;
    let normal = !changes_members && !data.is_empty();
    let request = if normal { Some(InternalRaftRequest::decode(data).ok()?) } else { None };
    let data = Bytes::copy_from_slice(data);
    Some(LogEntry { index: number_of(3), term: number_of(2), request, changes_members, data })
}
