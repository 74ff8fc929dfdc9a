//! The accept loop of one core.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use glommio::net::{AcceptedTcpStream, TcpListener};

use super::process::{self, DESCRIPTORS_RESERVED};
use super::tcp::Tcp;
use super::{socket, task};
use crate::stdx::time::Duration;

/// How long to wait when descriptors ran out or the process holds its maximum of connections.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How many client connections the process holds, and how many it may. Shared by all cores.
pub struct Admission {
    open: AtomicUsize,
    open_max: usize,
}

/// A place taken by one connection; given back when dropped.
pub struct Place(Arc<Admission>);

impl Admission {
    /// As many places as the process has descriptors to spare.
    pub fn from_descriptor_limit() -> Arc<Self> {
        let spare = process::descriptor_limit().saturating_sub(DESCRIPTORS_RESERVED).max(1);
        Self::with_places(usize::try_from(spare).unwrap_or(usize::MAX))
    }

    /// Exactly `open_max` places.
    pub fn with_places(open_max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), open_max })
    }

    /// Takes a place if one is free.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        // A count that guards nothing but itself: no ordering with other memory is needed.
        if self.open.fetch_add(1, Ordering::Relaxed) < self.open_max {
            return Some(Place(self.clone()));
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that this core has accepted, for itself or for another core.
pub struct Accepted {
    stream: AcceptedTcpStream,
    place: Place,
}

impl Accepted {
    /// Makes the connection one of the core that calls. An error when the client has gone already.
    pub fn bind(self) -> io::Result<(Tcp, SocketAddr, Place)> {
        let stream = self.stream.bind_to_executor();
        let peer = stream.peer_addr().map_err(io::Error::from)?;
        socket::tune(&stream)?;
        Ok((Tcp::new(stream), peer, self.place))
    }
}

/// Takes over the connections that the accept loop gets.
pub trait Take {
    /// A client has connected. This must not block.
    fn take(&self, accepted: Accepted);
    /// The process has no room for another client: somebody who only waits should leave.
    fn crowded(&self);
}

/// Accepts for ever and hands each connection to `desk`. While the process is full, clients wait in the kernel's
/// queue, as they do with etcd, and clients that have asked for nothing are sent away.
pub async fn accept(listener: &TcpListener, admission: &Arc<Admission>, desk: &impl Take) {
    let mut failing = false;
    loop {
        let Some(place) = admission.enter() else {
            desk.crowded();
            task::sleep(BACK_OFF).await;
            continue;
        };
        match listener.shared_accept().await.map_err(io::Error::from) {
            Ok(stream) => {
                failing = false;
                desk.take(Accepted { stream, place });
            }
            Err(error) if is_clients(&error) => {}
            Err(error) => {
                // Logged once per spell: a full descriptor table lasts and would fill the log.
                if !failing {
                    tracing::warn!(error = %error, "failed to accept a client connection");
                }
                failing = true;
                desk.crowded();
                task::sleep(BACK_OFF).await;
            }
        }
        task::yield_now().await;
    }
}

/// The client went away between connecting and being accepted.
fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::ENOTCONN | libc::ECONNRESET | libc::EINVAL | libc::EPROTO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::with_places(2);
        let first = admission.enter();
        let second = admission.enter();
        assert!(first.is_some() && second.is_some() && admission.enter().is_none());
        drop(first);
        assert_eq!(admission.open(), 1);
        assert!(admission.enter().is_some());
    }
}
