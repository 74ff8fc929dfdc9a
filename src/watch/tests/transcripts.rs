//! Transcripts of `testdata`. `UPDATE=1 cargo test --lib watch::` writes the answers anew.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::*;
use super::world::{World, decode, hub, publish};
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::mvccpb::{self, KeyValue};
use crate::stdx::time::{Duration, Instant};
use crate::stdx::transcript::play;

struct Script {
    world: World,
    hub: Hub,
    streams: BTreeMap<String, StreamId>,
    now: Instant,
    paused: bool,
}

impl Script {
    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words: Vec<&str> = words.collect();
        let option = |name: &str| words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| option(name).map_or(0, |v| v.parse::<i64>().expect("a number"));
        let flag = |name: &str| words.contains(&name);
        match command {
            "open" => {
                let room = option("room").map_or(1 << 30, |v| v.parse().unwrap());
                let interval =
                    Duration::from_millis(option("interval").map_or(600_000, |v| v.parse().unwrap()));
                self.streams.insert(words[0].into(), self.hub.open(self.now, interval, room));
            }
            "close" => self.hub.close(self.streams.remove(words[0]).unwrap()),
            "create" => {
                let bytes = |name: &str| option(name).unwrap_or("").replace("\\0", "\0").into_bytes().into();
                let mut filters = vec![];
                filters.extend(flag("noput").then_some(0));
                filters.extend(flag("nodelete").then_some(1));
                let request = WatchCreateRequest {
                    key: bytes("key"),
                    range_end: bytes("end"),
                    start_revision: number("start"),
                    progress_notify: flag("progress"),
                    filters,
                    prev_kv: flag("prev"),
                    watch_id: number("id"),
                    fragment: flag("fragment"),
                };
                self.hub.create(self.now, self.streams[words[0]], &request, &self.world);
            }
            "refuse" => self.hub.refuse(self.streams[words[0]], "no"),
            "cancel" => self.hub.cancel(self.streams[words[0]], words[1].parse().unwrap()),
            "progress" => self.hub.progress(self.streams[words[0]], &self.world),
            "window" => self.hub.on_window(self.streams[words[0]], words[1].parse().unwrap()),
            "tick" => {
                self.now = self.now + Duration::from_millis(words[0].parse().unwrap());
                self.hub.tick(self.now);
                self.hub.notify_all();
            }
            "txn" => {
                let changes: Vec<(&[u8], Option<&[u8]>)> = words
                    .iter()
                    .map(|word| match word.split_once('=') {
                        Some((key, value)) => (key.as_bytes(), Some(value.as_bytes())),
                        None => (word.as_bytes(), None),
                    })
                    .collect();
                self.world.apply(&changes);
            }
            "fill" => {
                for i in 0..words[1].parse::<usize>().unwrap() {
                    self.world.apply(&[(words[0].as_bytes(), Some(i.to_string().as_bytes()))]);
                }
            }
            "large" => {
                let value = vec![b'x'; words[1].parse().unwrap()];
                let keys: Vec<String> =
                    (0..words[2].parse().unwrap()).map(|i| format!("{}{i}", words[0])).collect();
                let changes: Vec<_> = keys.iter().map(|k| (k.as_bytes(), Some(value.as_slice()))).collect();
                self.world.apply(&changes);
            }
            "compact" => self.world.compact(words[0].parse().unwrap()),
            "pause" => self.paused = true,
            "resume" => self.paused = false,
            "lose" => drop(self.world.lane.pop_front()),
            "slice" => {
                let budget = Budget { revisions: words[0].parse().unwrap(), ..Budget::default() };
                self.hub.work(&self.world, budget);
            }
            "catch_up" => {
                while self.hub.needs_work() {
                    self.hub.work(&self.world, Budget::default());
                }
            }
            other => panic!("no command {other}"),
        }
        while !self.paused
            && let Some(batch) = self.world.lane.pop_front()
        {
            publish(&mut self.hub, batch, &self.world);
        }
        self.hub.check_invariants();
        self.outputs()
    }

    fn outputs(&mut self) -> String {
        let mut text = String::new();
        while let Some(output) = self.hub.poll_output() {
            let name =
                self.streams.iter().find(|(_, id)| **id == output.stream).map_or("?", |(name, _)| name);
            let r = decode(&output);
            let header = r.header.as_ref().unwrap();
            write!(text, "  {name} watch {} at {}", r.watch_id, header.revision).unwrap();
            for (word, on) in [(" created", r.created), (" canceled", r.canceled), (" fragment", r.fragment)]
            {
                text.push_str(if on { word } else { "" });
            }
            if r.compact_revision != 0 {
                write!(text, " compacted {}", r.compact_revision).unwrap();
            }
            if !r.cancel_reason.is_empty() {
                write!(text, " \"{}\"", r.cancel_reason).unwrap();
            }
            if r.events.len() > 20 {
                let revision = |e: &mvccpb::Event| e.kv.as_ref().unwrap().mod_revision;
                let (first, last) = (revision(&r.events[0]), revision(r.events.last().unwrap()));
                writeln!(text, " | {} events {first}..{last}", r.events.len()).unwrap();
                continue;
            }
            for event in &r.events {
                let kv = event.kv.as_ref().unwrap();
                let show = |kv: &KeyValue| match kv.value.len() {
                    0..20 => String::from_utf8_lossy(&kv.value).into_owned(),
                    long => format!("{long} bytes"),
                };
                let key = String::from_utf8_lossy(&kv.key);
                match event.r#type {
                    0 => write!(text, " | {key}={} @{} v{}", show(kv), kv.mod_revision, kv.version),
                    _ => write!(text, " | del {key} @{}", kv.mod_revision),
                }
                .unwrap();
                if let Some(prev) = &event.prev_kv {
                    write!(text, " was {} @{}", show(prev), prev.mod_revision).unwrap();
                }
            }
            text.push('\n');
        }
        text
    }
}

#[test]
fn transcripts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/watch/testdata");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let mut script = Script {
            world: World::new(),
            hub: hub(0),
            streams: BTreeMap::new(),
            now: Instant::default(),
            paused: false,
        };
        play(&file, |line| script.run(line));
    }
}
