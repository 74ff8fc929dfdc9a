//! The thread that takes compactions' hashes, at leisure: only the removal of garbage waits for it.
#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::checkpointer::tell;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::replica::port::Input;
use crate::server::mesh::Sender;

/// Changes digested between two pauses: at most some 0.2 ms, so that whoever else needs this CPU waits no longer.
const SLICE: usize = 128;

/// How many times as long as a slice took the pause behind it is. So a digest takes at most a quarter of one CPU, a
/// million pairs in memory some 6 s, and where the disk has to be read no more than a quarter of its time.
const PAUSE_FACTOR: u32 = 3;

/// The shortest pause: one that is shorter than a slice of the scheduler gives nobody anything.
const PAUSE_MIN: Duration = Duration::from_micros(600);

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(replica: Sender<Input>) -> std::io::Result<mpsc::Sender<Box<CompactionDigest>>> {
    let (jobs, inbox) = mpsc::channel::<Box<CompactionDigest>>();
    thread::Builder::new().name("digester".into()).spawn(move || {
        while let Ok(mut job) = inbox.recv() {
            let began = Instant::now();
            let hash = loop {
                let slice = Instant::now();
                match job.step(SLICE) {
                    Ok(Some(hash)) => break Ok(hash),
                    Ok(None) => thread::sleep(PAUSE_MIN.max(slice.elapsed() * PAUSE_FACTOR)),
                    Err(error) => break Err(error),
                }
            };
            drop(job);
            tracing::debug!(?hash, took = ?began.elapsed(), "took a hash");
            tell(&replica, Input::CompactionDigested { hash });
        }
    })?;
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use crate::btree::Store;
    use crate::mvcc::Writer;
    use crate::mvcc::write::initialize;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::server::mesh;

    #[test]
    fn a_digest_in_slices_is_the_one_taken_at_once() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        for n in 0..1000 {
            let mut writer = Writer::begin(&mut txn);
            writer
                .put(&PutRequest { key: format!("{n}").into(), value: "v".into(), ..PutRequest::default() })
                .unwrap();
            writer.finish();
        }
        txn.commit();
        let digest = || CompactionDigest::new(&store.readers(), 900, -1);
        let expected = digest().step(usize::MAX).unwrap().expect("all at once");
        let (to_replica, lane) = mesh::lane(4);
        let jobs = start(to_replica).unwrap();
        jobs.send(Box::new(digest())).unwrap();
        futures::executor::block_on(lane.ready());
        let mut told = VecDeque::new();
        lane.take(4, &mut told);
        assert!(
            matches!(told.make_contiguous(), [Input::CompactionDigested { hash: Ok(hash) }] if *hash == expected)
        );
    }
}
