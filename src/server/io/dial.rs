//! Connections that this process begins.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use glommio::net::TcpStream;

use super::socket;
use super::tcp::Tcp;
use crate::stdx::time::Duration;

/// Connects to a host, given by name or address, within so much time behind the look-up of its name.
///
/// # Errors
/// When the host has no address, or nobody answers there.
pub async fn dial(host: &str, port: u16, patience: Duration) -> io::Result<Tcp> {
    let address = resolve(host, port).await?;
    let stream = TcpStream::connect_timeout(address, patience).await.map_err(io::Error::from)?;
    socket::tune(&stream)?;
    Ok(Tcp::new(stream))
}

/// The first address of a host. A name is looked up on a thread, because that may take long.
async fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    if host == "localhost" {
        return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    let name = host.to_owned();
    let look_up = move || (name, port).to_socket_addrs().map(|mut found| found.next());
    let found = glommio::executor().spawn_blocking(look_up).await?;
    found.ok_or_else(|| io::Error::other(format!("lookup {host}: no such host")))
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
}
