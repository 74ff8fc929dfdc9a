//! The founders of a cluster as a discovery service has them: this member puts itself onto the service's list, and
//! waits until all are there. What is asked, and what follows from the answers, is `cluster::discovery::registration`;
//! this is who asks.
#![forbid(unsafe_code)]

use std::sync::mpsc;

use crate::cluster::discovery::registration::{Ask, Note, Pair, Refusal, Registration, Step, Told};
use crate::config::discovery::Service;
use crate::config::{InitialCluster, LogLevel, Url};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    AuthenticateRequest, AuthenticateResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::server::client::{Answers, Client, Failure};
use crate::server::io::{clock, executor, task};
use crate::server::log::Line;
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

/// Requests to the kernel that are under way at a time, at most.
const RING_DEPTH: usize = 64;
/// How long a connection may take to be made, where the flags set no bound.
const DIAL_WITHIN: Duration = Duration::from_secs(20);
/// The shortest silence behind which a service is pinged, whatever the flags say: gRPC's servers send away whoever
/// pings more often, and its clients in Go do not either.
const PING_TIME_MIN: Duration = Duration::from_secs(10);
/// What a service says to whoever logs in, where authentication is off.
const NOT_ENABLED: &str = "authentication is not enabled";
/// The code of gRPC with which a service without authentication answers.
const UNIMPLEMENTED: u32 = 12;

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The founders of the cluster of `service`'s token, once all are there; this member is one of them, by its id and by
/// its name with its URLs. Blocks, however long the others take.
///
/// # Errors
/// When the member can't be one of them, in etcd's words.
pub fn join(service: &Service, member_id: u64, own: &InitialCluster) -> Result<InitialCluster, String> {
    // Files that are named have to be good, though nothing be secured.
    let files = &service.files;
    let is_secured =
        !files.is_empty() || !files.trusted_ca.is_empty() || service.urls.iter().any(Url::is_tls);
    let ports = match is_secured {
        true => Ports::to_dial(files.clone()).map_err(|why| refused(service, &why))?,
        false => Ports::none(),
    };
    Line::info("Bootstrapping cluster using v3 discovery.").write();
    let (tell, told) = mpsc::channel();
    let (asked, info) = (service.clone(), own.to_string());
    let main = move || async move {
        // Whoever started this waits for it.
        let _ = tell.send(Session::new(asked, ports).register(member_id, &info).await);
    };
    executor::spawn("discovery", None, RING_DEPTH, main)?.join()?;
    let founders = told.recv().map_err(|_| "the discovery service was not asked".to_owned())?;
    let founders = founders.map_err(|why| refused(service, &why.to_string()))?;
    line(LogLevel::Info, "discovery joined cluster successfully", service).text("cluster", &founders).write();
    check(InitialCluster::parse(&founders)?)
}

/// Founders whose URLs are all different.
fn check(founders: InitialCluster) -> Result<InitialCluster, String> {
    let all: Vec<&Url> = founders.members.values().flatten().collect();
    match (1..all.len()).any(|at| all[..at].contains(&all[at])) {
        false => Ok(founders),
        true => Err(format!("discovery cluster {founders} has duplicate url")),
    }
}

/// What a member says that the service does not help.
fn refused(service: &Service, why: &str) -> String {
    line(LogLevel::Error, "discovery failed to join cluster", service)
        .text("cluster", "")
        .text("error", why)
        .write();
    let advice = match why {
        "discovery: cluster is full" => {
            "; the token belongs to a cluster that has all its members: make a new token for a new cluster, or join \
             this one by etcdctl member add and --initial-cluster-state=existing"
        }
        "discovery: size key not found" | "discovery: size key is bad" => {
            "; put the number of members there first: etcdctl put /_etcd/registry/TOKEN/_config/size 3"
        }
        "discovery: invalid peer URL" => "; make a new token, under which nobody has registered",
        _ => "",
    };
    format!("failed to join discovery cluster ({why}){advice}")
}

fn line(level: LogLevel, message: &str, service: &Service) -> Line {
    Line::new(level, message)
        .text("discovery-token", &service.token)
        .text("discovery-endpoints", service.endpoints.join(","))
}

