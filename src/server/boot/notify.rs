//! Tells the service manager that the member serves, where one asked for it by NOTIFY_SOCKET.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The one message that etcd sends.
const READY: &[u8] = b"READY=1";

/// Sends one datagram that says the member is ready; false when nobody asked for it. The name of a socket is a path, or
/// one outside of the file system behind an `@`.
///
/// # Errors
/// What the socket answers.
pub fn ready(socket: Option<&OsStr>) -> io::Result<bool> {
    let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(false) };
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not keep the member from serving.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(READY, &address).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn told(listener: &UnixDatagram, name: &OsStr) -> Vec<u8> {
        assert!(ready(Some(name)).unwrap());
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.recv(&mut [0; 64]).is_err(), "one datagram, no more");
        buffer[..length].to_vec()
    }

    #[test]
    fn a_manager_hears_it_by_path_or_by_abstract_name() {
        let path = std::env::temp_dir().join(format!("kevel-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(told(&listener, path.as_os_str()), READY);
        std::fs::remove_file(&path).unwrap();

        let name = format!("kevel-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert_eq!(told(&listener, OsStr::new(&format!("@{name}"))), READY);
    }

    #[test]
    fn nobody_needs_to_listen() {
        assert!(!ready(None).unwrap() && !ready(Some(OsStr::new(""))).unwrap());
        assert!(ready(Some(OsStr::new("/nonexistent/socket"))).is_err());
    }
}
