//! Large revisions: events of one revision for one watcher that are more than is held in memory at once.
//!
//! ```text
//!   measure ──▶ send ──▶ done          one response: its length first, then its events piece by piece
//!      ▲          │
//!      └──────────┘                    the next fragment, for a client that asked for fragments
//! ```
//!
//! The events are read from the store again for each piece, at the pace of the stream, so that no more is in memory
//! than one piece, however long an event is. From the first piece of a response to the last, and from the first
//! fragment to the last, other responses of the stream are held back: clients put together what comes in a row. The
//! stream's other watchers wait. No revision is pinned for this. A compaction that takes the revision away when a
//! part of it was sent ends the stream, and the client that comes back is told that its revision is compacted.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use bytes::Bytes;

use super::encode::{Change, Fields, Head, Output, Part};
use super::history::{History, PastEvent};
use super::hub::{Fault, Hub, PASSED_COST, PREV_COST, StreamId};
use super::key_index::Span;
use super::watcher::{Flags, NIL, State, Watcher};

/// What is being done with the response at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Finding where it ends; the length so far.
    Measure(u64),
    /// Bytes left of the length that was announced, and the sub revision where the next response begins, if any.
    Send(u64, Option<i64>),
}

/// A revision on its way to one watcher.
#[derive(Debug)]
pub(super) struct Large {
    /// The watcher; [`NIL`] once it was cancelled.
    number: u32,
    watch_id: i64,
    flags: Flags,
    span: Span,
    revision: i64,
    /// The revision that headers show.
    header: i64,
    /// The sub revision where the response at hand begins.
    start: i64,
    /// Where to go on: a sub revision, and how many bytes of its event were sent.
    at: (i64, usize),
    /// The compaction revision at the start: a later one may have taken events away.
    compacted: i64,
    phase: Phase,
    /// The client has seen a part of the revision.
    has_begun: bool,
}

/// One piece of a response, and whether the revision's last event was read.
struct Piece {
    bytes: Vec<u8>,
    events: u32,
    is_end: bool,
}

impl Large {
    pub(super) fn is_of(&self, number: u32) -> bool {
        self.number == number
    }

    /// The watcher was cancelled. What was begun is sent to its end.
    pub(super) fn forget_watcher(&mut self) {
        self.number = NIL;
    }

    /// Whether there is something to do: measuring needs no room, sending does.
    pub(super) fn may_run(&self, room: i64) -> bool {
        room > 0 || matches!(self.phase, Phase::Measure(_))
    }

    /// Whether other responses have to wait.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn wants(&self, event: &PastEvent<'_>) -> bool {
        let filter = if event.delete { Flags::NO_DELETE } else { Flags::NO_PUT };
        self.span.contains(event.key) && !self.flags.has(filter)
    }

    fn prev<'h>(&self, event: &PastEvent<'_>, history: &'h dyn History) -> Option<&'h [u8]> {
        let wants = self.flags.has(Flags::PREV_KV) && !event.create;
        wants.then(|| history.value_at(event.key, event.revision - 1)).flatten()
    }

    fn cost(&self, event: &PastEvent<'_>) -> usize {
        let looks = self.flags.has(Flags::PREV_KV) && !event.create;
        PASSED_COST + event.key.len() + PREV_COST * usize::from(looks)
    }

    /// Reads on to measure the response, which stays below `limit` unless it has one event. None if more is to be
    /// read; otherwise its length, and where the next one begins.
    fn measure(&mut self, history: &dyn History, limit: u64, budget: usize) -> Option<(u64, Option<i64>)> {
        let Phase::Measure(mut length) = self.phase else { return None };
        let (mut spent, mut follows, mut stopped) = (0, None, false);
        history.events((self.revision, self.at.0), self.revision, &mut |event| {
            if spent >= budget {
                (self.at, stopped) = ((event.sub, 0), true);
                return ControlFlow::Break(());
            }
            spent += PASSED_COST + event.key.len();
            if self.wants(&event) {
                spent += self.cost(&event);
                let len = Change::of(&event).len(self.prev(&event, history)) as u64;
                if length > 0 && length + len >= limit {
                    follows = Some(event.sub);
                    return ControlFlow::Break(());
                }
                length += len;
            }
            ControlFlow::Continue(())
        });
        self.phase = Phase::Measure(length);
        (!stopped).then_some((length, follows))
    }

    /// Reads the next piece of the response. None if the store has lost an event of which a part was sent.
    fn read_piece(&mut self, history: &dyn History, bytes_max: usize, budget: usize) -> Option<Piece> {
        let mut piece = Piece { bytes: Vec::with_capacity(bytes_max), events: 0, is_end: true };
        let (mut spent, mut is_gone) = (0, false);
        history.events((self.revision, self.at.0), self.revision, &mut |event| {
            let (sub, sent) = self.at;
            let is_full = spent >= budget || piece.bytes.len() >= bytes_max;
            is_gone = sent > 0 && sub != event.sub && !is_full;
            if is_full || is_gone {
                piece.is_end = false;
                return ControlFlow::Break(());
            }
            spent += self.cost(&event);
            self.at = (event.sub + 1, 0);
            if self.wants(&event) {
                let (change, prev) = (Change::of(&event), self.prev(&event, history));
                let sent = sent + change.copy_part(prev, sent, bytes_max, &mut piece.bytes);
                if sent < change.len(prev) {
                    self.at = (event.sub, sent);
                } else {
                    piece.events += 1;
                }
            }
            ControlFlow::Continue(())
        });
        piece.is_end &= self.at.1 == 0;
        (!is_gone).then_some(piece)
    }
}

/// What follows a piece of work.
enum Next {
    GoOn,
    Done,
    Fail(Fault),
}