/// A member at a discovery service.
struct Session {
    service: Service,
    ports: Ports,
    /// The endpoint that is asked, by its number.
    endpoint: usize,
    /// The connection to it, until a call fails on it.
    client: Option<Client>,
    /// What has changed, once that is watched.
    changes: Option<Answers<WatchResponse>>,
}

impl Session {
    fn new(service: Service, ports: Ports) -> Self {
        Self { service, ports, endpoint: 0, client: None, changes: None }
    }

    async fn register(&mut self, member_id: u64, info: &str) -> Result<String, Refusal> {
        let (mut registration, mut ask) = Registration::begin(&self.service.token, member_id, info);
        loop {
            let mut told = self.answer(&ask).await;
            loop {
                let step = registration.on(told);
                registration.take_notes().into_iter().for_each(|note| self.say(note));
                match step? {
                    Step::Founders(founders) => return Ok(founders),
                    Step::Ask(next) => {
                        ask = next;
                        break;
                    }
                    Step::Wait => told = self.next_changes().await,
                }
            }
        }
    }

    /// Asks. What fails is not asked again on the same connection.
    async fn answer(&mut self, ask: &Ask) -> Told {
        self.changes = None;
        let told = match ask {
            Ask::LogIn => self.log_in().await.map(|()| Told::Done),
            Ask::Size(key) => self.size(key).await,
            Ask::Members(prefix) => self.members(prefix).await,
            Ask::Register(key, value) => self.put(key, value).await,
            Ask::Watch(prefix, revision) => self.watch(prefix, *revision).await,
            Ask::Pause(pause) => {
                task::sleep(*pause).await;
                Ok(Told::Done)
            }
        };
        told.unwrap_or_else(|failure| self.failed(failure))
    }

    async fn next_changes(&mut self) -> Told {
        let Some(changes) = &mut self.changes else {
            return self.failed(Failure::lost("nothing is watched"));
        };
        let told = changes.next().await.and_then(read_changes);
        told.unwrap_or_else(|failure| self.failed(failure))
    }

    fn failed(&mut self, failure: Failure) -> Told {
        (self.client, self.changes) = (None, None);
        Told::Failed(failure.text)
    }

    /// Connects at once only for a member that has to say who it is: one that is turned away then ends.
    async fn log_in(&mut self) -> Result<(), Failure> {
        if self.service.login().is_none() {
            return Ok(());
        }
        let within = dial_within(&self.service);
        let connecting = task::until(clock::now() + within, self.connect()).await;
        self.client = Some(connected(connecting)?);
        Ok(())
    }

    async fn call<A: prost::Message + Default>(
        &mut self,
        path: &str,
        request: &impl prost::Message,
    ) -> Result<A, Failure> {
        let within = self.service.request_timeout;
        let client = self.client(within).await?;
        client.call(path, request, within).await
    }

    async fn size(&mut self, key: &str) -> Result<Told, Failure> {
        let request = RangeRequest { key: key.as_bytes().to_vec().into(), ..RangeRequest::default() };
        let answer: RangeResponse = self.call(RANGE, &request).await?;
        Ok(Told::Value(answer.kvs.into_iter().next().map(|pair| pair.value.to_vec())))
    }

    async fn members(&mut self, prefix: &str) -> Result<Told, Failure> {
        let (key, range_end) = range_of(prefix);
        let request =
            RangeRequest { key: key.into(), range_end: range_end.into(), ..RangeRequest::default() };
        let answer: RangeResponse = self.call(RANGE, &request).await?;
        let revision = answer.header.unwrap_or_default().revision;
        Ok(Told::Pairs(revision, answer.kvs.into_iter().map(pair).collect()))
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<Told, Failure> {
        let request = PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..PutRequest::default()
        };
        self.call::<PutResponse>(PUT, &request).await?;
        Ok(Told::Done)
    }

    /// Begins to watch. The connection is the watch's from there on.
    async fn watch(&mut self, prefix: &str, start_revision: i64) -> Result<Told, Failure> {
        let (key, range_end) = range_of(prefix);
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let Service { request_timeout, keepalive_time, keepalive_timeout, .. } = self.service;
        self.client(request_timeout).await?;
        let client = self.client.take().ok_or_else(|| Failure::lost("there is no connection"))?;
        let time = if keepalive_time.is_zero() { keepalive_time } else { keepalive_time.max(PING_TIME_MIN) };
        let mut changes = client.listen(WATCH, &request, request_timeout, (time, keepalive_timeout)).await?;
        let first = task::until(clock::now() + request_timeout, changes.next()).await;
        let told = read_changes(connected(first)?)?;
        self.changes = Some(changes);
        Ok(told)
    }

