//! Small things that know nothing of the product: time that cannot read a clock, a seeded generator, a keyed hash, wakers
//! kept, what cores share and how it is tried.
#![deny(unsafe_code)]

pub mod keyed_hash;
pub mod prng;
pub mod sync;
pub mod time;
pub mod waker;
