//! The sockets that a member listens on: claimed before anything is opened, and held until the end.
//!
//! Every socket is bound and listening from the moment it is claimed, as in etcd. So two listeners of one member that
//! want the same port meet as an error at start, and so does another process. A listener is one socket, from which one
//! core accepts for all: with a socket for each core (SO_REUSEPORT) another process of the same user could join them
//! and get a share of the connections.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::thread;
use std::time::Instant;

use crate::config::{Config, Url};
use crate::server::io::socket;
use crate::server::log::lines;
use crate::stdx::time::Duration;

/// How long to wait for an address that is in use.
const CLAIM: Duration = Duration::from_secs(10);

/// What is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Other members.
    Peer,
    /// gRPC, and HTTP/1.1 unless that has listeners of its own.
    Client {
        /// HTTP/1.1 too.
        http: bool,
    },
    /// HTTP/1.1 alone.
    Http,
    /// Metrics and health alone.
    Metrics,
}

impl Kind {
    /// The flag that says where such listeners are.
    fn flag(self) -> &'static str {
        match self {
            Kind::Peer => "--listen-peer-urls",
            Kind::Client { .. } => "--listen-client-urls",
            Kind::Http => "--listen-client-http-urls",
            Kind::Metrics => "--listen-metrics-urls",
        }
    }
}

/// One listening socket.
pub struct Listener {
    /// What is served there.
    pub kind: Kind,
    /// Where, in the words of the flag, which may differ from the socket's own address.
    pub address: String,
    /// By which schemes.
    pub schemes: Schemes,
    socket: TcpListener,
}

/// The schemes by which a listener is reached. One may have both, as with etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schemes {
    /// Without TLS.
    pub plain: bool,
    /// With TLS.
    pub secure: bool,
}

impl Schemes {
    fn add(&mut self, url: &Url) {
        if url.is_tls() {
            self.secure = true;
        } else {
            self.plain = true;
        }
    }
}

/// Another handle of each socket for other members, for the replica core, and whether it is secured.
///
/// # Errors
/// When the process has no descriptor left.
pub fn share_peers(listeners: &[Listener]) -> Result<Vec<(TcpListener, bool)>, String> {
    let peers = || listeners.iter().filter(|listener| listener.kind == Kind::Peer);
    let sockets = share_by(peers(), TcpListener::try_clone)?;
    Ok(sockets.into_iter().zip(peers().map(|listener| listener.schemes.secure)).collect())
}

/// Another handle of each socket, for the core that accepts.
///
/// # Errors
/// When the process has no descriptor left.
pub fn share(listeners: &[Listener]) -> Result<Vec<TcpListener>, String> {
    share_by(listeners, TcpListener::try_clone)
}

fn share_by<'a>(
    listeners: impl IntoIterator<Item = &'a Listener>,
    share: impl Fn(&TcpListener) -> io::Result<TcpListener>,
) -> Result<Vec<TcpListener>, String> {
    let shared = listeners.into_iter().map(|listener| {
        share(&listener.socket).map_err(|error| {
            format!(
                "cannot accept on {}: {error}; raise the limit of open files (ulimit -n, or LimitNOFILE of the \
                 service)",
                listener.address
            )
        })
    });
    shared.collect()
}

