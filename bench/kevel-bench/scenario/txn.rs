//! Kubernetes' writes: put if the key is as known, read it otherwise.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use clap::Args;
use kevel::stdx::time::Instant;

use super::{Outcomes, Scenario, Settings};
use crate::keys::{Draw, Spelling};
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::phase::{Phase, World};

/// How often another key is drawn when a client of ours writes it already.
const REDRAWS_MAX: usize = 8;

/// What `txn` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Txn")]
pub struct TxnArgs {
    /// Write again after a conflict, until it succeeds; an operation is all attempts
    #[arg(long)]
    pub retry: bool,
    /// All connections write all keys and get in each other's way; otherwise each writes keys of its own
    #[arg(long)]
    pub contend: bool,
}

impl Scenario for TxnArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let connections = settings.connections(1);
        let TxnArgs { retry, contend } = *self;
        let space = settings.common.keys.key_space;
        if !contend && space < connections as u64 {
            return Err(format!(
                "{connections} connections cannot have keys of their own out of {space}: see --contend"
            ));
        }
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| {
            let owners = if contend { 1 } else { connections as u64 };
            let owner = if contend { 0 } else { at as u64 };
            let keys = &settings.common.keys;
            let own = (space - owner).div_ceil(owners);
            let seed = keys.seed.wrapping_add(at as u64);
            let draw = Draw::new(keys.keys, keys.zipf, own, 0, 1, seed);
            TxnSource::new(settings, draw, (owner, owners), retry, contend)
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

/// Writes keys as they are drawn. What is known of a key may be old: others write it, or the server had it before.
struct TxnSource {
    draw: Draw,
    /// Which keys are ours: every so many from this one on.
    own: (u64, u64),
    contend: bool,
    busy: HashSet<u64>,
    spelling: Spelling,
    values: Values,
    /// Mod revisions by key number.
    known: HashMap<u64, i64>,
    /// By client: its key, its planned begin and its last answer.
    clients: Vec<(u64, Instant, Answer)>,
    retry: bool,
}

impl TxnSource {
    fn new(settings: &Settings, draw: Draw, own: (u64, u64), retry: bool, contend: bool) -> Self {
        let keys = &settings.common.keys;
        Self {
            draw,
            own,
            contend,
            busy: HashSet::new(),
            spelling: settings.spelling.clone(),
            values: Values::new(keys.val_size as usize, keys.seed, settings.nonce),
            known: HashMap::new(),
            clients: Vec::new(),
            retry,
        }
    }

    /// A key of ours that no client of ours writes just now, unless they hold nearly all.
    fn choose(&mut self) -> u64 {
        let (first, step) = self.own;
        let mut number = first + step * self.draw.draw();
        if !self.contend {
            for _ in 0..REDRAWS_MAX {
                if self.busy.insert(number) {
                    break;
                }
                number = first + step * self.draw.draw();
            }
        }
        number
    }

    fn request(&self, number: u64, at: Instant) -> Request {
        let known = self.known.get(&number).copied().unwrap_or(0);
        optimistic::put(self.spelling.key(number).into(), self.values.make(at), 0, known)
    }
}

impl Source for TxnSource {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let number = self.choose();
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
        if self.retry && matches!(answer, Answer::Conflict(_)) {
            return Then::Request(self.request(number, intended));
        }
        self.busy.remove(&number);
        Then::Done(Done { class: usize::from(matches!(answer, Answer::Conflict(_))), keys: 1 })
    }

    fn on_failure(&mut self, client: usize) {
        self.busy.remove(&self.clients[client].0);
    }
}
