//! What happens once, when a member starts.
//!
//! ```text
//!   data_dir   the member's folder: made, locked, checked for what an older member left
//!   listener   a listening socket's accept loop, and the first bytes that tell HTTP/2 from HTTP/1.1
//!   signals    SIGTERM and SIGINT, watched by a thread
//! ```
#![forbid(unsafe_code)]

pub mod data_dir;
pub mod default_host;
pub mod listener;
pub mod signals;
