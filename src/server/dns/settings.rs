//! `/etc/resolv.conf`: which servers are asked, how long and how often, and under which names a name is looked for.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The port of name servers.
const PORT: u16 = 53;
/// Servers that are asked, at most.
const SERVERS_MAX: usize = 3;
/// Domains that are searched, at most.
const DOMAINS_MAX: usize = 6;
/// Bounds of what the options say: the dots of a name that is looked for as it is, seconds of one attempt, attempts.
const NDOTS_MAX: u64 = 15;
const SECONDS_MAX: u64 = 30;
const ATTEMPTS_MAX: u64 = 5;
/// The longest name, with the dot at its end.
const NAME_BYTES_MAX: usize = 254;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who is asked; never empty.
    pub servers: Vec<SocketAddr>,
    /// How long one of them has for its answer.
    pub timeout: Duration,
    /// How often each of them is asked.
    pub attempts: u64,
    /// Each question begins with the next server.
    pub rotates: bool,
    /// Questions are asked over TCP alone.
    pub only_tcp: bool,
    /// Answers are asked to say whether they are authentic.
    pub asks_authentic: bool,
    search: Vec<String>,
    ndots: u64,
}

impl Settings {
    /// Reads the file's text, on a machine of this name. A line that is not understood means nothing.
    pub fn read(text: &str, host_name: &str) -> Self {
        let mut read = Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotates: false,
            only_tcp: false,
            asks_authentic: false,
            search: Vec::new(),
            ndots: 1,
        };
        for line in text.lines().filter(|line| !line.starts_with([';', '#'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => read.add_server(words.next()),
                Some("domain") => {
                    if let Some(domain) = words.next() {
                        read.search = vec![rooted(domain)];
                    }
                }
                Some("search") => {
                    let domains = words.map(rooted).filter(|domain| domain != ".");
                    read.search = domains.take(DOMAINS_MAX).collect();
                }
                Some("options") => words.for_each(|option| read.set(option)),
                _ => {}
            }
        }
        if read.servers.is_empty() {
            let local = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            read.servers = local.map(|address| SocketAddr::new(address, PORT)).into();
        }
        if read.search.is_empty() {
            let domain = host_name.trim().split_once('.').map(|(_, domain)| domain);
            read.search = domain.filter(|domain| !domain.is_empty()).map(rooted).into_iter().collect();
        }
        read
    }

    fn add_server(&mut self, address: Option<&str>) {
        let address = address.and_then(|address| address.parse::<IpAddr>().ok());
        if let Some(address) = address.filter(|_| self.servers.len() < SERVERS_MAX) {
            self.servers.push(SocketAddr::new(address, PORT));
        }
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        // Digits count up to what is none; a number that is none is zero.
        let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        let number = if digits.is_empty() { 0 } else { digits.parse::<u64>().unwrap_or(u64::MAX) };
        match name {
            "ndots" => self.ndots = number.min(NDOTS_MAX),
            "timeout" => self.timeout = Duration::from_secs(number.clamp(1, SECONDS_MAX)),
            "attempts" => self.attempts = number.clamp(1, ATTEMPTS_MAX),
            "rotate" => self.rotates = true,
            "use-vc" | "usevc" | "tcp" => self.only_tcp = true,
            "trust-ad" => self.asks_authentic = true,
            _ => {}
        }
    }

    /// The names under which `name` is looked for, in this order. One with a dot at its end is looked for as it is.
    pub fn names(&self, name: &str) -> Vec<String> {
        let fits = |name: &String| name.len() <= NAME_BYTES_MAX && !is_onion(name);
        if name.ends_with('.') {
            return vec![name.to_owned()].into_iter().filter(fits).collect();
        }
        let as_it_is = rooted(name);
        let searched = self.search.iter().map(|domain| format!("{as_it_is}{domain}"));
        let is_whole = name.matches('.').count() as u64 >= self.ndots;
        let (first, last) = if is_whole { (Some(&as_it_is), None) } else { (None, Some(&as_it_is)) };
        first.cloned().into_iter().chain(searched).chain(last.cloned()).filter(fits).collect()
    }
}

/// With a dot at the end.
fn rooted(domain: &str) -> String {
    if domain.ends_with('.') { domain.to_owned() } else { format!("{domain}.") }
}

/// Such names are never in DNS, and whoever asks for them there tells too much (RFC 7686).
fn is_onion(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
    name.len() >= 6 && name[name.len() - 6..].eq_ignore_ascii_case(b".onion")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(settings: &Settings, name: &str) -> String {
        settings.names(name).join(" ")
    }

    #[test]
    fn the_file_is_read_as_by_go() {
        let text = "# nameserver 10.0.0.9\n; x\nnameserver 10.0.0.1\nnameserver no\nnameserver fe80::1 x\n\
                    nameserver 10.0.0.3\nnameserver 10.0.0.4\nsearch a.example . b.example.\n\
                    options ndots:5 timeout:7 attempts:x rotate use-vc trust-ad edns0 unknown:1\n\nnonsense\n";
        let read = Settings::read(text, "host.c.example");
        let servers: Vec<String> = read.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1]:53", "10.0.0.3:53"]);
        assert_eq!(read.search, ["a.example.", "b.example."]);
        assert_eq!((read.ndots, read.timeout.as_secs(), read.attempts), (5, 7, 1));
        assert!(read.rotates && read.only_tcp && read.asks_authentic);
    }

    #[test]
    fn without_a_file_this_machine_is_asked() {
        let read = Settings::read("", "host.c.example\n");
        let servers: Vec<String> = read.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["127.0.0.1:53", "[::1]:53"]);
        assert_eq!(
            (read.search.as_slice(), read.ndots, read.attempts),
            (&["c.example.".to_owned()][..], 1, 2)
        );
        assert!(
            Settings::read("", "host").search.is_empty() && Settings::read("", "host.").search.is_empty()
        );
        let large = Settings::read("options timeout:99999999999999999999 attempts:1000 ndots:16", "");
        assert_eq!((large.timeout.as_secs(), large.attempts, large.ndots), (30, 5, 15));
    }

    #[test]
    fn a_name_of_enough_dots_is_looked_for_as_it_is_first() {
        let few = Settings::read("search a.example", "");
        assert_eq!(names(&few, "_x._tcp.b"), "_x._tcp.b. _x._tcp.b.a.example.");
        assert_eq!(names(&few, "b"), "b.a.example. b.");
        assert_eq!(names(&few, "b."), "b.");
        let many = Settings::read("search a.example\noptions ndots:5", "");
        assert_eq!(names(&many, "_x._tcp.b"), "_x._tcp.b.a.example. _x._tcp.b.");
        assert_eq!(
            (names(&few, "b.Onion"), names(&few, "b.onion.")),
            ("b.Onion.a.example.".into(), "".into())
        );
        // A name that is too long with the domain behind it is looked for without.
        let long = format!("{}.b", "x".repeat(250));
        assert_eq!(names(&few, &long), format!("{long}."));
    }
}
