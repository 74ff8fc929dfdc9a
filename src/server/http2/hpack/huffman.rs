//! HPACK's Huffman code (RFC 7541, 5.2 and Appendix B).
//!
//! The code is canonical: codes of one length are consecutive, in order of their symbols, and those of the next length
//! go on where they end. So the lengths say everything, and a code is found by asking of each length in turn whether
//! the next bits lie below its end; the letters of header fields need one to three such questions.
#![forbid(unsafe_code)]

use super::Malformed;

const SYMBOLS: usize = 257;
const LENGTH_MAX: usize = 30;
/// Says that the string is over; never sent, its first bits are the padding.
const END: u16 = 256;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Group {
    bits: u32,
    /// Behind its last code, in the high bits of 64.
    end: u64,
    /// Its first code, as a number.
    first: u32,
    /// Where its symbols begin in [`Code::symbols`].
    at: u16,
}

struct Code {
    groups: [Group; LENGTH_MAX],
    groups_len: usize,
    /// In order of their codes.
    symbols: [u16; SYMBOLS],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Code {
            groups: [Group { bits: 0, end: 0, first: 0, at: 0 }; LENGTH_MAX],
            groups_len: 0,
            symbols: [0; SYMBOLS],
        };
        let (mut bits, mut next, mut at) = (1, 0u32, 0u16);
        while bits <= LENGTH_MAX {
            next <<= 1;
            let (first, begin) = (next, at);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == bits {
                    code.symbols[at as usize] = symbol as u16;
                    at += 1;
                    next += 1;
                }
                symbol += 1;
            }
            if at > begin {
                let end = (next as u64) << (64 - bits);
                code.groups[code.groups_len] = Group { bits: bits as u32, end, first, at: begin };
                code.groups_len += 1;
            }
            bits += 1;
        }
        // All codes are used: the last one is all ones.
        assert!(next == 1 << LENGTH_MAX && at as usize == SYMBOLS);
        code
    }

    /// The symbol whose code the bits begin with, and the code's length.
    fn find(&self, bits: u64) -> (u16, u32) {
        let mut group = &self.groups[0];
        for next in &self.groups[..self.groups_len] {
            group = next;
            // The last group holds whatever no other does: it ends where 64 bits do, which is zero.
            if bits < group.end {
                break;
            }
        }
        let code = (bits >> (64 - group.bits)) as u32;
        (self.symbols[usize::from(group.at) + (code - group.first) as usize], group.bits)
    }
}

/// Decodes `bytes` behind what `into` holds.
///
/// # Errors
/// When the string says its end itself, or is padded with anything but up to seven ones.
pub fn decode(mut bytes: &[u8], into: &mut Vec<u8>) -> Result<(), Malformed> {
    // The next bits, high ones first; behind them ones, which is how a string ends.
    let (mut bits, mut have) = (u64::MAX, 0);
    loop {
        while have <= 56
            && let Some((byte, rest)) = bytes.split_first()
        {
            bits ^= u64::from(!byte) << (56 - have);
            (bytes, have) = (rest, have + 8);
        }
        let (symbol, length) = CODE.find(bits);
        if length > have {
            // Nothing but padding is left: ones, fewer than a byte.
            return if have < 8 && bits == u64::MAX { Ok(()) } else { Err(Malformed) };
        }
        if symbol == END {
            return Err(Malformed);
        }
        into.push(symbol as u8);
        bits = bits << length | ((1 << length) - 1);
        have -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bytes, mut bits, mut have) = (Vec::new(), 0u64, 0);
        for byte in text {
            let symbol = usize::from(*byte);
            let place = CODE.symbols.iter().position(|&other| usize::from(other) == symbol).unwrap();
            let length = u32::from(LENGTHS[symbol]);
            let group = CODE.groups.iter().find(|group| group.bits == length).unwrap();
            bits = bits << length | u64::from(group.first + (place as u32 - u32::from(group.at)));
            have += length;
            while have >= 8 {
                bytes.push((bits >> (have - 8)) as u8);
                have -= 8;
            }
        }
        if have > 0 {
            bytes.push((bits << (8 - have)) as u8 | 0xff >> have);
        }
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::new();
        decode(bytes, &mut text).map(|()| text)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&example).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(
            decoded(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]).unwrap(),
            b"custom-value"
        );
    }

    #[test]
    fn every_byte_comes_back() {
        let mut prng = Prng::new(1);
        for length in 0..600 {
            let text: Vec<u8> = (0..length).map(|_| prng.below(256) as u8).collect();
            assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }
    }

    #[test]
    fn other_endings_are_refused() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        // A whole byte of padding; padding with a zero; the end symbol, said.
        assert!(decoded(&[0x1f, 0xff]).is_err());
        assert!(decoded(&[0x1e]).is_err());
        assert!(decoded(&[0xff; 4]).is_err());
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a");
    }
}
