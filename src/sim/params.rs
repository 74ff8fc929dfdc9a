//! What is different from seed to seed.
#![forbid(unsafe_code)]

use kevel::limits::EXPIRE_MAX;
use kevel::replica::Bounds;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Duration;

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
    /// How long a client's request waits for the replica.
    pub request_timeout: Duration,
    /// Inputs that the lane to the replica holds; what comes beyond is refused.
    pub lane_inputs_max: usize,
    pub crashes: u32,
    /// Bytes rot on the disk in the last crash: the log's, or the store's.
    pub rot: Option<Rot>,
    pub bounds: Bounds,
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
            },
        }
    }
}
