//! Frames and records: bytes of the log, in both directions.
#![forbid(unsafe_code)]

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use super::segment::SECTOR_BYTES;

/// Bytes of the length field before each record.
pub const FRAME_BYTES: usize = 8;

/// No record is longer: an entry holds one request, and the request limit is far below.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

/// What a record's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Metadata`].
    Metadata = 1,
    /// An entry of the raft log.
    Entry = 2,
    /// A hard state.
    State = 3,
    /// The chain's value at this place; no data.
    Crc = 4,
    /// A [`SnapshotMark`].
    Snapshot = 5,
}

impl Kind {
    fn from_number(number: u64) -> Option<Self> {
        [Kind::Metadata, Kind::Entry, Kind::State, Kind::Crc, Kind::Snapshot]
            .into_iter()
            .find(|&kind| kind as u64 == number)
    }
}

/// Whose log this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Id of the member.
    pub node_id: u64,
    /// Id of the cluster.
    pub cluster_id: u64,
}

/// Up to where the state machine was durable outside the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotMark {
    /// The last entry it covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The configuration as of that entry; none in the mark that begins a log.
    pub conf_state: Option<ConfState>,
}

/// A small protobuf message built in place: all that records contain, but for the bytes of a request.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    fn number(mut self, field: u8, value: u64) -> Self {
        self.bytes.push(field << 3);
        put_varint(&mut self.bytes, value);
        self
    }

    fn part(mut self, field: u8, part: &[u8]) -> Self {
        self.bytes.push(field << 3 | 2);
        put_varint(&mut self.bytes, part.len() as u64);
        self.bytes.extend_from_slice(part);
        self
    }
}

impl Metadata {
    /// The record's data.
    pub fn encode(&self) -> Vec<u8> {
        Fields::default().number(1, self.node_id).number(2, self.cluster_id).bytes
    }

    /// Reads a record's data.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut metadata = Self::default();
        for field in FieldReader(data) {
            match field? {
                (1, Field::Number(id)) => metadata.node_id = id,
                (2, Field::Number(id)) => metadata.cluster_id = id,
                _ => {}
            }
        }
        Some(metadata)
    }
}

impl SnapshotMark {
    /// The record's data.
    pub fn encode(&self) -> Vec<u8> {
        let fields = Fields::default().number(1, self.index).number(2, self.term);
        match &self.conf_state {
            None => fields.bytes,
            Some(state) => fields.part(3, &encode_conf_state(state)).bytes,
        }
    }

    /// Reads a record's data.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut mark = Self::default();
        for field in FieldReader(data) {
            match field? {
                (1, Field::Number(index)) => mark.index = index,
                (2, Field::Number(term)) => mark.term = term,
                (3, Field::Part(part)) => mark.conf_state = Some(prost::Message::decode(part).ok()?),
                _ => {}
            }
        }
        Some(mark)
    }
}

/// Lists are written one field per element and the flag always, as etcd's encoder does.
fn encode_conf_state(state: &ConfState) -> Vec<u8> {
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    let mut fields = Fields::default();
    for (list, field) in lists.into_iter().zip(1..) {
        for &id in list {
            fields = fields.number(field, id);
        }
    }
    fields.number(5, u64::from(state.auto_leave)).bytes
}

/// The data of a state record.
pub fn encode_state(state: &HardState) -> Vec<u8> {
    Fields::default().number(1, state.term).number(2, state.vote).number(3, state.commit).bytes
}

/// Reads the data of a state record. What a state is not written as is none: no checksum covers the kind of a record.
pub fn decode_state(data: &[u8]) -> Option<HardState> {
    let state = prost::Message::decode(data).ok()?;
    (encode_state(&state) == data).then_some(state)
}

