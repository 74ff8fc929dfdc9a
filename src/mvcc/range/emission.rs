//! Writing a planned Range, slice by slice.
#![forbid(unsafe_code)]

use bytes::{BufMut, BytesMut};

use super::query::{Order, Query, Shape};
use super::sort::Sorted;
use crate::btree::Read;
use crate::error::Error;
use crate::mvcc::planned::Slices;
use crate::mvcc::remembered::Remembered;
use crate::mvcc::revision::Revision;
use crate::mvcc::values::{BATCH, Values};
use crate::mvcc::view::View;
use crate::mvcc::walk::{Position, Step, Walk};
use crate::response::Header;
use crate::wire::{KeyValue, bytes_field_len, int_field_len, put_bytes_field, put_bytes_head, put_int_field};

/// Index entries that one leg of an emission looks at.
const LEG: usize = 8192;

/// Pairs that a leg of the emission gathers before it reads their values.
const GATHERED: usize = 4 * BATCH;

/// Bytes of pairs that every leg may write, however little room there is: an answer always goes on.
const LEG_BYTES_MIN: usize = 64;

/// Header, tail and the least that a leg writes: how much longer a slice may be than asked for.
pub const SLICE_SURPLUS: usize = 192;

/// A Range being written.
pub struct Emission {
    query: Query,
    /// Live keys in the interval, as far as they were counted.
    total: u64,
    /// Live keys that passed the filter, as far as they were considered.
    matched: u64,
    kvs_len: usize,
    source: Source,
    /// Behind the last pair of the answer, if the limit was reached.
    behind: Position,

    /// Pairs to be written next, from `next` on.
    batch: Vec<Revision>,
    next: usize,
    /// Bytes written of the pair at `next`.
    partial: usize,
    /// Pairs written.
    emitted: u64,
    /// Bytes written.
    written: usize,
}

/// Where the pairs come from.
pub(super) enum Source {
    /// First what the plan has remembered, then a walk from `unremembered`, if there is more.
    ByKey { remembered: Remembered, unremembered: Option<Position> },
    /// In another order than that of keys.
    Sorted(Sorted),
}

/// Length of what follows the pairs in a RangeResponse: `more` and `count`.
pub(crate) fn tail_len(more: bool, count: i64) -> usize {
    int_field_len(i64::from(more)) + int_field_len(count)
}

/// Appends what follows the pairs in a RangeResponse.
pub(crate) fn put_tail(out: &mut BytesMut, more: bool, count: i64) {
    put_int_field(out, 3, i64::from(more));
    put_int_field(out, 4, count);
}

impl Emission {
    pub(super) fn new(
        query: Query,
        total: u64,
        matched: u64,
        kvs_len: usize,
        source: Source,
        behind: Position,
    ) -> Self {
        Self {
            query,
            total,
            matched,
            kvs_len,
            source,
            behind,
            batch: Vec::new(),
            next: 0,
            partial: 0,
            emitted: 0,
            written: 0,
        }
    }

    /// The header's revision.
    pub fn revision(&self) -> i64 {
        self.query.revision
    }

    /// Live keys in the interval, whatever limit and filters say.
    pub fn count(&self) -> i64 {
        self.total as i64
    }

    /// True if the limit left something out.
    pub fn more(&self) -> bool {
        self.matched > self.query.limit
    }

    /// Pairs in the answer.
    pub fn kvs(&self) -> u64 {
        self.matched.min(self.query.limit)
    }

    /// Encoded length of those pairs.
    pub(crate) fn kvs_len(&self) -> usize {
        self.kvs_len
    }

    /// Behind the last pair, if the limit was reached.
    pub(crate) fn behind(&self) -> &Position {
        &self.behind
    }

    /// True if keeping this until it is written costs little more than the structure itself.
    pub(crate) fn is_light(&self) -> bool {
        self.kvs() <= 16
    }

    #[cfg(test)]
    pub(super) fn remembers_all(&self) -> bool {
        matches!(&self.source, Source::ByKey { unremembered: None, .. })
    }

