//! A connection to the client port of a server, and calls with one answer.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use h2::client::{ResponseFuture, SendRequest};
use h2::{PingPong, RecvStream, SendStream};
use http::header::HeaderValue;
use http::{Request, StatusCode};
use prost::Message;
use tokio::io::ReadBuf;

use super::answers::{Answers, Keepalive, data};
use super::frame::{self, Failure, MESSAGE_BYTES_MAX, framed};
use crate::config::Url;
use crate::server::io::{clock, dial, task};
use crate::server::peers::stream::Stream;
use crate::server::tls::{Ports, handshake};
use crate::stdx::time::Duration;

/// The protocol that TLS is to agree upon.
const PROTOCOL: &[u8] = b"h2";
/// The header in which a token says who calls.
const TOKEN: &str = "token";

/// A connection to the client port of a server. Lives on an executor.
pub struct Client {
    sender: SendRequest<Bytes>,
    origin: String,
    token: Option<HeaderValue>,
    ping: Option<PingPong>,
}

impl Client {
    /// Connects within so much time. `ports` has what secures connections that are dialled.
    ///
    /// # Errors
    /// When nobody answers there, or somebody who is not to be trusted.
    pub async fn dial(url: &Url, ports: &Ports, within: Duration) -> Result<Self, Failure> {
        let connecting = async {
            let stream = stream(url, ports, within).await?;
            h2::client::handshake(Pipe(stream)).await.map_err(io::Error::other)
        };
        let connected = task::until(clock::now() + within, connecting).await;
        let (sender, mut connection) =
            connected.ok_or_else(|| Failure::lost("i/o timeout"))?.map_err(Failure::lost)?;
        let ping = connection.ping_pong();
        task::spawn(async move {
            // Whoever calls hears of the end.
            let _ = connection.await;
        });
        Ok(Self { sender, origin: url.to_string(), token: None, ping })
    }

    /// Says in each call who calls, by a token that the server has given.
    ///
    /// # Errors
    /// When the token can't be sent.
    pub fn identify(&mut self, token: &str) -> Result<(), Failure> {
        let value = HeaderValue::from_str(token).map_err(Failure::lost)?;
        self.token = Some(value);
        Ok(())
    }

    /// Calls the method at `path`, which has so much time for its answer.
    ///
    /// # Errors
    /// What the server refuses the call with, or why there is no answer.
    pub async fn call<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        within: Duration,
    ) -> Result<A, Failure> {
        let exchange = async {
            let (answer, _) = self.ask(path, request, true).await?;
            read(opened(answer).await?).await
        };
        let answer = task::until(clock::now() + within, exchange).await;
        let message = answer.ok_or_else(|| Failure::lost("context deadline exceeded"))??;
        A::decode(message).map_err(Failure::lost)
    }

    /// Calls a method at `path` that answers again and again; the first sign of that has to come within so much time.
    /// Where `keepalive` has a time, a server that is silent for so long has to answer a ping within the other.
    ///
    /// # Errors
    /// What the server refuses the call with, or why there is no answer.
    pub async fn listen<A: Message + Default>(
        mut self,
        path: &str,
        request: &impl Message,
        within: Duration,
        (time, timeout): (Duration, Duration),
    ) -> Result<Answers<A>, Failure> {
        let beginning = async {
            let (answer, asking) = self.ask(path, request, false).await?;
            Ok::<_, Failure>((opened(answer).await?, asking))
        };
        let begun = task::until(clock::now() + within, beginning).await;
        let (body, asking) = begun.ok_or_else(|| Failure::lost("context deadline exceeded"))??;
        let ping = self.ping.take().filter(|_| !time.is_zero());
        Ok(Answers::new(body, asking, ping.map(|ping| (ping, Keepalive { time, timeout }))))
    }

    /// Sends a request, which is the only one of its call or may be followed by others.
    async fn ask(
        &self,
        path: &str,
        request: &impl Message,
        is_only: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let mut head = Request::post(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(Failure::lost)?;
        if let Some(token) = &self.token {
            head.headers_mut().insert(TOKEN, token.clone());
        }
        let mut sender = self.sender.clone().ready().await.map_err(Failure::lost)?;
        let (answer, mut asking) = sender.send_request(head, false).map_err(Failure::lost)?;
        asking.send_data(framed(&request.encode_to_vec()), is_only).map_err(Failure::lost)?;
        Ok((answer, asking))
    }
}

/// The body of an answer that begins well.
async fn opened(answer: ResponseFuture) -> Result<RecvStream, Failure> {
    let answer = answer.await.map_err(Failure::lost)?;
    frame::check(answer.headers())?;
    if answer.status() != StatusCode::OK {
        return Err(Failure::lost(format!("unexpected http status {}", answer.status())));
    }
    Ok(answer.into_body())
}

/// Reads an answer to its end: the only message in it.
async fn read(mut body: RecvStream) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(piece) = data(&mut body).await? {
        whole.extend_from_slice(&piece);
        if whole.len() > MESSAGE_BYTES_MAX {
            return Err(Failure::lost("the answer is too long"));
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(Failure::lost)? {
        frame::check(&trailers)?;
    }
    let message = frame::take(&mut whole)?.filter(|_| whole.is_empty());
    message.ok_or_else(|| Failure::lost("the answer cannot be read"))
}

/// Connects, with TLS where the URL asks for it.
async fn stream(url: &Url, ports: &Ports, within: Duration) -> io::Result<Stream> {
    let port = url.port().ok_or_else(|| io::Error::other(format!("{url} has no port")))?;
    let tcp = dial::dial(&url.host, port, None, within).await?;
    if !url.is_tls() {
        return Ok(Stream::Plain(tcp));
    }
    let (Some(port), Some(workers)) = (&ports.peer, &ports.peer_workers) else {
        return Err(io::Error::other(format!("{url} needs TLS, of which nothing was told (--cacert)")));
    };
    let Some(config) = port.live().client else {
        return Err(io::Error::other(format!("{url} needs TLS, which is not set up")));
    };
    let mut config = (*config).clone();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let stream = handshake::connect(workers, tcp, port.server_name(&url.host), Arc::new(config)).await?;
    Ok(Stream::Secure(Box::new(stream)))
}

/// A stream in the form that h2 takes.
struct Pipe(Stream);

impl tokio::io::AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, into.initialize_unfilled()))?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
