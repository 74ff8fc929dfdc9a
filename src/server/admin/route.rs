//! From a request's head to an answer.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::{Admin, health};
use crate::server::gzip;
use crate::server::http1::answer::Answer;
use crate::server::http1::head::Head;
use crate::server::http1::query::{Query, unescape_path};
use crate::server::io::process;

/// Answers a request: host check, CORS, then the endpoint. The listener for metrics alone has neither check nor CORS.
pub async fn answer(admin: &Admin, head: &Head) -> Answer {
    if head.target == "*" {
        return Answer::empty(if head.method == "OPTIONS" { 200 } else { 400 });
    }
    let Some(target) = Target::parse(&head.target) else { return Answer::refusal(400, "Bad Request") };
    let settings = &admin.settings;
    if settings.metrics_only {
        return endpoint(admin, head, &target).await;
    }
    if !is_allowed(&settings.host_whitelist, without_port(&head.host)) {
        let text = format!(
            "{} is not among the names this server is called by (--host-whitelist): the request is refused to \
             protect against DNS rebinding",
            without_port(&head.host)
        );
        return Answer::error(421, &text);
    }
    let mut answer =
        if head.method == "OPTIONS" { Answer::empty(200) } else { endpoint(admin, head, &target).await };
    let origin = match head.origin.as_deref() {
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

/// What a request's line asks for.
struct Target<'a> {
    /// Without escapes.
    path: Cow<'a, str>,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// `None` for what is no target.
    fn parse(target: &'a str) -> Option<Self> {
        let absolute = ["http://", "https://"].iter().find_map(|scheme| target.strip_prefix(scheme));
        let path = match absolute {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let path = unescape_path(path).filter(|path| path.starts_with('/'))?;
        Some(Self { path, query })
    }
}

/// A path without `//`, `/./` and `/../`, as Go's multiplexer wants it; `None` if it is one.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if clean.len() > 1 && path.ends_with('/') {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

/// Sends the client to the path that it means.
fn redirect(head: &Head, path: String, query: &str) -> Answer {
    let location = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut answer = if matches!(head.method.as_str(), "GET" | "HEAD") {
        let mut shown = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        shown = shown.replace('"', "&#34;").replace('\'', "&#39;");
        let body = format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n");
        Answer::new(307, "text/html; charset=utf-8", body)
    } else {
        Answer::empty(307)
    };
    // Bytes that a header may not hold were escaped in the request, and are escaped again.
    let escaped = location.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'!'..=b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
        text
    });
    answer.headers.push(("Location", escaped.into()));
    answer
}

/// Whether `Accept-Encoding` prefers gzip to an answer as it is.
fn prefers_gzip(accepts: &str) -> bool {
    let quality = |wanted: &[&str]| {
        let parts = accepts.split(',').filter_map(|part| {
            let (name, quality) = part.split_once(";q=").unwrap_or((part, "1"));
            let quality = quality.trim().parse::<f32>().ok()?;
            wanted.contains(&name.trim()).then_some(quality)
        });
        parts.fold(0.0, f32::max)
    };
    quality(&["gzip", "*"]) > quality(&["identity", "*"])
}

async fn metrics(admin: &Admin, head: &Head) -> Answer {
    const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    let text = admin.source.metrics().await;
    let packs = head.accepts.as_deref().is_some_and(prefers_gzip);
    let Some(packed) = packs.then(|| gzip::pack([text.as_bytes()])).flatten() else {
        return Answer::new(200, TYPE, text);
    };
    let mut answer = Answer::new(200, TYPE, packed);
    answer.headers.push(("Content-Encoding", gzip::NAME.into()));
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

async fn endpoint(admin: &Admin, head: &Head, target: &Target<'_>) -> Answer {
    let path = &*target.path;
    let is_get = head.method == "GET";
    if head.method != "CONNECT"
        && let Some(clean) = cleaned(path)
    {
        return redirect(head, clean, target.query);
    }
    let query = Query::new(target.query);
    match path {
        "/health" if is_get => return health::health(admin, &query).await,
        "/metrics" => return metrics(admin, head).await,
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
                "file_descriptor_limit": process::descriptor_limit(),
                "raft.status": admin.source.raft_status(),
            });
            return Answer::new(200, "application/json; charset=utf-8", variables.to_string());
        }
        "/health" => return method_not_allowed(),
        "/version" if !admin.settings.metrics_only => return method_not_allowed(),
        _ => {}
    }
    for endpoint in ["livez", "readyz"] {
        if let Some(one) = check_of(path, endpoint) {
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

/// Whether a path asks for all checks of an endpoint, or for which one.
fn check_of<'a>(path: &'a str, endpoint: &str) -> Option<Option<&'a str>> {
    let rest = path.strip_prefix('/')?.strip_prefix(endpoint)?;
    if rest.is_empty() {
        return Some(None);
    }
    rest.strip_prefix('/').filter(|one| !one.is_empty()).map(Some)
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
    fn paths_are_cleaned_as_go_does() {
        for (path, clean) in [
            ("//health", "/health"),
            ("/a/../health", "/health"),
            ("/readyz//x", "/readyz/x"),
            ("/../..", "/"),
            ("/a/./", "/a/"),
            ("/a/b/..", "/a"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
        for clean in ["/", "/health", "/health/", "/a.b/..c"] {
            assert_eq!(cleaned(clean), None);
        }
    }

    /// As the metrics of etcd 3.7.3 are answered.
    #[test]
    fn gzip_is_what_a_client_likes_best_or_not_at_all() {
        for packed in ["gzip", "br, gzip", "zstd, gzip", "gzip;q=0.5"] {
            assert!(prefers_gzip(packed), "{packed}");
        }
        for plain in
            ["", "gzip;q=0", "deflate", "*", "gzip;q=0.5, identity", "GZIP", "identity, gzip", "zstd"]
        {
            assert!(!prefers_gzip(plain), "{plain}");
        }
    }

    #[test]
    fn hosts_lose_their_port() {
        for (host, name) in [("a:1", "a"), ("a", "a"), ("[::1]:2379", "::1"), ("[::1]", "::1")] {
            assert_eq!(without_port(host), name);
        }
    }
}
