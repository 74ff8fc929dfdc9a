//! Where lines go: a bounded queue and one thread that writes them out.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use super::line::Line;
use crate::config::{LogLevel, LogOutput};

/// Lines that may wait.
const QUEUE_LINES: usize = 4096;
/// Bytes of memory that those lines may take: a kilobyte for each, five times what most of them have.
const QUEUE_BYTES: usize = 4 << 20;
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
    counts: Arc<Counts>,
}

/// What both ends of the queue count.
#[derive(Default)]
struct Counts {
    /// Memory of the lines in the queue: at most [`QUEUE_BYTES`], and for a moment one line more of each thread that
    /// is about to drop it.
    queued: AtomicUsize,
    /// Lines dropped since that was logged last.
    dropped: AtomicU64,
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
                    Output::File(
                        file.map_err(|error| format!("--log-outputs names {}: {error}", path.display()))?,
                    )
                }
            });
        }
        Sink::start(open)
    }

    fn start(mut outputs: Vec<Output>) -> Result<Sink, String> {
        let (queue, far) = mpsc::sync_channel(QUEUE_LINES);
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let writer = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_out(&far, &mut outputs, &shared));
        writer.map_err(|error| format!("cannot start the log's thread: {error}"))?;
        Ok(Sink { queue, counts })
    }

    /// Queues a line; never waits.
    pub fn push(&self, line: String) {
        let bytes = line.capacity();
        let before = self.counts.queued.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > QUEUE_BYTES || self.queue.try_send(Item::Line(line)).is_err() {
            self.counts.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
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

fn write_out(far: &Receiver<Item>, outputs: &mut [Output], counts: &Counts) {
    let mut batch = Vec::new();
    let mut waiting = Vec::new();
    while let Ok(first) = far.recv() {
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Line(line) => {
                    batch.extend_from_slice(line.as_bytes());
                    counts.queued.fetch_sub(line.capacity(), Ordering::Relaxed);
                }
                Item::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH_BYTES { far.try_recv().ok() } else { None };
        }
        let lost = counts.dropped.swap(0, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn lines_behind_a_stalled_reader_are_bounded_in_bytes() {
        const LINE_BYTES: usize = 100_000;
        const LINES: usize = 200;
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::start(vec![Output::File(File::from(OwnedFd::from(writer)))]).unwrap();
        for _ in 0..LINES {
            let mut line = "x".repeat(LINE_BYTES);
            line.replace_range(LINE_BYTES - 1.., "\n");
            sink.push(line);
            assert!(sink.counts.queued.load(Ordering::Relaxed) <= QUEUE_BYTES);
        }
        // The reader comes back. The thread ends with the queue, and closes the pipe.
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let (long, said): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('x'));
        // Beside those in the queue, the thread has a batch that ends with the line that fills it.
        assert!(
            (QUEUE_BYTES / LINE_BYTES..=QUEUE_BYTES / LINE_BYTES + 2).contains(&long.len()),
            "{}",
            long.len()
        );
        let dropped: u64 = said
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["dropped"].as_u64().unwrap())
            .sum();
        assert_eq!(long.len() as u64 + dropped, LINES as u64, "every line is written or counted");
    }

    #[test]
    fn a_queue_that_was_full_takes_lines_again() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::start(vec![Output::File(File::from(OwnedFd::from(writer)))]).unwrap();
        sink.push("x".repeat(QUEUE_BYTES + 1));
        assert_eq!(sink.counts.queued.load(Ordering::Relaxed), 0, "longer than the whole queue");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let line = || "y".repeat(QUEUE_BYTES / 2 - 1) + "\n";
        for _ in 0..4 {
            sink.push(line());
            sink.flush(Duration::from_secs(30));
        }
        drop(sink);
        assert_eq!(
            reading.join().unwrap().matches('\n').count(),
            4 + 1,
            "four lines, and that one was dropped"
        );
    }
}
