//! The front door of a session core: accepts, looks at the first bytes, and hands the connection over.
//!
//! ```text
//!   first bytes                              handed to
//!   PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n         grpc::connection
//!   anything else                            http1::connection, which answers what is no HTTP with an error
//! ```
//!
//! A listener that is secured shakes hands before that (`tls::door`). One that is both looks at the first byte: a
//! handshake begins with one that no text does.
//!
//! A client that sends nothing, or its first bytes one by one, costs a descriptor and a small task until the
//! same five minutes have passed that etcd gives a request's head, or until its place is needed (`io::idle`).
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::io::AsyncRead;

use crate::server::admin::Admin;
use crate::server::grpc::{self, Client};
use crate::server::http1::connection::{self, HEAD_TIMEOUT};
use crate::server::http2::PREFACE;
use crate::server::io::accept::{self, Accepted, Admission, Place, Take};
use crate::server::io::clock;
use crate::server::io::idle::IdleClients;
use crate::server::io::socket::TcpListener;
use crate::server::io::stop::{Membership, Phase, Stop};
use crate::server::io::task;
use crate::server::io::tcp::Tcp;
use crate::server::io::turns::{Priority, Turns};
use crate::server::io::wire::ByteStream;
use crate::server::tls::door::Door;
use crate::stdx::time::Instant;

/// Bytes looked at before the protocol must be known.
const FIRST_BYTES: usize = 1024;
/// What a handshake begins with.
const HANDSHAKE: u8 = 0x16;

/// What a listener's connections may ask for.
#[derive(Clone)]
pub struct Services {
    /// gRPC, unless the listener is for HTTP only.
    pub grpc: Option<Rc<grpc::Core>>,
    /// The HTTP/1.1 endpoints, unless the listener is for gRPC only.
    pub admin: Option<Rc<Admin>>,
    /// Ends the connections.
    pub stop: Rc<Stop>,
    /// Runs the connections.
    pub turns: Arc<Turns>,
    /// What secures the connections; nothing if they are plain.
    pub security: Option<Rc<Security>>,
}

/// What secures the connections of a listener.
pub struct Security {
    /// Where they come in.
    pub door: Door,
    /// The HTTP/1.1 endpoints for those who have come in, unless the listener is for gRPC only.
    pub admin: Option<Rc<Admin>>,
    /// Plain connections are served beside them.
    pub is_optional: bool,
}

/// Where the connections of one listener are served, on one core.
pub struct Desk {
    services: Services,
    idle: Rc<IdleClients>,
}

impl Desk {
    /// Serves by these means.
    pub fn new(services: Services) -> Desk {
        Desk { services, idle: IdleClients::new() }
    }

    /// Begins to serve a connection.
    pub fn serve(&self, accepted: Accepted) {
        // A client that has gone already leaves nothing to serve.
        let Ok((stream, peer, place)) = accepted.bind() else { return };
        let (serving, idle) = (self.services.clone(), self.idle.clone());
        // Joined here and not by the connection's first turn, which may come after the core's end was asked for.
        let membership = self.services.stop.join();
        let turns = &self.services.turns;
        if serving.security.is_some() {
            turns.spawn(|priority| secure(stream, peer, place, priority, membership, serving, idle));
        } else {
            let (client, begun) = (peer.into(), Bytes::new());
            turns.spawn(|priority| serve(stream, begun, client, place, priority, membership, serving, idle));
        }
    }

    /// Sends away some who have not asked for anything yet.
    pub fn evict(&self) {
        self.idle.evict(clock::now());
        if let Some(security) = &self.services.security {
            security.door.handshakes.evict();
        }
    }
}

impl Take for Desk {
    fn take(&self, accepted: Accepted) {
        self.serve(accepted);
    }

    fn crowded(&self) {
        self.evict();
    }
}

/// Accepts on `listener` for `takers` until the core stops.
pub async fn listen(listener: TcpListener, admission: Arc<Admission>, stop: Rc<Stop>, takers: impl Take) {
    let membership = stop.join();
    let accepting = accept::accept(&listener, &admission, &takers);
    let stopping = membership.reached(Phase::Draining);
    futures::future::select(std::pin::pin!(accepting), std::pin::pin!(stopping)).await;
}

