//! Legs of long answers: what one of them does, and what it may come to.
#![forbid(unsafe_code)]

use bytes::BytesMut;
use prost::Message as _;

use super::judge::judge;
use kevel::btree::Read;
use kevel::error::Error;
use kevel::mvcc::range::SLICE_SURPLUS;
use kevel::mvcc::{Planned, Progress, RangeStream, Slices, View};
use kevel::proto::etcdserverpb::*;
use kevel::response::Header;

/// A slice of fewer bytes than this is not asked for.
const SLICE_BYTES_MIN: usize = 64;

/// The sizes of one leg.
pub struct Leg {
    /// Index entries to look at.
    pub entries: usize,
    /// Bytes to write.
    pub bytes: usize,
    /// A planted bug loses the message of a stream, or repeats a pair in it.
    pub loses: bool,
    pub repeats: bool,
}

/// Whether a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Not,
    /// A compaction has ended it.
    Early,
    Whole,
}

/// An answer whose length is not known yet, or one that is being written.
pub enum Stage<P: Planned> {
    Planning(Option<Box<P>>),
    Writing(Box<P::Answer>),
}

/// Why a leg was the last before its time.
pub enum Broken {
    Planning(Error),
    Writing(Error),
}

impl<P: Planned> Stage<P> {
    pub fn planning(plan: P) -> Self {
        Self::Planning(Some(Box::new(plan)))
    }

    /// One leg; true if it was the last.
    pub fn leg<R: Read>(
        &mut self,
        view: &View<'_, R>,
        leg: &Leg,
        got: &mut BytesMut,
    ) -> Result<bool, Broken> {
        if let Self::Planning(plan) = self {
            let plan = plan.take().expect("a plan that is not finished");
            *self = match plan.step(view, leg.entries).map_err(Broken::Planning)? {
                Progress::Pending(plan) => Self::planning(plan),
                Progress::Done(answer) => Self::Writing(Box::new(answer)),
            };
        }
        let Self::Writing(answer) = self else { return Ok(false) };
        let header = Header::default();
        let bytes = leg.bytes.max(answer.encoded_len(&header) / 100);
        let before = got.len();
        let complete = answer.emit(view, &header, got, bytes).map_err(Broken::Writing)?;
        judge_slice(got.len() - before, bytes);
        Ok(complete)
    }
}

/// A slice has about as many bytes as were asked for.
fn judge_slice(len: usize, bytes: usize) {
    let most = bytes.max(SLICE_BYTES_MIN) + 4 * SLICE_SURPLUS;
    judge!(len <= most, "a slice has {len} bytes, at most {most} were asked for");
}

/// A read at a pinned revision may end early only because its sort has no memory.
pub fn judge_early_end(at: i64, error: Error) -> bool {
    judge!(error == Error::TooManyRequests, "a read at the pinned revision {at} ends with {error:?}");
    true
}

/// A leg of a stream.
pub fn stream_leg<R: Read>(
    view: &View<'_, R>,
    at: i64,
    leg: &Leg,
    stream: &mut RangeStream,
    message: &mut BytesMut,
    got: &mut Vec<RangeResponse>,
    chunks: &mut Chunks,
) -> Ended {
    let header = Header::default();
    match stream.plan(view, leg.entries) {
        Ok(true) => {}
        Ok(false) => return Ended::Not,
        // A new chunk is a read of its own, as etcd has it: a compaction ends the stream.
        Err(error) => {
            let compacted = view.compact_revision();
            let may_end = error == Error::Compacted && compacted > at;
            judge!(may_end, "a stream at {at} ends with {error:?}, {compacted} is compacted");
            return Ended::Early;
        }
    }
    let Some(len) = stream.message_len(&header) else { panic!("judge: a message that stands has no length") };
    match stream.emit(view, &header, message, leg.bytes.max(len / 100)) {
        Ok(true) => {}
        Ok(false) => return Ended::Not,
        Err(error) => panic!("judge: a stream at the pinned revision {at} ends with {error:?}"),
    }
    judge!(message.len() == len, "a message of {len} bytes has {}", message.len());
    let last = stream.is_finished();
    let response = RangeStreamResponse::decode(message.split()).expect("an encoded response");
    let mut chunk = response.range_response.unwrap_or_default();
    judge!(last == chunk.header.is_some(), "the last message of a stream has the header: {chunk:?}");
    judge!(last || !chunk.kvs.is_empty(), "a message of a stream has no pair");
    chunks.on_chunk(&chunk, last);
    if leg.repeats
        && let Some(kv) = got.last().and_then(|before| before.kvs.last())
    {
        chunk.kvs.insert(0, kv.clone());
    }
    if !leg.loses || last {
        got.push(chunk);
    }
    if last { Ended::Whole } else { Ended::Not }
}

/// How many pairs a message of a stream has, as etcd reckons: ten at first, then twice or half as many while the
/// message before was short or long.
pub struct Chunks {
    /// None where all pairs come at once.
    target: Option<usize>,
    /// The least and the most pairs of the next message that is not the last.
    next: (usize, usize),
    left: usize,
    revision: i64,
}

impl Chunks {
    /// What etcd measures is not known to the byte.
    const BLUR: usize = 24;

    pub fn new(target: usize, request: &RangeRequest, revision: i64) -> Self {
        let left = if request.limit == 0 { usize::MAX } else { request.limit.max(0) as usize };
        let target = (request.limit >= 0 && !request.count_only).then_some(target);
        Self { target, next: (10.min(left), 10.min(left)), left, revision }
    }

    fn on_chunk(&mut self, chunk: &RangeResponse, last: bool) {
        let Some(target) = self.target else { return };
        let (pairs, (least, most)) = (chunk.kvs.len(), self.next);
        judge!(
            pairs <= most && (last || pairs >= least),
            "a message of a stream has {pairs} pairs, and {least} to {most} are due"
        );
        self.left -= pairs;
        let header = Some(ResponseHeader { revision: self.revision, ..ResponseHeader::default() });
        let size = RangeResponse { header, kvs: chunk.kvs.clone(), more: true, count: 0 }.encoded_len();
        let sizes = [size.saturating_sub(Self::BLUR), size + Self::BLUR];
        let after = sizes.map(|size| match pairs {
            _ if size < target / 2 => pairs * 2,
            _ if size > target * 2 => (pairs / 2).max(1),
            _ => pairs,
        });
        self.next = (after[0].min(after[1]).min(self.left), after[0].max(after[1]).min(self.left));
    }
}

/// All messages put together are the answer.
pub fn judge_stream(at: i64, got: &[RangeResponse], expected: &RangeResponse) {
    let kvs: Vec<_> = got.iter().flat_map(|chunk| chunk.kvs.iter().cloned()).collect();
    let whole = RangeResponse { kvs, ..got[got.len() - 1].clone() };
    judge!(whole == *expected, "a stream at {at} is {whole:?}, not {expected:?}");
}
