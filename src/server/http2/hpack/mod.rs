//! HPACK (RFC 7541): the header blocks of clients, and ours.
//!
//! ```text
//!   decode   a client's header block -> fields; its dynamic table        huffman   the code of packed strings
//!   encode   our header blocks, with the few fields that repeat          table     the static table
//!   field    one header field, its name understood once
//! ```
#![forbid(unsafe_code)]

mod decode;
mod encode;
mod field;
mod huffman;
mod table;

pub use decode::Decoder;
pub use encode::{Encoder, Fields};
pub use field::{Field, Name};

/// What a table of fields may hold unless somebody says otherwise, in bytes as RFC 7541, 4.1 counts them.
const TABLE_BYTES: usize = 4096;
/// What a field counts beside its name and value.
pub const FIELD_OVERHEAD: usize = 32;

/// A header block, or a part of one, that breaks the rules.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Why a header block was not decoded to its end. The tables of both sides disagree from here on: the connection must
/// end.
#[derive(Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// It breaks the rules.
    Malformed,
    /// It holds more than whoever takes its fields wants.
    TooLarge,
}

impl From<Malformed> for Undecoded {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}
