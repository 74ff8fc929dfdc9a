//! Unpacking, in steps.
//!
//! What a step does is bounded by what it costs and not by what comes of it: a member that is empty, and a block whose
//! tables take longer to build than its few bytes to write, cost something too. Errors have the words of Go's packages,
//! which is what etcd's clients see.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Crc, Decompress, FlushDecompress, Status};

/// What a step may cost, in bytes written, or a little more.
const STEP_COST: usize = 128 * 1024;
/// What a member costs besides: its head, its tail, and a new start.
const MEMBER_COST: usize = 512;
/// What a byte read costs of which no byte was written: most of a table of codes.
const HEADER_COST: usize = 32;
/// Bytes that are read at once. That many bytes of tables cost what a step may.
const READ_MAX: usize = 4 * 1024;
/// Room that is made for what is written, at first and at most.
const ROOM_MIN: usize = 4 * 1024;
const ROOM_MAX: usize = 128 * 1024;
/// What the state of an inflation takes: a window of 32 KB, and tables.
const INFLATE_BYTES: usize = 48 * 1024;
const HEAD_BYTES: usize = 10;
/// The longest name or comment that Go takes, with the zero behind it.
const TEXT_MAX: usize = 512;
const TAIL_BYTES: usize = 8;
/// Flags of a member's head.
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const FILE_NAME: u8 = 8;
const COMMENT: u8 = 16;

/// Why a packed text does not become a plain one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is broken, in Go's words.
    Broken(Cow<'static, str>),
    /// It would be longer than was allowed.
    TooLong,
}

impl<T: Into<Cow<'static, str>>> From<T> for Fault {
    fn from(text: T) -> Self {
        Self::Broken(text.into())
    }
}

/// A packed text on its way to be a plain one.
pub struct Unpacking {
    packed: Bytes,
    /// The plain text so far, and behind it room for more, which is zero.
    plain: BytesMut,
    plain_len: usize,
    length_max: usize,
    inflate: Decompress,
    /// Of what the member under way has become so far.
    crc: Crc,
    /// A member's head was taken, its tail was not.
    in_member: bool,
}

impl Unpacking {
    /// Begins to unpack a text that may become `length_max` bytes long.
    ///
    /// # Errors
    /// When it does not begin with the head of a member.
    pub fn begin(packed: Bytes, length_max: usize) -> Result<Self, Fault> {
        let mut unpacking = Self {
            packed,
            plain: BytesMut::new(),
            plain_len: 0,
            length_max,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            in_member: true,
        };
        skip_head(&mut unpacking.packed)?;
        Ok(unpacking)
    }

    /// Unpacks as much as a core may do before it lets others run; the text once it is whole.
    ///
    /// # Errors
    /// When it is broken, or too long.
    pub fn step(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut cost = 0;
        while cost < STEP_COST {
            if !self.in_member && self.packed.is_empty() {
                self.plain.truncate(self.plain_len);
                return Ok(Some(std::mem::take(&mut self.plain).freeze()));
            }
            if !self.in_member {
                self.begin_member()?;
                cost += MEMBER_COST;
            }
            let (packed, plain) = (self.packed.len(), self.plain_len);
            if self.inflate()? {
                self.end_member()?;
            }
            if self.plain_len > self.length_max {
                return Err(Fault::TooLong);
            }
            let (read, written) = (packed - self.packed.len(), self.plain_len - plain);
            cost += written + HEADER_COST * read.saturating_sub(written);
        }
        Ok(None)
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        INFLATE_BYTES + self.packed.len() + self.plain.capacity()
    }

    fn begin_member(&mut self) -> Result<(), Fault> {
        skip_head(&mut self.packed)?;
        self.inflate.reset(false);
        self.crc.reset();
        self.in_member = true;
        Ok(())
    }

    /// Inflates some of the member, and says whether that was its last.
    fn inflate(&mut self) -> Result<bool, Fault> {
        if self.plain_len == self.plain.len() {
            // One byte more than may be: what is too long is seen to be.
            let room = self.plain_len.clamp(ROOM_MIN, ROOM_MAX).min(self.length_max + 1 - self.plain_len);
            self.plain.resize(self.plain_len + room, 0);
        }
        let (total_in, total_out) = (self.inflate.total_in(), self.inflate.total_out());
        let packed = &self.packed[..self.packed.len().min(READ_MAX)];
        let room = &mut self.plain[self.plain_len..];
        let result = self.inflate.decompress(packed, room, FlushDecompress::None);
        let read = (self.inflate.total_in() - total_in) as usize;
        let written = (self.inflate.total_out() - total_out) as usize;
        self.crc.update(&room[..written]);
        self.packed.advance(read);
        self.plain_len += written;
        match result {
            Ok(Status::StreamEnd) => Ok(true),
            Ok(_) if read == 0 && written == 0 => Err("unexpected EOF".into()),
            Ok(_) => Ok(false),
            Err(_) => {
                let offset = self.inflate.total_in().max(1);
                Err(format!("flate: corrupt input before offset {offset}").into())
            }
        }
    }

