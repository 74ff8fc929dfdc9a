//! A stream as its sender writes it: the body of an answer, in chunks, without an end.
#![forbid(unsafe_code)]

use std::io;
use std::io::Write as _;
use std::rc::Rc;

use futures::io::AsyncWriteExt;

use super::client::{PATIENCE, in_time};
use super::link::Link;
use super::outgoing::Outgoing;
use super::switchboard::Switchboard;
use crate::peer::append_stream::{self, Encoder};
use crate::peer::channel::Channel;
use crate::peer::message_stream;
use crate::server::io::wire::ByteStream;
use crate::server::io::{clock, task};
use crate::server::log::Line;

/// Bytes of messages that are sent together.
const BATCH_BYTES: usize = 256 * 1024;
/// Room in front of a chunk for its length: sixteen digits and the end of the line.
const CHUNK_HEAD: usize = 18;

/// Writes the stream of a link into `stream`, behind the head of the answer, until the other side goes or dials again.
pub async fn write<S: ByteStream>(
    switchboard: &Switchboard,
    link: &Rc<Link>,
    channel: Channel,
    mut stream: S,
) {
    let outgoing = if channel == Channel::Append { &link.append } else { &link.message };
    let (number, unsent) = outgoing.open();
    switchboard.undelivered(link.id, unsent);
    link.on_success();
    let mut batch = Batch::default();
    if let Err(error) = write_all(link, (outgoing, number), channel, &mut stream, &mut batch).await {
        Line::warn("lost TCP streaming connection with remote peer")
            .text("stream-writer-type", name(channel))
            .id("remote-peer-id", link.id)
            .text("error", error.to_string())
            .write();
        switchboard.undelivered(link.id, outgoing.close(number));
        // What was being written may be lost too, also if another connection counts by now.
        if batch.carries {
            switchboard.unreachable(link.id);
        }
    }
}

/// The name of a stream in the log.
pub fn name(channel: Channel) -> &'static str {
    if channel == Channel::Append { "stream MsgApp v2" } else { "stream Message" }
}

/// Writes until the connection counts no more. What is not written is in `batch` at an error.
async fn write_all<S: ByteStream>(
    link: &Link,
    (outgoing, number): (&Outgoing, u64),
    channel: Channel,
    stream: &mut S,
    batch: &mut Batch,
) -> io::Result<()> {
    let mut encoder = Encoder::default();
    loop {
        match task::until(clock::now() + PATIENCE / 3, outgoing.ready(number)).await {
            Some(false) => return Ok(()),
            Some(true) => {
                while batch.len() < BATCH_BYTES
                    && let Some(message) = outgoing.take()
                {
                    batch.carries = true;
                    match channel {
                        Channel::Append => encoder.encode(&message, batch.room()),
                        _ => message_stream::encode(&message, batch.room()),
                    }
                }
            }
            None => match channel {
                Channel::Append => append_stream::encode_link_heartbeat(batch.room()),
                _ => message_stream::encode(&message_stream::link_heartbeat(), batch.room()),
            },
        }
        let chunk = batch.chunk();
        link.contact().sent_bytes.add(chunk.len() as u64);
        in_time(stream.write_all(chunk)).await?;
        batch.clear();
        task::make_room().await;
    }
}

/// Bytes that become a chunk.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// There is a message in it that raft has sent.
    carries: bool,
}

impl Batch {
    fn len(&self) -> usize {
        self.bytes.len().saturating_sub(CHUNK_HEAD)
    }

    /// Where to append.
    fn room(&mut self) -> &mut Vec<u8> {
        if self.bytes.is_empty() {
            self.bytes.resize(CHUNK_HEAD, 0);
        }
        &mut self.bytes
    }

    /// All of it as a chunk.
    fn chunk(&mut self) -> &[u8] {
        let mut head = [0; CHUNK_HEAD];
        let mut rest = &mut head[..];
        let length = self.len();
        // Sixteen digits hold any length, so the room in front suffices.
        let _ = write!(rest, "{length:x}\r\n");
        let length = CHUNK_HEAD - rest.len();
        let begin = CHUNK_HEAD - length;
        self.room()[begin..CHUNK_HEAD].copy_from_slice(&head[..length]);
        self.bytes.extend_from_slice(b"\r\n");
        &self.bytes[begin..]
    }

    /// Begins anew. What one long message has taken is given back.
    fn clear(&mut self) {
        self.carries = false;
        self.bytes.clear();
        self.bytes.shrink_to(2 * BATCH_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_chunk_with_its_length() {
        let mut batch = Batch::default();
        for length in [1, 15, 16, 255, 70_000] {
            batch.room().extend_from_slice(&vec![b'x'; length]);
            assert_eq!(batch.len(), length);
            assert_eq!(batch.chunk(), format!("{length:x}\r\n{}\r\n", "x".repeat(length)).as_bytes());
            batch.clear();
        }
    }
}
