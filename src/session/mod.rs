//! One session core's own logic: what it waits for, and in which order it takes what the replica says and tells
//! watchers. Plain synchronous code: `server/` and `sim/` drive the same functions, on sockets and on a virtual clock.
//!
//! ```text
//!             lane                          turn                               transport
//!   replica ═══════▶ inbox ──▶ reply, read permission ──▶ Shell::on_…
//!                          └─▶ batch of events ──▶ Watches::publish
//!                                                  Watches::work ──▶ Hub ──▶ send, flush ──▶ streams
//!                                                                     ▲                       │
//!                                                                     └──────── room ─────────┘
//! ```
//!
//! [`turn`] is one turn of a core. It ends when nothing is left, or when the shell says that other tasks of the core
//! must run; then it says that it has more to do. [`watches`] has the hub together with the way to its streams: a
//! [`Transport`] takes responses and says how much room a stream has. [`tickets`] knows who waits for which reply.
//!
//! # Invariants
//!
//! - What the replica says is taken in its order. The responses to one watch stream are sent in the hub's order.
//! - A reply finds the request that its ticket was issued for, or nobody.
//! - The hub knows the room of each stream as it was after the last response that was sent on it.
//!
//! # Deliberately absent
//!
//! The requests of clients, which the shell decodes and checks, and the clock: who calls passes the time.
//!
//! Start reading at [`turn`](mod@turn).
#![forbid(unsafe_code)]

pub mod tickets;
pub mod turn;
pub mod watches;

pub use tickets::{Tickets, core_of};
pub use turn::{FromReplica, Shell, turn};
pub use watches::{Transport, Watches};
