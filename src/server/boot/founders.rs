//! The founders of a cluster that are discovered. DNS is asked here for the records of both services, and for the
//! addresses to which the hosts in them lead; what is made of the answers is `cluster::discovery::srv`. A discovery
//! service is asked by `registry`.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::{open, registry};
use crate::cluster::discovery::srv::{self, Members, Own, Service, Target};
use crate::config::discovery::Dns;
use crate::config::{Config, Discovery, Url};
use crate::server::dns::{self, Record};
use crate::server::io::names;
use crate::server::log::Line;

/// What is asked of the world, so that a test can answer.
struct World {
    records: fn(&str) -> Result<Vec<Record>, String>,
    addresses: fn(&str) -> io::Result<Vec<IpAddr>>,
}

const WORLD: World = World { records: dns::records, addresses: names::addresses };

/// Completes the configuration of a member without data by the founders that DNS names, if DNS is to name them.
///
/// # Errors
/// When there are none, or this member is not among them, in etcd's words.
pub fn discover(config: &mut Config) -> Result<(), String> {
    discover_in(&WORLD, config)
}

/// Completes the configuration of a member without data by the founders that a discovery service has, if one is to
/// name them. Waits until all of them are there.
///
/// # Errors
/// When this member is none of them.
pub fn join(config: &mut Config) -> Result<(), String> {
    let Some(Discovery::Service(service)) = config.founding.discovery.clone() else { return Ok(()) };
    let (_, id) = open::foundation(config)?;
    let founders = registry::join(&service, id, &config.founders()?)?;
    config.founding.initial_cluster = founders.to_string();
    // The id is made of the member's URLs, which are others where another member has the same name.
    let found = open::foundation(config).ok().map(|(_, id)| id);
    if found != Some(id) {
        return Err(format!(
            "the members at the discovery service are {founders}, and this one ({}={}) is none of them: each member \
             needs a name of its own (--name); make a new token and begin again",
            config.name,
            config.advertise.peer.iter().map(Url::to_string).collect::<Vec<_>>().join(","),
        ));
    }
    Ok(())
}

fn discover_in(world: &World, config: &mut Config) -> Result<(), String> {
    let Some(Discovery::Dns(dns)) = config.founding.discovery.clone() else { return Ok(()) };
    let founders = founders(world, config, &dns)
        .map_err(|why| format!("error setting up initial cluster: {why}{}", advice(&dns)))?;
    for founder in founders.split(',') {
        Line::info("got bootstrap from DNS for etcd-server").text("node", founder).write();
    }
    // With the system's authorities a certificate of anybody for the host would do. The domain is what was asked for.
    if founders.contains("https://") && config.tls.peer.trusted_ca.is_empty() {
        config.tls.peer.server_name.clone_from(&dns.domain);
    }
    config.founding.initial_cluster = founders;
    Ok(())
}

/// What to do, behind etcd's words.
fn advice(dns: &Dns) -> String {
    let [secure, plain] = Service::all(&dns.service_name).map(|service| service.question(&dns.domain));
    format!(
        "; --discovery-srv={} needs SRV records of {secure} or {plain}, one of which leads to an address and port of \
         this member's --initial-advertise-peer-urls",
        dns.domain
    )
}

fn founders(world: &World, config: &Config, dns: &Dns) -> Result<String, String> {
    let own = own(world, config);
    let found = Service::all(&dns.service_name).map(|service| {
        let own = own.as_ref().map_err(String::clone);
        let found = own.and_then(|own| ask(world, &service, dns, own));
        say(config, dns, &service, &found);
        found
    });
    let errors: Vec<&str> =
        found.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
    if !errors.is_empty() {
        Line::warn("failed to resolve during SRV discovery").text("error", errors.join("\n")).write();
    }
    srv::founders(&config.name, &found)
}

/// This member, as it knows itself by the addresses of its URLs.
fn own(world: &World, config: &Config) -> Result<Own, String> {
    let place = |url: &Url| {
        let port = url.port().ok_or_else(|| format!("address {}: invalid port", url.port))?;
        Ok((place(world, &url.host, port)?, url.clone()))
    };
    let places = config.advertise.peer.iter().map(place).collect::<Result<_, String>>()?;
    Ok(Own { name: config.name.clone(), places })
}

fn ask(world: &World, service: &Service, dns: &Dns, own: &Own) -> Result<Members, String> {
    let records = (world.records)(&service.question(&dns.domain));
    let targets = records.map(|records| {
        let target = |Record { target: host, port, .. }| {
            let place = place(world, &host, port);
            Target { host, port, place }
        };
        records.into_iter().map(target).collect()
    });
    srv::members(service, own, targets)
}

/// The address to which a host leads, one of IPv4 before one of IPv6, and the port.
fn place(world: &World, host: &str, port: u16) -> Result<String, String> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => addresses(world, host).map_err(|error| format!("lookup {host}: {}", go_text(&error)))?,
    };
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let address = first.ok_or_else(|| format!("lookup {host}: no such host"))?;
    Ok(SocketAddr::new(*address, port).to_string())
}

/// A name with a dot at its end is whole, but the machine's own list of hosts has it without one.
fn addresses(world: &World, host: &str) -> io::Result<Vec<IpAddr>> {
    let found = (world.addresses)(host);
    match host.strip_suffix('.').filter(|name| !name.is_empty()) {
        Some(name) => found.or_else(|error| (world.addresses)(name).map_err(|_| error)),
        None => found,
    }
}

