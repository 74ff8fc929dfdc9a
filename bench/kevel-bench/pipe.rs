//! One connection's byte stream: at most one read and one write of the socket per turn, TLS in between.
//!
//! ```text
//!   socket --fill--> (rustls) --> input  --> h2         fill: once, when a turn begins
//!   socket <--push-- (rustls) <-- output <-- h2         push: once, when it ends
//! ```
//!
//! h2 sees only the two buffers. It finds `input` empty without a system call and without registering a waker:
//! the turn of the connection's task drives it.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustls::ClientConnection;
use tokio::io::ReadBuf;

/// What one turn reads from the socket at most.
const FILL_BYTES_MAX: usize = 512 * 1024;
const SCRATCH_BYTES: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

struct State {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Plain bytes for h2; `input[..read]` is taken.
    input: Vec<u8>,
    read: usize,
    /// Plain bytes from h2.
    output: Vec<u8>,
    /// Bytes for the socket when there is TLS.
    cipher: Vec<u8>,
    /// How much of what goes to the socket is sent.
    sent: usize,
    /// The server has said something.
    heard: bool,
    ended: bool,
}

/// A shared handle: h2 owns one as its transport, the connection's task the other.
#[derive(Clone)]
pub struct Pipe(Rc<RefCell<State>>);

impl Pipe {
    /// A pipe over a connected socket; with `tls`, its handshake happens in the first turns.
    pub fn new(stream: TcpStream, tls: Option<ClientConnection>) -> Self {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None); // flow control bounds what h2 writes
            Box::new(tls)
        });
        Self(Rc::new(RefCell::new(State {
            stream,
            tls,
            input: Vec::new(),
            read: 0,
            output: Vec::new(),
            cipher: Vec::new(),
            sent: 0,
            heard: false,
            ended: false,
        })))
    }

    /// Reads what the socket has. True when there may be more and the next turn should begin at once; otherwise
    /// the task is registered to be woken.
    ///
    /// # Errors
    /// The socket's, or TLS's.
    pub fn fill(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.0.borrow_mut().fill(cx)
    }

    /// Whether the server has said anything, TLS's handshake aside.
    pub fn has_heard(&self) -> bool {
        self.0.borrow().heard
    }

    /// Sends what h2 wrote; what does not fit stays, and the task is registered to be woken.
    ///
    /// # Errors
    /// The socket's.
    pub fn push(&self, cx: &mut Context<'_>) -> io::Result<()> {
        self.0.borrow_mut().push(cx)
    }
}

impl State {
    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.read == self.input.len() {
            self.input.clear();
            self.read = 0;
        }
        let mut total = 0;
        while total < FILL_BYTES_MAX {
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, scratch) else {
                    return Ok(None);
                };
                let read = read?;
                match &mut self.tls {
                    None => self.input.extend_from_slice(&scratch[..read]),
                    Some(tls) => decrypt(tls, &scratch[..read], &mut self.input)?,
                }
                io::Result::Ok(Some(read))
            })?;
            match read {
                None => return Ok(false),
                Some(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Some(read) => {
                    total += read;
                    self.heard |= !self.input.is_empty();
                }
            }
        }
        Ok(true)
    }

    fn push(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.output.is_empty() && !tls.is_handshaking() {
                tls.writer().write_all(&self.output)?;
                self.output.clear();
            }
            while tls.wants_write() {
                tls.write_tls(&mut self.cipher)?;
            }
        }
        let out = if self.tls.is_some() { &mut self.cipher } else { &mut self.output };
        while self.sent < out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &out[self.sent..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(sent) => self.sent += sent?,
            }
        }
        out.clear();
        self.sent = 0;
        Ok(())
    }
}

fn decrypt(tls: &mut ClientConnection, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes)?;
        tls.process_new_packets().map_err(io::Error::other)?;
        match tls.reader().read_to_end(plain) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl tokio::io::AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        let waiting = &state.input[state.read..];
        if waiting.is_empty() {
            return if state.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let taken = waiting.len().min(into.remaining());
        into.put_slice(&waiting[..taken]);
        state.read += taken;
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let output = &mut self.0.borrow_mut().output;
        let before = output.len();
        slices.iter().for_each(|slice| output.extend_from_slice(slice));
        Poll::Ready(Ok(output.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
