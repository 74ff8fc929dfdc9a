//! Founders of a cluster that are discovered: what is made of what others say of them.
//!
//! ```text
//!   srv           DNS names a place for each member, and each member finds itself among them
//!   registration  a discovery service has a list, onto which each member puts itself and which all wait for
//! ```
//!
//! Both end in a text of the form of `--initial-cluster`, from which ids follow: founders that have not been told the
//! same members found different clusters, and refuse one another. Neither is asked again once there is data.
//!
//! What others say is not to be trusted: numbers and lengths are bounded here. Nothing is asked here either; whoever
//! does that, and waits, is `server/boot`. The texts of refusals are etcd's.
#![forbid(unsafe_code)]

pub mod registration;
pub mod srv;
