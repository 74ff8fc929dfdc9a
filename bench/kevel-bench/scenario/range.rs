//! Reads.
#![forbid(unsafe_code)]

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kevel::proto::etcdserverpb::{RangeRequest, RangeResponse};
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;
use prost::Message;

use super::{Outcomes, Scenario, Settings, fill};
use crate::calls::framed;
use crate::fields::{Fields, Value};
use crate::keys::{Draw, Spelling, prefix_end};
use crate::loader::{Done, Request, Source, Then};
use crate::phase::{Phase, World};
use crate::template::Template;

/// What `range` takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Range")]
pub struct RangeArgs {
    /// Read this key instead of drawn ones
    #[arg(long, value_name = "KEY", conflicts_with_all = ["prefix", "span"])]
    pub only: Option<String>,
    /// Read all keys with this prefix; empty for all keys
    #[arg(long, value_name = "PREFIX", conflicts_with = "span")]
    pub prefix: Option<String>,
    /// Read so many keys from each drawn one on
    #[arg(long, value_name = "N")]
    pub span: Option<u64>,
    /// Write all keys first
    #[arg(long)]
    pub fill: bool,
    #[command(flatten)]
    pub how: How,
}

/// How a range is asked for.
#[derive(Args, Clone, Debug, Default)]
pub struct How {
    /// From any member's present state, or from what all have agreed on
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    pub consistency: Consistency,
    /// Keys in an answer at most
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub limit: i64,
    /// Ask for page after page of --limit keys, at the first page's revision; an operation is all pages
    #[arg(long, requires = "limit")]
    pub paged: bool,
    /// Ask with RangeStream
    #[arg(long, conflicts_with = "paged")]
    pub stream: bool,
    /// Without values
    #[arg(long)]
    pub keys_only: bool,
    /// Only how many there are
    #[arg(long)]
    pub count_only: bool,
}

/// Consistency of reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Linearizable
    #[default]
    L,
    /// Serializable
    S,
}

impl Scenario for RangeArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let mut outcomes = Vec::new();
        if self.fill {
            outcomes.push(fill::prepare(settings, world)?);
        }
        let connections = settings.connections(1);
        let args = self.clone();
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| {
            RangeSource::new(&args, &settings.spelling, settings.draw(at, connections))
        });
        let phase = Phase { name: "range".into(), classes: vec!["range"], jobs, bounds: settings.bounds() };
        outcomes.push(world.run(phase)?);
        Ok(outcomes)
    }
}

/// What is asked for.
enum Ask {
    /// Always the same.
    Fixed(Bytes),
    /// One drawn key.
    Key(Template),
    /// So many keys from a drawn one on.
    Span(u64, RangeRequest),
}

/// Where an operation stands.
#[derive(Clone, Default)]
struct Progress {
    keys: u64,
    /// The next page.
    next: Option<RangeRequest>,
}

/// Reads ranges.
pub struct RangeSource {
    ask: Ask,
    spelling: Spelling,
    draw: Draw,
    method: Method,
    /// The first page, if there are pages.
    paged: Option<RangeRequest>,
    clients: Vec<Progress>,
}

impl RangeSource {
    /// A source of reads.
    pub fn new(args: &RangeArgs, spelling: &Spelling, draw: Draw) -> Self {
        let how = &args.how;
        let mut request = RangeRequest {
            limit: how.limit,
            serializable: how.consistency == Consistency::S,
            keys_only: how.keys_only,
            count_only: how.count_only,
            ..Default::default()
        };
        let mut paged = None;
        let ask = if let Some(key) = &args.only {
            request.key = key.clone().into();
            Ask::Fixed(framed(&request))
        } else if let Some(prefix) = &args.prefix {
            // An empty key is none at all: all keys begin at the least there is.
            request.key = if prefix.is_empty() { vec![0].into() } else { prefix.clone().into() };
            request.range_end = prefix_end(prefix.as_bytes()).into();
            paged = how.paged.then(|| request.clone());
            Ask::Fixed(framed(&request))
        } else if let Some(span) = args.span {
            Ask::Span(span, request)
        } else {
            let mut template = Template::range(spelling.size(), request);
            template.fix_key(&spelling.key(0));
            Ask::Key(template)
        };
        let method = if how.stream { Method::RangeStream } else { Method::Range };
        Self { ask, spelling: spelling.clone(), draw, method, paged, clients: Vec::new() }
    }

