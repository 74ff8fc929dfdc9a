//! Packed messages: the gzip format (RFC 1952), the only compressor that etcd links in.
//!
//! ```text
//!   1f 8b 08 | flags | time 4 | 2 |  extra, name, comment, header's CRC   | deflated data | CRC-32 4 | length 4
//!                                    each if its flag is set                                little-endian
//! ```
//!
//! A message is one such member or several, one behind the other. It is unpacked in steps of [`STEP_BYTES`], so that
//! a few bytes that unpack to many do not keep a core from its other clients, and never beyond the longest message
//! that is accepted. Errors have the words of Go's packages, which is what etcd's clients see.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status as Step};

use super::frame;
use crate::server::call::status::{Code, Status};

/// The value of `grpc-encoding`.
pub const NAME: &str = "gzip";
/// Answers up to this are packed: more would take a core longer than others should wait. grpc-go packs them all, but a
/// client takes plain messages whatever it has sent.
pub const PACKED_BYTES_MAX: usize = 64 * 1024;
/// Bytes from which on a step is over.
const STEP_BYTES: usize = 128 * 1024;
/// Members that one step may begin: each costs something even if it is empty.
const STEP_MEMBERS: usize = 64;
/// What the state of an inflation takes: a window of 32 KB, and tables.
const INFLATE_BYTES: usize = 48 * 1024;
const HEAD_BYTES: usize = 10;
const TAIL_BYTES: usize = 8;
/// Flags of a member's head.
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const FILE_NAME: u8 = 8;
const COMMENT: u8 = 16;

/// What is wrong with a packed message.
type Broken = Cow<'static, str>;

/// A packed message on its way to be a plain one.
pub struct Unpacking {
    packed: Bytes,
    plain: BytesMut,
    length_max: usize,
    inflate: Decompress,
    /// Of what the member under way has become so far.
    crc: Crc,
    /// A member's head was taken, its tail was not.
    in_member: bool,
}

impl Unpacking {
    /// Begins to unpack a message that may become `length_max` bytes long.
    ///
    /// # Errors
    /// When it does not begin with the head of a member.
    pub fn begin(packed: Bytes, length_max: usize) -> Result<Self, Status> {
        let mut unpacking = Self {
            packed,
            plain: BytesMut::new(),
            length_max,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            in_member: false,
        };
        match unpacking.begin_member() {
            Ok(()) => Ok(unpacking),
            Err(text) => Err(internal(format!("grpc: failed to decompress the message: {text}"))),
        }
    }

    /// Unpacks as much as a core may do before it lets others run; the message once it is whole.
    ///
    /// # Errors
    /// When it is broken, or too long.
    pub fn step(&mut self) -> Result<Option<Bytes>, Status> {
        let begun = self.plain.len();
        for _ in 0..STEP_MEMBERS {
            if !self.in_member && self.packed.is_empty() {
                return Ok(Some(std::mem::take(&mut self.plain).freeze()));
            }
            self.go_on()
                .map_err(|text| internal(format!("grpc: failed to read decompressed data: {text}")))?;
            if self.plain.len() > self.length_max {
                let length_max = self.length_max;
                let text = format!("grpc: received message after decompression larger than max {length_max}");
                return Err(Status::new(Code::ResourceExhausted, text));
            }
            if self.plain.len() - begun >= STEP_BYTES {
                break;
            }
        }
        Ok(None)
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        INFLATE_BYTES + self.packed.len() + self.plain.capacity()
    }

    fn go_on(&mut self) -> Result<(), Broken> {
        if !self.in_member {
            self.begin_member()?;
        }
        if self.inflate()? {
            self.end_member()?;
        }
        Ok(())
    }

    fn begin_member(&mut self) -> Result<(), Broken> {
        skip_head(&mut self.packed)?;
        self.inflate.reset(false);
        self.crc.reset();
        self.in_member = true;
        Ok(())
    }

