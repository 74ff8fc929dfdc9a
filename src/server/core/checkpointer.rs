//! The thread that writes the store file behind the log. Nothing waits for it but the next checkpoint.
#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::page::{CheckpointError, CheckpointJob};
use crate::replica::port::Input;
use crate::server::mesh::Sender;

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Starts the thread; it ends when the sender is dropped. `observe` hears how long each checkpoint took.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    replica: Sender<Input>,
    observe: impl Fn(Duration) + Send + 'static,
) -> std::io::Result<mpsc::Sender<CheckpointJob>> {
    let (jobs, inbox) = mpsc::channel::<CheckpointJob>();
    thread::Builder::new().name("checkpointer".into()).spawn(move || {
        while let Ok(job) = inbox.recv() {
            let began = Instant::now();
            execute(&job);
            let (bytes, took) = (job.bytes(), began.elapsed());
            if job.is_spill() {
                tracing::debug!(bytes, ?took, "wrote pages of an entry under way");
            } else {
                observe(took);
                tracing::debug!(generation = job.generation(), bytes, ?took, "wrote a checkpoint");
            }
            tell(&replica, Input::CheckpointSynced { generation: job.generation() });
        }
    })?;
    Ok(jobs)
}

/// Executes the job. What is not written stays in the log, so a full disk only makes the next start longer.
///
/// # Panics
/// When a sync fails: what the disk holds is unknown, and only a restart finds out.
fn execute(job: &CheckpointJob) {
    let mut warned = false;
    loop {
        match job.execute() {
            Ok(()) => return,
            Err(CheckpointError::Write(error)) if job.is_spill() => {
                tracing::warn!(error = %error, "cannot write pages of an entry under way, they stay in memory");
                return;
            }
            Err(CheckpointError::Write(error)) => {
                if !warned {
                    tracing::warn!(error = %error, "cannot write a checkpoint, trying again until it succeeds");
                    warned = true;
                }
                thread::sleep(RETRY);
            }
            Err(error @ CheckpointError::Sync(_)) => panic!(
                "{error}; the member stops because what the disk holds is unknown; check the disk, then start the \
                 member again: it falls back to the last checkpoint and replays its log"
            ),
        }
    }
}

/// Tells the replica, whose lane is never full for long.
pub fn tell(replica: &Sender<Input>, mut input: Input) {
    while let Err(back) = replica.send(input) {
        input = back;
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Arc;

    use crate::btree::{Read, Store, Tree};
    use crate::page::MemoryFile;
    use crate::server::mesh;

    #[test]
    fn what_the_replica_is_told_of_is_in_the_file() {
        let file = Arc::<MemoryFile>::default();
        let mut store = Store::open(file.clone()).unwrap();
        let mut txn = store.write();
        txn.put(Tree::Index, b"key", b"value");
        txn.commit();
        let (to_replica, lane) = mesh::lane(4);
        let (observed, observations) = mpsc::channel();
        let jobs = start(to_replica, move |took| observed.send(took).unwrap()).unwrap();
        let job = store.begin_checkpoint().expect("there is something to write");
        let generation = job.generation();
        jobs.send(job).unwrap();
        futures::executor::block_on(lane.ready());
        let mut told = VecDeque::new();
        lane.take(4, &mut told);
        assert!(
            matches!(told.make_contiguous(), [Input::CheckpointSynced { generation: g }] if *g == generation)
        );
        assert!(observations.try_recv().is_ok(), "the time was observed before");
        let again = Store::open(file).unwrap();
        let mut reader = again.readers().register();
        assert_eq!(reader.snapshot().get(Tree::Index, b"key"), Some(&b"value"[..]));
    }

    #[test]
    fn a_full_lane_is_tried_until_the_replica_has_taken_from_it() {
        let (to_replica, lane) = mesh::lane(1);
        to_replica.send(Input::Tick).ok().unwrap();
        let telling = thread::spawn(move || tell(&to_replica, Input::CheckpointSynced { generation: 7 }));
        let mut told = VecDeque::new();
        while told.len() < 2 {
            lane.take(2, &mut told);
            thread::yield_now();
        }
        telling.join().unwrap();
        assert!(matches!(told.make_contiguous(), [Input::Tick, Input::CheckpointSynced { generation: 7 }]));
    }
}