/// Shakes hands with a client, and serves it then.
async fn secure(
    mut tcp: Tcp,
    peer: SocketAddr,
    place: Place,
    priority: Priority,
    membership: Membership,
    mut services: Services,
    idle: Rc<IdleClients>,
) {
    let Some(security) = services.security.take() else { return };
    let mut begun = Bytes::new();
    if security.is_optional {
        let deadline = clock::now() + HEAD_TIMEOUT;
        let Some(Some(read)) = idle.wait(read_some(&mut tcp, deadline)).await else { return };
        if read.first() != Some(&HANDSHAKE) {
            let client = peer.into();
            return Box::pin(serve(tcp, read, client, place, priority, membership, services, idle)).await;
        }
        begun = read;
    }
    let welcomed = {
        let welcoming = Box::pin(security.door.welcome(tcp, &begun, peer));
        let stopping = membership.reached(Phase::Draining);
        match futures::future::select(welcoming, std::pin::pin!(stopping)).await {
            futures::future::Either::Left((welcomed, _)) => welcomed,
            futures::future::Either::Right(_) => None,
        }
    };
    let Some((stream, common_name)) = welcomed else { return };
    services.admin = security.admin.clone();
    let client = Client { address: peer, common_name };
    Box::pin(serve(stream, Bytes::new(), client, place, priority, membership, services, idle)).await;
}

/// Reads what comes first. `None` when the client goes or takes too long.
async fn read_some(tcp: &mut Tcp, deadline: Instant) -> Option<Bytes> {
    let mut buffer = [0; FIRST_BYTES];
    let read = poll_fn(|cx| Pin::new(&mut *tcp).poll_read(cx, &mut buffer));
    let n = task::until(deadline, read).await?.ok().filter(|&n| n > 0)?;
    Some(Bytes::copy_from_slice(&buffer[..n]))
}

/// Serves one connection, of which the bytes that have `begun` it were read, to its end. It keeps its `place` until
/// then, and is among the `idle` until its first words.
#[expect(clippy::too_many_arguments, reason = "all of it is the connection's own")]
async fn serve<S: ByteStream>(
    mut stream: S,
    begun: Bytes,
    client: Client,
    place: Place,
    priority: Priority,
    membership: Membership,
    services: Services,
    idle: Rc<IdleClients>,
) {
    let deadline = clock::now() + HEAD_TIMEOUT;
    let first = {
        // Boxed, here and below: a connection keeps the room of what it is, not of all it might have been.
        let reading = Box::pin(idle.wait(first_bytes(&mut stream, &begun, deadline)));
        let stopping = membership.reached(Phase::Draining);
        match futures::future::select(reading, std::pin::pin!(stopping)).await {
            futures::future::Either::Left((first, _)) => first.flatten(),
            futures::future::Either::Right(_) => None,
        }
    };
    match (first, &services.grpc, &services.admin) {
        (Some(First::Http2(bytes)), Some(core), _) => {
            Box::pin(grpc::connection::serve(
                core.clone(),
                stream,
                bytes,
                client,
                membership,
                priority,
                idle.enter(),
            ))
            .await;
        }
        (Some(First::Other(bytes)), _, Some(admin)) => {
            Box::pin(connection::serve(&**admin, stream, bytes, &membership, &idle)).await;
        }
        _ => {}
    }
    drop(place);
}

enum First {
    Http2(Bytes),
    Other(Bytes),
}

/// Reads until the bytes are, or cannot become, HTTP/2's preface. `None` when the client goes or takes too long.
async fn first_bytes<S: ByteStream>(stream: &mut S, begun: &[u8], deadline: Instant) -> Option<First> {
    let mut buffer = [0; FIRST_BYTES];
    let mut have = begun.len();
    buffer[..have].copy_from_slice(begun);
    loop {
        let compared = have.min(PREFACE.len());
        let bytes = || Bytes::copy_from_slice(&buffer[..have]);
        if buffer[..compared] != PREFACE[..compared] {
            return Some(First::Other(bytes()));
        }
        if compared == PREFACE.len() {
            return Some(First::Http2(bytes()));
        }
        let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer[have..]));
        have += task::until(deadline, read).await?.ok().filter(|&n| n > 0)?;
    }
}