/// Reads the data of an entry record. The request's bytes are copied, so that no entry keeps a whole segment alive.
/// A change of configuration without content is none: a state reads like one, and no checksum covers the kind of a
/// record.
pub fn decode_entry(data: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    for field in FieldReader(data) {
        match field? {
            (1, Field::Number(kind)) => {
                entry.set_entry_type(EntryType::try_from(i32::try_from(kind).ok()?).ok()?);
            }
            (2, Field::Number(term)) => entry.term = term,
            (3, Field::Number(index)) => entry.index = index,
            (4, Field::Part(part)) => entry.data = Bytes::copy_from_slice(part),
            _ => {}
        }
    }
    (entry.entry_type() == EntryType::EntryNormal || !entry.data.is_empty()).then_some(entry)
}

/// Appends a framed record and moves the chain on.
pub fn put_record(out: &mut Vec<u8>, crc: &mut u32, kind: Kind, data: &[u8]) {
    put_framed(out, crc, kind, data, &[]);
}

/// Appends an entry's record; the request's bytes are copied and summed once.
pub fn put_entry(out: &mut Vec<u8>, crc: &mut u32, entry: &Entry) {
    debug_assert!(entry.context.is_empty(), "the log has no place for an entry's context");
    let mut head = [0; 40];
    let mut length = 0;
    for (tag, value) in [(0x08, entry.entry_type as u64), (0x10, entry.term), (0x18, entry.index)] {
        head[length] = tag;
        length += 1 + set_varint(&mut head[length + 1..], value);
    }
    if !entry.data.is_empty() {
        head[length] = 0x22;
        length += 1 + set_varint(&mut head[length + 1..], entry.data.len() as u64);
    }
    put_framed(out, crc, Kind::Entry, &head[..length], &entry.data);
}

fn put_framed(out: &mut Vec<u8>, crc: &mut u32, kind: Kind, head: &[u8], body: &[u8]) {
    *crc = crc32c::crc32c_append(*crc, head);
    *crc = crc32c::crc32c_append(*crc, body);
    let data_bytes = head.len() + body.len();
    // Only a crc record has no data field at all.
    let data_field = if kind == Kind::Crc { 0 } else { 1 + varint_bytes(data_bytes as u64) + data_bytes };
    let record_bytes = 2 + 1 + varint_bytes(u64::from(*crc)) + data_field;
    assert!(
        record_bytes <= RECORD_BYTES_MAX,
        "a record of {record_bytes} bytes: the request limit is far below"
    );
    let pad = record_bytes.next_multiple_of(8) - record_bytes;

    let mut field = record_bytes as u64;
    if pad > 0 {
        field |= (0x80 | pad as u64) << 56;
    }
    out.reserve(FRAME_BYTES + record_bytes + pad);
    out.extend_from_slice(&field.to_le_bytes());
    out.extend_from_slice(&[0x08, kind as u8, 0x10]);
    put_varint(out, u64::from(*crc));
    if kind != Kind::Crc {
        out.push(0x1a);
        put_varint(out, data_bytes as u64);
        out.extend_from_slice(head);
        out.extend_from_slice(body);
    }
    out.extend_from_slice(&[0; 8][..pad]);
}

/// A record as it lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the data is.
    pub kind: Kind,
    /// The chain's value after this record.
    pub crc: u32,
    /// The data; empty in a crc record.
    pub data: &'a [u8],
    /// Where the next frame begins.
    pub end: usize,
}

/// What lies at an offset of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A length of zero, or the end of the file.
    End,
    /// A record whose framing and protobuf are sound; its crc is not checked yet.
    Record(Record<'a>),
    /// A frame that runs past the end of the file, and past nothing else.
    Cut,
    /// A frame whose bytes are no record; `end` is where the next frame would begin.
    Garbled {
        /// Where the next frame would begin.
        end: usize,
    },
    /// A length that nobody wrote.
    BadLength,
}

