//! Writes every key of the key space once.
#![forbid(unsafe_code)]

use bytes::Bytes;
use clap::Args;
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;

use super::{Outcomes, Scenario, Settings};
use crate::calls::framed;
use crate::keys::Spelling;
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::Values;
use crate::pace::Load;
use crate::phase::{Outcome, Phase, World};
use crate::run::Bounds;

const CLIENTS_DEFAULT: u32 = 64;
const CONNECTIONS_DEFAULT: u32 = 4;

/// What `fill` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fill")]
pub struct FillArgs {
    /// Keys per request: more than one go as a transaction, of which servers allow 128 unless told otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value_t = 1)]
    pub batch: u16,
}

impl Scenario for FillArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let bounds = Bounds {
            total: settings.common.load.total,
            duration: settings.common.load.duration,
            ..Bounds::default()
        };
        Ok(vec![fill(settings, world, u64::from(self.batch), bounds)?])
    }
}

/// Fills the key space before a scenario that reads it, unhurried by its pace and bounds.
///
/// # Errors
/// When it cannot begin, or some key could not be written.
pub fn prepare(settings: &Settings, world: &World) -> Result<Outcome, String> {
    let mut settings = settings.clone();
    let load = &mut settings.common.load;
    (load.rate, load.conns, load.clients) = (None, None, None);
    let outcome = fill(&settings, world, 1, Bounds::default())?;
    match outcome.record.errors.values().next() {
        Some((count, text)) => Err(format!("filling failed {count} times, at first: {text}")),
        None => Ok(outcome),
    }
}

fn fill(settings: &Settings, world: &World, batch: u64, bounds: Bounds) -> Result<Outcome, String> {
    let mut settings = settings.clone();
    settings.common.load.clients.get_or_insert(CLIENTS_DEFAULT);
    let connections = settings.connections(CONNECTIONS_DEFAULT);
    let load =
        if bounds.total.is_some() || bounds.duration.is_some() { settings.load() } else { Load::Closed };
    let jobs = settings.jobs(load, connections, move |settings, at| {
        let keys = &settings.common.keys;
        FillSource {
            spelling: settings.spelling.clone(),
            values: Values::new(keys.val_size as usize, keys.seed, settings.nonce),
            next: at as u64 * batch,
            step: connections as u64 * batch,
            batch,
            space: keys.key_space,
            sizes: Vec::new(),
        }
    });
    world.run(Phase { name: "fill".into(), classes: vec!["fill"], jobs, bounds })
}

/// Batches of keys, in turn with the other connections'.
struct FillSource {
    spelling: Spelling,
    values: Values,
    next: u64,
    step: u64,
    batch: u64,
    space: u64,
    /// By client: keys of its request.
    sizes: Vec<u64>,
}

impl Source for FillSource {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        if self.next >= self.space {
            return None;
        }
        let numbers = self.next..(self.next + self.batch).min(self.space);
        self.next += self.step;
        if self.sizes.len() <= client {
            self.sizes.resize(client + 1, 0);
        }
        self.sizes[client] = numbers.end - numbers.start;
        let put = |number| PutRequest {
            key: self.spelling.key(number).into(),
            value: self.values.make(intended),
            ..Default::default()
        };
        if self.batch == 1 {
            return Some(Request { method: Method::Put, message: framed(&put(numbers.start)) });
        }
        let success =
            numbers.map(|number| RequestOp { request: Some(Op::RequestPut(put(number))) }).collect();
        Some(Request { method: Method::Txn, message: framed(&TxnRequest { success, ..Default::default() }) })
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, client: usize) -> Then {
        Then::Done(Done { class: 0, keys: self.sizes[client] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Nonce;
    use kevel::server::grpc::frame::HEAD_BYTES;
    use prost::Message;

    #[test]
    fn connections_fill_every_key_once() {
        let mut keys = Vec::new();
        for at in 0..3 {
            let mut source = FillSource {
                spelling: Spelling::new("", 4, 100).expect("fits"),
                values: Values::new(4, 0, Nonce::new(0)),
                next: at * 7,
                step: 21,
                batch: 7,
                space: 100,
                sizes: Vec::new(),
            };
            while let Some(request) = source.next(0, Instant::default()) {
                let txn = TxnRequest::decode(request.message.slice(HEAD_BYTES..)).expect("a txn");
                assert_eq!(txn.success.len() as u64, source.sizes[0]);
                keys.extend(txn.success.into_iter().map(|op| match op.request {
                    Some(Op::RequestPut(put)) => put.key,
                    other => panic!("{other:?}"),
                }));
            }
        }
        keys.sort();
        let spelling = Spelling::new("", 4, 100).expect("fits");
        assert!(keys.iter().map(|key| key.to_vec()).eq((0..100).map(|number| spelling.key(number))));
    }
}
