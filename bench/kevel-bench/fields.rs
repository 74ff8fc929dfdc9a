//! A look at single fields of an encoded message, where decoding all of a large answer would cost too much.
#![forbid(unsafe_code)]

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width, which no message of etcd has.
    Other,
}

/// The fields of an encoded message, as far as it can be read.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Fields<'a> {
    /// The last value of a number field; zero when it is not there, as protobuf has it.
    pub fn number(self, field: u64) -> u64 {
        self.filter_map(|(number, value)| match value {
            Value::Varint(varint) if number == field => Some(varint),
            _ => None,
        })
        .last()
        .unwrap_or(0)
    }

    /// The last value of a field of bytes or of a message; empty when it is not there.
    pub fn bytes(self, field: u64) -> &'a [u8] {
        self.filter_map(|(number, value)| match value {
            Value::Bytes(bytes) if number == field => Some(bytes),
            _ => None,
        })
        .last()
        .unwrap_or_default()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The field that holds the header, in every answer.
pub const HEADER: u64 = 1;
/// The field of the header that holds the revision.
pub const HEADER_REVISION: u64 = 3;

/// The store's revision in an answer's header.
pub fn header_revision(answer: &[u8]) -> i64 {
    Fields(Fields(answer).bytes(HEADER)).number(HEADER_REVISION) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use kevel::proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use kevel::proto::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn fields_are_found_where_prost_puts_them() {
        let kv = KeyValue {
            key: "a".into(),
            mod_revision: 1 << 40,
            value: vec![7; 300].into(),
            ..Default::default()
        };
        let answer = RangeResponse {
            header: Some(ResponseHeader { revision: 77, member_id: u64::MAX, ..Default::default() }),
            kvs: vec![kv.clone(), kv.clone()],
            more: true,
            count: 9,
        }
        .encode_to_vec();
        assert_eq!(header_revision(&answer), 77);
        assert_eq!(
            (Fields(&answer).number(3), Fields(&answer).number(4), Fields(&answer).number(9)),
            (1, 9, 0)
        );
        assert_eq!(Fields(&answer).filter(|(number, _)| *number == 2).count(), 2);
        assert_eq!(Fields(Fields(&answer).bytes(2)).number(3), 1 << 40);
        // Cut anywhere, reading ends and nothing breaks.
        (0..answer.len()).for_each(|end| assert!(Fields(&answer[..end]).count() <= 5));
    }
}
