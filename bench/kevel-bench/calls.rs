//! The calls in flight on one connection.
//!
//! A call is a number in a slab with h2's two halves of a stream. Nothing here awaits: the connection's turn looks
//! at the calls that rang ([`Ready`]) and hands what came to the [`Handler`].
#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Uri};
use kevel::server::grpc::frame::HEAD_BYTES;
use kevel::server::grpc::{Code, Method, Status};
use kevel::stdx::time::Instant;
use slab::Slab;

use crate::frame::{self, Assembler};
use crate::ready::Ready;

/// What a handler wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another turn at this instant at the latest.
    At(Instant),
    /// The connection is no longer needed.
    Done,
}

/// What decides on calls: one per connection. `tag` is what the handler gave the call.
pub trait Handler {
    /// The connection stands, for the first time or anew: nothing is in flight.
    fn on_connect(&mut self, now: Instant, calls: &mut Calls);
    /// A message came.
    fn on_message(&mut self, now: Instant, tag: u64, message: &Bytes, calls: &mut Calls);
    /// A call ended. When the connection breaks, each call in flight ends so.
    fn on_end(&mut self, now: Instant, tag: u64, result: Result<(), Status>, calls: &mut Calls);
    /// What came is handled; time to send.
    fn on_turn(&mut self, now: Instant, calls: &mut Calls) -> Next;
    /// The connection is gone and no other stands yet; nothing is in flight.
    fn on_lost(&mut self, now: Instant) -> Next;
    /// Whether the measured part may begin, as far as this connection is concerned.
    fn is_ready(&self) -> bool {
        true
    }
}

enum Incoming {
    Head(ResponseFuture),
    Body(RecvStream),
}

struct CallState {
    tag: u64,
    incoming: Incoming,
    assembler: Assembler,
    /// Open while we may still send: only streams of requests.
    outgoing: Option<SendStream<Bytes>>,
}

enum News {
    Nothing,
    Message(Bytes),
    End(Result<(), Status>),
}

/// The calls of one connection.
pub struct Calls {
    sender: SendRequest<Bytes>,
    calls: Slab<CallState>,
    calls_max: usize,
    ready: Arc<Ready>,
    link: Waker,
    /// By call number; made when first needed, and used again.
    wakers: Vec<Waker>,
    /// By method number.
    uris: Vec<Uri>,
    headers: HeaderMap,
    refused: Option<h2::Error>,
}

impl Calls {
    /// No calls yet, and never more than `calls_max` at once. `origin` is as in `http://127.0.0.1:2379`.
    pub fn new(sender: SendRequest<Bytes>, ready: Arc<Ready>, calls_max: usize, origin: &str) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert(
            "user-agent",
            HeaderValue::from_static(concat!("kevel-bench/", env!("CARGO_PKG_VERSION"))),
        );
        let uri =
            |method: &Method| format!("{origin}{}", method.path()).parse().expect("an endpoint's address");
        Self {
            sender,
            calls: Slab::with_capacity(calls_max.min(1024)),
            calls_max,
            link: ready.link_waker(),
            ready,
            wakers: Vec::new(),
            uris: Method::ALL.iter().map(uri).collect(),
            headers,
            refused: None,
        }
    }

    /// Whether another call may start now. If not, a turn follows as soon as one may.
    pub fn has_room(&mut self) -> bool {
        if self.calls.len() >= self.calls_max {
            return false;
        }
        match self.sender.poll_ready(&mut Context::from_waker(&self.link)) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                self.refused = Some(error);
                false
            }
            Poll::Pending => false,
        }
    }

    /// Starts a call of one framed message.
    pub fn unary(&mut self, method: Method, message: Bytes, tag: u64) {
        if let Some(call) = self.start(method, tag) {
            let state = &mut self.calls[call];
            if let Some(outgoing) = &mut state.outgoing {
                let _ = outgoing.send_data(message, true); // an error shows in the answer
            }
            state.outgoing = None;
        }
    }

    /// Starts a call whose messages come with [`Self::write`]. None when the connection is breaking.
    pub fn open(&mut self, method: Method, tag: u64) -> Option<usize> {
        self.start(method, tag)
    }

    /// Sends a framed message on an open call.
    pub fn write(&mut self, call: usize, message: Bytes) {
        if let Some(outgoing) = self.calls.get_mut(call).and_then(|state| state.outgoing.as_mut()) {
            let _ = outgoing.send_data(message, false); // an error shows in the answer
        }
    }

    fn start(&mut self, method: Method, tag: u64) -> Option<usize> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.uris[method as usize].clone();
        *request.headers_mut() = self.headers.clone();
        match self.sender.send_request(request, false) {
            Ok((response, outgoing)) => {
                let call = self.calls.insert(CallState {
                    tag,
                    incoming: Incoming::Head(response),
                    assembler: Assembler::default(),
                    outgoing: Some(outgoing),
                });
                assert!(call < self.calls_max, "callers ask has_room first");
                while self.wakers.len() <= call {
                    self.wakers.push(self.ready.call_waker(self.wakers.len()));
                }
                // h2 wakes only a call that was looked at.
                self.wakers[call].wake_by_ref();
                Some(call)
            }
            Err(error) => {
                self.refused = Some(error);
                None
            }
        }
    }

    /// Why h2 takes no more calls, once.
    pub fn take_refused(&mut self) -> Option<h2::Error> {
        self.refused.take()
    }

    /// Hands the news of one call to the handler.
    pub fn poll(&mut self, call: usize, now: Instant, handler: &mut dyn Handler) {
        while let Some(state) = self.calls.get_mut(call) {
            let tag = state.tag;
            match state.poll(&mut Context::from_waker(&self.wakers[call])) {
                News::Nothing => return,
                News::Message(message) => {
                    handler.on_message(now, tag, &message, self);
                    frame::recycle(message);
                }
                News::End(result) => {
                    self.calls.remove(call);
                    return handler.on_end(now, tag, result, self);
                }
            }
        }
    }

    /// Ends every call with `status`: the connection broke.
    pub fn abandon(&mut self, now: Instant, status: &Status, handler: &mut dyn Handler) {
        let calls: Vec<CallState> = self.calls.drain().collect();
        for state in calls {
            handler.on_end(now, state.tag, Err(status.clone()), self);
        }
    }
}

