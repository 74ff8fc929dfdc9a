//! One connection's state: what its frames mean.
//!
//! A pure machine. [`Http2::receive`] takes bytes as they come, cut anywhere, and yields requests; streams and the
//! connection's task write; [`Http2::poll_send`] hands over what has collected. Nothing in here knows a socket or a
//! clock.
//!
//! What a client may cost us, whatever it does:
//!
//! ```text
//!   streams              SETTINGS_MAX_CONCURRENT_STREAMS; more are refused
//!   unread data          the windows: 1 MB per stream, 16 MB per connection
//!   header blocks        64 KB of fields, decoded; 128 KB and 32 frames as they come
//!   requests taken back  256 that nobody has looked at, then the connection ends
//!   broken streams       1024 per connection, then it ends
//!   SETTINGS             32 in one turn, then it ends: each costs a walk over the streams
//!   answers to all that  nothing more is read while 256 KB wait to be sent
//! ```
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker, ready};

use slab::Slab;

use super::frame::{self, HEAD_BYTES, Head, PAYLOAD_MAX, PREFACE, Reason, flag, kind, setting};
use super::hpack::{Decoder, Encoder, Fields};
use super::ids::Ids;
use super::out::Out;
use super::request::{Bad, Collector, RequestHead};
use super::slot::{Item, Slot};
use super::stream::Stream;
use super::window::{self, ReceiveWindow, SendWindow};
use crate::stdx::waker::keep;

/// Windows that a client may fill before we read: one stream, and all of a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Decoded fields of one request; room for any token.
const HEADER_LIST_MAX: usize = 64 * 1024;
/// A header block as it comes, and the CONTINUATION frames that it may come in.
const BLOCK_BYTES_MAX: usize = 2 * HEADER_LIST_MAX;
const BLOCK_FRAMES_MAX: u32 = 32;
/// Requests that were taken back before anybody looked at them; more of these at once is an attack.
const RESETS_UNSEEN_MAX: usize = 256;
/// Streams that a client may break in the life of a connection.
const BROKEN_MAX: u32 = 1024;
/// SETTINGS frames in one turn.
const SETTINGS_MAX: u32 = 32;
/// Longest payload that we send, if the client takes it.
const SEND_PAYLOAD_MAX: usize = 64 * 1024;
/// The largest id of a stream.
const ID_MAX: u32 = (1 << 31) - 1;
/// Payloads of our pings: whether the client is alive, and how far it had come when we began to stop.
const PING_ALIVE: [u8; 8] = *b"alive?!?";
const PING_STOPPING: [u8; 8] = *b"stopping";
/// A buffer for cut frames that an idle connection may keep.
const PARTIAL_KEPT_BYTES: usize = 512;

/// What we tell every client of our limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open streams per connection.
    pub streams_max: u32,
}

/// A connection, shared by its task and its streams.
pub struct Http2(RefCell<State>);

/// The connection is over; what is to be said about it has been written.
#[derive(Debug, PartialEq, Eq)]
pub struct Over;

#[derive(PartialEq)]
enum Going {
    /// On.
    No,
    /// We have said that we stop, and wait to hear which streams the client began before it knew.
    Announced,
    /// No stream behind `last_id` is served.
    Final,
}

/// A header block that is not whole yet.
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    frames: u32,
}

pub(super) struct State {
    limits: Limits,
    /// A frame that the end of a read has cut.
    partial: Vec<u8>,
    /// Bytes of the preface still to come.
    preface_left: usize,
    /// SETTINGS must come before anything else.
    greeted: bool,
    block: Option<Block>,
    decoder: Decoder,
    encoder: Encoder,
    /// A block of ours on its way into the output.
    encoded: Vec<u8>,
    pub(super) out: Out,
    ids: Ids,
    pub(super) slots: Slab<Slot>,
    /// The largest id that a client has used.
    last_id: u32,
    requests: VecDeque<(RequestHead, u32, u32)>,
    resets_unseen: usize,
    broken: u32,
    receive_window: ReceiveWindow,
    pub(super) send_window: SendWindow,
    /// What a new stream may send.
    stream_window: u32,
    pub(super) payload_max: usize,
    /// Streams that have data queued and a window for it, in turn.
    pub(super) ready: VecDeque<(u32, u32)>,
    going: Going,
    pings: u32,
    data_seen: bool,
    settings_seen: u32,
    task: Option<Waker>,
    in_turn: bool,
}

