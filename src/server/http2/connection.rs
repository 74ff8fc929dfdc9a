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
//!   header blocks        128 KB of fields, decoded; 128 KB and 32 frames as they come; then the connection ends
//!   requests waiting     4 MB of fields per connection, then more are refused
//!   requests taken back  four times the streams that it may open, until somebody looks; then it ends
//!   broken streams       1024 per connection, and those beyond the streams that it may open; then it ends
//!   SETTINGS             32 in one turn and a walk over 250 000 streams, then it ends
//!   all of that          what `memory` allows all connections together
//!   answers to all that  nothing more is read while 256 KB wait to be sent
//! ```
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker, ready};

use slab::Slab;

use super::backlog::{Backlog, Waiting};
use super::frame::{self, Head, Reason, flag, kind, setting};
use super::frame_reader::FrameReader;
use super::hpack::{Decoder, Fields, Undecoded};
use super::ids::Ids;
use super::memory::Memory;
use super::request::{Collector, RequestHead};
use super::sending::Sending;
use super::slot::{Reading, Slot, Stage};
use super::stream::Stream;
use super::window::{self, ReceiveWindow};
use crate::stdx::waker::keep;

/// Windows that a client may fill before we read: one stream, and all of a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Decoded fields of one request; room for any token.
const HEADER_LIST_MAX: usize = 128 * 1024;
/// A header block as it comes: no longer than its fields are. And the CONTINUATION frames that it may come in.
const BLOCK_BYTES_MAX: usize = HEADER_LIST_MAX;
const BLOCK_FRAMES_MAX: u32 = 32;
/// Streams that a client may break, or begin beyond what it may, in the life of a connection.
const BROKEN_MAX: u32 = 1024;
/// SETTINGS frames in one turn, and streams whose windows they change: some milliseconds of work.
const SETTINGS_MAX: u32 = 32;
const WINDOWS_CHANGED_MAX: usize = 250_000;
/// The largest id of a stream.
const ID_MAX: u32 = (1 << 31) - 1;
/// Payloads of our pings: whether the client is alive, and how far it had come when we began to stop.
const PING_ALIVE: [u8; 8] = *b"alive?!?";
const PING_STOPPING: [u8; 8] = *b"stopping";

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

/// How far the connection is on its way to an orderly end.
#[derive(PartialEq)]
enum Going {
    /// The connection goes on.
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
    frames: FrameReader,
    /// SETTINGS must come before anything else.
    greeted: bool,
    block: Option<Block>,
    decoder: Decoder,
    pub(super) sending: Sending,
    ids: Ids,
    pub(super) slots: Slab<Slot>,
    /// The largest id that a client has used.
    last_id: u32,
    backlog: Backlog,
    broken: u32,
    memory: Rc<Memory>,
    /// Data that came and was not read, of all streams.
    unread_bytes: usize,
    /// Bytes of an unfinished frame, an unfinished header block and waiting requests, as counted in `memory`.
    counted_bytes: usize,
    /// Bytes of the output, as counted in `memory`.
    counted_unsent: usize,
    /// Frames that came whole, outside an unfinished header block.
    whole_frames: u64,
    receive_window: ReceiveWindow,
    going: Going,
    pings: u32,
    data_seen: bool,
    settings_seen: u32,
    windows_changed: usize,
    task: Option<Waker>,
    in_turn: bool,
}

