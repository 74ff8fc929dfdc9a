//! The wire format of messages, field by field: is it well-formed, and does each field come as its message says?
//!
//! Go takes a known field that comes with another wire type for an unknown one, at every depth; prost refuses the whole
//! message. [`conform`] makes of the former what the latter reads: the mistyped field gets a number that no message
//! knows. Nothing changes its place or length, so one pass does it, and only a message with such a field is copied. A
//! group, which no message has a field for, becomes an unknown field with a length: prost reads groups less deep.
//!
//! Decoding makes some hundred bytes of an empty message of two bytes, so this is also where a message can be looked
//! at before that happens.
#![forbid(unsafe_code)]

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::proto::fields::Message;
use crate::stdx::pace::Pace;

/// Messages within one another, and groups within one another, that Go reads.
const MESSAGE_DEPTH_MAX: usize = 10_000;

/// The greatest number of a field.
const NUMBER_MAX: u64 = (1 << 29) - 1;

/// A number that no message has, and whose tag may be one byte.
const UNKNOWN: u64 = 15;

/// The wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
/// What has a length.
pub const LENGTH: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They are not what protobuf writes.
    Data,
    /// More messages stand within one another than Go reads.
    TooDeep,
}

impl Malformed {
    /// What Go's protobuf says.
    pub fn text(self) -> &'static str {
        match self {
            Self::Data => "proto: cannot parse invalid wire-format data",
            Self::TooDeep => "proto: exceeded maximum recursion depth",
        }
    }
}

/// A field, as it stands.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// How it is written.
    pub wire_type: u8,
    /// Where its tag is.
    pub tag: Range<usize>,
    /// Where its value is, without the length; of a group, what stands within and the tag at its end.
    pub value: Range<usize>,
}

/// Reads the fields of one message, from `at` to the end of `bytes`. A group is one field; the fields of a nested
/// message are not read.
#[derive(Clone, Debug)]
pub struct Fields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Fields<'b> {
    /// The fields of the message that `bytes` are.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next one.
    ///
    /// # Errors
    /// When there is no whole field.
    pub fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let (number, wire_type, tag) = self.tag()?;
        let value = if wire_type == GROUP { self.group(number)? } else { self.value(wire_type)? };
        Ok(Some(Field { number, wire_type, tag, value }))
    }

    fn tag(&mut self) -> Result<(u32, u8, Range<usize>), Malformed> {
        let begin = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > NUMBER_MAX {
            return Err(Malformed::Data);
        }
        Ok((number as u32, (tag & 7) as u8, begin..self.at))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed::Data)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(Malformed::Data);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Data)
    }

    fn skip(&mut self, length: u64) -> Result<(), Malformed> {
        let left = (self.bytes.len() - self.at) as u64;
        if length > left {
            return Err(Malformed::Data);
        }
        self.at += length as usize;
        Ok(())
    }

    /// Goes past a value that is no group, and says where it is, without its length.
    fn value(&mut self, wire_type: u8) -> Result<Range<usize>, Malformed> {
        let mut begin = self.at;
        match wire_type {
            VARINT => _ = self.varint()?,
            FIXED64 => self.skip(8)?,
            LENGTH => {
                let length = self.varint()?;
                begin = self.at;
                self.skip(length)?;
            }
            FIXED32 => self.skip(4)?,
            _ => return Err(Malformed::Data),
        }
        Ok(begin..self.at)
    }

    /// Goes past a group whose tag was read, and says where it is, with the tag at its end.
    fn group(&mut self, number: u32) -> Result<Range<usize>, Malformed> {
        let begin = self.at;
        let mut open = vec![number];
        while !open.is_empty() {
            let (number, wire_type, _) = self.tag()?;
            match wire_type {
                GROUP if open.len() < MESSAGE_DEPTH_MAX => open.push(number),
                GROUP_END if open.pop() == Some(number) => {}
                _ => _ = self.value(wire_type)?,
            }
        }
        Ok(begin..self.at)
    }
}

