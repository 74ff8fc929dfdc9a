//! The task that does log writes, one after the other.
//!
//! It is a task of its own because the loop of the replica core turns many times while one write is on its way, and
//! glommio keeps a waker for every time that a write is polled. It ends with the loop. A write that fails ends the
//! process (`io::wal_file`), so both queues exist until the loop ends, or gives up what waits for room on the disk.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::server::io::wal_file::{Room, WalFile};
use crate::server::io::{clock, task};
use crate::stdx::time::Duration;
use crate::wal::Write;

/// The loop's end of the task.
pub struct Log {
    /// As long as `writing` says at most.
    writes: UnboundedSender<(u64, Write)>,
    written: UnboundedReceiver<Written>,
    /// Writes that are not durable.
    writing: usize,
    room: Rc<Room>,
}

/// A log write that is durable.
pub struct Written {
    /// The replica's number of it.
    pub ready: u64,
    /// Its buffer, to be used again.
    pub buffer: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Log {
    /// Starts the task.
    pub fn start(file: WalFile) -> Self {
        let (writes, to_write) = mpsc::unbounded();
        let (durable, written) = mpsc::unbounded();
        let room = file.room();
        task::spawn(write_log(file, to_write, durable));
        Self { writes, written, writing: 0, room }
    }

    /// Has one more write done, behind the others.
    pub fn append(&mut self, ready: u64, write: Write) {
        self.writing += 1;
        let queued = self.writes.unbounded_send((ready, write));
        assert!(queued.is_ok(), "the log's writer runs as long as the loop");
    }

    /// Writes that are not durable.
    pub fn writing(&self) -> usize {
        self.writing
    }

    /// Whether a write waits for room on the disk.
    pub fn lacks_room(&self) -> bool {
        self.room.is_lacking()
    }

    /// Gives up what is not durable, of which nothing was acknowledged, and waits for the end of the task.
    pub async fn give_up(self) {
        let Self { writes, written, room, .. } = self;
        room.give_up();
        drop(writes);
        written.for_each(|_| std::future::ready(())).await;
    }

    /// The next write that has become durable.
    pub fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Written> {
        match self.written.poll_next_unpin(cx) {
            Poll::Ready(Some(written)) => {
                self.writing -= 1;
                Poll::Ready(written)
            }
            // The task ends behind the loop alone.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

async fn write_log(
    mut file: WalFile,
    mut writes: UnboundedReceiver<(u64, Write)>,
    written: UnboundedSender<Written>,
) {
    while let Some((ready, write)) = writes.next().await {
        if file.room().is_given_up() {
            return;
        }
        let began = clock::now();
        let Some(buffer) = file.write(write).await else { return };
        let took = clock::now().since(began);
        if written.unbounded_send(Written { ready, buffer, took }).is_err() {
            return; // the member has stopped
        }
    }
}
