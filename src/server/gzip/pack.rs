//! Packing.
#![forbid(unsafe_code)]

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// The fastest level that builds tables of codes; the one below it does not, and packs less than half as well.
const LEVEL: u32 = 2;

/// Packs the bytes of `pieces`, one behind the other, as one member. None if the compressor refuses them.
pub fn pack<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Bytes> {
    // What Go writes, but for the speed: no time, no name, an unknown system.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
    let (mut deflate, mut crc) = (Compress::new(Compression::new(LEVEL), false), Crc::new());
    for piece in pieces {
        crc.update(piece);
        let mut rest = piece;
        while !rest.is_empty() {
            let before = deflate.total_in();
            deflate_into(&mut deflate, rest, &mut packed, FlushCompress::None)?;
            rest = &rest[(deflate.total_in() - before) as usize..];
        }
    }
    while deflate_into(&mut deflate, &[], &mut packed, FlushCompress::Finish)? != Status::StreamEnd {}
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
) -> Option<Status> {
    into.reserve(bytes.len() / 2 + 64);
    deflate.compress_vec(bytes, into, flush).ok().filter(|status| *status != Status::BufError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressor_that_comes_no_further_is_given_up() {
        let (mut deflate, mut packed) = (Compress::new(Compression::new(LEVEL), false), Vec::new());
        while deflate_into(&mut deflate, b"", &mut packed, FlushCompress::Finish) != Some(Status::StreamEnd) {
        }
        assert_eq!(deflate_into(&mut deflate, b"more", &mut packed, FlushCompress::None), None);
    }
}