/// Reads the frame at `offset` of `segment`.
pub fn read_frame(segment: &[u8], offset: usize) -> Frame<'_> {
    let Some(field) = segment.get(offset..offset + FRAME_BYTES) else {
        let rest = segment.get(offset..).unwrap_or_default();
        return if rest.iter().all(|&b| b == 0) { Frame::End } else { Frame::Cut };
    };
    let field = u64::from_le_bytes(field.try_into().expect("eight bytes"));
    if field == 0 {
        return Frame::End;
    }
    let record_bytes = (field & !(0xff << 56)) as usize;
    let top = (field >> 56) as usize;
    let pad = top & 7;
    let sound = matches!(top, 0 | 0x81..=0x87) && (record_bytes + pad).is_multiple_of(8);
    if !sound || record_bytes == 0 || record_bytes > RECORD_BYTES_MAX {
        return Frame::BadLength;
    }
    let start = offset + FRAME_BYTES;
    let end = start + record_bytes + pad;
    let Some(bytes) = segment.get(start..end) else { return Frame::Cut };
    match read_record(&bytes[..record_bytes], end) {
        Some(record) => Frame::Record(record),
        None => Frame::Garbled { end },
    }
}

fn read_record(bytes: &[u8], end: usize) -> Option<Record<'_>> {
    let (mut kind, mut crc, mut data) = (None, 0, &[][..]);
    for field in FieldReader(bytes) {
        match field? {
            (1, Field::Number(number)) => kind = Kind::from_number(number),
            (2, Field::Number(number)) => crc = u32::try_from(number).ok()?,
            (3, Field::Part(part)) => data = part,
            _ => {}
        }
    }
    Some(Record { kind: kind?, crc, data, end })
}

/// True when some sector of `segment[start..end]` is all zero: the mark of a write that a crash cut off, since
/// segments are zero-filled before use.
pub fn has_zero_sector(segment: &[u8], start: usize, end: usize) -> bool {
    let end = end.min(segment.len());
    let mut at = start;
    while at < end {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if segment[at..next].iter().all(|&b| b == 0) {
            return true;
        }
        at = next;
    }
    false
}

/// True when the record at `offset` begins like one, and its fields add up to another length than its frame states.
/// Looks no further than the next sector, and there only if it is not all zero: then it has been written too.
pub fn has_two_lengths(segment: &[u8], offset: usize) -> bool {
    let Some(field) = segment.get(offset..offset + FRAME_BYTES) else { return false };
    let stated = u64::from_le_bytes(field.try_into().expect("eight bytes")) & !(0xff << 56);
    let sector_end = ((offset / SECTOR_BYTES + 1) * SECTOR_BYTES).min(segment.len());
    let next_end = (sector_end + SECTOR_BYTES).min(segment.len());
    let end = if is_sector_rest_zero(segment, sector_end) { sector_end } else { next_end };
    let rest = &segment[(offset + FRAME_BYTES).min(end)..end];
    inner_len(rest).is_some_and(|inner| inner != stated)
}

/// What the fields of a record add up to, by its start: type and crc, then the length of its data.
fn inner_len(record: &[u8]) -> Option<u64> {
    let mut rest = FieldReader(record);
    let mut number = |tag: u64| (rest.varint()? == tag).then(|| rest.varint())?;
    let kind = number(0x08)?;
    number(0x10)?;
    let data = if kind == Kind::Crc as u64 { 0 } else { number(0x1A)? };
    Some((record.len() - rest.0.len()) as u64 + data)
}

/// True when everything from `offset` to the end of its sector is zero, as it is behind the end of a log.
pub fn is_sector_rest_zero(segment: &[u8], offset: usize) -> bool {
    let end = ((offset / SECTOR_BYTES + 1) * SECTOR_BYTES).min(segment.len());
    segment[offset.min(end)..end].iter().all(|&b| b == 0)
}

enum Field<'a> {
    Number(u64),
    Part(&'a [u8]),
}

/// The fields of a protobuf message in order; `None` as an item where the bytes are no message.
struct FieldReader<'a>(&'a [u8]);

impl<'a> Iterator for FieldReader<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_none() {
            self.0 = &[];
        }
        Some(item)
    }
}