    /// Inflates some of the member, and says whether that was its last.
    fn inflate(&mut self) -> Result<bool, Broken> {
        let before = self.plain.len();
        // One byte more than may be: what is too long is seen to be.
        let room = STEP_BYTES.min(self.length_max + 1 - before);
        self.plain.resize(before + room, 0);
        let (packed, plain) = (self.inflate.total_in(), self.inflate.total_out());
        let result = self.inflate.decompress(&self.packed, &mut self.plain[before..], FlushDecompress::None);
        let read = (self.inflate.total_in() - packed) as usize;
        let written = (self.inflate.total_out() - plain) as usize;
        self.packed.advance(read);
        self.plain.truncate(before + written);
        self.crc.update(&self.plain[before..]);
        match result {
            Ok(Step::StreamEnd) => Ok(true),
            Ok(_) if read == 0 && written == 0 => Err("unexpected EOF".into()),
            Ok(_) => Ok(false),
            Err(_) => {
                let offset = self.inflate.total_in().max(1);
                Err(format!("flate: corrupt input before offset {offset}").into())
            }
        }
    }

    fn end_member(&mut self) -> Result<(), Broken> {
        self.in_member = false;
        let tail = take(&mut self.packed, TAIL_BYTES)?;
        let expected = [self.crc.sum().to_le_bytes(), self.crc.amount().to_le_bytes()].concat();
        if tail == expected { Ok(()) } else { Err("gzip: invalid checksum".into()) }
    }
}

fn internal(text: String) -> Status {
    Status::new(Code::Internal, text)
}

/// The first `length` bytes.
fn take(packed: &mut Bytes, length: usize) -> Result<Bytes, Broken> {
    if length > packed.len() {
        return Err("unexpected EOF".into());
    }
    Ok(packed.split_to(length))
}

