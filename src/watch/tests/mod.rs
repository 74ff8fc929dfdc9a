//! Tests of the hub as a whole.
//!
//! ```text
//!   world        every event there was, a store that forgets, and hubs that read it
//!   transcripts  stories in text: requests, batches, and what every stream is told
//!   random       random requests between random slices, each stream compared with the list of all events
//!   slices       what one piece of work does, and what watchers take, however many there are
//!   large        revisions that are too large for memory, for a response or for a fragment
//!   progress     progress requests
//! ```
#![forbid(unsafe_code)]

mod large;
mod progress;
mod random;
mod slices;
mod transcripts;
mod world;
