//! What a connection remembers of an open stream.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::account::Owner;
use super::hpack::Fields;
use super::window::{ReceiveWindow, SendWindow};

/// The life of a stream (RFC 9113, 5.1), without what servers that push need.
///
/// ```text
///            HEADERS           END_STREAM                       our end
///   (idle) ───────────▶ Open ─────────────▶ HalfClosed ────────────────────────▶ (closed)
///                        │                      │                                   ▲
///                        └── our end, RST_STREAM ┴── RST_STREAM of either side ─────┘
/// ```
///
/// An idle stream is one with an id above all that came; one that is closed has no [`Slot`]. When we end a stream that
/// is open we reset it too, so there is none that only we have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client may send data.
    Open,
    /// The client has ended its side.
    HalfClosed,
}

/// What the application does with a stream. It goes through these in order and may leave out the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nobody has looked at the request yet.
    Waiting,
    /// The request is served.
    Served,
    /// Nobody reads any more: what comes is thrown away.
    Over,
}

/// An open stream.
pub struct Slot {
    pub id: u32,
    pub stage: Stage,
    pub reading: Reading,

    // What the client says.
    pub received: Received,
    pub receive_window: ReceiveWindow,
    pub reader: Option<Waker>,

    // What we say.
    pub send_window: SendWindow,
    pub queue: VecDeque<Item>,
    /// Among those that wait for their turn to write.
    pub ready: bool,
    /// Wants to know when the stream is gone.
    pub watcher: Option<Waker>,
}

impl Slot {
    pub fn new(id: u32, receive_window: u32, send_window: SendWindow) -> Self {
        Self {
            id,
            stage: Stage::Open,
            reading: Reading::Waiting,
            received: Received::default(),
            receive_window: ReceiveWindow::new(receive_window),
            reader: None,
            send_window,
            queue: VecDeque::new(),
            ready: false,
            watcher: None,
        }
    }
}

/// Data that came and was not read yet. The first piece, as a rule a whole message, is kept as it is; further ones
/// are collected, so that a client that sends byte by byte costs bytes and not pieces.
#[derive(Default)]
pub struct Received {
    first: Option<Bytes>,
    more: BytesMut,
}

impl Received {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.len() == 0 {
            self.first = Some(Bytes::copy_from_slice(bytes));
        } else {
            self.more.extend_from_slice(bytes);
        }
    }

    pub fn take(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.more.is_empty() { None } else { Some(std::mem::take(&mut self.more).freeze()) }
    }

    pub fn len(&self) -> usize {
        self.first.as_ref().map_or(0, Bytes::len) + self.more.len()
    }
}

/// Something that waits for its stream's turn to write.
pub enum Item {
    Data(Data),
    /// Trailers: the end of what we say.
    End(Fields),
}

/// Data that waits, charged to its owner until it is written or thrown away.
pub struct Data {
    prefix: Bytes,
    body: Bytes,
    owner: Owner,
}

impl Data {
    pub fn new(prefix: &[u8], body: Bytes, owner: Owner) -> Self {
        let data = Self { prefix: Bytes::copy_from_slice(prefix), body, owner };
        data.owner.charge(data.len());
        data
    }

    pub fn len(&self) -> usize {
        self.prefix.len() + self.body.len()
    }

    /// Takes the next `length` bytes to be written, of the prefix and of the body.
    pub fn take(&mut self, length: usize) -> (Bytes, Bytes) {
        let of_prefix = length.min(self.prefix.len());
        self.owner.release(length);
        (self.prefix.split_to(of_prefix), self.body.split_to(length - of_prefix))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let left = self.len();
        if left > 0 {
            self.owner.release(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::{Account, Payer};
    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn data_is_its_prefix_and_its_body_and_pays_back_what_it_charged() {
        let account = Account::new(Memory::new());
        let mut data = Data::new(b"12345", Bytes::from_static(b"abc"), account.owner());
        assert_eq!((data.len(), account.unsent()), (8, 8));
        assert_eq!(data.take(3), (Bytes::from_static(b"123"), Bytes::new()));
        assert_eq!(data.take(4), (Bytes::from_static(b"45"), Bytes::from_static(b"ab")));
        assert_eq!((data.len(), account.unsent()), (1, 1));
        drop(data);
        assert_eq!(account.unsent(), 0);
        drop(Data::new(b"", Bytes::from_static(b"abc"), account.owner()));
        assert_eq!(account.unsent(), 0);
    }

    #[test]
    fn what_came_is_read_in_order() {
        let mut received = Received::default();
        assert_eq!(received.take(), None);
        for bytes in [&b"ab"[..], b"c", b"de"] {
            received.push(bytes);
        }
        assert_eq!(received.len(), 5);
        assert_eq!([received.take().unwrap(), received.take().unwrap()].concat(), b"abcde");
        assert_eq!((received.take(), received.len()), (None, 0));
    }
}