    /// Appends pairs as far as `bytes` go, the last of them in part if it is longer than a slice; true once it has
    /// appended all.
    ///
    /// # Errors
    /// As [`Slices::emit`].
    pub(crate) fn emit_kvs<R: Read>(
        &mut self,
        view: &View<'_, R>,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<bool, Error> {
        view.check_kept(self.query.at)?;
        let full = out.len().saturating_add(bytes.max(LEG_BYTES_MIN));
        let from_index = self.query.order == Order::Key && self.query.shape != Shape::Full;
        if !from_index || self.next < self.batch.len() || self.emit_keys(view, out, full)? {
            self.emit_values(view, out, full, from_index)?;
        }
        Ok(self.emitted == self.kvs())
    }

    /// One leg of the emission of pairs that have to be read; no more than the gathered ones if `gathered_only`.
    fn emit_values<R: Read>(
        &mut self,
        view: &View<'_, R>,
        out: &mut BytesMut,
        full: usize,
        gathered_only: bool,
    ) -> Result<(), Error> {
        let mut values = Values::new(view);
        let begin = out.len();
        while self.emitted < self.kvs() {
            if self.next == self.batch.len() {
                if gathered_only {
                    break;
                }
                self.gather(view)?;
                if self.batch.is_empty() {
                    break;
                }
            }
            // No more than will fit, if all are as long as the average: what is looked up in vain costs time.
            let average = (self.kvs_len as u64 / self.kvs()).max(1);
            let fit =
                (full.saturating_sub(out.len()) as u64).div_ceil(average).clamp(1, BATCH as u64) as usize;
            let revisions = &self.batch[self.next..];
            let revisions = &revisions[..revisions.len().min(fit)];
            let (shape, partial) = (self.query.shape, &mut self.partial);
            let taken = values.read(revisions, |kv| {
                if shape == Shape::Full && *partial == 0 && out.len() + bytes_field_len(kv.len()) <= full {
                    put_bytes_field(out, 2, kv);
                    return Ok(true);
                }
                let pair = Pair::new(shape, kv)?;
                let (left, room) = (pair.len().saturating_sub(*partial), full.saturating_sub(out.len()));
                if left > room && out.len() > begin {
                    return Ok(false);
                }
                pair.put(out, *partial, left.min(room));
                *partial = if left > room { *partial + room } else { 0 };
                Ok(left <= room)
            })?;
            self.next += taken;
            self.emitted += taken as u64;
            if taken < revisions.len() || out.len() >= full {
                break;
            }
        }
        Ok(())
    }

    /// Finds out which pairs come next.
    fn gather<R: Read>(&mut self, view: &View<'_, R>) -> Result<(), Error> {
        self.next = 0;
        self.batch.clear();
        let kvs = self.kvs();
        let (remembered, unremembered) = match &mut self.source {
            Source::Sorted(sorted) => {
                self.batch.extend(sorted.take(GATHERED).map(|item| item.revision));
                return if self.batch.is_empty() { Err(Error::Corrupt) } else { Ok(()) };
            }
            Source::ByKey { remembered, unremembered } => (remembered, unremembered),
        };
        self.batch.extend(std::iter::from_fn(|| remembered.pop()).take(GATHERED));
        if !self.batch.is_empty() {
            return Ok(());
        }
        let from = unremembered.as_ref().ok_or(Error::Corrupt)?;
        let mut walk = Walk::resume(view, &self.query.interval, self.query.at, from, LEG);
        while self.batch.len() < GATHERED && self.emitted + (self.batch.len() as u64) < kvs {
            match walk.next()? {
                Step::Live(revision, entry) if self.query.filter.passes(revision, &entry) => {
                    self.batch.push(revision)
                }
                Step::Live(..) => {}
                Step::Paused => break,
                // Fewer pairs than the plan has counted in the same revision.
                Step::End => return Err(Error::Corrupt),
            }
        }
        *unremembered = Some(walk.position());
        Ok(())
    }

