//! Where lines go: a bounded queue and one thread that writes them out.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use super::line::Line;
use crate::config::{LogLevel, LogOutput};

/// Lines that may wait. At two hundred bytes each, under a megabyte.
const QUEUE_LINES: usize = 4096;
/// Bytes written in one go.
const BATCH_BYTES: usize = 64 * 1024;

enum Item {
    Line(String),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// The queue's near end.
pub struct Sink {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

enum Output {
    Stderr,
    Stdout,
    File(File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Stderr => io::stderr().write_all(bytes),
            Output::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
            Output::File(file) => file.write_all(bytes),
        }
    }
}

impl Sink {
    /// Opens the outputs and starts the thread.
    pub fn open(outputs: &[LogOutput]) -> Result<Sink, String> {
        let mut open = Vec::new();
        for output in outputs {
            open.push(match output {
                LogOutput::Stderr => Output::Stderr,
                LogOutput::Stdout => Output::Stdout,
                LogOutput::File(path) => {
                    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
                    Output::File(file.map_err(|error| format!("open {}: {error}", path.display()))?)
                }
            });
        }
        let (queue, far) = mpsc::sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let writer =
            thread::Builder::new().name("log".to_owned()).spawn(move || write_out(&far, &mut open, &lost));
        writer.map_err(|error| format!("cannot start the log's thread: {error}"))?;
        Ok(Sink { queue, dropped })
    }

    /// Queues a line; never waits.
    pub fn push(&self, line: String) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Item::Line(line))
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was queued before is written, at most this long.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = mpsc::sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _: Result<(), RecvTimeoutError> = written.recv_timeout(patience);
        } else {
            // Full: the thread is behind; give it the time it may have.
            thread::sleep(patience);
        }
    }
}

fn write_out(far: &Receiver<Item>, outputs: &mut [Output], dropped: &AtomicU64) {
    let mut batch = Vec::new();
    let mut waiting = Vec::new();
    while let Ok(first) = far.recv() {
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Line(line) => batch.extend_from_slice(line.as_bytes()),
                Item::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH_BYTES { far.try_recv().ok() } else { None };
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = Line::new(LogLevel::Warn, "log lines were dropped; their reader is too slow");
            let line = line.value("dropped", lost).render(std::time::SystemTime::now(), false);
            batch.extend_from_slice(line.as_bytes());
        }
        // A log that cannot be written is not a reason to stop serving, and there is no place to say so.
        outputs.iter_mut().for_each(|output| drop(output.write(&batch)));
        batch.clear();
        for done in waiting.drain(..) {
            // Whoever asked may have run out of patience.
            let _ = done.send(());
        }
    }
}
