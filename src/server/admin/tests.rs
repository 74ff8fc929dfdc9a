//! The endpoints through a connection of bytes in memory.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{FutureExt, LocalBoxFuture};

use super::{Admin, AdminSource, Settings, Versions};
use crate::server::http1::connection;
use crate::server::io::idle::IdleClients;
use crate::server::io::stop::Stop;

/// Endpoint, check, and whether it passed.
type Checked = (&'static str, &'static str, bool);

/// A member whose state tests choose.
#[derive(Clone)]
struct Member {
    alarms: Vec<&'static str>,
    leader: bool,
    learner: bool,
    full: bool,
    store_full: bool,
    read: Result<(), String>,
    checks: Rc<RefCell<Vec<Checked>>>,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            alarms: vec![],
            leader: true,
            learner: false,
            full: false,
            store_full: false,
            read: Ok(()),
            checks: Rc::default(),
        }
    }
}

impl AdminSource for Member {
    fn alarms(&self) -> Vec<&'static str> {
        self.alarms.clone()
    }
    fn has_leader(&self) -> bool {
        self.leader
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn log_lacks_room(&self) -> bool {
        self.full
    }
    fn store_lacks_room(&self) -> bool {
        self.store_full
    }
    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        std::future::ready(Ok(())).boxed_local()
    }
    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        std::future::ready(self.read.clone()).boxed_local()
    }
    fn versions(&self) -> Versions {
        Versions { server: "3.7.3".into(), cluster: Some("3.7.0".into()), storage: None }
    }
    fn metrics(&self) -> LocalBoxFuture<'static, String> {
        std::future::ready("up 1\n".to_owned()).boxed_local()
    }
    fn raft_status(&self) -> serde_json::Value {
        serde_json::json!({ "raftState": "StateLeader" })
    }
    fn count_health(&self, _: bool) {}
    fn count_check(&self, endpoint: &'static str, check: &'static str, passed: bool) {
        self.checks.borrow_mut().push((endpoint, check, passed));
    }
}

/// What a client sends, a few bytes at a time, and what it got.
struct Pipe {
    input: Bytes,
    step: usize,
    output: Rc<RefCell<Vec<u8>>>,
}

impl futures::io::AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = self.step.min(into.len()).min(self.input.len());
        into[..n].copy_from_slice(&self.input.split_to(n));
        Poll::Ready(Ok(n))
    }
}

impl futures::io::AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends `requests` on one connection, `step` bytes a read, and returns all that came back.
fn talk_in_steps(settings: Settings, member: Member, requests: &str, step: usize) -> String {
    let admin = Admin::new(settings, Box::new(member));
    let output = Rc::new(RefCell::new(Vec::new()));
    let mut bytes = Bytes::copy_from_slice(requests.as_bytes());
    let first = bytes.split_to(step.min(bytes.len()));
    let pipe = Pipe { input: bytes, step, output: output.clone() };
    let stop = Stop::new();
    let membership = stop.join();
    let executor = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(8).make().unwrap();
    executor.run(connection::serve(&admin, pipe, first, &membership, &IdleClients::new()));
    String::from_utf8(output.take()).unwrap()
}

fn talk(member: Member, requests: &str) -> String {
    talk_in_steps(Settings::default(), member, requests, 4096)
}

