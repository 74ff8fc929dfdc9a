//! Transcripts: what a client says, and what it is answered.
//!
//! ```text
//!   > Put key: "a" value: "1"                       a unary call, its request as protobuf text
//!   > Watch w create_request { key: "a" }           a message on the stream named w, which it opens
//!   > end w                                         the client ends its side of the stream
//!   > wait 5                                        the member's clock goes on by so many seconds
//!     header { revision: 2 }                        what comes back: messages, or the code and text of an error
//! ```
//!
//! Ids of the cluster and the member and the term are left out of headers, so that the same lines are true of every
//! member.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::task::Poll;

use bytes::Bytes;
use prost::Message;
use prost_reflect::text_format::FormatOptions;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage, Value};

use super::client::{Call, Client, Ended};
use super::member::Member;
use crate::server::call::status::Code;
use crate::server::io::task;
use crate::stdx::time::Duration;

/// Turns after which a member that has something to say has said it.
const QUIET_TURNS: u32 = 60;
/// Longest line of an answer that is not broken into several.
const LINE_MAX: usize = 100;

/// Plays the transcript of that name. It fails where the answers differ, and with `UPDATE` set writes them anew.
pub fn play(name: &str) {
    let path = format!("{}/src/server/api/testdata/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let expected = std::fs::read_to_string(&path).expect("a transcript");
    let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(128);
    let played = builder.make().expect("an executor").run(replay(&expected));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &played).expect("a transcript is written");
    } else {
        assert!(played == expected, "{path} says\n{expected}\nand the member\n{played}");
    }
}

/// The transcript with the answers that a new member gives.
async fn replay(text: &str) -> String {
    let quota = text.lines().find_map(|line| line.strip_prefix("# quota ")?.parse().ok());
    let mut player = Player::start(quota).await;
    let mut played = String::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        writeln!(played, "{line}").expect("memory");
        if let Some(command) = line.strip_prefix("> ") {
            for said in player.command(command).await.lines() {
                writeln!(played, "  {said}").expect("memory");
            }
        }
    }
    played
}

struct Player {
    member: Member,
    client: Client,
    pool: DescriptorPool,
    streams: BTreeMap<String, (MethodDescriptor, Call)>,
}

impl Player {
    async fn start(quota: Option<u64>) -> Self {
        let folder = format!("{}/proto/etcd", env!("CARGO_MANIFEST_DIR"));
        let files = protox::compile(["rpc.proto", "health.proto"], [folder]).expect("our protocol compiles");
        let pool = DescriptorPool::from_file_descriptor_set(files).expect("our protocol is whole");
        let member = Member::start(quota).await;
        let client = Client::new(member.connect()).await;
        Self { member, client, pool, streams: BTreeMap::new() }
    }

    async fn command(&mut self, command: &str) -> String {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "wait" => {
                let seconds = rest.parse().expect("seconds");
                self.member.now.set(self.member.now.get() + Duration::from_secs(seconds));
                // A question wakes the replica, which then sees that time has passed.
                drop(self.call(&self.method("LeaseTimeToLive"), "").await);
                self.news().await
            }
            "end" => {
                self.streams.get_mut(rest).expect("a stream of that name").1.finish();
                self.news().await
            }
            _ => {
                let method = self.method(word);
                if method.is_client_streaming() {
                    self.say(method, rest).await;
                    return self.news().await;
                }
                let answer = self.call(&method, rest).await;
                answer + &self.news().await
            }
        }
    }

    fn method(&self, name: &str) -> MethodDescriptor {
        let methods = self.pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let mut named = methods.filter(|method| method.name() == name || method.full_name() == name);
        named.next().unwrap_or_else(|| panic!("no method {name}"))
    }

    async fn open(&self, method: &MethodDescriptor) -> Call {
        self.client.open(&format!("/{}/{}", method.parent_service().full_name(), method.name())).await
    }

    /// A call with one message, and all that is answered.
    async fn call(&self, method: &MethodDescriptor, text: &str) -> String {
        let mut call = self.open(method).await;
        call.send(&message(method, text), true);
        let mut said = String::new();
        while let Some(answer) = call.next().await {
            said += &shown("", method, answer);
        }
        said + &call.ended.as_ref().map_or_else(String::new, |ended| error("", ended))
    }

    /// A message on a named stream, which it opens if need be.
    async fn say(&mut self, method: MethodDescriptor, rest: &str) {
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        if !self.streams.contains_key(name) {
            let call = self.open(&method).await;
            self.streams.insert(name.to_owned(), (method.clone(), call));
        }
        let (_, call) = self.streams.get_mut(name).expect("opened above");
        call.send(&message(&method, text), false);
    }

    /// What has come on the streams.
    async fn news(&mut self) -> String {
        for _ in 0..QUIET_TURNS {
            task::yield_now().await;
        }
        let (mut said, mut over) = (String::new(), Vec::new());
        for (name, (method, call)) in &mut self.streams {
            let prefix = format!("{name}: ");
            while let Some(answer) = now(call.next()).await.flatten() {
                said += &shown(&prefix, method, answer);
            }
            if let Some(ended) = &call.ended {
                let text = error(&prefix, ended);
                said += if text.is_empty() { format!("{prefix}OK\n") } else { text }.as_str();
                over.push(name.clone());
            }
        }
        over.iter().for_each(|name| drop(self.streams.remove(name)));
        said
    }
}

/// What a future is ready with at once.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The bytes of a request. Text in angle brackets is bytes in hexadecimal, which need be no message.
fn message(method: &MethodDescriptor, text: &str) -> Vec<u8> {
    if let Some(digits) = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
        let pairs = digits.split_whitespace();
        return pairs.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect();
    }
    let parsed = DynamicMessage::parse_text_format(method.input(), text);
    parsed.unwrap_or_else(|error| panic!("{text}: {error}")).encode_to_vec()
}

/// An answer as text.
fn shown(prefix: &str, method: &MethodDescriptor, answer: Bytes) -> String {
    let mut answer = DynamicMessage::decode(method.output(), answer).expect("an answer decodes");
    forget_identity(&mut answer);
    let line = answer.to_text_format_with_options(&FormatOptions::new());
    let text = if line.len() > LINE_MAX {
        answer.to_text_format_with_options(&FormatOptions::new().pretty(true))
    } else {
        line
    };
    if text.is_empty() {
        return format!("{prefix}(empty)\n");
    }
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}

/// Takes ids and term out of headers.
fn forget_identity(message: &mut DynamicMessage) {
    if message.descriptor().name() == "ResponseHeader" {
        for name in ["cluster_id", "member_id", "raft_term"] {
            message.clear_field_by_name(name);
        }
    }
    for (_, value) in message.fields_mut() {
        forget_in(value);
    }
}

fn forget_in(value: &mut Value) {
    match value {
        Value::Message(message) => forget_identity(message),
        Value::List(values) => values.iter_mut().for_each(forget_in),
        _ => {}
    }
}

/// How a call ended, unless it ended well.
fn error(prefix: &str, ended: &Ended) -> String {
    if ended.code == "0" {
        return String::new();
    }
    let code = Code::ALL.iter().find(|code| code.digits() == ended.code);
    let code = code.map_or_else(|| ended.code.clone(), |code| format!("{code:?}"));
    format!("{prefix}{code}: {}\n", ended.text)
}
