//! Founders by DNS: each SRV record of a domain names the host and the port of one member.
//!
//! ```text
//!   _etcd-server-ssl._tcp.DOMAIN  ──▶ members at https://  ─┐
//!                                                           ├──▶ name=url,0=url,1=url,...
//!   _etcd-server._tcp.DOMAIN      ──▶ members at http://   ─┘
//! ```
//!
//! A record says no name. The member that asks knows itself by the address to which the record's host leads, and the
//! others get numbers for names until they tell their own. A record whose host leads nowhere is left out, and so is one
//! of this member that has the other scheme; that is an error only where no record is left.
#![forbid(unsafe_code)]

use std::fmt::Display;

use crate::config::{Scheme, Url};

/// What is looked for in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How members are reached that are found.
    pub scheme: Scheme,
    /// The service's name, without the underscore.
    pub name: String,
}

impl Service {
    /// The two services that are asked for, in this order.
    pub fn all(suffix: &str) -> [Self; 2] {
        let suffix = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
        let service = |scheme, name| Self { scheme, name: format!("{name}{suffix}") };
        [service(Scheme::Https, "etcd-server-ssl"), service(Scheme::Http, "etcd-server")]
    }

    /// The name that DNS is asked for.
    pub fn question(&self, domain: &str) -> String {
        format!("_{}._tcp.{domain}", self.name)
    }

    /// What is said where DNS does not answer, or its answer is of no use.
    fn failed(&self, why: impl Display) -> String {
        format!("error querying DNS SRV records for _{} {why}", self.name)
    }
}

/// What a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host, with the dot at its end.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address and the port to which it leads, or why it leads nowhere.
    pub place: Result<String, String>,
}

/// This member, as it knows itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// The member's name.
    pub name: String,
    /// The addresses and the ports to which the peer URLs lead that it advertises.
    pub places: Vec<(String, Url)>,
}

impl Own {
    /// The URL that leads to this place, if one does.
    fn url_at(&self, place: &str) -> Option<&Url> {
        self.places.iter().rev().find(|(own, _)| own == place).map(|(_, url)| url)
    }
}

/// The members of one service as `name=url`, and the records that were left out, each with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The members.
    pub members: Vec<String>,
    /// What was left out.
    pub left_out: Vec<String>,
}

/// The members that the records of one service name, or why there are none.
///
/// # Errors
/// When DNS did not answer, or no record is of use.
pub fn members(service: &Service, own: &Own, answer: Result<Vec<Target>, String>) -> Result<Members, String> {
    let targets = answer.map_err(|why| service.failed(why))?;
    let mut found = Members::default();
    let mut number = 0;
    for Target { host, port, place } in targets {
        let place = match place {
            Ok(place) => place,
            Err(why) => {
                found.left_out.push(why);
                continue;
            }
        };
        let at = format!("{}://{}:{port}", service.scheme.as_str(), host.strip_suffix('.').unwrap_or(&host));
        let url = own.url_at(&place);
        let name = match url {
            Some(_) if !own.name.is_empty() => own.name.clone(),
            _ => {
                number += 1;
                (number - 1).to_string()
            }
        };
        match url.filter(|url| url.scheme != service.scheme) {
            None => found.members.push(format!("{name}={at}")),
            Some(url) => found.left_out.push(format!(
                "bootstrap at {at} from DNS for {} has scheme mismatch with expected peer {url}",
                service.name
            )),
        }
    }
    match found.left_out.last().filter(|_| found.members.is_empty()) {
        None => Ok(found),
        Some(why) => Err(service.failed(why)),
    }
}

