//! A call whose answers come one after the other.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use h2::{Ping, PingPong, RecvStream, SendStream};
use prost::Message;

use super::frame::{self, Failure};
use crate::server::io::{clock, task};
use crate::stdx::time::Duration;

/// When a server that is silent is asked whether it is there: after how long, and how long it has for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keepalive {
    pub(super) time: Duration,
    pub(super) timeout: Duration,
}

/// The answers to one call. Dropped, it ends the call.
pub struct Answers<A> {
    body: RecvStream,
    /// Bytes that are no whole message yet.
    come: BytesMut,
    ping: Option<(PingPong, Keepalive)>,
    /// The half of the stream in which more could be asked: the call goes on as long as it is open.
    _asking: SendStream<Bytes>,
    kind: PhantomData<A>,
}

impl<A: Message + Default> Answers<A> {
    pub(super) fn new(
        body: RecvStream,
        asking: SendStream<Bytes>,
        ping: Option<(PingPong, Keepalive)>,
    ) -> Self {
        Self { body, come: BytesMut::new(), ping, _asking: asking, kind: PhantomData }
    }

    /// The next answer, however long it takes, as long as the server is there.
    ///
    /// # Errors
    /// When the call has ended, or what has come cannot be read.
    pub async fn next(&mut self) -> Result<A, Failure> {
        loop {
            if let Some(message) = frame::take(&mut self.come)? {
                return A::decode(message).map_err(Failure::lost);
            }
            match self.piece().await? {
                Some(piece) => self.come.extend_from_slice(&piece),
                None => {
                    if let Some(trailers) = self.body.trailers().await.map_err(Failure::lost)? {
                        frame::check(&trailers)?;
                    }
                    return Err(Failure::lost("the server has ended the call"));
                }
            }
        }
    }

    /// Some bytes; none at the end. A server that is silent for long has to answer a ping.
    async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some((ping, keepalive)) = &mut self.ping else { return data(&mut self.body).await };
        loop {
            let silent_until = clock::now() + keepalive.time;
            if let Some(piece) = task::until(silent_until, data(&mut self.body)).await {
                return piece;
            }
            let answered = task::until(clock::now() + keepalive.timeout, ping.ping(Ping::opaque())).await;
            let answered = answered.ok_or_else(|| Failure::lost("keepalive ping failed to receive ACK"))?;
            answered.map_err(Failure::lost)?;
        }
    }
}

/// Some bytes of a body; none at its end.
pub(super) async fn data(body: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    let piece = body.data().await.transpose().map_err(Failure::lost)?;
    if let Some(piece) = &piece {
        // A window that cannot be opened any more is that of a stream that has ended.
        let _ = body.flow_control().release_capacity(piece.len());
    }
    Ok(piece)
}