    /// A read.
    pub fn range(&mut self) -> Request {
        let message = match &mut self.ask {
            Ask::Fixed(message) => message.clone(),
            Ask::Key(template) => {
                let number = self.draw.draw();
                template.make(|key, _| self.spelling.write(number, key))
            }
            Ask::Span(span, request) => {
                let first = self.draw.draw();
                request.key = self.spelling.key(first).into();
                request.range_end = self.spelling.key(first.saturating_add(*span)).into();
                framed(request)
            }
        };
        Request { method: self.method, message }
    }
}

impl Source for RangeSource {
    fn next(&mut self, client: usize, _intended: Instant) -> Option<Request> {
        if self.clients.len() <= client {
            self.clients.resize(client + 1, Progress::default());
        }
        self.clients[client] = Progress::default();
        Some(self.range())
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        let progress = &mut self.clients[client];
        if let Some(first) = &self.paged {
            let Ok(page) = RangeResponse::decode(message.clone()) else { return };
            progress.keys += page.kvs.len() as u64;
            progress.next = page.kvs.last().filter(|_| page.more).map(|last| {
                let mut key = last.key.to_vec();
                key.push(0);
                let revision = page.header.map_or(0, |header| header.revision);
                let revision = progress.next.as_ref().map_or(revision, |before| before.revision);
                RangeRequest { key: key.into(), revision, ..first.clone() }
            });
        } else if self.method == Method::RangeStream {
            progress.keys += keys(Fields(message).bytes(RANGE_RESPONSE));
        } else {
            progress.keys += keys(message);
        }
    }

    fn on_success(&mut self, client: usize) -> Then {
        let progress = &self.clients[client];
        match &progress.next {
            Some(next) => Then::Request(Request { method: self.method, message: framed(next) }),
            None => Then::Done(Done { class: 0, keys: progress.keys }),
        }
    }
}

/// The field of a RangeStreamResponse that holds the range's answer.
const RANGE_RESPONSE: u64 = 1;
/// The field of a RangeResponse that holds a pair.
const KVS: u64 = 2;

/// Pairs in an encoded RangeResponse.
fn keys(answer: &[u8]) -> u64 {
    Fields(answer).filter(|(number, value)| *number == KVS && matches!(value, Value::Bytes(_))).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Choice;
    use kevel::proto::etcdserverpb::ResponseHeader;
    use kevel::proto::mvccpb::KeyValue;
    use kevel::server::grpc::frame::HEAD_BYTES;

    fn sent(request: &Request) -> RangeRequest {
        RangeRequest::decode(request.message.slice(HEAD_BYTES..)).expect("a range")
    }

    #[test]
    fn pages_go_on_behind_the_last_key_at_the_first_pages_revision() {
        let args = RangeArgs {
            prefix: Some("a".into()),
            how: How { limit: 2, paged: true, ..How::default() },
            ..RangeArgs::default()
        };
        let spelling = Spelling::new("", 8, 10).expect("fits");
        let mut source = RangeSource::new(&args, &spelling, Draw::new(Choice::Uniform, 1.0, 10, 0, 1, 0));
        let first = sent(&source.next(0, Instant::default()).expect("endless"));
        assert_eq!((first.key.as_ref(), first.range_end.as_ref(), first.revision), (&b"a"[..], &b"b"[..], 0));
        let mut page = RangeResponse {
            header: Some(ResponseHeader { revision: 5, ..Default::default() }),
            kvs: vec![KeyValue { key: "a1".into(), ..Default::default() }; 2],
            more: true,
            count: 3,
        };
        for _ in 0..2 {
            source.on_message(0, &page.encode_to_vec().into());
            let Then::Request(request) = source.on_success(0) else { panic!("there is more") };
            let next = sent(&request);
            assert_eq!((next.key.as_ref(), next.revision, next.limit), (&b"a1\0"[..], 5, 2));
            page.header = Some(ResponseHeader { revision: 9, ..Default::default() });
        }
        page.more = false;
        source.on_message(0, &page.encode_to_vec().into());
        assert!(matches!(source.on_success(0), Then::Done(Done { class: 0, keys: 6 })));
    }
}
