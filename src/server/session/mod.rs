//! One session core's state, as its handlers and its loop see it.
//!
//! ```text
//!   state          Session: the newest snapshot, headers, and what tasks of the core wait for
//!   requests       requests on their way through the replica, and who waits for them
//!   holds          what a long answer holds on to of the store
//!   turn           a turn of the session loop
//!   member         what all session cores of a member share
//!   observer       what is told to the metrics and the log of how requests ended
//!   watches        the watch streams, between the hub and their clients
//!   key_count      how many keys there are, learnt once
//!   gathering      what the core holds of answers that are gathered before they are sent
//!   line           those that do something one after the other
//!   streams        calls that stay open, and how they hear that the member stops
//!   member_health  what the member says of itself on the HTTP/1.1 endpoints
//! ```
//!
//! All of it lives on one core and is reached through `Rc`; what cores share is in [`Member`].
#![forbid(unsafe_code)]

pub mod gathering;
mod holds;
pub mod key_count;
pub mod line;
mod member;
pub mod member_health;
pub mod observer;
mod requests;
mod state;
pub mod streams;
pub mod turn;
pub mod watches;

pub use holds::Pin;
pub use member::Member;
pub use state::{Parts, Session};
