//! The hash of this member's history for another member, and those of other members for this one.
//!
//! A thread takes the hash, for a large store takes seconds: it looks at a slice at a time and rests as long as the
//! slice took, so it takes half a CPU at most and holds a revision and no page between two slices. One hash is taken at
//! a time. Whoever asks waits for a request's time-out and no longer, so a hash that is not there by then is given up.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use bytes::Bytes;
use futures::future::join_all;

use super::client::{Ask, Connection};
use super::service::with_cluster_id;
use super::switchboard::{Own, Switchboard};
use crate::btree::{Read as _, Readers};
use crate::cluster::corruption::{NoHash, Told};
use crate::config::Url;
use crate::error::Error;
use crate::mvcc::View;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::hash::{HashKv, KvHash};
use crate::mvcc::pin::PinSlot;
use crate::peer::greeting::{CLUSTER_ID, OTHER_CLUSTER};
use crate::peer::hash_kv::{self, COMPACTED, FUTURE, Refusal};
use crate::proto::membershippb::Member;
use crate::server::http1::answer::Answer;
use crate::server::http1::head::Head;
use crate::server::io::{clock, executor, task, threads};
use crate::server::log::Line;
use crate::server::session::line;

/// Longest question. etcd's are some 20 bytes.
const QUESTION_BYTES_MAX: usize = 4096;
/// Small changes that are digested in a slice: some tenths of a millisecond.
const SLICE: usize = 512;
/// Requests to the kernel that are under way at a time, at most, where other members are asked from a thread.
const RING_DEPTH: usize = 64;
/// The shortest rest between two slices.
const REST_MIN: StdDuration = StdDuration::from_micros(50);

/// What is needed to answer.
pub struct Settings {
    /// Where a hash under way pins its revision.
    pub pins: PinSlot,
    /// The hashes that compactions took.
    pub compactions: CompactionHashes,
}

/// The hashes that other members ask for.
pub struct Hashes {
    line: Rc<line::Line>,
    /// Locked by the thread that takes a hash.
    pins: Arc<Mutex<PinSlot>>,
    pub(super) compactions: CompactionHashes,
}

impl Hashes {
    /// None is under way.
    pub fn new(settings: Settings) -> Self {
        let Settings { pins, compactions } = settings;
        Self { line: Rc::default(), pins: Arc::new(Mutex::new(pins)), compactions }
    }
}

/// Another member, to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its id.
    pub id: u64,
    /// Where it is.
    pub urls: Vec<String>,
}

impl Other {
    /// The members but for the one with the id `own`, without those of which nobody knows where they are.
    pub fn among(members: impl IntoIterator<Item = Member>, own: u64) -> Vec<Other> {
        let others = members.into_iter().filter(|member| member.id != own);
        let known = others.filter_map(|member| {
            let urls = member.raft_attributes?.peer_urls;
            (!urls.is_empty()).then_some(Other { id: member.id, urls })
        });
        known.collect()
    }
}

/// Answers another member.
pub async fn answer(switchboard: &Rc<Switchboard>, head: &Head, body: Bytes) -> Answer {
    let own_cluster = format!("{:x}", switchboard.own().cluster_id);
    if head.extension(CLUSTER_ID).is_some_and(|id| !id.is_empty() && id != own_cluster) {
        return Answer::error(412, OTHER_CLUSTER);
    }
    let revision = if body.len() > QUESTION_BYTES_MAX { None } else { hash_kv::asked(&body) };
    let Some(revision) = revision else {
        Line::warn("failed to unmarshal request").write();
        return Answer::error(400, "error unmarshalling request");
    };
    match switchboard.hash_at(revision).await {
        Ok(hash) => with_cluster_id(Answer::json(200, hash_kv::answer(&hash)), switchboard),
        Err(error) => {
            let text = text_of(error);
            Line::warn("failed to get hashKV")
                .value("requested-revision", revision)
                .text("error", text)
                .write();
            Answer::error(400, text)
        }
    }
}

/// What another member is told that gets no hash.
fn text_of(error: Error) -> &'static str {
    match error {
        Error::Compacted => COMPACTED,
        Error::FutureRevision => FUTURE,
        error => error.message(),
    }
}

impl Switchboard {
    /// The hash at a revision, for another member.
    async fn hash_at(&self, revision: i64) -> Result<KvHash, Error> {
        let place = self.hashes.line.place();
        let deadline = clock::now() + self.own().request_timeout;
        task::until(deadline, place.turn()).await.ok_or(Error::Timeout)?;
        let readers = self.snapshots.readers.borrow().clone();
        let current = readers.register().snapshot().applied().revision;
        if let Some(hash) = self.hashes.compactions.get(revision, current) {
            return Ok(hash);
        }
        let (pins, began) = (self.hashes.pins.clone(), clock::now());
        let left = deadline.since(began);
        let taken = threads::run(threads::start, "hasher", move || {
            let mut slot = pins.lock().unwrap_or_else(PoisonError::into_inner);
            digest(&readers, &mut slot, revision, StdInstant::now() + left)
        })
        .await;
        // A system without threads is busy, as one that takes too long is.
        let hash = taken.unwrap_or(Err(Error::Timeout));
        self.counts.hashed(true, clock::now().since(began));
        hash
    }
}