    /// A connection to an endpoint that answers, within so much time.
    async fn client(&mut self, within: Duration) -> Result<&Client, Failure> {
        if self.client.is_none() {
            let connecting = task::until(clock::now() + within, self.connect()).await;
            self.client = Some(connected(connecting)?);
        }
        self.client.as_ref().ok_or_else(|| Failure::lost("there is no connection"))
    }

    /// Connects to the first endpoint that answers, of those behind the last one that was asked, and says who asks.
    async fn connect(&mut self) -> Result<Client, Failure> {
        let mut failure = Failure::lost("no endpoint is named");
        for _ in 0..self.service.urls.len() {
            let at = self.endpoint % self.service.urls.len();
            self.endpoint = at + 1;
            match self.connect_to(at).await {
                Ok(client) => return Ok(client),
                // What a server says is told as it is, as etcd does.
                Err(why) if why.code.is_some() => failure = why,
                Err(why) => failure = Failure::lost(format!("{}: {}", self.service.urls[at], why.text)),
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, at: usize) -> Result<Client, Failure> {
        let within = dial_within(&self.service);
        let mut client = Client::dial(&self.service.urls[at], &self.ports, within).await?;
        let Some((name, password)) = self.service.login() else { return Ok(client) };
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        match client.call::<AuthenticateResponse>(AUTHENTICATE, &request, within).await {
            Ok(answer) => client.identify(&answer.token)?,
            // Whoever lets everybody in need not be told who comes.
            Err(failure) if failure.code == Some(UNIMPLEMENTED) || failure.text.contains(NOT_ENABLED) => {}
            Err(failure) => return Err(failure),
        }
        Ok(client)
    }

    fn say(&self, note: Note) {
        let line = |level, message| line(level, message, &self.service);
        let (info, warn) = (LogLevel::Info, LogLevel::Warn);
        match note {
            Note::Found { key, info: member } => line(info, "found peer from discovery service")
                .text("memberKey", key)
                .text("memberInfo", member),
            Note::Ignored { why, key, info: member } => {
                line(warn, why).text("memberKey", key).text("memberInfo", member)
            }
            Note::Registered { key, info: member } => line(info, "register member itself successfully")
                .text("memberKey", key)
                .text("memberInfo", member),
            Note::Failed { message, field, key, error } => {
                line(warn, message).text(field, key).text("error", error)
            }
            Note::Retry { reason, pause } => line(warn, "retry connecting to discovery service")
                .text("reason", reason)
                .duration("backoff", pause),
            Note::Waiting { size, found } => line(info, "waiting for peers from discovery service")
                .value("clusterSize", size)
                .value("found-peers", found),
            Note::Complete { size, found } => line(info, "found all needed peers from discovery service")
                .value("clusterSize", size)
                .value("found-peers", found),
        }
        .write();
    }
}

fn dial_within(service: &Service) -> Duration {
    if service.dial_timeout.is_zero() { DIAL_WITHIN } else { service.dial_timeout }
}

/// What was done in time.
fn connected<T>(done: Option<Result<T, Failure>>) -> Result<T, Failure> {
    done.unwrap_or_else(|| Err(Failure::lost("context deadline exceeded")))
}

/// A prefix as a range: from its first key to the first one behind it.
fn range_of(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.as_bytes().to_vec();
    // No text has the byte 0xff, so the last byte has a next one.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    (prefix.as_bytes().to_vec(), end)
}

fn pair(pair: KeyValue) -> Pair {
    Pair { key: pair.key.to_vec(), value: pair.value.to_vec(), create_revision: pair.create_revision }
}

/// The changes that an answer tells of; none where it tells that the watch is there.
fn read_changes(answer: WatchResponse) -> Result<Told, Failure> {
    if answer.canceled || answer.compact_revision != 0 {
        let why = match answer.cancel_reason.as_str() {
            "" => "the watch was canceled",
            why => why,
        };
        return Err(Failure::lost(why));
    }
    let pairs = answer.events.into_iter().filter_map(|event| event.kv).map(pair);
    Ok(Told::Changes(pairs.collect()))
}
