//! A client's header blocks.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::field::{Field, Name};
use super::table::STATIC;
use super::{Malformed, TABLE_BYTES, huffman};

/// No length or number in a header block is larger than this; RFC 7541, 5.1 lets us choose.
const INTEGER_MAX: usize = 1 << 24;

/// Decodes the header blocks of one connection, in the order in which they came.
#[derive(Default)]
pub struct Decoder {
    /// Fields that the client refers to by number, the newest first.
    dynamic: VecDeque<Field>,
    dynamic_bytes: usize,
    /// What the client gives its table up to, of the 4096 bytes that it may.
    limit: Option<usize>,
    /// Name and value of the field being decoded.
    text: Vec<u8>,
}

impl Decoder {
    /// Hands the fields of a whole header block to `each`.
    ///
    /// # Errors
    /// When the block breaks HPACK's rules. The connection must end then.
    pub fn decode(&mut self, block: &[u8], mut each: impl FnMut(&Field)) -> Result<(), Malformed> {
        let mut rest = block;
        let mut fields = 0;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let number = integer(&mut rest, 7)?;
                match Field::known(number) {
                    Some(known) => each(&known),
                    None => each(self.indexed(number)?),
                }
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut rest, 6)?;
                each(&field);
                self.insert(field);
            } else if first & 0x20 != 0 {
                let limit = integer(&mut rest, 5)?;
                if limit > TABLE_BYTES || fields > 0 {
                    return Err(Malformed);
                }
                self.limit = Some(limit);
                self.evict(0);
                continue;
            } else {
                // Not to be indexed, by anybody or just not now: the same to us.
                each(&self.literal(&mut rest, 4)?);
            }
            fields += 1;
        }
        if self.text.capacity() > TABLE_BYTES {
            self.text = Vec::new();
        }
        Ok(())
    }

    /// A field of the client's table.
    fn indexed(&self, number: usize) -> Result<&Field, Malformed> {
        let place = number.checked_sub(STATIC.len() + 1).ok_or(Malformed)?;
        self.dynamic.get(place).ok_or(Malformed)
    }

    /// A field that is spelled out, with its name or a number for it.
    fn literal(&mut self, rest: &mut &[u8], prefix: u32) -> Result<Field, Malformed> {
        self.text.clear();
        let number = integer(rest, prefix)?;
        let meaning = if number == 0 {
            string(rest, &mut self.text)?;
            Name::of(&self.text)
        } else if let Some(known) = Field::known(number) {
            self.text.extend_from_slice(known.name());
            known.meaning()
        } else {
            let named = self.indexed(number)?.clone();
            self.text.extend_from_slice(named.name());
            // Not the meaning of that field, which a bad value may have made invalid.
            Name::of(named.name())
        };
        let name_len = self.text.len();
        string(rest, &mut self.text)?;
        Ok(Field::sent(&self.text, name_len, meaning))
    }

    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        // A field larger than the table empties it and is no error.
        if size <= self.limit() {
            self.dynamic_bytes += size;
            self.dynamic.push_front(field);
        }
    }

    /// Makes room for `bytes`.
    fn evict(&mut self, bytes: usize) {
        while self.dynamic_bytes + bytes > self.limit()
            && let Some(oldest) = self.dynamic.pop_back()
        {
            self.dynamic_bytes -= oldest.size();
        }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(TABLE_BYTES)
    }
}

/// An integer whose first bits are the last `prefix` of the next byte.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (&first, mut bytes) = rest.split_first().ok_or(Malformed)?;
    let most = (1 << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = bytes.split_first().ok_or(Malformed)?;
            bytes = after;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if value > INTEGER_MAX || shift > 28 {
                return Err(Malformed);
            }
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = bytes;
    Ok(value)
}

/// A string, plain or packed, behind what `into` holds.
fn string(rest: &mut &[u8], into: &mut Vec<u8>) -> Result<(), Malformed> {
    let packed = rest.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    if packed {
        huffman::decode(bytes, into)
    } else {
        into.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.decode(block, |field| fields.push((text(field.name()), text(field.value())))).map(|()| fields)
    }

    fn fields(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, Malformed> {
        Ok(expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    /// RFC 7541, C.4: three requests on one connection, packed.
    #[test]
    fn requests_of_the_rfc() {
        let mut decoder = Decoder::default();
        let first = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        let common =
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        assert_eq!(decode(&mut decoder, first), fields(&common));
        assert_eq!(decoder.dynamic_bytes, 57);
        let second = b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf";
        let expected = [&common[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decode(&mut decoder, second), fields(&expected));
        let third = b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
        let expected = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decode(&mut decoder, third), fields(&expected));
        assert_eq!((decoder.dynamic.len(), decoder.dynamic_bytes), (3, 164));
    }

    #[test]
    fn the_table_keeps_to_its_size() {
        let mut decoder = Decoder::default();
        let literal = |name: &str, value: &str| {
            let mut block = vec![0x40, name.len() as u8];
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
            block
        };
        for n in 0..1000 {
            decode(&mut decoder, &literal(&format!("key-{n}"), "value")).unwrap();
            assert!(decoder.dynamic_bytes <= TABLE_BYTES);
        }
        assert_eq!(decode(&mut decoder, &[0xbe]), fields(&[("key-999", "value")]));
        // Down to 64 bytes: one field stays. Down to none: nothing does.
        assert_eq!(decode(&mut decoder, &[0x3f, 0x21, 0xbe]), fields(&[("key-999", "value")]));
        assert_eq!(decoder.dynamic.len(), 1);
        assert_eq!(decode(&mut decoder, &[0x20, 0xbe]), Err(Malformed));
        // A field larger than the table is one all the same.
        assert_eq!(decode(&mut decoder, &literal("a", "b")), fields(&[("a", "b")]));
        assert_eq!(decoder.dynamic_bytes, 0);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let wrong: [&[u8]; 9] = [
            &[0x80],                                     // number zero
            &[0xbe],                                     // a number that nothing has
            &[0x7f, 0x80],                               // cut inside a number
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a number beyond all bounds
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], // and one that never ends
            &[0x40, 5, b'a'],                            // cut inside a string
            &[0x3f, 0xe2, 0x1f],                         // a table of 4097 bytes
            &[0x82, 0x20],                               // a table's size behind a field
            &[0x40],
        ];
        for block in wrong {
            assert_eq!(decode(&mut Decoder::default(), block), Err(Malformed), "{block:x?}");
        }
        assert_eq!(decode(&mut Decoder::default(), &[0x3f, 0xe1, 0x1f, 0x82]), fields(&[(":method", "GET")]));
    }
}
