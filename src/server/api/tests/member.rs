//! One member on the executor that runs the test: the replica over files in memory, and one session core with its loop.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::pipe::{End, pipe};
use crate::btree::Store;
use crate::cluster::reconfig::Rules;
use crate::config::Gates;
use crate::error::Error;
use crate::mvcc::pin::Pins;
use crate::replica::bootstrap::Foundation;
use crate::replica::port::{Input, Output, Outputs};
use crate::replica::{Opening, Replica, Settings};
use crate::server::api::Api;
use crate::server::core::session_loop;
use crate::server::grpc::counters::Counters;
use crate::server::grpc::{self, connection};
use crate::server::http2::Memory;
use crate::server::io::idle::IdleClients;
use crate::server::io::stop::Stop;
use crate::server::io::turns::Turns;
use crate::server::io::{clock, task};
use crate::server::log::slow::Limits;
use crate::server::mesh::{self, Outbox, Receiver};
use crate::server::metrics;
use crate::server::session::{self, Parts, Session};
use crate::session::FromReplica;
use crate::stdx::time::{Duration, Instant};

/// A member that serves.
pub struct Member {
    /// Its one session core.
    pub session: Rc<Session>,
    /// The replica's clock, which only tests move.
    pub now: Rc<Cell<Instant>>,
    core: Rc<grpc::Core>,
    stop: Rc<Stop>,
    turns: Arc<Turns>,
    idle: Rc<IdleClients>,
}

impl Member {
    /// A member of a new cluster of one, once it serves.
    pub async fn start(quota: Option<u64>) -> Self {
        let counters = Counters::new();
        let (replica, session, inputs) = found(quota, 1024, &counters, |_| {});
        let (to_session, lane) = mesh::lane::<FromReplica>(1024);
        let now = Rc::new(Cell::new(Instant::default() + Duration::from_secs(1000)));
        task::spawn(drive(replica, inputs, Outbox::new(to_session), now.clone()));
        task::spawn(session_loop::run(session.clone(), lane));
        task::spawn(session_loop::run_timers(session.clone()));
        let published = async {
            while !session.gate().is_published() {
                task::yield_now().await;
            }
        };
        let deadline = clock::now() + Duration::from_secs(10);
        task::until(deadline, published).await.expect("a member that serves");
        Self::of(session, now, counters)
    }

    /// A member whose replica answers nobody, with what it is told.
    pub fn unanswered() -> (Self, Receiver<Input>) {
        let counters = Counters::new();
        let (_, session, inputs) = found(None, 1024, &counters, |_| {});
        (Self::of(session, Rc::default(), counters), inputs)
    }

    fn of(session: Rc<Session>, now: Rc<Cell<Instant>>, counters: Arc<Counters>) -> Self {
        let api = Rc::new(Api::new(session.clone(), 1));
        let core = grpc::Core::new(api, grpc::Settings::default(), counters);
        Self { session, now, core, stop: Stop::new(), turns: Turns::start(), idle: IdleClients::new() }
    }

    /// What its clients make it hold.
    pub fn memory(&self) -> &Memory {
        self.core.memory()
    }

    /// A client's end of a new connection.
    pub fn connect(&self) -> End {
        let (ours, theirs) = pipe();
        let (core, membership, idle) = (self.core.clone(), self.stop.join(), self.idle.enter());
        let peer = "127.0.0.1:1".parse::<std::net::SocketAddr>().expect("an address").into();
        let serve = |priority| connection::serve(core, ours, Bytes::new(), peer, membership, priority, idle);
        self.turns.spawn(serve);
        theirs
    }
}

/// A session core whose replica answers nobody. The lane to it has room for one message.
pub fn unanswered() -> (Rc<Session>, Receiver<Input>) {
    let hurried = |facts: &mut session::Member| facts.request_timeout = Duration::from_millis(1);
    let (_, session, inputs) = found(None, 1, &Counters::new(), hurried);
    (session, inputs)
}

/// The replica of a new cluster of one, its session core with facts changed by `change`, and the end of the lane from
/// there, which has room for so many messages.
fn found(
    quota: Option<u64>,
    room: usize,
    counters: &Arc<Counters>,
    change: impl FnOnce(&mut session::Member),
) -> (Replica, Rc<Session>, Receiver<Input>) {
    let foundation =
        Foundation::new([("m1".to_owned(), vec!["http://localhost:2380".to_owned()])], "cluster");
    let (cluster_id, member_id) = (foundation.cluster_id, foundation.founders[0].id);
    let pins = Pins::new(1);
    let settings = settings(member_id, quota);
    let replica = Replica::open(settings, Store::in_memory(), Opening::Found(foundation), pins.clone())
        .expect("a new store");
    let (to_replica, inputs) = mesh::lane::<Input>(room);
    let counts = metrics::Core::new();
    let mut facts = facts(&replica, (cluster_id, member_id), quota, &counts, counters);
    change(&mut facts);
    let session = Session::new(Parts {
        member: Arc::new(facts),
        core: (0, 2),
        readers: replica.readers(),
        pins: pins.slot(0),
        replica: to_replica,
        gate: replica.gate().clone(),
        first_id: 1,
        seed: 1,
        metrics: counts,
        counters: counters.clone(),
    });
    (replica, session, inputs)
}

