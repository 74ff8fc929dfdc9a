//! Kubernetes' writes: put if the key is as known, read it otherwise.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use bytes::Bytes;
use clap::Args;
use kevel::stdx::time::Instant;

use super::{Outcomes, Scenario, Settings};
use crate::keys::{Draw, Spelling};
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::phase::{Phase, World};

/// What `txn` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Txn")]
pub struct TxnArgs {
    /// Write again after a conflict, until it succeeds; an operation is all attempts
    #[arg(long)]
    pub retry: bool,
}

impl Scenario for TxnArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let connections = settings.connections(1);
        let retry = self.retry;
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| {
            TxnSource::new(settings, settings.draw(at, connections), retry)
        });
        let phase = Phase {
            name: "txn".into(),
            classes: vec!["written", "conflict"],
            jobs,
            bounds: settings.bounds(),
        };
        Ok(vec![world.run(phase)?])
    }
}

/// Writes keys as they are drawn. What one connection knows of a key, another may have made old.
struct TxnSource {
    draw: Draw,
    spelling: Spelling,
    values: Values,
    /// Mod revisions by key number.
    known: HashMap<u64, i64>,
    /// By client: its key, its planned begin and its last answer.
    clients: Vec<(u64, Instant, Answer)>,
    retry: bool,
}

impl TxnSource {
    fn new(settings: &Settings, draw: Draw, retry: bool) -> Self {
        let keys = &settings.common.keys;
        Self {
            draw,
            spelling: settings.spelling.clone(),
            values: Values::new(keys.val_size as usize, keys.seed, settings.nonce),
            known: HashMap::new(),
            clients: Vec::new(),
            retry,
        }
    }

    fn request(&self, number: u64, at: Instant) -> Request {
        let known = self.known.get(&number).copied().unwrap_or(0);
        optimistic::put(self.spelling.key(number).into(), self.values.make(at), 0, known)
    }
}

impl Source for TxnSource {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let number = self.draw.draw();
        if self.clients.len() <= client {
            self.clients.resize(client + 1, (0, intended, Answer::Conflict(0)));
        }
        self.clients[client] = (number, intended, Answer::Conflict(0));
        Some(self.request(number, intended))
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        let (number, _, answer) = &mut self.clients[client];
        *answer = Answer::read(message);
        // Answers of one connection may overtake each other: a key only gets younger.
        let known = self.known.entry(*number).or_insert(0);
        *known = (*known).max(answer.revision());
    }

    fn on_success(&mut self, client: usize) -> Then {
        let (number, intended, answer) = self.clients[client];
        match answer {
            Answer::Conflict(_) if self.retry => Then::Request(self.request(number, intended)),
            Answer::Conflict(_) => Then::Done(Done { class: 1, keys: 1 }),
            Answer::Written(_) => Then::Done(Done { class: 0, keys: 1 }),
        }
    }
}
