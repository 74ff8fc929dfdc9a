//! Names of hosts and their addresses, looked up by whoever can wait: that may take long.
//!
//! Unsafe: `getnameinfo`, which the standard library does not offer.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::thread;

use futures::channel::oneshot;

/// The addresses of a name. Blocks, for as long as the system's resolver takes.
///
/// # Errors
/// When there are none.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0).to_socket_addrs()?;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}

/// The addresses of a name, looked up on a thread of its own, so that a name whose server does not answer holds up no
/// other name. Whoever asks bounds how many look-ups are under way.
///
/// # Errors
/// When there are none.
pub async fn find_addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let name = name.to_owned();
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Whoever asked may have gone.
        let _ = tell.send(addresses(&name));
    };
    thread::Builder::new().name("names".into()).spawn(work)?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("a look-up has ended without an answer")))
}

/// The name of an address, if it has one. Blocks likewise.
pub fn name(address: IpAddr) -> Option<String> {
    let mut host = [0 as libc::c_char; libc::NI_MAXHOST as usize];
    let mut ask = |name: *const libc::sockaddr, length: usize| {
        // SAFETY: `name` points to a socket address of `length` bytes, `host` has as much room as is said, and no
        // service is asked for.
        unsafe {
            libc::getnameinfo(
                name,
                length as libc::socklen_t,
                host.as_mut_ptr(),
                host.len() as libc::socklen_t,
                std::ptr::null_mut(),
                0,
                libc::NI_NAMEREQD,
            )
        }
    };
    let result = match address {
        IpAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                sin_zero: [0; 8],
            };
            ask((&raw const name).cast(), size_of_val(&name))
        }
        IpAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                sin6_scope_id: 0,
            };
            ask((&raw const name).cast(), size_of_val(&name))
        }
    };
    if result != 0 {
        return None;
    }
    // SAFETY: the call has ended what it wrote with a zero within `host`.
    let name = unsafe { CStr::from_ptr(host.as_ptr()) };
    name.to_str().ok().map(|name| name.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_found_by_its_name() {
        let found = addresses("localhost").unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
        assert!(addresses("no-such-host.invalid").is_err());
        // What loopback is called is the machine's business.
        assert!(name(IpAddr::from([127, 0, 0, 1])).is_none_or(|name| !name.is_empty()));
    }
}
