//! Whether a client comes from where its certificate says it does: etcd asks this of other members.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::x509::Facts;
use crate::server::io::names;

/// Compares an address with a certificate. One that names no host is taken from anywhere.
///
/// # Errors
/// That they do not fit, in etcd's words.
pub async fn check(facts: &Facts, address: IpAddr) -> Result<(), String> {
    let address = address.to_canonical();
    if facts.addresses.contains(&address) {
        return Ok(());
    }
    if facts.dns_names.is_empty() {
        return match facts.addresses.as_slice() {
            [] => Ok(()),
            for_others => {
                let others: Vec<String> = for_others.iter().map(ToString::to_string).collect();
                Err(format!("x509: certificate is valid for {}, not {address}", others.join(", ")))
            }
        };
    }
    let (stars, names): (Vec<_>, Vec<_>) =
        facts.dns_names.iter().cloned().partition(|name| name.starts_with("*."));
    for name in &names {
        if names::addresses(name).await.is_ok_and(|found| found.contains(&address)) {
            return Ok(());
        }
    }
    let own = names::name(address).await;
    let is_own = |own: &String| {
        names.contains(own) || stars.iter().any(|star| star.get(1..).is_some_and(|rest| own.ends_with(rest)))
    };
    if own.as_ref().is_some_and(is_own) {
        return Ok(());
    }
    let quoted: Vec<String> = facts.dns_names.iter().map(|name| format!("{name:?}")).collect();
    Err(format!("tls: \"{address}\" does not match any of DNSNames [{}]", quoted.join(" ")))
}
