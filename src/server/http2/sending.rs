//! The sending side of a connection: the output, the client's windows and settings, and which stream's turn it is.
//!
//! ```text
//!   send ──▶ room in windows and output ──▶ out
//!     │ none
//!     ▼
//!   the stream's queue ──▶ ready, in turn ──▶ pump ──▶ out
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use slab::Slab;

use super::account::Payer;
use super::frame::{PAYLOAD_MAX, Reason, flag, kind};
use super::hpack::{Encoder, Fields};
use super::out::Out;
use super::slot::{Data, Item, Slot};
use super::window::{self, SendWindow};

/// Longest payload that we send, if the client takes it.
const SEND_PAYLOAD_MAX: usize = 64 * 1024;

/// What a connection sends, and by which of its client's rules.
pub(super) struct Sending {
    pub(super) out: Out,
    pub(super) encoder: Encoder,
    /// A block of ours on its way into the output.
    encoded: Vec<u8>,
    /// What all streams together may send.
    pub(super) window: SendWindow,
    /// What a new stream may send.
    pub(super) stream_window: u32,
    payload_max: usize,
    /// Streams that have data queued and a window for it, in turn: key and id.
    ready: VecDeque<(u32, u32)>,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            out: Out::default(),
            encoder: Encoder::default(),
            encoded: Vec::new(),
            window: SendWindow::new(window::INITIAL),
            stream_window: window::INITIAL,
            payload_max: PAYLOAD_MAX,
            ready: VecDeque::new(),
        }
    }
}

impl Sending {
    /// The window of a new stream.
    pub(super) fn new_window(&self) -> SendWindow {
        SendWindow::new(self.stream_window)
    }

    /// The client takes payloads up to this length.
    pub(super) fn set_payload_max(&mut self, bytes: usize) {
        self.payload_max = bytes.min(SEND_PAYLOAD_MAX);
    }

    /// The client gives each stream this window; those that are open get the difference.
    ///
    /// # Errors
    /// When a window becomes larger than there can be.
    pub(super) fn set_stream_window(&mut self, bytes: u32, slots: &mut Slab<Slot>) -> Result<(), Reason> {
        let more = i64::from(bytes) - i64::from(self.stream_window);
        self.stream_window = bytes;
        for (key, slot) in slots {
            slot.send_window.add(more)?;
            self.line_up(key as u32, slot);
        }
        Ok(())
    }

    /// Takes data of a stream: into the output if nothing waits before it and all of it has room.
    pub(super) fn send<P: Payer>(
        &mut self,
        key: u32,
        slot: &mut Slot,
        prefix: &[u8],
        body: Bytes,
        account: &Rc<P>,
    ) {
        let length = prefix.len() + body.len();
        let room = slot.send_window.room().min(self.window.room()).min(self.payload_max);
        if slot.queue.is_empty() && length <= room && !self.out.is_full() {
            slot.send_window.take(length);
            self.window.take(length);
            self.out.data(slot.id, prefix, body);
            account.note_write();
        } else {
            slot.queue.push_back(Item::Data(Data::new(prefix, body, account.owner())));
            self.line_up(key, slot);
        }
    }

    /// Puts a stream that can write among those that do.
    pub(super) fn line_up(&mut self, key: u32, slot: &mut Slot) {
        if !slot.ready && !slot.queue.is_empty() && slot.send_window.room() > 0 {
            slot.ready = true;
            self.ready.push_back((key, slot.id));
        }
    }

    /// Moves queued data into the output, a frame of each stream in turn, as far as windows and room go. Stops at a
    /// stream that has come to its end: that end is still to be written.
    pub(super) fn pump(&mut self, slots: &mut Slab<Slot>) -> Option<(u32, Fields)> {
        while !self.out.is_full() && self.window.room() > 0 {
            let (key, id) = self.ready.pop_front()?;
            let Some(slot) = slots.get_mut(key as usize).filter(|slot| slot.id == id) else { continue };
            slot.ready = false;
            if slot.send_window.room() == 0 {
                continue; // narrowed since it was put in line
            }
            // An end leaves with the data before it, so data comes first.
            let Some(Item::Data(data)) = slot.queue.front_mut() else { continue };
            let room = self.window.room().min(slot.send_window.room()).min(self.payload_max);
            let length = data.len().min(room);
            let (prefix, body) = data.take(length);
            self.out.data(id, &prefix, body);
            self.window.take(length);
            slot.send_window.take(length);
            if data.len() == 0 {
                slot.queue.pop_front();
            }
            let is_end = |item: &mut Item| matches!(item, Item::End(_));
            if let Some(Item::End(fields)) = slot.queue.pop_front_if(is_end) {
                return Some((key, fields));
            }
            self.line_up(key, slot);
        }
        None
    }

    /// Streams have ended: those that are still in line are dropped from it when they are many.
    pub(super) fn forget(&mut self, slots: &Slab<Slot>) {
        if self.ready.len() > 2 * slots.len() + 64 {
            self.ready.retain(|&(key, id)| slots.get(key as usize).is_some_and(|slot| slot.id == id));
        }
    }

    /// Nothing more is sent for any stream.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
    }

    /// Says that the connection ends behind the stream `last_id`.
    pub(super) fn go_away(&mut self, last_id: u32, reason: Reason, text: &[u8]) {
        let parts = [&last_id.to_be_bytes()[..], &(reason as u32).to_be_bytes(), text];
        self.out.frame(kind::GOAWAY, 0, 0, &parts);
    }

    /// Says that a stream is over.
    pub(super) fn write_reset(&mut self, id: u32, reason: Reason) {
        self.out.frame(kind::RST_STREAM, 0, id, &[&(reason as u32).to_be_bytes()]);
    }

    /// Writes a header block.
    pub(super) fn write_headers(&mut self, id: u32, ends_stream: bool, fields: &Fields) {
        let ends_stream = if ends_stream { flag::END_STREAM } else { 0 };
        let mut block = std::mem::take(&mut self.encoded);
        block.clear();
        self.encoder.encode(fields, &mut block);
        let (mut kind, mut flags) = (kind::HEADERS, ends_stream);
        let mut rest = &block[..];
        while rest.len() > self.payload_max {
            let (part, more) = rest.split_at(self.payload_max);
            self.out.frame(kind, flags, id, &[part]);
            (kind, flags, rest) = (kind::CONTINUATION, 0, more);
        }
        self.out.frame(kind, flags | flag::END_HEADERS, id, &[rest]);
        self.encoded = block;
    }
}