/// The founders that both services name together, in the form of `--initial-cluster`.
///
/// # Errors
/// When neither names one, or this member is not among them.
pub fn founders(name: &str, found: &[Result<Members, String>]) -> Result<String, String> {
    let members: Vec<&str> =
        found.iter().flatten().flat_map(|found| &found.members).map(String::as_str).collect();
    if members.is_empty() {
        let why: Vec<&str> =
            found.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
        return Err(why.join("\n"));
    }
    if !members.iter().any(|member| member.split('=').next() == Some(name)) {
        return Err(format!("cannot find local etcd member {name:?} in SRV records"));
    }
    Ok(members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, places: &[(&str, &str)]) -> Own {
        let place = |(place, url): &(&str, &str)| (place.to_string(), Url::parse(url).unwrap());
        Own { name: name.to_owned(), places: places.iter().map(place).collect() }
    }

    fn target(host: &str, port: u16, place: &str) -> Target {
        let place = match place {
            "" => Err(format!("lookup {host}: no such host")),
            place => Ok(place.to_owned()),
        };
        Target { host: host.to_owned(), port, place }
    }

    fn list(found: Result<Members, String>) -> Result<(String, usize), String> {
        found.map(|found| (found.members.join(","), found.left_out.len()))
    }

    #[test]
    fn services_have_the_names_that_etcd_gives_them() {
        let [secure, plain] = Service::all("");
        assert_eq!(secure.question("example.com"), "_etcd-server-ssl._tcp.example.com");
        assert_eq!(plain.question("example.com"), "_etcd-server._tcp.example.com");
        let [secure, plain] = Service::all("a");
        assert_eq!((secure.scheme, &*secure.name), (Scheme::Https, "etcd-server-ssl-a"));
        assert_eq!((plain.scheme, &*plain.name), (Scheme::Http, "etcd-server-a"));
    }

    #[test]
    fn a_member_finds_itself_by_its_address_and_numbers_the_others() {
        let [_, plain] = Service::all("");
        let own = own("m1", &[("10.0.0.1:2380", "http://10.0.0.1:2380")]);
        let targets = vec![
            target("b.example.com.", 2380, "10.0.0.2:2380"),
            target("a.example.com.", 2380, "10.0.0.1:2380"),
            target("a.example.com.", 2381, "10.0.0.1:2381"),
        ];
        let expected = "0=http://b.example.com:2380,m1=http://a.example.com:2380,1=http://a.example.com:2381";
        assert_eq!(list(members(&plain, &own, Ok(targets))), Ok((expected.to_owned(), 0)));
        // One that has no name gets a number as well, and two places of one member are two URLs of it.
        let nameless = Own { name: String::new(), ..own.clone() };
        let one = vec![target("a.", 2380, "10.0.0.1:2380")];
        assert_eq!(list(members(&plain, &nameless, Ok(one))), Ok(("0=http://a:2380".to_owned(), 0)));
    }

    #[test]
    fn two_urls_of_one_member_are_found_under_its_name() {
        let [_, plain] = Service::all("");
        let own = own("m", &[("10.0.0.1:1", "http://a:1"), ("10.0.0.2:1", "http://b:1")]);
        let targets = vec![target("x.", 1, "10.0.0.1:1"), target("y.", 1, "10.0.0.2:1")];
        assert_eq!(list(members(&plain, &own, Ok(targets))), Ok(("m=http://x:1,m=http://y:1".into(), 0)));
    }

    #[test]
    fn a_record_of_no_use_is_left_out_and_is_an_error_where_it_is_the_last() {
        let [secure, plain] = Service::all("");
        let own = own("m", &[("10.0.0.1:1", "http://a:1")]);
        let targets = || vec![target("x.", 1, ""), target("a.", 1, "10.0.0.1:1")];
        assert_eq!(list(members(&plain, &own, Ok(targets()))), Ok(("m=http://a:1".into(), 1)));
        let mismatch = "error querying DNS SRV records for _etcd-server-ssl bootstrap at https://a:1 from DNS for \
                        etcd-server-ssl has scheme mismatch with expected peer http://a:1";
        assert_eq!(list(members(&secure, &own, Ok(targets()))), Err(mismatch.to_owned()));
        let nowhere = "error querying DNS SRV records for _etcd-server lookup y.: no such host";
        let none = vec![target("x.", 1, ""), target("y.", 1, "")];
        assert_eq!(list(members(&plain, &own, Ok(none))), Err(nowhere.to_owned()));
        let silent = "error querying DNS SRV records for _etcd-server no such host";
        assert_eq!(list(members(&plain, &own, Err("no such host".into()))), Err(silent.to_owned()));
    }

    #[test]
    fn both_services_together_name_the_founders() {
        let of = |members: &[&str]| {
            let members = members.iter().map(|member| member.to_string()).collect();
            Ok(Members { members, left_out: Vec::new() })
        };
        let no = |why: &str| Err(why.to_owned());
        let both = [of(&["0=https://a:1"]), of(&["m=http://b:1", "0=http://c:1"])];
        assert_eq!(founders("m", &both), Ok("0=https://a:1,m=http://b:1,0=http://c:1".into()));
        assert_eq!(founders("m", &[no("x"), of(&["m=http://b:1"])]), Ok("m=http://b:1".into()));
        assert_eq!(founders("m", &[no("x"), no("y")]), Err("x\ny".to_owned()));
        let missing = "cannot find local etcd member \"m\" in SRV records";
        assert_eq!(founders("m", &[no("x"), of(&["0=http://b:1"])]), Err(missing.to_owned()));
    }
}