/// Status, headers and body of a single answer to `GET target`.
fn get(member: Member, target: &str) -> (String, String, String) {
    let text = talk(member, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let length = format!("Content-Length: {}", body.len());
    assert!(headers.contains(&length), "{headers}");
    (line.strip_prefix("HTTP/1.1 ").unwrap().to_owned(), headers.to_owned(), body.to_owned())
}

#[test]
fn health_says_what_is_wrong_first() {
    let body = |member, target| {
        let (status, _, body) = get(member, target);
        (status[..3].to_owned(), body)
    };
    let sick =
        |reason: &str| ("503".to_owned(), format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    let well = ("200".to_owned(), r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(body(Member::default(), "/health"), well);
    let alarmed = Member { alarms: vec!["NOSPACE"], ..Member::default() };
    assert_eq!(body(alarmed.clone(), "/health"), sick("ALARM NOSPACE"));
    assert_eq!(body(alarmed, "/health?exclude=NOSPACE"), well);
    let lost = Member { leader: false, ..Member::default() };
    assert_eq!(body(lost.clone(), "/health"), sick("RAFT NO LEADER"));
    assert_eq!(body(lost, "/health?serializable=true"), well);
    let slow = Member { read: Err("etcdserver: request timed out".into()), ..Member::default() };
    assert_eq!(body(slow, "/health"), sick("RANGE ERROR:etcdserver: request timed out"));
    let (status, headers, _) = get(Member::default(), "/health");
    assert!(status == "200 OK" && headers.contains("Content-Type: text/plain; charset=utf-8\r\n"));
}

#[test]
fn a_member_whose_log_has_no_room_says_so_to_whoever_asks_for_more_than_a_serializable_read() {
    let full = Member { full: true, ..Member::default() };
    let reason = "the disk of the log is full: writes wait until there is room";
    for path in ["/health", "/health?serializable=false", "/readyz", "/readyz/log_room"] {
        let (status, _, body) = get(full.clone(), path);
        assert!(status.starts_with("503") && body.contains(reason), "{path}: {status} {body}");
    }
    for path in
        ["/health?serializable=true", "/livez", "/readyz?exclude=log_room", "/readyz/linearizable_read"]
    {
        assert_eq!(get(full.clone(), path).0, "200 OK", "{path}");
    }
    assert_eq!(get(Member::default(), "/readyz/log_room?verbose").2, "[+]log_room ok\nok\n");
}

#[test]
fn a_member_whose_store_file_has_no_room_is_not_ready() {
    let full = Member { store_full: true, ..Member::default() };
    let reason = "[-]store_room failed: the disk of the store file is full";
    for path in ["/readyz", "/readyz/store_room"] {
        let (status, _, body) = get(full.clone(), path);
        assert!(status.starts_with("503") && body.contains(reason), "{path}: {status} {body}");
    }
    for path in ["/health", "/livez", "/readyz?exclude=store_room", "/readyz/log_room"] {
        assert_eq!(get(full.clone(), path).0, "200 OK", "{path}");
    }
    assert!(
        full.checks.borrow().iter().all(|(_, check, _)| !check.ends_with("_room")),
        "no series of etcd's"
    );
    assert_eq!(get(Member::default(), "/readyz/store_room?verbose").2, "[+]store_room ok\nok\n");
}

#[test]
fn probes_run_their_checks() {
    let (status, headers, body) = get(Member::default(), "/livez");
    assert_eq!((status.as_str(), body.as_str()), ("200 OK", "ok\n"));
    assert!(headers.contains("text/plain; charset=utf-8") && headers.contains("nosniff"));
    let verbose =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(Member::default(), "/readyz?verbose").2, verbose);
    assert_eq!(get(Member::default(), "/livez/serializable_read?verbose").2, "[+]serializable_read ok\nok\n");
    let sick = Member { alarms: vec!["CORRUPT"], learner: true, ..Member::default() };
    let (status, _, body) = get(sick.clone(), "/readyz");
    assert_eq!(status, "503 Service Unavailable");
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                  [+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n";
    assert_eq!(body, failed);
    assert_eq!(sick.checks.borrow().len(), 4);
    assert_eq!(
        get(sick.clone(), "/readyz?exclude=data_corruption&exclude=non_learner&exclude=x").0,
        "200 OK"
    );
    assert_eq!(get(sick.clone(), "/livez").0, "200 OK");
    assert_eq!(get(sick, "/readyz/non_learner").0, "503 Service Unavailable");
    assert_eq!(get(Member::default(), "/livez/linearizable_read").0, "404 Not Found");
}

#[test]
fn the_other_paths_answer_as_etcd_does() {
    let (_, headers, body) = get(Member::default(), "/version");
    assert_eq!(body, r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"unknown"}"#);
    assert!(headers.contains("Access-Control-Allow-Origin: *"));
    assert!(headers.contains("Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE"));
    assert_eq!(get(Member::default(), "/metrics").2, "up 1\n");
    let variables: serde_json::Value =
        serde_json::from_str(&get(Member::default(), "/debug/vars").2).unwrap();
    assert!(variables["file_descriptor_limit"].as_u64() > Some(0));
    assert_eq!(variables["raft.status"]["raftState"], "StateLeader");
    let (status, _, body) = get(Member::default(), "/v2/keys");
    assert_eq!((status.as_str(), body.as_str()), ("404 Not Found", "404 page not found\n"));
    let (status, _, body) = get(Member::default(), "/v3/kv/range");
    assert_eq!(status, "501 Not Implemented");
    assert!(body.starts_with(r#"{"code":12,"#));
    let posted = talk(Member::default(), "POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    assert!(posted.starts_with("HTTP/1.1 405 ") && posted.contains("Allow: GET\r\n"));
    assert!(posted.ends_with("Method Not Allowed\n"));
    let options = talk(Member::default(), "OPTIONS /anything HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(options.starts_with("HTTP/1.1 200 OK") && options.ends_with("\r\n\r\n"));
}

#[test]
fn cors_and_host_lists_are_honoured() {
    let settings =
        Settings { cors: vec!["http://a".into()], host_whitelist: vec!["good".into()], metrics_only: false };
    let ask = |host: &str, origin: &str| {
        let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\r\n");
        talk_in_steps(settings.clone(), Member::default(), &request, 4096)
    };
    assert!(ask("good:2379", "http://a").contains("Access-Control-Allow-Origin: http://a"));
    assert!(!ask("good", "http://b").contains("Access-Control"));
    assert!(ask("127.0.0.1:2379", "http://a").starts_with("HTTP/1.1 421 Misdirected Request"));
    let nameless = "GET /version HTTP/1.0\r\n\r\n";
    let refused = talk_in_steps(settings.clone(), Member::default(), nameless, 4096);
    assert!(refused.starts_with("HTTP/1.0 421"), "a client that names no host passes no list: {refused}");
}

#[test]
fn the_listener_for_metrics_knows_neither_versions_nor_origins() {
    let ask = |line: &str| {
        let settings =
            Settings { metrics_only: true, host_whitelist: vec!["good".into()], ..Settings::default() };
        talk_in_steps(settings, Member::default(), &format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"), 9)
    };
    assert!(ask("GET /version").starts_with("HTTP/1.1 404"));
    let metrics = ask("GET /metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && !metrics.contains("Access-Control"), "{metrics}");
    assert!(ask("OPTIONS /health").starts_with("HTTP/1.1 405"));
}

/// As etcd 3.7.3 answers each of them.
#[test]
fn requests_and_paths_are_taken_as_go_takes_them() {
    let line = |request: &str| talk(Member::default(), request).lines().next().unwrap_or_default().to_owned();
    let of_path = |path: &str| line(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    for missing in ["/readyz/", "/livez/", "/health/"] {
        assert_eq!(of_path(missing), "HTTP/1.1 404 Not Found", "{missing}");
    }
    for fine in ["/healt%68", "http://y/version", "https://y/version", "/health?a;b"] {
        assert_eq!(of_path(fine), "HTTP/1.1 200 OK", "{fine}");
    }
    for wrong in ["/healt%zz", "version"] {
        assert_eq!(of_path(wrong), "HTTP/1.1 400 Bad Request", "{wrong}");
    }
    assert_eq!(line("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(
        line("GET /health HTTP/1.1\r\n\r\n"),
        "HTTP/1.1 400 Bad Request: missing required Host header"
    );
    let (status, headers, body) = get(Member::default(), "//health?a=b");
    assert_eq!(status, "307 Temporary Redirect");
    assert!(headers.contains("Location: /health?a=b\r\n"), "{headers}");
    assert_eq!(body, "<a href=\"/health?a=b\">Temporary Redirect</a>.\n\n");
    let posted = talk(Member::default(), "POST //health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(posted.contains("Location: /health\r\n") && posted.contains("Content-Length: 0\r\n"), "{posted}");
    let old = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n";
    let answers = talk(Member::default(), old);
    assert_eq!(answers.matches("HTTP/1.0 200 OK\r\n").count(), 2);
    assert_eq!(answers.matches("Connection: keep-alive\r\n").count(), 1);
    let expecting = "POST /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let answer = talk(Member::default(), expecting);
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("Connection: close\r\n"), "{answer}");
}

#[test]
fn metrics_are_packed_for_who_wants_them_so() {
    let admin = Admin::new(Settings::default(), Box::new(Member::default()));
    let head = crate::server::http1::head::parse(
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n",
    );
    let head = head.expect("a head that is right");
    let answer = futures::executor::block_on(super::route::answer(&admin, &head));
    assert!(answer.headers.contains(&("Content-Encoding", "gzip".into())));
    let mut plain = String::new();
    io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain).unwrap();
    assert_eq!(plain, "up 1\n");
}

/// A client that never stops asking and takes every answer.
#[test]
fn others_have_their_turn_between_two_requests_of_a_connection() {
    let admin = Admin::new(Settings::default(), Box::new(Member::default()));
    let requests = Bytes::from("GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000));
    let output = Rc::new(RefCell::new(Vec::new()));
    let pipe = Pipe { input: Bytes::new(), step: 4096, output: output.clone() };
    let membership = Stop::new().join();
    let idle = IdleClients::new();
    let test = async {
        let mut serving = Box::pin(connection::serve(&admin, pipe, requests, &membership, &idle));
        let mut turns = 0;
        while futures::poll!(&mut serving).is_pending() && turns < 999 {
            turns += 1;
            assert!(output.borrow().len() <= 1000 * turns, "one answer a turn");
        }
        assert_eq!(turns, 999);
    };
    let executor = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(8).make().unwrap();
    executor.run(test);
}

#[test]
fn connections_are_kept_whatever_way_bytes_arrive() {
    let two = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n\
               POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
               GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    for step in [1, 2, 7, 4096] {
        let text = talk_in_steps(Settings::default(), Member::default(), two, step);
        let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "405", "200"]);
    }
    let head = talk(Member::default(), "HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405") && head.ends_with("\r\n\r\n"));
}

#[test]
fn what_is_no_http_is_refused() {
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(300_000));
    let lines = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(2000));
    for (request, status) in
        [("\u{16}\u{3}\u{1}", "400"), ("hello\r\n\r\n", "400"), (&endless, "431"), (&lines, "431")]
    {
        assert!(talk(Member::default(), request).starts_with(&format!("HTTP/1.1 {status} ")));
    }
    assert_eq!(talk(Member::default(), "GET /health"), "");
    for fields in
        [format!("x: {}\r\n", "y".repeat(70_000)), "x: y\r\n".repeat(150), "x: y\r\n z\r\n".to_owned()]
    {
        let request = format!("GET /health HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        assert!(talk(Member::default(), &request).starts_with("HTTP/1.1 200 "));
    }
}
