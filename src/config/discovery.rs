//! Founders that are discovered: by SRV records of DNS, or at a discovery service, which is any server with etcd's API.
//! What the flags say of either, and which of them exclude one another.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::settings::{Notice, Settings};
use super::tls::TlsFiles;
use super::{Scheme, Url, flag};

/// Where the founders of a cluster are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// By SRV records.
    Dns(Dns),
    /// At a discovery service.
    Service(Box<Service>),
}

/// What the flags say of DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The domain whose records name the members; never empty.
    pub domain: String,
    /// What is appended to the service's name, behind a hyphen; mostly empty.
    pub service_name: String,
}

/// What the flags say of a discovery service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The cluster's name at the service. It takes the place of the cluster's token.
    pub token: String,
    /// The endpoints as they were given.
    pub endpoints: Vec<String>,
    /// Where they are.
    pub urls: Vec<Url>,
    /// How long a connection may take to be made; zero for no bound.
    pub dial_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// Silence behind which the service is asked whether it is there; zero for never.
    pub keepalive_time: Duration,
    /// How long the answer to that may take.
    pub keepalive_timeout: Duration,
    /// What secures the connections, where they are secured.
    pub files: TlsFiles,
    /// As given, for the log.
    pub insecure_transport: bool,
    /// Who this member is to the service.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl Service {
    /// Name and password, if both were given. A name alone is nobody's, as to etcd.
    pub fn login(&self) -> Option<(&str, &str)> {
        let both = !self.user.is_empty() && !self.password.is_empty();
        both.then_some((self.user.as_str(), self.password.as_str()))
    }
}

/// Where the founders are told, if not by `--initial-cluster`, whose value is handed in; empty for none.
///
/// # Errors
/// What etcd refuses.
pub(super) fn read(
    settings: &Settings,
    from_file: bool,
    initial_cluster: &str,
) -> Result<Option<Discovery>, String> {
    let domain = settings.text("discovery-srv");
    let endpoints = endpoints(settings, from_file);
    let named = [!initial_cluster.is_empty(), !domain.is_empty(), !endpoints.is_empty()];
    if named.iter().filter(|named| **named).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
            .to_owned());
    }
    if settings.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
    }
    if !endpoints.is_empty() {
        return service(settings, endpoints).map(|service| Some(Discovery::Service(Box::new(service))));
    }
    Ok((!domain.is_empty()).then(|| {
        let service_name = settings.text("discovery-srv-name").to_owned();
        Discovery::Dns(Dns { domain: domain.to_owned(), service_name })
    }))
}

/// The text of `--initial-cluster`; empty where the founders are discovered and it was not given, or where a file
/// spells the default out.
pub(super) fn initial_cluster<'s>(settings: &'s Settings, from_file: bool, default: &'s str) -> &'s str {
    let given = settings.is_set("initial-cluster");
    let text = if given { settings.text("initial-cluster") } else { default };
    let is_named = |name: &str| !settings.text(name).is_empty();
    let discovered = is_named("discovery-srv") || !endpoints(settings, from_file).is_empty();
    let is_dropped = match from_file {
        true => discovered && text == default,
        false => !given && (discovered || is_named("discovery-srv-name")),
    };
    if is_dropped { "" } else { text }
}

/// The endpoints that were given: each once and sorted on the command line, as they stand in a file. An empty one
/// counts.
fn endpoints(settings: &Settings, from_file: bool) -> Vec<String> {
    if !settings.is_set("discovery-endpoints") {
        return Vec::new();
    }
    let mut words: Vec<String> =
        settings.words("discovery-endpoints").into_iter().map(str::to_owned).collect();
    if !from_file {
        words.sort_unstable();
        words.dedup();
    }
    words
}

