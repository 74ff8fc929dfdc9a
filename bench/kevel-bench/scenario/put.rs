//! Puts of one key each.
#![forbid(unsafe_code)]

use bytes::Bytes;
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;

use super::{Outcomes, Scenario, Settings};
use crate::keys::{Draw, Spelling};
use crate::loader::{Done, Request, Source, Then};
use crate::phase::{Phase, World};
use crate::template::{Nonce, Template, random_value};

/// The scenario.
pub struct Put;

impl Scenario for Put {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let connections = settings.connections(1);
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| {
            PutSource::new(settings, settings.draw(at, connections))
        });
        let phase = Phase { name: "put".into(), classes: vec!["put"], jobs, bounds: settings.bounds() };
        Ok(vec![world.run(phase)?])
    }
}

/// Puts keys as they are drawn.
pub struct PutSource {
    draw: Draw,
    spelling: Spelling,
    template: Template,
    nonce: Nonce,
}

impl PutSource {
    /// A source of puts.
    pub fn new(settings: &Settings, draw: Draw) -> Self {
        let keys = &settings.common.keys;
        let mut template =
            Template::put(settings.spelling.size(), random_value(keys.val_size as usize, keys.seed), 0);
        template.fix_key(&settings.spelling.key(0));
        Self { draw, spelling: settings.spelling.clone(), template, nonce: settings.nonce }
    }

    /// A put of the next key, stamped with `at`, and the key's number.
    pub fn put(&mut self, at: Instant) -> (u64, Request) {
        let number = self.draw.draw();
        let message = self.template.make(|key, value| {
            self.spelling.write(number, key);
            self.nonce.stamp(at, value);
        });
        (number, Request { method: Method::Put, message })
    }
}

impl Source for PutSource {
    fn next(&mut self, _client: usize, intended: Instant) -> Option<Request> {
        Some(self.put(intended).1)
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, _client: usize) -> Then {
        Then::Done(Done { class: 0, keys: 1 })
    }
}
