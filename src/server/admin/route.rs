//! From a request's head to an answer.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::{Admin, health};
use crate::server::io::probe;

/// A parsed request head. Bodies are read and ignored: no endpoint here has one.
pub(in crate::server) struct Head<'a> {
    pub(in crate::server) method: &'a str,
    pub(in crate::server) target: &'a str,
    pub(in crate::server) host: &'a str,
    pub(in crate::server) origin: Option<&'a str>,
    /// Whether the client takes gzip, OpenMetrics and the like is not looked at: plain text is always right.
    pub(in crate::server) has_host: bool,
}

/// A whole answer.
pub(in crate::server) struct Answer {
    pub(in crate::server) status: u16,
    pub(in crate::server) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(in crate::server) body: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, headers: vec![("Content-Type", Cow::Borrowed(content_type))], body }
    }

    pub(in crate::server) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "application/json", body.into())
    }

    pub(in crate::server) fn plain(status: u16, body: String) -> Self {
        let mut answer = Self::new(status, PLAIN, body);
        answer.headers.push(("X-Content-Type-Options", "nosniff".into()));
        answer
    }

    /// Plain text and a newline, as Go's `http.Error` writes it.
    pub(in crate::server) fn error(status: u16, text: &str) -> Self {
        Self::plain(status, format!("{text}\n"))
    }
}

/// The part of a target behind `?`.
pub(in crate::server) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        })
    }

    /// All values of a name.
    pub(in crate::server) fn values(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.pairs().filter_map(move |(found, value)| (found == name).then_some(value))
    }

    /// Whether a name is there, with or without a value.
    pub(in crate::server) fn has(&self, name: &str) -> bool {
        self.pairs().any(|(found, _)| found == name)
    }
}

/// Undoes `%XX` and `+`; what is no escape stays as it is.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |byte: u8| (byte as char).to_digit(16);
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push((hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0)) as u8);
                rest = after;
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (other, _) => {
                bytes.push(*other);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Answers a request: host check, CORS, then the endpoint.
pub(in crate::server) async fn answer(admin: &Admin, head: &Head<'_>) -> Answer {
    if head.has_host && !is_allowed(&admin.settings.host_whitelist, without_port(head.host)) {
        let text = format!(
            "{} is not among the names this server is called by (--host-whitelist): the request is refused to \
             protect against DNS rebinding",
            without_port(head.host)
        );
        return Answer::error(421, &text);
    }
    let mut answer = if head.method == "OPTIONS" {
        Answer { status: 200, headers: Vec::new(), body: String::new() }
    } else {
        endpoint(admin, head).await
    };
    let settings = &admin.settings;
    let origin = match head.origin {
        _ if settings.cors.iter().any(|allowed| allowed == "*") => Some("*"),
        Some(origin) if is_allowed(&settings.cors, origin) => Some(origin),
        _ => None,
    };
    if let Some(origin) = origin {
        answer.headers.extend([
            ("Access-Control-Allow-Methods", Cow::Borrowed("POST, GET, OPTIONS, PUT, DELETE")),
            ("Access-Control-Allow-Origin", Cow::Owned(origin.to_owned())),
            ("Access-Control-Allow-Headers", Cow::Borrowed("accept, content-type, authorization")),
        ]);
    }
    answer
}

fn is_allowed(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|allowed| allowed == "*" || allowed == name)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            name.trim_start_matches('[').trim_end_matches(']')
        }
        _ => host.trim_start_matches('[').trim_end_matches(']'),
    }
}

async fn endpoint(admin: &Admin, head: &Head<'_>) -> Answer {
    let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let path = path.strip_prefix("http://").map_or(path, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let query = Query(query);
    let is_get = head.method == "GET";
    let checked = |endpoint: &'static str| {
        let rest = path.strip_prefix('/')?.strip_prefix(endpoint)?;
        if rest.is_empty() {
            Some(None)
        } else {
            rest.strip_prefix('/').map(|one| Some(one).filter(|one| !one.is_empty()))
        }
    };
    match path {
        "/health" if is_get => return health::health(admin, &query).await,
        "/metrics" => {
            return Answer::new(
                200,
                "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
                admin.source.metrics().await,
            );
        }
        "/version" if !admin.settings.metrics_only && is_get => {
            let versions = admin.source.versions();
            let body = serde_json::json!({
                "etcdserver": versions.server,
                "etcdcluster": versions.cluster.as_deref().unwrap_or("not_decided"),
                "storage": versions.storage.as_deref().unwrap_or("unknown"),
            });
            return Answer::json(200, ordered_versions(&body));
        }
        "/debug/vars" if !admin.settings.metrics_only && is_get => {
            let variables = serde_json::json!({
                "cmdline": std::env::args().collect::<Vec<_>>(),
                "file_descriptor_limit": probe::descriptor_limit(),
                "raft.status": admin.source.raft_status(),
            });
            return Answer::json(200, variables.to_string());
        }
        "/health" => return method_not_allowed(),
        "/version" if !admin.settings.metrics_only => return method_not_allowed(),
        _ => {}
    }
    for endpoint in ["livez", "readyz"] {
        if let Some(one) = checked(endpoint) {
            if !is_get {
                return method_not_allowed();
            }
            return match health::checks(admin, endpoint, one, &query).await {
                Some(answer) => answer,
                None => Answer::error(404, "404 page not found"),
            };
        }
    }
    if !admin.settings.metrics_only && (path.starts_with("/v3/") || path.starts_with("/v3beta/")) {
        return Answer::json(501, r#"{"code":12,"message":"Not Implemented"}"#);
    }
    Answer::error(404, "404 page not found")
}

/// The three versions in etcd's order.
fn ordered_versions(body: &serde_json::Value) -> String {
    format!(
        r#"{{"etcdserver":{},"etcdcluster":{},"storage":{}}}"#,
        body["etcdserver"], body["etcdcluster"], body["storage"]
    )
}

fn method_not_allowed() -> Answer {
    let mut answer = Answer::error(405, "Method Not Allowed");
    answer.headers.push(("Allow", "GET".into()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_unescaped() {
        let query = Query("exclude=a%2Fb&exclude=c+d&verbose&x=%zz");
        assert_eq!(query.values("exclude").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert!(query.has("verbose") && !query.has("v"));
        assert_eq!(query.values("x").next().unwrap(), "%zz");
    }

    #[test]
    fn hosts_lose_their_port() {
        for (host, name) in [("a:1", "a"), ("a", "a"), ("[::1]:2379", "::1"), ("[::1]", "::1")] {
            assert_eq!(without_port(host), name);
        }
    }
}
