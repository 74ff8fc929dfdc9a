//! Messages out of the byte stream of an answer: gRPC's five bytes of head, then the message.
//!
//! A message within one chunk is shared with it. One that chunks cut is copied into a buffer of its whole length,
//! which comes from a pool: a list of 100 MB would otherwise cost more in fresh pages than in copying.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use bytes::{Buf, Bytes, BytesMut};
use kevel::server::grpc::frame::HEAD_BYTES;
use kevel::server::grpc::{Code, Status};

/// Buffers kept, and from what size on they are worth it.
const POOL_BUFFERS_MAX: usize = 16;
const POOL_BYTES_MIN: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Cuts chunks into messages.
#[derive(Default)]
pub struct Assembler {
    /// Not looked at yet.
    chunk: Bytes,
    /// A head or message that is not whole yet.
    partial: BytesMut,
    /// The length of the message in `partial`, once its head is known and taken off.
    length: Option<usize>,
}

impl Assembler {
    /// Takes the next chunk; the last one must be used up, which it is when [`Self::take`] has nothing.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "take() goes before push()");
        self.chunk = chunk;
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When the message is compressed, which nobody asked for.
    pub fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.length.is_none() {
            self.fill(HEAD_BYTES);
            if self.partial.is_empty() && self.chunk.len() >= HEAD_BYTES {
                let length = length(&self.chunk)?;
                self.chunk.advance(HEAD_BYTES);
                if self.chunk.len() >= length {
                    return Ok(Some(self.chunk.split_to(length)));
                }
                self.begin(length);
            } else if self.partial.len() == HEAD_BYTES {
                let length = length(&self.partial)?;
                self.begin(length);
            } else {
                return Ok(None);
            }
        }
        let length = self.length.unwrap_or(0);
        self.copy(length);
        if self.partial.len() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }

    /// Collects a head that chunks cut. A whole one stays where it is.
    fn fill(&mut self, bytes: usize) {
        if !self.partial.is_empty() || self.chunk.len() < bytes {
            self.copy(bytes);
        }
    }

    fn copy(&mut self, until: usize) {
        let missing = until.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }

    fn begin(&mut self, length: usize) {
        self.length = Some(length);
        self.partial.clear();
        if length >= POOL_BYTES_MIN {
            self.partial = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.partial.reserve(length);
    }
}

/// Gives a message back that nobody needs any more.
pub fn recycle(message: Bytes) {
    if message.len() < POOL_BYTES_MIN {
        return;
    }
    if let Ok(mut buffer) = message.try_into_mut() {
        buffer.clear();
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOL_BUFFERS_MAX {
                pool.push(buffer);
            }
        });
    }
}

fn length(head: &[u8]) -> Result<usize, Status> {
    match *head {
        [0, a, b, c, d, ..] => Ok(u32::from_be_bytes([a, b, c, d]) as usize),
        _ => Err(Status::new(Code::Internal, "a message that is compressed, or no message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::framed;
    use kevel::proto::etcdserverpb::PutRequest;
    use prost::Message;

    #[test]
    fn messages_come_back_whole_however_they_are_cut() {
        let sizes = [0usize, 1, 40, 3, POOL_BYTES_MIN + 7, 0, 2 * POOL_BYTES_MIN];
        let put = |size: usize| PutRequest {
            key: vec![b'k'; size].into(),
            lease: size as i64,
            ..Default::default()
        };
        let sent: Vec<PutRequest> = sizes.iter().map(|&size| put(size)).collect();
        let stream: Vec<u8> = sent.iter().flat_map(|put| framed(put).to_vec()).collect();
        for size in (1..60).chain([1000, 16_384, 65_541, 100_000, stream.len()]) {
            let mut assembler = Assembler::default();
            let mut got = Vec::new();
            for chunk in stream.chunks(size) {
                assembler.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = assembler.take().expect("well-formed") {
                    got.push(PutRequest::decode(message.clone()).expect("decodes"));
                    recycle(message);
                }
            }
            assert!(got == sent, "in pieces of {size}");
        }
    }

    #[test]
    fn a_buffer_is_used_again() {
        POOL.with_borrow_mut(Vec::clear);
        recycle(Bytes::from(vec![1; POOL_BYTES_MIN]));
        assert_eq!(POOL.with_borrow(Vec::len), 1);
        let kept = Bytes::from(vec![1; POOL_BYTES_MIN]);
        recycle(kept.clone());
        assert_eq!((POOL.with_borrow(Vec::len), kept.len()), (1, POOL_BYTES_MIN), "one in use is not");
    }

    #[test]
    fn compressed_messages_are_refused() {
        let mut assembler = Assembler::default();
        assembler.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(assembler.take().is_err());
    }
}
