//! Unary gRPC calls to a member, for commands that have to ask one.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::ReadBuf;

use crate::config::Url;
use crate::server::io::{clock, dial, task};
use crate::server::peers::stream::Stream;
use crate::server::tls::{Ports, handshake};
use crate::stdx::time::Duration;

/// How long a connection may take to be made.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// How long a call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What stands in front of a message: whether it is packed, and its length.
const PREFIX_BYTES: usize = 5;
/// The protocol that TLS is to agree upon.
const PROTOCOL: &[u8] = b"h2";

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The code of gRPC; none where the member did not answer the call.
    pub(super) code: Option<u32>,
    /// What the member says, or what has happened.
    pub(super) text: String,
}

impl Failure {
    fn lost(why: impl ToString) -> Self {
        Self { code: None, text: why.to_string() }
    }
}

/// A connection to the client port of a member. Lives on an executor.
pub(super) struct Client {
    sender: SendRequest<Bytes>,
    origin: String,
}

impl Client {
    /// Connects. `ports` has what secures connections that are dialled.
    ///
    /// # Errors
    /// When nobody answers there, or somebody who is not to be trusted.
    pub(super) async fn dial(url: &Url, ports: &Ports) -> Result<Self, Failure> {
        let connecting = async {
            let stream = stream(url, ports).await?;
            h2::client::handshake(Pipe(stream)).await.map_err(io::Error::other)
        };
        let connected = task::until(clock::now() + DIAL_WITHIN, connecting).await;
        let (sender, connection) =
            connected.ok_or_else(|| Failure::lost("i/o timeout"))?.map_err(Failure::lost)?;
        task::spawn(async move {
            // Whoever calls hears of the end.
            let _ = connection.await;
        });
        Ok(Self { sender, origin: url.to_string() })
    }

    /// Calls the method at `path`.
    ///
    /// # Errors
    /// What the member refuses the call with, or why there is no answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
    ) -> Result<A, Failure> {
        let exchange = self.exchange(path, request.encode_to_vec());
        let answer = task::until(clock::now() + CALL_WITHIN, exchange).await;
        let message = answer.ok_or_else(|| Failure::lost("i/o timeout"))??;
        A::decode(message).map_err(Failure::lost)
    }

    async fn exchange(&self, path: &str, message: Vec<u8>) -> Result<Bytes, Failure> {
        let request = Request::post(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(Failure::lost)?;
        let mut sender = self.sender.clone().ready().await.map_err(Failure::lost)?;
        let (answer, mut body) = sender.send_request(request, false).map_err(Failure::lost)?;
        body.send_data(framed(&message), true).map_err(Failure::lost)?;
        let answer = answer.await.map_err(Failure::lost)?;
        check(answer.headers())?;
        if answer.status() != http::StatusCode::OK {
            return Err(Failure::lost(format!("unexpected http status {}", answer.status())));
        }
        read(answer.into_body()).await
    }
}

/// Connects, with TLS where the URL asks for it.
async fn stream(url: &Url, ports: &Ports) -> io::Result<Stream> {
    let port = url.port().ok_or_else(|| io::Error::other(format!("{url} has no port")))?;
    let tcp = dial::dial(&url.host, port, None, DIAL_WITHIN).await?;
    if !url.is_tls() {
        return Ok(Stream::Plain(tcp));
    }
    let config = ports.peer.as_ref().and_then(|port| port.live().client);
    let (Some(config), Some(workers)) = (config, &ports.peer_workers) else {
        return Err(io::Error::other(format!("{url} needs TLS, of which nothing was told (--cacert)")));
    };
    let mut config = (*config).clone();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let stream = handshake::connect(workers, tcp, &url.host, Arc::new(config)).await?;
    Ok(Stream::Secure(Box::new(stream)))
}

/// A message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// Reads an answer to its end: the only message in it.
async fn read(mut body: RecvStream) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(Failure::lost)?;
        // A window that cannot be opened any more is that of a stream that has ended.
        let _ = body.flow_control().release_capacity(piece.len());
        whole.extend_from_slice(&piece);
        if whole.len() > ANSWER_BYTES_MAX {
            return Err(Failure::lost("the answer is too long"));
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(Failure::lost)? {
        check(&trailers)?;
    }
    unframed(whole.freeze()).ok_or_else(|| Failure::lost("the answer cannot be read"))
}

/// The only message of an answer.
fn unframed(mut answer: Bytes) -> Option<Bytes> {
    let prefix = answer.get(..PREFIX_BYTES)?;
    let (packed, length) = (prefix[0], u32::from_be_bytes(prefix[1..].try_into().ok()?));
    let message = answer.split_off(PREFIX_BYTES);
    (packed == 0 && message.len() == length as usize).then_some(message)
}

/// What headers or trailers say of the end of a call.
fn check(said: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| said.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let text = unescaped(text("grpc-message").unwrap_or_default());
            Err(Failure { code: code.parse().ok(), text })
        }
    }
}

/// A message as it was before gRPC escaped bytes in it: `%` and two hexadecimal digits stand for one.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped =
            digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_message_or_none() {
        assert_eq!(unframed(framed(b"abc")), Some(Bytes::from_static(b"abc")));
        assert_eq!(unframed(framed(b"")), Some(Bytes::new()));
        let two = [&framed(b"a")[..], &framed(b"b")].concat();
        for wrong in [&b""[..], &[0, 0, 0, 0], &[1, 0, 0, 0, 1, 7], &[0, 0, 0, 0, 2, 7], &two] {
            assert_eq!(unframed(Bytes::copy_from_slice(wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_a_member_refuses_is_told_with_its_code() {
        let mut said = HeaderMap::new();
        assert_eq!(check(&said), Ok(()));
        said.insert("grpc-status", "14".parse().unwrap());
        said.insert("grpc-message", "etcdserver: unhealthy cluster".parse().unwrap());
        let failure = Failure { code: Some(14), text: "etcdserver: unhealthy cluster".into() };
        assert_eq!(check(&said), Err(failure));
        said.insert("grpc-message", "50%25 of %22k%c3%bc%22, 5%, %2".parse().unwrap());
        assert_eq!(check(&said).unwrap_err().text, "50% of \"k\u{fc}\", 5%, %2");
        said.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(check(&said), Ok(()));
    }
}
