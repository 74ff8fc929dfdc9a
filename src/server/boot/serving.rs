//! A session core's life: it serves from the moment the member has published itself until a signal, and then lets its
//! clients finish.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use super::arrivals::{self, Arrival, Dealer};
use super::listener::{self, Desk, Security, Services};
use super::listeners::{Kind, Listener};
use super::wiring::{self, End, Ending};
use super::{notify, publish};
use crate::config::Config;
use crate::server::admin::{self, Admin};
use crate::server::api::Api;
use crate::server::check;
use crate::server::core::session_loop::{self, FromReplica};
use crate::server::grpc;
use crate::server::io::accept::Admission;
use crate::server::io::stop::{Phase, Stop};
use crate::server::io::turns::Turns;
use crate::server::io::{clock, socket, task};
use crate::server::log::lines;
use crate::server::mesh::{Receiver, Sender};
use crate::server::session::member_health::MemberHealth;
use crate::server::session::{Parts, Session};
use crate::server::tls::Ports;
use crate::server::tls::door::Door as TlsDoor;
use crate::server::tls::handshake::Handshakes;
use crate::server::tls::port::Port;
use crate::server::tls::san::Addresses;
use crate::stdx::time::Duration;

/// How long connections may take to finish what is in flight when the member stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long they are waited for that may wait for room on the disk of the store file.
const DRAIN_WITHOUT_ROOM: Duration = Duration::from_secs(2);
/// Time between two looks at whether what is in flight can be answered at all.
const LOOK: Duration = Duration::from_millis(200);
/// How long they may take to close after that.
const CLOSE: Duration = Duration::from_secs(1);

/// A session core before its executor runs.
pub struct SessionCore {
    /// What its session is made of.
    pub parts: Parts,
    /// What the replica tells it.
    pub lane: Receiver<FromReplica>,
    /// Has something in it once the member is to end.
    pub told: Receiver<()>,
    /// The member's listeners, from which one core accepts for all.
    pub listeners: Arc<Vec<Listener>>,
    /// Places for connections.
    pub admission: Arc<Admission>,
    /// The member's configuration.
    pub config: Config,
    /// What secures the listeners.
    pub ports: Ports,
    /// The member's end.
    pub end: End,
    /// How clients get to it.
    pub door: Door,
}

/// How clients get to a session core.
pub enum Door {
    /// It accepts them, for itself and for the cores behind these lanes. This core also says in the log what is said
    /// once.
    Accept {
        /// The sockets of the member's listeners, in their order.
        sockets: Vec<TcpListener>,
        /// The other session cores.
        others: Vec<Sender<Arrival>>,
    },
    /// Another core accepts them and sends some down this lane.
    Receive {
        /// What the accepting core sends.
        lane: Receiver<Arrival>,
    },
}

/// A session core that serves.
struct Serving {
    session: Rc<Session>,
    stop: Rc<Stop>,
    turns: Arc<Turns>,
    core: Rc<grpc::Core>,
    config: Config,
    ports: Ports,
    /// None where nothing is secured.
    handshakes: Option<Rc<Handshakes>>,
}

