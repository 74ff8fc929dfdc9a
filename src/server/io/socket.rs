//! Listening sockets, the options of accepted ones, and connections that begin at a given address.
//!
//! Unsafe: socket options by descriptor, handing descriptors to glommio, and a connection that glommio does not begin.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

pub use glommio::net::TcpListener;
use glommio::net::TcpStream;

/// Connections that may wait for `accept`; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: libc::c_int = 4096;
/// First probe of a silent TCP peer and the distance between probes, as Go's listener sets them.
const TCP_KEEPALIVE_SECONDS: libc::c_int = 30;

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes integers; the descriptor is ours alone and owned from here on.
    unsafe {
        let descriptor = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Listens on `address`. A socket on all addresses of IPv6 takes those of IPv4 too. Where the port is `shared`, other
/// processes of the same user may listen on it as well.
///
/// # Errors
/// What socket, bind and listen answer.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = open(address)?;
    let descriptor = socket.as_raw_fd();
    // A member may come back while connections of its last life are still in TIME_WAIT, as any program in Go may.
    set(descriptor, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if shared {
        set(descriptor, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        let only = libc::c_int::from(!address.ip().is_unspecified());
        set(descriptor, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only)?;
    }
    bind(descriptor, address)?;
    // SAFETY: listen takes integers.
    if unsafe { libc::listen(descriptor, BACKLOG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

/// A listening socket for the executor of this thread.
pub fn accept_on(socket: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is an open listening socket and its ownership moves into the listener.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}

fn bind(descriptor: RawFd, address: SocketAddr) -> io::Result<()> {
    // SAFETY: pointer and length are those of an address that lives as long as the call.
    with_name(address, |name, length| unsafe { libc::bind(descriptor, name, length) })
}

/// Hands an address to a system call that takes one.
fn with_name(
    address: SocketAddr,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            call((&raw const name).cast(), size_of_val(&name) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            call((&raw const name).cast(), size_of_val(&name) as libc::socklen_t)
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A connection that is being made from an address of this machine.
pub struct Dialling(OwnedFd);

/// Begins a connection with `to` from an address of this machine, at a port that the kernel chooses.
///
/// # Errors
/// What socket, bind and connect answer.
pub fn dial_from(from: IpAddr, to: SocketAddr) -> io::Result<Dialling> {
    let socket = open(to)?;
    let descriptor = socket.as_raw_fd();
    bind(descriptor, SocketAddr::new(from, 0))?;
    set_nonblocking(descriptor, true)?;
    // SAFETY: pointer and length are those of an address that lives as long as the call.
    match with_name(to, |name, length| unsafe { libc::connect(descriptor, name, length) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(Dialling(socket)),
    }
}

impl Dialling {
    /// Whether the connection is made by now. Does not wait.
    ///
    /// # Errors
    /// Why there will be none.
    pub fn is_done(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one pollfd of ours.
        match unsafe { libc::poll(&raw mut poll, 1, 0) } {
            0 => return Ok(false),
            n if n < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        let (mut error, mut length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the value is an int on our stack and its size is passed along.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut error).cast(),
                &raw mut length,
            )
        };
        match (result, error) {
            (0, 0) => Ok(true),
            (0, error) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The connection that was made, for the executor of this thread, which waits by itself.
    ///
    /// # Errors
    /// What fcntl answers.
    pub fn connected(self) -> io::Result<TcpStream> {
        set_nonblocking(self.0.as_raw_fd(), false)?;
        // SAFETY: the descriptor is an open socket and its ownership moves into the stream.
        Ok(unsafe { TcpStream::from_raw_fd(self.0.into_raw_fd()) })
    }
}

fn set_nonblocking(descriptor: RawFd, is_on: bool) -> io::Result<()> {
    // SAFETY: fcntl takes integers here.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    let wanted = if is_on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: likewise.
    if flags < 0 || unsafe { libc::fcntl(descriptor, libc::F_SETFL, wanted) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What every accepted connection gets: no delay for small answers, and probes that find a dead peer.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    let descriptor = stream.as_raw_fd();
    set(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, TCP_KEEPALIVE_SECONDS)?;
    set(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, TCP_KEEPALIVE_SECONDS)
}

fn set(descriptor: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int on our stack and its size is passed along.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_port_belongs_to_one_listener_unless_it_is_shared() {
        let claimed = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = claimed.local_addr().unwrap();
        for shared in [false, true] {
            let refused = listen(address, shared).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        }
        let shared = listen("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = shared.local_addr().unwrap();
        assert!(listen(address, true).is_ok() && listen(address, false).is_err());
    }

    #[test]
    fn a_port_is_free_at_once_though_connections_of_its_last_listener_linger() {
        let first = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = first.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // The side that closes first lingers.
        drop(first.accept().unwrap());
        drop((first, client));
        assert!(listen(address, false).is_ok());
    }

    #[test]
    fn all_addresses_of_ipv6_are_those_of_ipv4_too() {
        // A machine without IPv6 has nothing to show.
        let Ok(both) = listen("[::]:0".parse().unwrap(), false) else { return };
        let port = both.local_addr().unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        let Ok(one) = listen("[::1]:0".parse().unwrap(), false) else { return };
        let port = one.local_addr().unwrap().port();
        assert!(
            TcpStream::connect(("::1", port)).is_ok() && TcpStream::connect(("127.0.0.1", port)).is_err()
        );
    }
}
