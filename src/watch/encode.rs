//! Responses by hand: a short head of each watcher's own, and a body of events that watchers share.
//!
//! ```text
//!   WatchResponse = head │ body
//!   head: 1 header │ 2 watch_id │ 3 created │ 4 canceled │ 5 compact_revision │ 7 fragment
//!   body: 6 cancel_reason, or any number of 11 events, each: 1 type (a deletion) │ 2 kv │ 3 prev_kv (if wanted)
//! ```
//!
//! An event is encoded when the first watcher matches it, and again with its previous value when the first watcher
//! that wants it matches. A body that covers most of the encoded events is a reference to them; a small part of
//! many is copied, so that a slow client holds no more memory than what is on its way to it.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::history::PastEvent;
use super::hub::{Fault, StreamId};
use crate::wire::{bytes_field_len, put_bytes_field, varint_len};

/// Bytes that a head can take: eight varints at their longest, tags and lengths.
const HEAD_MAX: usize = 80;

/// Room for encoded events that is kept for the next ones.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Which part of a message an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole message.
    Whole,
    /// The beginning. More of the same stream follows until `total` bytes are complete.
    First {
        /// Length of the whole message.
        total: usize,
    },
    /// More of the message that was begun on the stream.
    Rest,
    /// No message: the stream ends here, for this reason.
    End(Fault),
}

/// A `WatchResponse` to write to one stream, or a part of one: the head, then the body.
#[derive(Clone, Debug)]
pub struct Output {
    /// The stream to write to.
    pub stream: StreamId,
    /// Which part of its message this is.
    pub part: Part,
    /// The first bytes.
    pub head: Head,
    /// The bytes behind the head.
    pub body: Bytes,
    /// How many events it carries.
    pub events: u32,
}

impl Output {
    /// Length of what is to be written.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The start of an encoded response.
#[derive(Clone)]
pub struct Head {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&**self, f)
    }
}

/// Who answers; part of every response's header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// Current term.
    pub raft_term: u64,
}

/// The fields of a head after its header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: i64,
    pub(super) fragment: bool,
}

impl Head {
    /// A head without bytes.
    pub(super) fn empty() -> Self {
        Self { bytes: [0; HEAD_MAX], len: 0 }
    }

    /// A head that ends after the header.
    pub(super) fn header(identity: Identity, revision: i64) -> Self {
        let mut head = Self { bytes: [0; HEAD_MAX], len: 0 };
        head.push(0x0A);
        head.push(0);
        for (tag, value) in [
            (0x08, identity.cluster_id),
            (0x10, identity.member_id),
            (0x18, revision.cast_unsigned()),
            (0x20, identity.raft_term),
        ] {
            head.number(tag, value);
        }
        head.bytes[1] = head.len - 2;
        head
    }

    /// The head with these fields behind its header.
    pub(super) fn with(self, fields: Fields) -> Self {
        let mut head = self;
        head.number(0x10, fields.watch_id.cast_unsigned());
        head.number(0x18, u64::from(fields.created));
        head.number(0x20, u64::from(fields.canceled));
        head.number(0x28, fields.compact_revision.cast_unsigned());
        head.number(0x38, u64::from(fields.fragment));
        head
    }

    /// A varint field; absent when zero.
    fn number(&mut self, tag: u8, mut value: u64) {
        if value == 0 {
            return;
        }
        self.push(tag);
        while value > 0x7F {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.len)] = byte;
        self.len += 1;
    }
}

fn varint(mut value: u64) -> ([u8; 10], usize) {
    let (mut bytes, mut len) = ([0; 10], 0);
    loop {
        bytes[len] = (value & 0x7F) as u8;
        value >>= 7;
        len += 1;
        if value == 0 {
            return (bytes, len);
        }
        bytes[len - 1] |= 0x80;
    }
}