impl Http2 {
    /// A connection of which nothing has been read, not even the preface.
    pub fn new(limits: Limits, memory: Rc<Memory>) -> Rc<Self> {
        let mut state = State {
            limits,
            frames: FrameReader::default(),
            greeted: false,
            block: None,
            decoder: Decoder::default(),
            sending: Sending::default(),
            ids: Ids::default(),
            slots: Slab::new(),
            last_id: 0,
            backlog: Backlog::default(),
            broken: 0,
            memory,
            unread_bytes: 0,
            counted_bytes: 0,
            counted_unsent: 0,
            whole_frames: 0,
            receive_window: ReceiveWindow::new(CONNECTION_WINDOW),
            going: Going::No,
            pings: 0,
            data_seen: false,
            settings_seen: 0,
            windows_changed: 0,
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
        let before = self.with(|state| {
            state.in_turn = true;
            (state.settings_seen, state.windows_changed) = (0, 0);
            state.sending.out.begin_turn();
            keep(&mut state.task, waker)
        });
        drop(before);
    }

    /// The turn is over.
    pub fn end_turn(&self) {
        self.with(|state| {
            state.in_turn = false;
            state.count_held();
        });
    }

    /// Takes bytes that the client sent.
    ///
    /// # Errors
    /// When the connection is over, by the client's will or because it broke the rules.
    pub fn receive(&self, bytes: &[u8]) -> Result<(), Over> {
        self.with(|state| {
            let mut received = state.receive(bytes);
            state.count_held();
            if received.is_ok() && state.memory.is_full(state.block_bytes()) {
                received = Err(Reason::EnhanceYourCalm);
            }
            state.frames.shrink();
            match received {
                Ok(()) if state.is_done() => Err(Over),
                Ok(()) => {
                    state.pump();
                    Ok(())
                }
                Err(reason) => {
                    state.sending.go_away(state.last_id, reason, &[]);
                    Err(Over)
                }
            }
        })
    }

    /// The next request that came.
    pub fn next_request(self: &Rc<Self>) -> Option<(Box<RequestHead>, Stream)> {
        self.with(|state| {
            let slots = &state.slots;
            let Waiting { head, key, id, .. } = state.backlog.pop(|request| is_open(slots, request))?;
            state.slots[key as usize].reading = Reading::Served;
            Some((head, Stream::new(self.clone(), key, id)))
        })
    }

    /// Whether requests wait for [`Http2::next_request`].
    pub fn has_requests(&self) -> bool {
        self.with(|state| !state.backlog.is_empty())
    }

    /// Whether so much waits to be sent that nothing should be read or answered that makes it more.
    pub fn is_clogged(&self) -> bool {
        self.with(|state| state.sending.out.is_clogged())
    }

    /// Sends what there is to send through `write`, which says how much it took.
    pub fn poll_send(
        &self,
        mut write: impl FnMut(&[io::IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        self.with(|state| {
            let sent = state.poll_send(&mut write);
            state.count_unsent();
            sent
        })
    }

    /// Something that the client has begun to say and not finished: a frame, a header block, its first words. The
    /// number is another once that is finished and something else is not.
    pub fn unfinished(&self) -> Option<u64> {
        self.with(|state| {
            let is_midway = state.block.is_some() || state.frames.held() > 0 || !state.greeted;
            is_midway.then_some(state.whole_frames)
        })
    }

    /// Bytes written in this turn.
    pub fn wrote(&self) -> usize {
        self.with(|state| state.sending.out.wrote())
    }

    /// Whether all there is to send are acknowledgements of pings.
    pub fn holds_only_pongs(&self) -> bool {
        self.with(|state| state.sending.out.holds_only_pongs())
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
        self.with(|state| state.sending.out.frame(kind::PING, 0, 0, &[&PING_ALIVE]));
    }

    /// Begins to stop: streams that the client has begun before it hears of it are served to their end.
    pub fn shut_down(&self) {
        self.with(|state| {
            if state.going == Going::No {
                state.going = Going::Announced;
                state.sending.go_away(ID_MAX, Reason::NoError, &[]);
                state.sending.out.frame(kind::PING, 0, 0, &[&PING_STOPPING]);
            }
        });
    }

    /// The connection is over: so are its streams, and whoever waits for one of them learns it. What was written may
    /// still be sent.
    pub fn close(&self) {
        let (slots, backlog) = self.with(|state| {
            state.memory.close_streams(state.ids.len());
            state.memory.count_received(state.unread_bytes + state.counted_bytes, 0);
            (state.unread_bytes, state.counted_bytes) = (0, 0);
            state.ids = Ids::default();
            (state.frames, state.block) = (FrameReader::default(), None);
            state.sending.clear();
            state.task = None;
            (std::mem::take(&mut state.slots), std::mem::take(&mut state.backlog))
        });
        // Outside: what is dropped here may be the last that holds on to us.
        drop(backlog);
        for (_, slot) in slots {
            slot.reader.into_iter().chain(slot.watcher).for_each(Waker::wake);
        }
    }

    /// Says that the connection ends now, and why.
    pub fn abort(&self, reason: Reason, text: &[u8]) {
        self.with(|state| state.sending.go_away(state.last_id, reason, text));
    }
}

/// Whether the stream of a request is open.
fn is_open(slots: &Slab<Slot>, request: &Waiting) -> bool {
    slots.get(request.key as usize).is_some_and(|slot| slot.id == request.id)
}

impl Drop for State {
    fn drop(&mut self) {
        self.memory.close_streams(self.ids.len());
        self.memory.count_received(self.unread_bytes + self.counted_bytes, 0);
        self.memory.count_unsent(self.counted_unsent, 0);
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
        self.sending.out.frame(kind::SETTINGS, 0, 0, &[&payload]);
        self.widen(0, CONNECTION_WINDOW - window::INITIAL);
    }

    fn is_done(&self) -> bool {
        self.going == Going::Final && self.ids.len() == 0 && self.backlog.is_empty()
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

    fn poll_send(
        &mut self,
        write: &mut impl FnMut(&[io::IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.pump();
            if self.sending.out.unsent() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(self.sending.out.poll_send(&mut *write))?;
        }
    }

    /// Counts what is left in the output among what waits for clients.
    fn count_unsent(&mut self) {
        let unsent = self.sending.out.unsent();
        if unsent != self.counted_unsent {
            self.memory.count_unsent(std::mem::replace(&mut self.counted_unsent, unsent), unsent);
        }
    }

    /// Counts what the client has begun to say and what it waits for.
    fn count_held(&mut self) {
        let bytes = self.frames.held() + self.block_bytes() + self.backlog.bytes();
        if bytes != self.counted_bytes {
            self.memory.count_received(std::mem::replace(&mut self.counted_bytes, bytes), bytes);
        }
    }

    fn block_bytes(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.bytes.len())
    }

    /// Counts data that came and is not read yet.
    fn hold_unread(&mut self, bytes: usize) {
        self.memory.count_received(0, bytes);
        self.unread_bytes += bytes;
    }

    /// Counts data that was read, or thrown away.
    fn drop_unread(&mut self, bytes: usize) {
        self.memory.count_received(bytes, 0);
        self.unread_bytes -= bytes;
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let mut frames = std::mem::take(&mut self.frames);
        let received = frames.read(bytes, |head, payload| self.take_frame(head, payload));
        self.frames = frames;
        received
    }

    fn take_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let continues = head.kind == kind::CONTINUATION;
        if (!self.greeted && head.kind != kind::SETTINGS) || self.block.is_some() != continues {
            return Err(Reason::ProtocolError);
        }
        let taken = match head.kind {
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
        };
        self.whole_frames += u64::from(self.block.is_none());
        taken
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
            () if slot.stage == Stage::HalfClosed => Some(Reason::StreamClosed),
            () if self.memory.is_full(self.unread_bytes) && slot.reading != Reading::Over => {
                Some(Reason::EnhanceYourCalm)
            }
            () => slot.receive_window.take(payload.len()).err(),
        };
        if let Some(reason) = refused {
            self.release_connection(payload.len());
            return self.break_stream(key, reason);
        }
        let keep = slot.reading != Reading::Over && !data.is_empty();
        if keep {
            slot.received.push(data);
        }
        let ends = head.flags & flag::END_STREAM != 0;
        if ends {
            slot.stage = Stage::HalfClosed;
        }
        if (keep || ends)
            && let Some(reader) = &slot.reader
        {
            reader.wake_by_ref(); // it stays: who reads one message reads the next
        }
        if keep {
            self.hold_unread(data.len());
        }
        let thrown_away = payload.len() - if keep { data.len() } else { 0 };
        if thrown_away > 0 {
            self.release(key, thrown_away);
        }
        Ok(())
    }

    /// Gives the client back what it sent on a stream, and somebody has read or nobody will.
    pub(super) fn release_unread(&mut self, key: u32, bytes: usize) {
        self.drop_unread(bytes);
        self.release(key, bytes);
    }

    fn release(&mut self, key: u32, bytes: usize) {
        self.release_connection(bytes);
        let slot = &mut self.slots[key as usize];
        let id = slot.id;
        if let Some(more) = slot.receive_window.release(bytes)
            && slot.stage == Stage::Open
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
        self.sending.out.frame(kind::WINDOW_UPDATE, 0, stream, &[&bytes.to_be_bytes()]);
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
        let Some(mut block) = self.block.take().filter(|block| block.stream == head.stream) else {
            return Err(Reason::ProtocolError);
        };
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
        self.decoder.decode(block, |field| collector.add(field)).map_err(|undecoded| match undecoded {
            Undecoded::Malformed => Reason::CompressionError,
            Undecoded::TooLarge => Reason::EnhanceYourCalm,
        })?;
        if id <= self.last_id {
            return self.take_trailers(id, ends_stream);
        }
        if self.going == Going::Final {
            return Ok(());
        }
        self.last_id = id;
        if self.ids.len() >= self.limits.streams_max as usize {
            self.sending.write_reset(id, Reason::RefusedStream);
            return self.count_broken();
        }
        let bytes = collector.size();
        if self.memory.has_no_streams_left(self.ids.len())
            || self.backlog.is_full(bytes)
            || self.memory.is_full(self.backlog.bytes())
        {
            // The client has done nothing wrong and may try again.
            self.sending.write_reset(id, Reason::RefusedStream);
            return Ok(());
        }
        let Ok(head) = collector.finish() else {
            self.sending.write_reset(id, Reason::ProtocolError);
            return self.count_broken();
        };
        let stage = if ends_stream { Stage::HalfClosed } else { Stage::Open };
        let slot = Slot { stage, ..Slot::new(id, STREAM_WINDOW, self.sending.new_window()) };
        let key = self.slots.insert(slot) as u32;
        self.ids.push(id, key);
        self.memory.open_stream();
        self.backlog.push(Waiting { head, key, id, bytes });
        Ok(())
    }

    fn take_trailers(&mut self, id: u32, ends_stream: bool) -> Result<(), Reason> {
        let Some(key) = self.ids.find(id) else { return Ok(()) };
        let slot = &mut self.slots[key as usize];
        if slot.stage == Stage::HalfClosed {
            return self.break_stream(key, Reason::StreamClosed);
        }
        if !ends_stream {
            return self.break_stream(key, Reason::ProtocolError);
        }
        slot.stage = Stage::HalfClosed;
        if let Some(reader) = slot.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    fn take_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        frame::number(payload)?;
        let Some(key) = self.find(head.stream)? else { return Ok(()) };
        let is_waiting = self.slots[key as usize].reading == Reading::Waiting;
        if is_waiting && !self.backlog.take_back(self.limits.streams_max as usize) {
            return Err(Reason::EnhanceYourCalm);
        }
        self.forget(key);
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
        let mut stream_window = self.sending.stream_window;
        for &[a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(value);
            match u16::from_be_bytes([a, b]) {
                setting::HEADER_TABLE_SIZE => self.sending.encoder.set_limit(value as usize),
                setting::ENABLE_PUSH if value > 1 => return Err(Reason::ProtocolError),
                setting::INITIAL_WINDOW_SIZE if value > ID_MAX => return Err(Reason::FlowControlError),
                setting::INITIAL_WINDOW_SIZE => stream_window = value,
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Reason::ProtocolError);
                }
                setting::MAX_FRAME_SIZE => self.sending.set_payload_max(value as usize),
                _ => {}
            }
        }
        if stream_window != self.sending.stream_window {
            self.windows_changed += self.slots.len();
            if self.windows_changed > WINDOWS_CHANGED_MAX {
                return Err(Reason::EnhanceYourCalm);
            }
            self.sending.set_stream_window(stream_window, &mut self.slots)?;
        }
        self.sending.out.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn take_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let payload: &[u8; 8] = payload.try_into().map_err(|_| Reason::FrameSizeError)?;
        if head.stream != 0 {
            return Err(Reason::ProtocolError);
        }
        if head.flags & flag::ACK == 0 {
            self.pings = self.pings.saturating_add(1);
            self.sending.out.pong(payload);
        } else if self.going == Going::Announced && *payload == PING_STOPPING {
            self.going = Going::Final;
            self.sending.go_away(self.last_id, Reason::NoError, &[]);
        }
        Ok(())
    }

