//! The bytes of an answer that is put together within a write, over as many slices as the write takes.
//!
//! A length stands before what it measures, and is known only behind it. So the bytes are gathered in pieces, a head
//! that belongs before some of them is noted with its place, and all of it is joined at the end: each byte is copied
//! once however deep its transaction is nested, and no slice copies more than its share. An answer that is one piece
//! without such heads, as most are, is not copied at all.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::walk::BYTES_PER_ENTRY;

/// A piece at least this long is followed by a new one, so that no piece is copied to grow.
const PIECE_BYTES: usize = 256 << 10;

/// An answer on its way.
#[derive(Debug, Default)]
pub struct AnswerBody {
    /// Finished pieces, those aside that were joined already.
    pieces: VecDeque<Bytes>,
    /// Their bytes, those too that were joined.
    pieces_len: usize,
    /// The piece that grows.
    last: BytesMut,
    /// In the order of their places; one that holds another stands before it.
    heads: Vec<Head>,
    /// What the heads say.
    heads_bytes: BytesMut,
    joining: Option<Joining>,
}

/// Bytes that belong before others.
#[derive(Debug)]
struct Head {
    /// So many bytes of the pieces come before it.
    at: usize,
    /// Its place in `heads_bytes`; empty until it is closed.
    bytes: Range<usize>,
}

/// A message whose head is to come.
#[derive(Debug)]
pub(super) struct Opened {
    head: usize,
    at: usize,
    /// Length of all heads before.
    heads_len: usize,
}

/// The answer as far as it was joined.
#[derive(Debug)]
struct Joining {
    whole: BytesMut,
    /// Bytes of the pieces that are in it.
    copied: usize,
    /// Heads that are in it.
    heads: usize,
}

impl AnswerBody {
    /// Where the next bytes go.
    pub fn out(&mut self) -> &mut BytesMut {
        if self.last.len() >= PIECE_BYTES {
            self.cut();
        }
        &mut self.last
    }

    fn cut(&mut self) {
        self.pieces_len += self.last.len();
        self.pieces.push_back(std::mem::take(&mut self.last).freeze());
    }

    /// Bytes so far, without heads.
    fn len(&self) -> usize {
        self.pieces_len + self.last.len()
    }

    /// Begins a message whose head is not known yet.
    pub(super) fn open(&mut self) -> Opened {
        let at = self.len();
        self.heads.push(Head { at, bytes: 0..0 });
        Opened { head: self.heads.len() - 1, at, heads_len: self.heads_bytes.len() }
    }

    /// Bytes since `opened`, with the heads among them.
    pub(super) fn len_since(&self, opened: &Opened) -> usize {
        self.len() - opened.at + self.heads_bytes.len() - opened.heads_len
    }

    /// Ends a message: `put` writes its head.
    pub(super) fn close(&mut self, opened: &Opened, put: impl FnOnce(&mut BytesMut)) {
        if opened.at == self.len() && opened.head + 1 == self.heads.len() {
            // Nothing came since, so the head has its place already.
            self.heads.pop();
            return put(self.out());
        }
        let begin = self.heads_bytes.len();
        put(&mut self.heads_bytes);
        self.heads[opened.head].bytes = begin..self.heads_bytes.len();
    }

    /// Joins the answer as far as `budget` allows; all of it, once it is complete.
    pub fn join(&mut self, budget: &mut usize) -> Option<Bytes> {
        if self.joining.is_none() && self.pieces.is_empty() && self.heads.is_empty() {
            return Some(std::mem::take(&mut self.last).freeze());
        }
        let joining = match &mut self.joining {
            Some(joining) => joining,
            None => {
                self.pieces_len += self.last.len();
                self.pieces.push_back(std::mem::take(&mut self.last).freeze());
                let whole = BytesMut::with_capacity(self.pieces_len + self.heads_bytes.len());
                self.joining.insert(Joining { whole, copied: 0, heads: 0 })
            }
        };
        let bytes = (*budget).max(1).saturating_mul(BYTES_PER_ENTRY);
        let mut room = bytes;
        loop {
            let until = match self.heads.get(joining.heads) {
                Some(head) if head.at == joining.copied => {
                    joining.whole.put_slice(&self.heads_bytes[head.bytes.clone()]);
                    joining.heads += 1;
                    continue;
                }
                Some(head) => head.at - joining.copied,
                None => usize::MAX,
            };
            let Some(piece) = self.pieces.front_mut() else { break };
            let taken = piece.len().min(until).min(room);
            joining.whole.put_slice(&piece[..taken]);
            piece.advance(taken);
            joining.copied += taken;
            room -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            } else if room == 0 {
                *budget = 0;
                return None;
            }
        }
        *budget = budget.saturating_sub((bytes - room) / BYTES_PER_ENTRY);
        self.joining.take().map(|joining| joining.whole.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_stand_before_what_they_measure_however_the_answer_is_joined() {
        for budget in [1, 300, usize::MAX >> 10] {
            let mut body = AnswerBody::default();
            body.out().put_slice(b"<");
            let outer = body.open();
            let inner = body.open();
            for _ in 0..3 {
                body.out().put_slice(&[b'x'; PIECE_BYTES]);
            }
            assert_eq!(body.len_since(&inner), 3 * PIECE_BYTES);
            body.close(&inner, |out| out.put_slice(b"inner"));
            let empty = body.open();
            body.close(&empty, |out| out.put_slice(b"empty"));
            assert_eq!(body.len_since(&outer), 3 * PIECE_BYTES + 10);
            body.close(&outer, |out| out.put_slice(b"outer"));
            body.out().put_slice(b">");

            let mut slices = 0;
            let whole = loop {
                slices += 1;
                let before = body.joining.as_ref().map_or(0, |joining| joining.whole.len());
                if let Some(whole) = body.join(&mut budget.clone()) {
                    break whole;
                }
                let after = body.joining.as_ref().map_or(0, |joining| joining.whole.len());
                assert!(after > before && after - before <= budget * BYTES_PER_ENTRY + 20);
            };
            assert!(slices >= 3 * PIECE_BYTES / BYTES_PER_ENTRY / budget, "{slices} slices");
            let x = String::from_utf8(vec![b'x'; 3 * PIECE_BYTES]).unwrap();
            assert_eq!(whole, format!("<outerinner{x}empty>").as_bytes());
        }
    }

    #[test]
    fn a_short_answer_is_not_copied() {
        let mut body = AnswerBody::default();
        body.out().put_slice(b"answer");
        let at = body.last.as_ptr();
        assert_eq!(body.join(&mut 1).unwrap().as_ptr(), at);
    }
}