/// Claims every listener of a member: first those for other members, last those for metrics.
///
/// # Errors
/// When an address is in use, by another process or by another of these listeners.
pub fn claim(config: &Config) -> Result<Vec<Listener>, String> {
    let listen = &config.listen;
    let is_taken = |url: &&Url| listen.client.iter().any(|other| other.authority() == url.authority());
    if let Some(url) = listen.client_http.iter().find(is_taken) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    let http = listen.client_http.is_empty();
    let kinds = [
        (&listen.peer, Kind::Peer),
        (&listen.client, Kind::Client { http }),
        (&listen.client_http, Kind::Http),
        (&listen.metrics, Kind::Metrics),
    ];
    let mut claimed: Vec<Listener> = Vec::new();
    for (urls, kind) in kinds {
        for url in urls {
            let address = url.authority();
            let both = matches!(kind, Kind::Client { .. } | Kind::Http);
            let same = claimed.iter_mut().find(|other| other.kind == kind && other.address == address);
            if let Some(same) = same.filter(|_| both) {
                same.schemes.add(url);
                continue;
            }
            let socket = claim_one(url, listen.reuse_port, &claimed).map_err(|error| {
                let advice = advice(&error, kind);
                format!("listen tcp {}: bind: {error}{advice}", url.authority())
            })?;
            let mut schemes = Schemes::default();
            schemes.add(url);
            claimed.push(Listener { kind, address, schemes, socket });
        }
    }
    Ok(claimed)
}

/// What to do about an address that cannot be claimed; empty where the error says it all.
fn advice(error: &io::Error, kind: Kind) -> String {
    let flag = kind.flag();
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "; end the process that listens there, perhaps another member, or give this one another address with {flag}"
        ),
        Some(libc::EADDRNOTAVAIL) => {
            format!(
                "; no interface of this machine has that address: name another one with {flag}, 0.0.0.0 for all"
            )
        }
        Some(libc::EACCES) => format!(
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE: give it, or name another port with {flag}"
        ),
        _ => format!("; check what {flag} names"),
    }
}