fn service(settings: &Settings, endpoints: Vec<String>) -> Result<Service, String> {
    let text = |name| settings.text(name).to_owned();
    let duration = |name| Duration::from_nanos(u64::try_from(settings.nanos(name)).unwrap_or(0));
    let files = TlsFiles {
        cert: text("discovery-cert"),
        key: text("discovery-key"),
        trusted_ca: text("discovery-cacert"),
        trusts_anybody: settings.bool("discovery-insecure-skip-tls-verify"),
        ..TlsFiles::default()
    };
    let insecure_transport = settings.bool("discovery-insecure-transport");
    let is_secured =
        !insecure_transport || files.trusts_anybody || !files.is_empty() || !files.trusted_ca.is_empty();
    Ok(Service {
        token: text("discovery-token"),
        urls: places(&endpoints, is_secured)?,
        endpoints,
        dial_timeout: duration("discovery-dial-timeout"),
        request_timeout: duration("discovery-request-timeout"),
        keepalive_time: duration("discovery-keepalive-time"),
        keepalive_timeout: duration("discovery-keepalive-timeout"),
        files,
        insecure_transport,
        user: text("discovery-user"),
        password: text("discovery-password"),
    })
}

/// Where endpoints are. The scheme of the first one says for all of them whether they are secured; where it has none,
/// they are if the flags say anything of security.
fn places(endpoints: &[String], is_secured: bool) -> Result<Vec<Url>, String> {
    let split = |endpoint: &str| {
        let endpoint = endpoint.trim();
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
        (scheme.to_ascii_lowercase(), rest.trim_end_matches('/').to_owned())
    };
    let first = endpoints.first().map(|endpoint| split(endpoint).0).unwrap_or_default();
    let scheme = match first.as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ if is_secured => Scheme::Https,
        _ => Scheme::Http,
    };
    let place = |endpoint: &String| {
        let refused = |why: String| format!("--discovery-endpoints: {why}");
        let (own, rest) = split(endpoint);
        if own.starts_with("unix") || rest.starts_with("unix:") || rest.starts_with("unixs:") {
            return Err(refused(format!(
                "{endpoint} is not built yet: it needs connections to Unix sockets"
            )));
        }
        Url::parse(&format!("{}://{rest}", scheme.as_str())).map_err(refused)
    };
    endpoints.iter().map(place).collect()
}

/// Warns of flags that shape what no other flag asks for.
pub(super) fn in_vain(settings: &Settings, discovery: Option<&Discovery>) -> Vec<Notice> {
    const OF_SERVICE: [&str; 11] = [
        "discovery-dial-timeout",
        "discovery-request-timeout",
        "discovery-keepalive-time",
        "discovery-keepalive-timeout",
        "discovery-insecure-transport",
        "discovery-insecure-skip-tls-verify",
        "discovery-cert",
        "discovery-key",
        "discovery-cacert",
        "discovery-user",
        "discovery-password",
    ];
    let warn = |name: &str, why: &str| {
        let differs = flag::find(name).is_some_and(|flag| settings.differs(flag));
        differs.then(|| Notice::warn(format!("--{name} has no effect: {why}")))
    };
    let mut notices = Vec::new();
    if !matches!(discovery, Some(Discovery::Service(_))) {
        let why = "no discovery service is named by --discovery-endpoints";
        notices.extend(OF_SERVICE.iter().filter_map(|name| warn(name, why)));
    }
    if !matches!(discovery, Some(Discovery::Dns(_))) {
        notices.extend(warn("discovery-srv-name", "no domain is named by --discovery-srv"));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(endpoints: &str, is_secured: bool) -> Result<String, String> {
        let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
        let urls = places(&endpoints, is_secured)?;
        Ok(urls.iter().map(Url::to_string).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn the_first_endpoint_says_whether_all_are_secured() {
        for (endpoints, is_secured, expected) in [
            ("a:1,b:2", false, "http://a:1,http://b:2"),
            ("a:1,b:2", true, "https://a:1,https://b:2"),
            ("http://a:1,https://b:2", true, "http://a:1,http://b:2"),
            ("https://a:1/,http://b:2", false, "https://a:1,https://b:2"),
            ("[::1]:2379", false, "http://[::1]:2379"),
        ] {
            assert_eq!(urls(endpoints, is_secured).as_deref(), Ok(expected), "{endpoints}");
        }
        for (endpoints, word) in
            [("a", "does not have the form"), ("unix://a", "Unix sockets"), ("a:1/b", "path")]
        {
            let refused = urls(endpoints, false).unwrap_err();
            assert!(
                refused.starts_with("--discovery-endpoints: ") && refused.contains(word),
                "{endpoints}: {refused}"
            );
        }
    }
}
