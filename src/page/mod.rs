//! Pages.

pub mod check;
mod checkpoint;
mod file;
pub mod hostile;
mod layout;
mod meta;
pub(crate) mod node;
pub(crate) mod pager;
pub(crate) mod readers;
mod set;
pub(crate) mod table;

pub use checkpoint::{CheckpointError, CheckpointJob};
pub use file::{MemoryFile, PageFile};
pub use layout::{PAGE_SIZE, PageId};
pub use meta::{Applied, OpenError, TREES};
pub use table::{Mapping, PAGES_MAX};

pub(crate) use layout::{Kind, Page, PageRef, RunRef};
