//! Calls to servers of h2 that answer, refuse, go on, or hear nothing any more.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use http::{HeaderMap, Response};
use prost::Message;

use super::frame::framed;
use super::*;
use crate::config::Url;
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::server::io::{clock, executor, task};
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

const WITHIN: Duration = Duration::from_secs(5);

/// What a server does behind its messages.
#[derive(Clone, Copy)]
enum Ending {
    /// It ends the call with this status.
    Status(&'static str),
    /// It leaves the call open.
    Open,
    /// It hears nothing any more, and no ping either.
    Deaf,
}

/// A server that answers each call of one connection with messages that count up to `count`, and then ends it.
fn server(count: i64, ending: Ending) -> Url {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(count, ending, tell));
    });
    Url::parse(&format!("http://{}", told.recv().unwrap())).unwrap()
}

async fn serve(count: i64, ending: Ending, tell: mpsc::Sender<SocketAddr>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let mut open = Vec::new();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut answers = respond.send_response(head, false).unwrap();
        for count in 1..=count {
            let message = RangeResponse { count, ..RangeResponse::default() };
            answers.send_data(framed(&message.encode_to_vec()), false).unwrap();
        }
        match ending {
            Ending::Status(code) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.parse().unwrap());
                trailers.insert("grpc-message", "why".parse().unwrap());
                answers.send_trailers(trailers).unwrap();
            }
            Ending::Open => open.push(answers),
            Ending::Deaf => {
                let flushed = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
                assert!(flushed.is_err());
                thread::sleep(WITHIN);
            }
        }
    }
}

/// Runs a test on an executor, which ends with it.
fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    executor::spawn("client", None, 64, test).unwrap().join().unwrap();
}

async fn dial(url: &Url) -> Client {
    Client::dial(url, &Ports::none(), WITHIN).await.unwrap()
}

async fn call(client: &Client) -> Result<i64, Failure> {
    let answer = client.call::<RangeResponse>("/a/B", &RangeRequest::default(), WITHIN).await;
    answer.map(|answer| answer.count)
}

async fn listen(url: &Url, ping: Duration) -> Answers<RangeResponse> {
    dial(url).await.listen("/a/B", &RangeRequest::default(), WITHIN, (ping, ping)).await.unwrap()
}

#[test]
fn a_call_has_one_answer_or_a_reason() {
    run(|| async {
        let client = dial(&server(1, Ending::Status("0"))).await;
        assert_eq!(call(&client).await, Ok(1));
        assert_eq!(call(&client).await, Ok(1));
        let refused = Failure { code: Some(7), text: "why".into() };
        assert_eq!(call(&dial(&server(0, Ending::Status("7"))).await).await, Err(refused));
        for count in [0, 2] {
            let unread = call(&dial(&server(count, Ending::Status("0"))).await).await.unwrap_err();
            assert_eq!(unread, Failure::lost("the answer cannot be read"));
        }
        let client = dial(&server(1, Ending::Open)).await;
        let soon = Duration::from_millis(50);
        let late = client.call::<RangeResponse>("/a/B", &RangeRequest::default(), soon).await;
        assert_eq!(late.unwrap_err(), Failure::lost("context deadline exceeded"));
    });
}

#[test]
fn answers_come_one_by_one_until_the_call_ends() {
    run(|| async {
        let mut answers = listen(&server(2, Ending::Status("0")), Duration::ZERO).await;
        assert_eq!(answers.next().await.unwrap().count, 1);
        assert_eq!(answers.next().await.unwrap().count, 2);
        assert_eq!(answers.next().await.unwrap_err(), Failure::lost("the server has ended the call"));
        let mut answers = listen(&server(0, Ending::Status("11")), Duration::ZERO).await;
        assert_eq!(answers.next().await.unwrap_err(), Failure { code: Some(11), text: "why".into() });
    });
}

#[test]
fn a_server_that_is_silent_has_to_answer_pings() {
    run(|| async {
        let ping = Duration::from_millis(20);
        let mut answers = listen(&server(1, Ending::Open), ping).await;
        assert_eq!(answers.next().await.unwrap().count, 1);
        let next = task::until(clock::now() + 10 * ping, answers.next()).await;
        assert!(next.is_none(), "it is silent, and there");
        let mut answers = listen(&server(1, Ending::Deaf), Duration::from_millis(300)).await;
        assert_eq!(answers.next().await.unwrap().count, 1);
        let lost = Failure::lost("keepalive ping failed to receive ACK");
        assert_eq!(answers.next().await.unwrap_err(), lost);
    });
}