    /// One leg of the emission of pairs that the index knows everything about. True if the next pair is longer than a
    /// slice and was gathered, to be written in parts.
    fn emit_keys<R: Read>(
        &mut self,
        view: &View<'_, R>,
        out: &mut BytesMut,
        full: usize,
    ) -> Result<bool, Error> {
        let kvs = self.kvs();
        if self.emitted == kvs {
            return Ok(false);
        }
        let Source::ByKey { unremembered: Some(unremembered), .. } = &mut self.source else {
            return Err(Error::Corrupt);
        };
        let begin = out.len();
        let mut walk = Walk::resume(view, &self.query.interval, self.query.at, unremembered, LEG);
        while self.emitted < kvs {
            match walk.next()? {
                Step::Live(revision, entry) if self.query.filter.passes(revision, &entry) => {
                    let kv = KeyValue {
                        key: &walk.key(),
                        create_revision: entry.create_revision,
                        mod_revision: revision.main,
                        version: entry.version,
                        ..KeyValue::default()
                    };
                    let len = kv.encoded_len();
                    if out.len() + bytes_field_len(len) > full {
                        let in_parts = out.len() == begin;
                        *unremembered = if in_parts { walk.position() } else { walk.position_before() };
                        if in_parts {
                            self.next = 0;
                            self.batch.clear();
                            self.batch.push(revision);
                        }
                        return Ok(in_parts);
                    }
                    put_bytes_head(out, 2, len);
                    kv.encode(out);
                    self.emitted += 1;
                }
                Step::Live(..) => {}
                Step::Paused => break,
                // Fewer pairs than the plan has counted in the same revision.
                Step::End => return Err(Error::Corrupt),
            }
        }
        *unremembered = walk.position();
        Ok(false)
    }
}

impl Slices for Emission {
    fn pin(&self) -> i64 {
        self.query.at
    }

    fn encoded_len(&self, header: &Header) -> usize {
        header.field_len(self.query.revision) + self.kvs_len + tail_len(self.more(), self.count())
    }

    fn held_bytes(&self) -> usize {
        let source = match &self.source {
            Source::ByKey { remembered, unremembered } => {
                remembered.held_bytes() + unremembered.as_ref().map_or(0, Position::held_bytes)
            }
            Source::Sorted(_) => 0,
        };
        size_of::<Self>() + self.query.interval.held_bytes() + source + self.behind.held_bytes()
    }

    /// The header stands before the first slice, the tail behind the last.
    fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<bool, Error> {
        let before = out.len();
        if self.written == 0 {
            header.put_field(self.query.revision, out);
        }
        let around = out.len() - before + tail_len(self.more(), self.count());
        let complete = self.emit_kvs(view, out, bytes.saturating_sub(around))?;
        if complete {
            put_tail(out, self.more(), self.count());
        }
        self.written += out.len() - before;
        if complete && self.written != self.encoded_len(header) {
            return Err(Error::Corrupt);
        }
        Ok(complete)
    }
}

/// Field 2 of a RangeResponse, in three pieces: its head, the part of the stored pair that is answered, and the lease
/// of a pair whose value is left out.
struct Pair<'a> {
    head: ([u8; 11], usize),
    body: &'a [u8],
    tail: ([u8; 11], usize),
}

/// What is written into a piece of 11 bytes: a tag and a varint.
fn piece(write: impl FnOnce(&mut &mut [u8])) -> ([u8; 11], usize) {
    let mut bytes = [0; 11];
    let mut rest = &mut bytes[..];
    write(&mut rest);
    let len = 11 - rest.len();
    (bytes, len)
}

impl<'a> Pair<'a> {
    fn new(shape: Shape, kv: &'a [u8]) -> Result<Self, Error> {
        let (body, tail) = match shape {
            Shape::Keys { lease } => {
                let decoded = KeyValue::decode(kv).ok_or(Error::Corrupt)?;
                let lease = if lease { decoded.lease } else { 0 };
                let head = kv.get(..decoded.head_len()).ok_or(Error::Corrupt)?;
                (head, piece(|out| put_int_field(out, 6, lease)))
            }
            Shape::Full | Shape::Count => (kv, ([0; 11], 0)),
        };
        Ok(Self { head: piece(|out| put_bytes_head(out, 2, body.len() + tail.1)), body, tail })
    }

    fn len(&self) -> usize {
        self.head.1 + self.body.len() + self.tail.1
    }

    /// Appends `len` bytes, leaving out the first `skip`.
    fn put(&self, out: &mut BytesMut, mut skip: usize, mut len: usize) {
        for piece in [&self.head.0[..self.head.1], self.body, &self.tail.0[..self.tail.1]] {
            let rest = &piece[skip.min(piece.len())..];
            let part = &rest[..len.min(rest.len())];
            out.put_slice(part);
            skip = skip.saturating_sub(piece.len());
            len -= part.len();
        }
    }
}