/// A message as prost reads it: the same bytes, or a copy in which mistyped fields are unknown ones. `each` hears of
/// every field that comes as its message says, of nested messages too. A field is a step.
///
/// # Errors
/// When the bytes are no message for Go either.
pub async fn conform(
    bytes: &Bytes,
    message: &'static Message,
    mut each: impl FnMut(&'static Message, &Field),
    pace: &impl Pace,
) -> Result<Bytes, Malformed> {
    let mut copy: Option<BytesMut> = None;
    let mut message = message;
    let mut fields = Fields::new(bytes);
    // What is around the present message, the outermost first, and where each ends.
    let mut around: Vec<(usize, &'static Message)> = Vec::new();
    loop {
        pace.step().await;
        let Some(field) = fields.next()? else {
            let Some((end, outer)) = around.pop() else { break };
            fields.bytes = &bytes[..end];
            message = outer;
            continue;
        };
        if field.wire_type == GROUP {
            let copy = copy.get_or_insert_with(|| BytesMut::from(&bytes[..]));
            forget_group(&mut copy[field.tag.start..field.value.end]);
            continue;
        }
        let Some(known) = message.field(field.number) else { continue };
        if !known.takes(field.wire_type) {
            let copy = copy.get_or_insert_with(|| BytesMut::from(&bytes[..]));
            put_padded(UNKNOWN << 3 | u64::from(field.wire_type), &mut copy[field.tag]);
            continue;
        }
        each(message, &field);
        if let Some(nested) = known.message() {
            // The outermost message counts.
            if around.len() + 1 == MESSAGE_DEPTH_MAX {
                return Err(Malformed::TooDeep);
            }
            around.push((fields.bytes.len(), message));
            (fields.at, fields.bytes) = (field.value.start, &bytes[..field.value.end]);
            message = nested;
        }
    }
    Ok(copy.map_or_else(|| bytes.clone(), BytesMut::freeze))
}

/// Makes of a group, from the tag at its beginning to the one at its end, an unknown field with a length.
fn forget_group(group: &mut [u8]) {
    let rest = group.len() - 1;
    let digits = (1..).find(|&digits| rest - digits < 1 << (7 * digits)).unwrap_or(1);
    put_padded(UNKNOWN << 3 | u64::from(LENGTH), &mut group[..1]);
    put_padded((rest - digits) as u64, &mut group[1..=digits]);
}

/// Writes a number into all of `out`, with more bytes than it needs if there are more.
fn put_padded(number: u64, out: &mut [u8]) {
    let last = out.len() - 1;
    for (at, byte) in out.iter_mut().enumerate() {
        let more = if at < last { 0x80 } else { 0 };
        *byte = (number >> (7 * at)) as u8 & 0x7f | more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{RangeRequest, TxnRequest, WatchRequest};
    use crate::proto::fields::{MESSAGES, message_of};
    use crate::stdx::pace::{AtOnce, at_once};
    use prost::Message as _;

    fn conformed(name: &str, bytes: &[u8]) -> Result<Bytes, Malformed> {
        let bytes = Bytes::copy_from_slice(bytes);
        at_once(conform(&bytes, message_of("etcdserverpb", name), |_, _| (), &AtOnce))
    }

    #[test]
    fn no_message_of_a_client_has_the_number_that_stands_for_unknown_ones_or_a_group() {
        let internal = |message: &&Message| message.name != "etcdserverpb.InternalRaftRequest";
        for message in MESSAGES.iter().filter(internal) {
            assert!(message.field(UNKNOWN as u32).is_none(), "{}", message.name);
            assert!(message.fields.iter().all(|field| !field.takes(GROUP)), "{}", message.name);
        }
        assert_eq!(message_of("etcdserverpb", "TxnRequest").fields.len(), 3);
        assert!(message_of("etcdserverpb", "Txn").fields.is_empty());
    }

    #[test]
    fn a_mistyped_field_is_unknown_at_every_depth() {
        let range = |bytes: &[u8]| RangeRequest::decode(conformed("RangeRequest", bytes).unwrap()).unwrap();
        let expected = RangeRequest { key: "k".into(), limit: 2, ..RangeRequest::default() };
        // The key as a number, as eight and four bytes, as a group with a group within; the limit as a string.
        for mistyped in [
            &b"\x08\x07"[..],
            b"\x09\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x0d\x01\x02\x03\x04",
            b"\x0b\x13\x08\x07\x14\x0c",
            b"\x93\x80\x00\x09\x01\x02\x03\x04\x05\x06\x07\x08\x14",
            &[&[0x7b; 300][..], &[0x7c; 300]].concat(),
            b"\x1a\x01x",
            b"\x88\x80\x00\x07",
        ] {
            let bytes = [b"\x0a\x01k", mistyped, b"\x18\x02"].concat();
            assert_eq!(range(&bytes), expected, "{mistyped:?}");
        }
        // success { request_range { key "a", limit as a string } }, and a comparison's range_end (64) as a number.
        let bytes = b"\x12\x08\x0a\x06\x0a\x01a\x1a\x01x\x0a\x08\x1a\x01k\x80\x04\x07\x38\x01";
        let request = TxnRequest::decode(conformed("TxnRequest", bytes).unwrap()).unwrap();
        assert_eq!((request.success.len(), request.compare.len()), (1, 1));
        assert_eq!((&request.compare[0].key[..], &request.compare[0].range_end[..]), (&b"k"[..], &b""[..]));
        // create_request { key "a", start_revision as a string }
        let watch = conformed("WatchRequest", b"\x0a\x06\x0a\x01a\x1a\x01x").unwrap();
        assert!(WatchRequest::decode(watch).unwrap().request_union.is_some());
    }

    #[test]
    fn what_is_well_formed_is_not_copied_and_filters_may_come_either_way() {
        for bytes in [&b"\x0a\x04\x0a\x00\x28\x01"[..], b"\x0a\x05\x0a\x00\x2a\x01\x01", b"\xfa\x7f\x01x"] {
            let message = Bytes::from_static(bytes);
            let watch = message_of("etcdserverpb", "WatchRequest");
            let same = at_once(conform(&message, watch, |_, _| (), &AtOnce)).unwrap();
            assert_eq!(same.as_ptr(), message.as_ptr());
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_none_at_any_depth() {
        for broken in [
            &b"\x0a\x05a"[..],
            b"\x08",
            b"\x00\x01",
            b"\x0f",
            b"\x0c",
            b"\x0b\x14",
            b"\x0b",
            b"\x09\x01",
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x80\x80\x80\x80\x10\x01",
        ] {
            assert_eq!(conformed("RangeRequest", broken), Err(Malformed::Data), "{broken:?}");
            let within = [&[0x12, broken.len() as u8 + 2, 0x0a, broken.len() as u8], broken].concat();
            assert_eq!(conformed("TxnRequest", &within), Err(Malformed::Data), "{within:?}");
            // The bytes of a key are anything.
            let key = [&[0x0a, broken.len() as u8], broken].concat();
            assert_eq!(conformed("RangeRequest", &key), Ok(key.into()));
        }
    }

    #[test]
    fn messages_and_groups_are_read_as_deep_as_go_reads_them() {
        let groups = |depth| [vec![0x7b; depth], vec![0x7c; depth]].concat();
        assert!(conformed("RangeRequest", &groups(MESSAGE_DEPTH_MAX)).is_ok());
        assert_eq!(conformed("RangeRequest", &groups(MESSAGE_DEPTH_MAX + 1)), Err(Malformed::Data));
    }
}
