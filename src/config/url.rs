//! The URLs of flags: a scheme, a host and a port. What Go's parser takes around them (a user in front, a query and a
//! fragment behind) means nothing to a member, and is told to others as it was given.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// What stands in front of the host, its `@` included; mostly empty.
    pub user: String,
    /// Host without brackets; for Unix sockets everything after `://`.
    pub host: String,
    /// Digits, perhaps none and perhaps more than a port has: [`Url::port`] is the number.
    pub port: String,
    /// The query and the fragment, their first characters included; mostly empty.
    pub tail: String,
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
            let nothing = String::new;
            return Ok(Url {
                scheme,
                user: nothing(),
                host: rest.to_owned(),
                port: nothing(),
                tail: nothing(),
            });
        }
        let parts = Parts::of(rest);
        let Rewritten { user, host, port, fragment } =
            parts.rewrite().map_err(|why| format!("parse \"{text}\": {why}"))?;
        let Some(port) = port else {
            return Err(format!("URL address does not have the form \"host:port\": {text}"));
        };
        if !parts.path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let tail = format!("{}{fragment}", parts.query);
        Ok(Url { scheme, user, host, port: port.to_owned(), tail })
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

    /// The port's number, or none for one that is no port; 0 asks the system for one (and for Unix sockets).
    pub fn port(&self) -> Option<u16> {
        if self.port.is_empty() { Some(0) } else { self.port.parse().ok() }
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        match (self.is_unix(), self.host.contains(':')) {
            (true, _) => self.host.clone(),
            (false, true) => format!("[{}]:{}", shown_host(&self.host), self.port),
            (false, false) => format!("{}:{}", shown_host(&self.host), self.port),
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
        write!(f, "{}://{}{}{}", self.scheme.as_str(), self.user, self.authority(), self.tail)
    }
}

/// What follows `://`, cut where Go cuts it.
struct Parts<'a> {
    user: Option<&'a str>,
    /// Host and port.
    host: &'a str,
    path: &'a str,
    /// With its question mark.
    query: &'a str,
    fragment: &'a str,
}

/// The parts of a URL that Go writes otherwise than they stand in the text.
struct Rewritten<'a> {
    /// A user and its `@`, or nothing.
    user: String,
    host: String,
    /// A port, where there is a colon for it.
    port: Option<&'a str>,
    /// A fragment and its `#`, or nothing.
    fragment: String,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Parts<'a> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (text, query) = text.split_at(text.find('?').unwrap_or(text.len()));
        let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Parts { user, host, path, query, fragment }
    }

    fn rewrite(&self) -> Result<Rewritten<'a>, String> {
        let all = [self.user.unwrap_or_default(), self.host, self.path, self.query, self.fragment];
        if all.iter().any(|part| part.bytes().any(|byte| byte.is_ascii_control())) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let fragment = match self.fragment {
            "" => String::new(),
            fragment => format!("#{}", escape(check_escapes(fragment)?, is_fragment)),
        };
        let user = self.user.map(read_user).transpose()?.unwrap_or_default();
        let (host, port) = read_host(self.host)?;
        Ok(Rewritten { user, host, port, fragment })
    }
}

/// A user, and a password behind its first colon, as Go writes them.
fn read_user(user: &str) -> Result<String, String> {
    let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !user.bytes().all(is_user) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    let encoded = |text: &str| -> Result<String, String> {
        let bytes = unescape(check_escapes(text)?).unwrap_or_default();
        Ok(escape_bytes(&bytes, |byte| byte.is_ascii_alphanumeric() || b"-_.~$&+,;=".contains(&byte)))
    };
    match user.split_once(':') {
        Some((name, password)) => Ok(format!("{}:{}@", encoded(name)?, encoded(password)?)),
        None => Ok(format!("{}@", encoded(user)?)),
    }
}

/// A host and its port.
fn read_host(text: &str) -> Result<(String, Option<&str>), String> {
    if let Some(inside) = text.strip_prefix('[') {
        let (host, port) = inside.rsplit_once(']').ok_or("missing ']' in host")?;
        let port = read_port(port)?;
        let host = host_text(host)?;
        let (address, _) = host.split_once('%').unwrap_or((&host, ""));
        if address.parse::<Ipv4Addr>().is_ok() {
            return Err("invalid IP-literal".to_owned());
        }
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(format!("invalid host: ParseAddr({host:?}): unable to parse IP"));
        }
        return Ok((host, port));
    }
    if text.contains('[') {
        return Err("invalid IP-literal".to_owned());
    }
    let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    let port = read_port(port)?;
    check_escapes(text)?;
    if host.contains(']') {
        return Ok((host_text(host)?, None));
    }
    Ok((host_text(host)?, port))
}

/// A colon and digits, or nothing.
fn read_port(text: &str) -> Result<Option<&str>, String> {
    match text.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(digits)),
        None if text.is_empty() => Ok(None),
        _ => Err(format!("invalid port {text:?} after host")),
    }
}