impl SessionCore {
    /// The whole life.
    pub async fn run(self) {
        let Self { parts, lane, told, listeners, admission, config, ports, end, door } = self;
        let first = matches!(door, Door::Accept { .. });
        let (counters, seed) = (parts.counters.clone(), parts.seed);
        let session = Session::new(parts);
        task::spawn(session_loop::run(session.clone(), lane));
        task::spawn(session_loop::run_timers(session.clone()));
        if first {
            task::spawn(publish::run(session.clone(), config.clone()));
            let ids = (session.member.cluster_id, session.member.member_id);
            check::start(&session, wiring::own(&config, ids, 0, &ports), &config.checks);
        }
        while !session.gate().is_published() && end.ending().is_none() {
            task::sleep(Duration::from_millis(1)).await;
        }
        let api = Rc::new(Api::new(session.clone(), !seed));
        let core = grpc::Core::new(api, grpc_settings(&config), counters);
        let handshakes = ports.workers.clone().map(Handshakes::new);
        let (stop, turns) = (Stop::new(), Turns::start());
        let serving = Serving { session, stop, turns, core, config, ports, handshakes };
        match door {
            // A member that is to end before it serves, because its first log write waits for room, never serves.
            _ if end.ending().is_some() => {}
            Door::Accept { sockets, others } => {
                serving.accept(&listeners, sockets, &admission, &others);
                serving.announce(&listeners);
            }
            Door::Receive { lane } => {
                let desks = listeners.iter().map(|listener| serving.desk(listener)).collect();
                task::spawn(arrivals::receive(lane, desks));
            }
        }
        told.ready().await;
        if first {
            lines::closing(&serving.config);
            serving.session.resign();
        }
        serving.stop(end.ending() == Some(Ending::Removed)).await;
        end.drained();
        while !end.is_stopped() {
            task::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Serving {
    /// Accepts at every listener.
    fn accept(
        &self,
        listeners: &[Listener],
        sockets: Vec<TcpListener>,
        admission: &Arc<Admission>,
        others: &[Sender<Arrival>],
    ) {
        let others: Rc<[_]> = others.into();
        for (number, (listener, socket)) in listeners.iter().zip(sockets).enumerate() {
            let socket = socket::accept_on(socket);
            // Other members are served by the replica core.
            let Some(desk) = self.desk(listener) else { continue };
            let dealer = Dealer::new(number, desk, others.clone());
            task::spawn(listener::listen(socket, admission.clone(), self.stop.clone(), dealer));
        }
    }

    /// Where this core serves the connections of a listener; nowhere, if they are of other members.
    fn desk(&self, listener: &Listener) -> Option<Rc<Desk>> {
        let kind = listener.kind;
        if kind == Kind::Peer {
            return None;
        }
        Some(Rc::new(Desk::new(Services {
            grpc: matches!(kind, Kind::Client { .. }).then(|| self.core.clone()),
            admin: self.admin(kind, self.config.http.host_whitelist.clone()),
            stop: self.stop.clone(),
            turns: self.turns.clone(),
            security: self.security(listener).map(Rc::new),
        })))
    }

    /// What secures a listener, if it is secured.
    fn security(&self, listener: &Listener) -> Option<Security> {
        let (port, handshakes) =
            secured(listener.schemes.secure, &self.ports.client, self.handshakes.as_ref())?;
        let door = TlsDoor {
            port,
            handshakes,
            counts: self.session.metrics.clone(),
            // etcd asks this at no port for clients but the one for metrics.
            addresses: (listener.kind == Kind::Metrics).then(Addresses::default),
        };
        // Whoever gets through TLS has called the server by a name that it knows.
        let admin = self.admin(listener.kind, Vec::new());
        Some(Security { door, admin, is_optional: listener.schemes.plain })
    }

    /// The endpoints over HTTP/1.1, called by one of these names; by any if there are none.
    fn admin(&self, kind: Kind, host_whitelist: Vec<String>) -> Option<Rc<Admin>> {
        if kind == (Kind::Client { http: false }) {
            return None;
        }
        let settings = admin::Settings {
            cors: self.config.http.cors.clone(),
            host_whitelist,
            metrics_only: kind == Kind::Metrics,
        };
        Some(Rc::new(Admin::new(settings, Box::new(MemberHealth(self.session.clone())))))
    }

    /// Says that clients are answered: in the log, and to the service manager.
    fn announce(&self, listeners: &[Listener]) {
        for listener in listeners {
            let traffic = match listener.kind {
                Kind::Peer => continue,
                Kind::Client { http: true } => "grpc+http",
                Kind::Client { http: false } => "grpc",
                Kind::Http => "http",
                Kind::Metrics => {
                    lines::serving_metrics(&listener.address);
                    continue;
                }
            };
            if listener.schemes.plain {
                lines::serving_insecurely(traffic, &listener.address);
            }
            if listener.schemes.secure {
                lines::serving_securely(traffic, &listener.address);
            }
        }
        let header = self.session.header();
        lines::published(&self.config, header.member_id, header.cluster_id);
        let clients = listeners.iter().filter(|listener| matches!(listener.kind, Kind::Client { .. }));
        clients.for_each(|_| lines::ready());
        lines::notified(notify::ready(std::env::var_os("NOTIFY_SOCKET").as_deref()));
    }

    /// Lets calls in flight end, then closes the connections. What waits for room on the disk is refused: at
    /// once if the log lacks room, without which no call ends, and after a while if the store file does. A member that
    /// was removed has nobody who would take what it proposes.
    async fn stop(&self, is_removed: bool) {
        self.stop.advance(Phase::Draining);
        self.session.watches.close_all();
        self.session.streams.close_all();
        let began = clock::now();
        let end = began + DRAIN;
        while clock::now() < end && self.stop.members() > 0 {
            let waited = clock::now().since(began) >= DRAIN_WITHOUT_ROOM;
            if is_removed || self.session.log_lacks_room() || (waited && self.session.store_lacks_room()) {
                self.session.end_waiting();
            }
            task::until(end.min(clock::now() + LOOK), self.stop.drained()).await;
        }
        self.stop.advance(Phase::Closed);
        task::until(clock::now() + CLOSE, self.stop.drained()).await;
    }
}

/// What is needed to secure a listener that is to be secured. Without it the listener would serve in plain text what
/// the flags say is secret.
fn secured(
    is_secure: bool,
    port: &Option<Arc<Port>>,
    handshakes: Option<&Rc<Handshakes>>,
) -> Option<(Arc<Port>, Rc<Handshakes>)> {
    if !is_secure {
        return None;
    }
    const LAW: &str = "the ports of all secured listeners are opened before a listener is";
    Some((port.clone().expect(LAW), handshakes.expect(LAW).clone()))
}

fn grpc_settings(config: &Config) -> grpc::Settings {
    grpc::Settings {
        message_bytes_max: config.limits.request_bytes_max as usize + 512 * 1024,
        streams_max: config.limits.streams_max,
        ping_interval_min: config.keepalive.client_min_time,
        ping_after: config.keepalive.interval,
        ping_timeout: config.keepalive.timeout,
        ..grpc::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "before a listener is")]
    fn a_secured_listener_without_its_port_is_not_served_in_plain_text() {
        assert!(secured(false, &None, None).is_none());
        let _ = secured(true, &None, None);
    }
}
