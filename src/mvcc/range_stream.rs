//! Answering a RangeStream: the walk of a Range in chunks, each a message of its own.
//!
//! Chunks are sized as etcd sizes them: ten keys at first, then twice or half as many while a chunk's encoding is
//! below half or above twice the request limit. Only the last message has header, `more` and `count`.
#![forbid(unsafe_code)]

use bytes::BytesMut;

use super::range::Range;
use super::view::View;
use super::walk::{Interval, Position};
use crate::btree::Read;
use crate::error::Error;
use crate::proto::etcdserverpb::RangeRequest;
use crate::response::Header;
use crate::wire::{bytes_field_len, put_bytes_head};

/// Keys of the first chunk.
const FIRST_CHUNK: i64 = 10;

/// A RangeStream being answered: plan a message, emit it, and again until it is finished.
pub struct RangeStream {
    request: RangeRequest,
    interval: Interval,
    /// Where the next chunk starts.
    position: Position,
    /// Pairs the client wants in all; negative takes everything in one chunk.
    total_limit: i64,
    chunk_target: usize,
    /// The store's revision when the stream started: what the last header says.
    revision: i64,
    /// Pairs in the messages so far.
    sent: i64,
    stage: Stage,
}

enum Stage {
    /// The next chunk starts at `position`.
    Next,
    /// Walking the index for the next chunk.
    Chunk(Range),
    /// The last chunk is known; counting the keys behind it.
    Rest { chunk: Range, rest: Box<Range> },
    /// A message stands.
    Message { chunk: Range, last: Option<Last>, begun: bool },
    /// The last message has been written.
    Finished,
}

#[derive(Clone, Copy)]
struct Last {
    more: bool,
    count: i64,
}

impl RangeStream {
    /// A checked RangeStream, on the state at its arrival. `max_request_bytes` is the size that chunks aim for.
    pub fn new<R: Read>(
        view: &View<'_, R>,
        request: &RangeRequest,
        max_request_bytes: usize,
    ) -> Result<Self, Error> {
        let mut request = request.clone();
        let interval = Interval::new(&request.key, &request.range_end);
        let total_limit = if request.limit == 0 { i64::MAX } else { request.limit };
        request.limit = FIRST_CHUNK.min(total_limit);
        let position = interval.start();
        let chunk = Range::from(view, &request, interval.clone(), position.clone(), false)?;
        if request.revision == 0 {
            request.revision = chunk.revision();
        }
        Ok(Self {
            revision: chunk.revision(),
            request,
            interval,
            position,
            total_limit,
            chunk_target: max_request_bytes,
            sent: 0,
            stage: Stage::Chunk(chunk),
        })
    }

    /// Main revision that is read; pin it for the stream's life.
    pub fn at(&self) -> i64 {
        if self.request.revision <= 0 { self.revision } else { self.request.revision }
    }

    /// Goes on planning the next message, looking at up to `budget` index entries; true once it stands, or if
    /// there is none left. A compaction that passed the stream's revision in between ends it with an error.
    pub fn plan<R: Read>(&mut self, view: &View<'_, R>, budget: usize) -> Result<bool, Error> {
        if let Stage::Next = self.stage {
            let (interval, position) = (self.interval.clone(), self.position.clone());
            self.stage = Stage::Chunk(Range::from(view, &self.request, interval, position, false)?);
        }
        match &mut self.stage {
            Stage::Message { .. } | Stage::Finished => return Ok(true),
            Stage::Next => unreachable!("it has just become a chunk"),
            Stage::Chunk(chunk) => {
                if !chunk.plan(view, budget) {
                    return Ok(false);
                }
            }
            Stage::Rest { rest, .. } => {
                if !rest.plan(view, budget) {
                    return Ok(false);
                }
            }
        }
        self.stage = match core::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Chunk(chunk) => {
                self.sent += chunk.kvs() as i64;
                if self.request.count_only {
                    let count = chunk.count();
                    Stage::Message { chunk, last: Some(Last { more: false, count }), begun: false }
                } else if !chunk.more() {
                    let count = self.sent;
                    Stage::Message { chunk, last: Some(Last { more: false, count }), begun: false }
                } else if self.sent == self.total_limit {
                    let count_request = RangeRequest { count_only: true, ..self.request.clone() };
                    let behind = chunk.behind().clone();
                    let rest = Range::from(view, &count_request, self.interval.clone(), behind, true)?;
                    self.stage = Stage::Rest { chunk, rest: Box::new(rest) };
                    return Ok(false);
                } else {
                    self.adjust(&chunk);
                    Stage::Message { chunk, last: None, begun: false }
                }
            }
            Stage::Rest { chunk, rest } => {
                let last = Last { more: true, count: self.sent + rest.count() };
                Stage::Message { chunk, last: Some(last), begun: false }
            }
            stage => stage,
        };
        Ok(true)
    }

    /// Where and how long the next chunk is.
    fn adjust(&mut self, chunk: &Range) {
        self.position = chunk.behind().clone();
        // What etcd measures is the chunk as a RangeResponse of its own, with a header that has only a revision.
        let size = Header::default().field_len(self.revision)
            + chunk.kvs_len()
            + Range::tail_len(chunk.more(), chunk.count());
        let limit = match self.request.limit {
            limit if size < self.chunk_target / 2 => limit.saturating_mul(2),
            limit if size > self.chunk_target * 2 => (limit / 2).max(1),
            limit => limit,
        };
        self.request.limit = limit.min(self.total_limit - self.sent);
    }

    /// True once the last message has been written.
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished)
    }

    /// Exact length of the encoded RangeStreamResponse that stands.
    pub fn message_len(&self, header: &Header) -> usize {
        bytes_field_len(self.inner_len(header))
    }

    fn inner_len(&self, header: &Header) -> usize {
        let Stage::Message { chunk, last, .. } = &self.stage else {
            panic!("the length of a message is known once it is planned")
        };
        let tail =
            last.map_or(0, |last| header.field_len(self.revision) + Range::tail_len(last.more, last.count));
        chunk.kvs_len() + tail
    }

    /// Appends the next slice of the message that stands; true once it is complete, and the next can be planned.
    pub fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> bool {
        let inner_len = self.inner_len(header);
        let Stage::Message { chunk, last, begun } = &mut self.stage else {
            panic!("a message is written once it is planned")
        };
        if !*begun {
            *begun = true;
            put_bytes_head(out, 1, inner_len);
            if last.is_some() {
                header.put_field(self.revision, out);
            }
        }
        if !chunk.emit_kvs(view, out, bytes) {
            return false;
        }
        self.stage = match *last {
            Some(last) => {
                Range::put_tail(out, last.more, last.count);
                Stage::Finished
            }
            None => Stage::Next,
        };
        true
    }
}
