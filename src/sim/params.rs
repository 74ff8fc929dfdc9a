//! What is different from seed to seed.
#![forbid(unsafe_code)]

use kevel::limits::{
    APPEND_BYTES_MAX, APPLY_BUDGET, APPLY_ENTRIES_MAX, DRAFT_BYTES_MAX, EVENTS_PUBLISHED_MAX, EXPIRE_MAX,
    PROPOSALS_PENDING_MAX, SWEEP_SLICE,
};
use kevel::replica::Bounds;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Duration;
use kevel::watch::Limits;

/// What is different from seed to seed.
#[derive(Clone, Debug)]
pub struct Params {
    pub cores: usize,
    pub clients: usize,
    /// Requests that clients make in all.
    pub requests: u32,
    /// Longest pause of a client between two requests.
    pub pause: Duration,
    /// Longest time that a log write takes.
    pub write_time: Duration,
    /// Longest time that a message takes between cores.
    pub lane_time: Duration,
    /// Bytes that a watch stream holds before the client has taken some.
    pub window: usize,
    /// What a hub holds of one batch or revision.
    pub hub_limits: Limits,
    /// What a piece of a hub's work is worth in bytes.
    pub hub_slice_bytes: usize,
    /// Watchers that a piece of a hub's work looks at.
    pub hub_slice_looks: usize,
    /// How long a client's request waits for the replica.
    pub request_timeout: Duration,
    /// Inputs that the lane to the replica holds; what comes beyond is refused.
    pub lane_inputs_max: usize,
    pub crashes: u32,
    /// Bytes rot on the disk in the last crash: the log's, or the store's.
    pub rot: Option<Rot>,
    pub bounds: Bounds,
    pub mix: Mix,
    /// Index entries that a leg of a long answer looks at.
    pub plan_entries: usize,
    /// Bytes that a leg of a long answer writes.
    pub slice_bytes: usize,
    /// Bytes that the long answers of a core may remember of their plans, beyond the first few KB of each.
    pub plan_bytes: usize,
    /// Longest pause between two legs.
    pub stall: Duration,
    /// The limit on requests, for which chunks of streams and fragments of watch responses aim.
    pub max_request_bytes: usize,
    /// In one turn of so many, what is rare happens; 0 for never.
    pub rare_turns: u64,
    /// Bytes by which a watch response may exceed [`Params::max_request_bytes`] before it is split.
    pub fragment_slack_bytes: usize,
    /// A batch of events in so many is lost on its lane; 0 for none.
    pub lost_batches: u64,
    /// Bytes in use at which there is no space left, in the first process.
    pub quota: Option<u64>,
    /// Before one request in so many its client goes away; 0 for never.
    pub leaving: u64,
}

/// What clients ask for.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Keys beside the few that are always there: enough to fill leaves.
    pub keys: u64,
    /// How likely a value is too large for a leaf, in 64ths.
    pub large: u64,
    /// A request in so many is a long read; 0 for the few that come anyway.
    pub readers: u64,
    /// Alarms are raised and cleared.
    pub alarms: bool,
    /// Leases are checkpointed.
    pub checkpoints: bool,
}

