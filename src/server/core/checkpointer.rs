//! The thread that writes the store file behind the log. Nothing waits for it but the next checkpoint, and the end of
//! the member: then a full disk is not tried again.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::page::{CheckpointError, CheckpointJob};
use crate::replica::port::Input;
use crate::server::mesh::Sender;

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Time between two lines of the log that say that a checkpoint cannot be written.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A way to the thread.
pub struct Checkpointer {
    jobs: mpsc::Sender<CheckpointJob>,
    end: Arc<End>,
}

/// What is said about the end of the member.
#[derive(Default)]
struct End {
    /// The member stops: a full disk is not tried again.
    near: AtomicBool,
    /// A checkpoint was given up.
    gave_up: AtomicBool,
}

impl Checkpointer {
    /// Has a checkpoint written.
    pub fn write(&self, job: CheckpointJob) {
        let taken = self.jobs.send(job);
        assert!(taken.is_ok(), "the checkpointer outlives the replica");
    }

    /// The member stops: what a full disk refuses from now on is given up.
    pub fn stop(&self) {
        self.end.near.store(true, Ordering::Release);
    }

    /// Whether a checkpoint was given up. The replica does not hear of it.
    pub fn gave_up(&self) -> bool {
        self.end.gave_up.load(Ordering::Acquire)
    }
}

/// Starts the thread; it ends when the sender is dropped. `observe` hears how long each checkpoint took.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    replica: Sender<Input>,
    observe: impl Fn(Duration) + Send + 'static,
) -> std::io::Result<Checkpointer> {
    let (jobs, inbox) = mpsc::channel::<CheckpointJob>();
    let end = Arc::<End>::default();
    let checkpointer = Checkpointer { jobs, end: end.clone() };
    thread::Builder::new().name("checkpointer".into()).spawn(move || {
        while let Ok(job) = inbox.recv() {
            let began = Instant::now();
            if !execute(&job, &end.near, || tell(&replica, Input::CheckpointRefused)) {
                end.gave_up.store(true, Ordering::Release);
                return;
            }
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
    Ok(checkpointer)
}

/// Executes the job. What is not written stays in the log, so a full disk only makes the next start longer, and takes
/// memory: `refused` hears of it once. False once the job is given up because the member stops.
///
/// # Panics
/// When a sync fails: what the disk holds is unknown, and only a restart finds out.
fn execute(job: &CheckpointJob, stopping: &AtomicBool, refused: impl FnOnce()) -> bool {
    let mut next_line = Instant::now();
    let mut refused = Some(refused);
    loop {
        match job.execute() {
            Ok(()) => return true,
            Err(CheckpointError::Write(error)) if job.is_spill() => {
                tracing::warn!(error = %error, "cannot write pages of an entry under way, they stay in memory");
                return true;
            }
            Err(CheckpointError::Write(error)) if stopping.load(Ordering::Acquire) => {
                tracing::warn!(error = %error, "cannot write a checkpoint before the member stops");
                return false;
            }
            Err(CheckpointError::Write(error)) => {
                if let Some(tell) = refused.take() {
                    tell();
                }
                if next_line <= Instant::now() {
                    tracing::warn!(error = %error, "cannot write a checkpoint, trying again until it succeeds");
                    next_line = Instant::now() + TELL_AGAIN;
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
    use crate::btree::{Read, Store, Tree};
    use crate::page::{MemoryFile, PageFile};
    use crate::server::mesh;
    use std::collections::VecDeque;

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
        jobs.write(job);
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

    /// A disk on which nothing can be written any more.
    struct FullDisk(MemoryFile);

    impl PageFile for FullDisk {
        fn name(&self) -> String {
            self.0.name()
        }

        fn pages(&self) -> u32 {
            self.0.pages()
        }

        fn read(&self, first: u32, into: &mut [u8]) -> std::io::Result<()> {
            self.0.read(first, into)
        }

        fn write(&self, first: u32, bytes: &[u8]) -> std::io::Result<()> {
            let is_meta = first < 2;
            if is_meta { self.0.write(first, bytes) } else { Err(std::io::ErrorKind::StorageFull.into()) }
        }

        fn resize(&self, pages: u32) -> std::io::Result<()> {
            self.0.resize(pages)
        }

        fn sync(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_tried_again_until_the_member_stops() {
        let mut store = Store::open(Arc::new(FullDisk(MemoryFile::default()))).unwrap();
        let mut txn = store.write();
        txn.put(Tree::Index, b"key", b"value");
        txn.commit();
        let (to_replica, lane) = mesh::lane(4);
        let checkpointer = start(to_replica, |_| {}).unwrap();
        checkpointer.write(store.begin_checkpoint().expect("there is something to write"));
        thread::sleep(RETRY / 2);
        assert!(!checkpointer.gave_up(), "there may be room again");
        checkpointer.stop();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !checkpointer.gave_up() {
            assert!(Instant::now() < deadline, "it goes on trying");
            thread::sleep(Duration::from_millis(1));
        }
        let mut told = VecDeque::new();
        lane.take(4, &mut told);
        let is_refusal = matches!(told.make_contiguous(), [Input::CheckpointRefused]);
        assert!(is_refusal, "nothing was written, and the replica hears once why");
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
