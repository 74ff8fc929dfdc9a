//! The URLs of flags: a scheme, a host and a port, nothing behind them.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

/// How bytes travel to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// Plain, over a Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    /// As written in front of `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// One parsed URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// The scheme.
    pub scheme: Scheme,
    /// Host without brackets; for Unix sockets everything after `://`.
    pub host: String,
    /// Port; 0 asks the system for one (and for Unix sockets).
    pub port: u16,
}

impl Url {
    /// Parses one URL, with etcd's words for what is wrong.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let no_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once("://").ok_or_else(no_scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(no_scheme()),
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Url { scheme, host: rest.to_owned(), port: 0 });
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let no_port = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = match authority.strip_prefix('[') {
            Some(inside) => inside.split_once("]:").ok_or_else(no_port)?,
            None => authority.rsplit_once(':').ok_or_else(no_port)?,
        };
        if !authority.starts_with('[') && host.contains(':') {
            return Err(no_port());
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let port = match port {
            "" => 0,
            _ => {
                port.parse().map_err(|_| format!("parse \"{text}\": invalid port \":{port}\" after host"))?
            }
        };
        Ok(Url { scheme, host: host.to_owned(), port })
    }

    /// Parses a comma separated list; the result is sorted and has no doubles.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_cached_key(Url::to_string);
        urls.dedup();
        Ok(urls)
    }

    /// True for the two kinds that live in the file system.
    pub fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// True when bytes are encrypted on the way.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        match (self.is_unix(), self.host.contains(':')) {
            (true, _) => self.host.clone(),
            (false, true) => format!("[{}]:{}", self.host, self.port),
            (false, false) => format!("{}:{}", self.host, self.port),
        }
    }

    /// A listener binds to an address, not to a name; `localhost` is the one exception.
    pub fn check_bindable(&self) -> Result<(), String> {
        let fits = self.is_unix() || self.host == "localhost" || self.host.parse::<IpAddr>().is_ok();
        if fits { Ok(()) } else { Err(format!("expected IP in URL for binding ({self})")) }
    }

    /// A URL told to others needs a host to reach.
    pub fn check_reachable(&self) -> Result<(), String> {
        if self.host.is_empty() { Err(format!("unexpected empty host ({self})")) } else { Ok(()) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// URLs as a comma separated list.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_round_trip() {
        for text in
            ["http://127.0.0.1:2379", "https://etcd.example:1", "http://[::1]:2379", "unix://etcd.sock:1"]
        {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            join(&Url::parse_list("http://b:2,http://a:1,http://b:2").unwrap()),
            "http://a:1,http://b:2"
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_etcds_words() {
        for (text, complaint) in [
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://localhost", "URL address does not have the form \"host:port\": http://localhost"),
            ("http://::1:2379", "URL address does not have the form \"host:port\": http://::1:2379"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:x", "parse \"http://a:x\": invalid port \":x\" after host"),
            ("http://a:65536", "parse \"http://a:65536\": invalid port \":65536\" after host"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
        ] {
            assert_eq!(Url::parse(text).unwrap_err(), complaint);
        }
    }

    #[test]
    fn listeners_bind_to_addresses_and_members_advertise_hosts() {
        let check = |text| Url::parse(text).unwrap().check_bindable();
        assert_eq!(check("http://foo:2379").unwrap_err(), "expected IP in URL for binding (http://foo:2379)");
        assert!(check("http://:2379").is_err());
        assert!(check("http://localhost:0").is_ok() && check("http://[::]:1").is_ok());
        let empty = Url::parse("http://:2380").unwrap().check_reachable();
        assert_eq!(empty.unwrap_err(), "unexpected empty host (http://:2380)");
    }
}
