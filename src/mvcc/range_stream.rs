//! Answering a RangeStream: the walk of a Range in chunks, each a message of its own.
//!
//! Chunks are sized as etcd sizes them: ten keys at first, then twice or half as many while a chunk's encoding is
//! below half or above twice the request limit. Unlike etcd's, a chunk ends before it is longer than
//! [`STREAM_MESSAGE_BYTES_MAX`] (one pair aside), so small pairs followed by large ones do not make a message that no
//! client takes; the next chunk then has as many keys as this one. Only the last message has header, `more` and
//! `count`.
#![forbid(unsafe_code)]

use bytes::BytesMut;

use super::planned::{Planned, Progress};
use super::range::{Emission, Plan, put_tail, tail_len};
use super::view::View;
use super::walk::{Interval, Position};
use crate::btree::Read;
use crate::error::Error;
use crate::limits::STREAM_MESSAGE_BYTES_MAX;
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
    /// Pairs the client wants in all; negative takes everything in one chunk, as etcd does.
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
    Chunk(Plan),
    /// The last chunk is known; counting the keys behind it.
    Rest { chunk: Emission, rest: Box<Plan> },
    /// A message stands.
    Message { chunk: Emission, last: Option<Last>, begun: bool },
    /// The last message has been written, or the stream has ended with an error.
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
        view.resolve(request.revision)?;
        // As in etcd, a negative revision is the newest for each chunk anew, and only none at all is held fast.
        if request.revision == 0 {
            request.revision = view.revision();
        }
        Ok(Self {
            revision: view.revision(),
            request,
            position: interval.start(),
            interval,
            total_limit,
            chunk_target: max_request_bytes,
            sent: 0,
            stage: Stage::Next,
        })
    }

    /// Main revision that is read; pin it for the stream's life.
    pub fn pin(&self) -> i64 {
        if self.request.revision <= 0 { self.revision } else { self.request.revision }
    }

    /// Goes on planning the next message, looking at up to `budget` index entries; true once it stands, or if
    /// there is none left.
    ///
    /// # Errors
    /// When the stream's revision has gone, or its range cannot be read any further.
    pub fn plan<R: Read>(&mut self, view: &View<'_, R>, budget: usize) -> Result<bool, Error> {
        self.stage = match core::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Next => Stage::Chunk(self.next_chunk(view)?),
            stage => stage,
        };
        self.stage = match core::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Chunk(chunk) => match chunk.step(view, budget)? {
                Progress::Pending(chunk) => Stage::Chunk(chunk),
                Progress::Done(chunk) => self.on_chunk(view, chunk)?,
            },
            Stage::Rest { chunk, rest } => match rest.step(view, budget)? {
                Progress::Pending(rest) => Stage::Rest { chunk, rest: Box::new(rest) },
                Progress::Done(rest) => {
                    let last = Last { more: true, count: self.sent + rest.count() };
                    Stage::Message { chunk, last: Some(last), begun: false }
                }
            },
            stage => stage,
        };
        Ok(matches!(self.stage, Stage::Message { .. } | Stage::Finished))
    }

    fn next_chunk<R: Read>(&self, view: &View<'_, R>) -> Result<Plan, Error> {
        let bytes = if self.total_limit < 0 { usize::MAX } else { STREAM_MESSAGE_BYTES_MAX };
        let (interval, position) = (self.interval.clone(), self.position.clone());
        Plan::part(view, &self.request, interval, position, bytes, false)
    }

    /// What comes after a chunk that is planned.
    fn on_chunk<R: Read>(&mut self, view: &View<'_, R>, chunk: Emission) -> Result<Stage, Error> {
        self.sent += chunk.kvs() as i64;
        if !self.request.count_only && chunk.more() && self.sent == self.total_limit {
            let request = RangeRequest { count_only: true, ..self.request.clone() };
            let (interval, behind) = (self.interval.clone(), chunk.behind().clone());
            let rest = Plan::part(view, &request, interval, behind, usize::MAX, true)?;
            return Ok(Stage::Rest { chunk, rest: Box::new(rest) });
        }
        let last = if self.request.count_only {
            Some(Last { more: false, count: chunk.count() })
        } else if !chunk.more() {
            Some(Last { more: false, count: self.sent })
        } else {
            self.adjust(&chunk);
            None
        };
        Ok(Stage::Message { chunk, last, begun: false })
    }

    /// Where and how long the next chunk is.
    fn adjust(&mut self, chunk: &Emission) {
        self.position = chunk.behind().clone();
        // What etcd measures is the chunk as a RangeResponse of its own, with a header that has only a revision.
        let size = Header::default().field_len(self.revision)
            + chunk.kvs_len()
            + tail_len(chunk.more(), chunk.count());
        let limit = match self.request.limit {
            limit if (chunk.kvs() as i64) < limit => chunk.kvs() as i64,
            limit if size < self.chunk_target / 2 => limit.saturating_mul(2),
            limit if size > self.chunk_target.saturating_mul(2) => limit / 2,
            limit => limit,
        };
        self.request.limit = limit.max(1).min(self.total_limit - self.sent);
    }

    /// True once the last message has been written.
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished)
    }

    /// Exact length of the encoded RangeStreamResponse that stands; none if no message does.
    pub fn message_len(&self, header: &Header) -> Option<usize> {
        self.inner_len(header).map(bytes_field_len)
    }

    fn inner_len(&self, header: &Header) -> Option<usize> {
        let Stage::Message { chunk, last, .. } = &self.stage else { return None };
        let tail = last.map_or(0, |last| header.field_len(self.revision) + tail_len(last.more, last.count));
        Some(chunk.kvs_len() + tail)
    }

    /// Appends the next slice of the message that stands; true once it is complete, and the next can be planned.
    ///
    /// # Errors
    /// When the stream's revision has gone.
    pub fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<bool, Error> {
        let inner_len = self.inner_len(header);
        let (Stage::Message { chunk, last, begun }, Some(inner_len)) = (&mut self.stage, inner_len) else {
            return Ok(true);
        };
        if !*begun {
            *begun = true;
            put_bytes_head(out, 1, inner_len);
            if last.is_some() {
                header.put_field(self.revision, out);
            }
        }
        if !chunk.emit_kvs(view, out, bytes)? {
            return Ok(false);
        }
        self.stage = match *last {
            Some(last) => {
                put_tail(out, last.more, last.count);
                Stage::Finished
            }
            None => Stage::Next,
        };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::write::{Writer, initialize};
    use crate::proto::etcdserverpb::{PutRequest, RangeStreamResponse};
    use prost::Message;

    fn put(store: &mut Store, keys: &[String]) {
        let mut txn = store.write();
        if txn.applied().revision == 0 {
            initialize(&mut txn);
        }
        let mut writer = Writer::begin(&mut txn);
        for key in keys {
            writer.put(&PutRequest { key: key.clone().into(), ..PutRequest::default() }).unwrap();
        }
        writer.finish();
        txn.commit();
    }

    /// The next message of a stream.
    fn next(stream: &mut RangeStream, store: &Store) -> RangeStreamResponse {
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let (view, mut out) = (View::new(&snapshot), BytesMut::new());
        while !stream.plan(&view, 100).unwrap() {}
        while !stream.emit(&view, &Header::default(), &mut out, usize::MAX).unwrap() {}
        RangeStreamResponse::decode(out.freeze()).unwrap()
    }

    #[test]
    fn a_stream_at_a_negative_revision_sees_what_is_put_while_it_runs_under_its_first_header() {
        for (revision, sees) in [(-1, true), (0, false)] {
            let mut store = Store::in_memory();
            put(&mut store, &(0..15).map(|n| format!("a{n:02}")).collect::<Vec<_>>());
            let request =
                RangeRequest { key: "a".into(), range_end: "b".into(), revision, ..RangeRequest::default() };
            let mut reader = store.readers().register();
            let mut stream = RangeStream::new(&View::new(&reader.snapshot()), &request, 1 << 20).unwrap();
            let first = next(&mut stream, &store).range_response.unwrap();
            assert_eq!((first.kvs.len(), first.header), (10, None));
            put(&mut store, &["a99".into()]);
            let last = next(&mut stream, &store).range_response.unwrap();
            assert_eq!((last.kvs.len(), last.count), if sees { (6, 16) } else { (5, 15) });
            assert_eq!(last.header.map(|header| header.revision), Some(2), "the revision at the beginning");
        }
    }
}