/// Claims an address. A member that was killed a moment ago may still hold it: the kernel takes down rings, and the
/// sockets that they wait on, after the process is gone. So an address that none of `ours` holds is waited for.
fn claim_one(url: &Url, shared: bool, ours: &[Listener]) -> io::Result<TcpListener> {
    let address = resolve(url)?;
    if ours.iter().any(|other| other.socket.local_addr().is_ok_and(|held| overlap(held, address))) {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    let deadline = Instant::now() + CLAIM;
    let mut waiting = false;
    loop {
        match listen(address, shared) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !waiting {
                    lines::address_in_use(&url.authority(), CLAIM);
                }
                waiting = true;
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Listens on an address. All addresses of IPv4 are all addresses of both families where the machine has both.
fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return socket::listen(address, shared);
    }
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match socket::listen(both, shared) {
        Err(error) if address.is_ipv4() && error.kind() != io::ErrorKind::AddrInUse => {
            socket::listen(address, shared)
        }
        result => result,
    }
}

/// Whether one socket listens where another one wants to.
fn overlap(held: SocketAddr, wanted: SocketAddr) -> bool {
    let everywhere = |address: SocketAddr| address.ip().is_unspecified();
    wanted.port() != 0
        && held.port() == wanted.port()
        && (held.ip() == wanted.ip() || everywhere(held) || everywhere(wanted))
}

/// The address of a URL. `localhost` is one address, of IPv4, as in Go.
fn resolve(url: &Url) -> io::Result<SocketAddr> {
    if url.is_unix() {
        return Err(io::Error::other("listeners on Unix sockets are not built yet"));
    }
    let host = if url.host == "localhost" { "127.0.0.1" } else { &url.host };
    let port = url.port().ok_or_else(|| io::Error::other("invalid port"))?;
    let mut found = (host, port).to_socket_addrs()?;
    let address = found.next().ok_or_else(|| io::Error::other("the host has no address"))?;
    // A socket of one family alone does not take an address of IPv4 in the clothes of IPv6.
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// Claims a client listener and one more on the same port.
    fn claim_two(client: &str, flag: &str, other: &str) -> Result<usize, String> {
        let port = free_port();
        let mut flags = format!(
            "--name=m --advertise-client-urls=http://h:1 --listen-client-urls=http://{client}:{port} \
             --listen-peer-urls=http://127.0.0.1:0"
        );
        flags += &format!(" {flag}=http://{other}:{port}");
        claim(&config::of_line(&flags))
            .map(|claimed| claimed.len())
            .map_err(|error| error.replace(&port.to_string(), "PORT"))
    }

    #[test]
    fn no_two_listeners_of_a_member_share_a_port() {
        for flag in ["--listen-metrics-urls", "--listen-peer-urls", "--listen-client-http-urls"] {
            for (client, other) in [
                ("127.0.0.1", "localhost"),
                ("127.0.0.1", "0.0.0.0"),
                ("0.0.0.0", "127.0.0.1"),
                ("127.0.0.1", "[::]"),
                ("0.0.0.0", "[::]"),
            ] {
                let begun = Instant::now();
                let error = claim_two(client, flag, other).unwrap_err();
                assert!(
                    error.starts_with("listen tcp ") && error.contains("in use"),
                    "{flag} {client} {other}: {error}"
                );
                assert!(error.contains("end the process") && error.contains("with --listen-"), "{error}");
                assert!(begun.elapsed() < CLAIM / 2, "a member waits for itself");
            }
        }
        let same = claim_two("127.0.0.1", "--listen-client-http-urls", "127.0.0.1").unwrap_err();
        assert!(same.starts_with("cannot bind both --listen-client-urls and"), "{same}");
        assert_eq!(claim_two("127.0.0.1", "--listen-metrics-urls", "127.0.0.2"), Ok(3));
    }

    #[test]
    fn a_socket_that_cannot_be_shared_is_an_error_that_says_what_to_do() {
        let flags = "--advertise-client-urls=http://h:1 --listen-client-urls=http://127.0.0.1:0 \
                     --listen-peer-urls=http://127.0.0.1:0";
        let claimed = claim(&config::of_line(flags)).unwrap();
        let shared: Vec<_> =
            share(&claimed).unwrap().iter().map(|socket| socket.local_addr().unwrap()).collect();
        let own: Vec<_> = claimed.iter().map(|listener| listener.socket.local_addr().unwrap()).collect();
        assert_eq!(shared, own);
        let error = share_by(&claimed, |_| Err(io::Error::from_raw_os_error(libc::EMFILE))).unwrap_err();
        assert!(error.starts_with("cannot accept on 127.0.0.1:0: Too many open files"), "{error}");
        assert!(error.contains("ulimit -n"), "{error}");
    }

    #[test]
    fn an_address_that_cannot_be_had_says_what_to_do() {
        let refused = |host: &str| {
            let flags = format!(
                "--advertise-client-urls=http://h:1 --listen-peer-urls=http://127.0.0.1:0 \
                 --listen-client-urls=http://{host}:0"
            );
            claim(&config::of_line(&flags)).err().unwrap()
        };
        let nobody = refused("203.0.113.1");
        assert!(nobody.contains("no interface of this machine") && nobody.contains("0.0.0.0"), "{nobody}");
        let denied = advice(&io::Error::from_raw_os_error(libc::EACCES), Kind::Metrics);
        assert!(
            denied.contains("CAP_NET_BIND_SERVICE") && denied.contains("--listen-metrics-urls"),
            "{denied}"
        );
        assert!(advice(&io::Error::other("odd"), Kind::Peer).contains("--listen-peer-urls"));
    }

    #[test]
    fn every_address_is_of_both_families() {
        let claimed = claim(&config::of_line(
            "--advertise-client-urls=http://h:1 --listen-client-urls=http://0.0.0.0:0 \
             --listen-peer-urls=http://127.0.0.1:0",
        ))
        .unwrap();
        let port = claimed[1].socket.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        // A machine without IPv6 cannot even bind there.
        if TcpListener::bind("[::1]:0").is_ok() {
            std::net::TcpStream::connect(("::1", port)).unwrap();
        }
        assert_eq!(claimed[1].address, "0.0.0.0:0");
    }

    #[test]
    fn another_process_gets_the_port_only_when_it_may() {
        for shared in [false, true] {
            let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let first = socket::listen(address, shared).unwrap();
            let again = socket::listen(first.local_addr().unwrap(), true);
            assert_eq!(again.is_ok(), shared, "{again:?}");
        }
    }
}