/// Takes a member's head off.
fn skip_head(packed: &mut Bytes) -> Result<(), Broken> {
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
            let end = packed.iter().position(|&byte| byte == 0).ok_or("unexpected EOF")?;
            packed.advance(end + 1);
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

/// The head and the body of a message whose plain bytes are those of `pieces`. An empty message is not worth packing,
/// and one that cannot be packed is sent as it is, which a client takes at any time.
pub fn framed(pieces: &[Bytes]) -> ([u8; frame::HEAD_BYTES], Bytes) {
    if pieces.iter().all(Bytes::is_empty) {
        return ([0; frame::HEAD_BYTES], Bytes::new());
    }
    head_and_body(pieces, pack(pieces.iter().map(|piece| &piece[..])))
}

fn head_and_body(pieces: &[Bytes], packed: Option<Bytes>) -> ([u8; frame::HEAD_BYTES], Bytes) {
    let flag = u8::from(packed.is_some());
    let body = packed.unwrap_or_else(|| pieces.concat().into());
    let length = body.len() as u32; // of at most a little more than PACKED_BYTES_MAX
    let mut head = [flag; frame::HEAD_BYTES];
    head[1..].copy_from_slice(&length.to_be_bytes());
    (head, body)
}

/// Packs the bytes of `pieces`, one behind the other, as one member. None if the compressor refuses them.
pub fn pack<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Bytes> {
    // What Go writes, but for the speed: no time, no name, an unknown system.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
    let (mut deflate, mut crc) = (Compress::new(Compression::fast(), false), Crc::new());
    for piece in pieces {
        crc.update(piece);
        let mut rest = piece;
        while !rest.is_empty() {
            let before = deflate.total_in();
            deflate_into(&mut deflate, rest, &mut packed, FlushCompress::None)?;
            rest = &rest[(deflate.total_in() - before) as usize..];
        }
    }
    while deflate_into(&mut deflate, &[], &mut packed, FlushCompress::Finish)? != Step::StreamEnd {}
    packed.extend_from_slice(&crc.sum().to_le_bytes());
    packed.extend_from_slice(&crc.amount().to_le_bytes());
    Some(packed.into())
}

/// One step. None if it failed or came no further: there was room, so another one would not either.
fn deflate_into(
    deflate: &mut Compress,
    bytes: &[u8],
    into: &mut Vec<u8>,
    flush: FlushCompress,
) -> Option<Step> {
    into.reserve(bytes.len() / 2 + 64);
    deflate.compress_vec(bytes, into, flush).ok().filter(|step| *step != Step::BufError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn pack<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
        super::pack(pieces).unwrap()
    }

    #[test]
    fn what_cannot_be_packed_is_sent_plain() {
        let (mut deflate, mut packed) = (Compress::new(Compression::fast(), false), Vec::new());
        while deflate_into(&mut deflate, b"", &mut packed, FlushCompress::Finish) != Some(Step::StreamEnd) {}
        assert_eq!(deflate_into(&mut deflate, b"more", &mut packed, FlushCompress::None), None);
        let pieces = [Bytes::from("ab"), Bytes::from("c")];
        assert_eq!(head_and_body(&pieces, None), ([0, 0, 0, 0, 3], "abc".into()));
        let (head, body) = framed(&pieces);
        assert_eq!((head[0], unpacked(&body, 3).unwrap()), (1, "abc".into()));
    }

    fn unpacked(packed: &[u8], length_max: usize) -> Result<Bytes, (Code, String)> {
        let result =
            Unpacking::begin(Bytes::copy_from_slice(packed), length_max).and_then(|mut unpacking| {
                loop {
                    if let Some(plain) = unpacking.step()? {
                        return Ok(plain);
                    }
                }
            });
        result.map_err(|status| (status.code, status.message.into_owned()))
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
            let text = "grpc: failed to decompress the message: unexpected EOF";
            assert_eq!(unpacked(&whole[..length], 3), Err((Code::Internal, text.into())));
        }
    }

    #[test]
    fn broken_messages_get_the_errors_of_grpc_go() {
        let packed = pack([&b"abcdefghijklmnopqrstuvwxyz"[..]]);
        let end = packed.len();
        let with = |at: usize, bytes: &[u8]| [&packed[..at], bytes, &packed[at + bytes.len()..]].concat();
        let cases: [(Vec<u8>, &str); 9] = [
            (vec![], "decompress the message: EOF"),
            (b"nonsense".to_vec(), "decompress the message: unexpected EOF"),
            (b"more nonsense".to_vec(), "decompress the message: gzip: invalid header"),
            (packed[..12].to_vec(), "read decompressed data: unexpected EOF"),
            (packed[..end - 1].to_vec(), "read decompressed data: unexpected EOF"),
            (with(end - 8, &[0; 4]), "read decompressed data: gzip: invalid checksum"),
            (with(end - 4, &[0; 4]), "read decompressed data: gzip: invalid checksum"),
            (with(10, &[0xff; 3]), "read decompressed data: flate: corrupt input before offset 1"),
            ([&packed[..], b"xyz"].concat(), "read decompressed data: unexpected EOF"),
        ];
        for (bytes, text) in cases {
            let text = format!("grpc: failed to {text}");
            assert_eq!(unpacked(&bytes, 100), Err((Code::Internal, text)), "{bytes:x?}");
        }
    }

    #[test]
    fn a_message_that_unpacks_to_too_much_is_refused_before_it_has() {
        let plain = vec![0; 10_000_000];
        let packed = pack([&plain[..]]);
        assert!(packed.len() < 50_000);
        let mut unpacking = Unpacking::begin(packed, 1_000_000).unwrap();
        let (mut steps, mut held) = (0, 0);
        let status = loop {
            match unpacking.step() {
                Ok(None) => steps += 1,
                Ok(Some(_)) => panic!("too long"),
                Err(status) => break status,
            }
            held = held.max(unpacking.held_bytes());
        };
        assert_eq!(status.code, Code::ResourceExhausted);
        assert_eq!(status.message, "grpc: received message after decompression larger than max 1000000");
        let held = held - INFLATE_BYTES;
        assert!((7..9).contains(&steps) && held < 1_100_000, "{steps} steps, {held} bytes");
    }
}
