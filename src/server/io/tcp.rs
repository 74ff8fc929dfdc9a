//! An accepted TCP connection, which sends from several places with one system call.
//!
//! Unsafe: `sendmsg`, which glommio does not offer.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

/// glommio's stream, with writes of several slices.
pub struct Tcp(TcpStream);

impl Tcp {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// What the socket takes now of `slices`, one behind the other.
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: a msghdr of zeros is a valid one without any buffers.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // The kernel only reads what the slices point to.
        message.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_iovlen = slices.len().min(libc::UIO_MAXIOV as usize);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: IoSlice has the layout of iovec (std guarantees it), the slices outlive the call, and the message
        // names as many of them as there are, at most.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.len() > 1 {
            match self.send_now(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
        // One slice, or a full socket: glommio tries it and waits.
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        Pin::new(&mut self.0).poll_write(cx, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use futures::io::AsyncWriteExt;

    use crate::server::io::socket;

    #[test]
    fn slices_arrive_in_order_and_whole_however_many_they_are_and_however_slowly_they_are_read() {
        const SLICES: usize = 3000; // more than one call takes
        let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listening.local_addr().unwrap();
        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            std::net::TcpStream::connect(address).unwrap().read_to_end(&mut read).unwrap();
            read
        });
        let content: Vec<Vec<u8>> = (0..SLICES).map(|n| vec![n as u8; n % 7 * 1000]).collect();
        let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(8);
        builder.make().unwrap().run(async {
            let stream = socket::accept_on(listening).accept().await.unwrap();
            socket::tune(&stream).unwrap();
            let mut tcp = Tcp::new(stream);
            let mut left: Vec<IoSlice<'_>> = content.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut left = &mut left[..];
            while left.iter().any(|slice| !slice.is_empty()) {
                let sent = tcp.write_vectored(left).await.unwrap();
                assert!(sent > 0);
                IoSlice::advance_slices(&mut left, sent);
            }
            tcp.close().await.unwrap();
        });
        assert!(reader.join().unwrap() == content.concat());
    }
}
