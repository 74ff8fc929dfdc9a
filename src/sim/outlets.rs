//! The watch streams of a session core: each holds some bytes until its client takes them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::judge::judge;
use kevel::session::Transport;
use kevel::watch::{Output, StreamId};

/// All streams of a core.
#[derive(Default)]
pub struct Outlets {
    streams: BTreeMap<StreamId, Outlet>,
    /// Sent and not yet on their way to the clients.
    pub sent: Vec<Output>,
}

/// One stream.
pub struct Outlet {
    capacity: usize,
    unsent: usize,
    /// A response of which parts have come, and its length.
    begun: Option<(Vec<u8>, usize)>,
}

impl Outlets {
    pub fn open(&mut self, stream: StreamId, capacity: usize) {
        self.streams.insert(stream, Outlet { capacity, unsent: 0, begun: None });
    }

    pub fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    pub fn get(&mut self, stream: StreamId) -> Option<&mut Outlet> {
        self.streams.get_mut(&stream)
    }

    /// The client took so many bytes.
    pub fn take(&mut self, stream: StreamId, bytes: usize) {
        if let Some(outlet) = self.get(stream) {
            outlet.take(bytes);
        }
    }

    pub fn set_capacity(&mut self, stream: StreamId, capacity: usize) {
        if let Some(outlet) = self.get(stream) {
            outlet.capacity = capacity;
        }
    }

    /// Bytes for which a stream has room.
    pub fn room(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |outlet| outlet.capacity.saturating_sub(outlet.unsent))
    }
}

impl Outlet {
    /// The client took so many bytes.
    pub fn take(&mut self, bytes: usize) {
        self.unsent = self.unsent.saturating_sub(bytes);
    }

    /// The first part of a response of `total` bytes has come.
    pub fn begin(&mut self, bytes: Vec<u8>, total: usize) {
        judge!(self.begun.is_none(), "a response begins in the middle of another");
        self.begun = Some((bytes, total));
    }

    /// More of a response has come: with its end the whole response, and its length.
    pub fn go_on(&mut self, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        let Some((mut begun, total)) = self.begun.take() else { panic!("judge: a part of no response") };
        begun.extend_from_slice(bytes);
        judge!(begun.len() <= total, "{} bytes of a response of {total}", begun.len());
        if begun.len() == total {
            return Some((begun, total));
        }
        self.begun = Some((begun, total));
        None
    }
}

impl Transport for Outlets {
    fn send(&mut self, output: Output) {
        if let Some(outlet) = self.get(output.stream) {
            outlet.unsent += output.len();
        }
        self.sent.push(output);
    }

    fn flush(&mut self, stream: StreamId) -> usize {
        self.room(stream)
    }
}
