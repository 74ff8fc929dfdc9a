//! A member's cores before they run: what each of them owns, the lanes between them, the threads beside them.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::SystemTime;

use super::arrivals::Arrival;
use super::listeners::{self, Listener};
use super::open::Opened;
use super::serving::{Door, SessionCore};
use crate::btree::Store;
use crate::cluster::reconfig::Rules;
use crate::config::{Config, Url, url};
use crate::limits::SNAPSHOTS_SENT_MAX;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::mvcc::pin::Pins;
use crate::page::Owner;
use crate::peer::message;
use crate::replica::arrival::Recipient;
use crate::replica::port::Input;
use crate::replica::{Opening, Replica, Settings, refusal, unapplied};
use crate::server::core::checkpointer::{self, Checkpointer};
use crate::server::core::digester;
use crate::server::core::replica_loop::{Halt, ReplicaCore, Why};
use crate::server::core::session_loop::FromReplica;
use crate::server::grpc::counters::Counters;
use crate::server::io::accept::Admission;
use crate::server::io::threads;
use crate::server::io::wal_dir::WalDir;
use crate::server::io::wal_prepare::Prepared;
use crate::server::log::lines;
use crate::server::log::slow::Limits;
use crate::server::mesh::{self, Outbox};
use crate::server::metrics;
use crate::server::metrics::contacts::Contacts;
use crate::server::peers;
use crate::server::session::{self, Parts};
use crate::server::tls::{Ports, keeper};
use crate::stdx::prng::Prng;
use crate::stdx::time::Duration;

/// Messages in a lane: what a core may get ahead of another.
const LANE: usize = 16 * 1024;
/// Connections on their way to a core.
const ARRIVALS: usize = 1024;

/// Why a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This signal came.
    Signal(i32),
    /// The replica cannot go on; the log says why.
    Halted,
    /// The member was removed from its cluster for good.
    Removed,
}

/// A member that has not begun.
pub struct Member {
    /// The one core that has the replica.
    pub replica: ReplicaMain,
    /// The cores that serve clients.
    pub sessions: Vec<SessionCore>,
    /// Ends it.
    pub end: End,
}

/// What the executors of a member share about its end.
#[derive(Clone)]
pub struct End(Arc<Shared>);

struct Shared {
    /// Why the member ends; nothing while it runs.
    ending: OnceLock<Ending>,
    /// Session cores that have not finished.
    draining: AtomicUsize,
    /// The replica has written its last checkpoint, or has found no room for it.
    stopped: AtomicBool,
    /// A lane to each session core, which has something in it once the member is to end.
    tell: Vec<mesh::Sender<()>>,
}

impl End {
    fn new(tell: Vec<mesh::Sender<()>>) -> End {
        End(Arc::new(Shared {
            ending: OnceLock::new(),
            draining: AtomicUsize::new(tell.len()),
            stopped: AtomicBool::new(false),
            tell,
        }))
    }

    /// The member is to end. What came first counts.
    pub fn begin(&self, ending: Ending) {
        let _ = self.0.ending.set(ending);
        for core in &self.0.tell {
            // A lane that is full has been told.
            let _ = core.send(());
        }
    }

    /// Why the member ends; none while it runs.
    pub fn ending(&self) -> Option<Ending> {
        self.0.ending.get().copied()
    }

