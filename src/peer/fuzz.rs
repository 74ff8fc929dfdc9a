//! Streams of random messages, cut anywhere, and hurt.
//!
//! A stream is read as it was written, in pieces of any size. One with bytes that nobody wrote ends in messages or in
//! an error.
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, Message, MessageType};

use super::append_stream::{self, Encoder};
use super::frame::Broken;
use super::message_stream;
use crate::stdx::prng::Prng;

/// Bytes of one message.
const BYTES_MAX: u64 = 1 << 20;

/// One stream of each kind; panics when a property does not hold.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let (mut encoder, mut appends, mut others) = (Encoder::default(), Vec::new(), Vec::new());
    let messages = messages(&mut prng);
    for message in &messages {
        if prng.chance(1, 4) {
            append_stream::encode_link_heartbeat(&mut appends);
            message_stream::encode(&message_stream::link_heartbeat(), &mut others);
        }
        encoder.encode(message, &mut appends);
        message_stream::encode(message, &mut others);
    }
    let size = 1 + prng.below(99) as usize;
    assert_eq!(read_appends(&appends, size).as_ref(), Ok(&messages), "seed {seed} in pieces of {size}");
    assert_eq!(read_others(&others, size).as_ref(), Ok(&messages), "seed {seed} in pieces of {size}");
    for stream in [&mut appends, &mut others] {
        for _ in 0..prng.below(4).min(stream.len() as u64) {
            let at = prng.below(stream.len() as u64) as usize;
            stream[at] = prng.next_u64() as u8;
        }
    }
    // Whatever comes of it.
    let _ = (read_appends(&appends, size), read_others(&others, size));
}

/// What a leader might send, in terms that grow.
fn messages(prng: &mut Prng) -> Vec<Message> {
    let (mut term, mut index) = (1, 0);
    let mut messages = Vec::new();
    for _ in 0..prng.below(20) {
        match prng.below(6) {
            0 => term += 1,
            1 => index = prng.below(100),
            _ => {}
        }
        let entries: Vec<Entry> =
            (index + 1..=index + prng.below(4)).map(|index| entry(prng, term, index)).collect();
        let message = Message {
            msg_type: MessageType::MsgAppend.into(),
            from: 1,
            to: 2,
            term,
            log_term: term - prng.below(2).min(term - 1),
            index,
            commit: prng.below(9),
            entries,
            ..Message::default()
        };
        index += message.entries.len() as u64;
        messages.push(message);
    }
    messages
}

fn entry(prng: &mut Prng, term: u64, index: u64) -> Entry {
    Entry { term, index, data: vec![7; prng.below(300) as usize].into(), ..Entry::default() }
}

fn read_appends(stream: &[u8], size: usize) -> Result<Vec<Message>, Broken> {
    let (mut decoder, mut messages) = (append_stream::Decoder::new(1, 2, BYTES_MAX), Vec::new());
    for piece in stream.chunks(size) {
        decoder.push(piece);
        while let Some(message) = decoder.take()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn read_others(stream: &[u8], size: usize) -> Result<Vec<Message>, Broken> {
    let (mut decoder, mut messages) = (message_stream::Decoder::new(BYTES_MAX), Vec::new());
    for piece in stream.chunks(size) {
        decoder.push(piece);
        while let Some(message) = decoder.take()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        (0..500).for_each(super::run);
    }
}
