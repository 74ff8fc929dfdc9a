//! One member's brain.
#![forbid(unsafe_code)]

pub mod apply;