impl Hub {
    /// Riding to large: the watcher alone matches more of a revision than is held in memory.
    pub(super) fn become_large(&mut self, number: u32, revision: i64) {
        let slot = self.watchers[number as usize].stream as usize;
        if self.streams[slot].large.is_some() || self.streams[slot].room <= 0 {
            return self.park(number, revision);
        }
        self.detach(number);
        self.leave_wave(number);
        let watcher = &mut self.watchers[number as usize];
        (watcher.state, watcher.next) = (State::Large, revision);
        watcher.flags.set(Flags::QUIET, false);
        let Watcher { id, flags, group, .. } = *watcher;
        let stream = &mut self.streams[slot];
        stream.large = Some(Box::new(Large {
            number,
            watch_id: id,
            flags,
            span: self.index.span(group),
            revision,
            header: if flags.has(Flags::LIVE) { revision } else { self.revision },
            start: 0,
            at: (0, 0),
            compacted: self.compacted,
            phase: Phase::Measure(0),
            has_begun: false,
        }));
        let id = stream.id;
        self.wake_large(id);
    }

    /// A stream with a large revision has room again.
    pub(super) fn wake_large(&mut self, id: StreamId) {
        if let Some(stream) = self.stream_mut(id)
            && !std::mem::replace(&mut stream.large_queued, true)
        {
            self.large.push_back(id);
        }
    }

    /// One piece of a large revision. A stream without room is left out until it has some.
    pub(super) fn large_slice(&mut self, history: &dyn History, budget: usize) {
        let Some(id) = self.large.pop_front() else { return };
        let Some(stream) = self.stream_mut(id) else { return };
        stream.large_queued = false;
        let room = stream.room;
        let Some(mut large) = stream.large.take_if(|large| large.may_run(room)) else { return };
        let compact_revision = history.compact_revision();
        let is_gone = compact_revision >= large.revision && compact_revision != large.compacted;
        let next = match large.phase {
            _ if is_gone && large.has_begun => Next::Fail(Fault::Interrupted),
            // The watcher rides again, and is told.
            _ if is_gone => return self.finish_large(id, &large, large.revision),
            Phase::Measure(_) => self.measure(id, &mut large, history, budget),
            Phase::Send(left, follows) => self.send_piece(id, &mut large, history, budget, (left, follows)),
        };
        match next {
            Next::GoOn => {
                if let Some(stream) = self.stream_mut(id) {
                    stream.large = Some(large);
                    self.wake_large(id);
                }
            }
            Next::Done => self.finish_large(id, &large, large.revision + 1),
            Next::Fail(fault) => self.fail(id, fault),
        }
    }

    fn head_of(&self, large: &Large, fragment: bool) -> Head {
        let fields = Fields { watch_id: large.watch_id, fragment, ..Fields::default() };
        Head::header(self.config.identity, large.header).with(fields)
    }

    /// Measures the response at hand, and announces it when its length is known.
    fn measure(&mut self, id: StreamId, large: &mut Large, history: &dyn History, budget: usize) -> Next {
        let limit = match large.flags.has(Flags::FRAGMENT) {
            true => self.fragment_bytes().saturating_sub(self.head_of(large, true).len()) as u64,
            false => u64::MAX,
        };
        let Some((length, follows)) = large.measure(history, limit, budget) else { return Next::GoOn };
        if length == 0 {
            return Next::Done; // the store has lost the events that were found before
        }
        let head = self.head_of(large, follows.is_some());
        let total = head.len() as u64 + length;
        if total > self.config.response_bytes_max as u64 {
            return Next::Fail(Fault::TooLarge { bytes: total });
        }
        large.at = (large.start, 0);
        (large.phase, large.has_begun) = (Phase::Send(length, follows), true);
        let part = Part::First { total: total as usize };
        self.put(id.slot(), Output { stream: id, part, head, body: Bytes::new(), events: 0 });
        Next::GoOn
    }

    fn send_piece(
        &mut self,
        id: StreamId,
        large: &mut Large,
        history: &dyn History,
        budget: usize,
        (left, follows): (u64, Option<i64>),
    ) -> Next {
        let bytes_max = left.min(self.config.limits.piece_bytes.max(1) as u64) as usize;
        let Some(piece) = large.read_piece(history, bytes_max, budget) else {
            return Next::Fail(Fault::Interrupted);
        };
        let left = left - piece.bytes.len() as u64;
        if left > 0 && piece.is_end {
            return Next::Fail(Fault::Interrupted);
        }
        large.phase = Phase::Send(left, follows);
        if !piece.bytes.is_empty() {
            let (part, head, body) = (Part::Rest, Head::empty(), piece.bytes.into());
            self.put(id.slot(), Output { stream: id, part, head, body, events: piece.events });
        }
        match follows {
            _ if left > 0 => Next::GoOn,
            None => Next::Done,
            Some(sub) => {
                (large.start, large.at, large.phase) = (sub, (sub, 0), Phase::Measure(0));
                Next::GoOn
            }
        }
    }

    /// Large to riding: the watcher goes on at `next`, and the stream with what was held back.
    fn finish_large(&mut self, id: StreamId, large: &Large, next: i64) {
        if large.number != NIL {
            let watcher = &mut self.watchers[large.number as usize];
            (watcher.state, watcher.next) = (State::Waiting, next);
            if large.has_begun {
                // Time without events begins when the last part was sent.
                watcher.flags.set(Flags::QUIET, false);
            }
            self.ride(large.number);
        }
        let held = self.stream_mut(id).map(|stream| std::mem::take(&mut stream.held)).unwrap_or_default();
        for output in held {
            self.put(id.slot(), output);
        }
        self.make_ready(id);
    }
}