    /// One more session core has served its last client.
    pub fn drained(&self) {
        self.0.draining.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the replica has ended: it has written its last checkpoint, or has found no room for it.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    fn all_drained(&self) -> bool {
        self.0.draining.load(Ordering::Acquire) == 0
    }
}

/// The replica core before its executor runs.
pub struct ReplicaMain {
    core: ReplicaCore,
    end: End,
}

impl ReplicaMain {
    /// Runs until every session core has served its last client, and the last checkpoint is written.
    pub async fn run(self) {
        let end = self.end.clone();
        self.core.run(move || end.all_drained()).await;
        self.end.0.stopped.store(true, Ordering::Release);
    }
}

/// Makes all parts of a member with this many session cores.
///
/// # Errors
/// When the member cannot serve what was found, a thread cannot be started, or a socket cannot be shared.
pub fn wire(
    config: &Config,
    opened: Opened,
    listeners: Vec<Listener>,
    ports: Ports,
    sessions: usize,
) -> Result<Member, String> {
    let Opened { store, opening, member_id, cluster_id, wal_dir, founded, known } = opened;
    let mut prng = Prng::new(entropy());
    let ids = RequestIds::new(member_id, sessions);
    // More than there are session cores: for snapshots, and for a hash, that are sent to other members.
    let pins = Pins::new(sessions + SNAPSHOTS_SENT_MAX + 1);
    let settings = settings(config, member_id, &ids, prng.next_u64());
    let recipient = Recipient {
        owner: Owner { member_id, cluster_id },
        lease_ttl_min: settings.lease_ttl_min,
        secret: prng.next_u64(),
    };
    let mut replica = replica(settings, store, opening, pins.clone())?;
    replica.send_snapshots();

    let (to_replica, replica_lane) = mesh::lane::<Input>(LANE);
    let (to_sessions, lanes): (Vec<_>, Vec<_>) = (0..sessions)
        .map(|_| mesh::lane::<FromReplica>(LANE))
        .map(|(sender, receiver)| (Outbox::new(sender), receiver))
        .unzip();
    let (tell, told): (Vec<_>, Vec<_>) = (0..sessions).map(|_| mesh::lane::<()>(1)).unzip();
    let end = End::new(tell);

    let counts = Counts::new(config, sessions);
    let threads = Threads::start(&to_replica, counts.replica(), wal_dir.clone())?;
    let contacts = counts.contacts.clone();
    let member = Arc::new(member(config, (cluster_id, member_id), &replica, &counts));
    let parts = (0..sessions).map(|core| Parts {
        member: member.clone(),
        core: (core as u16, ids.step as u16),
        readers: replica.readers(),
        pins: pins.slot(core),
        replica: to_replica.clone(),
        gate: replica.gate().clone(),
        first_id: ids.first,
        seed: prng.next_u64(),
        metrics: counts.cores[core].clone(),
        counters: counts.rpc[core].clone(),
    });
    let peers = peers::Beginning {
        own: own(config, (cluster_id, member_id), sessions as u16, &ports),
        counts: counts.replica().clone(),
        sockets: listeners::share_peers(&listeners)?,
        gate: replica.gate().clone(),
        contacts,
        known,
        snapshots: peers::reception::Settings {
            readers: replica.readers(),
            pins: (0..SNAPSHOTS_SENT_MAX).map(|number| pins.slot(sessions + number)).collect(),
            recipient,
            store: config.store_path(),
            folder: config.snap_dir(),
            is_durable: !config.unsafe_no_fsync,
            patience: peers::reception::Patience::default(),
            start: threads::start,
        },
        hashes: peers::hash_kv::Settings {
            pins: pins.slot(sessions + SNAPSHOTS_SENT_MAX),
            compactions: replica.compaction_hashes().clone(),
        },
    };
    let keeping = keeper::start(&ports, counts.replica());
    keeping.map_err(|error| format!("cannot start the thread that looks at TLS files: {error}"))?;
    let ends = parts.zip(lanes.into_iter().zip(told)).collect();
    let sessions = session_cores(config, ends, listeners, &ports, &end)?;
    let core = ReplicaCore {
        replica,
        lane: replica_lane,
        sessions: to_sessions,
        checkpoints: threads.checkpoints,
        digests: threads.digests,
        wal_dir,
        prepared: threads.prepared,
        founded,
        tick: config.raft.heartbeat_interval,
        metrics: counts.replica().clone(),
        slow_apply: config.reporting.warning_apply_duration,
        halt: halt(end.clone()),
        peers,
    };
    Ok(Member { replica: ReplicaMain { core, end: end.clone() }, sessions, end })
}

/// The replica on what was found, unless the member cannot serve that.
fn replica(settings: Settings, store: Store, opening: Opening, pins: Pins) -> Result<Replica, String> {
    let found = match &opening {
        Opening::Recover(recovered, _) => Some((recovered, recovered.state.commit)),
        Opening::Force(forced, _) => Some((&forced.recovered, forced.committed)),
        Opening::Found(_) | Opening::Join { .. } => None,
    };
    if let Some((recovered, commit)) = found
        && let entries = unapplied(&store, &recovered.entries)
        && let Some(reason) = refusal(&store, entries, commit)
    {
        return Err(reason);
    }
    Replica::open(settings, store, opening, pins)
}

/// What a member counts.
struct Counts {
    /// Of each session core, and behind those of the replica core.
    cores: Vec<Arc<metrics::Core>>,
    /// The gRPC calls of each session core.
    rpc: Vec<Arc<Counters>>,
    /// The other members.
    contacts: Arc<Contacts>,
}

impl Counts {
    /// All zero, but for the quota.
    fn new(config: &Config, sessions: usize) -> Self {
        let counts = Self {
            cores: (0..=sessions).map(|_| metrics::Core::new()).collect(),
            rpc: (0..sessions).map(|_| Counters::with(config.reporting.extensive_metrics)).collect(),
            contacts: Arc::default(),
        };
        let core = counts.replica();
        core.quota_bytes.set(quota_shown(config));
        counts
    }

