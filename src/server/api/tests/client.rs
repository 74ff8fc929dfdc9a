//! A client of one member: unary calls, and streams that stay open.
#![forbid(unsafe_code)]

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};

use super::pipe::End;
use crate::server::io::task;

/// A connection to a member.
pub struct Client(SendRequest<Bytes>);

/// What a call has ended with: the digits of its code and the text.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub code: String,
    pub text: String,
}

/// A call that is open.
pub struct Call {
    sends: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    head: HeaderMap,
    partial: BytesMut,
    /// Set once the call is over.
    pub ended: Option<Ended>,
}

impl Client {
    /// Shakes hands.
    pub async fn new(stream: End) -> Self {
        let (client, connection) = h2::client::handshake(stream).await.expect("a handshake");
        task::spawn(async move { drop(connection.await) });
        Self(client)
    }

    /// A client whose windows are zero, so it takes nothing of any answer.
    pub async fn stuck(stream: End) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0);
        let (client, connection) = builder.handshake(stream).await.expect("a handshake");
        task::spawn(async move { drop(connection.await) });
        Self(client)
    }

    /// Begins a call. `path` is `/service/method`.
    pub async fn open(&self, path: &str) -> Call {
        self.open_with(path, &[]).await
    }

    /// Begins a call with further fields in its head.
    pub async fn open_with(&self, path: &str, fields: &[(&str, &str)]) -> Call {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut ready = self.0.clone().ready().await.expect("a connection that stands");
        let (response, sends) = ready.send_request(request, false).expect("a stream");
        let (head, partial) = (HeaderMap::new(), BytesMut::new());
        Call { sends, response: Some(response), body: None, head, partial, ended: None }
    }
}

impl Call {
    /// Sends a message.
    pub fn send(&mut self, message: &[u8], ends: bool) {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        // A call that the member has ended takes no more.
        let _ = self.sends.send_data(framed.freeze(), ends);
    }

    /// Says that nothing more is sent.
    pub fn finish(&mut self) {
        let _ = self.sends.send_data(Bytes::new(), true);
    }

    /// The next message; none once the call is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            if self.ended.is_some() {
                return None;
            }
            if let Err(error) = self.receive().await {
                self.ended = Some(Ended { code: "-1".into(), text: error.to_string() });
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let head = self.partial.first_chunk::<5>()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.partial.len() < 5 + length {
            return None;
        }
        self.partial.advance(5);
        Some(self.partial.split_to(length).freeze())
    }

    async fn receive(&mut self) -> Result<(), h2::Error> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await?.into_parts();
            (self.head, self.body) = (head.headers, Some(body));
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        match body.data().await {
            Some(bytes) => {
                let bytes = bytes?;
                body.flow_control().release_capacity(bytes.len())?;
                self.partial.extend_from_slice(&bytes);
            }
            None => {
                let trailers = body.trailers().await?.unwrap_or_default();
                let find = |name: &str| {
                    let value = trailers.get(name).or_else(|| self.head.get(name));
                    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
                };
                self.ended = Some(Ended { code: find("grpc-status"), text: find("grpc-message") });
            }
        }
        Ok(())
    }
}