impl Params {
    /// The bounds of the next turn of the replica: now and then a checkpoint is due at once, a batch or a slice is
    /// tiny, a queue is full. A segment's length stays: the last write to one is known beforehand, and synced.
    pub fn bounds(&self, prng: &mut Prng) -> Bounds {
        let mut bounds = self.bounds.clone();
        if self.rare_turns > 0 && prng.chance(1, self.rare_turns) {
            match prng.below(9) {
                0 => bounds.replay_bytes = 0,
                1 => bounds.checkpoint_idle = Duration::ZERO,
                2 => bounds.apply = 1,
                3 => bounds.sweep = 1,
                4 => bounds.pending = 0,
                5 => bounds.append_bytes = 0,
                6 => bounds.apply_budget = 1,
                7 => bounds.events = 0,
                _ => bounds.apply_beside = 0,
            }
        }
        bounds
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    Log,
    Store,
}

impl Params {
    pub fn draw(prng: &mut Prng) -> Self {
        let mut pick = |options: &[u64]| options[prng.below(options.len() as u64) as usize];
        Self {
            cores: pick(&[1, 1, 2, 3]) as usize,
            clients: pick(&[1, 2, 4]) as usize,
            requests: pick(&[40, 80, 160]) as u32,
            pause: Duration::from_micros(pick(&[100, 2_000, 30_000, 150_000])),
            write_time: Duration::from_micros(pick(&[100, 2_000, 20_000])),
            lane_time: Duration::from_micros(pick(&[0, 50, 3_000])),
            window: pick(&[60, 400, 4_000, 1 << 20]) as usize,
            crashes: pick(&[0, 1, 2, 4]) as u32,
            hub_limits: [
                Limits { matches: 1, bytes: 300, piece_bytes: 30 },
                Limits { matches: 8, bytes: 4_000, piece_bytes: 1_000 },
                Limits::default(),
            ][pick(&[0, 1, 2]) as usize],
            hub_slice_bytes: pick(&[100, 1_000, 4_000]) as usize,
            request_timeout: Duration::from_millis(pick(&[7_000, 7_000, 30, 500])),
            lane_inputs_max: pick(&[1, 2, 1 << 20, 1 << 20]) as usize,
            rot: [None, Some(Rot::Log), Some(Rot::Store)]
                [[0, 0, 0, 0, 0, 0, 1, 2][pick(&[0, 1, 2, 3, 4, 5, 6, 7]) as usize]],
            bounds: Bounds {
                segment_bytes: pick(&[4 << 10, 20 << 10, 1 << 20]),
                replay_bytes: pick(&[2 << 10, 10 << 10, 50 << 10]),
                checkpoint_idle: Duration::from_millis(pick(&[200, 5_000])),
                apply_beside: pick(&[1, 2, 16]) as usize,
                expire: pick(&[1, 2, 64, EXPIRE_MAX as u64]) as usize,
                sweep: pick(&[1, 5, SWEEP_SLICE as u64]) as usize,
                apply: pick(&[1, 3, APPLY_ENTRIES_MAX as u64, APPLY_ENTRIES_MAX as u64]) as usize,
                apply_budget: pick(&[1, 5, 40, APPLY_BUDGET as u64]) as usize,
                events: pick(&[0, 1, 3, EVENTS_PUBLISHED_MAX as u64, EVENTS_PUBLISHED_MAX as u64]) as usize,
                pending: pick(&[3, PROPOSALS_PENDING_MAX as u64, PROPOSALS_PENDING_MAX as u64]) as usize,
                append_bytes: pick(&[200, APPEND_BYTES_MAX as u64]) as usize,
                draft_bytes: pick(&[0, 40 << 10, DRAFT_BYTES_MAX]),
            },
            mix: Mix {
                keys: pick(&[0, 0, 40, 300]),
                large: pick(&[0, 1, 4]),
                readers: pick(&[0, 3, 8]),
                alarms: pick(&[0, 0, 1]) == 1,
                checkpoints: pick(&[0, 0, 1]) == 1,
            },
            plan_entries: pick(&[3, 40, 1024]) as usize,
            slice_bytes: pick(&[80, 2_000, 128 << 10]) as usize,
            plan_bytes: pick(&[0, 8 << 10, 1 << 20]) as usize,
            stall: Duration::from_millis(pick(&[2, 100, 3_000])),
            max_request_bytes: pick(&[0, 300, 4_000, 1 << 20]) as usize,
            fragment_slack_bytes: pick(&[50, 600, 5_000, 512 << 10]) as usize,
            rare_turns: pick(&[0, 4, 30]),
            lost_batches: pick(&[0, 0, 0, 30, 8]),
            quota: Some(pick(&[0, 0, 0, 120 << 10, 200 << 10, 400 << 10])).filter(|&quota| quota > 0),
            leaving: pick(&[0, 0, 6, 20]),
            hub_slice_looks: pick(&[1, 3, 1 << 14, 1 << 14]) as usize,
        }
    }
}
