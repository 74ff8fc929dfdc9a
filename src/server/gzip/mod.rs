//! The gzip format (RFC 1952), for packed gRPC messages and for `/metrics`.
//!
//! ```text
//!   1f 8b 08 | flags | time 4 | 2 |  extra, name, comment, header's CRC   | deflated data | CRC-32 4 | length 4
//!                                    each if its flag is set                                little-endian
//! ```
//!
//! A packed text is one such member or several, one behind the other, as Go's reader takes it. [`unpack`] takes members
//! apart in steps, so that a few bytes that become many, or that take long, do not keep a core from its other clients.
//! [`pack`] writes one member. Both are pure: bytes in, bytes out.
#![forbid(unsafe_code)]

pub mod pack;
pub mod unpack;

pub use pack::pack;
pub use unpack::{Fault, Unpacking};

/// The name of the format in headers of HTTP.
pub const NAME: &str = "gzip";