    fn replica(&self) -> &Arc<metrics::Core> {
        &self.cores[self.rpc.len()]
    }
}

/// The threads beside the replica core: each waits for the disk in its place.
struct Threads {
    checkpoints: Checkpointer,
    digests: mpsc::Sender<Box<CompactionDigest>>,
    prepared: Prepared,
}

impl Threads {
    fn start(
        replica: &mesh::Sender<Input>,
        counts: &Arc<metrics::Core>,
        wal_dir: WalDir,
    ) -> Result<Self, String> {
        let counts = counts.clone();
        let observe = move |took| counts.store_committed(took);
        Ok(Self {
            checkpoints: checkpointer::start(replica.clone(), observe)
                .map_err(|error| format!("cannot start the checkpointer: {error}"))?,
            digests: digester::start(replica.clone())
                .map_err(|error| format!("cannot start the digester: {error}"))?,
            prepared: Prepared::start(wal_dir)
                .map_err(|error| format!("cannot start the thread that prepares the log: {error}"))?,
        })
    }
}

/// The facts about the member that all its session cores know.
fn member(
    config: &Config,
    (cluster_id, member_id): (u64, u64),
    replica: &Replica,
    counts: &Counts,
) -> session::Member {
    session::Member {
        cluster_id,
        member_id,
        max_request_bytes: config.limits.request_bytes_max as usize,
        max_txn_ops: config.limits.txn_ops_max as usize,
        progress_interval: config.watch_progress_notify_interval,
        request_timeout: config.request_timeout(),
        slow: slow_limits(config),
        name: config.name.clone(),
        start_revision: replica.applied().revision,
        keys_asked: AtomicBool::new(false),
        quota_bytes: quota_shown(config),
        quota: config.quota_bytes(),
        metrics: counts.cores.clone(),
        rpc: counts.rpc.clone(),
        compaction_hashes: replica.compaction_hashes().clone(),
        gates: config.gates.clone(),
        leaderless_max: 3 * config.raft.election_timeout,
        rules: rules(config),
        contacts: counts.contacts.clone(),
    }
}

/// What this member is to others. `core` is what tickets of questions have in place of a session core's number.
pub fn own(config: &Config, (cluster_id, member_id): (u64, u64), core: u16, ports: &Ports) -> peers::Own {
    peers::Own {
        member_id,
        cluster_id,
        peer_urls: url::join(&config.advertise.peer),
        dial_timeout: Duration::from_secs(1) + config.raft.election_timeout,
        request_timeout: config.request_timeout(),
        message_bytes_max: message::bytes_max(config.limits.request_bytes_max),
        core,
        ports: ports.clone(),
    }
}

/// What belongs to one session core: its parts, what the replica tells it, and what tells it that the member ends.
type SessionEnds = (Parts, (mesh::Receiver<FromReplica>, mesh::Receiver<()>));

/// The session cores, with a way for clients to each of them.
fn session_cores(
    config: &Config,
    ends: Vec<SessionEnds>,
    listeners: Vec<Listener>,
    ports: &Ports,
    end: &End,
) -> Result<Vec<SessionCore>, String> {
    let doors = doors(ends.len(), listeners::share(&listeners)?);
    let (admission, listeners) = (Admission::from_descriptor_limit(), Arc::new(listeners));
    let cores = ends.into_iter().zip(doors).map(|((parts, (lane, told)), door)| SessionCore {
        parts,
        lane,
        told,
        listeners: listeners.clone(),
        admission: admission.clone(),
        config: config.clone(),
        ports: ports.clone(),
        end: end.clone(),
        door,
    });
    Ok(cores.collect())
}

/// What stops the member where it cannot go on.
fn halt(end: End) -> Halt {
    Box::new(move |why| match why {
        Why::Halted(reason) => {
            lines::fatal("cannot go on", reason);
            end.begin(Ending::Halted);
        }
        Why::Removed => {
            lines::removed();
            end.begin(Ending::Removed);
        }
    })
}

/// A door for each session core: the first accepts for all.
fn doors(sessions: usize, sockets: Vec<TcpListener>) -> Vec<Door> {
    let (others, lanes): (Vec<_>, Vec<_>) = (1..sessions).map(|_| mesh::lane::<Arrival>(ARRIVALS)).unzip();
    let receiving = lanes.into_iter().map(|lane| Door::Receive { lane });
    std::iter::once(Door::Accept { sockets, others }).chain(receiving).collect()
}

fn settings(config: &Config, member_id: u64, ids: &RequestIds, seed: u64) -> Settings {
    Settings {
        member_id,
        name: config.name.clone(),
        client_urls: config.advertise.client.iter().map(Url::to_string).collect(),
        election_ticks: config.election_ticks(),
        tick: config.raft.heartbeat_interval,
        pre_vote: config.raft.pre_vote,
        catchup_entries: config.catchup_entries(),
        segments_kept: config.raft.max_wals as usize,
        lease_ttl_min: config.lease_ttl_min().as_secs() as i64,
        quota_bytes: config.quota_bytes(),
        rules: rules(config),
        asks_versions: true,
        request_ids: (ids.first + ids.step - 1, ids.step),
        seed,
    }
}

/// What changes of the members this member allows.
fn rules(config: &Config) -> Rules {
    Rules { learners_max: config.raft.learners_max, is_strict: config.raft.strict_reconfig }
}

/// Ids of requests: those of a core are `step` apart, and the replica's follow those of the last session core.
struct RequestIds {
    first: u64,
    step: u64,
}

impl RequestIds {
    /// Ids that no earlier life of the member has used: they begin with the member and the time.
    fn new(member_id: u64, sessions: usize) -> RequestIds {
        let millis =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let first = (member_id & 0xffff) << 48 | (millis as u64 & 0xff_ffff_ffff) << 8;
        RequestIds { first, step: sessions as u64 + 1 }
    }
}

/// The quota that the gauge shows: without one it is the flag, as etcd's is.
fn quota_shown(config: &Config) -> i64 {
    config.quota_bytes().map_or(config.limits.quota_backend_bytes, |bytes| bytes as i64)
}

/// From when on a request is slow enough for a line in the log. Zero is for those who do not want to hear of it.
fn slow_limits(config: &Config) -> Limits {
    let apply = config.reporting.warning_apply_duration;
    Limits {
        apply: if apply.is_zero() { Duration::MAX } else { apply },
        request: config.reporting.warning_unary_request_duration,
    }
}

/// A seed that nobody can guess: the kernel's.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hasher from the kernel's generator.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_to_every_core_once() {
        let (tell, told): (Vec<_>, Vec<_>) = (0..2).map(|_| mesh::lane::<()>(1)).unzip();
        let end = End::new(tell);
        assert_eq!((end.ending(), end.all_drained(), end.is_stopped()), (None, false, false));
        end.begin(Ending::Signal(15));
        end.begin(Ending::Signal(15));
        assert_eq!(end.ending(), Some(Ending::Signal(15)));
        assert!(told.iter().all(|lane| !lane.is_empty()));
        end.drained();
        assert!(!end.all_drained());
        end.drained();
        assert!(end.all_drained());
    }

    #[test]
    fn one_core_accepts_for_all() {
        for sessions in [1, 4] {
            let doors = doors(sessions, Vec::new());
            assert_eq!(doors.len(), sessions);
            assert!(matches!(&doors[0], Door::Accept { others, .. } if others.len() == sessions - 1));
            assert!(doors[1..].iter().all(|door| matches!(door, Door::Receive { .. })));
        }
    }

    #[test]
    fn no_two_cores_share_a_request_id() {
        let ids = RequestIds::new(0x1234_5678_9abc_def0, 3);
        assert_eq!((ids.first >> 48, ids.step), (0xdef0, 4));
        assert_eq!(ids.first & 0xff, 0, "room for as many cores as there may be");
    }
}
