//! Frames (RFC 9113, 4.1), as far as bytes go.
//!
//! ```text
//!   0        3      4       5           9         9+length
//!   +--------+------+-------+-----------+---------
//!   | length | kind | flags | stream id | payload         numbers are big-endian, the id has 31 bits
//! ```
#![forbid(unsafe_code)]

/// Length of a frame's head.
pub const HEAD_BYTES: usize = 9;
/// Longest payload that we accept and, until a client asks for more, send: what RFC 9113 begins with.
pub const PAYLOAD_MAX: usize = 16 * 1024;
/// A client's first words.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a frame is, by its name in RFC 9113, 6.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags, of the kinds that have them.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// What SETTINGS set, by its name in RFC 9113, 6.5.2.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are those of RFC 9113, 7")]
pub enum Reason {
    NoError = 0,
    ProtocolError = 1,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    CompressionError = 9,
    EnhanceYourCalm = 11,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of payload.
    pub length: usize,
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// The head that these bytes are.
    pub fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEAD_BYTES]) -> Self {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff }
    }

    /// These bytes.
    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        debug_assert!(self.length < 1 << 24, "a frame's length has 24 bits");
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }
}

/// The number that a payload of four bytes is.
pub fn number(payload: &[u8]) -> Result<u32, Reason> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Reason::FrameSizeError)
}

/// A payload without its padding.
pub fn without_padding(flags: u8, payload: &[u8]) -> Result<&[u8], Reason> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Reason::FrameSizeError)?;
    let length = rest.len().checked_sub(usize::from(padding)).ok_or(Reason::ProtocolError)?;
    Ok(&rest[..length])
}

/// The header block in the payload of a HEADERS frame.
pub fn header_block(flags: u8, payload: &[u8]) -> Result<&[u8], Reason> {
    const PRIORITY_BYTES: usize = 5;
    let rest = without_padding(flags, payload)?;
    if flags & flag::PRIORITY == 0 {
        return Ok(rest);
    }
    rest.get(PRIORITY_BYTES..).ok_or(Reason::FrameSizeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back() {
        let head = Head { length: 0x01_02_03, kind: kind::PING, flags: 5, stream: 0x7fff_fffe };
        assert_eq!(head.bytes(), [1, 2, 3, 6, 5, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(Head::parse(head.bytes()), head);
        assert_eq!(Head::parse([0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1, "the reserved bit is not ours");
    }

    #[test]
    fn padding_is_taken_off() {
        assert_eq!(without_padding(flag::PADDED, &[2, b'a', 0, 0]), Ok(&b"a"[..]));
        assert_eq!(without_padding(flag::PADDED, &[3, b'a', 0]), Err(Reason::ProtocolError));
        assert_eq!(without_padding(flag::PADDED, &[]), Err(Reason::FrameSizeError));
        assert_eq!(header_block(flag::PRIORITY, &[0, 0, 0, 0, 1, 9]), Ok(&[9][..]));
        assert_eq!(header_block(flag::PRIORITY, &[0; 4]), Err(Reason::FrameSizeError));
    }
}
