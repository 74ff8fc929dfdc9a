//! The store file: pages, who may see them, and how they get to the disk. This is the format document.
//!
//! A store is a file of pages of 4096 bytes. Trees of pages (`btree`) grow in it by copying: a page that readers can
//! see never changes, its replacement gets another id, and so do all pages above up to the root. One meta page names
//! the roots; whoever has read it has a snapshot of everything. The file is not the log: it lags behind, is brought
//! forward by checkpoints, and a crash falls back to the last of them.
//!
//! ```text
//! file     │ meta 0 │ meta 1 │ node │ node │ run ............ │ free │ node │ ... │ free bitmap (a run) │
//!
//! header   0       4      8             16     17  18      20       22     24                   28       30        32
//! of each  │ crc32c│ id   │ born: u64   │ kind │ - │ count │ prefix │ heap │ link │ run: bytes │ (link) │ garbage │
//! ```
//!
//! - **crc32c** covers the rest of the page, or of the whole run. It is written by the checkpointer, in its copy, and
//!   verified once, when a page is first read from the file. Together with the **id** (a write that went elsewhere)
//!   and the generation in which the page was **born** (a write that never happened: every reference carries it, whole
//!   or its low 16 bits) it makes sure that what is served is what was written. Generations jump when a store is opened
//!   (`meta`), so a page that a crash left behind unfinished has another birth than its successor at the same place. A
//!   page that fails is not served: the reader panics with what to do.
//! - **nodes** (leaf 1, branch 2) are drawn in [`node`], their keys explained in [`key`].
//! - **runs** (3) are contiguous pages with one header and one piece of content: a value or key too long for a node.
//! - **meta** (4) is drawn by the constants of `meta`: generation, [`Applied`], nine roots, then magic, format, page
//!   size, sequence, number of pages, where the bitmap of free pages is, and whose log the store follows ([`Owner`];
//!   all zeros in a store without an owner). The content fits into one sector. Slot `sequence % 2` is written after
//!   everything that it names is synced, and that write is the checkpoint. A start takes the valid slot with the higher
//!   sequence.
//! - all integers are little-endian, but for a slot's head, which is compared as bytes are.
//!
//! # Who sees what
//!
//! ```text
//!           replica core                       session cores                 checkpointer
//!   Pager: draft ─commit─► published ──pin──► View of a generation        CheckpointJob: pages, sync,
//!     │  fresh pages, free ids, limbo              │                          meta, sync
//!     └──────────────► Table: id ─► frame or mapping ◄──────────────────────── frozen pages
//! ```
//!
//! A turn changes pages of its own in place and copies others. `commit` publishes its state as a page of its own, at
//! id 0 of the [`table`], with one atomic exchange; readers pin a generation ([`readers`]) and from then on load
//! pointers, no more. [`pager`] says when ids and memory are used again, `checkpoint` how a checkpoint goes. Of a
//! store's memory, only the pins and the table are changed by more than one core.
//!
//! # Why so
//!
//! - Copying and not logging pages: the raft log is there already, and readers need old versions for a moment anyway.
//! - Own pin slots and not crossbeam-epoch: see [`readers`].
//! - A bitmap of free pages and not a list: see `set`. It is written whole with each checkpoint, 1/32768 of the file.
//! - Checksums of runs as a whole: a value is read as a whole. A large one costs its checksum on first use.
//! - A reference does not carry the checksum of what it refers to (as ZFS does): a turn would have to sum up each page
//!   it makes before it publishes. The birth in the reference finds the same lost writes but for one in 65 536.
//!
//! # What is absent
//!
//! No cache: the mapping is the kernel's. No page is moved down to make the file shorter: the free tail is cut off at
//! checkpoints, and as the lowest free ids are used first, it comes about by itself where data turns over. No
//! compression, no encryption.
//!
//! # Where to start
//!
//! Begin with `layout`, [`node`] and [`node_mut`], then [`pager`]. `spill` is how a draft that takes much memory is
//! relieved, `extents` a set of pages and runs. `file` is what the store asks of its file. `check` reads a whole file
//! and says what is wrong with it; `hostile` is a file on a disk that forgets, fails and damages, for tests; `witness`
//! tells the model checker who reads, writes and frees a frame.
//!
//! Unsafe code is in [`table`] and `mapping` (pointers become slices), in [`readers`] and [`pager`] (the promises that
//! pins and the single writer make) and in `witness` (a cell in front of each frame), each with the law it leans on.

pub mod check;
mod checkpoint;
mod extents;
mod file;
pub mod hostile;
pub(crate) mod key;
mod layout;
mod mapping;
mod meta;
pub(crate) mod node;
pub(crate) mod node_mut;
pub(crate) mod pager;
#[cfg(all(test, feature = "loom"))]
mod races;
pub(crate) mod readers;
mod set;
mod spill;
pub(crate) mod table;
mod witness;

pub use checkpoint::{CheckpointError, CheckpointJob};
pub use file::{MemoryFile, PageFile};
pub use layout::{PAGE_SIZE, PageId};
pub use mapping::Mapping;
pub use meta::{Applied, OpenError, Owner, TREES, claim, is_claimed, owner};
pub use table::PAGES_MAX;

pub(crate) use layout::{Kind, Page, PageRef, RunRef};