/// A host without its escapes, which stand for what ASCII does not have, and for the sign of percent itself.
fn host_text(text: &str) -> Result<String, String> {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&byte);
    check_escapes(text)?;
    for (at, _) in text.match_indices('%') {
        let escape = &text[at..at + 3];
        if escape.as_bytes()[1] < b'8' && escape != "%25" {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    if let Some(wrong) = text.chars().find(|c| c.is_ascii() && !is_host(*c as u8)) {
        return Err(format!("invalid character {:?} in host name", wrong.to_string()));
    }
    let bytes = unescape(text).unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn shown_host(host: &str) -> String {
    escape_bytes(host.as_bytes(), |byte| byte.is_ascii() && byte != b'%')
}

/// What a fragment may hold as it is.
fn is_fragment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/?%".contains(&byte)
}

/// The text, if each sign of percent in it has its two hexadecimal digits.
fn check_escapes(text: &str) -> Result<&str, String> {
    for (at, _) in text.match_indices('%') {
        let rest = &text.as_bytes()[at..];
        let is_escape = rest.get(1..3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if !is_escape {
            let shown: String = text[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(text)
}

/// `%41` as `A`. `None` for a sign of percent without two hexadecimal digits.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    Some(bytes)
}

fn escape(text: &str, is_plain: impl Fn(u8) -> bool) -> String {
    escape_bytes(text.as_bytes(), is_plain)
}

/// The bytes with all that are not plain as signs of percent and two digits.
fn escape_bytes(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii() && is_plain(byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
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
        for text in [
            "http://127.0.0.1:2379",
            "https://etcd.example:1",
            "http://[::1]:2379",
            "unix://etcd.sock:1",
            "http://h:02379",
            "http://h:",
            "http://h:99999",
            "http://u:p@h:1",
            "http://@h:1",
            "http://h:1?x=y",
            "http://h:1?",
            "http://h:1?a b#c",
            "http://[::ffff:127.0.0.1]:1",
            "http://[fe80::1%25eth0]:1",
            "http://%C3%A9:1",
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            join(&Url::parse_list("http://b:2,http://a:1,http://b:2").unwrap()),
            "http://a:1,http://b:2"
        );
    }

    /// As etcd 3.7.3 tells each of them to others.
    #[test]
    fn urls_are_told_as_go_writes_them() {
        for (text, told) in [
            ("HTTP://H:1", "http://H:1"),
            ("http://h:1#", "http://h:1"),
            ("http://h:1#a b", "http://h:1#a%20b"),
            ("http://a@b@h:1", "http://a%40b@h:1"),
            ("http://u:p:q@h:1", "http://u:p%3Aq@h:1"),
            ("http://\u{e9}:1", "http://%C3%A9:1"),
            ("http://a\"b:1", "http://a\"b:1"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), told);
        }
    }

    #[test]
    fn a_port_is_a_number_that_sockets_have() {
        let port = |text| Url::parse(text).unwrap().port();
        assert_eq!(
            (port("http://h:02379"), port("http://h:"), port("http://h:65536")),
            (Some(2379), Some(0), None)
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_etcds_words() {
        for (text, complaint) in [
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://localhost", "URL address does not have the form \"host:port\": http://localhost"),
            ("http://[::1]", "URL address does not have the form \"host:port\": http://[::1]"),
            ("http://::1:2379", "parse \"http://::1:2379\": invalid port \"::1:2379\" after host"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:1/?x", "URL must not contain a path: http://a:1/?x"),
            ("http://a:x", "parse \"http://a:x\": invalid port \":x\" after host"),
            ("http://a:+1", "parse \"http://a:+1\": invalid port \":+1\" after host"),
            ("http://a:-1", "parse \"http://a:-1\": invalid port \":-1\" after host"),
            ("http://a|b:1", "parse \"http://a|b:1\": invalid character \"|\" in host name"),
            ("http://a :1", "parse \"http://a :1\": invalid character \" \" in host name"),
            ("http://%31:1", "parse \"http://%31:1\": invalid URL escape \"%31\""),
            ("http://%:1", "parse \"http://%:1\": invalid URL escape \"%:1\""),
            ("http://[::1%eth0]:1", "parse \"http://[::1%eth0]:1\": invalid URL escape \"%et\""),
            ("http://[::1:1", "parse \"http://[::1:1\": missing ']' in host"),
            ("http://::1]:1", "parse \"http://::1]:1\": invalid port \"::1]:1\" after host"),
            ("http://a[b:1", "parse \"http://a[b:1\": invalid IP-literal"),
            ("http://[]:1", "parse \"http://[]:1\": invalid host: ParseAddr(\"\"): unable to parse IP"),
            ("http://[127.0.0.1]:1", "parse \"http://[127.0.0.1]:1\": invalid IP-literal"),
            ("http://a b@h:1", "parse \"http://a b@h:1\": net/url: invalid userinfo"),
            ("http://h:1#%zz", "parse \"http://h:1#%zz\": invalid URL escape \"%zz\""),
            ("http://h:1?\u{1}", "parse \"http://h:1?\u{1}\": net/url: invalid control character in URL"),
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
        assert!(check("http://u:p@127.0.0.1:1?a#b").is_ok());
        let empty = Url::parse("http://:2380").unwrap().check_reachable();
        assert_eq!(empty.unwrap_err(), "unexpected empty host (http://:2380)");
    }
}