    fn end_member(&mut self) -> Result<(), Fault> {
        self.in_member = false;
        let tail = take(&mut self.packed, TAIL_BYTES)?;
        let (sum, length) = tail.split_at(TAIL_BYTES / 2);
        let is_right = sum == self.crc.sum().to_le_bytes() && length == self.crc.amount().to_le_bytes();
        if is_right { Ok(()) } else { Err("gzip: invalid checksum".into()) }
    }
}

/// The first `length` bytes.
fn take(packed: &mut Bytes, length: usize) -> Result<Bytes, Fault> {
    if length > packed.len() {
        return Err("unexpected EOF".into());
    }
    Ok(packed.split_to(length))
}

/// Takes a member's head off.
fn skip_head(packed: &mut Bytes) -> Result<(), Fault> {
    const INVALID: &str = "gzip: invalid header";
    if packed.is_empty() {
        return Err("EOF".into());
    }
    let whole = packed.clone();
    let head = take(packed, HEAD_BYTES)?;
    let flags = head[3];
    if head[..3] != [0x1f, 0x8b, 8] {
        return Err(INVALID.into());
    }
    if flags & EXTRA != 0 {
        let length = take(packed, 2)?.get_u16_le();
        take(packed, usize::from(length))?;
    }
    for text in [FILE_NAME, COMMENT] {
        if flags & text != 0 {
            let end = packed.iter().take(TEXT_MAX).position(|&byte| byte == 0);
            packed.advance(1 + end.ok_or(if packed.len() < TEXT_MAX { "unexpected EOF" } else { INVALID })?);
        }
    }
    if flags & HEADER_CRC != 0 {
        let mut crc = Crc::new();
        crc.update(&whole[..whole.len() - packed.len()]);
        if take(packed, 2)?.get_u16_le() != crc.sum() as u16 {
            return Err(INVALID.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn pack<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
        super::super::pack(pieces).unwrap()
    }

    fn unpacked(packed: &[u8], length_max: usize) -> Result<Bytes, Fault> {
        let mut unpacking = Unpacking::begin(Bytes::copy_from_slice(packed), length_max)?;
        loop {
            if let Some(plain) = unpacking.step()? {
                return Ok(plain);
            }
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let mut prng = Prng::new(1);
        for length in [0, 1, 100, 5000, 300_000, 1_000_000] {
            let alphabet = 1 + prng.below(256);
            let plain: Vec<u8> = (0..length).map(|_| prng.below(alphabet) as u8).collect();
            let (first, second) = plain.split_at(prng.below(length as u64 + 1) as usize);
            let packed = pack([first, second]);
            assert_eq!(unpacked(&packed, length).unwrap(), plain);
            let twice = [&pack([first])[..], &pack([second])].concat();
            assert_eq!(unpacked(&twice, length).unwrap(), plain, "two members");
        }
    }

    #[test]
    fn all_parts_of_a_head_are_skipped() {
        let packed = pack([&b"abc"[..]]);
        let mut head = packed[..HEAD_BYTES].to_vec();
        head[3] = EXTRA | FILE_NAME | COMMENT | HEADER_CRC;
        head.extend_from_slice(b"\x02\0xxname\0comment\0");
        let mut crc = Crc::new();
        crc.update(&head);
        head.extend_from_slice(&(crc.sum() as u16).to_le_bytes());
        let whole = [&head[..], &packed[HEAD_BYTES..]].concat();
        assert_eq!(unpacked(&whole, 3).unwrap(), "abc");
        for length in HEAD_BYTES..head.len() {
            assert_eq!(unpacked(&whole[..length], 3), Err("unexpected EOF".into()));
        }
    }

    #[test]
    fn broken_texts_get_the_errors_of_go() {
        let packed = pack([&b"abcdefghijklmnopqrstuvwxyz"[..]]);
        let end = packed.len();
        let with = |at: usize, bytes: &[u8]| [&packed[..at], bytes, &packed[at + bytes.len()..]].concat();
        // A block of fixed codes: a letter, and a copy of what is two bytes before it.
        let too_far = [&packed[..HEAD_BYTES], &[0x4b, 0x04, 0x42, 0, 0][..], &[0; 8]].concat();
        let cases: [(Vec<u8>, &str); 10] = [
            (vec![], "EOF"),
            (b"nonsense".to_vec(), "unexpected EOF"),
            (b"more nonsense".to_vec(), "gzip: invalid header"),
            (packed[..12].to_vec(), "unexpected EOF"),
            (packed[..end - 1].to_vec(), "unexpected EOF"),
            (with(end - 8, &[0; 4]), "gzip: invalid checksum"),
            (with(end - 4, &[0; 4]), "gzip: invalid checksum"),
            (with(10, &[0xff; 3]), "flate: corrupt input before offset 1"),
            (too_far, "flate: corrupt input before offset 3"),
            ([&packed[..], b"xyz"].concat(), "unexpected EOF"),
        ];
        for (bytes, text) in cases {
            assert_eq!(unpacked(&bytes, 100), Err(text.into()), "{bytes:x?}");
        }
    }

    #[test]
    fn a_text_that_becomes_too_long_is_refused_before_it_has() {
        let plain = vec![0; 10_000_000];
        let packed = pack([&plain[..]]);
        assert!(packed.len() < 50_000);
        let mut unpacking = Unpacking::begin(packed, 1_000_000).unwrap();
        let (mut steps, mut held) = (0, 0);
        let fault = loop {
            match unpacking.step() {
                Ok(None) => steps += 1,
                Ok(Some(_)) => panic!("too long"),
                Err(fault) => break fault,
            }
            held = held.max(unpacking.held_bytes());
        };
        assert_eq!(fault, Fault::TooLong);
        let held = held - INFLATE_BYTES;
        assert!((6..9).contains(&steps) && held < 1_300_000, "{steps} steps, {held} bytes");
    }

    /// Bits in the order in which they are read.
    fn bits(fields: &[(u32, u32)], times: usize) -> Vec<u8> {
        let (mut bytes, mut held, mut count) = (Vec::new(), 0u64, 0);
        for &(value, length) in fields.iter().cycle().take(fields.len() * times) {
            held |= u64::from(value) << count;
            count += length;
            while count >= 8 {
                bytes.push(held as u8);
                (held, count) = (held >> 8, count - 8);
            }
        }
        bytes.push(held as u8);
        bytes
    }

    /// Texts of about `length` bytes that become nothing: of empty members, and of one member of empty blocks.
    fn dear(length: usize) -> [Vec<u8>; 4] {
        let empty = pack([]);
        let head = &empty[..HEAD_BYTES];
        let member = |blocks: Vec<u8>| [head, &blocks].concat();
        let stored = [0, 0, 0, 0xff, 0xff].repeat(length / 5);
        // A block of fixed codes is 10 bits if it is empty.
        let fixed = bits(&[(0b010, 3), (0, 7)], length * 8 / 10);
        // Codes of one bit for the end of a block, and for one distance.
        let mut table = vec![(0b100, 3), (0, 5), (0, 5), (14, 4)];
        // Lengths of the codes of lengths, in their odd order: `18` (many zeros) and `1` take one bit.
        table.extend((0..18).map(|at| (u32::from(at == 2 || at == 17), 3)));
        // 256 zeros, a one for the end, a one for the distance; then the end.
        table.extend([(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]);
        let bits_each: u32 = table.iter().map(|field| field.1).sum();
        let dynamic = bits(&table, length * 8 / bits_each as usize);
        [empty.repeat(length / empty.len()), member(stored), member(fixed), member(dynamic)]
    }

    #[test]
    fn what_becomes_nothing_takes_time_in_proportion_and_in_short_steps() {
        for (kind, packed) in dear(1_500_000).into_iter().enumerate() {
            let mut unpacking = Unpacking::begin(packed.into(), 1_500_000).unwrap();
            let (mut steps, began) = (0, std::time::Instant::now());
            let end = loop {
                steps += 1;
                match unpacking.step() {
                    Ok(None) => {}
                    Ok(Some(plain)) => break Ok(plain),
                    Err(fault) => break Err(fault),
                }
            };
            assert_eq!(end, if kind == 0 { Ok(Bytes::new()) } else { Err("unexpected EOF".into()) });
            let took = began.elapsed();
            assert!(steps > 200, "kind {kind} takes {steps} steps");
            assert!(took < std::time::Duration::from_secs(2), "kind {kind} takes {took:?}");
            assert!(unpacking.held_bytes() < 2 * INFLATE_BYTES, "nothing is held for what is not written");
        }
    }
}
