//! Many small messages as one piece of data.
//!
//! A DATA frame need not end where a message ends. One piece with a hundred messages costs one frame,
//! where a hundred pieces cost a hundred; the bytes are copied once either way.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::frame::{HEAD_BYTES, message_head};
use crate::server::call::status::Status;

/// Bodies up to this are copied; a larger one is worth a frame of its own, which shares it.
pub const COPIED_BYTES_MAX: usize = 8 * 1024;

/// Room that is made at once for messages that are expected.
const EXPECTED_BYTES_MAX: usize = 32 * 1024;

/// Framed messages, one behind the other.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    count: u64,
    /// Bytes taken last: as much will be needed again.
    expected: usize,
    /// Why a message could not be added: the stream has to end with it.
    refused: Option<Status>,
}

impl Messages {
    /// Adds the message whose encoding is `head` and `body`. The body is left to the caller, to be sent right
    /// behind these messages, if it is larger than [`COPIED_BYTES_MAX`]: then it comes back. A message that is too long
    /// to be sent is refused, and [`Messages::take`] says so.
    #[must_use = "a body that comes back must be sent"]
    pub fn push(&mut self, head: &[u8], body: Bytes) -> Option<Bytes> {
        let length = head.len() + body.len();
        let frame = match message_head(length, true) {
            Ok(frame) if self.refused.is_none() => frame,
            frame => {
                self.refused = self.refused.take().or(frame.err());
                return None;
            }
        };
        let copied = body.len() <= COPIED_BYTES_MAX;
        let needed = HEAD_BYTES + if copied { length } else { head.len() };
        self.bytes.reserve(if self.bytes.is_empty() { needed.max(self.expected) } else { needed });
        self.bytes.extend_from_slice(&frame);
        self.bytes.extend_from_slice(head);
        self.count += 1;
        if !copied {
            return Some(body);
        }
        self.bytes.extend_from_slice(&body);
        None
    }

    /// Bytes collected, frame heads included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.refused.is_none()
    }

    /// The bytes and the number of messages that begin in them; what is left is empty.
    ///
    /// # Errors
    /// When a message was refused: what was collected before it is thrown away.
    pub fn take(&mut self) -> Result<(Bytes, u64), Status> {
        let mut taken = std::mem::take(self);
        self.expected = taken.bytes.len().min(EXPECTED_BYTES_MAX);
        // A client may take them late, and what is counted until then is their length.
        if taken.bytes.capacity() > 2 * taken.bytes.len() {
            taken.bytes.shrink_to_fit();
        }
        match taken.refused {
            Some(status) => Err(status),
            None => Ok((taken.bytes.into(), taken.count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Decoder;
    use super::*;

    #[test]
    fn a_decoder_finds_the_messages_again() {
        let mut messages = Messages::default();
        let large = Bytes::from(vec![7; COPIED_BYTES_MAX + 1]);
        assert_eq!(messages.push(b"he", Bytes::from_static(b"ad")), None);
        assert_eq!(messages.push(b"", Bytes::new()), None);
        let rest = messages.push(b"large", large.clone());
        assert_eq!(rest.as_ref().map(|body| body.as_ptr()), Some(large.as_ptr()), "shared, not copied");
        assert_eq!(messages.len(), 3 * HEAD_BYTES + 4 + 5);
        let (bytes, count) = messages.take().unwrap();
        assert!(count == 3 && messages.is_empty());

        let mut decoder = Decoder::new(usize::MAX, None);
        decoder.push(bytes);
        assert_eq!(decoder.take().unwrap().unwrap(), "head");
        assert_eq!(decoder.take().unwrap().unwrap(), "");
        assert_eq!(decoder.take().unwrap(), None);
        decoder.push(rest.unwrap());
        let whole = decoder.take().unwrap().unwrap();
        assert_eq!((&whole[..5], &whole[5..]), (&b"large"[..], &large[..]));
        assert_eq!(decoder.finish(), Ok(()));
    }
}
