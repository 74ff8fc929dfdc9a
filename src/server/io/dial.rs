//! Connections that this process begins.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use glommio::net::TcpStream;

use super::tcp::Tcp;
use super::{clock, names, socket, task};
use crate::stdx::time::Duration;

/// Addresses of a host that are tried, at most.
const ADDRESSES_MAX: usize = 8;
/// Pauses between two looks at a connection that is being made from a given address: the first one, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(10));

/// Connects to a host, given by name or address, within so much time behind the look-up of its name. A name is looked
/// up each time, because what it stands for may change. `from` is the address of this machine that the connection is
/// to have, where the kernel is not to choose it.
///
/// # Errors
/// When the host has no address, or nobody answers there, or this machine cannot call from that address.
pub async fn dial(host: &str, port: u16, from: Option<IpAddr>, patience: Duration) -> io::Result<Tcp> {
    connect(&resolve(host, port).await?, from, patience).await
}

/// The addresses of a host.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = if let Ok(address) = host.parse::<IpAddr>() {
        vec![address]
    } else if host == "localhost" {
        vec![Ipv4Addr::LOCALHOST.into()]
    } else {
        names::find_addresses(host).await?
    };
    Ok(found.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, port)).collect())
}

/// Connects to the first of these addresses that answers. Each has its share of the time.
async fn connect(addresses: &[SocketAddr], from: Option<IpAddr>, patience: Duration) -> io::Result<Tcp> {
    let share = patience / addresses.len().max(1) as u32;
    let mut refused = io::Error::other("the host has no address");
    for &address in addresses {
        let connected = match from {
            None => TcpStream::connect_timeout(address, share).await.map_err(io::Error::from),
            Some(from) => connect_from(from, address, share).await,
        };
        match connected {
            Ok(stream) => {
                socket::tune(&stream)?;
                return Ok(Tcp::new(stream));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Connects from a given address. glommio has no call for that, so the socket is looked at again and again, after ever
/// longer pauses.
async fn connect_from(from: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let (dialling, end) = (socket::dial_from(from, to)?, clock::now() + patience);
    let (mut pause, longest) = PAUSES;
    while !dialling.is_done()? {
        if clock::now() >= end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
        }
        task::sleep(pause).await;
        pause = (2 * pause).min(longest);
    }
    dialling.connected()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::io::executor;
    use std::io::Read;

    use futures::io::AsyncWriteExt;

    #[test]
    fn a_host_is_reached_by_its_name_and_by_its_address_and_a_closed_port_is_an_error() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        let patience = Duration::from_secs(5);
        let run = move || async move {
            for host in ["127.0.0.1", "localhost"] {
                let mut stream = dial(host, port, None, patience).await.unwrap();
                stream.write_all(host.as_bytes()).await.unwrap();
                stream.close().await.unwrap();
            }
            assert!(dial("no-such-host.invalid", port, None, patience).await.is_err());
        };
        let executor = executor::spawn("dial", None, 64, run).unwrap();
        for host in ["127.0.0.1", "localhost"] {
            let mut read = String::new();
            listening.accept().unwrap().0.read_to_string(&mut read).unwrap();
            assert_eq!(read, host);
        }
        executor.join().unwrap();
        drop(listening);
        let run = move || async move {
            let refusal = dial("127.0.0.1", port, None, patience).await.err().map(|error| error.kind());
            assert_eq!(refusal, Some(io::ErrorKind::ConnectionRefused));
        };
        executor::spawn("dial", None, 64, run).unwrap().join().unwrap();
    }

    #[test]
    fn a_host_with_several_addresses_is_reached_at_the_one_that_answers() {
        let [closed, open] = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&closed, &open].map(|listener| listener.local_addr().unwrap());
        drop(closed);
        let run = move || async move {
            let patience = Duration::from_secs(5);
            connect(&addresses, None, patience).await.unwrap().close().await.unwrap();
            assert!(connect(&addresses[..1], None, patience).await.is_err());
            assert!(connect(&[], None, patience).await.is_err());
        };
        executor::spawn("dial", None, 64, run).unwrap().join().unwrap();
        open.accept().unwrap();
    }

    #[test]
    fn a_connection_begins_at_the_address_that_was_named() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        let (here, elsewhere): (IpAddr, IpAddr) =
            ("127.0.0.9".parse().unwrap(), "192.0.2.77".parse().unwrap());
        let run = move || async move {
            let patience = Duration::from_secs(5);
            let mut stream = dial("127.0.0.1", port, Some(here), patience).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.close().await.unwrap();
            let refusal =
                dial("127.0.0.1", port, Some(elsewhere), patience).await.err().map(|error| error.kind());
            assert_eq!(refusal, Some(io::ErrorKind::AddrNotAvailable));
        };
        let executor = executor::spawn("dial", None, 64, run).unwrap();
        let (mut stream, caller) = listening.accept().unwrap();
        assert_eq!(caller.ip(), here);
        let mut read = String::new();
        stream.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
        executor.join().unwrap();
        drop(listening);
        let run = move || async move {
            let patience = Duration::from_secs(5);
            let refusal = dial("127.0.0.1", port, Some(here), patience).await.err().map(|error| error.kind());
            assert_eq!(refusal, Some(io::ErrorKind::ConnectionRefused));
        };
        executor::spawn("dial", None, 64, run).unwrap().join().unwrap();
    }
}