impl Http2 {
    /// A connection of which nothing has been read, not even the preface.
    pub fn new(limits: Limits) -> Rc<Self> {
        let mut state = State {
            limits,
            partial: Vec::new(),
            preface_left: PREFACE.len(),
            greeted: false,
            block: None,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            encoded: Vec::new(),
            out: Out::default(),
            ids: Ids::default(),
            slots: Slab::new(),
            last_id: 0,
            requests: VecDeque::new(),
            resets_unseen: 0,
            broken: 0,
            receive_window: ReceiveWindow::new(CONNECTION_WINDOW),
            send_window: SendWindow::new(window::INITIAL),
            stream_window: window::INITIAL,
            payload_max: PAYLOAD_MAX,
            ready: VecDeque::new(),
            going: Going::No,
            pings: 0,
            data_seen: false,
            settings_seen: 0,
            task: None,
            in_turn: false,
        };
        state.greet();
        Rc::new(Self(RefCell::new(state)))
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.borrow_mut())
    }

    /// The connection's task begins a turn: until its end nobody has to wake it for what is written.
    pub fn begin_turn(&self, waker: &Waker) {
        self.with(|state| {
            state.in_turn = true;
            state.settings_seen = 0;
            state.out.begin_turn();
            keep(&mut state.task, waker);
        });
    }

    /// The turn is over.
    pub fn end_turn(&self) {
        self.with(|state| state.in_turn = false);
    }

    /// Takes bytes that the client sent.
    ///
    /// # Errors
    /// When the connection is over, by the client's will or because it broke the rules.
    pub fn receive(&self, bytes: &[u8]) -> Result<(), Over> {
        self.with(|state| {
            let received = state.receive(bytes);
            if state.partial.is_empty() && state.partial.capacity() > PARTIAL_KEPT_BYTES {
                state.partial = Vec::new();
            }
            match received {
                Ok(()) if state.is_done() => Err(Over),
                Ok(()) => {
                    state.pump();
                    Ok(())
                }
                Err(reason) => {
                    state.go_away(state.last_id, reason, &[]);
                    Err(Over)
                }
            }
        })
    }

    /// The next request that came.
    pub fn next_request(self: &Rc<Self>) -> Option<(RequestHead, Stream)> {
        self.with(|state| {
            while let Some((head, key, id)) = state.requests.pop_front() {
                if let Some(slot) = state.slot(key, id) {
                    slot.seen = true;
                    return Some((head, Stream::new(self.clone(), key, id)));
                }
                state.resets_unseen -= 1;
            }
            None
        })
    }

    /// Whether requests wait for [`Http2::next_request`].
    pub fn has_requests(&self) -> bool {
        self.with(|state| !state.requests.is_empty())
    }

    /// Whether so much waits to be sent that nothing should be read or answered that makes it more.
    pub fn is_clogged(&self) -> bool {
        self.with(|state| state.out.is_clogged())
    }

    /// Sends what there is to send through `write`, which says how much it took.
    pub fn poll_send(
        &self,
        mut write: impl FnMut(&[io::IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        self.with(|state| {
            loop {
                state.pump();
                if state.out.unsent() == 0 {
                    return Poll::Ready(Ok(()));
                }
                ready!(state.out.poll_send(&mut write))?;
            }
        })
    }

    /// Bytes written in this turn.
    pub fn wrote(&self) -> usize {
        self.with(|state| state.out.wrote())
    }

    /// Whether all there is to send are acknowledgements of pings.
    pub fn holds_only_pongs(&self) -> bool {
        self.with(|state| state.out.holds_only_pongs())
    }

    /// Whether a DATA frame came since the last call.
    pub fn take_data_seen(&self) -> bool {
        self.with(|state| std::mem::take(&mut state.data_seen))
    }

    /// The PING frames that came since the last call.
    pub fn take_pings(&self) -> u32 {
        self.with(|state| std::mem::take(&mut state.pings))
    }

    /// Whether streams are open.
    pub fn has_streams(&self) -> bool {
        self.with(|state| state.ids.len() > 0)
    }

    /// Whether all has been said that was to be said before the end.
    pub fn is_done(&self) -> bool {
        self.with(|state| state.is_done())
    }

    /// Asks whether the client is alive.
    pub fn ping(&self) {
        self.with(|state| state.out.frame(kind::PING, 0, 0, &[&PING_ALIVE]));
    }

    /// Begins to stop: streams that the client has begun before it hears of it are served to their end.
    pub fn shut_down(&self) {
        self.with(|state| {
            if state.going == Going::No {
                state.going = Going::Announced;
                state.go_away(ID_MAX, Reason::NoError, &[]);
                state.out.frame(kind::PING, 0, 0, &[&PING_STOPPING]);
            }
        });
    }

    /// The connection is over: so are its streams, and whoever waits for one of them learns it. What was written may
    /// still be sent.
    pub fn close(&self) {
        let (slots, requests) = self.with(|state| {
            state.ids = Ids::default();
            state.ready.clear();
            state.task = None;
            (std::mem::take(&mut state.slots), std::mem::take(&mut state.requests))
        });
        // Outside: what is dropped here may be the last that holds on to us.
        drop(requests);
        for (_, slot) in slots {
            slot.reader.into_iter().chain(slot.watcher).for_each(Waker::wake);
        }
    }

    /// Says that the connection ends now, and why.
    pub fn abort(&self, reason: Reason, text: &[u8]) {
        self.with(|state| state.go_away(state.last_id, reason, text));
    }
}

impl State {
    /// Our limits.
    fn greet(&mut self) {
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, self.limits.streams_max),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX as u32),
        ];
        let mut payload = Vec::with_capacity(6 * settings.len());
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.out.frame(kind::SETTINGS, 0, 0, &[&payload]);
        self.widen(0, CONNECTION_WINDOW - window::INITIAL);
    }

    fn is_done(&self) -> bool {
        self.going == Going::Final && self.ids.len() == 0 && self.requests.is_empty()
    }

    /// Wakes the task, which sends what was written.
    pub(super) fn wake_task(&self) {
        if !self.in_turn
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    /// The stream that was `id` when it was put there.
    pub(super) fn slot(&mut self, key: u32, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(key as usize).filter(|slot| slot.id == id)
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Reason> {
        if self.preface_left > 0 {
            let step = self.preface_left.min(bytes.len());
            let (preface, rest) = bytes.split_at(step);
            let expected = &PREFACE[PREFACE.len() - self.preface_left..][..step];
            if preface != expected {
                return Err(Reason::ProtocolError);
            }
            self.preface_left -= step;
            bytes = rest;
        }
        while !self.partial.is_empty() {
            let whole = match self.partial.first_chunk() {
                Some(head) => HEAD_BYTES + Self::check_length(Head::parse(*head))?.length,
                None => HEAD_BYTES,
            };
            let step = (whole - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..step]);
            bytes = &bytes[step..];
            let Some(head) = self.partial.first_chunk() else { return Ok(()) };
            let head = Self::check_length(Head::parse(*head))?;
            if self.partial.len() < HEAD_BYTES + head.length {
                if bytes.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let mut partial = std::mem::take(&mut self.partial);
            self.take_frame(head, &partial[HEAD_BYTES..])?;
            partial.clear();
            self.partial = partial;
        }
        while let Some(head) = bytes.first_chunk() {
            let head = Self::check_length(Head::parse(*head))?;
            let Some(payload) = bytes.get(HEAD_BYTES..HEAD_BYTES + head.length) else { break };
            self.take_frame(head, payload)?;
            bytes = &bytes[HEAD_BYTES + head.length..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn check_length(head: Head) -> Result<Head, Reason> {
        if head.length > PAYLOAD_MAX { Err(Reason::FrameSizeError) } else { Ok(head) }
    }

    fn take_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let continues = head.kind == kind::CONTINUATION;
        if (!self.greeted && head.kind != kind::SETTINGS) || self.block.is_some() != continues {
            return Err(Reason::ProtocolError);
        }
        match head.kind {
            kind::DATA => self.take_data(head, payload),
            kind::HEADERS => self.take_headers(head, payload),
            kind::CONTINUATION => self.take_continuation(head, payload),
            kind::RST_STREAM => self.take_reset(head, payload),
            kind::SETTINGS => self.take_settings(head, payload),
            kind::PUSH_PROMISE => Err(Reason::ProtocolError),
            kind::PING => self.take_ping(head, payload),
            kind::WINDOW_UPDATE => self.take_window_update(head, payload),
            kind::PRIORITY if head.stream == 0 => Err(Reason::ProtocolError),
            // What does not concern us, and what future versions may send. GOAWAY is about streams that we would begin:
            // whoever says it closes the connection itself.
            _ => Ok(()),
        }
    }

    /// The open stream that a frame is about; an error when there never was one.
    fn find(&self, id: u32) -> Result<Option<u32>, Reason> {
        let is_new = id > self.last_id;
        if id == 0 || (is_new && self.going != Going::Final) {
            return Err(Reason::ProtocolError);
        }
        Ok(if is_new { None } else { self.ids.find(id) })
    }

    fn take_data(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        self.data_seen = true;
        let found = self.find(head.stream)?;
        self.receive_window.take(payload.len())?;
        let data = frame::without_padding(head.flags, payload)?;
        let Some(key) = found else {
            // On its way when the stream ended.
            self.release_connection(payload.len());
            return Ok(());
        };
        let slot = &mut self.slots[key as usize];
        let refused = match () {
            () if slot.ended => Some(Reason::StreamClosed),
            () => slot.receive_window.take(payload.len()).err(),
        };
        if let Some(reason) = refused {
            self.release_connection(payload.len());
            return self.break_stream(key, reason);
        }
        let keep = !slot.unread && !data.is_empty();
        if keep {
            slot.received.push(data);
        }
        slot.ended |= head.flags & flag::END_STREAM != 0;
        if (keep || slot.ended)
            && let Some(reader) = &slot.reader
        {
            reader.wake_by_ref(); // it stays: who reads one message reads the next
        }
        let thrown_away = payload.len() - if keep { data.len() } else { 0 };
        if thrown_away > 0 {
            self.release(key, thrown_away);
        }
        Ok(())
    }

    /// Gives the client back what it sent on a stream.
    pub(super) fn release(&mut self, key: u32, bytes: usize) {
        self.release_connection(bytes);
        let slot = &mut self.slots[key as usize];
        let id = slot.id;
        if let Some(more) = slot.receive_window.release(bytes)
            && !slot.ended
        {
            self.widen(id, more);
        }
    }

    fn release_connection(&mut self, bytes: usize) {
        if let Some(more) = self.receive_window.release(bytes) {
            self.widen(0, more);
        }
    }

    fn widen(&mut self, stream: u32, bytes: u32) {
        self.out.frame(kind::WINDOW_UPDATE, 0, stream, &[&bytes.to_be_bytes()]);
        self.wake_task();
    }

    fn take_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream.is_multiple_of(2) {
            return Err(Reason::ProtocolError);
        }
        let block = frame::header_block(head.flags, payload)?;
        let ends_stream = head.flags & flag::END_STREAM != 0;
        if head.flags & flag::END_HEADERS != 0 {
            return self.take_block(head.stream, ends_stream, block);
        }
        self.block = Some(Block { stream: head.stream, ends_stream, bytes: block.to_vec(), frames: 0 });
        Ok(())
    }

    fn take_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let mut block = self.block.take().expect("looked at before any frame is taken");
        if block.stream != head.stream {
            return Err(Reason::ProtocolError);
        }
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if head.flags & flag::END_HEADERS != 0 {
            return self.take_block(block.stream, block.ends_stream, &block.bytes);
        }
        if block.bytes.len() > BLOCK_BYTES_MAX || block.frames > BLOCK_FRAMES_MAX {
            return Err(Reason::EnhanceYourCalm);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block: a request's, or its trailers.
    fn take_block(&mut self, id: u32, ends_stream: bool, block: &[u8]) -> Result<(), Reason> {
        let mut collector = Collector::new(HEADER_LIST_MAX);
        // Also when nobody wants it: the table must see every block.
        self.decoder.decode(block, |field| collector.add(field)).map_err(|_| Reason::CompressionError)?;
        if id <= self.last_id {
            return self.take_trailers(id, ends_stream);
        }
        if self.going == Going::Final {
            return Ok(());
        }
        self.last_id = id;
        if self.ids.len() >= self.limits.streams_max as usize {
            self.out.frame(kind::RST_STREAM, 0, id, &[&(Reason::RefusedStream as u32).to_be_bytes()]);
            return Ok(());
        }
        let slot =
            Slot { ended: ends_stream, ..Slot::new(id, STREAM_WINDOW, SendWindow::new(self.stream_window)) };
        let key = self.slots.insert(slot) as u32;
        self.ids.push(id, key);
        match collector.finish() {
            Ok(head) => self.requests.push_back((head, key, id)),
            Err(Bad::Malformed) => return self.break_stream(key, Reason::ProtocolError),
            Err(Bad::TooLarge) => {
                self.end(key, &Fields::Constant(&[(":status", "431")]));
            }
        }
        Ok(())
    }

    fn take_trailers(&mut self, id: u32, ends_stream: bool) -> Result<(), Reason> {
        let Some(key) = self.ids.find(id) else { return Ok(()) };
        let slot = &mut self.slots[key as usize];
        if slot.ended {
            return self.break_stream(key, Reason::StreamClosed);
        }
        if !ends_stream {
            return self.break_stream(key, Reason::ProtocolError);
        }
        slot.ended = true;
        if let Some(reader) = slot.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    fn take_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        frame::number(payload)?;
        if let Some(key) = self.find(head.stream)? {
            if !self.slots[key as usize].seen {
                self.resets_unseen += 1;
                if self.resets_unseen > RESETS_UNSEEN_MAX {
                    return Err(Reason::EnhanceYourCalm);
                }
            }
            self.forget(key);
        }
        Ok(())
    }

    fn take_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::ProtocolError);
        }
        if head.flags & flag::ACK != 0 {
            return if payload.is_empty() && self.greeted { Ok(()) } else { Err(Reason::FrameSizeError) };
        }
        let (settings, []) = payload.as_chunks::<6>() else { return Err(Reason::FrameSizeError) };
        self.settings_seen += 1;
        if self.settings_seen > SETTINGS_MAX {
            return Err(Reason::EnhanceYourCalm);
        }
        self.greeted = true;
        let mut stream_window = self.stream_window;
        for &[a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(value);
            match u16::from_be_bytes([a, b]) {
                setting::HEADER_TABLE_SIZE => self.encoder.set_limit(value as usize),
                setting::ENABLE_PUSH if value > 1 => return Err(Reason::ProtocolError),
                setting::INITIAL_WINDOW_SIZE if value > ID_MAX => return Err(Reason::FlowControlError),
                setting::INITIAL_WINDOW_SIZE => stream_window = value,
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Reason::ProtocolError);
                }
                setting::MAX_FRAME_SIZE => self.payload_max = (value as usize).min(SEND_PAYLOAD_MAX),
                _ => {}
            }
        }
        let more = i64::from(stream_window) - i64::from(self.stream_window);
        self.stream_window = stream_window;
        if more != 0 {
            for (key, slot) in &mut self.slots {
                slot.send_window.add(more)?;
                Self::line_up(&mut self.ready, key as u32, slot);
            }
        }
        self.out.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn take_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let payload: &[u8; 8] = payload.try_into().map_err(|_| Reason::FrameSizeError)?;
        if head.stream != 0 {
            return Err(Reason::ProtocolError);
        }
        if head.flags & flag::ACK == 0 {
            self.pings = self.pings.saturating_add(1);
            self.out.pong(payload);
        } else if self.going == Going::Announced && *payload == PING_STOPPING {
            self.going = Going::Final;
            self.go_away(self.last_id, Reason::NoError, &[]);
        }
        Ok(())
    }

    fn take_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let bytes = frame::number(payload)? & ID_MAX;
        if head.stream == 0 {
            return match bytes {
                0 => Err(Reason::ProtocolError),
                _ => self.send_window.add(i64::from(bytes)),
            };
        }
        let Some(key) = self.find(head.stream)? else { return Ok(()) };
        let slot = &mut self.slots[key as usize];
        let added =
            if bytes == 0 { Err(Reason::ProtocolError) } else { slot.send_window.add(i64::from(bytes)) };
        if let Err(reason) = added {
            return self.break_stream(key, reason);
        }
        Self::line_up(&mut self.ready, key, slot);
        Ok(())
    }

    fn go_away(&mut self, last_id: u32, reason: Reason, text: &[u8]) {
        let parts = [&last_id.to_be_bytes()[..], &(reason as u32).to_be_bytes(), text];
        self.out.frame(kind::GOAWAY, 0, 0, &parts);
    }

    /// Ends a stream that the client has broken.
    fn break_stream(&mut self, key: u32, reason: Reason) -> Result<(), Reason> {
        self.broken += 1;
        if self.broken > BROKEN_MAX {
            return Err(Reason::EnhanceYourCalm);
        }
        let id = self.slots[key as usize].id;
        if self.requests.iter().any(|&(_, _, waiting)| waiting == id) {
            self.resets_unseen += 1;
        }
        self.reset(key, reason);
        Ok(())
    }

    /// Ends a stream at once.
    fn reset(&mut self, key: u32, reason: Reason) {
        let id = self.slots[key as usize].id;
        self.out.frame(kind::RST_STREAM, 0, id, &[&(reason as u32).to_be_bytes()]);
        self.forget(key);
    }

    /// Says the last of a stream; if the client has not, it need not go on.
    pub(super) fn end(&mut self, key: u32, fields: &Fields) {
        self.write_headers(self.slots[key as usize].id, true, fields);
        if self.slots[key as usize].ended {
            self.forget(key);
        } else {
            self.reset(key, Reason::NoError);
        }
    }

    /// The stream is over.
    fn forget(&mut self, key: u32) {
        let slot = self.slots.remove(key as usize);
        self.ids.remove(slot.id);
        let unread = slot.received.len();
        if unread > 0 {
            self.release_connection(unread);
        }
        debug_assert!(
            self.ids.len() > 0 || self.receive_window.is_settled(),
            "every byte is given back, once"
        );
        if self.ready.len() > 2 * self.slots.len() + 64 {
            let slots = &self.slots;
            self.ready.retain(|&(key, id)| slots.get(key as usize).is_some_and(|slot| slot.id == id));
        }
        slot.reader.into_iter().chain(slot.watcher).for_each(Waker::wake);
        if self.is_done() {
            self.wake_task();
        }
    }

    /// Puts a stream that can write among those that do.
    pub(super) fn line_up(ready: &mut VecDeque<(u32, u32)>, key: u32, slot: &mut Slot) {
        if !slot.ready && !slot.queue.is_empty() && slot.send_window.room() > 0 {
            slot.ready = true;
            ready.push_back((key, slot.id));
        }
    }

    /// Moves queued data into the output, a frame of each stream in turn, as far as windows and room go.
    pub(super) fn pump(&mut self) {
        while !self.out.is_full() && self.send_window.room() > 0 {
            let Some((key, id)) = self.ready.pop_front() else { return };
            let (payload_max, room) = (self.payload_max, self.send_window.room());
            let Some(slot) = self.slots.get_mut(key as usize).filter(|slot| slot.id == id) else { continue };
            slot.ready = false;
            if slot.send_window.room() == 0 {
                continue; // narrowed since it was put in line
            }
            let Some(Item::Data(data)) = slot.queue.front_mut() else {
                unreachable!("an end leaves with the data before it");
            };
            let length = data.len().min(payload_max).min(room).min(slot.send_window.room());
            let (prefix, body) = data.take(length);
            self.out.data(id, &prefix, body);
            self.send_window.take(length);
            slot.send_window.take(length);
            if data.len() == 0 {
                slot.queue.pop_front();
            }
            if let Some(Item::End(_)) = slot.queue.front() {
                let Some(Item::End(fields)) = slot.queue.pop_front() else { unreachable!("just seen") };
                self.end(key, &fields);
            } else {
                Self::line_up(&mut self.ready, key, slot);
            }
        }
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
