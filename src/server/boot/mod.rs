//! What happens once, when a member starts.
//!
//! ```text
//!   data_dir      the member's folder: made, or examined for the member that lives in it
//!   default_host  the machine's own address, for a member that listens everywhere
//!   listeners     every listening socket, claimed before anything is opened
//!   founders      the founders of a cluster that DNS names, or a discovery service
//!   registry      asks a discovery service
//!   open          the store and the log, opened or founded, and whether they belong together
//!   join          the cluster that a new member joins, and its place there
//!   places        whether two URLs lead to one place, names that are not known yet being waited for
//!   newborn       whether a founder has lived in its cluster before
//!   wiring        what each core owns, the lanes between cores, the threads beside them
//!   executors     one thread for each core, or one for both parts
//!   publish       a follower tells the cluster its name and its URLs
//!   serving       a session core's life, from its first client to its last
//!   arrivals      which core serves a new connection
//!   listener      an accept loop, and the first bytes that tell HTTP/2 from HTTP/1.1
//!   signals       what signals do to a member, watched by a thread
//!   failure       why a member does not start, and what to do about it
//!   notify        the message to the service manager, once clients are answered
//! ```
//!
//! `server::run` lists the steps of a start in their order.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod data_dir;
pub mod default_host;
pub mod executors;
pub mod failure;
pub mod founders;
pub mod join;
pub mod listener;
pub mod listeners;
pub mod newborn;
pub mod notify;
pub mod open;
pub mod places;
pub mod publish;
mod registry;
pub mod serving;
pub mod signals;
pub mod wiring;