    fn take_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let bytes = frame::number(payload)? & ID_MAX;
        if head.stream == 0 {
            return match bytes {
                0 => Err(Reason::ProtocolError),
                _ => self.sending.window.add(i64::from(bytes)),
            };
        }
        let Some(key) = self.find(head.stream)? else { return Ok(()) };
        let slot = &mut self.slots[key as usize];
        let added =
            if bytes == 0 { Err(Reason::ProtocolError) } else { slot.send_window.add(i64::from(bytes)) };
        if let Err(reason) = added {
            return self.break_stream(key, reason);
        }
        self.sending.line_up(key, slot);
        Ok(())
    }

    /// Ends a stream that the client has broken.
    fn break_stream(&mut self, key: u32, reason: Reason) -> Result<(), Reason> {
        self.count_broken()?;
        self.reset(key, reason);
        Ok(())
    }

    /// Counts a stream that should not have been.
    fn count_broken(&mut self) -> Result<(), Reason> {
        self.broken += 1;
        if self.broken > BROKEN_MAX { Err(Reason::EnhanceYourCalm) } else { Ok(()) }
    }

    /// Ends a stream at once.
    fn reset(&mut self, key: u32, reason: Reason) {
        self.sending.write_reset(self.slots[key as usize].id, reason);
        self.forget(key);
    }

    /// Says the last of a stream; if the client has not, it need not go on.
    pub(super) fn end(&mut self, key: u32, fields: &Fields) {
        self.sending.write_headers(self.slots[key as usize].id, true, fields);
        if self.slots[key as usize].stage == Stage::HalfClosed {
            self.forget(key);
        } else {
            self.reset(key, Reason::NoError);
        }
    }

    /// The stream is over.
    fn forget(&mut self, key: u32) {
        let slot = self.slots.remove(key as usize);
        self.ids.remove(slot.id);
        self.memory.close_streams(1);
        let unread = slot.received.len();
        if unread > 0 {
            self.drop_unread(unread);
            self.release_connection(unread);
        }
        if slot.reading == Reading::Waiting {
            let slots = &self.slots;
            self.backlog.forget(self.ids.len(), |request| is_open(slots, request));
        }
        debug_assert!(
            self.ids.len() > 0 || self.receive_window.is_settled(),
            "every byte is given back, once"
        );
        self.sending.forget(&self.slots);
        slot.reader.into_iter().chain(slot.watcher).for_each(Waker::wake);
        if self.is_done() {
            self.wake_task();
        }
    }

    /// Moves queued data into the output as far as windows and room go, and ends the streams that then have no more.
    pub(super) fn pump(&mut self) {
        while let Some((key, fields)) = self.sending.pump(&mut self.slots) {
            self.end(key, &fields);
        }
    }
}