/// Puts a tag and a number: a varint field, or the head of a field of that many bytes.
fn put_head(put: &mut impl FnMut(&[u8]), tag: u8, number: u64) {
    let mut head = [tag; 11];
    let (bytes, len) = varint(number);
    head[1..].copy_from_slice(&bytes);
    put(&head[..1 + len]);
}

/// The body of a refusal.
pub(super) fn cancel_reason(reason: &str) -> Bytes {
    let mut body = Vec::with_capacity(reason.len() + 4);
    put_bytes_field(&mut body, 6, reason.as_bytes());
    body.into()
}

/// The change that a record is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) revision: i64,
    pub(super) delete: bool,
    pub(super) key: &'a [u8],
    pub(super) kv: &'a [u8],
}

impl<'a> Change<'a> {
    /// The change that was read back.
    pub(super) fn of(event: &PastEvent<'a>) -> Self {
        Self { revision: event.revision, delete: event.delete, key: event.key, kv: event.kv }
    }

    fn kv_len(&self) -> usize {
        match self.delete {
            true => bytes_field_len(self.key.len()) + 1 + varint_len(self.revision.cast_unsigned()),
            false => self.kv.len(),
        }
    }

    /// Length of the event, without tag and length.
    fn event_len(&self, prev: Option<&[u8]>) -> usize {
        2 * usize::from(self.delete)
            + bytes_field_len(self.kv_len())
            + prev.map_or(0, |prev| bytes_field_len(prev.len()))
    }

    /// Length of the encoded event.
    pub(super) fn len(&self, prev: Option<&[u8]>) -> usize {
        bytes_field_len(self.event_len(prev))
    }

    /// Puts the encoded event, in a few steps.
    fn encode(&self, prev: Option<&[u8]>, mut put: impl FnMut(&[u8])) {
        put_head(&mut put, 0x5A, self.event_len(prev) as u64);
        if self.delete {
            put(&[0x08, 1]);
        }
        put_head(&mut put, 0x12, self.kv_len() as u64);
        if self.delete {
            put_head(&mut put, 0x0A, self.key.len() as u64);
            put(self.key);
            put_head(&mut put, 0x18, self.revision.cast_unsigned());
        } else {
            put(self.kv);
        }
        if let Some(prev) = prev {
            put_head(&mut put, 0x1A, prev.len() as u64);
            put(prev);
        }
    }

    /// Adds a part of the encoded event to `out`, which is to get no longer than `out_max`: from its byte `from` on.
    /// Returns how many bytes were added.
    pub(super) fn copy_part(
        &self,
        prev: Option<&[u8]>,
        from: usize,
        out_max: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let (mut skip, before) = (from, out.len());
        self.encode(prev, |bytes| {
            let passed = skip.min(bytes.len());
            skip -= passed;
            let bytes = &bytes[passed..];
            out.extend_from_slice(&bytes[..bytes.len().min(out_max - out.len())]);
        });
        out.len() - before
    }
}

/// Encoded events in order, addressed by their position.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The events, until they are frozen.
    bytes: Vec<u8>,
    /// Where each event ends; an event that nobody wants in this form has no length.
    ends: Vec<usize>,
    /// The events, once they are frozen, to be shared.
    frozen: Bytes,
}

