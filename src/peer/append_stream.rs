//! The stream of appends, msgappv2 by its name in etcd. Most appends of a leader go on where the one before has ended,
//! in the same term: of those only the entries and the commit index are sent.
//!
//! ```text
//!   0                                                a heartbeat of the link
//!   1  count  (length entry) … (length entry)  commit     an append that goes on
//!   2  length message                                any other append
//! ```
//!
//! The kind takes one byte, numbers and lengths eight each. Both ends remember the term of the last whole message and
//! the index of the last entry, so a stream begins with a whole message.
#![forbid(unsafe_code)]

use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::frame::{Broken, Frames};
use super::message::{self, ENTRIES_MAX};

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const MESSAGE: u8 = 2;

/// Where the append goes on that continues what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// Behind a whole message.
    fn behind(message: &Message) -> Self {
        let index = message.entries.last().map_or(message.index, |last| last.index);
        Self { term: message.term, index }
    }

    /// Whether a message goes on from here.
    fn is_continued_by(self, message: &Message) -> bool {
        self.index == message.index && self.term == message.log_term && message.log_term == message.term
    }
}

/// Writes the appends of a stream.
#[derive(Debug, Default)]
pub struct Encoder(Position);

impl Encoder {
    /// Appends a message to `out`.
    pub fn encode(&mut self, message: &Message, out: &mut Vec<u8>) {
        if !self.0.is_continued_by(message) {
            out.push(MESSAGE);
            put_frame(message, out);
            self.0 = Position::behind(message);
            return;
        }
        out.push(ENTRIES);
        put_u64(message.entries.len() as u64, out);
        for entry in &message.entries {
            put_frame(entry, out);
        }
        put_u64(message.commit, out);
        self.0.index += message.entries.len() as u64;
    }
}

/// Appends a heartbeat of the link to `out`.
pub fn encode_link_heartbeat(out: &mut Vec<u8>) {
    out.push(LINK_HEARTBEAT);
}

fn put_frame(message: &impl prost::Message, out: &mut Vec<u8>) {
    put_u64(message.encoded_len() as u64, out);
    message.encode_raw(out);
}

fn put_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// What comes next on a stream.
#[derive(Debug, PartialEq)]
enum Next {
    Kind,
    /// The number of entries.
    Count,
    /// So many entries, of so many bytes at most, and the commit index.
    Entries {
        missing: u64,
        bytes_left: u64,
    },
    Message,
}

/// Reads the appends of a stream.
#[derive(Debug)]
pub struct Decoder {
    frames: Frames,
    next: Next,
    position: Position,
    /// Of the append under way.
    entries: Vec<Entry>,
    /// Who sends, and who receives.
    from: u64,
    to: u64,
    /// Bytes of one message.
    bytes_max: u64,
}

impl Decoder {
    /// Nothing has come `from` that member `to` this one. No message may have more than so many bytes.
    pub fn new(from: u64, to: u64, bytes_max: u64) -> Self {
        let (frames, position) = (Frames::default(), Position::default());
        Self { frames, next: Next::Kind, position, entries: Vec::new(), from, to, bytes_max }
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
        loop {
            match self.next {
                Next::Kind => match self.frames.take_u8() {
                    None => return Ok(None),
                    Some(LINK_HEARTBEAT) => {}
                    Some(ENTRIES) => self.next = Next::Count,
                    Some(MESSAGE) => self.next = Next::Message,
                    Some(_) => return Err(Broken::Unreadable),
                },
                Next::Count => {
                    let Some(missing) = self.frames.take_u64() else { return Ok(None) };
                    if missing > ENTRIES_MAX {
                        return Err(Broken::TooLong);
                    }
                    self.next = Next::Entries { missing, bytes_left: self.bytes_max };
                }
                Next::Entries { missing: 0, .. } => {
                    let Some(commit) = self.frames.take_u64() else { return Ok(None) };
                    self.next = Next::Kind;
                    return Ok(Some(self.append(commit)));
                }
                Next::Entries { missing, bytes_left } => {
                    let Some(bytes) = self.frames.take(bytes_left)? else { return Ok(None) };
                    let bytes_left = bytes_left - bytes.len() as u64;
                    self.entries.push(Entry::decode(bytes).map_err(|_| Broken::Unreadable)?);
                    self.next = Next::Entries { missing: missing - 1, bytes_left };
                }
                Next::Message => {
                    let Some(bytes) = self.frames.take(self.bytes_max)? else { return Ok(None) };
                    let message = message::decode(bytes)?;
                    self.next = Next::Kind;
                    self.position = Position::behind(&message);
                    return Ok(Some(message));
                }
            }
        }
    }

