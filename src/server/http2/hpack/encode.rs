//! Our header blocks.
//!
//! An answer has two blocks, and they are the same in every answer that is no error. So these fields enter the client's
//! table once per connection and are a byte each from then on. Everything else, the texts of errors, is spelled out
//! and not kept. Nothing that we spell is packed: it is short, and packing costs both sides.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::FIELD_OVERHEAD;
use super::table::{STATIC, number_of_name};

/// Fields to send.
#[derive(Clone, Debug)]
pub enum Fields {
    /// The same in most answers: entered into the client's table.
    Constant(&'static [(&'static str, &'static str)]),
    /// Of this answer alone.
    Own(Vec<(&'static str, Cow<'static, str>)>),
}

/// Encodes the header blocks of one connection, in the order in which they leave.
#[derive(Default)]
pub struct Encoder {
    /// The fields that we entered into the client's table, the oldest first.
    entered: Vec<(&'static str, &'static str)>,
    entered_bytes: usize,
    /// What the client lets its table grow to, if it has said so.
    limit: Option<usize>,
    /// The smallest size that it chose since our last block: to be said at the beginning of the next, and then the one
    /// that counts (RFC 7541, 4.2).
    smallest: Option<usize>,
}

impl Encoder {
    /// The client has chosen the size of its table.
    pub fn set_limit(&mut self, limit: usize) {
        let limit = limit.min(super::TABLE_BYTES);
        if self.limit.unwrap_or(super::TABLE_BYTES) == limit {
            return;
        }
        self.limit = Some(limit);
        let smallest = self.smallest.unwrap_or(limit).min(limit);
        // A table that is too small for what is in it is emptied: easier than to know what is left.
        let is_emptied = smallest < self.entered_bytes;
        if is_emptied {
            self.entered.clear();
            self.entered_bytes = 0;
        }
        self.smallest = Some(if is_emptied { 0 } else { smallest });
    }

    /// Appends the block of `fields` to `out`.
    pub fn encode(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        if let (Some(smallest), Some(limit)) = (self.smallest.take(), self.limit) {
            integer(0x20, 5, smallest, out);
            if smallest < limit {
                integer(0x20, 5, limit, out);
            }
        }
        match fields {
            Fields::Constant(fields) => fields.iter().for_each(|field| self.constant(field, out)),
            Fields::Own(fields) => fields.iter().for_each(|(name, value)| spell(0, 4, name, value, out)),
        }
    }

    fn constant(&mut self, field: &(&'static str, &'static str), out: &mut Vec<u8>) {
        if *field == (":status", "200") {
            return out.push(0x80 | 8);
        }
        if let Some(at) = self.entered.iter().position(|entered| entered == field) {
            let number = STATIC.len() + self.entered.len() - at;
            return integer(0x80, 7, number, out);
        }
        let size = field.0.len() + field.1.len() + FIELD_OVERHEAD;
        // We never drive anything out: there are few such fields.
        if self.entered_bytes + size > self.limit.unwrap_or(super::TABLE_BYTES) {
            return spell(0, 4, field.0, field.1, out);
        }
        self.entered.push(*field);
        self.entered_bytes += size;
        spell(0x40, 6, field.0, field.1, out);
    }
}

/// A field in letters, its name by number if it stands in the static table.
fn spell(pattern: u8, prefix: u32, name: &str, value: &str, out: &mut Vec<u8>) {
    let number = number_of_name(name);
    integer(pattern, prefix, number.unwrap_or(0), out);
    if number.is_none() {
        string(name, out);
    }
    string(value, out);
}

fn string(text: &str, out: &mut Vec<u8>) {
    integer(0, 7, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn integer(pattern: u8, prefix: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    const HEAD: Fields = Fields::Constant(&[(":status", "200"), ("content-type", "application/grpc")]);
    const END: Fields = Fields::Constant(&[("grpc-status", "0")]);

    fn encoded(encoder: &mut Encoder, fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.encode(fields, &mut out);
        out
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let each = |field: &super::super::Field| {
            fields.push((text(field.name()), text(field.value())));
            std::ops::ControlFlow::Continue(())
        };
        decoder.decode(block, each).unwrap();
        fields
    }

    #[test]
    fn a_decoder_reads_what_we_write_and_what_repeats_is_a_byte_a_field() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let text = "x".repeat(300);
        let own = vec![(":status", "415".into()), ("grpc-message", text.clone().into())];
        for round in 0..3 {
            let (head, end) = (encoded(&mut encoder, &HEAD), encoded(&mut encoder, &END));
            assert_eq!((head.len(), end.len()), if round == 0 { (19, 15) } else { (2, 1) });
            let head = decoded(&mut decoder, &head);
            assert_eq!(head[1], ("content-type".into(), "application/grpc".into()));
            let own = encoded(&mut encoder, &Fields::Own(own.clone()));
            let expected = [(":status".into(), "415".into()), ("grpc-message".into(), text.clone())];
            assert_eq!(decoded(&mut decoder, &own), expected);
            assert_eq!(decoded(&mut decoder, &end), [("grpc-status".into(), "0".into())]);
        }
    }

    #[test]
    fn a_client_may_shrink_its_table_at_any_time() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let expected = [(":status".into(), "200".into()), ("content-type".into(), "application/grpc".into())];
        for limit in [4096, 100, 59, 60, 0, 1_000_000, 61, 0, 4096] {
            encoder.set_limit(limit);
            for _ in 0..2 {
                let head = encoded(&mut encoder, &HEAD);
                assert_eq!(decoded(&mut decoder, &head), expected, "limit {limit}");
                let end = encoded(&mut encoder, &END);
                assert_eq!(
                    decoded(&mut decoder, &end),
                    [("grpc-status".into(), "0".into())],
                    "limit {limit}"
                );
            }
            assert!(encoder.entered_bytes <= limit);
        }
        encoder.set_limit(0);
        encoder.set_limit(4096);
        assert_eq!(encoded(&mut encoder, &HEAD)[..4], [0x20, 0x3f, 0xe1, 0x1f], "emptied in between");
        encoder.set_limit(200);
        encoder.set_limit(4096);
        assert_eq!(
            encoded(&mut encoder, &HEAD)[..6],
            [0x3f, 169 | 0x80, 0x01, 0x3f, 0xe1, 0x1f],
            "the smallest first"
        );
    }
}
