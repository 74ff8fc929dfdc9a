//! A connection with another member, with or without TLS.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};

use super::switchboard::Own;
use crate::config::Url;
use crate::server::io::dial;
use crate::server::io::tcp::Tcp;
use crate::server::tls::handshake;
use crate::server::tls::stream::TlsStream;

/// A connection of either kind.
pub enum Stream {
    /// Bytes travel as they are.
    Plain(Tcp),
    /// Bytes travel sealed.
    Secure(Box<TlsStream>),
}

impl Stream {
    /// Connects, and shakes hands where the URL asks for it.
    ///
    /// # Errors
    /// When nobody answers there, or somebody who is not to be trusted.
    pub async fn dial(own: &Own, url: &Url) -> io::Result<Self> {
        let port = url.port().ok_or_else(|| io::Error::other("invalid port"))?;
        let tcp = dial::dial(&url.host, port, own.ports.local, own.dial_timeout).await?;
        if !url.is_tls() {
            return Ok(Self::Plain(tcp));
        }
        let untold = || {
            let why = format!("{url} needs TLS, of which this member was told nothing (--peer-cert-file)");
            io::Error::other(why)
        };
        let port = own.ports.peer.as_ref().ok_or_else(untold)?;
        let (Some(config), Some(workers)) = (port.live().client, &own.ports.peer_workers) else {
            return Err(untold());
        };
        let name = port.server_name(&url.host);
        handshake::connect(workers, tcp, name, config).await.map(|stream| Self::Secure(Box::new(stream)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            Self::Secure(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
