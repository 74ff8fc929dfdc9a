//! Requests encoded once, of which only some bytes change from one to the next.
#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};
use kevel::proto::etcdserverpb::{PutRequest, RangeRequest};
use kevel::server::grpc::frame::HEAD_BYTES;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

use crate::calls::framed;

/// Bytes of a stamp in a value: whose it is, and when it was meant to be put.
pub const STAMP_BYTES: usize = 16;
/// Messages are cut from blocks of this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// Marks the values of this run, so that watchers tell them from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 8]);

impl Nonce {
    /// A nonce that other runs hardly have.
    pub fn new(seed: u64) -> Self {
        Self(Prng::new(seed).next_u64().to_be_bytes())
    }

    /// Writes a stamp over the start of a value, if it has room for one.
    pub fn stamp(self, at: Instant, value: &mut [u8]) {
        if let Some(stamp) = value.first_chunk_mut::<STAMP_BYTES>() {
            stamp[..8].copy_from_slice(&self.0);
            stamp[8..].copy_from_slice(&at.as_nanos().to_be_bytes());
        }
    }

    /// When a value was meant to be put, if it is of this run.
    pub fn read(self, value: &[u8]) -> Option<Instant> {
        let (nonce, rest) = value.split_first_chunk::<8>()?;
        let nanos = u64::from_be_bytes(*rest.first_chunk::<8>()?);
        (*nonce == self.0).then(|| Instant::from_nanos(nanos))
    }
}

/// A value of random bytes.
pub fn random_value(size: usize, seed: u64) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut value: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| prng.next_u64().to_be_bytes()).collect();
    value.truncate(size);
    value
}

/// A framed message with a key, and perhaps a value, whose bytes can be replaced by as many others.
pub struct Template {
    message: Bytes,
    key_at: usize,
    key_size: usize,
    value_at: usize,
    value_size: usize,
    block: BytesMut,
}

impl Template {
    /// A put. Its lease, if any, comes last.
    pub fn put(key_size: usize, value: Vec<u8>, lease: i64) -> Self {
        let value_size = value.len();
        let message = framed(&PutRequest {
            key: vec![0; key_size].into(),
            value: value.into(),
            lease,
            ..Default::default()
        });
        let key_at = HEAD_BYTES + head_size(key_size);
        Self::of(message, (key_at, key_size), (key_at + key_size + head_size(value_size), value_size))
    }

    /// A range whose only changing part is its key, of `key_size` bytes.
    pub fn range(key_size: usize, mut request: RangeRequest) -> Self {
        request.key = vec![0; key_size].into();
        Self::of(framed(&request), (HEAD_BYTES + head_size(key_size), key_size), (0, 0))
    }

    fn of(
        message: Bytes,
        (key_at, key_size): (usize, usize),
        (value_at, value_size): (usize, usize),
    ) -> Self {
        Self { message, key_at, key_size, value_at, value_size, block: BytesMut::new() }
    }

    /// Writes what stays the same of the key, unless `make`'s caller writes all of it.
    pub fn fix_key(&mut self, key: &[u8]) {
        let mut message = BytesMut::from(&self.message[..]);
        message[self.key_at..self.key_at + self.key_size].copy_from_slice(key);
        self.message = message.freeze();
    }

    /// A message: `edit` is given its key and its value.
    pub fn make(&mut self, edit: impl FnOnce(&mut [u8], &mut [u8])) -> Bytes {
        let size = self.message.len();
        if self.block.capacity() < size {
            self.block = BytesMut::with_capacity(BLOCK_BYTES.max(size));
        }
        self.block.extend_from_slice(&self.message);
        let mut message = self.block.split();
        // An empty value is not in the message at all.
        let (head, tail) = message.split_at_mut(if self.value_size == 0 { size } else { self.value_at });
        edit(&mut head[self.key_at..self.key_at + self.key_size], &mut tail[..self.value_size]);
        message.freeze()
    }
}

/// Bytes of a field's tag, below 16, and of its length.
fn head_size(length: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn templates_make_what_prost_would() {
        for value_size in [0usize, 5, 16, 127, 128, 20_000, 300_000] {
            let value = random_value(value_size, 1);
            let mut template = Template::put(20, value.clone(), 9);
            for letter in [b'a', b'b'] {
                let message = template.make(|key, _| key.fill(letter));
                let put = PutRequest::decode(message.slice(HEAD_BYTES..)).expect("a put");
                assert_eq!(
                    (put.key, put.value, put.lease),
                    (vec![letter; 20].into(), value.clone().into(), 9)
                );
            }
        }
        let request = RangeRequest { serializable: true, ..Default::default() };
        let message = Template::range(3, request).make(|key, _| key.copy_from_slice(b"abc"));
        let range = RangeRequest::decode(message.slice(HEAD_BYTES..)).expect("a range");
        assert_eq!((range.key.as_ref(), range.serializable), (b"abc".as_slice(), true));
    }

    #[test]
    fn stamps_are_read_back_by_their_run_only() {
        let at = Instant::from_nanos(12345);
        let mut template = Template::put(2, vec![0; 40], 0);
        let message = template.make(|_, value| Nonce::new(1).stamp(at, value));
        let put = PutRequest::decode(message.slice(HEAD_BYTES..)).expect("a put");
        assert_eq!(Nonce::new(1).read(&put.value), Some(at));
        assert_eq!(Nonce::new(2).read(&put.value), None);
        assert_eq!(Nonce::new(1).read(b"short"), None);
    }
}