fn settings(member_id: u64, quota_bytes: Option<u64>) -> Settings {
    Settings {
        member_id,
        name: "m1".into(),
        client_urls: vec!["http://localhost:2379".into()],
        election_ticks: 10,
        tick: Duration::from_millis(100),
        pre_vote: true,
        catchup_entries: 0,
        segments_kept: 2,
        lease_ttl_min: 2,
        quota_bytes,
        asks_versions: false,
        rules: Rules::default(),
        request_ids: (1 << 32, 1),
        seed: 1,
    }
}

fn facts(
    replica: &Replica,
    (cluster_id, member_id): (u64, u64),
    quota: Option<u64>,
    counts: &Arc<metrics::Core>,
    counters: &Arc<Counters>,
) -> session::Member {
    session::Member {
        cluster_id,
        member_id,
        max_request_bytes: 1_572_864,
        max_txn_ops: 128,
        progress_interval: Duration::from_secs(600),
        request_timeout: Duration::from_secs(7),
        slow: Limits { apply: Duration::MAX, request: Duration::MAX },
        name: "m1".into(),
        start_revision: replica.applied().revision,
        keys_asked: AtomicBool::new(false),
        quota_bytes: quota.map_or(0, |bytes| bytes as i64),
        compaction_hashes: replica.compaction_hashes().clone(),
        quota,
        gates: Gates::default(),
        leaderless_max: Duration::from_secs(3),
        rules: Rules::default(),
        contacts: Arc::default(),
        metrics: vec![counts.clone()],
        rpc: vec![counters.clone()],
    }
}

/// Runs the replica on a disk that is as fast as memory and loses nothing.
async fn drive(
    mut replica: Replica,
    lane: Receiver<Input>,
    mut session: Outbox<FromReplica>,
    now: Rc<Cell<Instant>>,
) {
    let (mut inputs, mut outputs) = (VecDeque::new(), Outputs::new());
    loop {
        lane.take(usize::MAX, &mut inputs);
        inputs.drain(..).for_each(|input| replica.step(input));
        let mut more = replica.drain(now.get(), &mut outputs);
        for output in outputs.drain(..) {
            if let Some(done) = carry_out(output, &mut session) {
                replica.step(done);
                more = true;
            }
        }
        if session.flush() && !more {
            lane.ready().await;
        } else {
            task::yield_now().await;
        }
    }
}

/// Does what the replica says, and returns what it is then told.
fn carry_out(output: Output, session: &mut Outbox<FromReplica>) -> Option<Input> {
    match output {
        Output::AppendWal { ready, write } => {
            return Some(Input::WalSynced { ready, buffer: write.bytes, took: Duration::ZERO });
        }
        Output::WriteCheckpoint(job) => {
            job.execute().expect("a file in memory never fails");
            return Some(Input::CheckpointSynced { generation: job.generation() });
        }
        Output::DigestCompaction(mut job) => {
            let hash = std::iter::repeat_with(|| job.step(1000)).find_map(Result::transpose);
            return hash.map(|hash| Input::CompactionDigested { hash });
        }
        Output::Reply { ticket, result } => session_loop::reply(session, ticket, result),
        Output::ReadReady { ticket } => session.push(FromReplica::ReadReady(ticket)),
        Output::Publish(batch) => session.push(FromReplica::Publish(batch)),
        Output::Halt { reason } => panic!("{reason}"),
        Output::AskLessor { ticket, .. } => session_loop::reply(session, ticket, Err(Error::NoLeader)),
        Output::AskPromotion { ticket, .. } => session_loop::reply(session, ticket, Err(Error::NoLeader)),
        Output::Installed { readers, revision, .. } => {
            session.push(FromReplica::Installed(readers, revision));
        }
        Output::PlaceSnapshot => return Some(Input::SnapshotPlaced),
        Output::Removed
        | Output::SendSnapshot { .. }
        | Output::RefuseSnapshot(_)
        | Output::ReleaseWal { .. }
        | Output::Send { .. }
        | Output::Unsound { .. }
        | Output::Compacted { .. } => {}
    }
    None
}
