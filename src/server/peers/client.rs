//! A connection to another member on which this one asks.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use futures::io::{AsyncRead, AsyncWriteExt};

use super::stream::Stream;
use super::switchboard::Own;
use crate::config::{ETCD_VERSION, Url};
use crate::peer::greeting;
use crate::server::http1::reply::{self, Body, Reply};
use crate::server::io::{clock, task};
use crate::stdx::time::Duration;

/// How long the other side may be silent, or take nothing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longest body of an answer that is read as a whole.
const BODY_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 * 1024;

/// A connection to another member.
pub struct Connection {
    stream: Stream,
    authority: String,
    /// Where the socket is read into.
    buffer: Box<[u8]>,
    /// What has come and is not taken yet.
    input: BytesMut,
}

/// What is asked.
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// The member that is to answer, where that is said.
    pub to: Option<u64>,
    /// Type and bytes of what is sent.
    pub content: Option<(&'static str, &'a [u8])>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn dial(own: &Own, url: &Url) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::dial(own, url).await?,
            authority: url.authority(),
            buffer: vec![0; READ_BYTES].into(),
            input: BytesMut::new(),
        })
    }

    /// Asks, and reads the head of the answer.
    ///
    /// # Errors
    /// When the other side goes, is silent for too long, or answers nonsense.
    pub async fn ask(&mut self, own: &Own, ask: &Ask<'_>) -> io::Result<Reply> {
        let mut bytes = head(own, &self.authority, ask).into_bytes();
        bytes.extend_from_slice(ask.content.map_or(&[][..], |(_, content)| content));
        in_time(self.stream.write_all(&bytes)).await?;
        loop {
            if let Some(reply) = reply::take_head(&mut self.input)? {
                return Ok(reply);
            }
            if in_time(self.read()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether a connection on which nothing is asked is as it was left: the other side has neither ended it nor said
    /// anything.
    pub async fn is_quiet(&mut self) -> bool {
        let Self { stream, buffer, input, .. } = self;
        let looked =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, buffer).is_pending())).await;
        input.is_empty() && looked
    }

    /// Begins a request whose body, of so many bytes, follows in [`Connection::write`]. The body of a snapshot may have
    /// a digest at its end.
    ///
    /// # Errors
    /// As [`Connection::write`].
    pub async fn begin(
        &mut self,
        own: &Own,
        ask: &Ask<'_>,
        kind: &str,
        bytes: u64,
        has_digest: bool,
    ) -> io::Result<()> {
        let mut head = head(own, &self.authority, ask);
        head.truncate(head.len() - "\r\n".len());
        if has_digest {
            let _ = write!(head, "{}: {}\r\n", greeting::DIGEST, greeting::SHA256);
        }
        let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n");
        self.write(head.as_bytes()).await
    }

    /// Sends a part of a body.
    ///
    /// # Errors
    /// When the other side goes, or takes nothing for too long.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time(self.stream.write_all(bytes)).await
    }

    /// Reads the head of the answer, however long the other side takes.
    ///
    /// # Errors
    /// When the other side goes, or answers nonsense.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = reply::take_head(&mut self.input)? {
                return Ok(reply);
            }
            if self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Hands what has come of a body to `take`, or waits for more of it.
    ///
    /// # Errors
    /// When the other side goes in the middle, is silent for too long, or sends nonsense.
    pub async fn read_body(&mut self, body: &mut Body, take: impl FnMut(&[u8])) -> io::Result<()> {
        let before = self.input.len();
        body.read(&mut self.input, take)?;
        if self.input.len() < before || *body == Body::Done {
            return Ok(());
        }
        if in_time(self.read()).await? > 0 {
            return Ok(());
        }
        if *body == Body::UntilEnd {
            *body = Body::Done;
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads a short body as a whole.
    ///
    /// # Errors
    /// When it is not short, or does not come.
    pub async fn read_whole(&mut self, mut body: Body) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while body != Body::Done {
            self.read_body(&mut body, |bytes| whole.extend_from_slice(bytes)).await?;
            if whole.len() > BODY_BYTES_MAX {
                return Err(io::Error::other("the body of an answer is too long"));
            }
        }
        Ok(whole)
    }

    async fn read(&mut self) -> io::Result<usize> {
        let Self { stream, buffer, input, .. } = self;
        let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut *buffer)).await?;
        input.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// Waits for the other side, but not for ever.
pub async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let timed_out = || Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"));
    task::until(clock::now() + PATIENCE, work).await.unwrap_or_else(timed_out)
}

/// The head of a request.
fn head(own: &Own, authority: &str, ask: &Ask<'_>) -> String {
    let mut head = String::with_capacity(512);
    let (id, cluster) = (own.member_id, own.cluster_id);
    let _ = write!(
        head,
        "{} {} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Kevel\r\n{}: {id:x}\r\n{}: {ETCD_VERSION}\r\n{}: {}\r\n\
         {}: {cluster:x}\r\n{}: {}\r\n{}: {}\r\n",
        ask.method,
        ask.path,
        greeting::SERVER_FROM,
        greeting::SERVER_VERSION,
        greeting::MIN_CLUSTER_VERSION,
        greeting::OLDEST_CLUSTER,
        greeting::CLUSTER_ID,
        greeting::PEER_URLS,
        own.peer_urls,
        greeting::TAKES_DIGEST,
        greeting::SHA256,
    );
    if let Some(to) = ask.to {
        let _ = write!(head, "{}: {to:x}\r\n", greeting::RAFT_TO);
    }
    if let Some((kind, content)) = ask.content {
        let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {}\r\n", content.len());
    }
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http1::head::parse;
    use crate::server::tls::Ports;

    #[test]
    fn a_request_says_what_etcd_wants_to_know() {
        let own = Own {
            member_id: 0xab,
            cluster_id: 0xcd,
            peer_urls: "http://a:1,http://b:2".into(),
            dial_timeout: PATIENCE,
            request_timeout: PATIENCE,
            message_bytes_max: 1 << 20,
            core: 1,
            ports: Ports::none(),
        };
        let ask = Ask { method: "POST", path: "/raft", to: Some(0xef), content: Some(("x/y", b"hello")) };
        let head = head(&own, "h:2380", &ask);
        let read = parse(head.as_bytes()).unwrap();
        assert_eq!(
            (&*read.method, &*read.target, &*read.host, read.body_bytes),
            ("POST", "/raft", "h:2380", 5)
        );
        for (name, value) in [
            ("X-Server-From", "ab"),
            ("X-Server-Version", ETCD_VERSION),
            ("X-Min-Cluster-Version", "3.0.0"),
            ("X-Etcd-Cluster-ID", "cd"),
            ("X-Raft-To", "ef"),
            ("X-PeerURLs", "http://a:1,http://b:2"),
        ] {
            assert_eq!(read.extension(name), Some(value), "{name}");
        }
    }
}
