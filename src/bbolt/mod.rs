//! Files of bbolt, the store that etcd keeps its data in: written as a stream, and read with suspicion.
//!
//! A snapshot of etcd is such a file. Kevel has another store file (`page`), so bbolt is spoken only where a state
//! leaves the member or comes to it. Nothing in here opens a file: a writer gives bytes, a reader asks a [`Source`].
//!
//! ```text
//! file     │ meta 0 │ meta 1 │ page 2 │ page 3 ........... │ page 6 │ ...        pages of 4096 bytes, little-endian
//!
//! page     id 8 │ flags 2 │ count 2 │ overflow 4 │ elements, 16 bytes each │ keys and values │ zeros
//!          flags: 1 branch, 2 leaf, 4 meta, 16 free list;  overflow: pages that follow and belong to this one
//! leaf     flags 4 (1: the value is a bucket) │ position 4 │ key length 4 │ value length 4
//! branch   position 4 │ key length 4 │ child's page 8            position: of the key, counted from the element
//! meta     magic 4 │ version 4 │ page size 4 │ flags 4 │ root page 8, sequence 8 │ free list 8 │ pages 8 │
//!          transaction 8 │ FNV-1a of these 56 bytes 8
//! bucket   root page 8 │ sequence 8 │ if the root is 0, a leaf of its own, not filled up
//! ```
//!
//! # A file in one pass
//!
//! Whoever receives a snapshot cannot go back in it, and its first page names the root of the last tree. So the writer
//! is fed twice with the same pairs. The first time it counts: it asks for lengths of values alone, keeps no more than
//! the pages that are open, and ends with a [`Layout`] of two numbers, the root's page and the number of pages. The
//! second time it writes. Both times the same code decides where a page ends, so the two agree when the pairs do, and
//! when they do not, the end of the second time says so.
//!
//! Trees are laid out from the leaves up: a page gets its number when it is full, and behind the last page of a tree
//! stand the branches that lead to it. One open page for each level is all that is held. A pair that is longer than a
//! page has a page with overflow for itself, and its value passes through in pieces. A bucket of a kilobyte or less
//! lies inside its parent.
//!
//! # Reading
//!
//! A file may be from anybody. Every page number, length and position is checked against what is there, keys have to
//! ascend, no walk looks at more pages than the file has, and the data of a page's elements may not overlap, so that
//! buckets inside a page are no more than it has bytes; what is wrong is said with the page where it is. A value is
//! read in pieces of the reader's choice, or as a whole up to a bound, so memory does not depend on the file.
//!
//! # Absent
//!
//! Changes in place: a file is made once and read. Free lists are read to check them and never written: without one
//! bbolt finds the free pages by itself, and there are none.
//!
//! [`layout`] has the bytes, [`tree`] and [`writer`] make a file, [`reader`] and [`walk`] read it, [`check`] looks at
//! all of it; [`fuzz`] writes files, reads them and damages them.
#![forbid(unsafe_code)]

pub mod check;
pub mod fuzz;
pub mod layout;
pub mod reader;
#[cfg(test)]
mod tests;
mod tree;
pub mod walk;
pub mod writer;

pub use layout::Layout;
pub use reader::{Database, ReadError, Source};
pub use writer::{WriteError, Writer};
