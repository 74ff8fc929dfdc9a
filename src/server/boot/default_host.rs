//! The address by which other machines reach this one: what a member advertises that listens everywhere.
#![forbid(unsafe_code)]

use std::fs;
use std::net::UdpSocket;

/// The source address of what this machine sends by its default route, one of IPv4 before one of IPv6. `None` where
/// there is no such route.
pub fn default_host() -> Option<String> {
    let routes = |path| fs::read_to_string(path).unwrap_or_default();
    // Addresses for documentation: no route but the default one leads to them, and nothing is sent.
    if has_default_route_v4(&routes("/proc/net/route")) {
        return source("0.0.0.0:0", "203.0.113.1:9");
    }
    if has_default_route_v6(&routes("/proc/net/ipv6_route")) {
        return source("[::]:0", "[2001:db8::1]:9");
    }
    None
}

/// Asks the kernel which of its addresses a datagram would leave from; connecting sends none.
fn source(from: &str, to: &str) -> Option<String> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// Columns of /proc/net/route: interface, destination, gateway, flags, references, use, metric, mask.
fn has_default_route_v4(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns[..], [_, "00000000", _, _, _, _, _, "00000000", ..])
    })
}

/// Columns of /proc/net/ipv6_route: destination, its prefix length, source, ..., interface. The loopback interface
/// has a route that rejects everything.
fn has_default_route_v6(table: &str) -> bool {
    table.lines().any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.first().is_some_and(|to| to.bytes().all(|b| b == b'0'))
            && columns.get(1) == Some(&"00")
            && columns.last() != Some(&"lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_say_whether_there_is_a_default_route() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(has_default_route_v4(v4));
        assert!(!has_default_route_v4(&v4.replace("\t00000000\t0102", "\t000200C0\t0102")));
        assert!(!has_default_route_v4("") && !has_default_route_v6(""));
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
        );
        assert!(has_default_route_v6(&v6));
        assert!(!has_default_route_v6(&v6.replace("eth0", "lo")));
        assert!(!has_default_route_v6(&v6.replacen(" 00 ", " 40 ", 1)));
    }

    #[test]
    fn the_host_is_an_address_that_can_be_bound() {
        // A machine without a route has none; one that has a route must own the address.
        if let Some(host) = default_host() {
            let address: std::net::IpAddr = host.parse().unwrap();
            assert!(!address.is_unspecified() && !address.is_loopback(), "{address}");
            UdpSocket::bind((address, 0)).unwrap();
        }
    }
}
