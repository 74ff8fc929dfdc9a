//! A member's life: open, recover, serve, stop.
#![forbid(unsafe_code)]

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::SystemTime;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use super::admin::{self, Admin};
use super::api::Api;
use super::boot::listener::{self, Services};
use super::boot::{data_dir, signals};
use super::core::mesh::{self, Outbox, Receiver};
use super::core::plan::{Place, Plan};
use super::core::replica_loop::ReplicaCore;
use super::core::session_loop::{self, FromReplica};
use super::core::{checkpointer, digester};
use super::io::accept::Admission;
use super::io::page_file::MappedFile;
use super::io::stop::{Phase, Stop};
use super::io::turns::Turns;
use super::io::wal_dir::WalDir;
use super::io::wal_file::WalFile;
use super::io::{clock, probe, socket, task};
use super::log::lines;
use super::log::slow::Limits;
use super::session::member_health::MemberHealth;
use super::session::{Member, Parts, Session};
use super::{grpc, metrics};
use crate::btree::Store;
use crate::config::{Config, Cores, InitialCluster, Scheme, Url};
use crate::mvcc::compact_hash::CompactionDigest;
use crate::mvcc::pin::Pins;
use crate::replica::bootstrap::Foundation;
use crate::replica::port::Input;
use crate::replica::{Opening, Replica, Settings};
use crate::stdx::prng::Prng;
use crate::stdx::time::Duration;
use crate::wal;

/// Messages in a lane: what a core may get ahead of another.
const LANE: usize = 16 * 1024;
/// How long connections may take to finish what is in flight when the member stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long to wait for an address that is in use.
const CLAIM: Duration = Duration::from_secs(10);
/// Memory that each executor registers for direct I/O, and the depth of its rings.
const IO_MEMORY: usize = 1 << 20;
const RING_DEPTH: usize = 512;
/// After how long glommio interrupts ready tasks to look at its rings: never. If its timer fires before the first
/// task has run, because the thread lost its CPU for that long, glommio takes the queue for empty and sleeps with tasks
/// in it. Whoever has much to do looks at the rings in between: `task::yield_now`, `task::wake_later`.
const PREEMPT: Duration = Duration::from_secs(60 * 60);

/// What the executors of a member share.
struct Shared {
    /// The signal that ends the member; 0 while it runs.
    signal: AtomicI32,
    /// Session cores that have not finished.
    draining: AtomicUsize,
    /// The replica has written its last checkpoint.
    stopped: AtomicBool,
}

/// Runs a member until it is told to stop.
pub fn run(config: Config) -> ExitCode {
    match try_run(&config) {
        Ok(signal) => {
            lines::closed(&config);
            super::log::flush();
            signals::end(signal)
        }
        Err(error) => {
            lines::fatal("discovery failed", error);
            super::log::flush();
            ExitCode::FAILURE
        }
    }
}

