//! Small things that know nothing of the product.
//!
//! ```text
//!   time        instants and durations that cannot read a clock
//!   prng        a seeded generator of numbers
//!   keyed_hash  a hash whose collisions nobody can choose without its secret
//!   counter     a number that one core counts up and every core may read
//!   pace        long computations that let others have their turn
//!   transcript  what tests do and see, played from a file
//!   waker       wakers that are kept without cloning them anew
//!   sync        what cores share, as the standard library has it or as the model checker tries it
//! ```
#![deny(unsafe_code)]

pub mod counter;
pub mod keyed_hash;
pub mod pace;
pub mod prng;
pub mod sync;
pub mod time;
#[cfg(test)]
pub mod transcript;
pub mod waker;
