//! Small things that know nothing of the product: time that cannot read a clock, a seeded generator, wakers kept.
#![forbid(unsafe_code)]

pub mod prng;
pub mod time;
pub mod waker;
