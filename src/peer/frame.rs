//! Numbers and bytes off the front of a stream that comes in pieces.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes, BytesMut};

/// What has come and is not taken yet. Holds one message and what came with its end, at most.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A message would be longer than messages may be, or have more entries or members than any message has.
    TooLong,
    /// What came is none of the messages of this stream.
    Unreadable,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Broken::TooLong => {
                "a message is longer than messages may be: all members need the same --max-request-bytes"
            }
            Broken::Unreadable => "a message cannot be read",
        })
    }
}

const LENGTH: usize = size_of::<u64>();

impl Frames {
    /// More has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// What has come and was not taken.
    pub fn into_rest(self) -> Bytes {
        self.0.freeze()
    }

    /// The next byte; none before it has come.
    pub fn take_u8(&mut self) -> Option<u8> {
        self.0.has_remaining().then(|| self.0.get_u8())
    }

    /// The next number; none before it has come as a whole.
    pub fn take_u64(&mut self) -> Option<u64> {
        (self.0.len() >= LENGTH).then(|| self.0.get_u64())
    }

    /// The bytes behind their length; none before they have come as a whole.
    ///
    /// # Errors
    /// When they are more than `bytes_max`: as soon as their length has come.
    pub fn take(&mut self, bytes_max: u64) -> Result<Option<Bytes>, Broken> {
        let Some(length) = self.0.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u64::from_be_bytes(*length);
        if length > bytes_max {
            return Err(Broken::TooLong);
        }
        let length = usize::try_from(length).map_err(|_| Broken::TooLong)?;
        if self.0.len() - LENGTH < length {
            return Ok(None);
        }
        self.0.advance(LENGTH);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_when_they_are_whole() {
        let sent = [&3u64.to_be_bytes()[..], b"abc", &[7], &9u64.to_be_bytes()].concat();
        let mut frames = Frames::default();
        let mut taken = None;
        for (at, byte) in sent.iter().enumerate().take(11) {
            assert_eq!(taken, None, "{at}");
            frames.push(&[*byte]);
            taken = frames.take(3).unwrap();
        }
        assert_eq!(taken.as_deref(), Some(&b"abc"[..]));
        assert_eq!(frames.take_u8(), None);
        frames.push(&sent[11..15]);
        assert_eq!((frames.take_u8(), frames.take_u64()), (Some(7), None));
        frames.push(&sent[15..]);
        assert_eq!((frames.take_u64(), frames.take_u8()), (Some(9), None));
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_have_come() {
        for length in [4, u64::MAX] {
            let mut frames = Frames::default();
            frames.push(&length.to_be_bytes());
            assert_eq!(frames.take(3), Err(Broken::TooLong));
        }
    }
}
