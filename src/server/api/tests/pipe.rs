//! A byte stream between a client and a member of the same executor, in place of a socket.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

/// One direction.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
}

impl Way {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.wake();
    }

    fn close(&mut self) {
        self.closed = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn poll_read(&mut self, cx: &Context<'_>, into: &mut [u8]) -> Poll<usize> {
        if self.bytes.is_empty() && !self.closed {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = into.len().min(self.bytes.len());
        for (to, from) in into.iter_mut().zip(self.bytes.drain(..count)) {
            *to = from;
        }
        Poll::Ready(count)
    }
}

/// One end of the stream. Whatever is written fits; dropped, it closes both directions.
pub struct End {
    incoming: Rc<RefCell<Way>>,
    outgoing: Rc<RefCell<Way>>,
}

/// The two ends of a stream.
pub fn pipe() -> (End, End) {
    let (one, other) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
    (End { incoming: one.clone(), outgoing: other.clone() }, End { incoming: other, outgoing: one })
}

impl Drop for End {
    fn drop(&mut self) {
        self.incoming.borrow_mut().close();
        self.outgoing.borrow_mut().close();
    }
}

impl futures::io::AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.incoming.borrow_mut().poll_read(cx, into).map(Ok)
    }
}

impl futures::io::AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.borrow_mut().write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.borrow_mut().close();
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.incoming.borrow_mut().poll_read(cx, into.initialize_unfilled());
        count.map(|count| {
            into.advance(count);
            Ok(())
        })
    }
}

impl tokio::io::AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        futures::io::AsyncWrite::poll_write(self, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        futures::io::AsyncWrite::poll_close(self, cx)
    }
}
