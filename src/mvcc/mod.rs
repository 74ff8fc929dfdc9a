//! Many versions of every key: the store's data model, as etcd defines it.
#![forbid(unsafe_code)]

pub mod check;
pub mod compact;
pub mod event;
pub mod fuzz;
pub mod hash;
pub mod model;
pub mod pin;
pub mod range;
pub mod range_stream;
pub mod revision;
pub mod schema;
pub mod txn;
pub mod view;
pub mod walk;
pub mod wire;
pub mod write;

pub use event::{Event, EventBatch, PastEvent};
pub use range::Range;
pub use range_stream::RangeStream;
pub use revision::Revision;
pub use view::View;
pub use write::Writer;