impl CallState {
    fn poll(&mut self, cx: &mut Context<'_>) -> News {
        if let Incoming::Head(response) = &mut self.incoming {
            let response = match Pin::new(response).poll(cx) {
                Poll::Pending => return News::Nothing,
                Poll::Ready(Err(error)) => return News::End(Err(broken(&error))),
                Poll::Ready(Ok(response)) => response,
            };
            let (parts, body) = response.into_parts();
            if parts.status != http::StatusCode::OK {
                return News::End(Err(Status::new(Code::Unknown, format!("HTTP status {}", parts.status))));
            }
            if parts.headers.contains_key("grpc-status") {
                return News::End(outcome(&parts.headers));
            }
            self.incoming = Incoming::Body(body);
        }
        let Incoming::Body(body) = &mut self.incoming else { unreachable!("just replaced") };
        loop {
            match self.assembler.take() {
                Ok(Some(message)) => return News::Message(message),
                Ok(None) => {}
                Err(status) => return News::End(Err(status)),
            }
            match body.poll_data(cx) {
                Poll::Pending => return News::Nothing,
                Poll::Ready(Some(Ok(chunk))) => {
                    let _ = body.flow_control().release_capacity(chunk.len()); // only fails beyond what was received
                    self.assembler.push(chunk);
                }
                Poll::Ready(Some(Err(error))) => return News::End(Err(broken(&error))),
                Poll::Ready(None) => break,
            }
        }
        match body.poll_trailers(cx) {
            Poll::Pending => News::Nothing,
            Poll::Ready(Ok(Some(trailers))) => News::End(outcome(&trailers)),
            Poll::Ready(Ok(None)) => {
                News::End(Err(Status::new(Code::Internal, "the stream ended without trailers")))
            }
            Poll::Ready(Err(error)) => News::End(Err(broken(&error))),
        }
    }
}

fn broken(error: &h2::Error) -> Status {
    Status::new(Code::Unavailable, format!("transport: {error}"))
}

/// What `grpc-status` and `grpc-message` say.
fn outcome(headers: &HeaderMap) -> Result<(), Status> {
    let number = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match number.and_then(|number| Code::ALL.get(number)) {
        Some(Code::Ok) => Ok(()),
        Some(&code) => {
            let message = headers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()));
            Err(Status::new(code, message.unwrap_or_default().into_owned()))
        }
        None => Err(Status::new(Code::Unknown, "no grpc-status that means anything")),
    }
}

/// A message with gRPC's five bytes before it.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests stay below 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_name_the_code() {
        let mut headers = HeaderMap::new();
        assert_eq!(outcome(&headers).expect_err("nothing said").code, Code::Unknown);
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(outcome(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no leader"));
        let status = outcome(&headers).expect_err("fourteen");
        assert_eq!((status.code, &*status.message), (Code::Unavailable, "etcdserver: no leader"));
    }
}
