//! Connections that this process begins.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use glommio::net::TcpStream;

use super::tcp::Tcp;
use super::{names, socket};
use crate::stdx::time::Duration;

/// Addresses of a host that are tried, at most.
const ADDRESSES_MAX: usize = 8;

/// Connects to a host, given by name or address, within so much time behind the look-up of its name. A name is looked
/// up each time, because what it stands for may change.
///
/// # Errors
/// When the host has no address, or nobody answers there.
pub async fn dial(host: &str, port: u16, patience: Duration) -> io::Result<Tcp> {
    connect(&resolve(host, port).await?, patience).await
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
async fn connect(addresses: &[SocketAddr], patience: Duration) -> io::Result<Tcp> {
    let share = patience / addresses.len().max(1) as u32;
    let mut refused = io::Error::other("the host has no address");
    for &address in addresses {
        match TcpStream::connect_timeout(address, share).await {
            Ok(stream) => {
                socket::tune(&stream)?;
                return Ok(Tcp::new(stream));
            }
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
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
                let mut stream = dial(host, port, patience).await.unwrap();
                stream.write_all(host.as_bytes()).await.unwrap();
                stream.close().await.unwrap();
            }
            assert!(dial("no-such-host.invalid", port, patience).await.is_err());
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
            let refusal = dial("127.0.0.1", port, patience).await.err().map(|error| error.kind());
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
            connect(&addresses, patience).await.unwrap().close().await.unwrap();
            assert!(connect(&addresses[..1], patience).await.is_err());
            assert!(connect(&[], patience).await.is_err());
        };
        executor::spawn("dial", None, 64, run).unwrap().join().unwrap();
        open.accept().unwrap();
    }
}
