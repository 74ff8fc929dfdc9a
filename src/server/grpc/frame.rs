//! Messages in and out of the byte stream of a call.
//!
//! ```text
//!   byte 0      1..5               5..5+length
//!   +----------+------------------+-----------
//!   | 0 plain  | length, u32 BE   | message        ... and the next message follows at once
//!   | 1 packed |                  |
//!   +----------+------------------+-----------
//! ```
//!
//! [`Decoder`] is a pure function of the chunks it was fed: it shares a chunk that holds a whole message and
//! copies only messages that chunks cut.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::MESSAGE_SENT_BYTES_MAX;
use crate::server::call::status::{Code, Status};
use crate::server::gzip;

/// Length of a message's head.
pub const HEAD_BYTES: usize = 5;

/// Cuts a stream of chunks into messages.
pub struct Decoder {
    length_max: usize,
    /// The value of `grpc-encoding`, when the client named one that is not `identity`.
    encoding: Option<Box<str>>,
    /// Not decoded yet. Shares the chunk it came from.
    chunk: Bytes,
    /// A head or message that chunks cut; copied until it is whole.
    partial: BytesMut,
    failed: bool,
    /// The message taken last is packed.
    is_packed: bool,
}

impl Decoder {
    /// A decoder that refuses messages of more than `length_max` bytes.
    pub fn new(length_max: usize, encoding: Option<Box<str>>) -> Self {
        Self {
            length_max,
            encoding,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            failed: false,
            is_packed: false,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&self.chunk);
            self.chunk = chunk;
        }
    }

    /// The next whole message; `None` until more bytes come. After an error nothing more comes.
    pub fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.failed || self.chunk.is_empty() && self.partial.is_empty() {
            return Ok(None);
        }
        let result = if self.partial.is_empty() { self.next_shared() } else { self.next_copied() };
        self.failed = result.is_err();
        result
    }

    fn next_shared(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(head) = self.chunk.first_chunk::<HEAD_BYTES>() {
            let length = self.check(*head)?;
            if self.chunk.len() - HEAD_BYTES >= length {
                self.chunk.advance(HEAD_BYTES);
                return Ok(Some(self.chunk.split_to(length)));
            }
            self.partial.reserve(HEAD_BYTES + length.min(self.chunk.len() * 2));
        }
        self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
        Ok(None)
    }

    fn next_copied(&mut self) -> Result<Option<Bytes>, Status> {
        self.fill(HEAD_BYTES);
        let Some(head) = self.partial.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = self.check(*head)?;
        self.fill(HEAD_BYTES + length);
        if self.partial.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        // More than one message can be in here: `push` moves an undecoded chunk behind what is partial.
        self.partial.advance(HEAD_BYTES);
        Ok(Some(self.partial.split_to(length).freeze()))
    }

    /// Moves bytes from the chunk until `partial` holds `length` of them.
    fn fill(&mut self, length: usize) {
        let step = length.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(step));
    }

    /// The length that a head announces, with grpc-go's errors.
    fn check(&mut self, head: [u8; HEAD_BYTES]) -> Result<usize, Status> {
        let [flag, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.length_max {
            return Err(Status::too_large(length, self.length_max));
        }
        self.is_packed = flag == 1;
        match (flag, &self.encoding) {
            (0, _) => Ok(length),
            (1, Some(encoding)) if **encoding == *gzip::NAME => Ok(length),
            (1, None) => {
                let message = "grpc: compressed flag set with identity or empty encoding";
                Err(Status::new(Code::Internal, message))
            }
            (1, Some(encoding)) => Err(not_installed(encoding)),
            (other, _) => {
                let message = format!("grpc: received unexpected payload format {other}");
                Err(Status::new(Code::Internal, message))
            }
        }
    }

    /// Whether the message that was taken last is packed.
    pub fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// Bytes held for a message that is not whole yet, or not taken.
    pub fn held_bytes(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// The stream ended: nothing may be left.
    pub fn finish(&self) -> Result<(), Status> {
        if self.held_bytes() == 0 || self.failed {
            Ok(())
        } else {
            Err(Status::new(Code::Internal, "unexpected EOF"))
        }
    }
}

/// The refusal of a request whose encoding nobody here knows.
pub fn not_installed(encoding: &str) -> Status {
    let message = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
    Status::new(Code::Unimplemented, message)
}

/// The head of a message of `length` bytes.
///
/// # Errors
/// When the message is longer than etcd sends; its clients do not take it either. The text is grpc-go's, which differs
/// between the single answer of a unary call and the messages of a stream.
pub fn message_head(length: usize, of_stream: bool) -> Result<[u8; HEAD_BYTES], Status> {
    match u32::try_from(length) {
        Ok(short) if length <= MESSAGE_SENT_BYTES_MAX => {
            let [a, b, c, d] = short.to_be_bytes();
            Ok([0, a, b, c, d])
        }
        Ok(_) => Err(unsendable(length, MESSAGE_SENT_BYTES_MAX, of_stream)),
        Err(_) => {
            let message = format!("grpc: message too large ({length} bytes)");
            Err(Status::new(Code::ResourceExhausted, message))
        }
    }
}

/// The error for a message that is longer than may be sent.
pub fn unsendable(length: usize, length_max: usize, of_stream: bool) -> Status {
    let speaker = if of_stream { "" } else { "grpc: " };
    let message = format!("{speaker}trying to send message larger than max ({length} vs. {length_max})");
    Status::new(Code::ResourceExhausted, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(0);
            bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
            bytes.extend_from_slice(message);
        }
        bytes
    }

    #[test]
    fn whole_messages_share_their_chunk() {
        let chunk = Bytes::from(encoded(&[b"one", b"", b"three"]));
        let mut decoder = Decoder::new(10, None);
        decoder.push(chunk.clone());
        let one = decoder.take().unwrap().unwrap();
        assert_eq!(one.as_ptr(), chunk[HEAD_BYTES..].as_ptr());
        assert_eq!(decoder.take().unwrap().unwrap(), "");
        assert_eq!(decoder.take().unwrap().unwrap(), "three");
        assert_eq!(decoder.take(), Ok(None));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn bad_heads_get_the_errors_of_grpc_go() {
        let error = |bytes: &[u8], encoding: Option<&str>| {
            let mut decoder = Decoder::new(10, encoding.map(Into::into));
            decoder.push(Bytes::copy_from_slice(bytes));
            let status = decoder.take().unwrap_err();
            assert_eq!(decoder.take(), Ok(None));
            (status.code, status.message.into_owned())
        };
        assert_eq!(
            error(&[0, 0, 0, 0, 11], None),
            (Code::ResourceExhausted, "grpc: received message larger than max (11 vs. 10)".into())
        );
        assert_eq!(error(&[1, 0, 0, 0, 1], None).0, Code::Internal);
        assert_eq!(
            error(&[1, 0, 0, 0, 1], Some("snappy")),
            (Code::Unimplemented, "grpc: Decompressor is not installed for grpc-encoding \"snappy\"".into())
        );
        assert_eq!(error(&[7, 0, 0, 0, 1], None).1, "grpc: received unexpected payload format 7");
    }

    #[test]
    fn what_is_too_long_to_be_sent_gets_the_errors_of_grpc_go() {
        let max = MESSAGE_SENT_BYTES_MAX;
        assert_eq!(message_head(max, false), Ok([0, 0x7f, 0xff, 0xff, 0xff]));
        let error = |length, of_stream| {
            let status = message_head(length, of_stream).unwrap_err();
            assert_eq!(status.code, Code::ResourceExhausted);
            status.message.into_owned()
        };
        let text = "trying to send message larger than max (2147483648 vs. 2147483647)";
        assert_eq!(error(max + 1, true), text);
        assert_eq!(error(max + 1, false), format!("grpc: {text}"));
        assert_eq!(error(1 << 32, false), "grpc: message too large (4294967296 bytes)");
    }

    #[test]
    fn a_cut_message_is_an_error_at_the_end() {
        let mut decoder = Decoder::new(10, None);
        decoder.push(Bytes::from_static(&[0, 0, 0, 0, 3, 1]));
        assert_eq!(decoder.take(), Ok(None));
        assert_eq!(decoder.finish().unwrap_err().message, "unexpected EOF");
    }
}