fn try_run(config: &Config) -> Result<i32, String> {
    probe::probe()?;
    let allowed = allowed_cpus();
    let plan = Plan::new(&config.cores, &allowed)?;
    let sessions = plan.sessions();
    let initialized = data_dir::prepare(config)?;
    lines::data_dir(config, initialized);
    lines::configuring_listeners(config);
    let listeners = Listeners::claim(config)?;
    lines::starting(config, initialized, sessions, allowed.len());

    let mut prng = Prng::new(entropy());
    let opened = open(config)?;
    if config.unsafe_no_fsync {
        lines::no_fsync();
    }
    lines::quota(config.limits.quota_backend_bytes, config.quota_bytes());
    let (member_id, cluster_id) = (opened.member_id, opened.cluster_id);
    lines::local_member(member_id, cluster_id);

    let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let first_id = (member_id & 0xffff) << 48 | (millis as u64 & 0xff_ffff_ffff) << 8;
    let id_step = sessions as u64 + 1;
    let pins = Pins::new(sessions);
    let settings = Settings {
        member_id,
        name: config.name.clone(),
        client_urls: config.advertise.client.iter().map(Url::to_string).collect(),
        election_ticks: config.election_ticks(),
        tick: config.raft.heartbeat_interval,
        pre_vote: config.raft.pre_vote,
        catchup_entries: config.raft.snapshot_count.saturating_add(config.raft.snapshot_catchup_entries),
        segments_kept: config.raft.max_wals as usize,
        lease_ttl_min: config.lease_ttl_min().as_secs() as i64,
        quota_bytes: config.quota_bytes(),
        request_ids: (first_id + sessions as u64, id_step),
        seed: prng.next_u64(),
    };
    let replica = Replica::open(settings, opened.store, opened.opening, pins.clone());
    let gate = replica.gate().clone();
    let readers = replica.readers();
    let start_revision = replica.applied().revision;

    let (to_replica, replica_lane) = mesh::lane::<Input>(LANE);
    let (outboxes, lanes): (Vec<_>, Vec<_>) = (0..sessions)
        .map(|_| mesh::lane::<FromReplica>(LANE))
        .map(|(sender, receiver)| (Outbox::new(sender), receiver))
        .unzip();
    let counts: Vec<Arc<metrics::Core>> = (0..=sessions).map(|_| metrics::Core::new()).collect();
    let rpc: Vec<_> = (0..sessions).map(|_| grpc::counters::Counters::new()).collect();
    let replica_counts = counts[sessions].clone();
    // Without a quota the gauge shows the flag, as etcd's does.
    let quota_shown = config.quota_bytes().map_or(config.limits.quota_backend_bytes, |bytes| bytes as i64);
    replica_counts.quota_bytes.set(quota_shown);
    let observed = replica_counts.clone();
    let checkpoints = checkpointer::start(to_replica.clone(), move |took| observed.store_committed(took))
        .map_err(|error| format!("cannot start the checkpointer: {error}"))?;

    let digests =
        digester::start(to_replica.clone()).map_err(|error| format!("cannot start the digester: {error}"))?;

    let member = Arc::new(Member {
        cluster_id,
        member_id,
        max_request_bytes: config.limits.request_bytes_max as usize,
        max_txn_ops: config.limits.txn_ops_max as usize,
        progress_interval: config.watch_progress_notify_interval,
        request_timeout: config.request_timeout(),
        slow: Limits {
            // Zero is for those who do not want to hear of it.
            apply: if config.reporting.warning_apply_duration.is_zero() {
                Duration::MAX
            } else {
                config.reporting.warning_apply_duration
            },
            request: config.reporting.warning_unary_request_duration,
        },
        name: config.name.clone(),
        start_revision,
        keys_asked: AtomicBool::new(false),
        quota_bytes: quota_shown,
        quota: config.quota_bytes(),
        metrics: counts.clone(),
        rpc: rpc.clone(),
        compaction_hashes: replica.compaction_hashes().clone(),
        gates: config.gates.clone(),
    });
    let shared = Arc::new(Shared {
        signal: AtomicI32::new(0),
        draining: AtomicUsize::new(sessions),
        stopped: AtomicBool::new(false),
    });
    let (tell, told): (Vec<_>, Vec<_>) = (0..sessions).map(|_| mesh::lane::<()>(1)).unzip();
    let stopping = shared.clone();
    signals::watch(move |signal| {
        lines::signal(signals::name(signal));
        stopping.signal.store(signal, Ordering::Release);
        for core in &tell {
            // A lane that is full has been told.
            let _ = core.send(());
        }
    })
    .map_err(|error| format!("cannot watch for signals: {error}"))?;

    let admission = Admission::from_descriptor_limit();
    let mut session_parts: Vec<SessionCore> = lanes
        .into_iter()
        .zip(told)
        .enumerate()
        .map(|(core, (lane, told))| SessionCore {
            parts: Parts {
                member: member.clone(),
                core: (core as u16, id_step as u16),
                reader: readers.register(),
                pins: pins.slot(core),
                replica: to_replica.clone(),
                gate: gate.clone(),
                first_id,
                seed: prng.next_u64(),
                metrics: counts[core].clone(),
                counters: rpc[core].clone(),
            },
            lane,
            told,
            listeners: listeners.clone(),
            admission: admission.clone(),
            config: config.clone(),
            shared: shared.clone(),
            first: core == 0,
        })
        .collect();
    let replica_parts = ReplicaParts {
        replica,
        lane: replica_lane,
        outboxes,
        checkpoints,
        digests,
        wal_dir: opened.wal_dir,
        tick: config.raft.heartbeat_interval,
        metrics: replica_counts,
        slow_apply: config.reporting.warning_apply_duration,
        shared: shared.clone(),
    };

    let executors = match plan {
        Plan::Shared(place) => {
            let session = session_parts.remove(0);
            vec![spawn("member", place, move || async move {
                task::spawn(replica_parts.run());
                session.run().await;
            })?]
        }
        Plan::Parted { replica, sessions } => {
            let mut executors = vec![spawn("replica", replica, move || replica_parts.run())?];
            for (number, (place, session)) in sessions.into_iter().zip(session_parts).enumerate() {
                executors.push(spawn(&format!("session-{number}"), place, move || session.run())?);
            }
            executors
        }
    };
    for executor in executors {
        executor.join().map_err(|error| format!("an executor ended: {error}"))?;
    }
    Ok(shared.signal.load(Ordering::Acquire))
}

fn spawn<F: Future<Output = ()> + 'static>(
    name: &str,
    place: Place,
    start: impl FnOnce() -> F + Send + 'static,
) -> Result<ExecutorJoinHandle<()>, String> {
    let placement = place.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT)
        .spawn(start)
        .map_err(|error| format!("cannot start executor {name}: {error}"))
}