/// Takes the hash, slice by slice, unless that takes too long.
fn digest(
    readers: &Readers,
    slot: &mut PinSlot,
    revision: i64,
    deadline: StdInstant,
) -> Result<KvHash, Error> {
    let mut reader = readers.register();
    let mut hash = HashKv::new(&View::new(&reader.snapshot()), revision)?;
    while !slot.pin(hash.pin(), || reader.snapshot().applied().compact_revision) {
        hash = HashKv::new(&View::new(&reader.snapshot()), revision)?;
    }
    let pinned = hash.pin();
    let result = loop {
        let began = StdInstant::now();
        match hash.step(&View::new(&reader.snapshot()), SLICE) {
            Ok(None) if began > deadline => break Err(Error::Timeout),
            Ok(None) => thread::sleep(began.elapsed().max(REST_MIN)),
            Ok(Some(hash)) => break Ok(hash),
            Err(error) => break Err(error),
        }
    };
    slot.unpin(pinned);
    result
}

/// Asks other members for their hashes at a revision, all at once.
pub async fn ask(own: &Own, others: &[Other], revision: i64) -> Vec<Told> {
    join_all(others.iter().map(|other| ask_one(own, other, revision))).await
}

/// Asks a member at its URLs, one after the other.
async fn ask_one(own: &Own, other: &Other, revision: i64) -> Told {
    let mut hash = Err(NoHash::Silent);
    for url in &other.urls {
        let error = match ask_at(own, url, revision).await {
            Ok(hash) => return Told { id: other.id, hash: Ok(hash) },
            Err(refusal) => refusal,
        };
        let (reason, text) = meaning(error);
        Line::warn("failed hash kv request")
            .id("local-member-id", own.member_id)
            .value("requested-revision", revision)
            .text("remote-peer-endpoint", url)
            .text("error", text)
            .write();
        hash = Err(reason);
    }
    Told { id: other.id, hash }
}

/// What a refusal means, and its text in the log.
fn meaning(refusal: Refusal) -> (NoHash, String) {
    let known = |reason, text: &str| (reason, format!("etcdserver: {text}"));
    match refusal {
        Refusal::Compacted => known(NoHash::Compacted, COMPACTED),
        Refusal::Future => known(NoHash::Future, FUTURE),
        Refusal::OtherCluster => known(NoHash::OtherCluster, OTHER_CLUSTER),
        Refusal::Other(text) => (NoHash::Silent, text),
    }
}

async fn ask_at(own: &Own, url: &str, revision: i64) -> Result<KvHash, Refusal> {
    let failed = |error: io::Error| Refusal::Other(error.to_string());
    let url = Url::parse(url).map_err(Refusal::Other)?;
    let exchange = exchange(own, &url, hash_kv::question(revision));
    let answered = task::until(clock::now() + own.request_timeout, exchange).await;
    let timed_out = || Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"));
    let (status, body) = answered.unwrap_or_else(timed_out).map_err(failed)?;
    hash_kv::told(status, &body)
}

/// Status and body of the answer. The other side may take as long as it needs to take a hash.
async fn exchange(own: &Own, url: &Url, question: String) -> io::Result<(u16, Vec<u8>)> {
    let mut connection = Connection::dial(own, url).await?;
    let ask = Ask { method: "GET", path: hash_kv::PATH, to: None, content: None };
    connection.begin(own, &ask, "application/json", question.len() as u64, false).await?;
    connection.write(question.as_bytes()).await?;
    let reply = connection.reply().await?;
    Ok((reply.status, connection.read_whole(reply.body).await?))
}

/// Asks other members from a thread without an executor, and waits.
///
/// # Errors
/// When no executor can be started.
pub fn ask_from_thread(own: Own, others: Vec<Other>, revision: i64) -> Result<Vec<Told>, String> {
    let (tell, told) = mpsc::channel();
    let main = move || async move {
        // Whoever started this waits for it.
        let _ = tell.send(ask(&own, &others, revision).await);
    };
    executor::spawn("check", None, RING_DEPTH, main)?.join()?;
    told.recv().map_err(|_| "the other members were not asked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::Writer;
    use crate::mvcc::pin::Pins;
    use crate::mvcc::write::initialize;
    use crate::proto::etcdserverpb::PutRequest;

    #[test]
    fn a_hash_that_takes_too_long_is_given_up_and_holds_nothing() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        for n in 0..2000 {
            let mut writer = Writer::begin(&mut txn);
            writer.put(&PutRequest { key: format!("{n}").into(), ..PutRequest::default() }).unwrap();
            writer.finish();
        }
        txn.commit();
        let pins = Pins::new(1);
        let (mut slot, readers, now) = (pins.slot(0), store.readers(), StdInstant::now());
        assert_eq!(digest(&readers, &mut slot, 0, now), Err(Error::Timeout));
        assert_eq!(pins.lowest(), None);
        let whole = digest(&readers, &mut slot, 0, now + StdDuration::from_secs(60)).unwrap();
        assert_eq!((whole.hash_revision, pins.lowest()), (2001, None));
    }
}