impl Records {
    /// Gives back what a rare huge batch has reserved.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        if self.ends.capacity() > 1 << 16 {
            self.ends = Vec::new();
        }
    }

    /// Forgets all but the first so many events, of so many bytes. None of them is frozen yet, unless none is left.
    pub(super) fn truncate(&mut self, events: usize, bytes: usize) {
        self.bytes.truncate(bytes);
        self.ends.truncate(events);
        self.frozen = Bytes::new();
    }

    /// Bytes encoded so far.
    pub(super) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Encodes the event at the next position.
    pub(super) fn push(&mut self, change: Change<'_>, prev: Option<&[u8]>) {
        self.bytes.reserve(change.len(prev));
        change.encode(prev, |bytes| self.bytes.extend_from_slice(bytes));
        self.skip();
    }

    /// Leaves the next position empty.
    pub(super) fn skip(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Ends the encoding; bodies refer to what there is now.
    pub(super) fn freeze(&mut self) {
        // What would not be kept for the next events need not be copied.
        self.frozen = match self.bytes.capacity() > KEPT_BYTES_MAX {
            true => std::mem::take(&mut self.bytes).into(),
            false => Bytes::copy_from_slice(&self.bytes),
        };
    }

    fn range(&self, event: u32) -> std::ops::Range<usize> {
        let event = event as usize;
        let start = if event == 0 { 0 } else { self.ends[event - 1] };
        start..self.ends[event]
    }

    /// Encoded length of one event.
    pub(super) fn len_of(&self, event: u32) -> usize {
        self.range(event).len()
    }

    /// The body that carries these events, given in order.
    pub(super) fn body(&self, events: impl Iterator<Item = u32> + Clone) -> Bytes {
        let (mut len, mut span) = (0, None);
        for range in events.clone().map(|event| self.range(event)) {
            len += range.len();
            span = Some(span.map_or(range.start, |(start, _)| start)).map(|start| (start, range.end));
        }
        let Some((start, end)) = span else { return Bytes::new() };
        // Positions nobody wants in this form are empty, so they don't interrupt a run.
        if len == end - start && 2 * len >= self.frozen.len() {
            return self.frozen.slice(start..end);
        }
        let mut body = Vec::with_capacity(len);
        events.for_each(|event| body.extend_from_slice(&self.frozen[self.range(event)]));
        body.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use crate::proto::mvccpb::{Event, KeyValue};
    use prost::Message;

    const WORST: u64 = u64::MAX;

    #[test]
    fn the_longest_head_fits_and_is_what_prost_encodes() {
        for (watch_id, value, flag) in [(0, 0, false), (-1, WORST, true), (7, 300, true)] {
            let identity = Identity { cluster_id: value, member_id: value, raft_term: value };
            let head = Head::header(identity, value.cast_signed()).with(Fields {
                watch_id,
                created: flag,
                canceled: flag,
                compact_revision: value.cast_signed(),
                fragment: flag,
            });
            let expected = WatchResponse {
                header: Some(ResponseHeader {
                    cluster_id: value,
                    member_id: value,
                    revision: value.cast_signed(),
                    raft_term: value,
                }),
                watch_id,
                created: flag,
                canceled: flag,
                compact_revision: value.cast_signed(),
                fragment: flag,
                ..WatchResponse::default()
            };
            assert_eq!(&*head, expected.encode_to_vec());
        }
    }

    #[test]
    fn records_are_what_prost_encodes() {
        let put =
            KeyValue { key: "k".into(), mod_revision: 9, value: vec![7; 300].into(), ..KeyValue::default() };
        let old = KeyValue { key: "k".into(), mod_revision: 4, ..KeyValue::default() };
        let gone = KeyValue { key: "k".into(), mod_revision: 10, ..KeyValue::default() };
        let mut records = Records::default();
        let kv = put.encode_to_vec();
        records.push(Change { revision: 9, delete: false, key: b"k", kv: &kv }, Some(&old.encode_to_vec()));
        records.skip();
        records.push(Change { revision: 10, delete: true, key: b"k", kv: &[] }, None);
        let expected = WatchResponse {
            events: vec![
                Event { r#type: 0, kv: Some(put), prev_kv: Some(old) },
                Event { r#type: 1, kv: Some(gone), prev_kv: None },
            ],
            ..WatchResponse::default()
        };
        records.freeze();
        assert_eq!(records.body([0, 2].into_iter()), expected.encode_to_vec());
        assert_eq!(records.body([0, 1, 2].into_iter()), expected.encode_to_vec());
        assert_eq!(records.body([2].into_iter()).len(), records.len_of(2));
        assert!(records.body([].into_iter()).is_empty());
    }
}