/// The CPUs that this process may run on, as the kernel lists them.
fn allowed_cpus() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("").trim();
    match format!("{list},").parse() {
        Ok(Cores::Cpus(cpus)) => cpus,
        _ => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// A seed that nobody can guess: the kernel's.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hasher from the kernel's generator.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The cluster that a member without data founds, and the member's id in it.
fn foundation(config: &Config) -> Result<(Foundation, u64), String> {
    let InitialCluster { members } = config.founders()?;
    let members = members.into_iter().map(|(name, urls)| (name, urls.iter().map(Url::to_string).collect()));
    let foundation = Foundation::new(members, &config.founding.token);
    let own = foundation.founders.iter().find(|founder| founder.name == config.name);
    let id = own.ok_or("this member is not part of --initial-cluster")?.id;
    Ok((foundation, id))
}

struct Opened {
    store: Store,
    opening: Opening,
    member_id: u64,
    cluster_id: u64,
    wal_dir: WalDir,
}

fn open(config: &Config) -> Result<Opened, String> {
    let failed = |what: &str, path: &std::path::Path, error: &dyn std::fmt::Display| {
        format!("cannot {what} {}: {error}", path.display())
    };
    let store_path = config.store_path();
    let store_dir = store_path.parent().expect("a file is in a directory");
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(store_dir)
        .map_err(|error| failed("create", store_dir, &error))?;
    let file = MappedFile::open(&store_path).map_err(|error| failed("open", &store_path, &error))?;
    let file = if config.unsafe_no_fsync { file.without_sync() } else { file };
    let store = Store::open(Arc::new(file)).map_err(|error| failed("open", &store_path, &error))?;
    let wal_path = config.wal_dir();
    let wal_dir = WalDir::open(&wal_path).map_err(|error| failed("open", &wal_path, &error))?;
    let wal_dir = if config.unsafe_no_fsync { wal_dir.without_sync() } else { wal_dir };
    let names = wal_dir.segments().map_err(|error| failed("read", &wal_path, &error))?;
    let applied = store.applied().index;
    if names.is_empty() {
        if applied > 0 {
            return Err(format!(
                "{} holds data, but the log in {} is gone: put it back, or restore this member from a snapshot",
                store_path.display(),
                wal_path.display()
            ));
        }
        let (foundation, member_id) = foundation(config)?;
        let cluster_id = foundation.cluster_id;
        return Ok(Opened { store, opening: Opening::Found(foundation), member_id, cluster_id, wal_dir });
    }
    let content = wal_dir.read_after(&names, applied).map_err(|error| failed("read", &wal_path, &error))?;
    let segments: Vec<_> = content.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
    let recovered = wal::recover(&segments, applied).map_err(|error| error.to_string())?;
    drop(content);
    wal_dir.mend_tail(&recovered.tail).map_err(|error| failed("mend", &wal_path, &error))?;
    let wal::Metadata { node_id: member_id, cluster_id, .. } = recovered.metadata;
    Ok(Opened {
        store,
        opening: Opening::Recover(Box::new(recovered), names),
        member_id,
        cluster_id,
        wal_dir,
    })
}

/// Where clients are served.
#[derive(Clone)]
struct Listeners {
    /// Address and whether HTTP/1.1 is answered there, gRPC, and only metrics.
    addresses: Arc<Vec<(SocketAddr, Kind)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Client { http: bool },
    Http,
    Metrics,
}

impl Listeners {
    fn claim(config: &Config) -> Result<Self, String> {
        let http = config.listen.client_http.is_empty();
        let mut addresses = Vec::new();
        let kinds = [
            (&config.listen.client, Kind::Client { http }),
            (&config.listen.client_http, Kind::Http),
            (&config.listen.metrics, Kind::Metrics),
        ];
        for (urls, kind) in kinds {
            for url in urls {
                for address in resolve(url)? {
                    // Whoever shares the port on purpose must name it.
                    let shared = config.listen.reuse_port && address.port() != 0;
                    let claimed = if shared { Ok(address) } else { claim(address) };
                    let address = claimed.map_err(|error| format!("listen {address}: {error}"))?;
                    addresses.push((address, kind));
                }
            }
        }
        Ok(Self { addresses: Arc::new(addresses) })
    }
}

/// Claims an address. A member that was killed a moment ago may still hold it: the kernel takes down rings, and the
/// sockets they were waiting on, after the process is gone.
fn claim(address: SocketAddr) -> std::io::Result<SocketAddr> {
    let deadline = std::time::Instant::now() + CLAIM;
    loop {
        match socket::claim(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// `localhost` is one address, as in Go.
fn resolve(url: &Url) -> Result<Vec<SocketAddr>, String> {
    if url.scheme != Scheme::Http {
        return Err(format!("{url}: only http is built yet"));
    }
    let host = if url.host == "localhost" { "127.0.0.1" } else { &url.host };
    let found =
        (host, url.port).to_socket_addrs().map_err(|error| format!("cannot resolve {url}: {error}"))?;
    Ok(found.take(1).collect())
}

/// A session core before its executor runs.
struct SessionCore {
    parts: Parts,
    lane: Receiver<FromReplica>,
    /// Has something in it once the member is to stop.
    told: Receiver<()>,
    listeners: Listeners,
    admission: Arc<Admission>,
    config: Config,
    shared: Arc<Shared>,
    /// The core that logs what is said once.
    first: bool,
}

impl SessionCore {
    async fn run(self) {
        let counters = self.parts.counters.clone();
        let session = Session::new(self.parts);
        task::spawn(session_loop::run(session.clone(), self.lane));
        task::spawn(session_loop::keep_house(session.clone()));
        while !session.gate().is_published() && self.shared.signal.load(Ordering::Acquire) == 0 {
            task::sleep(Duration::from_millis(1)).await;
        }
        let stop = Stop::new();
        let settings = grpc::Settings {
            message_bytes_max: self.config.limits.request_bytes_max as usize + 512 * 1024,
            streams_max: self.config.limits.streams_max,
            ping_interval_min: self.config.keepalive.client_min_time,
            ping_after: self.config.keepalive.interval,
            ping_timeout: self.config.keepalive.timeout,
        };
        let core = grpc::Core::new(Rc::new(Api(session.clone())), settings, counters);
        let turns = Turns::start();
        for &(address, kind) in self.listeners.addresses.iter() {
            let admin = |metrics_only| {
                let settings = admin::Settings {
                    cors: self.config.http.cors.clone(),
                    host_whitelist: self.config.http.host_whitelist.clone(),
                    metrics_only,
                };
                Rc::new(Admin::new(settings, Box::new(MemberHealth(session.clone()))))
            };
            let services = Services {
                grpc: matches!(kind, Kind::Client { .. }).then(|| core.clone()),
                admin: (kind != Kind::Client { http: false }).then(|| admin(kind == Kind::Metrics)),
                stop: stop.clone(),
                turns: turns.clone(),
            };
            let listener = socket::listen(address)
                .unwrap_or_else(|error| panic!("cannot listen on {address}: {error}; is it in use?"));
            task::spawn(listener::listen(listener, self.admission.clone(), services));
            if self.first {
                match kind {
                    Kind::Client { http: true } => {
                        lines::serving_insecurely("grpc+http", &address.to_string())
                    }
                    Kind::Client { http: false } => lines::serving_insecurely("grpc", &address.to_string()),
                    Kind::Http => lines::serving_insecurely("http", &address.to_string()),
                    Kind::Metrics => lines::serving_metrics(&address.to_string()),
                }
            }
        }
        if self.first {
            let header = session.header();
            lines::published(&self.config, header.member_id, header.cluster_id);
            let clients =
                self.listeners.addresses.iter().filter(|(_, kind)| matches!(kind, Kind::Client { .. }));
            clients.for_each(|_| lines::ready());
        }
        self.told.ready().await;
        if self.first {
            lines::closing(&self.config);
        }
        stop.advance(Phase::Draining);
        session.watches.close_all();
        session.streams.close_all();
        task::until(clock::now() + DRAIN, stop.drained()).await;
        stop.advance(Phase::Closed);
        task::until(clock::now() + Duration::from_secs(1), stop.drained()).await;
        self.shared.draining.fetch_sub(1, Ordering::AcqRel);
        while !self.shared.stopped.load(Ordering::Acquire) {
            task::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The replica core before its executor runs.
struct ReplicaParts {
    replica: Replica,
    lane: Receiver<Input>,
    outboxes: Vec<Outbox<FromReplica>>,
    checkpoints: std::sync::mpsc::Sender<crate::page::CheckpointJob>,
    digests: std::sync::mpsc::Sender<Box<CompactionDigest>>,
    wal_dir: WalDir,
    tick: Duration,
    metrics: Arc<metrics::Core>,
    slow_apply: Duration,
    shared: Arc<Shared>,
}

impl ReplicaParts {
    async fn run(self) {
        let wal = WalFile::new(self.wal_dir.clone())
            .unwrap_or_else(|error| panic!("cannot prepare the log: {error}"));
        let core = ReplicaCore {
            replica: self.replica,
            lane: self.lane,
            sessions: self.outboxes,
            checkpoints: self.checkpoints,
            digests: self.digests,
            wal,
            tick: self.tick,
            metrics: self.metrics,
            slow_apply: self.slow_apply,
        };
        let shared = self.shared.clone();
        core.run(move || shared.draining.load(Ordering::Acquire) == 0).await;
        self.shared.stopped.store(true, Ordering::Release);
    }
}