    /// The append that consists of the entries which have come.
    fn append(&mut self, commit: u64) -> Message {
        let Position { term, index } = self.position;
        let entries = std::mem::take(&mut self.entries);
        self.position.index = index.wrapping_add(entries.len() as u64);
        Message {
            msg_type: MessageType::MsgAppend.into(),
            from: self.from,
            to: self.to,
            term,
            log_term: term,
            index,
            entries,
            commit,
            ..Message::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(term: u64, log_term: u64, index: u64, entries: u64, commit: u64) -> Message {
        let entry = |index| Entry { term, index, data: b"some data"[..].into(), ..Entry::default() };
        Message {
            msg_type: MessageType::MsgAppend.into(),
            from: 1,
            to: 2,
            term,
            log_term,
            index,
            entries: (index + 1..=index + entries).map(entry).collect(),
            commit,
            ..Message::default()
        }
    }

    const BYTES_MAX: u64 = 1 << 20;

    fn read(bytes: &[u8], size: usize) -> Result<Vec<Message>, Broken> {
        let (mut decoder, mut messages) = (Decoder::new(1, 2, BYTES_MAX), Vec::new());
        for piece in bytes.chunks(size) {
            decoder.push(piece);
            while let Some(message) = decoder.take()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    /// A whole message with three entries, one that goes on with one entry, a heartbeat of the link, one that goes on
    /// with no entry: as etcd 3.7.3 writes them.
    const ETCDS: &[u8] = include_bytes!("testdata/msgappv2.bin");

    #[test]
    fn what_etcd_writes_is_read_in_pieces_of_any_size() {
        let sent =
            [append(1, 1, 0, 3, 0), append(1, 1, 3, 1, 2), append(1, 1, 4, 0, 4), append(3, 1, 4, 1, 4)];
        for size in [1, 2, 7, 64, ETCDS.len()] {
            assert_eq!(read(ETCDS, size).unwrap(), sent, "in pieces of {size}");
        }
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        encoder.encode(&sent[0], &mut out);
        encoder.encode(&sent[1], &mut out);
        encode_link_heartbeat(&mut out);
        encoder.encode(&sent[2], &mut out);
        encoder.encode(&sent[3], &mut out);
        assert_eq!(read(&out, 3).unwrap(), sent);
        // What goes on is the same, byte by byte; in whole messages etcd spells out zeros.
        let goes_on = |bytes: &[u8]| {
            let at = bytes.windows(9).position(|window| window == [1, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
            let end =
                bytes[at..].windows(9).position(|window| window == [1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            bytes[at..at + end + 17].to_vec()
        };
        assert_eq!(goes_on(&out), goes_on(ETCDS));
    }

    #[test]
    fn no_number_that_a_peer_sends_asks_for_memory() {
        let count = |count: u64| [&[ENTRIES][..], &count.to_be_bytes()].concat();
        assert_eq!(read(&count(u64::MAX), 9), Err(Broken::TooLong));
        assert_eq!(read(&count(ENTRIES_MAX), 9), Ok(vec![]));
        let long = [&count(2)[..], &u64::MAX.to_be_bytes()].concat();
        assert_eq!(read(&long, 99), Err(Broken::TooLong));
        let message = [&[MESSAGE][..], &(BYTES_MAX + 1).to_be_bytes()].concat();
        assert_eq!(read(&message, 99), Err(Broken::TooLong));
        let half = Entry { data: vec![7; BYTES_MAX as usize / 2 - 9].into(), ..Entry::default() };
        let mut halves = count(3);
        (0..2).for_each(|_| put_frame(&half, &mut halves));
        put_u64(100, &mut halves);
        assert_eq!(read(&halves, 4096), Err(Broken::TooLong), "entries are counted together");
        assert_eq!(read(&[9], 1), Err(Broken::Unreadable));
        assert_eq!(
            read(&[&count(1)[..], &[0, 0, 0, 0, 0, 0, 0, 1, 8]].concat(), 99),
            Err(Broken::Unreadable)
        );
    }
}