impl<'a> FieldReader<'a> {
    fn read(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Part(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Field::Part(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Field::Part(self.take(4)?),
            _ => return None,
        };
        Some((number, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; 10];
    let length = set_varint(&mut bytes, value);
    out.extend_from_slice(&bytes[..length]);
}

fn set_varint(out: &mut [u8], mut value: u64) -> usize {
    let mut length = 0;
    while value >= 0x80 {
        out[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    out[length] = value as u8;
    length + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_framed_byte_for_byte_as_etcd_frames_it() {
        let (mut out, mut crc) = (Vec::new(), 0);
        let entry = Entry { term: 1, index: 2, data: "abc".into(), ..Entry::default() };
        put_entry(&mut out, &mut crc, &entry);
        let data = [0x08, 0, 0x10, 1, 0x18, 2, 0x22, 3, b'a', b'b', b'c'];
        assert_eq!(crc, crc32c::crc32c(&data));
        let mut crc_field = Vec::new();
        put_varint(&mut crc_field, u64::from(crc));
        let record = [&[0x08, 2, 0x10][..], &crc_field, &[0x1a, 11], &data].concat();
        let pad = record.len().next_multiple_of(8) - record.len();
        assert_eq!(out[0] as usize, record.len());
        assert_eq!(out[7] as usize, if pad == 0 { 0 } else { 0x80 | pad });
        assert_eq!(&out[8..8 + record.len()], record);
        assert_eq!(out.len(), 8 + record.len() + pad);
        let Frame::Record(read) = read_frame(&out, 0) else { panic!("a record") };
        assert_eq!((read.kind, read.crc, read.end), (Kind::Entry, crc, out.len()));
        assert_eq!(decode_entry(read.data), Some(entry));
    }

    #[test]
    fn every_small_message_reads_back() {
        let metadata = Metadata { node_id: u64::MAX, cluster_id: 0 };
        assert_eq!(metadata.encode().len(), 11 + 2);
        assert_eq!(Metadata::decode(&metadata.encode()), Some(metadata));
        let conf_state = ConfState { voters: vec![1, 300], learners: vec![7], ..ConfState::default() };
        let mark = SnapshotMark { index: 5, term: 2, conf_state: Some(conf_state) };
        assert_eq!(SnapshotMark::decode(&mark.encode()), Some(mark));
        assert_eq!(SnapshotMark::default().encode(), [8, 0, 0x10, 0]);
        let state = HardState { term: 3, vote: 0, commit: 8 };
        assert_eq!(encode_state(&state), [8, 3, 0x10, 0, 0x18, 8]);
        assert_eq!(decode_state(&encode_state(&state)), Some(state));
    }

    #[test]
    fn varints_are_measured_as_they_are_written() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value));
            assert_eq!(FieldReader(&out).varint(), Some(value));
        }
    }

    #[test]
    fn lengths_that_nobody_wrote_are_told_from_cut_frames() {
        let field = |n: u64| n.to_le_bytes().to_vec();
        assert_eq!(read_frame(&[], 0), Frame::End);
        assert_eq!(read_frame(&[0; 5], 0), Frame::End);
        assert_eq!(read_frame(&field(0), 0), Frame::End);
        assert_eq!(read_frame(&field(16), 0), Frame::Cut);
        assert_eq!(read_frame(&field(17), 0), Frame::BadLength);
        assert_eq!(read_frame(&field(16 | 0x40 << 56), 0), Frame::BadLength);
        assert_eq!(read_frame(&field(1 << 40), 0), Frame::BadLength);
    }

    #[test]
    fn zero_sectors_are_found_where_sectors_are() {
        let mut segment = vec![1; 4 * SECTOR_BYTES];
        segment[600..1024].fill(0);
        assert!(has_zero_sector(&segment, 600, 1100), "the rest of a sector counts");
        assert!(!has_zero_sector(&segment, 500, 1100), "part of a sector that holds something doesn't");
    }
}
