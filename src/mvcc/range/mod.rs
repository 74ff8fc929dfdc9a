//! Answering a Range: first its exact length, from the index alone; then its bytes, slice by slice.
//!
//! A unary gRPC message states its length before its first byte, and a list may be a gigabyte long. So an answer is
//! *planned* by a walk over the index, which knows the length of every value without touching the value, and then
//! *emitted*: values are copied from their pages into whatever slice the connection has room for.
//!
//! ```text
//!   RangeRequest ──▶ Query ──▶ Plan ──step──▶ Plan ──step──▶ Emission ──emit──▶ slice, slice, slice
//!                              pinned revision, legs of bounded work, no snapshot between two legs
//! ```
//!
//! Which pairs are answered, the plan has remembered as far as it may ([`remembered`](super::remembered)); behind that
//! the emission walks the index again. An order other than that of keys is made by the [`sort`] of bounded runs.
//!
//! # Invariants
//!
//! - Only a finished plan makes an [`Emission`], so the length of an answer is known before its first byte.
//! - A leg looks at no more index entries, and compares no more bytes, than its budget allows for.
//! - What is held between two legs is bounded, whatever the request: a few KB, what the core's [`PlanMemory`] grants
//!   for remembered and sorted pairs, and never a value.
//! - Both halves read at one revision, which the caller pins. If the revision is swept nevertheless, the answer ends
//!   with an error.
//!
//! Start with [`query`], then [`plan`] and [`emission`]; [`one`] is the short cut for a single key.
//!
//! [`PlanMemory`]: super::remembered::PlanMemory
#![forbid(unsafe_code)]

mod emission;
mod one;
mod plan;
mod query;
mod sort;
#[cfg(test)]
mod tests;

pub use emission::{Emission, SLICE_SURPLUS};
pub(crate) use emission::{put_tail, tail_len};
pub use one::answer;
pub use plan::Plan;
pub use query::is_default_ordering;
