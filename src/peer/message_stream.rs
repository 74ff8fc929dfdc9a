//! The stream of messages of any kind: each is its length, in eight bytes, and itself.
//!
//! A sender that has nothing to say for a while sends a heartbeat of the link, which is a MsgHeartbeat from nobody to
//! nobody. It tells that the connection lives and means nothing to raft.
#![forbid(unsafe_code)]

use prost::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::frame::{Broken, Frames};
use super::message;

/// Whether a message is a heartbeat of the link.
pub fn is_link_heartbeat(message: &Message) -> bool {
    message.msg_type() == MessageType::MsgHeartbeat && message.from == 0 && message.to == 0
}

/// A heartbeat of the link.
pub fn link_heartbeat() -> Message {
    Message { msg_type: MessageType::MsgHeartbeat.into(), ..Message::default() }
}

/// Appends a message to `out`.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(&(message.encoded_len() as u64).to_be_bytes());
    message.encode_raw(out);
}

/// Reads the messages of a stream.
#[derive(Debug)]
pub struct Decoder {
    frames: Frames,
    /// Bytes of one message.
    bytes_max: u64,
}

impl Decoder {
    /// Nothing has come. No message may have more than so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { frames: Frames::default(), bytes_max }
    }

    /// More has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next message for raft; none before it has come as a whole.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub fn take(&mut self) -> Result<Option<Message>, Broken> {
        while let Some(bytes) = self.frames.take(self.bytes_max)? {
            let message = message::decode(bytes)?;
            if !is_link_heartbeat(&message) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.7.3 writes them: a heartbeat of the link, and a heartbeat of raft with each field present.
    const LINK: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2, 0x08, 0x08];
    const HEARTBEAT: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 16, 0x08, 0x08, 0x10, 0x02, 0x18, 0x01, 0x20, 0x05, 0x40, 0x07, 0x50, 0x00,
        0x58, 0x00, 0x62, 0x00,
    ];

    #[test]
    fn what_etcd_writes_is_read_in_pieces_of_any_size() {
        let sent = [LINK, HEARTBEAT, LINK, HEARTBEAT].concat();
        let heartbeat = Message { to: 2, from: 1, term: 5, commit: 7, ..link_heartbeat() };
        for size in 1..=sent.len() {
            let (mut decoder, mut read) = (Decoder::new(99), Vec::new());
            for piece in sent.chunks(size) {
                decoder.push(piece);
                read.extend(std::iter::from_fn(|| decoder.take().unwrap()));
            }
            assert_eq!(read, [heartbeat.clone(), heartbeat.clone()], "in pieces of {size}");
        }
    }

    #[test]
    fn a_heartbeat_of_the_link_is_etcds() {
        let mut out = Vec::new();
        encode(&link_heartbeat(), &mut out);
        assert_eq!(out, LINK);
    }

    #[test]
    fn what_is_no_message_ends_the_stream() {
        for (bytes, broken) in [
            (&[0, 0, 0, 0, 0, 0, 0, 1, 0x08][..], Broken::Unreadable),
            (&[0xff; 8], Broken::TooLong),
            (&[0, 0, 0, 0, 0, 0, 0, 100], Broken::TooLong),
        ] {
            let mut decoder = Decoder::new(99);
            decoder.push(bytes);
            assert_eq!(decoder.take(), Err(broken));
        }
    }
}
