//! Answers that are read in slices: planned first, so that their length is known, and written then.
//!
//! ```text
//!   Planned ──step──▶ Pending(Planned) ──step──▶ Done(Slices) ──emit──▶ slice, slice, slice
//! ```
//!
//! A Range ([`Plan`](super::range::Plan)) and a transaction that only reads ([`ReadTxn`](super::ReadTxn)) are read so.
//! Both halves hold no page between two slices, but a revision, which whoever drives them pins.
#![forbid(unsafe_code)]

use bytes::BytesMut;

use super::view::View;
use crate::btree::Read;
use crate::error::Error;
use crate::response::Header;

/// A read whose answer has no known length yet.
pub trait Planned: Sized {
    /// What is written when the plan stands.
    type Answer: Slices;

    /// The lowest main revision that may be read: to be pinned before the first snapshot goes, unless the answer is
    /// complete by then.
    fn pin(&self) -> i64;

    /// Goes on with the plan, looking at up to `budget` index entries or as much else as takes about as long.
    ///
    /// # Errors
    /// When what is read cannot be read, or has been swept in spite of its pin; or when the core has no memory left for
    /// sorting.
    fn step<R: Read>(self, view: &View<'_, R>, budget: usize) -> Result<Progress<Self>, Error>;
}

/// An answer of known length whose bytes come in slices.
pub trait Slices {
    /// The lowest main revision that may be read, which stays pinned until the answer is complete.
    fn pin(&self) -> i64;

    /// Exact length of the encoded answer.
    fn encoded_len(&self, header: &Header) -> usize;

    /// Bytes that are held until the answer is written, without what is bounded for the core and without the request.
    fn held_bytes(&self) -> usize;

    /// Appends the next slice of the encoded answer: `bytes` more at most,
    /// [`SLICE_SURPLUS`](super::range::SLICE_SURPLUS) aside. True once it is complete; all slices together have the
    /// length that was promised. A slice is empty where what comes next takes longer to find than a slice may.
    ///
    /// # Errors
    /// When a revision has been swept in spite of its pin, or index and values disagree.
    fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<bool, Error>;
}

/// How far a plan has come.
pub enum Progress<P: Planned> {
    /// Another slice is needed.
    Pending(P),
    /// The length of the answer is known.
    Done(P::Answer),
}

impl<P: Planned> Progress<P> {
    /// The revision to be pinned for what is left to do.
    pub fn pin(&self) -> i64 {
        match self {
            Self::Pending(plan) => plan.pin(),
            Self::Done(answer) => answer.pin(),
        }
    }
}
