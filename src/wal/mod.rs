//! The write-ahead log: what a member has promised to remember, in the file format of etcd.
//!
//! A log is a row of segment files. Each holds framed records; the records of all segments form one chain, tied
//! together by a running CRC-32C over their data.
//!
//! ```text
//! member/wal/0000000000000000-0000000000000000.wal      sequence - index of the first entry expected, in hex
//!            0000000000000001-0000000000002f3a.wal
//!
//! segment   crc(seed) | metadata | snapshot{0,0} or state | record | record | … | zeros to 64,000,000 bytes
//!
//! frame     8 bytes little endian: low 56 bits length of the record, top byte 0x80|pad when pad > 0
//!           the record, then pad zero bytes up to the next multiple of 8
//!
//! record    protobuf walpb.Record { 1 type, 2 crc, 3 data }
//!           type 1 metadata   node id and cluster id, at the head of every segment
//!                2 entry      raftpb.Entry; Type, Term and Index are always written
//!                3 state      raftpb.HardState; all three fields are always written
//!                4 crc        no data; crc is the value the chain had at the end of the segment before
//!                5 snapshot   walpb.Snapshot: the state machine is durable elsewhere up to this index
//! ```
//!
//! Rules that hold of every log:
//! - The crc of a record covers the data of all records so far, its own included. A length of zero, or the end of
//!   the file, ends a segment.
//! - Entry indexes grow by one; an entry with an index already seen replaces that one and all after it.
//! - A snapshot record at an entry that the log does not lead to, because it ends before or has the entry in another
//!   term, says that the store has taken in a snapshot of the leader. The log begins anew behind it.
//! - A segment appears under its name only with its head already durable: it is written as a temporary file first.
//!   By then all segments before it are durable to their ends, so nothing in them can be torn.
//! - Writes are whole blocks of [`BLOCK_BYTES`] and carry the partly filled last block again, so that a file opened
//!   for direct I/O can take them. At most one write is on its way at a time, because two neighbours share a block.
//! - Once a segment is full the next write starts a new one; a write never spans two.
//!
//! A write that was cut off by a crash leaves sectors of zeros (segments are zero-filled before use), so a broken last
//! record with an all-zero sector is the end of the log, as in etcd. Anything else that doesn't fit is damage and
//! refused ([`recover()`]); also a torn record after which the log says that this very entry had been committed, which
//! etcd would cut off in silence.
//!
//! No file is opened here: [`Appender`] says what to write where, [`recover()`] reads slices. Which files there are,
//! how they are made ready, named, used again and deleted, and how the end of the log is mended is decided here too
//! ([`mod@folder`], [`prepare`], [`mend`]), in a [`Folder`](folder::Folder) that is the server's
//! (`server::io::wal_dir`) or the simulator's. [`Appender`] lives on the replica core, preparation on a thread of its
//! own.
//!
//! `fuzz` cuts and damages logs anywhere. Start with [`record`] for bytes, then [`append`], then [`mod@recover`].
#![forbid(unsafe_code)]

pub mod append;
pub mod folder;
pub mod fuzz;
pub mod mend;
pub mod prepare;
pub mod record;
pub mod recover;
pub mod segment;
#[cfg(test)]
mod tests;

pub use append::{Appender, Write};
pub use record::{Metadata, SnapshotMark};
pub use recover::{Recovered, Tail, WalError, recover, recover_behind};
pub use segment::{BLOCK_BYTES, SEGMENT_BYTES, SegmentName};
