//! A client's header blocks.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::field::{Field, FieldName};
use super::table::STATIC;
use super::{Malformed, TABLE_BYTES, Undecoded, huffman};

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
    /// The name or value being decoded.
    text: Vec<u8>,
}

impl Decoder {
    /// Hands the fields of a whole header block to `each`, which says whether it takes more of them.
    ///
    /// The work is linear in the bytes of the block: a name that the table holds is neither copied nor read again.
    ///
    /// # Errors
    /// When the block breaks HPACK's rules, or `each` takes no more. The connection must end then: the rest of the
    /// block would have changed the table.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(&Field) -> ControlFlow<()>,
    ) -> Result<(), Undecoded> {
        let mut rest = block;
        let mut fields = 0;
        while let Some(&first) = rest.first() {
            let enough = if first & 0x80 != 0 {
                let number = integer(&mut rest, 7)?;
                match Field::known(number) {
                    Some(known) => each(&known),
                    None => each(self.indexed(number)?),
                }
                .is_break()
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut rest, 6)?;
                let enough = each(&field).is_break();
                self.insert(field);
                enough
            } else if first & 0x20 != 0 {
                let limit = integer(&mut rest, 5)?;
                if limit > TABLE_BYTES || fields > 0 {
                    return Err(Undecoded::Malformed);
                }
                self.limit = Some(limit);
                self.evict(0);
                continue;
            } else {
                // Not to be indexed, by anybody or just not now: the same to us.
                each(&self.literal(&mut rest, 4)?).is_break()
            };
            if enough {
                return Err(Undecoded::TooLarge);
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
        let number = integer(rest, prefix)?;
        let name = match FieldName::known(number) {
            Some(known) => known,
            None if number > 0 => self.indexed(number)?.shared_name(),
            None => FieldName::sent(self.string(rest)?),
        };
        Ok(Field::sent(name, self.string(rest)?))
    }

    /// A string, plain or packed.
    fn string(&mut self, rest: &mut &[u8]) -> Result<&[u8], Malformed> {
        self.text.clear();
        string(rest, &mut self.text)?;
        Ok(&self.text)
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

    type Decoded = Result<Vec<(String, String)>, Undecoded>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Decoded {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let each = |field: &Field| {
            fields.push((text(field.name()), text(field.value())));
            ControlFlow::Continue(())
        };
        decoder.decode(block, each).map(|()| fields)
    }

    fn fields(expected: &[(&str, &str)]) -> Decoded {
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
        assert_eq!(decode(&mut decoder, &[0x20, 0xbe]), Err(Undecoded::Malformed));
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
            assert_eq!(decode(&mut Decoder::default(), block), Err(Undecoded::Malformed), "{block:x?}");
        }
        assert_eq!(decode(&mut Decoder::default(), &[0x3f, 0xe1, 0x1f, 0x82]), fields(&[(":method", "GET")]));
    }

    /// A name of nearly the table's size, and then two bytes for each field that has it.
    #[test]
    fn a_name_in_the_table_is_shared_by_the_fields_that_refer_to_it() {
        let mut decoder = Decoder::default();
        let name = "n".repeat(4000);
        let mut block = vec![0x40, 0x7f, 0xa1, 0x1e];
        block.extend_from_slice(name.as_bytes());
        block.push(0);
        block.extend([0x0f, 47, 0].repeat(20));
        let mut names = Vec::new();
        let each = |field: &Field| {
            assert_eq!((field.name().len(), field.value()), (4000, &b""[..]));
            names.push(field.name().as_ptr());
            ControlFlow::Continue(())
        };
        decoder.decode(&block, each).unwrap();
        assert!(names.len() == 21 && names.iter().all(|&name| name == names[0]), "one copy of the name");
    }

    #[test]
    fn who_takes_no_more_fields_ends_the_decoding() {
        let mut taken = 0;
        let each = |_: &Field| {
            taken += 1;
            if taken < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        assert_eq!(Decoder::default().decode(&[0x82; 100_000], each), Err(Undecoded::TooLarge));
        assert_eq!(taken, 3);
    }
}