/// What the system's resolver says of a name that is not there, in the words of Go.
fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let is_unknown = ["Name or service not known", "No address associated", "nodename nor servname"];
    match text.strip_prefix("failed to lookup address information: ") {
        Some(why) if is_unknown.iter().any(|word| why.contains(word)) => "no such host".to_owned(),
        Some(why) => why.to_owned(),
        None => text,
    }
}

fn say(config: &Config, dns: &Dns, service: &Service, found: &Result<Members, String>) {
    let scheme = service.scheme.as_str();
    let kind = if scheme == "https" { "etcd-server-ssl" } else { "etcd-server" };
    let members = found.as_ref().map(|found| found.members.clone()).unwrap_or_default();
    let line = Line::info(format!("get cluster for {kind} SRV"))
        .text("service-scheme", scheme)
        .text("service-name", &service.name)
        .text("server-name", &config.name)
        .text("discovery-srv", &dns.domain)
        .texts("advertise-peer-urls", config.advertise.peer.iter().map(Url::to_string))
        .texts("found-cluster", members);
    match found {
        Ok(_) => line.write(),
        Err(why) => line.text("error", why).write(),
    }
    for why in found.iter().flat_map(|found| &found.left_out) {
        Line::warn("an SRV record is left out, and with it a member of the cluster")
            .text("service-name", &service.name)
            .text("error", why)
            .write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config(more: &str) -> Config {
        config::of_line(&format!("--name=m1 --discovery-srv=example.com {more}"))
    }

    fn record(target: &str, port: u16) -> Record {
        Record { priority: 0, weight: 0, target: target.to_owned(), port }
    }

    fn records(name: &str) -> Result<Vec<Record>, String> {
        match name {
            "_etcd-server._tcp.example.com" => {
                let two = ["a.example.com.", "b.example.com.", "nowhere."];
                Ok(two.map(|host| record(host, 2380)).into())
            }
            "_etcd-server-ssl-s._tcp.example.com" => Ok(vec![record("a.example.com.", 2380)]),
            _ => Err(format!("lookup {name} on 10.0.0.9:53: no such host")),
        }
    }

    fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
        let of = |last: u8| Ok(vec!["::1".parse().unwrap(), IpAddr::from([10, 0, 0, last])]);
        match host {
            // One is known by the list of hosts alone, which has no dots at the end.
            "a.example.com" => of(1),
            "b.example.com." => of(2),
            _ => Err(io::Error::other("failed to lookup address information: Name or service not known")),
        }
    }

    const TEST: World = World { records, addresses };

    #[test]
    fn founders_are_those_of_the_records_that_lead_somewhere() {
        let mut config = config("--initial-advertise-peer-urls=http://10.0.0.1:2380");
        discover_in(&TEST, &mut config).unwrap();
        let expected = "m1=http://a.example.com:2380,0=http://b.example.com:2380";
        assert_eq!(config.founding.initial_cluster, expected);
        assert_eq!(config.tls.peer.server_name, "");
    }

    #[test]
    fn members_with_certificates_of_the_systems_authorities_answer_for_the_domain() {
        let secure = "--discovery-srv-name=s --initial-advertise-peer-urls=https://a.example.com:2380";
        let mut open = config(secure);
        discover_in(&TEST, &mut open).unwrap();
        assert_eq!(open.founding.initial_cluster, "m1=https://a.example.com:2380");
        assert_eq!(open.tls.peer.server_name, "example.com");
        let mut closed = config(&format!("{secure} --peer-trusted-ca-file=ca.crt"));
        discover_in(&TEST, &mut closed).unwrap();
        assert_eq!(closed.tls.peer.server_name, "");
    }

    #[test]
    fn who_is_not_found_says_what_is_missing() {
        let refused = |more: &str| discover_in(&TEST, &mut config(more)).unwrap_err();
        let other = refused("--initial-advertise-peer-urls=http://10.0.0.7:2380");
        let word = "error setting up initial cluster: cannot find local etcd member \"m1\" in SRV records; \
                    --discovery-srv=example.com needs SRV records of _etcd-server-ssl._tcp.example.com or ";
        assert!(other.starts_with(word), "{other}");
        let unknown = refused("--initial-advertise-peer-urls=http://c.example.com:2380");
        let twice = "error setting up initial cluster: lookup c.example.com: no such host\n\
                     lookup c.example.com: no such host; ";
        assert!(unknown.starts_with(twice), "{unknown}");
        let none = refused("--discovery-srv-name=x --initial-advertise-peer-urls=http://10.0.0.1:2380");
        let both = "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl-x lookup \
                    _etcd-server-ssl-x._tcp.example.com on 10.0.0.9:53: no such host\nerror querying DNS SRV records \
                    for _etcd-server-x lookup _etcd-server-x._tcp.example.com on 10.0.0.9:53: no such host; ";
        assert!(none.starts_with(both), "{none}");
        let mut named = config("--initial-advertise-peer-urls=http://10.0.0.1:2380");
        named.founding.discovery = None;
        assert_eq!(discover_in(&TEST, &mut named), Ok(()), "DNS is not asked");
    }
}
